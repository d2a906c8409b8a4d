"""The report of a tiny run, made once: what it holds, what it says is missing, and what it refuses."""

from __future__ import annotations

import base64
import json
import re
import shutil
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
from mica.models.heads import HeadConfig
from mica.models.pretrained import load_pretrained
from mica.models.stgcn import STGCN, EncoderConfig
from mica.report import write_report
from mica.report.page import gate_view
from mica.report.probe import Gate, GateRecorder, probe
from mica.report.records import Evaluation
from mica.report.words import meaning
from mica.skeleton import get_layout
from mica.training.config import OptimizerConfig, PretrainConfig
from mica.training.loop import pretrain
from mica.transforms.sampling import Preprocessing

HOSTILE = '<script>alert("$\\frac$")</script>'
CLASSES = ("wave", "clap", HOSTILE)
SECTIONS = ("results", "training", "confusion", "map", "gate", "configuration")
CONFUSION = [[3, 1, 0], [0, 4, 0], [2, 0, 2]]


class Page(HTMLParser):
    """Collects tags with their attributes, and the text outside style sheets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._in_style = "", False
        self.feed(html)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.text += " "  # neighbouring cells are words apart
        self._in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

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


def train(store: Store, out: Path, **encoder: Any) -> Path:
    config = PretrainConfig(
        preprocessing=Preprocessing(num_frames=8),
        encoder=EncoderConfig(preset="stgcn-small", **encoder),
        heads=HeadConfig(segments=1, hidden=8, projection=8),
        text="none",
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


def add_evaluation(run: Path, name: str, **entries: Any) -> None:
    (run / "evaluation").mkdir(exist_ok=True)
    evaluation = {"protocol": name, "top1": 75.0, "clips": 12, **entries}
    (run / "evaluation" / f"{name}.json").write_text(json.dumps(evaluation))


@pytest.fixture(scope="module")
def full(trained: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a run with evaluations."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("full") / "run"))
    add_evaluation(
        run,
        "linear",
        class_names=CLASSES,
        confusion=CONFUSION,
        baselines={"other <b>": 41.25},
        logistic_regression={"top1": 78.9, "clips": 12},
    )
    add_evaluation(run, "knn", top1=66.6)
    add_evaluation(run, "random-linear", protocol="linear", top1=12.3)
    add_evaluation(run, "raw-linear", protocol="linear", top1=45.6)
    return Page(write_report(run, store).read_text())


def test_every_section_and_figure_is_there(full: Page) -> None:
    assert [section["id"] for section in full.all("section")] == list(SECTIONS)
    alts = " | ".join(alt for _, alt in full.images())
    for figure in (
        *("Total loss", "Intra", "Running kNN", "Confusion matrix of 3 classes", "Map of 24 test clips"),
        *("Filter of the first", "Filter of the last", "A skeleton from the front"),
    ):
        assert figure in alts
    assert "Feature Modulation, KL" not in alts  # it had no text, hence no such term
    assert all(svg.rstrip().endswith("</svg>") for svg, _ in full.images())


def test_numbers_stand_side_by_side(full: Page) -> None:
    assert "Protocol This run other <b> random encoder raw coordinates Clips" in full.text
    assert "linear a linear classifier on frozen features 75.0 41.2 12.3 45.6 12" in full.text
    assert "66.6 \N{EN DASH} \N{EN DASH} \N{EN DASH} 12" in full.text
    assert "logistic regression the same, fitted to the optimum 78.9" in full.text
    assert full.text.index("75.0 41.2") < full.text.index("66.6 \N{EN DASH}")
    assert "random-linear" not in full.text
    assert "Text supervision: no." in full.text
    assert "Not measured" not in full.text  # zero-shot needs text, which this run has not


def test_confused_pairs_in_words_the_worst_first(full: Page) -> None:
    worst = full.text.index(f"“{HOSTILE}” was taken for “wave” in 2 of 4 clips (50 %)")
    assert worst < full.text.index("“wave” was taken for “clap” in 1 of 4 clips (25 %)")


def test_nothing_is_fetched_and_nothing_runs(full: Page) -> None:
    assert not full.all("script")
    assert not full.all("link")
    for _, attributes in full.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert str(attributes.get(name) or "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    for svg, _ in full.images():
        # Namespaces, a doctype and metadata name addresses; only these attributes would fetch them.
        references = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)|@import', svg)
        assert all((href or url).startswith(("#", "data:")) for href, url in references)
        assert "<script" not in svg


def test_says_what_is_missing_always_in_the_same_bytes(run: Path, store: Store, tmp_path: Path) -> None:
    report = write_report(run, store).read_text()
    assert report == write_report(run, store, tmp_path / "again.html").read_text()
    page = Page(report)
    assert "Not measured yet: linear: a linear classifier" in page.text
    assert f"mica evaluate linear --run {run} --data {store.path}" in page.text
    assert "Run mica evaluate linear first" in page.text
    assert not page.all("table")
    assert not any("Confusion" in alt for _, alt in page.images())


def test_without_frest_says_so(store: Store, tmp_path: Path) -> None:
    page = Page(write_report(train(store, tmp_path / "plain", frest=False), store).read_text())
    assert "This encoder has no FreST layers" in page.text
    assert not any("Filter" in alt for _, alt in page.images())


@pytest.mark.parametrize(
    ("switches", "kept", "by_share"), [(True, 0.9, True), (True, 1.0, False), (False, 0.5, False)]
)
def test_joints_are_told_apart_by_passes_or_else_by_strength(
    switches: bool, kept: float, by_share: bool
) -> None:
    layout = get_layout("kinect-20")
    strength = np.linspace(0.5, 1.5, 20)
    gate = Gate(np.ones((20, 5)), np.ones((20, 3)), np.linspace(1.0, kept, 20), strength, switches)
    view = gate_view(gate, np.random.default_rng(0).normal(size=(20, 2)), layout)
    assert view.by_share == by_share
    assert view.strongest[0] == ("hip centre (100.0\xa0%)" if by_share else "right foot (1.50)")
    assert view.weakest[0] == ("right foot (90.0\xa0%)" if by_share else "hip centre (0.50)")


def test_zero_shot_over_seen_classes_is_not_called_so() -> None:
    assert "not truly zero-shot" in meaning(Evaluation("zero-shot", 50.0, 12))
    assert meaning(Evaluation("zero-shot", 50.0, 12, unseen_classes=("bow",))).startswith("1 unseen class")


def test_a_run_of_no_epochs_is_a_random_encoder(run: Path, store: Store) -> None:
    (run / "metrics.jsonl").write_text("")
    text = Page(write_report(run, store).read_text()).text
    assert "not trained at all" in text
    assert "No epoch was trained" in text


def test_gate_counts_present_bodies_alone() -> None:
    """Absent bodies, zero at the input, must not dilute what the gate does to the present ones."""
    torch.manual_seed(0)
    encoder = STGCN(get_layout("kinect-20"), preset="stgcn-small", num_frames=16).eval()
    first, last = encoder.frest_layers[0], encoder.frest_layers[-1]
    with torch.no_grad():
        last.gate.threshold_offset[:, 7] = 100.0  # the left hand never passes
    bodies = torch.randn(4, 3, 16, 20)
    gates = []
    for x in (bodies, torch.cat([bodies[:2], torch.zeros(3, 3, 16, 20), bodies[2:]])):
        recorder = GateRecorder()
        with torch.inference_mode(), recorder.watch(encoder):
            encoder(x)
        gates.append(recorder.summary(first, last))
    assert gates[0].kept[7] == 0
    assert gates[0].strength[7] == 0
    assert gates[0].kept[:7].min() > 0.3
    np.testing.assert_allclose(gates[1].kept, gates[0].kept, rtol=1e-5)
    np.testing.assert_allclose(gates[1].strength, gates[0].strength, rtol=1e-5)
    assert not last._forward_pre_hooks


def test_probe_takes_the_test_clips_and_faces_the_body(run: Path, store: Store) -> None:
    model, card = load_pretrained(run / "checkpoint")
    test = split(store, card.protocol).test
    seen = probe(model, card, store, test)
    assert seen.labels.tolist() == store.labels[test].tolist()
    assert seen.points.shape == (24, 2)
    assert np.isfinite(seen.points).all()
    marks = store.layout.landmarks
    assert seen.pose[marks["left shoulder"], 0] > seen.pose[marks["right shoulder"], 0]


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
        ("evaluation/knn.json", "[]", "not a JSON object"),
        ("evaluation/knn.json", '{"protocol": "knn", "clips": 3}', "top1"),
        (
            "evaluation/linear.json",
            '{"protocol": "l", "top1": 1, "clips": 3, "confusion": [[1]]}',
            "1 x 1 counts",
        ),
    ],
)
def test_refuses_damaged_files(run: Path, store: Store, file: str, text: str, problem: str) -> None:
    (run / "evaluation").mkdir()
    (run / file).write_text(text)
    with pytest.raises(InputError, match=f"(?s){Path(file).name}.*{problem}"):
        write_report(run, store)


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
