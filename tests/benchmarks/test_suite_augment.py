"""The benchmark of views: a row each, printed and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import augment
from mica.transforms.augment import VIEWS


def test_every_view_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    augment.main(["--clips", "3", "--rounds", "2", "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["view"] for row in rows] == list(VIEWS)
    for row in rows:
        assert (row["clips"], row["threads"]) == (3, torch.get_num_threads())
        assert row["ratio"] == pytest.approx(row["per_clip_ms"] / row["batched_ms"])
    printed = capsys.readouterr().out.splitlines()
    assert "\n".join(printed) == augment.table(rows)
    assert len(printed) == 1 + len(rows)


def test_a_median_is_of_the_rounds() -> None:
    row = augment._row("basic", 8, [(0.001, 0.01), (0.002, 0.05), (0.1, 0.04)])
    assert (row["batched_ms"], row["per_clip_ms"]) == (2.0, 40.0)
    assert row["ratio"] == 20.0


@pytest.mark.parametrize("option", ["--clips", "--rounds"])
def test_nothing_to_measure_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        augment.main([option, "0"])
    assert "at least 1" in capsys.readouterr().err
