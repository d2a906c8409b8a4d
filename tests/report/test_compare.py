"""The comparison of runs that nobody trained: what it sets side by side, what it ranks, and what it refuses."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from mica.errors import InputError
from mica.evaluation.results import Result, Score
from mica.models.mica import ModelCard
from mica.report.compare import by_difference, confusion_changes, write_comparison
from mica.report.compared import differing_settings, read_runs, settings

HOSTILE = '<script>alert("$\\frac$")</script>'
MakeCard, WriteRun, AddResult = Callable[..., ModelCard], Callable[..., Path], Callable[..., Result]


class Page(HTMLParser):
    """Tags with their attributes, the text outside styles, and the cells of each table row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text, self._style = "", False
        self.feed(html)
        self.text = " ".join(self.text.split())
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"
        self.text += " "
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        elif self.rows and self.rows[-1]:
            self.rows[-1][-1] += " "

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.text += data
            if self.rows and self.rows[-1]:
                self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._style = False
        if tag == "table":
            self.rows.append([])

    def row(self, start: str) -> list[str]:
        """The cells of the only row whose first cell starts so, but for that."""
        found = [row[1:] for row in self.rows if row and row[0].startswith(start)]
        assert len(found) == 1, (start, found)
        return found[0]

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for name, attributes in self.tags if name == "section"]

    def alts(self) -> list[str]:
        return [str(attributes["alt"]) for name, attributes in self.tags if name == "img"]


def compare(runs: list[Path], out: Path) -> Page:
    return Page(write_comparison(runs, out).read_text(encoding="utf-8"))


