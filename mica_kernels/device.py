"""What the kernels have to know of a device; nothing is asked before a kernel is about to run."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.util import find_spec

import torch

from mica_kernels.launch import configured

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
    """Whose configurations a device runs with; the interpreter has those of the oldest GPU."""
    return configured(capability(device)[0] if device.type == "cuda" else 8)


@lru_cache
def multiprocessors(device: torch.device) -> int:
    """How many a GPU has; for the interpreter, some, so that it splits its work, too."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def dtype_name(dtype: torch.dtype) -> str:
    """As configurations name it, such as "float32"."""
    return str(dtype).removeprefix("torch.")


def precision(dtype: torch.dtype) -> str:
    """How matrix units take products of float32, as PyTorch's own do, however it was told so; one word for others."""
    # torch.get_float32_matmul_precision is an error where it was told so by torch.backends.fp32_precision or its kin.
    relaxed = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if relaxed else "tf32x3"
