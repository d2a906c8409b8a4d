"""From recorded clips to tensors: length, drop-outs, centring, heading; batches against a clip at a time in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mica.skeleton import SkeletonLayout, get_layout
from mica.transforms.sampling import Preprocessing, nearest_seen, prepare

LAYOUT = get_layout("kinect-20")
AS_SEEN = Preprocessing(num_frames=16, align_view=False)


def prepared(clips: list[np.ndarray], layout: SkeletonLayout, persons: int, how: Preprocessing) -> Tensor:
    """A batch of clips (T, M, V, 3), with room for so many persons."""
    held = [np.zeros((len(clip), persons, layout.num_joints, 3), clip.dtype) for clip in clips]
    for place, clip in zip(held, clips, strict=True):
        place[:, : clip.shape[1]] = clip[:, :persons]
    lengths = torch.tensor([len(clip) for clip in clips])
    return prepare(torch.from_numpy(np.concatenate(held)), lengths, layout, how)


def one(clip: np.ndarray, layout: SkeletonLayout, persons: int, how: Preprocessing) -> Tensor:
    return prepared([clip], layout, persons, how)[0]


def defined(clip: np.ndarray, layout: SkeletonLayout, persons: int, how: Preprocessing) -> np.ndarray:
    """One clip, step by step, in doubles."""
    seen = clip.any(axis=(2, 3))
    filled = clip.astype(np.float64)
    for m in range(clip.shape[1]):
        known = np.flatnonzero(seen[:, m])
        for v, c in np.ndindex(*clip.shape[2:] if len(known) else (0, 0)):
            filled[:, m, v, c] = np.interp(
                np.arange(len(clip)), known, clip[known, m, v, c].astype(np.float64)
            )
    positions = np.linspace(0, len(clip) - 1, how.num_frames)
    low = np.floor(positions).astype(int)
    share = (positions - low)[:, None, None, None]
    x = filled[low] * (1 - share) + filled[np.minimum(low + 1, len(clip) - 1)] * share
    origin = x[:, :1, layout.center : layout.center + 1]
    x = x - (origin if how.center == "frame" else origin[:1])
    if how.align_view:
        x = x @ facing_rotation(x[0, 0], layout)
    x[:, ~seen.any(axis=0)] = 0
    out = np.zeros((3, how.num_frames, layout.num_joints, persons))
    out[..., : clip.shape[1]] = x.transpose(3, 0, 2, 1)
    return out


def facing_rotation(frame: np.ndarray, layout: SkeletonLayout) -> np.ndarray:
    """Turns points, from the right, so that the body's right-to-left direction comes to lie along x."""
    marks = layout.landmarks
    across = frame[marks["left shoulder"]] - frame[marks["right shoulder"]]
    across = across + frame[marks["left hip"]] - frame[marks["right hip"]]
    length = np.hypot(across[0], across[2])
    if length < 1e-6:
        return np.eye(3)
    cos, sin = across[0] / length, across[2] / length
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])


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


