"""Views of a batch: ours, the whole batch at once, against a clip at a time in NumPy, as the field's code makes them.

    python -m benchmarks.augment [--clips 128] [--rounds 15] [--json FILE]

Both on the same cores, the memory kept as in training (`mica.training.allocator`). Each round measures all in turn, so
that what else the machine does hits all alike; the table has the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers
from mica.skeleton import get_layout
from mica.training.allocator import freed_memory_kept
from mica.transforms.augment import VIEWS, augment
from mica.transforms.draws import Draws

Row = dict[str, Any]

LAYOUT = get_layout("ntu-25")
PEERS = {"basic": peers.view, "strong": partial(peers.strong_view, layout=LAYOUT)}


def ours(name: str, clips: Tensor) -> Tensor:
    """A view of every clip."""
    return augment(clips, VIEWS[name], LAYOUT, Draws(seed=0, step=0, clips=range(len(clips))))


def theirs(name: str, clips: np.ndarray, draw: np.random.Generator) -> Tensor:
    """A view of every clip, put together as a `DataLoader` does."""
    return torch.stack([torch.from_numpy(PEERS[name](clip, draw=draw)) for clip in clips])


def seconds(work: Callable[[], object]) -> float:
    """What a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def rows(count: int, rounds: int) -> list[Row]:
    """A row for each view: clips, threads, and milliseconds of both, the median of the rounds."""
    clips = torch.randn(count, 3, 64, LAYOUT.num_joints, 2, generator=torch.Generator().manual_seed(0))
    draw = np.random.default_rng(0)
    works = {name: (partial(ours, name, clips), partial(theirs, name, clips.numpy(), draw)) for name in VIEWS}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    with freed_memory_kept(clips.device):
        for turn in range(rounds + 1):
            for name, (batched, single) in works.items():
                pair = (seconds(batched), seconds(single))
                if turn > 0:  # the first warms up
                    taken[name].append(pair)
    return [_row(name, count, times) for name, times in taken.items()]


def _row(name: str, count: int, times: list[tuple[float, float]]) -> Row:
    batched, single = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    return {
        "view": name,
        "clips": count,
        "threads": torch.get_num_threads(),
        "batched_ms": batched,
        "per_clip_ms": single,
        "ratio": single / batched,
    }


def table(found: Sequence[Row]) -> str:
    """The rows for people."""
    lines = [f"{'view':8} {'clips':>6} {'batched':>12} {'a clip at a time':>18} {'ratio':>8}"]
    lines += [
        f"{row['view']:8} {row['clips']:6d} {row['batched_ms']:9.1f} ms {row['per_clip_ms']:15.1f} ms "
        f"{row['ratio']:7.1f}x"
        for row in found
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write where asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.augment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", type=int, default=128, help="clips in the batch")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of which the median is taken")
    parser.add_argument("--json", type=Path, help="a file for the rows")
    parsed = parser.parse_args(arguments)
    if min(parsed.clips, parsed.rounds) < 1:
        parser.error("--clips and --rounds are at least 1")
    found = rows(parsed.clips, parsed.rounds)
    print(table(found))
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
