"""The benchmark of the contrastive losses runs, checks before it times, leaves out what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import contrastive, measure

CPU = torch.device("cpu")
CASE = contrastive.TINY[0]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("results") / "cpu" / "contrastive.json"
    contrastive.main(["--device", "cpu", "--out", str(out)])
    assert [file.name for file in out.parent.iterdir()] == ["contrastive.json"]
    return json.loads(out.read_text())


def slot(case: contrastive.Case) -> measure.Slot:
    return contrastive.make_slots(case, CPU)[0]


def test_every_case_has_a_row(document: dict[str, Any]) -> None:
    assert not document["left_out"]
    assert [row["name"] for row in document["rows"]] == [case.name for case in contrastive.TINY]
    for row in document["rows"]:
        assert list(row["results"]) == ["fused", "eager", "chunked"]
        for name, result in row["results"].items():
            assert not result["error"]
            assert list(row["errors"][name]) == ["y", "dquery", "dkey", "dscale"]
            assert all(result["times"][mode]["median"] > 0 for mode in contrastive.MODES)
            assert result["times"]["both"]["p20"] <= result["times"]["both"]["p80"]


def test_tables_show_every_row(document: dict[str, Any]) -> None:
    lines = [line for line in contrastive.table(document).splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(document["rows"]) * len(contrastive.MODES)
    assert len({line.count(" | ") for line in lines}) == 1
    assert len(contrastive.short(document).splitlines()) == 2 + len(document["rows"])


@pytest.mark.parametrize("case", contrastive.TINY, ids=lambda case: case.name)
def test_what_is_checked_against_is_exact(case: contrastive.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows at a time, without autograd, it gives what autograd makes of the whole matrix in float64."""
    monkeypatch.setattr(contrastive, "AT_A_TIME", 1000)
    given = slot(case)
    scale = given.leaves["dscale"].detach().double().requires_grad_()
    query, key = (matrix.detach().double().requires_grad_() for matrix in given.arguments)
    options = {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in given.options.items()
    }
    doubled = measure.Slot(
        arguments=(query, key),
        leaves={"dquery": query, "dkey": key, "dscale": scale},
        above=given.above,
        options={**options, "scale": scale},
    )
    expected = measure.differentiate(contrastive.implementations(case, CPU)["chunked"], doubled)
    exact = contrastive.exact(case, given)
    assert exact.keys() == expected.keys()
    for name, value in exact.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12, check_dtype=False)


def wrong(query: Tensor, key: Tensor, *, impl: str, **options: Any) -> Tensor:
    """The loss as it should be, and the gradient of one row of the key not."""
    spoiled = torch.ones_like(key)
    spoiled[3] = 1.2
    key = spoiled * key - ((spoiled - 1) * key).detach()
    return contrastive.info_nce(query, key, impl="reference", **options)


def test_what_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(contrastive.LOSSES, "info_nce", (wrong, contrastive.eager_info_nce))
    row = contrastive.run_case(CASE, CPU)
    assert row["results"]["fused"]["error"].startswith("ArithmeticError: dkey is off by 0.0")
    assert not row["results"]["fused"]["times"]
    assert row["results"]["eager"]["times"]
    document = {**measure.about(CPU), "rows": [row], "left_out": []}
    assert "failed: tiny, fused: ArithmeticError" in contrastive.table(document)
    assert "ArithmeticError" in contrastive.short(document)


def test_a_wrong_block_is_not_lost_among_right_ones() -> None:
    exact = {"dkey": torch.ones(100 * contrastive.BLOCK, 2, dtype=torch.float64)}
    result = exact["dkey"].clone()
    result[-1] = 0
    with pytest.raises(ArithmeticError, match="dkey is off by 0\\.06"):
        contrastive.check(CASE, {"dkey": result}, exact)
    result[0] = torch.nan
    with pytest.raises(ArithmeticError, match="dkey is off by nan"):
        contrastive.check(CASE, {"dkey": result}, exact)


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = contrastive.estimated_bytes(CASE, "eager")
    assert needed == 16 * CASE.rows**2
    monkeypatch.setattr(contrastive, "memory", lambda device: needed - 1)
    row = contrastive.run_case(CASE, CPU)
    assert list(row["results"]) == ["fused", "chunked"]
    assert list(row["left_out"]) == ["eager"]
    document = {**measure.about(CPU), "rows": [row], "left_out": []}
    assert "left out: tiny, eager: would take some" in contrastive.table(document)
    assert "left out: tiny, eager: would take some" in contrastive.short(document)


