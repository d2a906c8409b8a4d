"""How kernels are launched: the words that every family's configs.py is written in, and the way to its kernels.py.

Only the standard library is imported, and Triton once kernels are asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

DTYPES = ("float32", "bfloat16", "float16")
"""What the kernels serve."""

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
"""Which have configurations of their own."""


@dataclass(frozen=True)
class Launch:
    """How a kernel is cut into programs, and what a program keeps under way.

    columns: columns that a program owns; warps: of a program; stages: of loads under way; programs: how many of them a
    multiprocessor is given; step: of the loop inside, over samples or over the width of embeddings; pairs: that the
    spectral gate takes at a time; rows: of the tiles of the contrastive losses. None: the kernel has no such blocks.
    """

    columns: int
    warps: int
    stages: int
    programs: int
    pairs: int | None = None
    step: int | None = None
    rows: int = 1


@dataclass(frozen=True)
class Variant:
    """One compiled form of a kernel.

    family: where kernels.py lies; kernel: the function; pointers: the element type of every pointer argument, by name;
    constants: its compile-time arguments; warps, stages: its compiler options.
    """

    family: str
    kernel: str
    pointers: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    warps: int
    stages: int

    @cached_property
    def keywords(self) -> dict[str, Any]:
        """What a launch takes beside the kernel's arguments."""
        return {**dict(self.constants), "num_warps": self.warps, "num_stages": self.stages}

    @cached_property
    def dtype(self) -> str | None:
        """Of the signals or embeddings; None where the kernel sees none."""
        pointers = dict(self.pointers)
        return pointers.get("x", pointers.get("query"))

    def __str__(self) -> str:
        constants = " ".join(f"{name}={value}" for name, value in self.constants)
        return f"{self.kernel} {self.dtype or ''} {constants} warps={self.warps} stages={self.stages}"


def configured(major: int) -> str:
    """The architecture whose configurations serve GPUs of compute capability `major`.x.

    Consumer chips of capability 12 have the matrix units and the shared memory of capability 8.
    """
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80")


def kernels(family: str) -> ModuleType:
    """The kernels.py of a family such as "mica_kernels.spectral", to launch from; needs Triton."""
    module = importlib.import_module(f"{family}.kernels")
    # Triton up to 3.7 puts the constants that a helper uses into a kernel's key only if it met the helper earlier,
    # so the key, and whether a compiled kernel is found, would hang on what the process has launched before
    # (triton-lang/triton#10494). Helpers come first in the file: met in that order, every key is always the same.
    for function in vars(module).values():
        getattr(function, "cache_key", None)
    return module
