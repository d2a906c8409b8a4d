"""ST-GCN and its augmentation as the field's research code writes them: what a step of ours is measured against.

Written anew from their definitions. Clips stay (N, C, T, V) and contiguous, channels are mixed before neighbours are
summed by an einsum, and a clip is augmented alone, in NumPy, where the dataset gives it out.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.utils.data import Dataset

from mica.models.stgcn import PRESETS, STGCN, STGCNBlock
from mica.skeleton import SkeletonLayout


class PeerSTGCN(nn.Module):
    """ST-GCN as the peers write it: (N, 3, T, V) -> feature map (N, width, T', V).

    >>> from mica.skeleton import get_layout
    >>> encoder = PeerSTGCN(get_layout("ntu-25"))
    >>> sum(p.numel() for p in encoder.parameters())
    821380
    >>> encoder(torch.randn(2, 3, 64, 25)).shape
    torch.Size([2, 256, 16, 25])
    """

    def __init__(self, layout: SkeletonLayout, preset: str = "stgcn", dropout: float = 0.0) -> None:
        super().__init__()
        shape = PRESETS[preset]
        self.layout, self.width = layout, shape.widths[-1]
        adjacency = torch.from_numpy(layout.adjacency())
        self.data_bn = nn.BatchNorm1d(3 * layout.num_joints)
        self.st_gcn_networks = nn.ModuleList()
        self.edge_importance = nn.ParameterList()
        channels = 3
        for index, (width, stride) in enumerate(zip(shape.widths, shape.strides, strict=True)):
            block = PeerBlock(
                channels, width, len(adjacency), shape.temporal_kernel, stride, index > 0, dropout
            )
            self.st_gcn_networks.append(block)
            self.edge_importance.append(nn.Parameter(torch.ones_like(adjacency)))
            channels = width
        self.register_buffer("adjacency", adjacency)

    def forward(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N width T_out V"]:
        n, c, t, v = x.shape
        x = x.permute(0, 3, 1, 2).contiguous().view(n, v * c, t)
        x = self.data_bn(x).view(n, v, c, t).permute(0, 2, 3, 1).contiguous()
        for block, importance in zip(self.st_gcn_networks, self.edge_importance, strict=True):
            x = block(x, self.adjacency * importance)
        return x


class PeerBlock(nn.Module):
    """Graph convolution, temporal convolution, residual."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        partitions: int,
        temporal_kernel: int,
        stride: int,
        residual: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.partitions = partitions
        self.gcn = nn.Conv2d(in_channels, out_channels * partitions, kernel_size=1)
        padding = ((temporal_kernel - 1) // 2, 0)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, (temporal_kernel, 1), (stride, 1), padding),
            nn.BatchNorm2d(out_channels),
            nn.Dropout(dropout, inplace=True),
        )
        self.residual: nn.Module | None = None
        if residual and in_channels == out_channels and stride == 1:
            self.residual = nn.Identity()
        elif residual:
            self.residual = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=(stride, 1)),
                nn.BatchNorm2d(out_channels),
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(
        self, x: Float[Tensor, "N C T V"], adjacency: Float[Tensor, "K V V"]
    ) -> Float[Tensor, "N C_out T_out V"]:
        residual = 0 if self.residual is None else self.residual(x)
        mixed = self.gcn(x)
        n, kc, t, v = mixed.shape
        mixed = mixed.view(n, self.partitions, kc // self.partitions, t, v)
        gathered = torch.einsum("nkctv,kvw->nctw", mixed, adjacency).contiguous()
        return self.relu(self.tcn(gathered) + residual)


def copy_weights(ours: STGCN, theirs: PeerSTGCN) -> None:
    """Give the peers' encoder the parameters and statistics of ours; FreST layers have no counterpart."""
    blocks = [block for block in ours.blocks if isinstance(block, STGCNBlock)]
    theirs.data_bn.load_state_dict(ours.input_norm.state_dict())
    for index, (source, target) in enumerate(zip(blocks, theirs.st_gcn_networks, strict=True)):
        target.gcn.load_state_dict(source.graph.conv.state_dict())
        target.tcn.load_state_dict(source.temporal.state_dict())
        if source.residual is not None:
            target.residual.load_state_dict(source.residual.state_dict())
        with torch.no_grad():
            theirs.edge_importance[index].copy_(source.graph.edge_importance)


class TwoViews(Dataset[tuple[np.ndarray, np.ndarray, int]]):
    """Two augmented views of each clip (C, T, V, M), and its label."""

    def __init__(self, clips: Float[np.ndarray, "N C T V M"], labels: np.ndarray, seed: int = 0) -> None:
        self.clips, self.labels, self.draw = clips, labels, np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, int]:
        clip = self.clips[index]
        return view(clip, self.draw), view(clip, self.draw), int(self.labels[index])