def metrics(epochs: int, **terms: float) -> list[dict[str, float | None]]:
    """Entries whose loss falls; the kNN is known after every second epoch."""
    return [
        {"epoch": epoch, "loss": 3.0 - epoch / epochs, "seconds": 30.0, "clips_per_second": 40.0 + epoch,
         "knn_validation": 50.0 + epoch if epoch % 2 else None, **terms}
        for epoch in range(epochs)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def four(
    tmp_path_factory: pytest.TempPathFactory, make_card: MakeCard, write_run: WriteRun, add_result: AddResult
) -> list[Path]:
    """Not to be changed: two runs without words, two with; the last one of another seed and without kNN."""
    plans = [
        ("plain", make_card(), {"SGD": (70.0, 80.0), "logistic regression": 71.0}, 60.0),
        ("bone", make_card(stream="bone"), {"SGD": (75.0, 85.0), "logistic regression": 71.04}, 50.0),
        ("words", make_card(text="minilm"), {"SGD": (95.0, 95.0), "logistic regression": 90.0}, 90.0),
        ("late", make_card(text="minilm", seed=3), {"SGD": (96.0, 98.0), "logistic regression": 91.0}, None),
    ]
    runs, folder = [], tmp_path_factory.mktemp("four")
    for name, card, linear, knn in plans:
        run = write_run(folder / name, card, metrics(4, **({"inter": 1.0} if card.text != "none" else {})))
        add_result(run, card, "linear", linear)
        add_result(run, card, "linear", {"SGD": 40.0 if name == "plain" else 20.0}, source="random")
        if knn is not None:
            add_result(run, card, "knn", {"k = 1": knn}, measures={"labels": 60.0})
        runs.append(run)
    return runs


@pytest.fixture(scope="module")
def page(four: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return compare(four, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def copies(four: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of two of the runs, which may be changed."""
    return [Path(shutil.copytree(run, tmp_path / run.name)) for run in four[1:3]]


def test_scores_stand_side_by_side_and_each_kind_has_its_own_best(page: Page) -> None:
    assert page.row("linear SGD, random") == ["40.0", "20.0", "20.0", "20.0"]  # nobody's merit, hence no best
    cells = [row[1:] for row in page.rows if row and row[0] == "linear SGD"]
    assert cells == [["75.0 ± 7.1", "★ 80.0 ± 7.1", "95.0 ± 0.0", "★ 97.5 ± 1.2"]]
    # 43 of 60 clips are right in both: equal ones are both best.
    assert page.row("linear logistic") == ["★ 71.7", "★ 71.7", "90.0", "★ 91.7"]
    assert page.row("knn k = 1") == [
        "★ 60.0",
        "50.0",
        "90.0",
        "\N{EN DASH}",
    ]  # no contest among those with words
    assert page.row("labels knn") == ["60.0", "60.0", "60.0", "\N{EN DASH}"]
    assert "60 test clips of 3 classes" in page.text
    assert "one clip more or less is 1.67 points" in page.text
    assert "Not of one kind." in page.text


def test_only_settings_that_differ_are_shown(
    tmp_path: Path, make_card: MakeCard, write_run: WriteRun
) -> None:
    card = make_card()
    same = {"knn_every": 5, "augment": {"yaw": 60.0, "note": "yes"}}
    one = write_run(tmp_path / "one", card, **same)
    other = write_run(
        tmp_path / "other", card, **{**same, "augment": {"yaw": 30, "note": None}, "extra": [1, 2]}
    )
    found = differing_settings(read_runs([one, other]))
    assert found == {
        "augment.yaw": ["60.0", "30"],
        "augment.note": ["yes", "null"],
        "extra": [None, "[1, 2]"],
    }
    page = compare([one, other], tmp_path / "page.html")
    assert page.row("augment. yaw") == ["60.0", "30"]
    assert page.row("extra") == ["\N{EN DASH}", "[1, 2]"]
    assert not [row for row in page.rows if row and row[0].startswith("knn_every")]
    again = write_run(tmp_path / "again", card, **same)
    assert "Nothing: the runs have the same settings" in compare([one, again], tmp_path / "same.html").text


def test_other_clips_have_tables_of_their_own(
    tmp_path: Path, make_card: MakeCard, write_run: WriteRun, add_result: AddResult
) -> None:
    cards = [make_card(), make_card(), make_card(dataset="utd-mhad", protocol="cross-subject")]
    runs = [write_run(tmp_path / name, card, metrics(2)) for name, card in zip("abc", cards, strict=True)]
    for run, card, top1 in zip(runs, cards, (50.0, 60.0, 90.0), strict=True):
        add_result(run, card, "linear", {"SGD": top1})
    add_result(runs[0], cards[0], "transfer", {"SGD": 80.0}, dataset="utd-mhad", split="cross-subject")
    nw, utd = settings(read_runs(runs))
    assert [run.name for run in nw.runs] == ["a", "b"]
    assert [(row.protocol, row.best) for row in nw.rows] == [("linear", {1})]
    assert [run.name for run in utd.runs] == ["a", "c"]
    assert [(row.protocol, [score and score.top1 for score in row.scores], row.best) for row in utd.rows] == [
        ("linear", [None, 90.0], frozenset()),
        ("transfer", [80.0, None], frozenset()),
    ]
    page = compare(runs, tmp_path / "page.html")
    assert {"results-1", "results-2", "published-1", "published-2"} <= set(page.ids())
    assert "no ranking crosses them" in page.text
    assert [row for row in page.rows if row and row[0] == "linear SGD"] == [
        ["linear SGD", "50.0", "★ 60.0"],
        ["linear SGD", "\N{EN DASH}", "90.0"],
    ]
    losses = [alt for alt in page.alts() if alt.startswith("Total loss")]
    assert ["c " in alt for alt in losses] == [False, True]  # nor do their curves share a picture


def test_says_where_there_is_nothing_to_compare(
    tmp_path: Path, make_card: MakeCard, write_run: WriteRun, add_result: AddResult
) -> None:
    card = make_card(seen_classes=(0, 1))
    runs = [write_run(tmp_path / name, card) for name in "ab"]
    add_result(runs[0], card, "linear", {"SGD": 50.0})
    page = compare(runs, tmp_path / "page.html")
    assert "Only a was scored on these clips, so there is nothing to compare it with" in page.text
    assert "2 of 3 classes" in page.text
    assert not {"classes", "confusion"} & set(page.ids())


def test_classes_come_by_how_far_the_runs_are_apart(page: Page) -> None:
    random = np.random.default_rng(0)
    names = [f"class {i}" for i in range(30)]
    tables = random.uniform(0, 100, size=(3, 30)).round(1)
    tables[1, 4] = np.nan
    runs = [
        Score("SGD", 0.0, per_class={n: None if value != value or n == "class 9" else value
                                     for n, value in zip(names, table.tolist(), strict=True)})
        for table in tables
    ]  # fmt: skip
    accuracy, order = by_difference(runs, names)
    gaps = {}
    for column, name in enumerate(names):
        known = [table[column] for table in tables if table[column] == table[column]]
        gaps[name] = max(known) - min(known)
    assert order == sorted(gaps.keys() - {"class 9"}, key=lambda name: -gaps[name])
    assert accuracy.shape == (29, 3)
    np.testing.assert_array_equal(accuracy[order.index("class 4")], tables[:, 4])
    dots = [alt for alt in page.alts() if "a dot a run" in alt]
    assert len(dots) == 1
    assert dots[0].startswith("Accuracy of 3 classes")
    assert all(name in dots[0] for name in ("plain", "bone", "words", "late"))


def test_of_many_classes_the_most_different_are_shown(
    tmp_path: Path, make_card: MakeCard, write_run: WriteRun, add_result: AddResult
) -> None:
    names = tuple(f"an action with a rather long name, number {i}" for i in range(60))
    card = make_card(class_names=names, seen_classes=tuple(range(60)))
    runs = [write_run(tmp_path / name, card) for name in "ab"]
    for run, top1 in zip(runs, (50.0, 90.0), strict=True):
        add_result(run, card, "linear", {"SGD": top1}, labels=list(range(60)) * 4)
    page = compare(runs, tmp_path / "page.html")
    assert "20 further classes, on which they differ less, are not shown" in page.text
    assert any(alt.startswith("Accuracy of 40 classes") for alt in page.alts())


def test_confusions_change_as_counted_by_hand() -> None:
    random = np.random.default_rng(1)
    names = [f"class {i}" for i in range(7)]
    before, after = random.integers(0, 9, size=(2, 7, 7))
    before[3] = 0  # a class without clips
    wanted = []
    for true in range(7):
        for predicted in range(7):
            if true == predicted:
                continue
            shares = [
                100.0 * float(counts[true, predicted]) / max(1.0, float(sum(counts[true])))
                for counts in (before, after)
            ]
            wanted.append((shares[1] - shares[0], names[true], names[predicted], *shares))
    better, worse = confusion_changes(before, after, names)
    fewest, most = sorted(w for w in wanted if w[0] <= -2)[:6], sorted(w for w in wanted if w[0] >= 2)[:-7:-1]
    for found, expected in ((better, fewest), (worse, most)):
        assert len(found) == 6
        changes = [pair.after - pair.before for pair in found]
        np.testing.assert_allclose(changes, [change for change, *_ in expected])
        assert {(p.true, p.predicted, p.before, p.after) for p in found} <= {tuple(w[1:]) for w in wanted}


def test_small_and_absent_changes_of_confusion_are_left_out() -> None:
    before, after = np.array([[99, 1], [50, 50]]), np.array([[98, 2], [50, 50]])
    assert confusion_changes(before, after, ("a", "b")) == ([], [])
    assert confusion_changes(before * 0, before * 0, ("a", "b")) == ([], [])


def test_confusions_go_from_the_first_run_to_each_other(page: Page) -> None:
    text = page.text
    assert [f"plain → {name}" in text for name in ("plain", "bone", "words", "late")] == [
        False, True, True, True
    ]  # fmt: skip
    section = text[text.index("plain → words") : text.index("plain → late")]
    less = section[section.index("Confused less") : section.index("Confused more")]
    found = re.findall(r"“(\w+)” taken for “(\w+)”: (\d+) → (\d+)", less)
    assert {(true, predicted) for true, predicted, *_ in found} == {
        ("wave", "clap"),
        ("clap", "bow"),
        ("bow", "wave"),
    }
    assert all(int(before) > int(after) for *_, before, after in found)


def test_curves_hold_all_runs_that_recorded_a_term(page: Page) -> None:
    alts = {alt.split(" against")[0]: alt for alt in page.alts() if "against" in alt}
    assert alts.keys() == {
        "Total loss, weighted",
        "Inter: skeleton and text",
        "Running kNN on validation clips",
    }
    assert all(f"{name} 2.25 after epoch 4" in alts["Total loss, weighted"] for name in ("plain", "late"))
    assert "plain" not in alts["Inter: skeleton and text"]
    assert "words 53 after epoch 4" in alts["Running kNN on validation clips"]


def test_what_it_cost_is_told(four: list[Path], page: Page, make_card: MakeCard) -> None:
    state = torch.random.get_rng_state()
    runs = read_runs(four)
    assert torch.equal(torch.random.get_rng_state(), state)
    model = make_card(text="minilm").build()
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert runs[2].parameters == (encoder, sum(parameter.numel() for parameter in model.parameters()))
    assert runs[0].parameters[1] < runs[2].parameters[1]  # no head for words
    assert (runs[0].seconds, runs[0].clips_per_second) == (120.0, 41.5)
    cells = next(row for row in page.rows if row and row[0].startswith("words NW"))
    assert cells[1:] == [
        "with words, minilm",
        "joint",
        "stgcn-small, FreST",
        f"{encoder:,} {runs[2].parameters[1]:,}",
        "4",
        "2.0",
        "42",
    ]


def test_runs_without_epochs_scores_or_times(
    tmp_path: Path, make_card: MakeCard, write_run: WriteRun
) -> None:
    card = make_card(dataset="synthetic", protocol="cross-subject")
    runs = [
        write_run(tmp_path / "none", card),
        write_run(tmp_path / "old", card, [{"epoch": 0, "loss": 1.0}]),
    ]
    page = compare(runs, tmp_path / "page.html")
    assert page.ids() == ["runs", "differences", "unscored", "training"]
    assert "No scores of none, old" in page.text
    assert [row[-3:] for row in page.rows if row and "Synthetic" in row[0]] == [
        ["0", "\N{EN DASH}", "\N{EN DASH}"],
        ["1", "\N{EN DASH}", "\N{EN DASH}"],
    ]
    assert (
        "No epoch was trained"
        in compare([runs[0], write_run(tmp_path / "b", card)], tmp_path / "b.html").text
    )


def test_published_numbers_stand_beside_the_linear_ones(page: Page) -> None:
    text = page.text
    published = text[text.index("What others report on NW-UCLA, cross-view") :]
    alone, rest = published.split("Language-supervised: ")
    words = rest[: rest.index("Supervised: the encoder was trained")]
    assert ["plain ours" in alone, "bone ours" in alone, "words ours" in alone, "late ours" in alone] == [
        True, True, False, False
    ]  # fmt: skip
    assert ["plain ours" in words, "words ours" in words, "late ours" in words] == [False, True, True]
    assert "CTR-GCN" in rest


def test_what_comes_from_files_is_escaped_and_nothing_is_fetched(
    tmp_path: Path, make_card: MakeCard, write_run: WriteRun, add_result: AddResult
) -> None:
    card = make_card(class_names=("wave", "half \ud800", HOSTILE))
    runs = [
        write_run(tmp_path / name, card, metrics(3), note=HOSTILE + name) for name in ("<b>a", "$\\frac$")
    ]
    for run, top1 in zip(runs, (50.0, 80.0), strict=True):
        add_result(run, card, "linear", {HOSTILE: top1})
    out = write_comparison(runs, tmp_path / "page.html")
    page = Page(out.read_text(encoding="utf-8"))
    names = {name for name, _ in page.tags}
    assert not {"script", "b", "link", "iframe", "object"} & names
    for name, attributes in page.tags:
        assert all(
            str(attributes.get(key) or "data:").startswith("data:") for key in ("src", "href", "srcset")
        )
        assert not any(key.startswith("on") for key in attributes), name
    assert HOSTILE in page.text
    policy = next(str(a["content"]) for name, a in page.tags if name == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert write_comparison(runs, tmp_path / "again.html").read_bytes() == out.read_bytes()


@pytest.mark.parametrize("missing", ["config.yaml", "metrics.jsonl", "checkpoint/model.json"])
def test_refuses_what_is_no_run(copies: list[Path], tmp_path: Path, missing: str) -> None:
    (copies[1] / missing).unlink()
    with pytest.raises(InputError, match=Path(missing).name):
        write_comparison(copies, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("config.yaml", "a: [1", "not YAML"),
        ("config.yaml", "- 1", "no settings"),
        ("metrics.jsonl", '{"epoch": 0, "lo', "not JSON"),
        ("evaluation/linear.json", "{}", "format"),
        ("checkpoint/model.json", "[]", "format"),
    ],
)
def test_refuses_damaged_files(
    copies: list[Path], tmp_path: Path, file: str, text: str, problem: str
) -> None:
    (copies[1] / file).write_text(text)
    with pytest.raises(InputError, match=problem) as error:
        write_comparison(copies, tmp_path / "page.html")
    assert error.value.file == copies[1] / file


def test_keeps_an_existing_page_unless_told(copies: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_comparison(copies, out)
    assert out.read_text() == "mine"
    write_comparison(copies, out, overwrite=True)
    assert out.read_text() != "mine"
