"""How clips go through an encoder in pretraining: several views as one batch, and without a trace in its norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mica.models.mica import MICA

Views = Float[Tensor, "S N C T V M"]
Features = Float[Tensor, "S N features"]


def encode(model: MICA, views: Views, precision: torch.dtype) -> Features:
    """Features, in float32 or better, of views that go through the encoder as one batch."""
    with torch.autocast(views.device.type, precision, enabled=precision != torch.float32):
        maps = model.feature_map(views.flatten(0, 1))
    # Outside: autocast would average in half precision.
    features = model.pooled(maps, len(views) * views.shape[1], views.shape[-1])
    return in_full(features).unflatten(0, (len(views), -1))


def in_full(features: Tensor) -> Tensor:
    """The same in float32 or better: at the start all cosines are near .93, finer than bfloat16 tells apart."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms take the statistics of their batch, and their running ones stay as they are."""
    norms = [
        inner for inner in module.modules() if isinstance(inner, _BatchNorm) and inner.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
