"""The benchmark of the spectral gate runs, checks before it times, keeps what it has; no timings are judged here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measure, spectral
from mica_kernels.spectral import reference

CPU = torch.device("cpu")
CASE = spectral.Case("tiny", (2, 8, 16, 5), dtype="float32", compiled=())


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("results") / "cpu" / "spectral.json"
    spectral.main(["--device", "cpu", "--out", str(out)])
    assert [file.name for file in out.parent.iterdir()] == ["spectral.json"]
    return json.loads(out.read_text())


def test_every_case_has_a_row(document: dict[str, Any]) -> None:
    assert not document["left_out"]
    assert document["torch"] == torch.__version__
    done = [(row["name"], row["sparsity"]) for row in document["rows"]]
    assert done == [(case.name, sparsity) for case in spectral.TINY for sparsity in case.sparsities]
    for row in document["rows"]:
        assert set(row["results"]) == {"fused", "eager"} | (
            {"circulant"} if row["sparsity"] == "none" else set()
        )
        for name, result in row["results"].items():
            assert not result["error"]
            assert {"y", "dx", "dweight"} <= set(row["errors"][name])
            assert all(result["times"][mode]["median"] > 0 for mode in spectral.MODES)
            assert result["times"]["both"]["p20"] <= result["times"]["both"]["p80"]


def test_tables_show_every_row(document: dict[str, Any]) -> None:
    lines = [line for line in spectral.table(document).splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(document["rows"]) * len(spectral.MODES)
    assert len({line.count(" | ") for line in lines}) == 1
    assert len(spectral.short(document).splitlines()) == 2 + len(document["rows"])


@pytest.mark.parametrize("frames", [1, 2, 9, 16])
def test_circulant_matrices_do_what_the_filter_does(frames: int) -> None:
    case = spectral.Case("any", (2, 8, frames, 5), dtype="float64")
    x, weight, _ = spectral.make_slots(case, "none", CPU)[0].arguments
    weight = weight.double()
    torch.testing.assert_close(
        spectral.circulant(x, weight), reference.spectral_gate(x, weight, None, "joint")
    )


def test_what_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: Tensor, weight: Tensor, threshold: Tensor | None, *, sparsity: str, impl: str) -> Tensor:
        return 1.01 * reference.spectral_gate(x, weight, threshold, sparsity)

    monkeypatch.setattr(spectral, "spectral_gate", wrong)
    row = spectral.run_case(CASE, "joint", CPU)
    assert row["results"]["fused"]["error"].startswith("ArithmeticError: y is off by 0.01 of its size")
    assert not row["results"]["fused"]["times"]
    assert row["results"]["eager"]["times"]
    assert "ArithmeticError" in spectral.table({**measure.about(CPU), "rows": [row], "left_out": []})
    assert "ArithmeticError" in spectral.short({**measure.about(CPU), "rows": [row], "left_out": []})


def test_nan_is_wrong() -> None:
    exact = {"y": torch.ones(3, dtype=torch.float64)}
    with pytest.raises(ArithmeticError, match="y is off by nan"):
        spectral.check(CASE, "none", {"y": torch.full((3,), float("nan"))}, exact)


def test_cases_beyond_the_time_are_named(tmp_path: Path) -> None:
    document = spectral.run([CASE], tmp_path / "out.json", CPU, minutes=-1)
    assert not document["rows"]
    assert [row["sparsity"] for row in document["left_out"]] == ["joint", "none"]
    assert "left out: tiny, joint" in spectral.short(document)


def test_a_case_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(spectral, "run_case", fail)
    document = spectral.run([CASE], tmp_path / "out.json", CPU, minutes=1)
    assert [row["reason"] for row in document["left_out"]] == ["no memory"] * 2


def result(median: float) -> dict[str, Any]:
    return {"times": {mode: {"median": median, "looped": median} for mode in spectral.MODES}}


@pytest.mark.parametrize(("fused", "missed"), [(1.2, 0), (1.5, 1), (2.0, 4)])
def test_aims(fused: float, missed: int) -> None:
    """1.25 copies forward and 1.9 backward, and four times as fast as an eager mode of six copies."""
    row = {
        "name": "headline",
        "sparsity": "joint",
        "numel": spectral.HEADLINE.numel,
        "copy": {"median": 1.0},
        "results": {"fused": result(fused), "eager": result(6.0), "compiled": {"times": {}}},
    }
    assert spectral.ratios(row)["forward"] == {"copies": fused, "speedup": pytest.approx(6 / fused)}
    assert sum("MISSED" in line for line in spectral.verdicts([row])) == missed


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in ((["--device", "cpu"], "--out is needed"), (["table"], "table needs the file")):
        with pytest.raises(SystemExit):
            spectral.main(arguments)
        assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        spectral.main(["--out", str(tmp_path / "out.json")])
    assert "PyTorch finds no GPU" in capsys.readouterr().err
