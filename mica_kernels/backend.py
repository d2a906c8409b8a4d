"""Which implementation of an operator runs, and why.

An operator asks `choose` at every call. The caller's `impl=` decides; where that is "auto", the environment
variable MICA_KERNELS_IMPL decides; where that is unset or "auto" too, the kernel ("triton") runs where it serves the
tensors, and the reference elsewhere; on a CPU `spectral_gate` takes short signals by products of matrices ("dense").
The kernel runs on a CPU only on demand, in Triton's interpreter (TRITON_INTERPRET=1).

The losses have no dense form: impl="dense" is an error there. MICA_KERNELS_IMPL=dense, which speaks to every operator
of a process, they take for "auto".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mica_kernels import device as devices
from mica_kernels.contrastive import configs as contrastive
from mica_kernels.spectral import configs as spectral

OPERATORS = ("spectral_gate", "info_nce", "similarity_kl")
IMPLEMENTATIONS = ("auto", "reference", "dense", "triton")
DENSE = ("spectral_gate",)
"""The operators with the implementation of this name."""

VARIABLE = "MICA_KERNELS_IMPL"

OLDEST = (8, 0)
"""The compute capability from which on a GPU has bfloat16 and tf32 matrix units."""


_Decide = TypeVar("_Decide", bound=Callable[..., object])


def _constant(decide: _Decide) -> _Decide:
    """torch.compiler.assume_constant_result without importing the compiler, which takes seconds: this is its mark."""
    decide._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return decide


@dataclass(frozen=True)
class Choice:
    """The implementation that runs, "none" where a demand cannot be met, and the reason in words."""

    impl: str
    reason: str


def choose(operator: str, *tensors: Tensor, impl: str = "auto") -> Choice:
    """Decide which implementation of `operator` runs on `tensors`, the signals first.

    "auto" never fails. Raises RuntimeError where "triton" or "dense" is demanded and does not serve, ValueError for
    an operator or an implementation that does not exist.

    >>> choose("spectral_gate", torch.zeros(1, 4, 8, 5), impl="reference")
    Choice(impl='reference', reason='impl="reference" was asked for')
    """
    device = tensors[0].device if tensors else torch.device("cpu")
    return _choose(operator, device, tensors, impl)


def explain(device: torch.device | str) -> dict[str, Choice]:
    """What runs on `device` for every operator, as calls with impl="auto" would have it.

    A demand of MICA_KERNELS_IMPL that cannot be met gives the implementation "none" and the error as reason.

    >>> sorted(explain("cpu"))
    ['info_nce', 'similarity_kl', 'spectral_gate']
    """
    device = torch.device(device)
    choices = {}
    for operator in OPERATORS:
        try:
            choices[operator] = _choose(operator, device, (), "auto")
        except (RuntimeError, ValueError) as error:
            choices[operator] = Choice("none", str(error))
    return choices


def _choose(operator: str, device: torch.device, tensors: tuple[Tensor, ...], impl: str) -> Choice:
    if operator not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(OPERATORS)}; got {operator!r}")
    asked, source = _asked(operator, impl)
    if asked == "reference":
        return Choice("reference", f"{source} was asked for")
    obstacle = _dense_obstacle(operator) if asked == "dense" else _obstacle(operator, device, tensors)
    if asked != "auto":
        if obstacle is not None:
            raise RuntimeError(f'{source} was asked for, but {obstacle}; ask for "auto" or "reference"')
        return Choice(asked, f"{source} was asked for")
    if obstacle is None and device.type == "cpu":
        obstacle = "on the CPU the kernel only runs in Triton's interpreter, which is for tests"
    if obstacle is None:
        obstacle = _too_small(operator, tensors)
    if obstacle is None:
        return Choice("triton", f"the compiled kernel serves {device.type}")
    if device.type == "cpu" and _dense_obstacle(operator) is None and _is_short(tensors):
        faster = "products of matrices are faster than the reference's FFT"
        return Choice("dense", f"{obstacle}; up to {spectral.DENSE_FRAMES} frames {faster}")
    return Choice("reference", f"{obstacle}, so the PyTorch reference runs")


@_constant
def _asked(operator: str, impl: str) -> tuple[str, str]:
    """The implementation asked for and, for messages, where it was asked for."""
    source = f'impl="{impl}"'
    if impl == "auto" and VARIABLE in os.environ:
        impl = os.environ[VARIABLE]
        source = f"{VARIABLE}={impl}"
        if impl == "dense" and operator not in DENSE:
            impl = "auto"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{source}: the implementation must be one of {', '.join(IMPLEMENTATIONS)}")
    return impl, source


def _obstacle(operator: str, where: torch.device, tensors: tuple[Tensor, ...]) -> str | None:
    """Why no kernel can serve `operator` on a device and these tensors; None where one can."""
    obstacle = _device_obstacle(operator, where)
    if obstacle is not None or not tensors:
        return obstacle
    if _is_transformed():
        return "torch.func and forward-mode differentiation look into an operator, and not into a kernel"
    return _UNSERVED[operator](*tensors)


def _dense_obstacle(operator: str) -> str | None:
    """Why there are no products of matrices in place of the reference; None where there are."""
    if operator not in DENSE:
        return f"{operator} has no such form"
    if _is_transformed():
        return "torch.func and forward-mode differentiation need plain operations throughout"
    return None


def _is_transformed() -> bool:
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _is_short(tensors: tuple[Tensor, ...]) -> bool:
    """Whether products of matrices are the faster way on a CPU; of no tensors, it is said what short ones get."""
    return len(tensors) == 0 or tensors[0].shape[2] <= spectral.DENSE_FRAMES


@_constant
def _device_obstacle(operator: str, where: torch.device) -> str | None:
    """The part of it that is the same for all tensors, which torch.compile need not look into."""
    if where.type not in ("cuda", "cpu"):
        return f"the kernel serves NVIDIA GPUs, not {where.type}"
    if not devices.triton_installed():
        return "Triton, which compiles the kernel, is not installed"
    if where.type == "cpu":
        return None if devices.interpreted() else "the kernel needs a GPU, and this runs on the CPU"
    if not torch.cuda.is_available():
        return "the kernel needs a GPU, and PyTorch finds none"
    if torch.version.hip is not None:
        return "the kernel has not been tried on AMD GPUs"
    if devices.capability(where) < OLDEST:
        return f"the kernel needs compute capability {OLDEST[0]}.{OLDEST[1]}, and this GPU is older"
    return None


def _spectral_gate_unserved(x: Tensor, *_: Tensor) -> str | None:
    return spectral.unserved(x.shape[2], devices.dtype_name(x.dtype))


def _contrastive_unserved(*tensors: Tensor) -> str | None:
    return contrastive.unserved(*(devices.dtype_name(tensor.dtype) for tensor in tensors))


_UNSERVED: dict[str, Callable[..., str | None]] = {
    "spectral_gate": _spectral_gate_unserved,
    "info_nce": _contrastive_unserved,
    "similarity_kl": _contrastive_unserved,
}
"""What says why the kernels of an operator do not serve some tensors."""


def _too_small(operator: str, tensors: tuple[Tensor, ...]) -> str | None:
    """Why the kernel would serve, but to no end; None where it is worth while."""
    if operator == "spectral_gate" or len(tensors) < 2:
        return None
    rows, columns = len(tensors[0]), len(tensors[1])
    if operator == "info_nce":  # with the extra keys
        columns = sum(len(keys) for keys in tensors[1:])
    if rows * columns >= contrastive.WORTHWHILE:
        return None
    return f"a similarity matrix of {rows} x {columns} is too small for the kernel to save anything"
