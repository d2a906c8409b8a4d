"""What the tests of the kernels share: an error budget, and memory that shows what was not written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mica_kernels import registration
from mica_kernels.contrastive import configs as contrastive_configs
from mica_kernels.contrastive import op as contrastive_op
from mica_kernels.launch import Variant
from mica_kernels.spectral import configs, op, reference
from tests.mica_kernels import contrastive_cases
from tests.mica_kernels.contrastive_cases import differentiate as of_loss
from tests.mica_kernels.lanes import DEVICE, Poisoned, Results

_TOLD: dict[str, tuple[Callable[[], None], str]] = {
    "nothing": (lambda: None, "tf32x3"),
    "highest": (lambda: torch.set_float32_matmul_precision("highest"), "tf32x3"),
    "high": (lambda: torch.set_float32_matmul_precision("high"), "tf32"),
    "medium": (lambda: torch.set_float32_matmul_precision("medium"), "tf32"),
    "allow_tf32": (lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True), "tf32"),
    "everywhere ieee": (lambda: setattr(torch.backends, "fp32_precision", "ieee"), "tf32x3"),
    "everywhere tf32": (lambda: setattr(torch.backends, "fp32_precision", "tf32"), "tf32"),
    "products ieee": (lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee"), "tf32x3"),
    "products tf32": (lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"), "tf32"),
}


@pytest.fixture(scope="session")
def within() -> Callable[..., None]:
    """Check that |fused - exact64| <= 2 |eager - exact64| + slack, in norms over each of the results."""
    return _within


@pytest.fixture(scope="session")
def differentiate() -> Callable[..., Results]:
    """Compute y and the gradients for dy, by name."""
    return _differentiate


@pytest.fixture(scope="session")
def check_budget() -> Callable[..., None]:
    """Check the spectral gate: |fused - exact64| <= 2 |eager - exact64| + unit * size.

    eager is the reference in the dtype of x, which works in float32 and rounds half precisions at its ends only.
    Matrix units take operands that are rounded to the last place of the dtype, the `unit`, so no use of them could do
    without the second term. Sizes are those of what a result is made of, as its rounding errors are: the result
    itself can be smaller, by what the gate takes off or by columns that cancel in a parameter's gradient.
    """
    return _check_budget


@pytest.fixture(scope="session")
def poisoned() -> Poisoned:
    """Within this context the kernels' memory is full of NaN, and writing outside of their results is an error."""
    return _poisoned


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a program in a process of its own, with more in its environment; its output."""

    def run(program: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=300,
            env={**os.environ, **environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 32 rows and 16 columns: a few rows make several."""
    monkeypatch.setattr(contrastive_configs, "launch", lambda *key: contrastive_cases.SMALL)


@pytest.fixture(scope="session")
def check_loss(
    within: Callable[..., None], poisoned: Poisoned
) -> Callable[[Callable[..., Tensor], contrastive_cases.Case, torch.dtype], Results]:
    """Compute a loss and its gradients with the kernels and hold them against the budget."""

    def check(loss: Callable[..., Tensor], case: contrastive_cases.Case, dtype: torch.dtype) -> Results:
        query, key, options = getattr(case, loss.__name__)(dtype)
        scale = torch.tensor(case.scale, device=DEVICE)
        with poisoned():
            fused = of_loss(partial(loss, impl="triton"), query, key, scale, case.above, **options)
        eager = of_loss(partial(loss, impl="reference"), query, key, scale, case.above, **options)
        unit = torch.finfo(torch.promote_types(query.dtype, key.dtype)).eps
        exact, slack = contrastive_cases.definition(
            query, key, scale=scale, unit=unit, above=case.above, **options
        )
        within(fused, eager, exact, slack)
        return fused

    return check


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Variant]:
    """What is launched, in order, but for the last sum of the backward pass."""
    variants = []
    for family in (configs, contrastive_configs):

        def record(*arguments: Any, make: Callable[..., Variant] = family.variant) -> Variant:
            variants.append(make(*arguments))
            return variants[-1]

        monkeypatch.setattr(family, "variant", record)
    return variants


@pytest.fixture(params=_TOLD)
def told(request: pytest.FixtureRequest) -> Iterator[str]:
    """PyTorch is told how exactly to multiply float32, in each of the ways there are; what kernels then do."""
    tell, precision = _TOLD[request.param]
    tell()
    yield precision
    # Back to where a process starts, with nothing set in either way.
    torch.backends.fp32_precision = "none"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.fp32_precision = "none"


