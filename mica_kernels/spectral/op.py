"""The public face of the spectral gate: argument checks, the choice of an implementation, and the kernels' launch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mica_kernels import device, prebuilt, tune
from mica_kernels.backend import choose
from mica_kernels.checks import check_same_device, check_tensor
from mica_kernels.launch import Launch, kernels
from mica_kernels.registration import gradient_like, register
from mica_kernels.spectral import configs, reference

if TYPE_CHECKING:  # shapes are for readers and type checkers; at run time PyTorch is enough
    from jaxtyping import Float

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
        x: real signals, T >= 1, any strides; float32, float64, or bfloat16 and float16, summed in float32.
        weight: real and imaginary parts of W; C is a multiple of G. The imaginary part at frequency 0 and,
            for even T, at T/2 does nothing and gets gradient 0.
        threshold: in units of x; (G, V), or (G,) for one value for all joints. Not negative; that is not
            checked, since it would wait for the device.
        sparsity: what the threshold decides on, "joint" or "bin".
        impl: "auto", "reference", "dense" or "triton", see `mica_kernels.backend`. The kernel saves x and the
            parameters for the backward pass and nothing else.

    Returns:
        y with the shape, dtype and memory format of x, under autocast too. Differentiable, twice, in x, weight
        and threshold.

    Raises:
        TypeError, ValueError: an argument does not fit; the message names it.
        RuntimeError: impl="triton" where no kernel serves, impl="dense" under torch.func; the message says why.

    >>> import torch
    >>> x = torch.randn(2, 4, 9, 3)
    >>> identity = torch.tensor([1.0, 0.0]).expand(2, 5, 3, 2)
    >>> torch.allclose(spectral_gate(x, identity), x, atol=1e-6)
    True
    >>> spectral_gate(x, identity, threshold=torch.tensor([0.0, 99.0]))[:, 2:].count_nonzero().item()
    0
    """
    _check(x, weight, threshold, sparsity)
    chosen = choose("spectral_gate", x, impl=impl).impl
    if chosen == "reference":
        return reference.spectral_gate(x, weight, threshold, sparsity)
    if chosen == "dense":
        return reference.dense_spectral_gate(x, weight, threshold, sparsity)
    return torch.ops.mica_kernels.spectral_gate(x, weight, threshold, sparsity)


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
        if threshold.shape != (groups, num_joints)[: threshold.ndim]:
            expected = f"(G, V) = ({groups}, {num_joints}) or (G,) = ({groups},)"
            raise ValueError(f"threshold must have shape {expected}, got {tuple(threshold.shape)}")
    check_same_device("x", x, weight=weight, threshold=threshold)
    if sparsity not in SPARSITIES:
        raise ValueError(f"sparsity must be one of {', '.join(SPARSITIES)}; got {sparsity!r}")


