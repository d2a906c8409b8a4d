"""The optimiser and its schedule."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from mica.models.frest import FreST
from mica.training.config import OptimizerConfig


def make_optimizer(modules: nn.Module, config: OptimizerConfig) -> Optimizer:
    """AdamW or SGD; what has no scale to shrink (biases, norms, scalars) and FreST's filters are spared from decay.

    Both are fused: one kernel for all parameters, which can be told on the device to leave a step out.
    """
    spared = {
        id(parameter)
        for module in modules.modules()
        if isinstance(module, FreST)
        for parameter in (*module.gate.parameters(), module.spatial_response)
    }
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for parameter in modules.parameters():
        if parameter.requires_grad:
            (kept if parameter.ndim < 2 or id(parameter) in spared else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    if config.name == "adamw":
        return AdamW(groups, lr=config.lr, fused=True)
    sgd = SGD(groups, lr=config.lr, momentum=0.9, nesterov=True, fused=True)
    for parameter in (*decayed, *kept):
        # From zero the first step is as from none; made by the first step, they would hold anything if it is left out.
        sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def learning_rate(step: int, steps_per_epoch: int, config: OptimizerConfig) -> float:
    """Linear warm-up to `config.lr`; then half a cosine to zero at the last step, or a tenth from each milestone on.

    >>> config = OptimizerConfig(epochs=10, lr=1.0, warmup_epochs=2)
    >>> [round(learning_rate(step, 4, config), 2) for step in (0, 3, 7, 24, 40)]
    [0.12, 0.5, 1.0, 0.5, 0.0]
    >>> config = OptimizerConfig(epochs=300, lr=0.1, warmup_epochs=0, schedule="step", milestones=[250])
    >>> [round(learning_rate(4 * epoch, 4, config), 3) for epoch in (0, 249, 250, 299)]
    [0.1, 0.1, 0.01, 0.01]
    """
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.lr * min(1.0, (step + 1) / warmup)  # a warm-up may end within a step
    if config.schedule == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
        return config.lr * 0.1**passed
    progress = (step - warmup) / max(1.0, config.epochs * steps_per_epoch - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
