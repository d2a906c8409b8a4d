"""The spectral gate in plain PyTorch: its definition, by the FFT, and the same by products of matrices."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mica_kernels.checks import compute_dtype

if TYPE_CHECKING:  # shapes are for readers and type checkers; at run time PyTorch is enough
    from jaxtyping import Bool, Float

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
    filtered = spectrum * torch.complex(*_filter_parts(weight.to(dtype), channels, num_frames))
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


def dense_spectral_gate(
    x: Float[Tensor, "N C T V"],
    weight: Float[Tensor, "G F V 2"],
    threshold: Float[Tensor, "G V"] | Float[Tensor, " G"] | None,
    sparsity: str,
) -> Float[Tensor, "N C T V"]:
    """The same, with the Fourier transform as a product with its matrix: faster than an FFT for short clips.

    Where the reference rounds half precisions at its ends alone, this rounds to the dtype of x after every step, but
    for what the threshold is compared with: errors are about its last place times the size of the ungated signals, and
    the spectrum has to lie within its range. Not for torch.func or forward-mode differentiation.
    """
    if x.numel() == 0:
        return _nothing(x, weight, threshold)
    channels, num_frames, num_joints = x.shape[1:]
    dtype = compute_dtype(x)
    # A clip is a matrix of frames by columns; in one order of the columns x most often lies so already.
    channels_fastest = x.stride(1) <= x.stride(3)
    analysis, synthesis = _matrices(num_frames, x)
    parts = _columns(_filter_parts(weight.to(dtype), channels, num_frames), channels_fastest)
    spectrum = _Transform.apply(_columns(x, channels_fastest), analysis).unflatten(1, (2, -1))
    filtered = _Product.apply(spectrum, parts.to(x.dtype))
    if threshold is not None:
        threshold = _per_channel(threshold.to(dtype), channels).expand(-1, -1, num_joints)
        threshold = _columns(threshold, channels_fastest)
    if threshold is not None and sparsity == "bin":
        filtered = filtered * _shrinkage(threshold, _Norm.apply(filtered)).to(x.dtype)
    y = _Transform.apply(filtered.flatten(1, 2), synthesis)
    if threshold is not None and sparsity == "joint":
        rms = (_Norm.apply(y).square() / num_frames + EPS).sqrt()
        y = y * _shrinkage(threshold, rms).to(x.dtype)
    y = y.unflatten(2, (num_joints, channels) if channels_fastest else (channels, num_joints))
    y = y.movedim(-1 if channels_fastest else -2, 1)
    like_x = torch.empty_like(x)
    return y if y.stride() == like_x.stride() else like_x.copy_(y)


def _nothing(x: Tensor, weight: Tensor, threshold: Tensor | None) -> Tensor:
    """The gate of an empty x, which FFT libraries refuse; the parameters still get a gradient, of zeros."""
    parameters = [parameter for parameter in (weight, threshold) if parameter is not None]
    return x + sum(0 * parameter.sum() for parameter in parameters)


def _filter_parts(
    weight: Float[Tensor, "G F V 2"], channels: int, num_frames: int
) -> Float[Tensor, "2 C F V"]:
    """Real and imaginary parts of W for every channel, real in those bins in which the spectrum is real, too."""
    has_both = complex_bins(num_frames, weight.device)[:, None]
    real, imaginary = weight.unbind(-1)
    parts = torch.stack([real, imaginary.masked_fill(~has_both, 0.0)])
    return parts.repeat_interleave(channels // len(weight), dim=1)


def _per_channel(
    threshold: Float[Tensor, "G V"] | Float[Tensor, " G"], channels: int
) -> Float[Tensor, "C 1 V"]:
    """The threshold of every channel, to broadcast over frames or bins and, for (G,), over joints."""
    per_group = threshold if threshold.ndim == 2 else threshold[:, None]
    return per_group.repeat_interleave(channels // len(threshold), dim=0)[:, None]


def _shrinkage(threshold: Float[Tensor, "C 1 V"], size: Float[Tensor, "N C L V"]) -> Float[Tensor, "N C L V"]:
    """The soft threshold as a factor. relu, because the gradient of clamp at the kink is not 0 but 1."""
    return torch.relu(1 - threshold / size)


def _columns(tensor: Float[Tensor, "*N C L V"], channels_fastest: bool) -> Float[Tensor, "*N L CV"]:
    """Channels and joints side by side."""
    return tensor.movedim(-3, -1 if channels_fastest else -2).flatten(-2)


class _Transform(torch.autograd.Function):
    """Every clip's product with a matrix. The form with out= is none that autocast takes hold of, there or back."""

    @staticmethod
    def forward(
        ctx: Any, signals: Float[Tensor, "N K L"], matrix: Float[Tensor, "M K"]
    ) -> Float[Tensor, "N M L"]:
        ctx.save_for_backward(matrix)
        clips, _, columns = signals.shape
        product = signals.new_empty(clips, matrix.shape[0], columns)
        return torch.bmm(matrix.expand(clips, -1, -1), signals, out=product)

    @staticmethod
    def backward(ctx: Any, above: Float[Tensor, "N M L"]) -> tuple[Float[Tensor, "N K L"], None]:
        (matrix,) = ctx.saved_tensors
        return _Transform.apply(above, matrix.T), None


