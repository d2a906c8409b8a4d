"""FreST: the frequency-domain spatial-temporal block, a layer to drop into other models."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mica.skeleton import SkeletonLayout
from mica_kernels import spectral_gate
from mica_kernels.nn import SpectralGate
from mica_kernels.spectral.reference import complex_bins

Spatial = Literal["graph", "dft"]
Start = Literal["identity", "random"]


class FreST(nn.Module):
    """Filter the joints of a body in frequency, switch the weak ones off, and add the result: x + f(x).

    Spatial frequencies are scaled by a learned response (`spatial`: over the skeleton graph, over the joint index, or
    None), temporal frequencies by `spectral_gate`; a 1x1 convolution mixes the channels and a BatchNorm whose scale
    starts at 0 makes a new layer the identity, so that it can be put into a trained model without harm. Short
    trainings leave it close to that: where it is to mix time from the first step on, let it start at random.

    Args:
        channels: C, divisible by `groups`.
        num_frames: T that the filter is made for; other T are served by resampling the filter over frequency.
        num_joints: V.
        groups: G, how many channel groups have a filter of their own.
        sparsity: "joint" switches whole joints of a clip off, "bin" single frequencies of a joint, None nothing.
        spatial: which spatial frequencies; "graph" needs `layout`.
        layout: the skeleton, for its graph.
        start: "identity", or "random": filters whose every coefficient is drawn, and a scale of 1.

    Shape: (N, C, T, V) -> the same, any float dtype, any strides.

    Raises ValueError for an unknown `start`, `spatial` or `sparsity`, `groups` that do not divide C, T < 1, and
    spatial="graph" without a layout or with one of other joints; `forward`, for another C or V.

    Source: MICA (Sensors 2025, 25(21), 6532) names the block and its two principles; the layer is our reading of it.

    >>> x = torch.randn(2, 8, 64, 25)
    >>> layer = FreST(channels=8, num_frames=64, num_joints=25, groups=4, spatial="dft")
    >>> bool(torch.equal(layer(x), x)), layer(x[:, :, :50]).shape
    (True, torch.Size([2, 8, 50, 25]))
    """

    def __init__(
        self,
        channels: int,
        num_frames: int,
        num_joints: int,
        groups: int = 4,
        sparsity: Literal["joint", "bin"] | None = "joint",
        spatial: Spatial | None = "graph",
        layout: SkeletonLayout | None = None,
        start: Start = "identity",
    ) -> None:
        super().__init__()
        if start not in get_args(Start):
            raise ValueError(f"start must be one of {', '.join(get_args(Start))}; got {start!r}")
        self.channels, self.num_frames, self.num_joints, self.groups = (
            channels,
            num_frames,
            num_joints,
            groups,
        )
        self.gate = SpectralGate(channels, num_frames, num_joints, groups=groups, sparsity=sparsity)
        self.mix = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        if start == "identity":
            nn.init.zeros_(self.norm.weight)
        else:
            self._draw_filter()
        self.spatial_basis: Tensor | None
        if spatial is None:
            self.register_buffer("spatial_basis", None)
            self.register_parameter("spatial_response", None)
        else:
            basis = torch.from_numpy(spatial_basis(spatial, num_joints, layout))
            self.register_buffer("spatial_basis", basis, persistent=False)
            self.spatial_response = nn.Parameter(torch.ones(groups, num_joints))

    @torch.no_grad()
    def _draw_filter(self) -> None:
        """Draw the filter: of each coefficient, complex or real, the mean square is 1."""
        nn.init.normal_(self.gate.weight, std=math.sqrt(0.5))
        has_both = complex_bins(self.num_frames, self.gate.weight.device)[:, None]
        real, imaginary = self.gate.weight.unbind(-1)
        real.mul_(torch.where(has_both, 1.0, math.sqrt(2)))
        imaginary.masked_fill_(~has_both, 0.0)  # they would do nothing, and never learn

    def forward(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C T V"]:
        if x.ndim != 4 or x.shape[1] != self.channels or x.shape[3] != self.num_joints:
            raise ValueError(
                f"FreST expects (N, {self.channels}, T, {self.num_joints}), got {tuple(x.shape)}: "
                "(clips, channels, frames, joints)"
            )
        return x + self.norm(self.mix(self.filter(x)))

    def filter(self, x: Float[Tensor, "N C T V"], gated: bool = True) -> Float[Tensor, "N C T V"]:
        """The filtered signal alone, before channels are mixed: spatial response, then the spectral gate."""
        if self.spatial_basis is not None:
            x = self._spatial(x)
        weight, threshold = self.gate_at(x.shape[2])
        return spectral_gate(x, weight, threshold if gated else None, sparsity=self.gate.sparsity or "joint")

    def gate_at(self, num_frames: int) -> tuple[Float[Tensor, "G F V 2"], Float[Tensor, "G V"] | None]:
        """The gate's filter and threshold for signals of `num_frames`."""
        threshold = self.gate.threshold
        if threshold is not None and self.gate.sparsity == "bin":
            # The coefficient of a wave grows as sqrt(T) with the number of samples of the same clip.
            threshold = threshold * math.sqrt(num_frames / self.num_frames)
        # More frames than it was made for repeat its last bin, which is complex there even where it was real here.
        weight = self._acting_filter() if num_frames > self.num_frames else self.gate.weight
        return resample_spectrum(weight, num_frames), threshold

    def _acting_filter(self) -> Float[Tensor, "G F V 2"]:
        """The filter without what does nothing: the imaginary part in the bins where spectra are real."""
        has_both = complex_bins(self.num_frames, self.gate.weight.device)[:, None]
        real, imaginary = self.gate.weight.unbind(-1)
        return torch.stack([real, imaginary.masked_fill(~has_both, 0.0)], dim=-1)

    def joint_mixing(self) -> Float[Tensor, "G V V"]:
        """What scales the spatial frequencies, as a matrix over the joints: x @ it. Needs a spatial basis."""
        return torch.einsum("vk,gk,wk->gvw", self.spatial_basis, self.spatial_response, self.spatial_basis)

    def _spatial(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C T V"]:
        if x.stride(1) < x.stride(3):
            return self._spatial_channels_last(x)
        mixing = self.joint_mixing().to(x.dtype)
        if self.groups == 1:
            return x @ mixing[0]
        grouped = x.unflatten(1, (self.groups, -1))
        return torch.einsum("ngctv,gvw->ngctw", grouped, mixing).flatten(1, 2)

    def _spatial_channels_last(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C T V"]:
        """The same where a frame is already a matrix V x C, and the result is one, too: all views are free."""
        assert self.spatial_basis is not None
        frames = rearrange(x, "n c t v -> (n t) v c")
        basis = self.spatial_basis.to(x.dtype).expand(frames.shape[0], -1, -1)
        # Into the frequencies and out again is two products for all groups at once. One with the mixing matrix of each
        # group would have its channels to cut out and to put back, and a V x V gradient of every frame to add up.
        waves = torch.bmm(basis.mT, frames)
        response = self.spatial_response.T.repeat_interleave(self.channels // self.groups, dim=1)
        out = torch.bmm(basis, waves * response.to(waves.dtype))
        return rearrange(out, "(n t) v c -> n c t v", n=x.shape[0], t=x.shape[2])

    @torch.no_grad()
    def gate_map(self, x: Float[Tensor, "N C T V"] | None = None) -> dict[str, Tensor]:
        """What the gate keeps, for people to look at.

        Returns "filter": the filter's magnitude (joints, frequencies), mean over groups; and, where `x` is given,
        "kept": of the channels in which a joint of a clip moves at all, the share that the gate lets pass, (clips,
        joints), in [0, 1].
        """
        out = {"filter": torch.linalg.vector_norm(self._acting_filter(), dim=-1).mean(0).T}
        if x is not None:
            filtered, gated = self.filter(x, gated=False), self.filter(x)
            active, passed = (signal.abs().amax(2).gt(0).sum(1) for signal in (filtered, gated))
            out["kept"] = passed / active.clamp_min(1)
        return out


def spatial_basis(kind: Spatial, num_joints: int, layout: SkeletonLayout | None) -> Float[np.ndarray, "V V"]:
    """Orthonormal spatial frequencies of the joints, low ones first, one a column."""
    if kind == "dft":
        return real_fourier_basis(num_joints)
    if kind != "graph":
        raise ValueError(f'spatial must be "graph", "dft" or None, got {kind!r}')
    if layout is None:
        raise ValueError('spatial="graph" needs the skeleton: pass layout=, or spatial="dft" or None')
    if layout.num_joints != num_joints:
        raise ValueError(f"layout {layout.name} has {layout.num_joints} joints, the layer {num_joints}")
    return layout.graph_fourier_basis()


def real_fourier_basis(size: int) -> Float[np.ndarray, "size size"]:
    """The real Fourier basis over an index: constant, then a cosine and a sine for each frequency.

    >>> basis = real_fourier_basis(5)
    >>> bool(np.allclose(basis.T @ basis, np.eye(5), atol=1e-6))
    True
    """
    angles = 2 * np.pi * np.outer(np.arange(size), np.arange(1, (size + 1) // 2)) / size
    waves = np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(size, -1) * np.sqrt(2 / size)
    columns = [np.full((size, 1), size**-0.5), waves]
    if size % 2 == 0:
        columns.append((size**-0.5) * (-1.0) ** np.arange(size)[:, None])
    return np.concatenate(columns, axis=1).astype(np.float32)


def resample_spectrum(weight: Float[Tensor, "G F V 2"], num_frames: int) -> Float[Tensor, "G F_new V 2"]:
    """Give a filter the bins that clips of `num_frames` have.

    Bin f means f cycles a clip, at whatever rate the clip is sampled: so a shorter T drops the highest bins and a
    longer one repeats the last. Filtering then commutes with resampling the clip, which is what lets one checkpoint
    serve 50, 64 or 120 frames.

    >>> resample_spectrum(torch.ones(1, 33, 25, 2), 50).shape
    torch.Size([1, 26, 25, 2])
    """
    bins = torch.arange(num_frames // 2 + 1, device=weight.device).clamp(max=weight.shape[1] - 1)
    return weight[:, bins]
