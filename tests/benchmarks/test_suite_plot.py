"""The pictures of results: which there are, what is in them, and that the same rows make the same file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from benchmarks import contrastive, plot, spectral
from benchmarks.__main__ import main
from benchmarks.methods import PROBES
from benchmarks.registry import OPERATORS
from benchmarks.results import RESULTS, Row, keep

pytest.importorskip("matplotlib")

Make = Callable[..., Row]
NAMES = {
    "roofline": {"fused", "eager", "compiled", "circulant", "chunked", "open_clip", "lightly"},
    "time-against-frames": {"fused", "eager"},
    "memory-against-rows": {"fused", "eager", "chunked", "open_clip"},
}
"""The implementations in each picture."""


@pytest.fixture
def rows(make_row: Make) -> list[Row]:
    """What there is something to show of in every picture."""
    frames = [
        make_row(case=case.name, implementation=name, median=slow * case.shape[2])
        for case in spectral.CASES
        if case.name.startswith("sweep-t")
        for name, slow in (("fused", 0.01), ("eager", 0.1))
    ]
    sides = [
        make_row("info_nce", name, implementation, median=0.1 * place, extra_bytes=10**place)
        for place, name in enumerate(("n256", "n1024", "n4096"), 4)
        for implementation in ("fused", "eager", "chunked", "open_clip")
    ]
    return [
        make_row(implementation="copy", mode="forward"),
        *frames,
        *sides,
        make_row("info_nce", "queue", "lightly"),
        make_row("info_nce", "labels", "eager", extra_bytes=10**10),
        make_row("info_nce", "n16384", "fused", median=None, left_out="no memory"),
        make_row("similarity_kl", "kl-n1024", "compiled"),
        make_row(case="t32-none", implementation="circulant"),
    ]


def drawn(rows: Sequence[Row], folder: Path, form: str = "svg") -> dict[str, bytes]:
    """The pictures of rows, by path."""
    for row in rows:
        keep(folder / "results", row)
    out = folder / "plots"
    assert main(["plot", str(folder / "results"), "--out", str(out), "--format", form]) == 0
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.*"))}


def written(picture: bytes) -> list[str]:
    """All that stands in a picture."""
    return re.findall(r">([^<>]+)</text>", picture.decode())


def test_every_picture_as_svg(rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = drawn(rows, tmp_path / "a")
    assert set(found) == {f"nvidia-h200/{name}.svg" for name in NAMES}
    said = capsys.readouterr().out.splitlines()
    assert sorted(said) == sorted(str(tmp_path / "a" / "plots" / name) for name in found)
    for name, implementations in NAMES.items():
        words = {word.strip() for word in written(found[f"nvidia-h200/{name}.svg"])}
        assert implementations <= words
        assert not (set(plot.COLOURS) - implementations) & words
        assert any("NVIDIA H200" in word for word in words), "the device is named"
    assert drawn(rows, tmp_path / "b") == found, "the same rows make the same bytes"


def test_every_picture_as_png(rows: list[Row], tmp_path: Path) -> None:
    found = drawn(rows, tmp_path, "png")
    assert set(found) == {f"nvidia-h200/{name}.png" for name in NAMES}
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5000 for picture in found.values())


def test_what_there_are_no_rows_for_is_left_out(make_row: Make) -> None:
    def names(*rows: Row) -> list[str]:
        return [name for name, _ in plot.figures(rows)]

    assert names() == []
    assert names(make_row(mode="forward"), make_row(median=None, failed="wrong")) == []
    assert names(make_row()) == ["roofline"]
    assert names(make_row("similarity_kl", "kl-n1024")) == ["roofline"]
    assert names(make_row(case="sweep-t64")) == ["roofline", "time-against-frames"]
    assert names(make_row("info_nce", "n1024")) == ["roofline", "memory-against-rows"]
    assert names(make_row("info_nce", "labels")) == ["roofline"]


def test_a_folder_for_each_device(make_row: Make, tmp_path: Path) -> None:
    keep(tmp_path / "results", make_row(case="cpu-joint", implementation="eager", device="A CPU (R)"))
    found = drawn([make_row()], tmp_path)
    assert set(found) == {"nvidia-h200/roofline.svg", "a-cpu/roofline.svg"}


def test_methods_compared(make_row: Make, tmp_path: Path) -> None:
    def row(method: str, supervision: str | None, value: float) -> dict[str, object]:
        return {
            "method": method,
            "supervision": supervision,
            "top1": {probe: [value, value + 1] for probe in PROBES},
        }

    rows = [row("raw coordinates", None, 50), row("mica-self", "none", 60.2), row("mica", "words", 70)]
    file = tmp_path / "results" / "a-cpu" / "methods-nw-ucla-classics.json"
    file.parent.mkdir(parents=True)
    found = {"device": "A CPU", "dataset": "nw-ucla", "split": "cross-view", "rows": rows}
    file.write_text(json.dumps(found))
    file.with_name("methods-nw-ucla-parts-of-mica.json").write_text("{}")
    pictures = drawn([make_row()], tmp_path)
    assert set(pictures) == {"a-cpu/methods-nw-ucla.svg", "nvidia-h200/roofline.svg"}
    words = written(pictures["a-cpu/methods-nw-ucla.svg"])
    assert {"mica-self", "60.7", "self-supervised", "language-supervised", *PROBES} <= set(words)
    assert "NW-UCLA, cross-view" in words
    assert [words.count(mean) for mean in ("50.5", "60.7", "70.5")] == [2, 2, 2]


def test_the_documents_have_the_pictures_of_the_results(tmp_path: Path) -> None:
    """`python -m benchmarks plot benchmarks/results --out docs/plots` makes them so."""
    shown = RESULTS.parents[1] / "docs" / "plots"
    assert main(["plot", str(RESULTS), "--out", str(tmp_path)]) == 0
    fresh, kept = (
        {file.relative_to(folder): written(file.read_bytes()) for file in folder.rglob("*.svg")}
        for folder in (tmp_path, shown)
    )
    assert fresh == kept


def test_losses_of_another_type_or_width_are_in_no_line(rows: list[Row], make_row: Make) -> None:
    others = [make_row("info_nce", name) for name in ("float32", "d384", "labels", "queue")]
    swept = plot.rows_sweep([*others, *rows])
    assert {row["case"] for row in swept} == {"n256", "n1024", "n4096"}
    assert plot.rows_sweep(others[2:]) == []


def test_signals_of_a_line_differ_in_frames_alone() -> None:
    for cases in (spectral.CASES, spectral.CPU_CASES):
        swept = [case for case in cases if "sweep-t" in case.name]
        assert [case.shape[2] for case in swept] == list(spectral.LENGTHS)
        assert len({(case.shape[:2], case.shape[3:], case.dtype, case.layout) for case in swept}) == 1


def test_lines_of_memory_have_their_rows() -> None:
    """Of the type and width that most have, so that a line is what the suite makes it."""
    plain = {case.rows for case in contrastive.INFO_NCE if case.symmetric and case.groups is None}
    assert set(contrastive.SIDES) <= plain


def test_every_implementation_has_its_colour_and_every_operator_its_mark() -> None:
    assert set(OPERATORS) <= set(plot.MARKERS)
    for operator in OPERATORS.values():
        for case in (*operator.cases, *operator.cpu_cases):
            assert set(operator.implementations(case, torch.device("cpu"))) <= set(plot.COLOURS)
    for looks in (plot.COLOURS, plot.MARKERS):
        assert len(set(looks.values())) == len(looks)
