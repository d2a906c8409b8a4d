"""Made-up features, of which every test knows what is in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from mica.evaluation.features import SplitFeatures

MakeFeatures = Callable[..., SplitFeatures]

CLASSES, WIDTH = 4, 6


def blobs(clips: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Clips of `CLASSES` classes around centres that all seeds share, features of very different scales."""
    centres = torch.randn(CLASSES, WIDTH, generator=Generator().manual_seed(99))
    labels = torch.arange(clips) % CLASSES
    x = centres[labels] + spread * torch.randn(clips, WIDTH, generator=Generator().manual_seed(seed))
    return x * torch.logspace(-2, 2, WIDTH), labels


@pytest.fixture(scope="session")
def made_up() -> MakeFeatures:
    """Make features of 36 clips to fit, 12 to validate, 24 to test; classes overlap the more the larger `spread`."""

    def make(seed: int = 0, spread: float = 1.0) -> SplitFeatures:
        train, test = blobs(48, spread, seed), blobs(24, spread, seed + 1)
        return SplitFeatures(*train, torch.arange(48) % 16 < 12, *test)

    return make
