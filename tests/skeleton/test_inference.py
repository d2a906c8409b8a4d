from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica.errors import InputError
from mica.skeleton import LAYOUTS, infer_layout
from mica.skeleton.naming import limb, parse, standard_names

# A body by our names: joint, parent, part.
BODY = {
    "pelvis": ("pelvis", "torso"),
    "spine": ("pelvis", "torso"),
    "neck": ("spine", "torso"),
    "head": ("neck", "torso"),
    **{f"{side} collar": ("neck", f"{side} arm") for side in ("left", "right")},
    **{f"{side} shoulder": (f"{side} collar", f"{side} arm") for side in ("left", "right")},
    **{f"{side} elbow": (f"{side} shoulder", f"{side} arm") for side in ("left", "right")},
    **{f"{side} wrist": (f"{side} elbow", f"{side} arm") for side in ("left", "right")},
    **{f"{side} hip": ("pelvis", f"{side} leg") for side in ("left", "right")},
    **{f"{side} knee": (f"{side} hip", f"{side} leg") for side in ("left", "right")},
    **{f"{side} ankle": (f"{side} knee", f"{side} leg") for side in ("left", "right")},
    **{f"{side} foot": (f"{side} ankle", f"{side} leg") for side in ("left", "right")},
}
LIMB = ("collar", "shoulder", "elbow", "wrist", "hip", "knee", "ankle", "foot")
# What rigs call the joints of LIMB, in words.
VOCABULARIES = {
    "ours": LIMB,
    "mixamo, lafan": ("shoulder", "arm", "fore arm", "hand", "up leg", "leg", "foot", "toe base"),
    "cmu": ("clavicle", "humerus", "radius", "wrist", "femur", "tibia", "foot", "toes"),
    "biped": ("clavicle", "upper arm", "forearm", "hand", "thigh", "calf", "foot", "toe"),
    "unity": ("shoulder", "upper arm", "lower arm", "hand", "upper leg", "lower leg", "foot", "toes"),
    "poser": ("collar", "shldr", "fore arm", "hand", "thigh", "shin", "foot", "toe"),
}


def camel(words: str) -> str:
    return "".join(word.capitalize() for word in words.split())


def snake(words: str) -> str:
    return words.replace(" ", "_")


# How a name with a side is spelt, from "left" or "right" and the words.
SPELLINGS: dict[str, Callable[[str, str], str]] = {
    "left fore arm": lambda side, words: f"{side} {words}",
    "LeftForeArm": lambda side, words: camel(f"{side} {words}"),
    "leftforearm": lambda side, words: f"{side}{words}".replace(" ", ""),
    "LEFT_FORE_ARM": lambda side, words: snake(f"{side} {words}").upper(),
    "ForeArm_Left": lambda side, words: f"{camel(words)}_{side.capitalize()}",
    "LForeArm": lambda side, words: side[0].upper() + camel(words),
    "lForeArm": lambda side, words: side[0] + camel(words),
    "lforearm": lambda side, words: side[0] + words.replace(" ", ""),
    "l_fore_arm": lambda side, words: snake(f"{side[0]} {words}"),
    "fore_arm_l": lambda side, words: snake(f"{words} {side[0]}"),
    "fore_arm.L": lambda side, words: f"{snake(words)}.{side[0].upper()}",
    "Bip01 L ForeArm": lambda side, words: f"Bip01 {side[0].upper()} {camel(words)}",
    "J_Bip_L_ForeArm": lambda side, words: f"J_Bip_{side[0].upper()}_{camel(words)}",
}


def spell(joint: str, vocabulary: str, spelling: str, prefix: str) -> str:
    side, _, word = joint.partition(" ")
    if word not in LIMB:
        return prefix + joint
    return prefix + SPELLINGS[spelling](side, VOCABULARIES[vocabulary][LIMB.index(word)])


