"""From a configuration to the method that is trained: MICA, or one of the classics that it is measured against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mica.models.baselines import STREAMS, AimCLR, CrosSCLR, Setup, SkeletonCLR, Supervised
from mica.models.method import Method
from mica.models.mica import MICA
from mica.objectives import Objectives
from mica.training.config import PretrainConfig
from mica.training.step import Pretraining


def make_method(
    config: PretrainConfig,
    build: Callable[[int], MICA],
    texts: Float[Tensor, "K W D"] | None,
    precision: torch.dtype,
) -> Method:
    """Return the configured method with fresh models, as `build` makes each for its place among them."""
    model, momentum = build(0), config.momentum
    if config.method == "mica":
        objectives = Objectives(config.objectives, texts, model.required_card("trained").seen_classes)
        return Pretraining(model, objectives, precision, momentum, config.augment)
    if config.method == "supervised":
        return Supervised(model, len(model.card.class_names), config.augment, precision)
    assert momentum.decay is not None  # as check_config has seen to
    setup = Setup(momentum.decay, momentum.queue, config.baseline, config.augment, precision)
    if config.method == "crossclr":
        return CrosSCLR([model, *(build(place) for place in range(1, len(STREAMS)))], setup)
    return {"skeletonclr": SkeletonCLR, "aimclr": AimCLR}[config.method](model, setup)
