"""What a device can do at best, measured: bytes a second of a copy, operations a second of a matrix product."""

from __future__ import annotations

from functools import cache

import torch

from benchmarks import measure
from benchmarks.measure import Mark

COPIED = {"cuda": 1 << 29, "cpu": 1 << 27}
"""Bytes of the copied tensor: many times any cache."""

SIDE = {"cuda": 8192, "cpu": 2048}
"""Rows and columns of the factors."""


@cache
def copy_rate(device: torch.device) -> float:
    """Bytes read and written a second by a large `copy_`."""
    source = torch.randn(COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)

    def part(_: int, mark: Mark) -> None:
        mark()
        target.copy_(source)
        mark()

    return 2 * COPIED[device.type] / (1e-3 * measure.timed(part, 1, device).median)


@cache
def matrix_rate(dtype: str, device: torch.device) -> float:
    """Operations a second of a large `torch.matmul`; of float32 without tf32, as PyTorch has it by default."""
    side = SIDE[device.type]
    left, right = torch.randn(2, side, side, device=device).to(getattr(torch, dtype))
    product = torch.empty_like(left)

    def part(_: int, mark: Mark) -> None:
        mark()
        torch.matmul(left, right, out=product)
        mark()

    return 2 * side**3 / (1e-3 * measure.timed(part, 1, device).median)
