"""ST-GCN, the encoder of the field, with a FreST layer in every block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mica.models.frest import FreST, Spatial, Start
from mica.skeleton import SkeletonLayout
from mica.transforms.streams import Stream, to_stream


@dataclass(frozen=True)
class Preset:
    """Output width and temporal stride of each block, and the temporal kernel."""

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    temporal_kernel: int = 9


PRESETS: dict[str, Preset] = {
    # What AimCLR, CrosSCLR and SkeletonCLR call ST-GCN: base width 16, 256 features.
    "stgcn": Preset((16, 16, 16, 16, 32, 32, 32, 64, 64, 256), (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)),
    # The same at the width of the original ST-GCN (Yan et al., AAAI 2018).
    "stgcn-64": Preset((64, 64, 64, 64, 128, 128, 128, 256, 256, 256), (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)),
    # Ours, for CPUs and small sets: four blocks, time shortened from the first on.
    "stgcn-small": Preset((32, 64, 64, 128), (2, 1, 2, 1), temporal_kernel=5),
}


JOINT: tuple[Stream, ...] = ("joint",)

WIDE = 32
"""Channels from which on a temporal convolution on a CPU changes the layout of its input."""


@dataclass
class EncoderConfig:
    """The skeleton encoder.

    Args:
        preset: "stgcn" (the peers'), "stgcn-64" (four times as wide but for its last block), "stgcn-small"
            (for CPUs and small sets).
        frest: put a FreST layer behind every block.
        groups: channel groups with a spectral filter of their own.
        sparsity: what the gate switches off: a "joint" of a clip, a frequency "bin" of a joint, or null for nothing.
        spatial: spatial frequencies of the skeleton "graph", "dft" over the joint index, or null for none.
        start: how FreST layers start: as the "identity", or with "random" filters that mix time from the first step on.
        temporal_kernel: frames that a temporal convolution sees, an odd number; null for the preset's. With 1 it is
            FreST alone that mixes time.
        dropout: share of features dropped behind each temporal convolution.
        inputs: what it makes of the clip and takes in side by side: "joint" is the clip as it comes, "bone" the way
            from each joint's parent to it, "motion" the way to the next frame. The peers' encoder has the first alone.
    """

    preset: str = "stgcn"
    frest: bool = True
    groups: int = 4
    sparsity: Literal["joint", "bin"] | None = "joint"
    spatial: Spatial | None = "graph"
    start: Start = "identity"
    temporal_kernel: int | None = None
    dropout: float = 0.0
    inputs: list[Stream] = field(default_factory=lambda: list(JOINT))


class STGCN(nn.Module):
    """Spatial-temporal graph convolutions over a skeleton: (N, 3, T, V) -> feature map (N, width, T', V).

    Args:
        layout: the skeleton; gives V and the graph.
        preset: a name in `PRESETS`; "stgcn" without FreST is the encoder of AimCLR and its kin, to the parameter.
        num_frames: T at which FreST's filters are made (other T are served, see `FreST`).
        in_channels: 3 coordinates, or 2.
        frest: put a FreST layer behind every block.
        groups, sparsity, spatial: of the FreST layers.
        dropout: share of features dropped behind each temporal convolution.
        inputs: what is made of the clip first, as of `EncoderConfig`: each takes `in_channels` of the input.
        start: of the FreST layers.
        temporal_kernel: frames that a temporal convolution sees, an odd number; None for the preset's.

    Raises ValueError for an unknown preset, inputs that are unknown, repeated or none, and an even temporal kernel, and
    where `FreST` does; `forward`, for another number of joints.

    Source: Yan et al., AAAI 2018 (arXiv 1801.07455), as AimCLR reduces it; FreST in each block as in MICA.

    >>> from mica.skeleton import get_layout
    >>> encoder = STGCN(get_layout("ntu-25"), preset="stgcn", frest=False)
    >>> sum(p.numel() for p in encoder.parameters())
    821380
    >>> encoder(torch.randn(2, 3, 64, 25)).shape
    torch.Size([2, 256, 16, 25])
    """

    def __init__(
        self,
        layout: SkeletonLayout,
        preset: str = "stgcn",
        num_frames: int = 64,
        in_channels: int = 3,
        frest: bool = True,
        groups: int = 4,
        sparsity: Literal["joint", "bin"] | None = "joint",
        spatial: Spatial | None = "graph",
        dropout: float = 0.0,
        inputs: Sequence[Stream] = JOINT,
        start: Start = "identity",
        temporal_kernel: int | None = None,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
        if not inputs or len(set(inputs)) < len(inputs) or not set(inputs) <= set(get_args(Stream)):
            raise ValueError(
                f"inputs must be some of {', '.join(get_args(Stream))}, each once; got {list(inputs)}"
            )
        shape = PRESETS[preset]
        kernel = shape.temporal_kernel if temporal_kernel is None else temporal_kernel
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"temporal_kernel must be odd and at least 1; got {kernel}")
        self.layout, self.width, self.inputs = layout, shape.widths[-1], tuple(inputs)
        in_channels *= len(inputs)
        self.input_norm = nn.BatchNorm1d(in_channels * layout.num_joints)
        adjacency = torch.from_numpy(layout.adjacency())
        blocks: list[nn.Module] = []
        width, frames = in_channels, num_frames
        for index, (out_width, stride) in enumerate(zip(shape.widths, shape.strides, strict=True)):
            residual = index > 0
            blocks.append(STGCNBlock(width, out_width, adjacency, kernel, stride, residual, dropout))
            width, frames = out_width, (frames - 1) // stride + 1
            if frest:
                joints = layout.num_joints
                blocks.append(FreST(width, frames, joints, groups, sparsity, spatial, layout, start))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N width T_out V"]:
        num_joints = self.layout.num_joints
        if x.ndim != 4 or x.shape[3] != num_joints:
            raise ValueError(
                f"expected (N, C, T, {num_joints}) for layout {self.layout.name}, got {tuple(x.shape)}"
            )
        return laid_out(self.blocks(self.normalised(x).contiguous(memory_format=torch.channels_last)))

    def normalised(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C_in T V"]:
        """The inputs side by side, each coordinate of each joint by itself brought to mean 0 and variance 1."""
        streams = [to_stream(x[..., None], stream, self.layout)[..., 0] for stream in self.inputs]
        joints = self.input_norm(rearrange(torch.cat(streams, dim=1), "n c t v -> n (v c) t"))
        return rearrange(joints, "n (v c) t -> n c t v", v=self.layout.num_joints)

    @property
    def frest_layers(self) -> list[FreST]:
        return [block for block in self.blocks if isinstance(block, FreST)]


class GraphConv(nn.Module):
    """Graph convolution with a learned importance for each edge: sum over k of (W_k x + b_k) (A_k * E_k).

    Args:
        adjacency: A, a matrix for each of K kinds of neighbours.

    Shape: (N, C, T, V) -> (N, C_out, T, V).

    Source: ST-GCN, Yan et al., AAAI 2018 (arXiv 1801.07455).
    """

    def __init__(self, in_channels: int, out_channels: int, adjacency: Float[Tensor, "K V V"]) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency, persistent=False)
        self.adjacency: Tensor
        self.edge_importance = nn.Parameter(torch.ones_like(adjacency))
        self.conv = nn.Conv2d(in_channels, out_channels * len(adjacency), kernel_size=1)

    def forward(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C_out T V"]:
        # Neighbours are summed before the channels are mixed: the same sum, over fewer channels. In channels_last
        # memory a frame is already the matrix V x C, so this is one batched product, and every view below is free.
        frames = rearrange(x, "n c t v -> (n t) v c")
        neighbours = (self.adjacency * self.edge_importance).to(x.dtype)
        gather = rearrange(neighbours, "k v w -> (w k) v").expand(frames.shape[0], -1, -1)
        gathered = rearrange(torch.bmm(gather, frames), "f (w k) c -> f w (k c)", k=len(neighbours))
        weight = rearrange(self.conv.weight, "(k o) c 1 1 -> o (k c)", k=len(neighbours))
        assert self.conv.bias is not None
        bias = rearrange(self.conv.bias, "(k o) -> k o", k=len(neighbours)).to(x.dtype)
        out = F.linear(gathered, weight).add_(neighbours.sum(1).T @ bias)
        return rearrange(out, "(n t) w c -> n c t w", n=x.shape[0], t=x.shape[2])


class TemporalConv(nn.Conv2d):
    """Convolution over `kernel` frames, an odd number, joint by joint, zeros before and after the clip.

    Shape: (N, C, T, V) -> (N, C, (T - 1) // stride + 1, V).
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        # No other choice of a convolution's: the way over joints below knows of none.
        super().__init__(channels, channels, (kernel, 1), (stride, 1), (kernel // 2, 0))

    def forward(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C_out T_out V"]:
        turned = x.device.type == "cpu" and x.dtype.itemsize >= 4 and self.training
        if not turned or self.out_channels < WIDE:
            return super().forward(x)
        # In float32 oneDNN makes the weights' gradient twice as fast where frames and not joints are the inner axis,
        # which is worth four copies; of narrow feature maps it is not.
        by_joint = laid_out(x).transpose(2, 3).contiguous(memory_format=torch.channels_last)
        out = F.conv2d(
            by_joint, self.weight.transpose(2, 3), self.bias, self.stride[::-1], self.padding[::-1]
        )
        return out.transpose(2, 3).contiguous(memory_format=torch.channels_last)


def laid_out(x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C T V"]:
    """x in channels_last memory, and its gradient too, in whatever layout that comes: mixed layouts are slow."""
    rows = rearrange(x, "n c t v -> (n t v) c")
    return rearrange(rows, "(n t v) c -> n c t v", n=x.shape[0], t=x.shape[2], v=x.shape[3])


class STGCNBlock(nn.Module):
    """Graph convolution over joints, then a convolution over frames, with a residual around both.

    Args:
        adjacency: of `GraphConv`.
        temporal_kernel: frames that the second convolution sees, an odd number.
        stride: of the second convolution.
        residual: whether there is one; where width or length change it is a convolution of one frame and joint.
        dropout: share of features dropped behind the second convolution.

    Shape: (N, C, T, V) -> (N, C_out, (T - 1) // stride + 1, V).

    Source: ST-GCN, Yan et al., AAAI 2018 (arXiv 1801.07455).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        adjacency: Float[Tensor, "K V V"],
        temporal_kernel: int,
        stride: int,
        residual: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.graph = GraphConv(in_channels, out_channels, adjacency)
        self.temporal = nn.Sequential(
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            TemporalConv(out_channels, temporal_kernel, stride),
            nn.BatchNorm2d(out_channels),
            nn.Dropout(dropout),
        )
        self.residual: nn.Module | None
        if not residual:
            self.residual = None
        elif in_channels == out_channels and stride == 1:
            self.residual = nn.Identity()
        else:
            self.residual = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, (stride, 1)), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C_out T_out V"]:
        out = self.temporal(self.graph(x))
        if self.residual is not None:
            out = out.add_(self.residual(x))
        return F.relu_(out)
