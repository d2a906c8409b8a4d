"""Pooling against loops; projections."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mica.models.heads import PartPool, Projector
from mica.skeleton import get_layout

LAYOUTS = [get_layout("ntu-25"), get_layout("kinect-20")]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("segments", [1, 2, 4])
def test_parts_are_means_over_joints_and_segments(layout, segments: int) -> None:
    x = torch.randn(2, 3, 8, layout.num_joints, generator=torch.Generator().manual_seed(0))
    pool = PartPool(layout, segments)
    length, expected = 8 // segments, []
    for n in range(2):
        for c in range(3):
            for s in range(segments):
                for joints in layout.parts.values():
                    cell = [x[n, c, t, v].item() for t in range(s * length, (s + 1) * length) for v in joints]
                    expected.append(np.mean(cell))
    assert pool.cells == segments * 5
    np.testing.assert_allclose(pool(x), np.reshape(expected, (2, -1)), atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_mean_pooling_is_the_global_mean(layout) -> None:
    x = torch.randn(2, 3, 7, layout.num_joints)
    pool = PartPool(layout, segments=4, pooling="mean")
    assert pool.cells == 1
    torch.testing.assert_close(pool(x), x.mean((2, 3)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("frames", [1, 3, 5, 7])
def test_any_number_of_frames(frames: int) -> None:
    x = torch.randn(2, 3, frames, 25)
    still = x[:, :, :1].expand_as(x)
    assert PartPool(LAYOUTS[0], 4)(x).shape == (2, 60)
    cells = PartPool(LAYOUTS[0], 4)(still).view(2, 3, 4, 5)
    torch.testing.assert_close(cells, cells[:, :, :1].expand_as(cells))


def test_bfloat16_maps_are_pooled_in_float32() -> None:
    x = torch.randn(2, 3, 8, 25).bfloat16()
    out = PartPool(LAYOUTS[0], 2)(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, PartPool(LAYOUTS[0], 2)(x.float()))


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="pooling must be one of mean, parts; got 'max'"):
        PartPool(LAYOUTS[0], pooling="max")


def test_projector_forgets_scale_and_offset_of_its_input() -> None:
    torch.manual_seed(0)
    projector, x = Projector(6, 8, 4), torch.randn(16, 6)
    out = projector(x)
    assert out.shape == (16, 4)
    torch.testing.assert_close(projector(x * 40 - 7), out, atol=1e-3, rtol=1e-3)
