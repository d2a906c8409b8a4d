"""Argument checks that the operators share: each names the argument, what it is and what it should be."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor


def check_tensor(name: str, value: object, *shapes: str) -> None:
    """`value` is a real floating-point tensor with the dimensions of one of `shapes`, such as "N C T V"."""
    expected = " or ".join(f"({', '.join(shape.split())})" for shape in shapes)
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor of shape {expected}, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a real floating-point tensor, got {value.dtype}")
    if value.ndim not in {len(shape.split()) for shape in shapes}:
        raise ValueError(f"{name} must have shape {expected}, got {tuple(value.shape)}")


def check_same_device(first_name: str, first: Tensor, **others: Tensor | None) -> None:
    """All of `others` that are given lie where `first` lies."""
    for name, other in others.items():
        if other is not None and other.device != first.device:
            raise ValueError(f"{name} is on {other.device}, {first_name} on {first.device}: move one of them")


def check_labels(name: str, value: object, length: int) -> None:
    """`value` is an integer tensor of `length` labels."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be an integer tensor, got {type(value).__name__}")
    if value.is_floating_point() or value.is_complex():
        raise TypeError(f"{name} must be an integer tensor, got {value.dtype}")
    if value.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), one label a row, got {tuple(value.shape)}")


def check_scale(name: str, value: object) -> None:
    """`value` is a number, or a floating-point tensor without dimensions."""
    if isinstance(value, Tensor):
        if value.ndim != 0 or not value.is_floating_point():
            found = f"shape {tuple(value.shape)} and {value.dtype}"
            raise ValueError(f"{name} must be a number or a 0-d floating-point tensor, got {found}")
    elif not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or a 0-d tensor, got {type(value).__name__}")


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The precision that the references work in: float32, or float64 if a tensor has it."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