class _Launcher:
    """Starts a kernel on one set of tensors: everything that the launch configuration does not decide.

    `signals` are the tensors shaped as x, x first, in the order of the kernel's arguments.
    """

    def __init__(
        self, direction: str, weight: Tensor, threshold: Tensor | None, sparsity: str, *signals: Tensor
    ) -> None:
        x = signals[0]
        self.clips, self.channels, self.frames, self.joints = x.shape
        self.direction, self.signals, self.device = direction, signals, x.device
        self.dtype = device.dtype_name(x.dtype)
        self.sparsity = "none" if threshold is None else sparsity
        self.group_size = self.channels // weight.shape[0]
        self.channels_fastest = x.stride(1) <= x.stride(3)
        self.layout = _layout(self.channels_fastest, *signals)
        self.size = configs.size(self.frames)
        self.weight = weight.float().contiguous()
        # Without a threshold the kernel reads none; it is handed the filter in its place.
        self.threshold = self.weight if threshold is None else threshold.float()
        steps = (0, 0) if threshold is None else self.threshold.stride()
        self.threshold_strides = steps if len(steps) == 2 else (*steps, 0)

    def best(self, run: Callable[[Launch], None]) -> Launch:
        """The configuration to run with; `run` is what tuning times, where it was asked for."""
        arch = device.architecture(self.device)
        shipped = configs.launch(arch, self.dtype, self.size, self.direction, self.layout)
        key = f"spectral_gate {self.direction} {self.dtype} {self.size} {self.layout}"
        return tune.pick(self.device, key, shipped, partial(configs.candidates, self.size), run)

    def split(self, launch: Launch) -> tuple[int, int, int]:
        """Blocks of columns, parts of the batch, clips a part: about as many programs as run side by side."""
        blocks = -(-self.channels * self.joints // launch.columns)
        wanted = max(1, device.multiprocessors(self.device) * launch.programs // blocks)
        chunk = -(-self.clips // min(self.clips, wanted))
        return blocks, -(-self.clips // chunk), chunk

    def run_length(self, launch: Launch) -> int:
        """How many columns on end share a group and a joint, as far as the backward kernel makes use of it."""
        flat_groups = self.channels_fastest and self.layout == "flat" and self.group_size % configs.RUN == 0
        return configs.RUN if flat_groups and launch.step is None else 1

    def start(self, launch: Launch, *partials: Tensor) -> None:
        """Launch; `partials` are what the backward kernel leaves of the parameters' gradients."""
        blocks, parts, chunk = self.split(launch)
        variant = configs.variant(
            launch, self.dtype, self.size, self.direction, self.sparsity, self.layout, self.run_length(launch),
            device.precision(self.signals[0].dtype),
        )  # fmt: skip
        strides = [stride for signal in self.signals for stride in signal.stride()]
        kernel = getattr(_kernels(), variant.kernel)
        with torch.cuda.device_of(self.signals[0]):
            kernel[(blocks * parts,)](
                _basis(self.frames, self.size, self.signals[0].dtype, self.device),
                *self.signals, self.weight, self.threshold, *partials,
                self.clips, self.frames, self.channels, self.joints, self.group_size, int(self.channels_fastest),
                chunk, *strides, *self.threshold_strides, **variant.keywords,
            )  # fmt: skip

    def start_backward(self, launch: Launch, dweight: Tensor, dthreshold: Tensor) -> None:
        """Launch the backward kernel and the sum of its partial results, always in the same order."""
        blocks, parts, _ = self.split(launch)
        run = self.run_length(launch)
        slots = blocks * launch.columns // run
        new = dweight.new_empty if launch.step is None else dweight.new_zeros
        partials, threshold_partials = new(parts, slots, 2, self.size), dweight.new_empty(parts, slots)
        self.start(launch, partials, threshold_partials)
        if self.channels_fastest:
            steps = (self.group_size // run, self.channels // run, 1)
        else:
            steps = (self.group_size * self.joints, 1, self.joints)
        pairs = min(self.size, configs.REDUCED_PAIRS)
        grid = (len(dweight) * self.joints, -(-((self.frames + 1) // 2) // pairs))
        with torch.cuda.device_of(dweight):
            _kernels().reduce[grid](
                partials, threshold_partials, dweight, dthreshold, parts, slots, self.frames, self.joints,
                self.group_size // run, *steps, **configs.reduction(self.size).keywords,
            )  # fmt: skip


def _layout(channels_fastest: bool, *signals: Tensor) -> str:
    """Where the columns of a clip lie, see kernels.py."""
    if all(_is_flat(channels_fastest, signal) for signal in signals):
        return "flat"
    spans = [
        sum((n - 1) * stride for n, stride in zip(s.shape[1:], s.stride()[1:], strict=True)) for s in signals
    ]
    return "near" if max(spans) < 2**31 else "far"


def _is_flat(channels_fastest: bool, signal: Tensor) -> bool:
    _, channels, _, joints = signal.shape
    clip_stride, channel_stride, frame_stride, joint_stride = signal.stride()
    if channels_fastest:
        dense = channel_stride == 1 and joint_stride == channels
    else:
        dense = joint_stride == 1 and channel_stride == joints
    bytes_apart = (clip_stride, frame_stride, channels * joints)
    aligned = all(count * signal.element_size() % 16 == 0 for count in bytes_apart)
    return dense and aligned and signal.data_ptr() % 16 == 0


@lru_cache
def _kernels() -> ModuleType:
    prebuilt.install()
    return kernels(__package__)


@lru_cache(maxsize=256)
def _basis(frames: int, size: int, dtype: torch.dtype, where: torch.device) -> Float[Tensor, "2 size size"]:
    """Twice the cosines and sines of k cycles a clip at t + 1/2, [k, t]; in the sines' row 0 those of T/2."""
    if where.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"spectral_gate meets {frames} frames of {dtype} for the first time while a CUDA graph is captured: "
            "call it once before the capture"
        )
    half = (frames + 1) // 2
    pair, time = torch.arange(half)[:, None], torch.arange(half)[None, :]
    # Whole turns are taken off in integers, where they cost no digits.
    angles = (pair * (2 * time + 1) % (2 * frames)).double() * (math.pi / frames)
    waves = torch.stack([angles.cos(), angles.sin()])
    if frames % 2 == 0:
        waves[1, 0] = 1 - 2 * (time[0] % 2)
    basis = torch.zeros(2, size, size, dtype=torch.float64)
    basis[:, :half, :half] = 2 * waves
    basis = basis.to(where, dtype)
    if where.type == "cuda":  # other streams will read it, too
        torch.cuda.current_stream(where).synchronize()
    return basis


def _served(x: Tensor, *_: Any) -> bool:
    """Whether a kernel takes x. An operator called by its own name, as an exported program does, may get any."""
    return device.runs_kernels(x.device) and configs.unserved(x.shape[2], device.dtype_name(x.dtype)) is None


def _forward(x: Tensor, weight: Tensor, threshold: Tensor | None, sparsity: str) -> Tensor:
    """y by the kernel, or by the reference where none serves."""
    if not _served(x):
        return reference.spectral_gate(x, weight, threshold, sparsity)
    y = torch.empty_like(x)
    if x.numel():
        launcher = _Launcher("forward", weight, threshold, sparsity, x, y)
        launcher.start(launcher.best(launcher.start))
    return y


def _backward(
    above: Sequence[Tensor], inputs: Sequence[Any], results: Sequence[Tensor], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of x, weight and threshold by the kernel, which computes all of them."""
    (dy,), (x, weight, threshold, sparsity) = above, inputs
    new = torch.empty if x.numel() else torch.zeros
    dx = torch.empty_like(x)
    dweight = new(weight.shape, dtype=torch.float32, device=x.device)
    dthreshold = new((weight.shape[0], weight.shape[2]), dtype=torch.float32, device=x.device)
    if x.numel():
        launcher = _Launcher("backward", weight, threshold, sparsity, x, dy, dx)
        start = partial(launcher.start_backward, dweight=dweight, dthreshold=dthreshold)
        start(launcher.best(start))
    if threshold is not None and threshold.ndim == 1:
        dthreshold = dthreshold.sum(1)
    return [
        dx if wanted[0] else None,
        gradient_like(dweight, weight) if wanted[1] else None,
        gradient_like(dthreshold, threshold) if wanted[2] else None,
    ]


register(
    "spectral_gate(Tensor x, Tensor weight, Tensor? threshold, str sparsity) -> Tensor",
    run=_forward,
    backward=_backward,
    reference=reference.spectral_gate,
    served=_served,
    fake=lambda x, *_: torch.empty_like(x),
    leaves=(0, 1, 2),
)
