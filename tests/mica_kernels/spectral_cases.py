"""What the tests of the spectral gate's kernels share: arguments in every layout, safe thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mica_kernels import spectral_gate
from mica_kernels.launch import Launch
from mica_kernels.spectral import reference
from tests.mica_kernels.lanes import DEVICE

SPARSITIES = ("none", "joint", "bin")
FORMS = ("contiguous", "channels_last", "joints_last", "frames_last", "permuted", "sliced", "expanded")
GRADIENT_FORMS = ("contiguous", "channels_last", "joints_last", "permuted", "sliced", "one_value")

# The form for short clips, and that for long ones, which goes over bins and frames in steps.
SHORT = Launch(columns=16, warps=4, stages=1, programs=1)
LONG = Launch(columns=16, warps=4, stages=1, programs=1, pairs=16, step=16)

fused_gate = partial(spectral_gate, impl="triton")
dense_gate = partial(spectral_gate, impl="dense")
reference_gate = partial(spectral_gate, impl="reference")


@dataclass(frozen=True)
class Case:
    """Everything that decides on the arguments of a call."""

    clips: int = 2
    groups: int = 2
    channels_per_group: int = 2
    frames: int = 9
    joints: int = 3
    sparsity: str = "joint"
    per_joint: bool = True
    quantile: float = 0.4
    form: str = "contiguous"
    dy_form: str = "contiguous"
    weight_dtype: torch.dtype | None = None
    scale: float = 1.0
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.clips, self.groups * self.channels_per_group, self.frames, self.joints

    def arguments(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None, str, Tensor]:
        """x, weight, threshold, sparsity, dy."""
        random = torch.Generator().manual_seed(self.seed)
        x = self.scale * torch.randn(self.shape, generator=random)
        weight = torch.randn(self.groups, self.frames // 2 + 1, self.joints, 2, generator=random)
        dy = torch.randn(self.shape, generator=random)
        x = laid_out(x.to(DEVICE, dtype), self.form)
        dy = laid_out(dy.to(DEVICE, dtype), self.dy_form)
        weight = weight.to(DEVICE, self.weight_dtype or torch.float32)
        threshold = None if self.sparsity == "none" else self.threshold(x, weight).to(weight.dtype)
        return x, weight, threshold, "joint" if threshold is None else self.sparsity, dy

    def threshold(self, x: Tensor, weight: Tensor) -> Tensor:
        """Above about the `quantile` of what it gates; 1 is above all of it, and below 0 stands for no threshold.

        Where the gate closes its gradient jumps. So that rounding decides nothing, a threshold lies in the middle of a
        gap: no size of a signal, or of a bin, that it is compared with is within a hundredth of it.
        """
        if not x.numel():
            return torch.ones((self.groups, self.joints) if self.per_joint else self.groups, device=x.device)
        filtered = reference.spectral_gate(x.double(), weight.double(), None, "joint")
        if self.sparsity == "bin":
            sizes = torch.fft.rfft(filtered, dim=2, norm="ortho").abs()
        else:
            sizes = filtered.square().mean(dim=2, keepdim=True).sqrt()
        sizes = sizes.unflatten(1, (self.groups, self.channels_per_group)).permute(1, 4, 0, 2, 3).flatten(2)
        sizes = sizes if self.per_joint else sizes.flatten(1)
        rows = [_in_a_gap(row, self.quantile) for row in sizes.reshape(-1, sizes.shape[-1])]
        return torch.tensor(rows, device=x.device).reshape(sizes.shape[:-1])


def _in_a_gap(sizes: Tensor, quantile: float) -> float:
    sizes = sizes[sizes > 1e-3].sort().values.tolist()  # silence is below any threshold
    if quantile < 0 or not sizes:
        return 0.0
    bounds = [sizes[0] / 2, *sizes, sizes[-1] * 2]
    gaps = [i for i in range(len(bounds) - 1) if bounds[i + 1] > 1.03 * bounds[i]]
    chosen = min(gaps, key=lambda i: abs(i - quantile * len(sizes)))
    return math.sqrt(bounds[chosen] * bounds[chosen + 1])


def laid_out(base: Tensor, form: str) -> Tensor:
    """The values of `base` in memory of some form; but "expanded" and "one_value" repeat some of them."""
    n, c, t, v = base.shape
    if form == "channels_last":
        return base.to(memory_format=torch.channels_last)
    if form == "frames_last":
        return base.transpose(2, 3).contiguous().transpose(2, 3)
    if form == "joints_last":
        return base.transpose(1, 2).contiguous().transpose(1, 2)
    if form == "permuted":
        return base.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    if form == "sliced":
        storage = torch.full(
            (n + 1, c + 1, 2 * t + 1, v + 2), torch.nan, dtype=base.dtype, device=base.device
        )
        view = storage[1:, 1:, 1::2, 1:-1]
        view.copy_(base)
        return view
    if form == "expanded":
        return base[:1, :, :, :1].expand(base.shape)
    if form == "one_value":
        return base.new_full((), 0.7).expand(base.shape)  # as the gradient of a sum is
    return base.contiguous()
