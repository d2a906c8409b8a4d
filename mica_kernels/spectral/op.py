"""The public face of the spectral gate: argument checks, then the implementation that serves."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from mica_kernels.backend import choose
from mica_kernels.checks import check_same_device, check_tensor
from mica_kernels.spectral import reference

SPARSITIES = ("joint", "bin")


def spectral_gate(
    x: Float[Tensor, "N C T V"],
    weight: Float[Tensor, "G F V 2"],
    threshold: Float[Tensor, "G V"] | Float[Tensor, " G"] | None = None,
    *,
    sparsity: Literal["joint", "bin"] = "joint",
    impl: str = "auto",
) -> Float[Tensor, "N C T V"]:
    """Filter x over time in the frequency domain and switch off what stays weak.

    With F = T // 2 + 1 and channel c in group g = c // (C / G)::

        Y = W[g] * rfft(x, dim=T, norm="ortho")       W complex, a value per group, frequency and joint
        s = max(0, 1 - threshold[g] / rms)            sparsity="joint": rms over frames of irfft(Y)
        s = max(0, 1 - threshold[g] / |Y|)            sparsity="bin": each frequency of each joint for itself
        y = irfft(s * Y, n=T, norm="ortho")           s = 1 without a threshold

    The joint form is the group soft threshold, the proximal operator of the group lasso (Yuan and Lin, 2006):
    a joint whose filtered signal is weaker than the threshold becomes exactly 0 and passes no gradient.

    Args:
        x: real signals, T >= 1, any strides; float32, float64, or bfloat16 and float16, computed in float32.
        weight: real and imaginary parts of W; C is a multiple of G. The imaginary part at frequency 0 and,
            for even T, at T/2 does nothing and gets gradient 0.
        threshold: in units of x; (G, V), or (G,) for one value for all joints. Not negative; that is not
            checked, since it would wait for the device.
        sparsity: what the threshold decides on, "joint" or "bin".
        impl: "auto", "reference" or "triton", see `mica_kernels.backend`.

    Returns:
        y with the shape, dtype and memory format of x. Differentiable, twice, in x, weight and threshold.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
        RuntimeError: impl="triton" where no such kernel exists.

    >>> import torch
    >>> x = torch.randn(2, 4, 9, 3)
    >>> identity = torch.tensor([1.0, 0.0]).expand(2, 5, 3, 2)
    >>> torch.allclose(spectral_gate(x, identity), x, atol=1e-6)
    True
    >>> spectral_gate(x, identity, threshold=torch.tensor([0.0, 99.0]))[:, 2:].count_nonzero().item()
    0
    """
    _check(x, weight, threshold, sparsity)
    choose("spectral_gate", x, impl=impl)
    return reference.spectral_gate(x, weight, threshold, sparsity)


def _check(x: Tensor, weight: Tensor, threshold: Tensor | None, sparsity: str) -> None:
    check_tensor("x", x, "N C T V")
    check_tensor("weight", weight, "G F V 2")
    _, channels, num_frames, num_joints = x.shape
    groups = weight.shape[0]
    if num_frames == 0:
        raise ValueError(f"x must have at least one frame, got shape {tuple(x.shape)}")
    if groups == 0 or channels % groups:
        raise ValueError(f"weight has {groups} groups, which do not divide the {channels} channels of x")
    bins = num_frames // 2 + 1
    if weight.shape[1:] != (bins, num_joints, 2):
        expected = f"(G, T // 2 + 1, V, 2) = ({groups}, {bins}, {num_joints}, 2) for x {tuple(x.shape)}"
        raise ValueError(f"weight must have shape {expected}, got {tuple(weight.shape)}")
    if threshold is not None:
        check_tensor("threshold", threshold, "G V", "G")
        if threshold.shape not in ((groups, num_joints), (groups,)):
            expected = f"(G, V) = ({groups}, {num_joints}) or (G,) = ({groups},)"
            raise ValueError(f"threshold must have shape {expected}, got {tuple(threshold.shape)}")
    check_same_device("x", x, weight=weight, threshold=threshold)
    if sparsity not in SPARSITIES:
        raise ValueError(f"sparsity must be one of {', '.join(SPARSITIES)}; got {sparsity!r}")
