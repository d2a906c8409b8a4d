"""What stands between the encoder's feature map and the losses: pooling over body parts and time, projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mica.skeleton import SkeletonLayout

Pooling = Literal["mean", "parts"]


@dataclass
class HeadConfig:
    """What the losses compare.

    Args:
        pooling: "parts" keeps body parts and time segments apart, "mean" averages them away as peers do.
        segments: number of time segments with "parts".
        hidden: width of the projections' hidden layer.
        projection: D', the width in which two views are compared (intra).
    """

    pooling: Pooling = "parts"
    segments: int = 4
    hidden: int = 512
    projection: int = 256


class PartPool(nn.Module):
    """Pool a feature map over time segments and body parts, which keeps posture and timing apart from content.

    The peers average over all frames and joints ("mean"); on small sets that throws away what tells actions apart.

    Args:
        layout: gives the parts.
        segments: number of equal time segments.
        pooling: "parts" keeps (segments x parts) averages side by side; "mean" averages everything.

    Shape: (N, C, T, V) -> (N, C * segments * parts), or (N, C) for "mean".

    >>> from mica.skeleton import get_layout
    >>> PartPool(get_layout("ntu-25"), segments=4)(torch.randn(2, 8, 16, 25)).shape
    torch.Size([2, 160])
    """

    def __init__(self, layout: SkeletonLayout, segments: int = 4, pooling: Pooling = "parts") -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}; got {pooling!r}")
        if pooling == "mean":
            segments, membership = 1, torch.full((layout.num_joints, 1), 1 / layout.num_joints)
        else:
            membership = torch.zeros(layout.num_joints, len(layout.parts))
            for column, joints in enumerate(layout.parts.values()):
                membership[list(joints), column] = 1 / len(joints)
        self.segments, self.cells = segments, segments * membership.shape[1]
        self.register_buffer("membership", membership, persistent=False)
        self.membership: Tensor

    def forward(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C_cells"]:
        # In channels_last memory, as the encoder leaves it, a frame is the matrix V x C, and nothing is copied.
        frames = x.to(self.membership.dtype).movedim(1, -1)
        parts = (self.membership.T @ frames).movedim(-1, 1)
        segments = nn.functional.adaptive_avg_pool2d(parts, (self.segments, parts.shape[-1]))
        return rearrange(segments, "n c s p -> n (c s p)")


class Projector(nn.Sequential):
    """Linear, BatchNorm, ReLU, linear: from pooled features to where a loss compares them.

    >>> Projector(160, 256, 128)(torch.randn(4, 160)).shape
    torch.Size([4, 128])
    """

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__(
            nn.BatchNorm1d(in_features),
            nn.Linear(in_features, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out_features),
        )
        self.out_features = out_features
