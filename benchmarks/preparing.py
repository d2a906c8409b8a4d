"""A data set of NTU RGB+D 120's size: preparing it, reading clips at random, and whether the loader keeps ahead.

    python -m benchmarks.preparing                      100,000 clips on all cores; a quarter of an hour on two
    python -m benchmarks.preparing --clips 15000        a first impression, the fewest that it works with
    python -m benchmarks.preparing --json FILE          the figures as JSON as well

The clips are synthetic recordings in the owners' format: a few dozen texts under as many names as there are clips, so
that every clip is read and parsed while the disk holds little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.raw_files import write_ntu
from mica.data.dataset import SkeletonDataset, SkeletonLoader
from mica.data.sampler import GlobalBatchSampler
from mica.data.store import Store
from mica.training.config import OptimizerConfig, PretrainConfig, SplitConfig
from mica.training.loop import Trainer
from mica.transforms.augment import VIEWS
from mica.transforms.sampling import Preprocessing

BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=100_000, help="clips in all")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to work; a temporary folder by default"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the figures here")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=parsed.folder) as folder:
        figures = measure(Path(folder), parsed.clips)
    for name, value in figures.items():
        print(f"{name:<34}{value:,.4g}" if isinstance(value, float) else f"{name:<34}{value:,}")
    if parsed.json:
        parsed.json.write_text(json.dumps(figures, indent=1) + "\n")


def measure(folder: Path, clips: int) -> dict[str, Any]:
    """Write the recordings, prepare them in a process of its own, and read from what it leaves."""
    raw, out = folder / "raw", folder / "ntu120.arrow"
    write_ntu(raw, clips)
    size = sum(file.stat().st_size for file in raw.rglob("*.skeleton"))
    command = [sys.executable, "-m", "mica", "prepare", "ntu120", "--raw", str(raw), "--out", str(out)]
    seconds, most = watch(command)
    store = Store.open(out)
    waiting, step = training(store)
    return {
        "clips_recorded": clips,
        "clips_kept": len(store),
        "raw_gigabytes": size / 1e9,
        "prepare_seconds": seconds,
        "prepare_clips_per_second": clips / seconds,
        "prepare_megabytes_per_second": size / 1e6 / seconds,
        "prepare_peak_megabytes": most / 1e6,
        "store_gigabytes": out.stat().st_size / 1e9,
        "random_access_microseconds": random_access(store),
        "loader_clips_per_second": loader(store),
        "step_clips_per_second": BATCH / step,
        "loader_share_of_step": waiting / step,
    }


def watch(command: list[str]) -> tuple[float, int]:
    """Run a command; returns its seconds, and the most memory of it and its children in bytes.

    Memory of their own: pages of mapped files are a cache that gives way, and are not counted.
    """
    start, most = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        most = max(most, sum(map(own_memory, family(process.pid))))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return time.perf_counter() - start, most


def family(process: int) -> Iterator[int]:
    """A process and those it started."""
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from family(int(child))


def own_memory(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon", "RssShmem")))


def random_access(store: Store, reads: int = 2000) -> float:
    """Median microseconds to have all coordinates of a random clip in an array of one's own, the file in memory."""
    chosen = np.random.default_rng(0).integers(0, len(store), reads)
    times = []
    for _ in range(2):  # the first round brings the file into memory
        times.clear()
        for clip in chosen:
            start = time.perf_counter()
            store.keypoints(int(clip)).copy()
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def loader(store: Store, batches: int = 40) -> float:
    """Clips a second from the store to prepared batches of 64 frames, in random order."""
    dataset = SkeletonDataset(store, range(len(store)), Preprocessing(num_frames=64))
    order = GlobalBatchSampler(len(dataset), BATCH, seed=0)
    times = [seconds for seconds, _ in timed(SkeletonLoader(dataset, order, torch.device("cpu")), batches)]
    return BATCH / statistics.median(times)


def training(store: Store, steps: int = 3) -> tuple[float, float]:
    """Seconds that a pretraining step at NTU's size waits for its clips, and that it takes in all: medians."""
    config = PretrainConfig(
        split=SplitConfig(protocol="cross-setup"),
        preprocessing=Preprocessing(num_frames=64),
        text="none",
        augment=VIEWS["strong"],
        optimizer=OptimizerConfig(batch_size=BATCH),
    )
    trainer = Trainer(config, store)
    waits, whole = [], []
    for waited, batch in timed(trainer.loader, steps):
        start = time.perf_counter()
        trainer.train_step(batch["x"], batch["label"])["loss"].item()
        waits.append(waited)
        whole.append(waited + time.perf_counter() - start)
    return statistics.median(waits), statistics.median(whole)


def timed(items: Iterable[Any], count: int) -> Iterator[tuple[float, Any]]:
    """Yield the first `count` items, each with the seconds that it took to come."""
    source = iter(items)
    for _ in range(count):
        start = time.perf_counter()
        item = next(source)
        yield time.perf_counter() - start, item


if __name__ == "__main__":
    main()
