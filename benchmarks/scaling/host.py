"""What is measured on this machine."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.memory import peak
from benchmarks.scaling.corpus import feature_width, knn_operations, store_of
from benchmarks.scaling.plan import Plan, gigabytes, table
from mica.data.dataset import SkeletonDataset
from mica.data.sampler import GlobalBatchSampler
from mica.data.store import Store
from mica.evaluation.neighbours import nearest
from mica.training.config import PretrainConfig
from mica.training.environment import device_name
from mica.training.parts import choose_parts
from mica.transforms.sampling import Preprocessing


def host_table(plan: Plan, few: int = 20_000) -> str:
    """What each process does on its cores; of few clips, and what that comes to for all in proportion."""
    with store_of(few) as store:
        parts = choose_parts(PretrainConfig(), store)
        fit = len(parts.pretrain)
        opened, opened_bytes = _timed(lambda: Store.open(store.path))
        chosen, chosen_bytes = _timed(lambda: choose_parts(PretrainConfig(), store))
        known, known_bytes = _timed(lambda: replace(parts).fingerprint)  # kept by each
    order = GlobalBatchSampler(plan.clips, plan.batch, seed=0)
    ordered, _ = _timed(lambda: next(iter(order)))
    order_bytes = peak(lambda: next(iter(order)))
    read, rate = _reading_rate(int(plan.frames)), _matching_rate()

    def line(what: str, seconds: float, size: float, clips: int) -> list[str]:
        times = plan.clips / clips
        of_few = f"{1e3 * seconds:.1f} ms, {size / clips:.0f} B a clip"
        return [what, of_few, f"{times * seconds:.1f} s, {gigabytes(times * size)}"]

    hours = knn_operations(plan.clips) / rate / 3600
    lines = [
        line(f"open a store of {few:,} clips", opened, opened_bytes, few),
        line("choose those to train on", chosen, chosen_bytes, few),
        line(f"fingerprint of {fit:,}, once", known, known_bytes, fit),
        [f"order of an epoch of {plan.clips:,}", f"{ordered:.1f} s, {order_bytes / 1e9:.2f} GB", "the same"],
        [f"read clips of {plan.frames:g} frames, in memory already", f"{read:,.0f} clips/s", ""],
        ["nearest neighbours of the running kNN", f"{rate / 1e9:.0f} Gflop/s", f"{hours:,.0f} h each time"],
    ]
    where = (
        f"**{device_name(torch.device('cpu'))}**, {torch.get_num_threads()} threads, PyTorch {_version()}."
    )
    return f"{where}\n\n{table(('what', 'measured', f'in proportion, {plan.clips:,} clips'), lines)}"


def _timed(work: Callable[[], Any], runs: int = 3) -> tuple[float, int]:
    """Seconds of the fastest run; and the most bytes that Python and NumPy had beyond those before it."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(times), most


def _reading_rate(frames: int, clips: int = 2048, batch: int = 256) -> float:
    """Clips a second that one process reads in random order."""
    with store_of(clips, frames) as store:
        dataset = SkeletonDataset(store, range(clips), Preprocessing())
        order = np.random.default_rng(0).permutation(clips).reshape(-1, batch)
        return clips / _timed(lambda: [dataset.__getitems__(each) for each in order])[0]


def _matching_rate(queries: int = 2048, gallery: int = 4096) -> float:
    """Operations a second of `nearest`, two for each number that is compared."""
    asked, among = torch.randn(queries, feature_width()), torch.randn(gallery, feature_width())
    return 2 * queries * gallery * feature_width() / _timed(lambda: nearest(asked, among, 1))[0]


def _version() -> str:
    return torch.__version__.partition("+")[0]
