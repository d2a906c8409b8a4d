"""The report of a tiny run, made once: what it holds, what it says is missing, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mica.data.clip import Clip, StoreInfo
from mica.data.splits import split
from mica.data.store import Store, write
from mica.errors import InputError
from mica.evaluation.results import Result, Score, result_file, score, write_result
from mica.models.heads import HeadConfig
from mica.models.mica import MICA
from mica.models.stgcn import EncoderConfig
from mica.report import write_report
from mica.report.figures.charts import class_bars
from mica.report.probe import flatten, probe
from mica.report.views import confusion_view
from mica.report.words import meaning, method, parts
from mica.training.config import OptimizerConfig, PretrainConfig
from mica.training.loop import pretrain
from mica.transforms.sampling import Preprocessing

from ..conftest import faked_text

HOSTILE = '<script>alert("$\\frac$")</script>'
CLASSES = ("wave", "clap", HOSTILE)
SECTIONS = (
    *("results", "confusion", "retrieved", "map", "gate", "gate-classes", "training", "configuration"),
)
CONFUSION = ((3, 1, 0), (0, 4, 0), (2, 0, 2))
DASH = "\N{EN DASH}"


class Page(HTMLParser):
    """Collects tags with their attributes, scripts, and the text outside scripts and style sheets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text, self._inside = "", ""
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "  # neighbouring cells are words apart
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def images(self) -> list[tuple[str, str]]:
        """(SVG, alternative text) of every image."""
        prefix = "data:image/svg+xml;base64,"
        sources = [(str(image["src"]), str(image["alt"])) for image in self.all("img")]
        assert all(source.startswith(prefix) for source, _ in sources)
        return [(base64.b64decode(source.removeprefix(prefix)).decode(), alt) for source, alt in sources]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve clips a subject by four subjects, of two persons of whom the second is at times missing."""
    random = np.random.default_rng(0)
    stance = np.zeros((20, 3))
    stance[:, 1] = np.linspace(1, 0, 20)
    clips = []
    for subject in range(1, 5):
        for i in range(12):
            keypoints = stance + random.normal(scale=0.1, size=(10, 2, 20, 3))
            keypoints[:, 1] *= i % 2
            label = i % len(CLASSES)
            clips.append(Clip(f"s{subject}-{i}", keypoints.astype(np.float32), label, subject=subject))
    info = StoreInfo("synthetic", "kinect-20", CLASSES, 30.0)
    return Store.open(write(tmp_path_factory.mktemp("store") / "tiny.arrow", clips, info).path)


def train(store: Store, out: Path, text: str = "none", **encoder: Any) -> Path:
    config = PretrainConfig(
        preprocessing=Preprocessing(num_frames=8),
        encoder=EncoderConfig(preset="stgcn-small", **encoder),
        heads=HeadConfig(segments=1, hidden=8, projection=8),
        text=text,
        optimizer=OptimizerConfig(epochs=2, batch_size=6),
        knn_every=1,
    )
    pretrain(config, store, out)
    return out


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(store, tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def a_result(protocol: str, *scores: Score, source: str = "trained", **changes: Any) -> Result:
    entries: dict[str, Any] = {
        "dataset": "synthetic", "split": "cross-subject", "split_note": "24 / 24", "parts": {"train": 24, "test": 24},
        "validation_subjects": (3,), "pretrained_on": "synthetic", "supervision": "none", "class_names": CLASSES,
    }  # fmt: skip
    return Result(protocol, source, scores, **{**entries, **changes})


def predicted(confusion: tuple[tuple[int, ...], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and labels that are confused in this way."""
    pairs = [(j, i) for i, row in enumerate(confusion) for j, count in enumerate(row) for _ in range(count)]
    one, other = zip(*pairs, strict=True)
    return torch.tensor(one), torch.tensor(other)