def view(clip: Float[np.ndarray, "C T V M"], draw: np.random.Generator) -> Float[np.ndarray, "C T V M"]:
    """AimCLR's basic view: crop, then shear."""
    return shear(crop(clip, draw), draw)


def strong_view(
    clip: Float[np.ndarray, "C T V M"], layout: SkeletonLayout, draw: np.random.Generator
) -> Float[np.ndarray, "C T V M"]:
    """AimCLR's strong view: also flip, rotation, noise, blur and axis mask, in NumPy's doubles."""
    turned = rotate(flip(view(clip, draw), layout, draw), draw)
    masked = axis_mask(blur(noise(turned, draw), draw), draw)
    return np.ascontiguousarray(masked, dtype=np.float32)


def crop(
    clip: Float[np.ndarray, "C T V M"], draw: np.random.Generator, share: int = 6
) -> Float[np.ndarray, "C T V M"]:
    """Reflect-pad a sixth of T on both sides, then cut a random window of T."""
    frames = clip.shape[1]
    pad = frames // share
    padded = np.pad(clip, ((0, 0), (pad, pad), (0, 0), (0, 0)), mode="reflect")
    start = draw.integers(0, 2 * pad + 1)
    return padded[:, start : start + frames]


def shear(
    clip: Float[np.ndarray, "C T V M"], draw: np.random.Generator, amplitude: float = 0.5
) -> Float[np.ndarray, "C T V M"]:
    """Multiply every joint by a matrix of ones on the diagonal and uniform entries elsewhere."""
    matrix = draw.uniform(-amplitude, amplitude, (3, 3))
    np.fill_diagonal(matrix, 1.0)
    sheared = np.dot(clip.transpose(1, 2, 3, 0), matrix.T)
    return np.ascontiguousarray(sheared.transpose(3, 0, 1, 2), dtype=np.float32)


def flip(
    clip: Float[np.ndarray, "C T V M"], layout: SkeletonLayout, draw: np.random.Generator
) -> Float[np.ndarray, "C T V M"]:
    """Exchange left and right joints, half of the time."""
    return clip[:, :, list(layout.mirror)] if draw.random() < 0.5 else clip


def rotate(clip: Float[np.ndarray, "C T V M"], draw: np.random.Generator) -> Float[np.ndarray, "C T V M"]:
    """Turn about x, then y, then z: about one of them by up to 30 degrees, about the others by up to 1."""
    points = clip.transpose(1, 2, 3, 0)
    main = draw.integers(3)
    for axis in range(3):
        angle = math.radians(draw.uniform(0, 30 if axis == main else 1))
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = np.eye(3)
        one, two = (axis + 1) % 3, (axis + 2) % 3
        matrix[one, one] = matrix[two, two] = cos
        matrix[one, two], matrix[two, one] = -sin, sin
        points = np.dot(points, matrix.T)
    return points.transpose(3, 0, 1, 2)


def noise(clip: Float[np.ndarray, "C T V M"], draw: np.random.Generator) -> Float[np.ndarray, "C T V M"]:
    """Add normal noise of 0.01, half of the time."""
    return clip + draw.normal(0, 0.01, clip.shape) if draw.random() < 0.5 else clip


def blur(
    clip: Float[np.ndarray, "C T V M"], draw: np.random.Generator, taps: int = 15
) -> Float[np.ndarray, "C T V M"]:
    """Smooth over time by a Gaussian that is not normalised, past the ends of the clip zeros, half of the time."""
    sigma = draw.uniform(0.1, 2)
    offsets = np.arange(taps) - taps // 2
    kernel = torch.from_numpy(np.exp(-(offsets**2) / (2 * sigma**2)).astype(clip.dtype)).repeat(
        len(clip), 1, 1, 1
    )
    if draw.random() >= 0.5:
        return clip
    lines = torch.from_numpy(clip.transpose(3, 0, 2, 1))
    smooth = conv2d(lines, kernel, padding=(0, taps // 2), groups=len(clip))
    return smooth.permute(1, 3, 2, 0).numpy()


def axis_mask(clip: Float[np.ndarray, "C T V M"], draw: np.random.Generator) -> Float[np.ndarray, "C T V M"]:
    """Zero one of x, y, z, half of the time."""
    if draw.random() >= 0.5:
        return clip
    masked = clip.copy()
    masked[draw.integers(3)] = 0
    return masked
