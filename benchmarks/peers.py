"""ST-GCN and its augmentation as the field's research code writes them: what a step of ours is measured against.

Written anew from their definitions. Clips stay (N, C, T, V) and contiguous, channels are mixed before neighbours are
summed by an einsum, and a clip is augmented alone, in NumPy, where the dataset gives it out.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
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
