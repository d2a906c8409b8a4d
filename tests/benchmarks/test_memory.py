"""The memory of the losses on a CPU, by the script that measures it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_the_reference_never_holds_the_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole, 8,192 x 8,192 takes over six copies of 268 MB; by tiles, as much as any larger matrix."""
    memory.main(["--rows", "8192", "--width", "16", "--out", str(tmp_path / "memory.json")])
    rows = json.loads((tmp_path / "memory.json").read_text())
    assert [row["loss"] for row in rows] == ["info_nce", "similarity_kl"]
    assert all(row["extra_bytes"] < 800e6 for row in rows)
    assert capsys.readouterr().out.splitlines() == [memory.line(row) for row in rows]


def test_peak_sees_what_is_gone_after_the_work() -> None:
    def work() -> None:
        torch.ones(50_000_000).sum()
        time.sleep(0.05)

    assert memory.peak(work) > 150e6
