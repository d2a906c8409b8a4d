"""Which number format a run computes in, and why."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` is known to multiply bfloat16 in hardware; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False  # PyTorch has no word for it that all kinds of devices know
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def choose_precision(wanted: Precision, device: torch.device) -> tuple[torch.dtype, str]:
    """Return the dtype for autocast and the reason in words."""
    if wanted != "auto":
        return getattr(torch, wanted), "as asked"
    if multiplies_bfloat16(device):
        return torch.bfloat16, f"this {device.type} multiplies bfloat16 in hardware"
    if device.type not in ("cuda", "cpu"):
        return torch.float32, f"whether {device.type} multiplies bfloat16 in hardware is not known"
    return torch.float32, f"this {device.type} would only emulate bfloat16"
