from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from mica.errors import InputError
from mica.skeleton import (
    LAYOUTS,
    LayoutMap,
    get_layout,
    infer_layout,
    layout_from_dict,
    map_layout,
    standing_pose,
)

every_layout = pytest.mark.parametrize("name", LAYOUTS)
every_pair = pytest.mark.parametrize(("source", "target"), list(permutations(LAYOUTS, 2)))


def mapping(source: str, target: str) -> LayoutMap:
    return map_layout(get_layout(source), get_layout(target))


def random_body(name: str, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*shape, get_layout(name).num_joints, 3))


def origin(found: LayoutMap, joint: str) -> dict[str, float]:
    row = found.weights[found.target.joints.index(joint)]
    return {name: weight for name, weight in zip(found.source.joints, row, strict=True) if weight}


@every_layout
def test_same_layout_is_the_identity(name: str) -> None:
    found, body = mapping(name, name), random_body(name, 4, 2)
    assert np.array_equal(found.weights, np.eye(len(found.weights)))
    assert found.matched.all()
    assert found.unmatched == ()
    assert np.array_equal(found.apply(body), body)
    assert str(found).splitlines() == [
        f"{name} -> {name}: {len(found.matched)} of {len(found.matched)} joints found"
    ]


@every_pair
def test_invariants(source: str, target: str) -> None:
    found = mapping(source, target)
    assert found.weights.shape == (found.target.num_joints, found.source.num_joints)
    assert (found.weights >= 0).all()
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, rtol=1e-12)
    # Who is seen in a mirror is mapped to who is seen in a mirror.
    seen = found.weights[list(found.target.mirror)][:, list(found.source.mirror)]
    np.testing.assert_allclose(seen, found.weights, rtol=1e-12)
    shared = set(found.source.joints) & set(found.target.joints)
    for joint in shared:
        assert origin(found, joint) == {joint: 1.0}
    assert not shared & set(found.unmatched)
    for limb in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        assert {f"left {limb}", f"right {limb}"} <= shared


@every_pair
def test_a_standing_person_stays_one(source: str, target: str) -> None:
    """Joints that are found lie within a hand's breadth of where the target's own would be."""
    found = mapping(source, target)
    flat = standing_pose(found.source)
    mapped = found.apply(np.concatenate([flat, np.zeros((len(flat), 1))], axis=1))[:, :2]
    distance = np.linalg.norm(mapped - standing_pose(found.target), axis=1)
    assert distance[found.matched].max() <= 0.11, dict(
        zip(found.target.joints, distance.round(2), strict=True)
    )
    assert distance.max() <= 0.25


@pytest.mark.parametrize(
    ("source", "target", "joint", "expected"),
    [
        ("ntu-25", "kinect-20", "hip centre", {"spine base": 1.0}),
        ("ntu-25", "kinect-20", "spine", {"spine mid": 1.0}),
        ("ntu-25", "kinect-20", "shoulder centre", {"spine shoulder": 1.0}),
        ("kinect-20", "ntu-25", "spine shoulder", {"shoulder centre": 1.0}),
        ("kinect-20", "ntu-25", "neck", {"shoulder centre": 1.0}),
        ("coco-17", "h36m-17", "pelvis", {"left hip": 0.5, "right hip": 0.5}),
        ("coco-17", "h36m-17", "thorax", {"left shoulder": 0.5, "right shoulder": 0.5}),
        ("coco-17", "ntu-25", "head", {"left ear": 0.5, "right ear": 0.5}),
        ("openpose-25", "ntu-25", "spine base", {"mid hip": 1.0}),
        ("openpose-25", "ntu-25", "left foot", {"left big toe": 1.0}),
        ("mediapipe-33", "openpose-25", "right big toe", {"right foot index": 1.0}),
        ("mediapipe-33", "coco-17", "left eye", {"left eye": 1.0}),
        ("coco-17", "mediapipe-33", "left eye outer", {"left eye": 1.0}),
        ("mediapipe-33", "ntu-25", "left hand tip", {"left index": 1.0}),
        ("mediapipe-33", "ntu-25", "right hand", {"right index": 0.5, "right pinky": 0.5}),
        ("smpl-22", "ntu-25", "spine mid", {"middle spine": 1.0}),
        ("smpl-22", "h36m-17", "pelvis", {"pelvis": 1.0}),
        ("ntu-25", "coco-17", "nose", {"head": 1.0}),
        (
            "coco-17",
            "kinect-20",
            "spine",
            {"left shoulder": 0.25, "right shoulder": 0.25, "left hip": 0.25, "right hip": 0.25},
        ),
        # Without a counterpart: the next joint on the way to the centre.
        ("kinect-20", "ntu-25", "left hand tip", {"left hand": 1.0}),
        ("coco-17", "ntu-25", "left hand tip", {"left wrist": 1.0}),
        ("coco-17", "openpose-25", "left small toe", {"left ankle": 1.0}),
        ("mediapipe-33", "openpose-25", "left small toe", {"left foot index": 1.0}),
        ("h36m-17", "coco-17", "left ear", {"nose": 1.0}),
    ],
)
def test_where_joints_come_from(source: str, target: str, joint: str, expected: dict[str, float]) -> None:
    assert origin(mapping(source, target), joint) == expected