def test_an_h200_holds_the_headline_whole_and_nothing_larger() -> None:
    """With 150 GB; tiles fit anywhere."""
    h200 = 150e9
    for name in ("eager", "compiled"):
        assert contrastive.estimated_bytes(contrastive.HEADLINE, name) < h200
    assert contrastive.estimated_bytes(replace(contrastive.HEADLINE, rows=131_072), "eager") > h200
    assert contrastive.estimated_bytes(contrastive.HEADLINE, "chunked") == 0


def test_cases_beyond_the_time_are_named(tmp_path: Path) -> None:
    document = contrastive.run([CASE], tmp_path / "out.json", CPU, minutes=-1)
    assert [row["name"] for row in document["left_out"]] == ["tiny"]
    assert "left out: tiny: more than -1 minutes had gone" in contrastive.short(document)


def test_operations_by_hand() -> None:
    """8NMD for both directions of info_nce; extra keys get no gradient, nor does a teacher."""
    product = 2 * 16_384**2 * 512
    assert contrastive.operations(contrastive.MIDDLE) == {
        "forward": product,
        "backward": 3 * product,
        "both": 4 * product,
    }
    assert contrastive.operations(contrastive.DISTILLED) == {
        "forward": 2 * product,
        "backward": 4 * product,
        "both": 6 * product,
    }
    queue = contrastive.Case("queue", 2, queue=3, width=1)
    assert contrastive.operations(queue) == {"forward": 8 + 12, "backward": 24 + 24, "both": 68}


def result(median: float, extra_bytes: float) -> dict[str, Any]:
    return {
        "times": {mode: {"median": median, "looped": median} for mode in contrastive.MODES},
        "extra_bytes": {mode: extra_bytes for mode in contrastive.MODES},
    }


def row_of(name: str, **results: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "floors": dict.fromkeys(contrastive.MODES, 1.0), "results": results}


@pytest.mark.parametrize(("fused", "gigabytes", "missed"), [(1.5, 0.9, 0), (2.0, 0.9, 0), (2.6, 1.1, 2)])
def test_aims_of_the_headline(fused: float, gigabytes: float, missed: int) -> None:
    row = row_of("headline", fused=result(fused, 1e9 * gigabytes), eager={"times": {}, "extra_bytes": {}})
    assert contrastive.ratios(row)["both"]["floors"] == fused
    lines = contrastive.verdicts([row])
    assert sum(line.startswith("MISSED") for line in lines) == missed
    met, reached = "met   " if fused <= 2.5 else "MISSED", "" if fused <= 1.6 else "not "
    assert lines[0] == f"{met} headline, both: {fused:.2f} floors, aim 2.5; 1.6 {reached}reached"


@pytest.mark.parametrize(("median", "extra", "missed"), [(3.9, 1.0, 0), (4.1, 1.0, 1), (4.1, 2.0, 2)])
def test_aims_beside_eager(median: float, extra: float, missed: int) -> None:
    """Not slower than eager, which takes 4 ms, and with an eighth of its memory at most; others do not count."""
    row = row_of("16,384", fused=result(median, extra), eager=result(4.0, 9.0), compiled=result(1.0, 1.0))
    assert sum(line.startswith("MISSED") for line in contrastive.verdicts([row])) == missed
    assert contrastive.ratios(row)["both"]["speedup"] == pytest.approx(1 / median)


def test_what_was_not_measured_has_missed_its_aims() -> None:
    nothing = {"times": {}, "extra_bytes": {}}
    lines = contrastive.verdicts(
        [row_of(name, fused=nothing, eager=nothing) for name in ("headline", "16,384")]
    )
    assert len(lines) == 4
    assert all("MISSED" in line and "not measured" in line for line in lines)


def test_the_headline_is_first() -> None:
    assert contrastive.CASES[0] is contrastive.HEADLINE
    assert contrastive.QUICK[0].name == contrastive.HEADLINE.name
    assert not any(case.compiled for case in contrastive.QUICK)
    names = [case.name for case in contrastive.CASES]
    assert len(set(names)) == len(names)


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in ((["--device", "cpu"], "--out is needed"), (["table"], "table needs the file")):
        with pytest.raises(SystemExit):
            contrastive.main(arguments)
        assert message in capsys.readouterr().err