@settings(max_examples=150, deadline=None)
@given(
    st.permutations(list(BODY)),
    st.sampled_from(list(VOCABULARIES)),
    st.sampled_from(list(SPELLINGS)),
    st.sampled_from(["", "mixamorig:", "rig1:person:"]),
)
def test_any_order_and_spelling_gives_the_same_body(
    order: list[str], vocabulary: str, spelling: str, prefix: str
) -> None:
    joints = [spell(joint, vocabulary, spelling, prefix) for joint in order]
    layout = infer_layout("rig", joints, [order.index(BODY[joint][0]) for joint in order])
    assert layout.joints == tuple(joints)
    assert layout.standard_joints() == tuple(order)
    swap = {"left": "right", "right": "left"}
    for v, joint in enumerate(order):
        assert order[layout.mirror[v]] == " ".join(swap.get(word, word) for word in joint.split())
        assert v in layout.parts[BODY[joint][1]]
    assert {mark: order[v] for mark, v in layout.landmarks.items()} == {
        mark: mark for mark in layout.landmarks
    }
    assert order[layout.center] == "pelvis"


@given(st.text(max_size=30))
def test_any_text_is_a_name(name: str) -> None:
    side, words = parse(name)
    assert side in ("left", "right", "")
    assert all(word == word.lower() for word in words)
    assert limb(name) in ("arm", "leg", "")
    assert len(standard_names([name, "head"])) == 2


@settings(deadline=None)
@given(st.lists(st.text(max_size=8), max_size=6), st.lists(st.integers(-2, 6), max_size=6))
def test_nonsense_is_refused_and_nothing_else(joints: list[str], parents: list[int]) -> None:
    with pytest.raises(InputError, match="skeleton layout 'x'"):
        infer_layout("x", joints, parents)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("LowerBack", ""), ("lowerback", ""), ("lowerneck", ""), ("L5", ""), ("jL5S1", ""), ("T12", ""),
        ("Root", ""), ("root", ""),
        ("RibCage", ""), ("ring", ""), ("leg", ""), ("R", ""), ("_", ""), ("LHipJoint", "left"),
        ("lhipjoint", "left"), ("rradius", "right"), ("REar", "right"), ("LUArm", "left"), ("RTHIGH", "right"),
        ("thigh_r", "right"), ("mouth right", "right"), ("LeftRightArm", ""),
    ],
)  # fmt: skip
def test_side(name: str, side: str) -> None:
    assert parse(name).side == side


def test_names_in_other_scripts_stay_as_they_are() -> None:
    assert standard_names(["頭", "左肩", "lhumerus"]) == ("頭", "左肩", "left shoulder")


CMU = (
    *("Hips", "LHipJoint", "LeftUpLeg", "LeftLeg", "LeftFoot", "LeftToeBase"),
    *("RHipJoint", "RightUpLeg", "RightLeg", "RightFoot", "RightToeBase"),
    *("LowerBack", "Spine", "Spine1", "Neck", "Neck1", "Head"),
    *("LeftShoulder", "LeftArm", "LeftForeArm", "LeftHand", "LeftFingerBase", "LeftHandIndex1", "LThumb"),
    *(
        "RightShoulder",
        "RightArm",
        "RightForeArm",
        "RightHand",
        "RightFingerBase",
        "RightHandIndex1",
        "RThumb",
    ),
)
CMU_PARENTS = (
    *(0, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14, 15),
    *(13, 17, 18, 19, 20, 21, 20, 13, 24, 25, 26, 27, 28, 27),
)


def test_cmu_as_bvh() -> None:
    layout = infer_layout("cmu", CMU, CMU_PARENTS)
    named = dict(zip(layout.joints, layout.standard_joints(), strict=True))
    assert {name: named[name] for name in ("LeftShoulder", "LeftArm", "LeftForeArm", "LeftHand")} == {
        "LeftShoulder": "left collar", "LeftArm": "left shoulder", "LeftForeArm": "left elbow",
        "LeftHand": "left wrist",
    }  # fmt: skip
    assert {name: named[name] for name in ("RHipJoint", "RightUpLeg", "RightLeg", "RightFoot", "RightToeBase")} == {
        "RHipJoint": "right hip joint", "RightUpLeg": "right hip", "RightLeg": "right knee",
        "RightFoot": "right ankle", "RightToeBase": "right foot",
    }  # fmt: skip
    assert layout.parts["left leg"] == (1, 2, 3, 4, 5)
    assert layout.parts["right arm"] == tuple(range(24, 31))
    assert layout.mirror == (0, *range(6, 11), *range(1, 6), *range(11, 17), *range(24, 31), *range(17, 24))
    assert layout.joints[layout.center] == "Hips"


