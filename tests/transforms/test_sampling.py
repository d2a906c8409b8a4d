"""From recorded clips to tensors: length, drop-outs, centring, heading."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mica.skeleton import SkeletonLayout, get_layout
from mica.transforms.sampling import Preprocessing, facing_rotation, fill_dropouts, prepare, resample

LAYOUT = get_layout("kinect-20")
AS_SEEN = Preprocessing(num_frames=16, align_view=False)


def person(frames: int, layout: SkeletonLayout = LAYOUT, seed: int = 0) -> np.ndarray:
    """A body (T, V, 3) that walks and wobbles, metres in front of the camera."""
    generator = np.random.default_rng(seed)
    body = generator.normal(size=(layout.num_joints, 3))
    walk = np.cumsum(generator.normal(scale=0.1, size=(frames, 1, 3)), axis=0)
    path = walk + np.array([0.3, 0.8, 3.0])
    return (body + path + generator.normal(scale=0.05, size=(frames, layout.num_joints, 3))).astype(
        np.float32
    )


def turn(points: np.ndarray, degrees: float) -> np.ndarray:
    """Turn about the vertical."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y, z = np.moveaxis(points.astype(np.float64), -1, 0)
    return np.stack([c * x + s * z, y, c * z - s * x], axis=-1).astype(np.float32)


@pytest.mark.parametrize("frames", [1, 2, 16, 17, 201])
@pytest.mark.parametrize("num_frames", [1, 2, 16, 50])
def test_resample_is_linear_interpolation(frames: int, num_frames: int) -> None:
    clip = person(frames)
    out = resample(clip, num_frames)
    assert (out.shape, out.dtype) == ((num_frames, 20, 3), np.float32)
    positions = [i * (frames - 1) / (num_frames - 1) if num_frames > 1 else 0.0 for i in range(num_frames)]
    for v, c in np.ndindex(20, 3):
        np.testing.assert_allclose(
            out[:, v, c], np.interp(positions, np.arange(frames), clip[:, v, c]), atol=1e-5
        )
    np.testing.assert_array_equal(out[0], clip[0])
    if num_frames > 1:
        np.testing.assert_array_equal(out[-1], clip[-1])


def test_prepare_lays_out_the_tensor() -> None:
    first, second = person(16), person(16, seed=1)
    out = prepare(np.stack([first, second], axis=1), LAYOUT, 2, AS_SEEN)
    assert (out.shape, out.dtype, out.is_contiguous()) == ((3, 16, 20, 2), torch.float32, True)
    origin = first[0, LAYOUT.center]
    for t, v in np.ndindex(16, 20):
        np.testing.assert_allclose(out[:, t, v, 0], first[t, v] - origin, atol=1e-5)
        np.testing.assert_allclose(out[:, t, v, 1], second[t, v] - origin, atol=1e-5)


def test_prepare_leaves_the_clip_alone() -> None:
    clip = person(5)[:, None]
    clip[2] = 0
    before = clip.copy()
    clip.flags.writeable = False  # as a memory-mapped store gives it
    prepare(clip, LAYOUT, 2, Preprocessing())
    np.testing.assert_array_equal(clip, before)


@pytest.mark.parametrize("center", ["clip", "frame"])
@pytest.mark.parametrize("align_view", [False, True])
def test_one_frame_is_repeated(center: str, align_view: bool) -> None:
    out = prepare(person(1)[:, None], LAYOUT, 1, Preprocessing(16, "joint", align_view, center))
    assert out.isfinite().all()
    assert torch.equal(out, out[:, :1].expand_as(out))


def test_centring() -> None:
    clip = np.stack([person(16), person(16, seed=1)], axis=1)
    by_clip = prepare(clip, LAYOUT, 2, AS_SEEN)
    by_frame = prepare(clip, LAYOUT, 2, Preprocessing(16, align_view=False, center="frame"))
    assert not by_frame[:, :, LAYOUT.center, 0].any()
    assert not by_clip[:, 0, LAYOUT.center, 0].any()
    path = torch.from_numpy(clip[:, 0, LAYOUT.center] - clip[0, 0, LAYOUT.center]).T
    torch.testing.assert_close(by_clip[:, :, LAYOUT.center, 0], path)
    torch.testing.assert_close(by_clip - path[:, :, None, None], by_frame, atol=1e-5, rtol=0)


