"""Gradients by way of a reference: what an operator falls back on where no kernel serves, and for second gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]
"""Of floating-point tensors, some of them None; returns a tensor or several."""


def gradients(
    function: Function, tensors: Sequence[Tensor | None], above: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Of `function`, for each of `tensors`, given those of its results.

    They are themselves differentiable where gradients are recorded. A tensor that is None or does not take part has the
    gradient None.
    """
    record = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = _leaves(tensors, record)
        wanted = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
        pairs = [(y, dy) for y, dy in zip(_several(function(*inputs)), above, strict=True) if y.requires_grad]
        outputs, above = zip(*pairs, strict=True)
        found = torch.autograd.grad(outputs, wanted, above, create_graph=record, allow_unused=True)
    return _spread(found, inputs)


def second_gradients(
    function: Function,
    tensors: Sequence[Tensor | None],
    above: Sequence[Tensor],
    above_those: Sequence[Tensor],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Of `gradients`, for `above` and for `tensors`: right to any order, at the memory that eager mode takes.

    `above_those` belong to the gradients of the tensors that are not None, in their order.
    """
    record = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs, inputs_above = _leaves(tensors, record), _leaves(above, record)
        first = gradients(function, inputs, inputs_above)
        given = [y for y, x in zip(first, inputs, strict=True) if x is not None]
        pairs = [
            (y, dy) for y, dy in zip(given, above_those, strict=True) if y is not None and y.requires_grad
        ]
        outputs, above_those = zip(*pairs, strict=True)
        every = [*inputs_above, *inputs]
        wanted = [tensor for tensor in every if tensor is not None and tensor.requires_grad]
        found = torch.autograd.grad(outputs, wanted, above_those, create_graph=record, allow_unused=True)
    spread = _spread(found, every)
    return spread[: len(above)], spread[len(above) :]


def _leaves(tensors: Sequence[Tensor | None], record: bool) -> list[Tensor | None]:
    """Tensors to differentiate by."""
    return [None if tensor is None else _leaf(tensor, record) for tensor in tensors]


def _leaf(tensor: Tensor, record: bool) -> Tensor:
    """A view keeps the way back to the caller's tensor; what asks for no gradient is made to."""
    if record and tensor.requires_grad:
        return tensor.view_as(tensor)
    return tensor.detach().requires_grad_()


def _several(results: Any) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else tuple(results)


def _spread(found: Sequence[Tensor | None], inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients at the places of the tensors that they belong to."""
    remaining = iter(found)
    return [next(remaining) if tensor is not None and tensor.requires_grad else None for tensor in inputs]