def _differentiate(
    gate: Callable[..., Tensor],
    x: Tensor,
    weight: Tensor,
    threshold: Tensor | None,
    sparsity: str,
    dy: Tensor,
) -> Results:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    leaves = {"dx": x, "dweight": weight}
    if threshold is not None:
        threshold = leaves["dthreshold"] = threshold.detach().requires_grad_()
    y = gate(x, weight, threshold, sparsity=sparsity)
    gradients = torch.autograd.grad(y, list(leaves.values()), dy)
    return {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}


def _check_budget(
    fused: Results,
    x: Tensor,
    weight: Tensor,
    threshold: Tensor | None,
    sparsity: str,
    dy: Tensor,
    unit: float | None = None,
) -> None:
    if unit is None:
        # On a GPU float32 is cut in two numbers of tf32, and the product of the lower ones is left out: 21 bits remain.
        unit = 2**-21 if x.is_cuda and x.dtype == torch.float32 else torch.finfo(x.dtype).eps
    eager = _differentiate(reference.spectral_gate, x, weight, threshold, sparsity, dy)
    doubles = x.double(), weight.double(), None if threshold is None else threshold.double()
    exact = _differentiate(reference.spectral_gate, *doubles, sparsity, dy.double())
    sizes = _sizes(*doubles, sparsity, dy.double())
    _within(fused, eager, exact, {name: unit * size for name, size in sizes.items()})


def _within(fused: Results, eager: Results, exact: Results, slack: dict[str, float]) -> None:
    assert fused.keys() == exact.keys()
    for name, result in fused.items():
        assert (result.shape, result.dtype) == (eager[name].shape, eager[name].dtype), name
        error = _norm(result.double() - exact[name])
        budget = 2 * _norm(eager[name].double() - exact[name]) + slack[name]
        if not error <= budget:  # nor is a NaN
            size = _norm(exact[name])
            raise AssertionError(
                f"{name}, of size {size:.3g}, is off by {error:.3g}, and may be by {budget:.3g}"
            )


def _sizes(
    x: Tensor, weight: Tensor, threshold: Tensor | None, sparsity: str, dy: Tensor
) -> dict[str, float]:
    """What the results are made of: the signals as they are without a gate, and the columns' parts of the gradients."""
    clips, channels, frames, joints = x.shape

    def each(parameter: Tensor) -> Tensor:
        """A copy for every channel of every clip."""
        per_channel = parameter.repeat_interleave(channels // len(parameter), dim=0)
        return per_channel.repeat(clips, *[1] * (parameter.ndim - 1))

    columns = [signal.reshape(1, clips * channels, frames, joints) for signal in (x, dy)]
    parts = _differentiate(reference.spectral_gate, columns[0], each(weight), None, sparsity, columns[1])
    sizes = {name: _norm(part) for name, part in parts.items()}
    if threshold is not None:
        limits = each(threshold if threshold.ndim == 2 else threshold[:, None].expand(-1, joints))
        parts = _differentiate(
            reference.spectral_gate, columns[0], each(weight), limits, sparsity, columns[1]
        )
        # A product of dy with a signal of mean square 1: errors are as large as dy even where they are orthogonal.
        sizes["dthreshold"] = _norm(dy) + _norm(parts["dthreshold"])
    return sizes


def _norm(tensor: Tensor) -> float:
    return torch.linalg.vector_norm(tensor.double()).item()


class _GuardedTorch:
    """`torch`, but that its empty tensors are full of NaN and lie between guards."""

    GUARD = 64  # elements, so that a tensor is as aligned as any
    SENTINEL = 1234.0

    def __init__(self) -> None:
        self.storages: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty_like(self, like: Tensor) -> Tensor:
        return self._guarded(torch.empty_like(like))

    def empty(self, *shape: Any, **options: Any) -> Tensor:
        return self._guarded(torch.empty(*shape, **options))

    def _guarded(self, tensor: Tensor) -> Tensor:
        storage = tensor.new_full((tensor.numel() + 2 * self.GUARD,), self.SENTINEL)
        storage[self.GUARD : -self.GUARD] = torch.nan
        self.storages.append(storage)
        return storage.as_strided(tensor.shape, tensor.stride(), self.GUARD)

    def check(self) -> None:
        for storage in self.storages:
            guards = torch.cat([storage[: self.GUARD], storage[-self.GUARD :]])
            assert (guards == self.SENTINEL).all(), "a kernel has written outside of its tensor"


@contextmanager
def _poisoned() -> Iterator[None]:
    guarded = _GuardedTorch()
    with pytest.MonkeyPatch.context() as patch:
        for module in (op, contrastive_op, registration):
            patch.setattr(module, "torch", guarded)
        # This fills memory that is not got through their `torch`, too.
        assert torch.utils.deterministic.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
    assert guarded.storages
    guarded.check()
