"""The definition of the spectral gate in plain PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mica_kernels.checks import compute_dtype

if TYPE_CHECKING:  # shapes are for readers and type checkers; at run time PyTorch is enough
    from jaxtyping import Complex, Float

EPS = 1e-12
"""Keeps the gate finite for silent signals: added to the mean square, and the floor of a bin's magnitude."""


def spectral_gate(
    x: Float[Tensor, "N C T V"],
    weight: Float[Tensor, "G F V 2"],
    threshold: Float[Tensor, "G V"] | Float[Tensor, " G"] | None,
    sparsity: str,
) -> Float[Tensor, "N C T V"]:
    """See `mica_kernels.spectral_gate`; half precisions are computed in float32."""
    if x.numel() == 0:
        return _nothing(x, weight, threshold)
    channels, num_frames = x.shape[1], x.shape[2]
    dtype = compute_dtype(x)
    spectrum = torch.fft.rfft(x.to(dtype), dim=2, norm="ortho")
    filtered = spectrum * _complex_filter(weight.to(dtype), channels, num_frames)
    if threshold is not None:
        threshold = _per_channel(threshold.to(dtype), channels)
    if threshold is not None and sparsity == "bin":
        filtered = filtered * _shrinkage(threshold, filtered.abs().clamp_min(EPS))
    y = torch.fft.irfft(filtered, n=num_frames, dim=2, norm="ortho")
    if threshold is not None and sparsity == "joint":
        # Parseval's sum over the spectrum gives the same energy, in more passes over memory.
        rms = (y.square().mean(dim=2, keepdim=True) + EPS).sqrt()
        y = y * _shrinkage(threshold, rms)
    if torch._C._are_functorch_transforms_active():
        return y.to(x.dtype)  # vmap cannot write into memory laid out like an x that it does not map over
    return torch.empty_like(x).copy_(y)  # the memory format and the dtype of x in one pass


def _nothing(x: Tensor, weight: Tensor, threshold: Tensor | None) -> Tensor:
    """The gate of an empty x, which FFT libraries refuse; the parameters still get a gradient, of zeros."""
    parameters = [parameter for parameter in (weight, threshold) if parameter is not None]
    return x + sum(0 * parameter.sum() for parameter in parameters)


def _complex_filter(
    weight: Float[Tensor, "G F V 2"], channels: int, num_frames: int
) -> Complex[Tensor, "C F V"]:
    """W for every channel, real in bins 0 and T/2, where the spectrum of a real signal is real."""
    groups, bins = weight.shape[:2]
    real_bins = 2 * torch.arange(bins, device=weight.device) % num_frames == 0
    imaginary = weight[..., 1].masked_fill(real_bins[:, None], 0.0)
    return torch.complex(weight[..., 0], imaginary).repeat_interleave(channels // groups, dim=0)


def _per_channel(
    threshold: Float[Tensor, "G V"] | Float[Tensor, " G"], channels: int
) -> Float[Tensor, "C 1 V"]:
    """The threshold of every channel, to broadcast over frames or bins and, for (G,), over joints."""
    per_group = threshold if threshold.ndim == 2 else threshold[:, None]
    return per_group.repeat_interleave(channels // len(threshold), dim=0)[:, None]


def _shrinkage(threshold: Float[Tensor, "C 1 V"], size: Float[Tensor, "N C L V"]) -> Float[Tensor, "N C L V"]:
    """The soft threshold as a factor. relu, because the gradient of clamp at the kink is not 0 but 1."""
    return torch.relu(1 - threshold / size)