def evaluate(run: Path) -> None:
    """Results as every protocol may leave them."""
    answers, labels = predicted(CONFUSION)
    chosen = {"setting": "lr 3", "validation_top1": 81.0}
    found = score("SGD", [answers, labels], labels, CLASSES, seeds=(0, 1), chosen=chosen)
    results = [
        a_result("linear", found, Score("logistic regression", 78.9, clips=12)),
        a_result("linear", Score("SGD", 12.3, spread=0.4, clips=12), source="random"),
        a_result("linear", Score("SGD", 45.6, clips=12), source="raw"),
        a_result("retrieval", Score("cosine", 9.9, clips=12), source="raw"),
        a_result("knn", Score("k = 1", 66.6, clips=12), Score("k = 5", 65.5, clips=12)),
        a_result(
            "transfer", Score("fine-tuned", 55.5, clips=99), dataset="utd-mhad", class_names=("bow <b>",)
        ),
    ]
    for result in results:
        target = result.dataset if result.protocol == "transfer" else ""
        write_result(result_file(run, result.protocol, result.source, target), result)


@pytest.fixture(scope="module")
def reports(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The report of a run with text and with results, written twice."""
    folder = tmp_path_factory.mktemp("full")
    with faked_text(folder / "cache"):
        run = train(store, folder / "run", text="minilm")
        evaluate(run)
        once, again = (write_report(run, store, folder / name) for name in ("a.html", "b.html"))
        return once.read_text(encoding="utf-8"), again.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def html(reports: tuple[str, str]) -> str:
    return reports[0]


@pytest.fixture(scope="module")
def full(html: str) -> Page:
    return Page(html)


def test_every_section_and_figure_is_there(full: Page) -> None:
    assert [section["id"] for section in full.all("section")] == list(SECTIONS)
    assert {link["href"] for link in full.all("a")} == {f"#{section}" for section in SECTIONS}
    alts = " | ".join(alt for _, alt in full.images())
    for figure in (
        *("Results of this run, top-1", "All scores of linear", "All scores of knn"),
        *("Total loss", "Feature Modulation, KL", "Inter", "Intra", "Running kNN"),
        *("Accuracy of 3 classes", "Confusion matrix of 3 classes"),
        *("Map of 24 test clips of 3 classes", "Map of 24 test clips and the words of 3 classes"),
        *("Filter of the first", "Filter of the last", "A skeleton from the front"),
        *("Motion in", "Energy in", "wave beside the average class", "What passes of what enters"),
        "What passes, the average class",
    ):
        assert figure in alts
    assert all(svg.rstrip().endswith("</svg>") for svg, _ in full.images())
    markers = [image for image in full.all("img") if not image["alt"]]
    assert len(markers) == len(CLASSES)  # the legend's, whose names stand beside them


def test_numbers_stand_side_by_side(full: Page) -> None:
    heads = "Protocol This run random encoder raw coordinates Clips"
    assert heads in full.text
    linear = "linear a linear classifier on frozen features SGD 87.5 ± 17.7 12.3 ± 0.4 45.6 12"
    assert linear in full.text
    assert f"knn nearest neighbours among frozen features k = 1 66.6 {DASH} {DASH} 12" in full.text
    assert (
        f"transfer to UTD-MHAD the encoder put to another data set fine-tuned 55.5 {DASH} {DASH} 99"
        in full.text
    )
    assert full.text.index(heads) < full.text.index(linear) < full.text.index("k = 1 66.6")
    assert "SGD chosen on validation: lr 3 (81.0 % there) 87.5 ± 17.7 12.3 ± 0.4 45.6 12" in full.text
    assert f"logistic regression 78.9 {DASH} {DASH} 12" in full.text
    assert "k = 5 65.5 12" in full.text
    assert "synthetic, cross-subject: 24 / 24; held out for choices: subjects 3." in full.text.replace(
        "Synthetic actions", "synthetic"
    )
    assert "Text supervision: yes." in full.text
    assert "mica evaluate retrieval --run" in full.text  # of which there is but a floor
    assert "mica evaluate linear --run" not in full.text


def test_says_who_trains_and_who_is_held_out(full: Page, store: Store) -> None:
    told = "24 clips train, 24 test (24 / 24). Of the former, 12 are held out for every choice: subject 3."
    assert told in full.text
    division = split(store, "cross-subject")
    assert parts(store, division) == told
    division.fit[:] = division.validation  # persons who both train and validate
    assert parts(store, division).endswith("12 are held out for every choice: not told apart by subject.")


def test_confused_pairs_in_words_the_worst_first(full: Page) -> None:
    assert "By linear, SGD, on the test part." in full.text
    worst = full.text.index(f"“{HOSTILE}” was taken for “wave” in 25 % of its clips")
    assert worst < full.text.index("“wave” was taken for “clap” in 12 % of its clips")
    alt = next(alt for _, alt in full.images() if alt.startswith("Accuracy of"))
    assert alt.endswith(f": clap 100 %, wave 88 %, {HOSTILE} 75 %.")


def test_only_the_player_runs_and_nothing_is_fetched(full: Page, html: str) -> None:
    policy = next(meta["content"] for meta in full.all("meta") if "http-equiv" in meta)
    allowed = re.findall(r"script-src 'sha256-([^']*)'", str(policy))
    running = [
        text for text, script in zip(full.scripts, full.all("script"), strict=True) if "type" not in script
    ]
    assert [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running] == allowed
    assert str(policy).startswith("default-src 'none';")
    assert {script.get("type") for script in full.all("script")} == {None, "application/json"}
    assert not {name for name, _ in full.tags} & {"link", "iframe", "object", "form", "base"}
    for _, attributes in full.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert str(attributes.get(name) or "#").startswith(("data:", "#"))
        assert not any(name.startswith("on") for name in attributes)
    for svg, _ in full.images():
        # Namespaces, a doctype and metadata name addresses; only these attributes would fetch them.
        references = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)|@import', svg)
        assert all((href or url).startswith(("#", "data:")) for href, url in references)
        assert "<script" not in svg
    assert not full.all("b")


def test_neighbours_move_beside_the_clip_that_asks(full: Page) -> None:
    kinds = [str(div["class"]) for div in full.all("div") if str(div.get("class")).startswith("clip ")]
    assert len(kinds) % 4 == 0
    assert len(kinds) >= 8
    assert kinds[::4] == ["clip asked"] * (len(kinds) // 4)
    assert set(kinds) == {"clip asked", "clip right", "clip wrong"}
    assert len(full.all("canvas")) == len(kinds)
    for verdict in ("right", "wrong"):
        said = re.findall(rf"{verdict}, similarity [01]\.\d\d subject [13]", full.text)
        assert len(said) == kinds.count(f"clip {verdict}")
    assert len(re.findall(r"test clip subject [24]", full.text)) == kinds.count("clip asked")


def test_always_the_same_bytes(reports: tuple[str, str]) -> None:
    assert reports[0] == reports[1]


def test_says_what_is_missing(store: Store, tmp_path: Path) -> None:
    """A random encoder without FreST and without text, of which nothing was measured, in a folder with a space."""
    run = train(store, tmp_path / "my run", frest=False)
    (run / "metrics.jsonl").write_text("")
    page = Page(write_report(run, store).read_text())
    assert "Nothing has been measured yet." in page.text
    assert "Not measured yet linear: a linear classifier" in page.text
    for protocol in ("linear", "knn", "retrieval", "finetune", "semi"):
        assert f"mica evaluate {protocol} --run '{run}' --data {store.path}" in page.text
    assert f"mica evaluate transfer --run '{run}' --data OTHER.arrow" in page.text
    assert f"mica evaluate ensemble --run '{run}' --data {store.path} --with OTHER_RUN OTHER_RUN" in page.text
    assert "evaluate zero-shot" not in page.text  # which needs text
    assert f"mica report --run '{run}' --data {store.path}" in page.text
    assert "Run mica evaluate linear first" in page.text
    assert "Text supervision: no." in page.text
    assert "pretrained without text" in page.text
    assert "not trained at all" in page.text
    assert "No epoch was trained" in page.text
    assert "This encoder has no FreST layers" in page.text
    assert [section["id"] for section in page.all("section")] == [
        section for section in SECTIONS if section != "gate-classes"
    ]
    assert not page.all("table")
    alts = [alt for _, alt in page.images()]
    assert not any(word in alt for alt in alts for word in ("Confusion", "Filter", "words", "loss"))
    assert any("Map of 24 test clips" in alt for alt in alts)


def test_says_which_part_and_how_many_classes_were_seen(trained: Path) -> None:
    card = MICA.from_pretrained(trained / "checkpoint").card
    assert method(card, 2).endswith("pretrained for 2 epochs on the training part less the validation clips.")
    card = replace(card, part="train", seen_classes=(0, 2))
    assert method(card, 2).endswith("on the whole training part, of 2 of the 3 classes.")


def test_zero_shot_over_seen_classes_is_not_called_so() -> None:
    assert "not truly zero-shot" in meaning(a_result("zero-shot"))
    assert meaning(a_result("zero-shot", unseen_classes=("bow",))).startswith("1 unseen class,")


def test_confusions_come_from_the_first_protocol_that_asked_about_all_classes(trained: Path) -> None:
    card = MICA.from_pretrained(trained / "checkpoint").card
    answers, labels = predicted(CONFUSION)
    full = score("k = 1", [answers], labels, CLASSES)
    zero_shot = a_result("zero-shot", score("mean", [answers], labels, CLASSES), unseen_classes=(HOSTILE,))
    elsewhere = a_result("linear", full, dataset="utd-mhad")
    other_names = a_result("linear", full, class_names=("a", "b", "c"))
    floor = a_result("linear", full, source="raw")
    bare = a_result("linear", Score("SGD", 50.0))
    for result in (zero_shot, elsewhere, other_names, floor, bare):
        assert confusion_view([result], card) is None
    found = confusion_view([zero_shot, elsewhere, floor, bare, a_result("knn", full)], card)
    assert found is not None
    assert found.score == "knn, k = 1"
    assert found.empty == []
    some = score("k = 1", [answers[:8]], labels[:8], CLASSES)  # the last class has no clip
    found = confusion_view([a_result("knn", some)], card)
    assert found is not None
    assert found.empty == [HOSTILE]
    assert "Accuracy of 2 classes" in found.bars.alt


def test_the_worst_classes_are_marked() -> None:
    accuracies = {f"class {i}": 10.0 * i for i in range(6)}
    source = class_bars(accuracies, 50.0, worst=2).source.partition(",")[2]
    svg = base64.b64decode(source).decode()
    bold = re.findall(r"font: bold[^>]*>(\d+)<|font-weight: (?:bold|700)[^>]*>(\d+)<", svg)
    assert sorted(one or other for one, other in bold) == ["0", "10"]


def test_probe_takes_the_test_clips_and_faces_the_body(run: Path, store: Store) -> None:
    model = MICA.from_pretrained(run / "checkpoint")
    test = split(store, model.card.protocol).test
    seen = probe(model, model.card, store, test)
    assert seen.clips.tolist() == test.tolist()
    assert seen.labels.tolist() == store.labels[test].tolist()
    assert seen.points.shape == (24, 2)
    assert np.isfinite(seen.points).all()
    marks = store.layout.landmarks
    assert seen.pose[marks["left shoulder"], 0] > seen.pose[marks["right shoulder"], 0]
    assert seen.gate is not None
    assert seen.gate.by_class.labels.tolist() == [0, 1, 2]


def test_gate_is_that_of_the_bodies_that_are_there(run: Path, store: Store) -> None:
    model = MICA.from_pretrained(run / "checkpoint")
    encoder, last = model.encoder, model.encoder.frest_layers[-1]
    with torch.no_grad():
        last.gate.threshold_offset[:, 7] = 100.0  # the left hand never passes
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    inputs: list[torch.Tensor] = []
    handles = [
        encoder.register_forward_pre_hook(lambda module, x: inputs.append(x[0])),
        last.register_forward_pre_hook(lambda module, x: seen.append((inputs[-1], x[0]))),
    ]
    gate = probe(model, model.card, store, split(store, model.card.protocol).test).gate
    for handle in handles:
        handle.remove()
    with torch.inference_mode():
        bodies = [
            x for given, entering in seen for body, x in zip(given, entering, strict=True) if body.any()
        ]
        passed = [last.filter(x[None])[0].double() for x in bodies]
        active = [last.filter(x[None], gated=False)[0] for x in bodies]
    assert len(passed) == 24 + 12  # every other clip shows a second person
    rms = np.array([np.sqrt(np.mean([x[:, :, v].square().mean() for x in passed])) for v in range(20)])
    kept = np.mean([x.any(1).sum(0) / y.any(1).sum(0) for x, y in zip(passed, active, strict=True)], axis=0)
    assert gate is not None
    assert gate.switches
    np.testing.assert_allclose(gate.strength, rms / rms.mean(), rtol=1e-4)
    np.testing.assert_allclose(gate.kept, kept, rtol=1e-5)
    assert gate.kept[7] == gate.strength[7] == 0
    assert gate.kept[:7].min() > 0.3


@pytest.mark.parametrize(
    "missing", ["config.yaml", "metrics.jsonl", "checkpoint/model.json", "checkpoint/model.safetensors"]
)
def test_refuses_what_is_no_run(run: Path, store: Store, missing: str) -> None:
    (run / missing).unlink()
    with pytest.raises(InputError, match=Path(missing).name):
        write_report(run, store)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("metrics.jsonl", '{"epoch": 0, "loss": 1.0}\n{"epoch": 1, "lo', r"line 2.*not JSON"),
        ("metrics.jsonl", '{"epoch": 0}', "no loss"),
        ("metrics.jsonl", "[]", "not a JSON object"),
        ("metrics.jsonl", '{"epoch": null, "loss": 1.0}', "no epoch"),
        ("metrics.jsonl", b"\xff\xfe", "not a text"),
        ("config.yaml", b"\xff\xfe", "not a text"),
        ("evaluation/knn.json", '{"protocol": "knn", "top1": 1.0, "clips": 3}', "no result of format 2"),
        ("evaluation/knn.json", '{"format": 2, "protocol": "knn"}', "missing or malformed"),
    ],
)
def test_refuses_damaged_files(run: Path, store: Store, file: str, text: str | bytes, problem: str) -> None:
    (run / "evaluation").mkdir()
    (run / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=f"(?s){Path(file).name}.*{problem}"):
        write_report(run, store)


@pytest.mark.parametrize("count", [3, 20])
def test_features_that_are_all_the_same_are_one_point(count: int) -> None:
    """A collapsed encoder; scikit-learn's t-SNE dies of it."""
    assert not flatten(torch.ones(count, 8)).any()


def test_refuses_another_store(run: Path, store: Store, tmp_path: Path) -> None:
    clips = [store.clip(i) for i in range(len(store))]
    info = StoreInfo("synthetic", "kinect-20", ("wave", "clap", "bow"), 30.0)
    other = Store.open(write(tmp_path / "other.arrow", clips, info).path)
    with pytest.raises(InputError, match="class_names"):
        write_report(run, other)


def test_keeps_an_existing_report_unless_told(run: Path, store: Store) -> None:
    (run / "report.html").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_report(run, store, overwrite=False)
    assert (run / "report.html").read_text() == "mine"
