"""What the kernels have to know of a device; nothing is asked before a kernel is about to run."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec

import torch

INTERPRETER = "TRITON_INTERPRET"


@lru_cache
def triton_installed() -> bool:
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU, on the tensors of the CPU."""
    return os.environ.get(INTERPRETER, "0") == "1"


def runs_kernels(device: torch.device) -> bool:
    return device.type == "cuda" or (device.type == "cpu" and interpreted() and triton_installed())


@lru_cache
def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of an NVIDIA GPU."""
    return torch.cuda.get_device_capability(device)


@lru_cache
def architecture(device: torch.device) -> str:
    """Whose configurations a device runs with: the newest that it is not older than.

    Consumer chips of capability 12 have the matrix units and the shared memory of capability 8.
    """
    if device.type != "cuda":
        return "sm_80"
    major = capability(device)[0]
    return {9: "sm_90", 10: "sm_100"}.get(major, "sm_80")


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """How many a GPU has; for the interpreter, some, so that it splits its work, too."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def float32_precision() -> str:
    """How products of float32 are taken on matrix units, as torch.set_float32_matmul_precision has it."""
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