def test_unmatched_joints_are_named() -> None:
    assert mapping("kinect-20", "ntu-25").unmatched == (
        "left hand tip", "left thumb", "right hand tip", "right thumb",
    )  # fmt: skip
    assert mapping("ntu-25", "kinect-20").unmatched == ()
    text = str(mapping("kinect-20", "ntu-25"))
    assert "21 of 25 joints found" in text
    assert "left thumb: not found, lies with left hand" in text
    assert "spine base: hip centre" in text
    assert "elbow" not in text  # says nothing of what is plain
    assert "pelvis: 50 % left hip + 50 % right hip" in str(mapping("coco-17", "smpl-22"))


@pytest.mark.parametrize(("source", "target"), [("mediapipe-33", "ntu-25"), ("openpose-18", "smpl-22")])
@pytest.mark.parametrize("shape", [(), (1, 1), (5, 2), (0, 1), (2, 3, 4)])
def test_apply_against_loops(source: str, target: str, shape: tuple[int, ...]) -> None:
    found, body = mapping(source, target), random_body(source, *shape)
    expected = np.zeros((*shape, found.target.num_joints, 3))
    for where in np.ndindex(*shape):
        for v in range(found.target.num_joints):
            for w in range(found.source.num_joints):
                expected[where][v] += found.weights[v, w] * body[where][w]
    np.testing.assert_allclose(found.apply(body), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.float16, np.float16), (np.float32, np.float32), (np.int64, np.float64)]
)
def test_dtype(dtype: type, expected: type) -> None:
    body = (100 * random_body("coco-17", 3)).astype(dtype)
    mapped = mapping("coco-17", "kinect-20").apply(body)
    assert mapped.dtype == expected
    assert np.array_equal(
        mapped[:, 4], body[:, 5].astype(expected)
    )  # a joint that both have is not changed at all


def test_strides() -> None:
    body = random_body("ntu-25", 6, 2)
    found = mapping("ntu-25", "kinect-20")
    odd = np.moveaxis(np.ascontiguousarray(np.moveaxis(body, -1, 0)), 0, -1)[::-2]
    odd.flags.writeable = False
    assert np.array_equal(found.apply(odd), found.apply(body[::-2].copy()))


@every_pair
def test_a_lost_body_stays_lost(source: str, target: str) -> None:
    body = random_body(source, 4, 2).astype(np.float32)
    body[1, 0] = body[2] = 0
    mapped = mapping(source, target).apply(body)
    assert np.array_equal(mapped.any(axis=(2, 3)), body.any(axis=(2, 3)))


def test_not_a_number_spoils_what_follows_from_it_alone() -> None:
    found, body = mapping("coco-17", "kinect-20"), random_body("coco-17", 2)
    body[0, 11] = np.nan  # left hip
    lost = {found.target.joints[v] for v in np.flatnonzero(np.isnan(found.apply(body)[0]).any(axis=1))}
    assert lost == {"left hip", "hip centre", "spine"}
    assert np.isfinite(found.apply(body)[1]).all()


