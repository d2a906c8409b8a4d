"""What a benchmark has to know of an operator: inputs at named sizes, implementations, what is right, what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Function, Part, Slot
from benchmarks.results import Row


class LeftOutError(Exception):
    """Why an implementation is not run on a case here: it does not fit, or what it needs is not installed."""


class WrongResultError(ArithmeticError):
    """What an implementation gives is not what it should be."""


@dataclass(frozen=True)
class Work:
    """The bytes to and from memory that a mode cannot avoid, and the operations of its products."""

    bytes: int
    flops: int


Make = Callable[[], Function]
"""Makes an implementation, or raises LeftOutError."""


@dataclass(frozen=True)
class Operator:
    """An operator of the suite. A case is a dataclass of plain values with a `name` and a `dtype`.

    cases, cpu_cases: for a GPU and for a CPU, the most telling first; quick: the names of those of a quick run.
    slots: several sets of random inputs. exact: the result, as y, and the gradients, in float64, of a set.
    check: errors over sizes; raises WrongResultError where one is too large. implementations: by name, ours first.
    work: by mode. aims: what was aimed for and whether the rows reach it, a line each.
    fallback: the implementation that our operator comes to where none made for the device serves. floor: what is timed
    beside them, of a forward pass, as the copy that none can beat. other_exact: `exact` of what computes something
    else.
    """

    name: str
    cases: tuple[Any, ...]
    cpu_cases: tuple[Any, ...]
    quick: frozenset[str]
    slots: Callable[[Any, torch.device], list[Slot]]
    exact: Callable[[Any, Slot], dict[str, Tensor]]
    check: Callable[[Any, dict[str, Tensor], dict[str, Tensor]], dict[str, float]]
    implementations: Callable[[Any, torch.device], dict[str, Make]]
    work: Callable[[Any, str], Work]
    aims: Callable[[Sequence[Row]], list[str]]
    fallback: str
    floor: Callable[[Sequence[Slot]], Part] | None = None
    other_exact: Mapping[str, Callable[[Any, Slot], dict[str, Tensor]]] = field(default_factory=dict)

    def chosen(self, device: torch.device, quick: bool, names: Sequence[str]) -> list[Any]:
        """The cases of these names, in any device's; else those of a run on the device."""
        if names:
            return [case for case in dict.fromkeys((*self.cases, *self.cpu_cases)) if case.name in names]
        mine = self.cases if device.type == "cuda" else self.cpu_cases
        return [case for case in mine if case.name in self.quick] if quick else list(mine)


def within(errors: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    """The errors over sizes; raises WrongResultError where one is too large."""
    wrong = [
        f"{name} is off by {error:.2g} of its size, and may be by {limits[name]:.2g}"
        for name, error in errors.items()
        if not error <= limits[name]  # nor is a NaN
    ]
    if wrong:
        raise WrongResultError("; ".join(wrong))
    return errors


def fused(function: Function, device: torch.device) -> Make:
    """The kernel of an operator of ours, where this device has one; see `mica_kernels.backend`."""

    def make() -> Function:
        if device.type == "cpu":
            raise LeftOutError("the kernel needs a GPU")
        return function

    return make


def compiled(function: Function) -> Make:
    """An implementation by torch.compile, for the shapes at hand."""

    def make() -> Function:
        torch.compiler.reset()
        return torch.compile(function, dynamic=False)

    return make
