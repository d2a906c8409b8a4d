from __future__ import annotations

import numpy as np
import pytest

from mica.skeleton import LAYOUTS, SkeletonLayout, infer_layout, layout_from_dict, standing_pose
from mica.skeleton.pose import STANDING

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


@every_layout
def test_a_person_stands_upright(layout: SkeletonLayout) -> None:
    assert set(layout.joints) <= set(STANDING)
    pose = standing_pose(layout)
    place = dict(zip(layout.joints, pose, strict=True))
    assert pose.shape == (layout.num_joints, 2)
    assert pose[:, 1].min() >= 0
    assert pose[:, 1].max() < 1.8
    np.testing.assert_allclose(pose[list(layout.mirror)], pose * [-1, 1], atol=1e-12)
    for side, sign in (("left", 1), ("right", -1)):
        heights = [place[f"{side} {joint}"][1] for joint in ("shoulder", "elbow", "hip", "knee", "ankle")]
        assert heights == sorted(heights, reverse=True)
        assert all(sign * place[name][0] > 0 for name in layout.joints if name.startswith(side))
    lengths = [np.linalg.norm(pose[child] - pose[parent]) for child, parent in layout.bones]
    assert min(lengths) > 0.02
    assert max(lengths) < 0.55
    apart = np.linalg.norm(pose[:, None] - pose[None], axis=2)[~np.eye(len(pose), dtype=bool)]
    assert apart.min() > 0.02


def test_unknown_joints_stand_between_or_beyond() -> None:
    joints = (
        "world",
        "hips",
        "l_thigh",
        "r_thigh",
        "belly",
        "chest",
        "l_arm",
        "r_arm",
        "l_ring",
        "r_ring",
        "l_bump",
        "r_bump",
    )
    layout = infer_layout("rig", joints, (0, 0, 1, 1, 1, 4, 5, 5, 6, 7, 6, 7))
    pose = standing_pose(layout)
    assert np.isfinite(pose).all()
    belly, chest = joints.index("belly"), joints.index("chest")
    assert pose[1, 1] < pose[belly, 1] < pose[chest, 1] < pose[6, 1]
    np.testing.assert_allclose(pose[list(layout.mirror)], pose * [-1, 1], atol=1e-9)
    apart = np.linalg.norm(pose[:, None] - pose[None], axis=2)[~np.eye(len(pose), dtype=bool)]
    assert apart.min() > 0.01


def test_a_body_without_known_names_has_places() -> None:
    d = {
        "name": "letters", "joints": list("abcdefg"), "parents": [-1, 0, 1, 1, 0, 0, 0],
        "mirror": [["c", "d"], ["e", "f"]],
        "parts": {"torso": list("gab"), "left arm": ["c"], "right arm": ["d"], "left leg": ["e"], "right leg": ["f"]},
        "landmarks": {"left hip": "e", "right hip": "f", "left shoulder": "c", "right shoulder": "d"},
    }  # fmt: skip
    pose = standing_pose(layout_from_dict(d))
    assert np.isfinite(pose).all()
    np.testing.assert_allclose(pose[2], STANDING["left shoulder"])
    assert 0.9 < pose[0, 1] < pose[1, 1] < 1.5
