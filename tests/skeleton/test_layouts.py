"""The layouts against what their owners and the peers publish."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mica.skeleton import LAYOUTS, get_layout
from mica.skeleton.naming import standard_names

EIGHT = (
    *("ntu-25", "kinect-20", "coco-17", "openpose-18", "openpose-25", "h36m-17", "mediapipe-33", "smpl-22"),
)
layouts = pytest.mark.parametrize("name", EIGHT)

# The owners' own words for their joints, in their order.
PUBLISHED = {
    "coco-17": """nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow
        left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle""",
    "openpose-18": """Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist RHip RKnee RAnkle LHip LKnee LAnkle
        REye LEye REar LEar""",
    "openpose-25": """Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist MidHip RHip RKnee RAnkle
        LHip LKnee LAnkle REye LEye REar LEar LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel""",
    "mediapipe-33": """nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer left_ear
        right_ear left_mouth right_mouth left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist
        left_pinky right_pinky left_index right_index left_thumb right_thumb left_hip right_hip left_knee right_knee
        left_ankle right_ankle left_heel right_heel left_foot_index right_foot_index""",
    "h36m-17": """pelvis RHip RKnee RAnkle LHip LKnee LAnkle spine thorax nose head LShoulder LElbow LWrist
        RShoulder RElbow RWrist""",
    "smpl-22": """pelvis left_hip right_hip lower_spine left_knee right_knee middle_spine left_ankle right_ankle
        upper_spine left_foot right_foot neck left_collar right_collar head left_shoulder right_shoulder
        left_elbow right_elbow left_wrist right_wrist""",
}
# Bones as (child, parent) or the other way round, as pyskl, OpenPose, VideoPose3D, MediaPipe and SMPL print them.
BONES = {
    "coco-17": """15-13 13-11 16-14 14-12 11-5 12-6 9-7 7-5 10-8 8-6 5-0 6-0 1-0 3-1 2-0 4-2""",
    "openpose-18": """4-3 3-2 7-6 6-5 13-12 12-11 10-9 9-8 11-5 8-2 5-1 2-1 0-1 15-0 14-0 17-15 16-14""",
    "openpose-25": """1-8 1-2 1-5 2-3 3-4 5-6 6-7 8-9 9-10 10-11 8-12 12-13 13-14 1-0 0-15 15-17 0-16 16-18
        14-19 19-20 14-21 11-22 22-23 11-24""",
    "h36m-17": """0-1 1-2 2-3 0-4 4-5 5-6 0-7 7-8 8-9 9-10 8-11 11-12 12-13 8-14 14-15 15-16""",
    "smpl-22": """1-0 2-0 3-0 4-1 5-2 6-3 7-4 8-5 9-6 10-7 11-8 12-9 13-9 14-9 15-12 16-13 17-14 18-16 19-17
        20-18 21-19""",
    "mediapipe-33": """0-1 1-2 2-3 3-7 0-4 4-5 5-6 6-8 9-0 10-0 11-0 12-0 11-13 13-15 15-17 15-19 15-21 12-14 14-16
        16-18 16-20 16-22 11-23 12-24 23-25 25-27 27-29 27-31 24-26 26-28 28-30 28-32""",
}
# What models of these two bodies were trained with.
ROOTED = {
    "ntu-25": (
        (1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11),
        20,
    ),
    "kinect-20": ((1, 2, 2, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18), 2),
}
TRAINED_JOINTS = {
    "ntu-25": """spine base, spine mid, neck, head, left shoulder, left elbow, left wrist, left hand,
        right shoulder, right elbow, right wrist, right hand, left hip, left knee, left ankle, left foot,
        right hip, right knee, right ankle, right foot, spine shoulder, left hand tip, left thumb, right hand tip,
        right thumb""",
    "kinect-20": """hip centre, spine, shoulder centre, head, left shoulder, left elbow, left wrist, left hand,
        right shoulder, right elbow, right wrist, right hand, left hip, left knee, left ankle, left foot,
        right hip, right knee, right ankle, right foot""",
}
TRAINED_PARTS = {
    "ntu-25": (
        (0, 1, 2, 3, 20),
        (4, 5, 6, 7, 21, 22),
        (8, 9, 10, 11, 23, 24),
        (12, 13, 14, 15),
        (16, 17, 18, 19),
    ),
    "kinect-20": ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15), (16, 17, 18, 19)),
}
TRAINED_MIRROR = {
    "ntu-25": (0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22),
    "kinect-20": (0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15),
}


def test_all_eight_are_registered() -> None:
    assert set(EIGHT) <= set(LAYOUTS)
    assert all(get_layout(name).num_joints == int(name.rsplit("-")[-1]) for name in EIGHT)


@pytest.mark.parametrize("name", PUBLISHED)
def test_order_of_the_joints_is_the_owners(name: str) -> None:
    def spoken(joint: str) -> str:
        side = {"L": "left ", "R": "right "}.get(joint[0], "") if joint[1:2].isupper() else ""
        rest = joint[1:] if side else joint
        return side + "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in rest).strip()

    published = PUBLISHED[name].split()
    assert get_layout(name).joints == tuple(spoken(joint).replace("_", " ") for joint in published)


@pytest.mark.parametrize("name", BONES)
def test_bones_are_those_of_owners_and_peers(name: str) -> None:
    published = {frozenset(map(int, bone.split("-"))) for bone in BONES[name].split()}
    assert {frozenset(bone) for bone in get_layout(name).bones} == published


@pytest.mark.parametrize(
    ("name", "center"),
    [
        ("coco-17", 0),
        ("openpose-18", 1),
        ("openpose-25", 1),
        ("h36m-17", 0),
        ("mediapipe-33", 0),
        ("smpl-22", 0),
    ],
)
def test_center(name: str, center: int) -> None:
    assert get_layout(name).center == center


@pytest.mark.parametrize("name", TRAINED_JOINTS)
def test_bodies_that_models_were_trained_on_stay_as_they_are(name: str) -> None:
    layout = get_layout(name)
    assert list(layout.joints) == [" ".join(joint.split()) for joint in TRAINED_JOINTS[name].split(",")]
    assert (layout.parents, layout.center) == ROOTED[name]
    assert layout.mirror == TRAINED_MIRROR[name]
    assert tuple(layout.parts.values()) == TRAINED_PARTS[name]
    assert list(layout.landmarks.items()) == [
        ("left shoulder", 4), ("right shoulder", 8), ("left hip", 12), ("right hip", 16),
    ]  # fmt: skip


@layouts
def test_our_names_are_the_standard_ones(name: str) -> None:
    layout = get_layout(name)
    assert standard_names(layout.joints) == layout.joints == layout.standard_joints()


def test_bodies_need_numpy_alone() -> None:
    code = """
import sys, mica.skeleton
print([name for name in ('torch', 'matplotlib', 'scipy', 'sklearn') if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.split() == ["[]"]
