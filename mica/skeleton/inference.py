"""What follows from the names and parents of joints: left-right partners, body parts, landmarks, the centre."""

from __future__ import annotations

from collections.abc import Sequence

from mica.skeleton.layout import LANDMARKS, PARTS, SkeletonLayout, check_tree, unfit, way_to_root
from mica.skeleton.naming import SIDES, limb, parse, standard_names

_HINT = "a layout file can say it in its field '{}'"


def infer_layout(name: str, joints: Sequence[str], parents: Sequence[int], about: str = "") -> SkeletonLayout:
    """Make a layout of joint names and parents alone, as a motion capture file gives them.

    The names say the sides ("LeftArm", "l_knee", "arm.L", "rfemur") and the limbs; a joint whose name says neither
    belongs where its parent does. The centre is where the ways from shoulders and hips to the root meet. Raises
    `InputError` that names what the joints' names do not tell.

    >>> joints = ["Hips", "Spine", "LeftArm", "RightArm", "LeftUpLeg", "RightUpLeg", "LeftLeg", "RightLeg"]
    >>> layout = infer_layout("mocap", joints, [0, 0, 1, 1, 0, 0, 4, 5])
    >>> layout.mirror, layout.landmarks["left hip"], layout.joints[layout.center]
    ((0, 1, 3, 2, 5, 4, 7, 6), 4, 'Hips')
    """
    check_tree(name, joints, parents)
    landmarks = infer_landmarks(name, joints)
    return SkeletonLayout(
        name=name,
        joints=tuple(joints),
        parents=tuple(parents),
        mirror=infer_mirror(name, joints, parents),
        center=infer_center(name, joints, parents, landmarks),
        parts=infer_parts(joints, parents),
        landmarks=landmarks,
        about=about,
    )


def infer_mirror(name: str, joints: Sequence[str], parents: Sequence[int]) -> tuple[int, ...]:
    """Pair the joints whose names differ in the side alone; the others are their own partners.

    >>> infer_mirror("eyes", ["head", "l_eye", "r_eye"], [0, 0, 0])
    (0, 2, 1)
    """
    parsed = [parse(joint) for joint in joints]
    mirror = []
    for v, (side, words) in enumerate(parsed):
        other = {"left": "right", "right": "left", "": ""}[side]
        partners = [w for w, found in enumerate(parsed) if found == (other, words)] if side else [v]
        if len(partners) != 1:
            problem = f"'{joints[v]}' has {len(partners)} joints of that name on the {other} side, expected 1"
            raise unfit(name, "mirror", problem, _HINT.format("mirror"))
        if not side and parsed[parents[v]].side:
            problem = f"'{joints[v]}' hangs from '{joints[parents[v]]}', but its name says no side"
            raise unfit(name, "mirror", problem, _HINT.format("mirror"))
        mirror.append(partners[0])
    return tuple(mirror)


def infer_parts(joints: Sequence[str], parents: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Share the joints out among `PARTS`; what belongs to no limb belongs to the torso.

    >>> infer_parts(["hips", "l_knee", "l_spur", "r_knee", "r_spur"], [0, 0, 1, 0, 3])["left leg"]
    (1, 2)
    """
    where = [_part(joints, way_to_root(parents, v)) for v in range(len(joints))]
    return {part: tuple(v for v, found in enumerate(where) if found == part) for part in PARTS}


def _part(joints: Sequence[str], way: Sequence[int]) -> str:
    """The part of the first joint of `way`: what the first name on the way that speaks of a limb says."""
    for v in way:
        side, which = parse(joints[v]).side, limb(joints[v])
        if not side:
            break
        if which:
            return f"{side} {which}"
    return "torso"


def infer_landmarks(name: str, joints: Sequence[str]) -> dict[str, int]:
    """Find `LANDMARKS` by their names.

    >>> infer_landmarks("mocap", ["lfemur", "rfemur", "lhumerus", "rhumerus"])["left shoulder"]
    2
    """
    names = standard_names(joints)
    if missing := [mark for mark in LANDMARKS if mark not in names]:
        problem = f"no joint's name says that it is the {' or the '.join(missing)}"
        raise unfit(name, "landmarks", problem, _HINT.format("landmarks"))
    return {mark: names.index(mark) for mark in LANDMARKS}


def infer_center(name: str, joints: Sequence[str], parents: Sequence[int], landmarks: dict[str, int]) -> int:
    """Return where the ways from the landmarks to the root meet, which must be on the midline.

    >>> marks = {"left shoulder": 2, "right shoulder": 3, "left hip": 4, "right hip": 5}
    >>> infer_center("body", ["world", "pelvis", "l_arm", "r_arm", "l_hip", "r_hip"], [0, 0, 1, 1, 1, 1], marks)
    1
    """
    ways = [way_to_root(parents, joint) for joint in landmarks.values()]
    center = next(v for v in ways[0] if all(v in way for way in ways))
    if parse(joints[center]).side in SIDES:
        problem = f"shoulders and hips meet in '{joints[center]}', which is not on the midline"
        raise unfit(name, "center", problem, _HINT.format("center"))
    return center
