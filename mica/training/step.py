"""From two views of a batch to gradients: the contrastive batch stays whole, however few clips the encoder takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mica.models.mica import MICA
from mica.objectives import Keys, Objectives
from mica.training.phases import Phases
from mica.transforms.draws import Draws

Views = Float[Tensor, "2 N C T V M"]
Features = Float[Tensor, "2 N features"]


@dataclass
class Around:
    """What the losses of a batch need beside its features."""

    labels: Int[Tensor, " N"]
    draws: Draws
    keys: Keys | None = None


class Pretraining(nn.Module):
    """All that is trained, with the losses as its output: what DistributedDataParallel wraps.

    Heads and losses are computed in float32 whatever the encoder computes in: at the start all cosines are near .93,
    finer than bfloat16 tells apart.
    """

    def __init__(self, model: MICA, objectives: Objectives, precision: torch.dtype, phases: Phases) -> None:
        super().__init__()
        self.model, self.objectives = model, objectives
        self.precision, self.phases = precision, phases
        # DistributedDataParallel waits for the gradient of whatever asks for one.
        if not objectives.reads_projections:
            model.projector.requires_grad_(False)
        if model.semantic is not None and not objectives.reads_text:
            model.semantic.requires_grad_(False)

    def forward(self, views: Views, earlier: Sequence[Features], around: Around) -> dict[str, Tensor]:
        """The terms of a batch: `views` are its last part, `earlier` the features of those before."""
        with self.phases("encoder"):
            features = torch.cat([*earlier, self.encode(views)], dim=1)
        with self.phases("losses"):
            return self.losses(features, around)

    def encode(self, views: Views) -> Features:
        """Features of both views, in one pass: a batch norm sees them together."""
        return encode(self.model, views, self.precision)

    def losses(self, features: Features, around: Around) -> dict[str, Tensor]:
        both = features.flatten(0, 1)
        skeleton = self.model.embed(both) if self.objectives.reads_text else None
        projected = self.model.project(both) if self.objectives.reads_projections else both
        view1, view2 = projected.chunk(2)
        labels, draws = around.labels.repeat(2), copy(around.draws)
        return self.objectives(view1, view2, skeleton, labels, draws, around.keys)


def encode(model: MICA, views: Float[Tensor, "2 N C T V M"], precision: torch.dtype) -> Features:
    """Features, in float32 or better, of views that go through the encoder as one batch."""
    with torch.autocast(views.device.type, precision, enabled=precision != torch.float32):
        features = model.features(views.flatten(0, 1))
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features.unflatten(0, (len(views), -1))


class CachedGradients:
    """The part of a step that comes before its last part's: cached gradients of a batch in parts.

    First all parts go through the encoder without a graph; the losses of all features give each feature its gradient;
    then each part but the last goes through again and takes its gradient back through the encoder. The last part, and
    the heads, are left to an ordinary forward and backward pass, in which DistributedDataParallel sees every parameter
    once and joins the gradients of all processes, those gathered here included.

    Source: Gao et al., "Scaling deep contrastive learning batch size under memory limited setup" (RepL4NLP 2021).

    Args:
        seeds: (seed, step, rank): with the number of the part they fix what dropout draws in both passes.
    """

    def __init__(self, pretraining: Pretraining, seeds: tuple[int, int, int]) -> None:
        self.pretraining, self.seeds = pretraining, seeds

    def backward(self, parts: Sequence[Views], around: Around) -> list[Features]:
        """Gather the gradients of all parts but the last; return their features."""
        module = self.pretraining
        with statistics_kept(module), torch.no_grad():
            features = [self._encode(parts, place) for place in range(len(parts))]
        last = len(parts) - 1
        leaves = [part.requires_grad_() for part in features[:last]]
        with statistics_kept(module):
            loss = module.losses(torch.cat([*leaves, features[last]], dim=1), around)["loss"]
        gradients = torch.autograd.grad(loss, leaves)
        for place, gradient in enumerate(gradients):
            torch.autograd.backward(self._encode(parts, place), gradient)
        return [part.detach() for part in leaves]

    def _encode(self, parts: Sequence[Views], place: int) -> Features:
        fix_dropout(*self.seeds, place)
        return self.pretraining.encode(parts[place])


def fix_dropout(seed: int, step: int, rank: int, part: int) -> None:
    """Have what follows draw what these four say, on every device: no generator carries a state from step to step."""
    digest = hashlib.blake2b(f"{seed} {step} {rank} {part}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest) >> 1)


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