@pytest.mark.parametrize("align_view", [False, True])
def test_absent_persons_are_zero(align_view: bool) -> None:
    how = Preprocessing(16, align_view=align_view)
    alone = person(9)[:, None]
    with_ghost = np.concatenate([alone, np.zeros_like(alone)], axis=1)
    out = prepare(with_ghost, LAYOUT, 2, how)
    assert not out[..., 1].any()
    assert torch.equal(out, prepare(alone, LAYOUT, 2, how))
    assert torch.equal(out[..., :1], prepare(with_ghost, LAYOUT, 1, how))


def test_dropouts_are_interpolated() -> None:
    clip = person(10)[:, None]
    damaged = clip.copy()
    damaged[[0, 4, 5, 9]] = 0
    damaged.flags.writeable = False
    filled = fill_dropouts(damaged, damaged.any(axis=(2, 3)))
    np.testing.assert_array_equal(filled[[1, 2, 3, 6, 7, 8]], clip[[1, 2, 3, 6, 7, 8]])
    np.testing.assert_array_equal(filled[[0, 9]], clip[[1, 8]])
    np.testing.assert_allclose(filled[4], clip[3] * 2 / 3 + clip[6] / 3, atol=1e-6)
    np.testing.assert_allclose(filled[5], clip[3] / 3 + clip[6] * 2 / 3, atol=1e-6)
    assert torch.equal(prepare(damaged, LAYOUT, 1, AS_SEEN), prepare(filled, LAYOUT, 1, AS_SEEN))


def test_dropouts_of_one_person_leave_the_other() -> None:
    clip = np.stack([person(8), person(8, seed=1)], axis=1)
    damaged = clip.copy()
    damaged[3:5, 1] = 0
    filled = fill_dropouts(damaged, damaged.any(axis=(2, 3)))
    np.testing.assert_array_equal(filled[:, 0], clip[:, 0])
    assert filled.any(axis=(2, 3)).all()


def test_a_clip_that_begins_with_a_dropout_is_centred_on_a_body() -> None:
    clip = person(10)[:, None]
    clip[:3] = 0
    out = prepare(clip, LAYOUT, 1, Preprocessing(16))
    assert not out[:, 0, LAYOUT.center].any()
    assert out.abs().max() < 6


@pytest.mark.parametrize("name", ["kinect-20", "ntu-25"])
def test_aligned_bodies_face_the_camera(name: str) -> None:
    layout = get_layout(name)
    marks = layout.landmarks
    out = prepare(person(12, layout)[:, None], layout, 1, Preprocessing(16))[:, 0, :, 0]
    shoulders = out[:, marks["left shoulder"]] - out[:, marks["right shoulder"]]
    across = shoulders + out[:, marks["left hip"]] - out[:, marks["right hip"]]
    assert across[0] > 0
    assert abs(across[2]) < 1e-5


@pytest.mark.parametrize("degrees", [-170.0, -90.0, 12.0, 90.0, 180.0])
def test_alignment_forgets_where_the_camera_stood(degrees: float) -> None:
    clip = np.stack([person(12), person(12, seed=1)], axis=1)
    out, turned = (prepare(points, LAYOUT, 2, Preprocessing(16)) for points in (clip, turn(clip, degrees)))
    torch.testing.assert_close(turned, out, atol=1e-5, rtol=0)


def test_alignment_is_a_rotation_about_the_vertical() -> None:
    matrix = facing_rotation(person(1)[0], LAYOUT).astype(np.float64)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(matrix[1], [0, 1, 0])


def test_a_frame_without_heading_is_not_turned() -> None:
    point = np.ones((20, 3), np.float32)
    upright = np.zeros((20, 3), np.float32)
    upright[:, 1] = np.arange(20)
    for frame in (point, upright):
        np.testing.assert_array_equal(facing_rotation(frame, LAYOUT), np.eye(3))
