"""Which implementation of an operator runs, and why.

An operator asks `choose` at every call. The caller's `impl=` decides; where that is "auto", the environment
variable MICA_KERNELS_IMPL decides; where that is unset or "auto" too, whatever serves the tensors best runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch import Tensor

OPERATORS = ("spectral_gate", "info_nce", "similarity_kl")
IMPLEMENTATIONS = ("auto", "reference", "triton")
VARIABLE = "MICA_KERNELS_IMPL"


@dataclass(frozen=True)
class Choice:
    """The implementation that runs, "none" where a demand cannot be met, and the reason in words."""

    impl: str
    reason: str


def choose(operator: str, *tensors: Tensor, impl: str = "auto") -> Choice:
    """Decide which implementation of `operator` runs on `tensors`.

    "auto" never fails. Raises RuntimeError where "triton" is demanded and no kernel serves, ValueError for an
    operator or an implementation that does not exist.

    >>> choose("spectral_gate", torch.zeros(1, 4, 8, 5), impl="reference")
    Choice(impl='reference', reason='impl="reference" was asked for')
    """
    device = tensors[0].device if tensors else torch.device("cpu")
    return _choose(operator, device, impl)


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
            choices[operator] = _choose(operator, device, "auto")
        except (RuntimeError, ValueError) as error:
            choices[operator] = Choice("none", str(error))
    return choices


def _choose(operator: str, device: torch.device, impl: str) -> Choice:
    if operator not in OPERATORS:
        raise ValueError(f"operator must be one of {', '.join(OPERATORS)}; got {operator!r}")
    asked, source = _asked(impl)
    if asked == "reference":
        return Choice("reference", f"{source} was asked for")
    missing = _missing_kernel(operator, device)
    if asked == "triton":
        raise RuntimeError(f'{source} was asked for, but {missing}; ask for "auto" or "reference"')
    return Choice("reference", f"{missing}, so the PyTorch reference runs")


def _asked(impl: str) -> tuple[str, str]:
    """The implementation asked for and, for messages, where it was asked for."""
    source = f'impl="{impl}"'
    if impl == "auto" and VARIABLE in os.environ:
        impl = os.environ[VARIABLE]
        source = f"{VARIABLE}={impl}"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{source}: the implementation must be one of {', '.join(IMPLEMENTATIONS)}")
    return impl, source


def _missing_kernel(operator: str, device: torch.device) -> str:
    """Why no compiled kernel serves `operator` on `device`."""
    return f"this version has no compiled kernel for {operator} on {device.type}"
