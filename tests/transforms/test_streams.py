"""Bones and motion against loops."""

from __future__ import annotations

import pytest
import torch

from mica.skeleton import get_layout
from mica.transforms.streams import to_stream


@pytest.mark.parametrize("name", ["kinect-20", "ntu-25"])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_streams(name: str, frames: int) -> None:
    layout = get_layout(name)
    x = torch.randn(2, 3, frames, layout.num_joints, 2)
    bones, motion = torch.zeros_like(x), torch.zeros_like(x)
    for child, parent in layout.bones:
        bones[:, :, :, child] = x[:, :, :, child] - x[:, :, :, parent]
    for t in range(frames - 1):
        motion[:, :, t] = x[:, :, t + 1] - x[:, :, t]
    assert torch.equal(to_stream(x, "joint", layout), x)
    assert torch.equal(to_stream(x, "bone", layout), bones)
    assert torch.equal(to_stream(x, "motion", layout), motion)
