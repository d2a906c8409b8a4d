"""The optimiser and its schedule."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW

from mica.models.frest import FreST
from mica.training.config import OptimizerConfig


def make_optimizer(modules: nn.ModuleList, config: OptimizerConfig) -> AdamW:
    """AdamW; what has no scale to shrink (biases, norms, scalars) and FreST's filters are spared from decay."""
    spared = {
        id(parameter)
        for module in modules.modules()
        if isinstance(module, FreST)
        for parameter in (*module.gate.parameters(), module.spatial_response)
    }
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in modules.parameters():
        (kept if parameter.ndim < 2 or id(parameter) in spared else decayed).append(parameter)
    return AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        lr=config.lr,
    )


def learning_rate(step: int, steps_per_epoch: int, config: OptimizerConfig) -> float:
    """Linear warm-up to `config.lr`, then half a cosine to zero at the last step.

    >>> config = OptimizerConfig(epochs=10, lr=1.0, warmup_epochs=2)
    >>> [round(learning_rate(step, 4, config), 2) for step in (0, 3, 7, 24, 40)]
    [0.12, 0.5, 1.0, 0.5, 0.0]
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1.0, config.epochs * steps_per_epoch - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
