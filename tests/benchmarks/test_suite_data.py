"""What is measured of data: that it can be measured, on little, and what the table says of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import data, preparing
from mica.data.store import Clip, Store, StoreInfo, write

FIGURES = {
    "parsing": {"NTU RGB+D": {"ours": 90.0, "peers, dictionaries": 30.0}},
    "augment": [{"view": "strong", "clips": 128, "batched_ms": 10.0, "per_clip_ms": 120.0, "ratio": 12.0}],
    "preparing": {
        "clips_recorded": 100_000,
        "clips_kept": 98_000,
        "raw_gigabytes": 26.8,
        "prepare_seconds": 250.0,
        "prepare_clips_per_second": 400.0,
        "prepare_megabytes_per_second": 107.0,
        "prepare_peak_megabytes": 600.0,
        "store_gigabytes": 2.5,
        "random_access_microseconds": 7.25,
        "loader_clips_per_second": 7600.0,
        "step_clips_per_second": 8.0,
        "loader_share_of_step": 0.0012,
    },
}


def test_table(table_of: Callable[..., str]) -> None:
    text = table_of(data, FIGURES)
    assert "| parsing NTU RGB+D, ours | 90 MB/s a core |" in text
    assert "| parsing NTU RGB+D, peers, dictionaries | 30 MB/s a core (3.0 times as long) |" in text
    assert "10.0 ms; a clip at a time in NumPy 120 ms, 12.0 times" in text
    assert "100,000 recordings, 26.8 GB of text | 250 s: 400 clips/s, 107 MB/s |" in text
    assert "| 600 MB |" in text
    assert "7.2 µs" in text
    assert "0.12 % of 8.0 clips/s" in text


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_memory_of_a_command_and_its_children() -> None:
    """What a child holds counts, what another process holds does not."""
    child = "import numpy, time; held = numpy.ones(12_000_000); time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    seconds, most = preparing.watch([sys.executable, "-c", parent])
    assert seconds > 1
    assert 96e6 < most < 400e6
    with pytest.raises(SystemExit, match="status 3"):
        preparing.watch([sys.executable, "-c", "import sys; sys.exit(3)"])
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(0.1)
        assert list(preparing.family(other.pid)) == [other.pid]
        assert other.pid in set(preparing.family(os.getpid()))
    finally:
        other.kill()
        other.wait()


def test_reading_is_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = [
        Clip(f"{i}", rng.normal(size=(20, 1, 25, 3)).astype(np.float32), i % 2, subject=i // 100, setup=i % 4)
        for i in range(400)
    ]
    summary = write(tmp_path / "x.arrow", clips, StoreInfo("ntu120", "ntu-25", ("a", "b"), 30.0))
    store = Store.open(summary.path)
    assert 0 < preparing.random_access(store, reads=50) < 1e4
    assert preparing.loader(store, batches=2) > 0
    assert [item for _, item in preparing.timed("abc", 2)] == ["a", "b"]
