"""MICA's step, from two views of a batch to gradients: the batch is contrasted whole, however small its parts."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from mica.models.encoding import Features, Views, encode, statistics_kept
from mica.models.method import Around, Method
from mica.models.mica import MICA
from mica.models.momentum import KeyQueue, MomentumEncoder
from mica.objectives import Keys, Objectives
from mica.training.config import MomentumConfig
from mica.transforms.augment import AugmentConfig
from mica_kernels import distributed


class Pretraining(Method):
    """MICA: all that is trained, with the terms of `Objectives` as its output.

    Heads and losses are computed in float32 whatever the encoder computes in.
    """

    def __init__(
        self,
        model: MICA,
        objectives: Objectives,
        precision: torch.dtype,
        momentum: MomentumConfig,
        augment: AugmentConfig,
    ) -> None:
        super().__init__(model, (augment, augment))
        self.objectives, self.precision = objectives, precision
        self.follows = momentum.evaluated
        self.momentum = None if momentum.decay is None else MomentumEncoder(model, momentum.decay)
        self.queue = KeyQueue(momentum.queue, model.projector.out_features)
        # DistributedDataParallel waits for the gradient of whatever asks for one.
        if not objectives.reads_projections:
            model.projector.requires_grad_(False)
        if model.semantic is not None and not objectives.reads_text:
            model.semantic.requires_grad_(False)

    @property
    def evaluated(self) -> MICA:
        return self.momentum.model if self.follows and self.momentum is not None else self.model

    @torch.no_grad()
    def begin(self, parts: Sequence[Views], around: Around) -> None:
        """What the momentum encoder says of the second view."""
        if self.momentum is None or self.objectives.config.instance == 0:
            return
        model, features = self.momentum.model, []
        with (
            self.phase("momentum"),
            statistics_kept(model),
        ):  # its running ones follow those of the model, as its weights do
            for place, part in enumerate(parts):
                around.fix_dropout(-1 - place)
                features.append(encode(model, part[1:], self.precision)[0])
            around.keys["view2"] = F.normalize(model.project(torch.cat(features)), dim=-1)

    def forward(self, views: Views, earlier: Sequence[Features], around: Around) -> dict[str, Tensor]:
        with self.phase("encoder"):
            features = torch.cat([*earlier, self.encode(views)], dim=1)
        with self.phase("losses"):
            return self.losses(features, around)

    def encode(self, views: Views) -> Features:
        """Features of both views, in one pass: a batch norm sees them together."""
        return encode(self.model, views, self.precision)

    def losses(self, features: Features, around: Around) -> dict[str, Tensor]:
        """The terms, from the features of both views of all clips."""
        both = features.flatten(0, 1)
        skeleton = self.model.embed(both) if self.objectives.reads_text else None
        projected = self.model.project(both) if self.objectives.reads_projections else both
        view1, view2 = projected.chunk(2)
        labels, draws = around.labels.repeat(2), copy(around.draws)
        # The queue as it is before this batch joins it.
        keys = Keys(around.keys["view2"], self.queue.real.clone()) if around.keys else None
        return self.objectives(view1, view2, skeleton, labels, draws, keys)

    def follow(self, around: Around, good: Bool[Tensor, ""]) -> None:
        if self.momentum is not None:
            self.momentum.follow(self.model)
        if around.keys:
            self.queue.push(distributed.gather(around.keys["view2"]), good)


class CachedGradients:
    """The part of a step that comes before its last part's: cached gradients of a batch in parts.

    First all parts go through the encoder without a graph; the losses of all features give each feature its gradient;
    then each part but the last goes through again and takes its gradient back through the encoder. The last part, and
    the heads, are left to an ordinary forward and backward pass, in which DistributedDataParallel sees every parameter
    once and joins the gradients of all processes, those gathered here included.

    Source: Gao et al., "Scaling deep contrastive learning batch size under memory limited setup" (RepL4NLP 2021).
    """

    def __init__(self, pretraining: Pretraining) -> None:
        self.pretraining = pretraining

    def backward(self, parts: Sequence[Views], around: Around) -> list[Features]:
        """Gather the gradients of all parts but the last; return their features."""
        module = self.pretraining
        with statistics_kept(module), torch.no_grad():
            features = [self._encode(parts, place, around) for place in range(len(parts))]
        last = len(parts) - 1
        leaves = [part.requires_grad_() for part in features[:last]]
        with statistics_kept(module):
            loss = module.losses(torch.cat([*leaves, features[last]], dim=1), around)["loss"]
        gradients = torch.autograd.grad(loss, leaves)
        for place, gradient in enumerate(gradients):
            torch.autograd.backward(self._encode(parts, place, around), gradient)
        return [part.detach() for part in leaves]

    def _encode(self, parts: Sequence[Views], place: int, around: Around) -> Features:
        around.fix_dropout(place)
        return self.pretraining.encode(parts[place])
