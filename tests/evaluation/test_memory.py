"""What the protocols hold in memory, in multiples of the features: those of NTU-120 take more than a gigabyte."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mica.evaluation import knn, retrieval
from mica.evaluation.features import SplitFeatures
from mica.evaluation.linear import fit_logistic, fit_sgd
from mica.evaluation.neighbours import nearest

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = ("a", "b", "c")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

BLOCK = 128  # of neighbours, so that tiles are as small beside these features as they are beside large ones

MEASURE = """
import re
from functools import partial
from pathlib import Path
import torch
from mica.evaluation.features import SplitFeatures

def bytes_of(what):
    return 1024 * int(re.search(rf"{what}:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def measure(function, clips, width):
    function(torch.randn(60, 8))  # what the libraries take for themselves when they first run
    before = bytes_of("VmRSS")
    function(torch.randn(clips, width))
    print((bytes_of("VmHWM") - before) / (clips * width * 4))

"""

PROTOCOLS = f"""
from mica.evaluation import knn, linear, retrieval

linear.fit_sgd = partial(linear.fit_sgd, epochs=1)
knn.nearest = retrieval.nearest = partial(knn.nearest, block={BLOCK})

def evaluate(x):
    half, labels = len(x) // 2, torch.arange(len(x)) % 3
    for row, label in zip(x, labels):
        row[label] += 9
    fit = torch.arange(half) % 5 > 0
    features = SplitFeatures(x[:half], labels[:half], fit, x[half:], labels[half:])
    knn.knn_scores({{"pooled": features}}, "abc")
    retrieval.retrieval_scores(features, "abc")
    linear.linear_scores(features, "abc", seeds=(0, 1))

measure(evaluate, 2000, 4096)
"""

TILES = """
from mica.evaluation.neighbours import nearest

measure(lambda x: nearest(x, x[:600], 20, block=512), 60_000, 128)
"""


def peak(code: str, **environment: str) -> float:
    """The most that `code` held in a process of its own, in multiples of the features."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURE + code],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return float(result.stdout)


@linux
def test_peaks_at_about_twice_the_features() -> None:
    """The features, a copy of the training part where validation chooses, and one of its larger share, scaled."""
    # So that the C library hands back at once whatever is as large as features, not only what is above 32 MiB.
    assert 1.0 <= peak(PROTOCOLS, MALLOC_MMAP_THRESHOLD_="1000000") < 2.4


@linux
def test_tiles_come_and_go_where_the_last_ones_were() -> None:
    """What is kept of a tile must not lie in its place, or the next one takes new memory, and in the end all do."""
    assert 1.0 <= peak(TILES) < 1.9


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returned in float64, and in any type."""

    def __init__(self) -> None:
        super().__init__()
        self.double = self.any = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for found in out if isinstance(out, tuple | list) else (out,):
            if isinstance(found, Tensor):
                self.any = max(self.any, found.numel())
                if found.dtype == torch.float64:
                    self.double = max(self.double, found.numel())
        return out


def test_nothing_of_the_features_size_is_float64_nor_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (knn, retrieval):
        monkeypatch.setattr(module, "nearest", partial(nearest, block=BLOCK))
    labels = torch.arange(4000) % 3
    x = torch.randn(4000, 32, generator=Generator().manual_seed(0)) + F.one_hot(labels, 32)
    train, labels, test, truth = x[:3500], labels[:3500], x[3500:], labels[3500:]
    features = SplitFeatures(train, labels, torch.arange(3500) > 250, test, truth)
    with Largest() as largest:
        knn.knn_scores({"pooled": features}, NAMES)
        retrieval.retrieval_scores(features, NAMES)
        fit_sgd(train, labels, 3, lr=0.01, epochs=1).predict(test)
        fit_logistic(train, labels, 3, inverse_penalty=0.1).predict(test)
    assert 0 < largest.double < train.numel() / 3
    assert largest.any < len(train) * len(test) / 10


def test_logistic_regression_copies_no_features() -> None:
    """scikit-learn's own copies are NumPy's, which tracemalloc sees; the scaled features are PyTorch's."""
    wide = torch.randn(1000, 2000, generator=Generator().manual_seed(1))
    tracemalloc.start()
    try:
        fit_logistic(wide, torch.arange(1000) % 3, 3, inverse_penalty=1e-4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * wide.numel() * 4