@pytest.mark.parametrize(
    "body",
    [
        np.zeros((4, 16, 3)),
        np.zeros((4, 17, 2)),
        np.zeros(17),
        np.zeros((17, 3), complex),
        np.zeros((17, 3), "U1"),
    ],
)
def test_keypoints_of_another_body_are_refused(body: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"layout 'coco-17': .*expected numbers of shape \(..., 17, 3\)"):
        mapping("coco-17", "kinect-20").apply(body)


MIXAMO = (
    *("Hips", "Spine", "Spine1", "Spine2", "Neck", "Head"),
    *(f"{side}{bone}" for side in ("Left", "Right") for bone in ("Shoulder", "Arm", "ForeArm", "Hand")),
    *(f"{side}{bone}" for side in ("Left", "Right") for bone in ("UpLeg", "Leg", "Foot", "ToeBase")),
)
MIXAMO_PARENTS = (0, 0, 1, 2, 3, 4, 3, 6, 7, 8, 3, 10, 11, 12, 0, 14, 15, 16, 0, 18, 19, 20)


def test_motion_capture_to_sensor() -> None:
    rig = infer_layout("rig", [f"mixamorig:{joint}" for joint in MIXAMO], MIXAMO_PARENTS)
    found = map_layout(rig, get_layout("kinect-20"))
    for joint, bone in {
        "left shoulder": "LeftArm", "left elbow": "LeftForeArm", "right wrist": "RightHand", "left hip": "LeftUpLeg",
        "right knee": "RightLeg", "right ankle": "RightFoot", "left foot": "LeftToeBase", "hip centre": "Hips",
        "head": "Head",
    }.items():  # fmt: skip
        assert origin(found, joint) == {f"mixamorig:{bone}": 1.0}
    assert found.unmatched == ("left hand", "right hand")
    # A rig's first spine lies right above the hips: the middle of the trunk is a better guess.
    assert "mixamorig:Spine" not in origin(found, "spine")
    assert map_layout(get_layout("smpl-22"), rig).matched[rig.joints.index("mixamorig:LeftShoulder")]


def test_the_place_of_a_lost_joint_lies_inwards() -> None:
    """The thigh is as near to the hip joint as the hips are, and comes first in the list."""
    joints = (*MIXAMO[::-1], "RHipJoint", "LHipJoint")
    last = len(MIXAMO) - 1
    parents = [last - parent for parent in MIXAMO_PARENTS[::-1]] + [last, last]
    parents[joints.index("RightUpLeg")], parents[joints.index("LeftUpLeg")] = last + 1, last + 2
    found = map_layout(get_layout("kinect-20"), infer_layout("rig", joints, parents))
    assert {"RHipJoint", "LHipJoint"} <= set(found.unmatched)
    assert origin(found, "LHipJoint") == {"hip centre": 1.0}


@every_layout
def test_the_same_joints_in_another_order(name: str) -> None:
    layout = get_layout(name)
    back = layout.joints[::-1]
    last = len(back) - 1
    other = infer_layout("other", back, [last - parent for parent in layout.parents[::-1]])
    assert np.array_equal(map_layout(layout, other).weights, np.eye(last + 1)[::-1])


def test_landmarks_go_before_names() -> None:
    rig = infer_layout("rig", MIXAMO, MIXAMO_PARENTS)
    described = {"name": "odd", "joints": list(MIXAMO), "parents": list(MIXAMO_PARENTS)}
    described["landmarks"] = {
        "left shoulder": "LeftShoulder", "right shoulder": "RightShoulder",
        "left hip": "LeftUpLeg", "right hip": "RightUpLeg",
    }  # fmt: skip
    odd = layout_from_dict(described)
    kinect = get_layout("kinect-20")
    assert origin(map_layout(rig, kinect), "left shoulder") == {"LeftArm": 1.0}
    assert origin(map_layout(odd, kinect), "left shoulder") == {"LeftShoulder": 1.0}


def test_too_little_in_common_is_refused() -> None:
    trunk = infer_layout("trunk", ("hips", "l_arm", "r_arm", "l_hip", "r_hip"), (0, 0, 0, 0, 0))
    for source, target in permutations([trunk, get_layout("ntu-25")]):
        with pytest.raises(
            InputError, match="'trunk' has no left elbow and no right elbow and no left knee"
        ) as caught:
            map_layout(source, target)
        assert f"'{source.name}' cannot become '{target.name}'" in str(caught.value)
    assert map_layout(trunk, trunk).matched.all()