@given(
    frames=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    num_frames=st.integers(1, 33),
    align_view=st.booleans(),
    center=st.sampled_from(["clip", "frame"]),
    lost=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_a_batch_is_its_clips_by_definition(
    frames: list[int], num_frames: int, align_view: bool, center: str, lost: float, seed: int
) -> None:
    """Of any lengths, with bodies missing anywhere: at the start, at the end, throughout."""
    random = np.random.default_rng(seed)
    clips = []
    for length in frames:
        persons = int(random.integers(1, 3))
        clip = np.stack([person(length, seed=int(random.integers(99))) for _ in range(persons)], axis=1)
        clip[random.random((length, persons)) < lost] = 0
        clips.append(clip)
    how = Preprocessing(num_frames, "joint", align_view, center)
    out = prepared(clips, LAYOUT, 2, how)
    assert (out.shape, out.dtype) == ((len(clips), 3, num_frames, 20, 2), torch.float32)
    assert out.is_contiguous()
    for found, clip in zip(out, clips, strict=True):
        np.testing.assert_allclose(found, defined(clip, LAYOUT, 2, how), atol=2e-5)


@given(
    first=st.integers(1, 9),
    others=st.lists(st.integers(1, 9), max_size=3),
    fill=st.sampled_from([0.0, 1e6]),
)
@settings(deadline=None)
def test_neighbours_in_the_batch_do_not_matter(first: int, others: list[int], fill: float) -> None:
    clip = person(first)[:, None]
    clip[0] = clip[-1] = 0
    around = [np.full((length, 2, 20, 3), fill, np.float32) for length in others]
    out = prepared([*around, clip, *around], LAYOUT, 2, Preprocessing(num_frames=7))
    assert torch.equal(out[len(others)], one(clip, LAYOUT, 2, Preprocessing(num_frames=7)))


@pytest.mark.parametrize("frames", [1, 2, 16, 17, 201, 5000])
@pytest.mark.parametrize("num_frames", [1, 2, 16, 50])
def test_resampling_is_linear_and_keeps_the_ends(frames: int, num_frames: int) -> None:
    clip = person(frames)
    clip[:, LAYOUT.center] = 0  # so that centring changes nothing
    out = one(clip[:, None], LAYOUT, 1, Preprocessing(num_frames, align_view=False))[..., 0].numpy()
    positions = [i * (frames - 1) / (num_frames - 1) if num_frames > 1 else 0.0 for i in range(num_frames)]
    for v, c in np.ndindex(20, 3):
        expected = np.interp(positions, np.arange(frames), clip[:, v, c])
        np.testing.assert_allclose(out[c, :, v], expected, atol=1e-5)
    np.testing.assert_array_equal(out[:, 0], clip[0].T)
    if num_frames > 1:
        np.testing.assert_array_equal(out[:, -1], clip[-1].T)


def test_nearest_seen_frames() -> None:
    frames = torch.ones(6, 2, 20, 3)
    frames[[0, 2, 3]] = 0
    frames[:, 1] = 0
    frames[4, 1, 7, 2] = -1e-30
    before, after = nearest_seen(frames)
    assert before.T.tolist() == [[-1, 1, 1, 1, 4, 5], [-1, -1, -1, -1, 4, 4]]
    assert after.T.tolist() == [[1, 1, 4, 4, 4, 5], [4, 4, 4, 4, 4, 6]]


def test_prepare_lays_out_the_tensor() -> None:
    first, second = person(16), person(16, seed=1)
    out = one(np.stack([first, second], axis=1), LAYOUT, 2, AS_SEEN)
    assert (out.shape, out.dtype, out.is_contiguous()) == ((3, 16, 20, 2), torch.float32, True)
    origin = first[0, LAYOUT.center]
    for t, v in np.ndindex(16, 20):
        np.testing.assert_allclose(out[:, t, v, 0], first[t, v] - origin, atol=1e-5)
        np.testing.assert_allclose(out[:, t, v, 1], second[t, v] - origin, atol=1e-5)


def test_a_number_that_is_none_is_not_passed_over() -> None:
    clip = person(5)[:, None]
    clip[2, 0, 3, 1] = np.nan
    assert one(clip, LAYOUT, 1, Preprocessing(5)).isnan().any()


def test_recorded_clips_are_left_alone() -> None:
    keypoints = torch.from_numpy(person(7)[:, None])
    keypoints[2] = 0
    before = keypoints.clone()
    prepare(keypoints, torch.tensor([7]), LAYOUT, Preprocessing())
    assert torch.equal(keypoints, before)


@pytest.mark.parametrize("center", ["clip", "frame"])
def test_no_value_is_waited_for(center: str) -> None:
    """Tensors of the meta device have no values: whatever looks at one fails."""
    keypoints, lengths = (
        torch.empty(12, 2, 20, 3, device="meta"),
        torch.empty(3, dtype=torch.int64, device="meta"),
    )
    out = prepare(keypoints, lengths, LAYOUT, Preprocessing(16, center=center))
    assert (out.shape, out.device.type) == ((3, 3, 16, 20, 2), "meta")


def test_strides_do_not_matter() -> None:
    keypoints, lengths = (
        torch.from_numpy(np.stack([person(9), person(9, seed=1)], axis=1)),
        torch.tensor([4, 5]),
    )
    strided = keypoints.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    assert not strided.is_contiguous()
    one_way, other_way = (
        prepare(points, lengths, LAYOUT, Preprocessing()) for points in (keypoints, strided)
    )
    assert torch.equal(one_way, other_way)


@pytest.mark.parametrize("center", ["clip", "frame"])
@pytest.mark.parametrize("align_view", [False, True])
def test_one_frame_is_repeated(center: str, align_view: bool) -> None:
    out = one(person(1)[:, None], LAYOUT, 1, Preprocessing(16, "joint", align_view, center))
    assert out.isfinite().all()
    assert torch.equal(out, out[:, :1].expand_as(out))


def test_centring() -> None:
    clip = np.stack([person(16), person(16, seed=1)], axis=1)
    by_clip = one(clip, LAYOUT, 2, AS_SEEN)
    by_frame = one(clip, LAYOUT, 2, Preprocessing(16, align_view=False, center="frame"))
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
    out = one(with_ghost, LAYOUT, 2, how)
    assert not out[..., 1].any()
    assert torch.equal(out, one(alone, LAYOUT, 2, how))
    assert torch.equal(out[..., :1], one(with_ghost, LAYOUT, 1, how))


def test_dropouts_are_interpolated() -> None:
    clip = person(10)[:, None]
    clip -= clip[1, 0, LAYOUT.center]  # the first frame that is seen gives the origin
    damaged = clip.copy()
    damaged[[0, 4, 5, 9]] = 0
    damaged[1, 0, LAYOUT.center] = 0
    out = one(damaged, LAYOUT, 1, Preprocessing(10, align_view=False))[..., 0].numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(out[[1, 2, 3, 6, 7, 8]], damaged[[1, 2, 3, 6, 7, 8], 0])
    np.testing.assert_array_equal(out[[0, 9]], damaged[[1, 8], 0])
    np.testing.assert_allclose(out[4], clip[3, 0] * 2 / 3 + clip[6, 0] / 3, atol=1e-6)
    np.testing.assert_allclose(out[5], clip[3, 0] / 3 + clip[6, 0] * 2 / 3, atol=1e-6)


def test_dropouts_of_one_person_leave_the_other() -> None:
    clip = np.stack([person(8), person(8, seed=1)], axis=1)
    damaged = clip.copy()
    damaged[3:5, 1] = 0
    out, whole = (one(points, LAYOUT, 2, AS_SEEN) for points in (damaged, clip))
    assert torch.equal(out[..., 0], whole[..., 0])
    assert not torch.equal(out[..., 1], whole[..., 1])
    assert (out[..., 1] - whole[..., 1]).abs().max() < 1


def test_a_clip_that_begins_with_a_dropout_is_centred_on_a_body() -> None:
    clip = person(10)[:, None]
    clip[:3] = 0
    out = one(clip, LAYOUT, 1, Preprocessing(16))
    assert not out[:, 0, LAYOUT.center].any()
    assert out.abs().max() < 6


@pytest.mark.parametrize("name", ["kinect-20", "ntu-25"])
def test_aligned_bodies_have_their_left_towards_x(name: str) -> None:
    layout = get_layout(name)
    marks = layout.landmarks
    out = one(person(12, layout)[:, None], layout, 1, Preprocessing(16))[:, 0, :, 0]
    shoulders = out[:, marks["left shoulder"]] - out[:, marks["right shoulder"]]
    across = shoulders + out[:, marks["left hip"]] - out[:, marks["right hip"]]
    assert across[0] > 0
    assert abs(across[2]) < 1e-5


@pytest.mark.parametrize("degrees", [-170.0, -90.0, 12.0, 90.0, 180.0])
def test_alignment_forgets_where_the_camera_stood(degrees: float) -> None:
    clip = np.stack([person(12), person(12, seed=1)], axis=1)
    out, turned = (one(points, LAYOUT, 2, Preprocessing(16)) for points in (clip, turn(clip, degrees)))
    torch.testing.assert_close(turned, out, atol=1e-5, rtol=0)


def test_alignment_is_a_rotation_about_the_vertical() -> None:
    clip = person(12)[:, None]
    plain, turned = (
        one(clip, LAYOUT, 1, Preprocessing(16, align_view=align)).double().flatten(1)
        for align in (False, True)
    )
    np.testing.assert_array_equal(turned[1], plain[1])
    matrix = np.linalg.lstsq(plain.numpy().T, turned.numpy().T, rcond=None)[0]
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-6)


def test_a_frame_without_heading_is_not_turned() -> None:
    point = np.ones((20, 3), np.float32)
    upright = np.zeros((20, 3), np.float32)
    upright[:, 1] = np.arange(20)
    for frame in (point, upright):
        clip = np.stack([frame, person(1)[0]])[:, None]
        one_way, other_way = (
            one(clip, LAYOUT, 1, Preprocessing(9, align_view=align)) for align in (False, True)
        )
        assert torch.equal(one_way, other_way)
