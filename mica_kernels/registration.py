"""Operators as PyTorch wants them: known to autograd, to any order, to torch.compile and to torch.export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mica_kernels.derivatives import gradients, second_gradients


def register(
    schema: str,
    *,
    run: Callable[..., Any],
    backward: Callable[..., Sequence[Tensor | None]],
    reference: Callable[..., Any],
    served: Callable[..., bool],
    fake: Callable[..., Any],
    leaves: Sequence[int],
    kept: Sequence[int] = (),
) -> None:
    """Make `run` the operator mica_kernels::`schema`, and `backward` one of the same name and _backward.

    Args:
        run, reference, fake, served: take the arguments of the schema. reference has the same results as `run`, fake
            gives empty ones of the same shapes; where an operator that was called by name is not `served`, and for
            second gradients, autograd goes through the reference.
        backward: takes the gradients of the results, the arguments, the results at `kept`, and which gradients are
            wanted; gives those of the leaves, laid out as torch.empty_like(leaf), and None for others.
        leaves: places of the arguments that have gradients.
        kept: places of the results that are saved for the backward pass, beside the arguments.
    """
    name, _, signature = schema.partition("(")
    arguments, _, results = signature.partition(") -> ")
    result_count = results.count("Tensor")

    def function_of_leaves(inputs: Sequence[Any]) -> Callable[..., Any]:
        def function(*tensors: Tensor | None) -> Any:
            found = dict(zip(leaves, tensors, strict=True))
            return reference(*(found.get(place, value) for place, value in enumerate(inputs)))

        return function

    def spread(found: Sequence[Tensor | None], wanted: Sequence[bool], count: int) -> list[Tensor | None]:
        """The gradients of the leaves among those of all arguments."""
        by_place = {
            place: gradient for place, gradient, wants in zip(leaves, found, wanted, strict=True) if wants
        }
        return [by_place.get(place) for place in range(count)]

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = (output,) if isinstance(output, Tensor) else output
        _save(ctx, [*inputs, *(outputs[place] for place in kept)])

    def gradient(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        saved = _saved(ctx)
        inputs = saved[: len(saved) - len(kept)]
        wanted = [ctx.needs_input_grad[place] for place in leaves]
        if served(*inputs):
            found = operator_backward(*above, *saved, wanted)
        else:
            found = gradients(function_of_leaves(inputs), [inputs[place] for place in leaves], above)
        return tuple(spread(found, wanted, len(inputs)))

    def run_backward(*given: Any) -> tuple[Tensor, ...]:
        above, inputs, results, wanted = divide(given)
        found = backward(above, inputs, results, wanted)
        return tuple(inputs[leaves[0]].new_empty(0) if one is None else one for one in found)

    def fake_backward(*given: Any) -> tuple[Tensor, ...]:
        _, inputs, _, wanted = divide(given)
        return tuple(
            torch.empty_like(inputs[place]) if wants else inputs[leaves[0]].new_empty(0)
            for place, wants in zip(leaves, wanted, strict=True)
        )

    def divide(given: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any], Sequence[bool]]:
        *tensors, wanted = given
        end = len(tensors) - len(kept)
        return tensors[:result_count], tensors[result_count:end], tensors[end:], wanted

    def keep_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _save(ctx, inputs)

    def second_gradient(ctx: Any, *above_those: Tensor) -> tuple[Tensor | None, ...]:
        above, inputs, results, wanted = divide(_saved(ctx))
        tensors = [inputs[place] for place in leaves]
        given = [
            gradient if wants else torch.zeros_like(leaf)
            for gradient, leaf, wants in zip(above_those, tensors, wanted, strict=True)
            if leaf is not None
        ]
        for_above, found = second_gradients(function_of_leaves(inputs), tensors, above, given)
        every = [True] * len(leaves)
        return (*for_above, *spread(found, every, len(inputs)), *(None for _ in results), None)

    full = f"mica_kernels::{name}"
    gradients_above = ", ".join(f"Tensor above{place}" for place in range(result_count))
    kept_results = "".join(f"Tensor result{place}, " for place in kept)
    tuple_of_leaves = ", ".join("Tensor" for _ in leaves)
    _define(f"{full}({arguments}) -> {results}", run, fake, keep, gradient)
    _define(
        f"{full}_backward({gradients_above}, {arguments}, {kept_results}bool[] wanted) -> ({tuple_of_leaves})",
        run_backward, fake_backward, keep_backward, second_gradient,
    )  # fmt: skip
    operator_backward = getattr(torch.ops.mica_kernels, f"{name}_backward")


def gradient_like(gradient: Tensor, leaf: Tensor) -> Tensor:
    """A gradient in the type and memory format of what it belongs to, as `fake_backward` promises."""
    if gradient.dtype == leaf.dtype and gradient.is_contiguous() and leaf.is_contiguous():
        return gradient
    return torch.empty_like(leaf).copy_(gradient)


def _define(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    keep: Callable[..., None],
    gradient: Callable[..., Any],
) -> None:
    name = schema.partition("(")[0]
    torch.library.define(name, schema.removeprefix(name))
    torch.library.impl(name, ("cpu", "cuda"), run)
    torch.library.register_fake(name, fake)
    torch.library.register_autograd(name, gradient, setup_context=keep)


def _save(ctx: Any, values: Sequence[Any]) -> None:
    """Tensors where autograd looks after them, and the rest."""
    ctx.rest = [None if isinstance(value, Tensor) else value for value in values]
    ctx.places = [place for place, value in enumerate(values) if isinstance(value, Tensor)]
    ctx.save_for_backward(*(values[place] for place in ctx.places))


def _saved(ctx: Any) -> list[Any]:
    values = list(ctx.rest)
    for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
        values[place] = tensor
    return values
