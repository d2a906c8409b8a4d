"""What the steps gave, read so late that the host never waits for a GPU; and the guard against what is not finite."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.optim import Optimizer

DELAY = 8
"""Steps by which a GPU's values are read late: the host may be this far ahead."""


@dataclass(frozen=True)
class StepValues:
    """The terms of a step, and whatever else was watched, by name."""

    step: int
    values: dict[str, float]

    def broken(self) -> str | None:
        """The first value that is not finite; the loss, which only sums others up, comes last."""
        names = [name for name, value in self.values.items() if not math.isfinite(value)]
        return min(names, key=lambda name: name == "loss", default=None)


class Monitor:
    """Takes the values of each step where they are and gives them as numbers, in order, `delay` steps later.

    >>> monitor = Monitor(torch.device("cpu"))
    >>> list(monitor.push(0, {"loss": torch.tensor(2.0)}))
    [StepValues(step=0, values={'loss': 2.0})]
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.delay = DELAY if device.type == "cuda" else 0
        self._under_way: deque[tuple[int, tuple[str, ...], Tensor, Any]] = deque()

    def push(self, step: int, values: dict[str, Tensor]) -> Iterator[StepValues]:
        """Take a step's values; yield those of the step that is old enough."""
        stacked, event = torch.stack([value.detach().float() for value in values.values()]), None
        if self.device.type == "cuda":
            arriving = torch.empty(len(stacked), pin_memory=True)
            stacked = arriving.copy_(stacked, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._under_way.append((step, tuple(values), stacked, event))
        while len(self._under_way) > self.delay:
            yield self._oldest()

    def drain(self) -> Iterator[StepValues]:
        """Yield all that is left, waiting for it."""
        while self._under_way:
            yield self._oldest()

    def _oldest(self) -> StepValues:
        step, names, values, event = self._under_way.popleft()
        if event is not None:
            event.synchronize()
        return StepValues(step, dict(zip(names, values.tolist(), strict=True)))


class StepGuard:
    """Leaves a step out on the device where its loss or gradient is not finite: weights, moments and buffers stay.

    Args:
        optimizer: a fused one, which takes its order not to step as a tensor.
        modules: whose buffers a step changes; none where the first such step ends the run anyway.
    """

    def __init__(self, optimizer: Optimizer, modules: Iterable[nn.Module]) -> None:
        self.optimizer = optimizer
        self._buffers = [buffer for module in modules for buffer in module.buffers()]
        self._before = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def remember(self) -> None:
        """Before a step."""
        if self._buffers:
            torch._foreach_copy_(self._before, self._buffers)

    @torch.no_grad()
    def step(self, loss: Tensor, gradient_norm: Tensor) -> Bool[Tensor, ""]:
        """Step where both are finite, else go back; returns which, on the device."""
        good = loss.isfinite() & gradient_norm.isfinite()
        self.optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]  # as GradScaler tells fused optimisers
        self.optimizer.step()
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(torch.where(good, buffer, before))
        return good
