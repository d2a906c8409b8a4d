"""Where the bodies of a clip are put before the viewer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica.errors import InputError
from mica.report.motion.scene import TILT, flat, set_scene
from mica.skeleton import get_layout, standing_pose

LAYOUT = get_layout("kinect-20")


def facing(x: float, z: float, frames: int = 4) -> np.ndarray:
    """A body whose left lies in the direction (x, z) from its right."""
    body = np.random.default_rng(0).normal(scale=0.01, size=(frames, 1, 20, 3))
    for name, joint in LAYOUT.landmarks.items():
        body[:, :, joint] += np.array([x, 0, z]) * (1 if "left" in name else -1)
    return body.astype(np.float32)


@pytest.mark.parametrize(("x", "z"), [(0.3, 0.0), (-0.3, 0.0), (0.2, 0.4), (-0.2, 0.4), (-0.1, -0.4)])
def test_bodies_face_the_viewer_unmirrored(x: float, z: float) -> None:
    clip = facing(x, z)
    joints = set_scene(clip, LAYOUT).joints
    marks = LAYOUT.landmarks
    assert (joints[..., marks["left shoulder"], 0] > joints[..., marks["right shoulder"], 0]).all()
    moved, before = joints[0, 0] - joints[0, 0, 0], clip[0, 0] - clip[0, 0, 0].astype(np.float64)
    turn = np.linalg.lstsq(before, moved, rcond=None)[0]
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
    assert np.linalg.det(turn) == pytest.approx(1)
    assert turn[1, 1] == pytest.approx(1)


@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 99))
def test_everything_stands_on_the_floor_within_the_scene(frames: int, persons: int, seed: int) -> None:
    clip = np.random.default_rng(seed).normal(size=(frames, persons, 20, 3)).astype(np.float32)
    clip[0, 0, 3] = np.nan
    clip[-1, -1] = 0
    if frames * persons < 3:
        return
    scene = set_scene(clip, LAYOUT)
    lost = np.isnan(scene.joints).all(axis=(2, 3))
    assert lost[0, 0]
    assert lost[-1, -1]
    assert lost.sum() == 2
    joints = scene.joints[~lost].reshape(-1, 3)
    assert -0.1 * scene.height < joints[:, 1].min() < 0.1 * scene.height
    assert 0.9 * scene.height < joints[:, 1].max() < 1.2 * scene.height
    assert np.hypot(joints[:, 0], joints[:, 2]).max() < 1.2 * scene.radius
    kept = clip[~lost].reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(np.ptp(kept, axis=0), np.ptp(joints, axis=0), rtol=1e-5)


def test_one_wild_frame_does_not_shrink_the_scene() -> None:
    pose = standing_pose(LAYOUT)
    clip = np.concatenate([pose, np.full((20, 1), 2.0)], axis=1) * np.ones((100, 1, 1, 1))
    usual = set_scene(clip, LAYOUT)
    clip[50, 0, 3] = 1e30
    wild = set_scene(clip, LAYOUT)
    assert wild.radius < 1.1 * usual.radius
    assert wild.height < 1.1 * usual.height


@pytest.mark.parametrize(
    ("clip", "problem"),
    [
        (np.zeros((3, 1, 20, 3)), "no body"),
        (np.full((3, 1, 20, 3), np.nan), "no body"),
        (np.ones((0, 1, 20, 3)), "no body"),
        (np.ones((3, 1, 25, 3)), r"shape \(3, 1, 25, 3\), layout kinect-20 needs \(T, M, 20, 3\)"),
        (np.ones((3, 20, 3)), r"shape \(3, 20, 3\)"),
        (np.ones((3, 1, 20, 2)), r"shape \(3, 1, 20, 2\)"),
    ],
)
def test_refuses_what_cannot_be_shown(clip: np.ndarray, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        set_scene(clip, LAYOUT)


def test_view_is_a_rotation_about_the_sideways_axis() -> None:
    points = np.random.default_rng(0).normal(size=(5, 3))
    down = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
    np.testing.assert_allclose(flat(points), [(down @ point)[:2] for point in points])