def test_cmu_as_asf() -> None:
    side = (
        "hipjoint",
        "femur",
        "tibia",
        "foot",
        "toes",
        "clavicle",
        "humerus",
        "radius",
        "wrist",
        "hand",
        "thumb",
    )
    joints = ["root", "lowerback", "thorax", *(f"{letter}{bone}" for letter in "lr" for bone in side)]
    one = [0, 3, 4, 5, 6, 2, 8, 9, 10, 11, 11]
    layout = infer_layout("asf", joints, [0, 0, 1, *one, *(v + 11 if v > 2 else v for v in one)])
    marks = {mark: joints[v] for mark, v in layout.landmarks.items()}
    assert marks["left shoulder"] == "lhumerus"
    assert marks["right hip"] == "rfemur"
    assert {joints[v] for v in layout.parts["torso"]} == {"root", "lowerback", "thorax"}


def test_a_joint_of_unknown_name_belongs_where_its_parent_does() -> None:
    joints = (*CMU, "left gizmo", "right gizmo", "left horn", "right horn")
    layout = infer_layout("cmu", joints, (*CMU_PARENTS, 5, 10, 16, 16))
    assert 31 in layout.parts["left leg"]
    assert {33, 34} <= set(layout.parts["torso"])


def test_center_lies_below_a_root_that_stands_outside() -> None:
    layout = infer_layout("cmu", (*CMU, "Reference"), (31, *CMU_PARENTS[1:], 31))
    assert layout.joints[layout.center] == "Hips"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_registered_layouts_follow_from_their_names(layout) -> None:
    again = infer_layout(layout.name, list(layout.joints), list(layout.parents))
    assert again == layout
    assert np.array_equal(again.adjacency(), layout.adjacency())


def without(*names: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    kept = [v for v, name in enumerate(CMU) if name not in names]
    return tuple(CMU[v] for v in kept), tuple(kept.index(CMU_PARENTS[v]) for v in kept)


@pytest.mark.parametrize(
    ("joints", "parents", "field", "problem"),
    [
        (
            (*CMU, "LeftSword"),
            (*CMU_PARENTS, 20),
            "mirror",
            "'LeftSword' has 0 joints of that name on the right",
        ),
        ((*CMU, "l_arm"), (*CMU_PARENTS, 20), "mirror", "'RightArm' has 2 joints of that name on the left"),
        ((*CMU, "sword"), (*CMU_PARENTS, 20), "mirror", "'sword' hangs from 'LeftHand'"),
        (tuple(f"joint{v}" for v in range(31)), CMU_PARENTS, "landmarks", "left shoulder.*right hip"),
        (*without("RightHandIndex1"), "mirror", "'LeftHandIndex1'"),
        (CMU, (0, 2, 1, *CMU_PARENTS[3:]), "parents", "one tree"),
        (CMU, (1, 1, *CMU_PARENTS[2:]), "mirror", "'Hips' hangs from 'LHipJoint'"),
        (("l_hip", "r_hip", "l_arm", "r_arm"), (0, 0, 0, 0), "center", "meet in 'l_hip'"),
    ],
)
def test_what_names_do_not_tell_is_said(
    joints: tuple[str, ...], parents: tuple[int, ...], field: str, problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        infer_layout("rig", joints, parents)
    assert caught.value.field == field
    assert "rig" in str(caught.value)
    assert field == "parents" or f"layout file can say it in its field '{field}'" in caught.value.hint
