"""The streams of a skeleton: joints, bones, motion. Computed after augmentation, on the batch's device."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mica.skeleton import SkeletonLayout

Stream = Literal["joint", "bone", "motion"]


def to_stream(
    x: Float[Tensor, "N C T V M"], stream: Stream, layout: SkeletonLayout
) -> Float[Tensor, "N C T V M"]:
    """Return the joints as they are, bones (joint - parent), or motion (x[t+1] - x[t], the last frame 0).

    >>> from mica.skeleton import get_layout
    >>> x = torch.arange(3.0).view(1, 1, 3, 1, 1).expand(1, 3, 3, 20, 1)
    >>> to_stream(x, "motion", get_layout("kinect-20"))[0, 0, :, 0, 0]
    tensor([1., 1., 0.])
    """
    if stream == "joint":
        return x
    if stream == "bone":
        return x - x[:, :, :, list(layout.parents)]
    return torch.cat([x[:, :, 1:] - x[:, :, :-1], torch.zeros_like(x[:, :, :1])], dim=2)