class _Product(torch.autograd.Function):
    """Complex numbers as real parts and imaginary parts, times a filter: in half the passes that autograd takes."""

    @staticmethod
    def forward(
        ctx: Any, spectrum: Float[Tensor, "N 2 F L"], parts: Float[Tensor, "2 F L"]
    ) -> Float[Tensor, "N 2 F L"]:
        ctx.save_for_backward(spectrum, parts)
        product = spectrum * parts[0]
        product[:, 0].addcmul_(spectrum[:, 1], parts[1], value=-1)
        product[:, 1].addcmul_(spectrum[:, 0], parts[1])
        return product

    @staticmethod
    def backward(
        ctx: Any, above: Float[Tensor, "N 2 F L"]
    ) -> tuple[Float[Tensor, "N 2 F L"], Float[Tensor, "2 F L"]]:
        spectrum, parts = ctx.saved_tensors
        dreal = (above * spectrum).sum((0, 1))
        dimaginary = torch.addcmul(above[:, 1] * spectrum[:, 0], above[:, 0], spectrum[:, 1], value=-1).sum(0)
        conjugate = torch.stack([parts[0], -parts[1]])
        return _Product.apply(above, conjugate), torch.stack([dreal, dimaginary])


class _Norm(torch.autograd.Function):
    """sqrt(sum of y^2), squared in float32, and never quite 0. Its gradient needs nothing but y and the norm."""

    @staticmethod
    def forward(ctx: Any, y: Float[Tensor, "N K *L"]) -> Float[Tensor, "N 1 *L"]:
        # The square of EPS, which torch.compile would take for a variable.
        norm = (y.to(compute_dtype(y)).square().sum(dim=1, keepdim=True) + 1e-24).sqrt()
        ctx.save_for_backward(y, norm)
        return norm

    @staticmethod
    def backward(ctx: Any, above: Float[Tensor, "N 1 *L"]) -> Float[Tensor, "N K *L"]:
        y, norm = ctx.saved_tensors
        return (y * (above / norm)).to(y.dtype)


def _matrices(num_frames: int, x: Tensor) -> tuple[Float[Tensor, "2F T"], Float[Tensor, "T 2F"]]:
    """`fourier_matrices` as x is, which a CPU keeps between calls.

    What is made while operations are traced or transformed is no plain tensor, and must not be met again; on a GPU
    other streams could meet it too early.
    """
    traced = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    if traced or torch._C._are_functorch_transforms_active() or x.device.type != "cpu":
        return _matrices_of(num_frames, x.dtype, x.device)
    return _kept_matrices(num_frames, x.dtype, x.device)


def _matrices_of(
    num_frames: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "2F T"], Float[Tensor, "T 2F"]]:
    analysis, synthesis = fourier_matrices(num_frames)
    return analysis.to(device, dtype), synthesis.to(device, dtype)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # what is made in inference could not be saved for a gradient later
def _kept_matrices(
    num_frames: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "2F T"], Float[Tensor, "T 2F"]]:
    return _matrices_of(num_frames, dtype, device)


def fourier_matrices(num_frames: int) -> tuple[Float[Tensor, "2F T"], Float[Tensor, "T 2F"]]:
    """The orthonormal rfft and irfft over T frames as matrices: real parts of the F bins first, then imaginary ones.

    In float64, on the CPU.

    >>> x = torch.randn(7, dtype=torch.float64)
    >>> analysis, synthesis = fourier_matrices(7)
    >>> spectrum = torch.fft.rfft(x, norm="ortho")
    >>> torch.allclose(analysis @ x, torch.cat([spectrum.real, spectrum.imag]))
    True
    >>> torch.allclose(synthesis @ analysis @ x, x)
    True
    """
    cpu = torch.device("cpu")
    frames = torch.arange(num_frames, device=cpu)
    bins = frames[: num_frames // 2 + 1, None]
    # Whole turns are taken off in integers, where they cost no digits.
    angles = (bins * frames % num_frames).double() * (2 * math.pi / num_frames)
    analysis = torch.cat([angles.cos(), -angles.sin()]) / math.sqrt(num_frames)
    times = 1 + complex_bins(num_frames, cpu).double()  # a bin stands for its mirror image, too
    return analysis, (analysis * torch.cat([times, times])[:, None]).T.contiguous()


def complex_bins(num_frames: int, device: torch.device) -> Bool[Tensor, " F"]:
    """Which bins of a real signal have an imaginary part: all but 0 and T/2."""
    return 2 * torch.arange(num_frames // 2 + 1, device=device) % num_frames != 0
