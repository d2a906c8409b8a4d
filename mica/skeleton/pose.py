"""A standing person seen from the front, for drawings: where the joints of any layout are, in metres."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from mica.skeleton.layout import SkeletonLayout

# Heights of the joints on the midline. The face is half as large again as a real one, so that its joints lie apart.
_MIDLINE = {
    **dict.fromkeys(("pelvis", "spine base", "hip centre", "mid hip", "hips"), 0.97),
    "lower spine": 1.07,
    **dict.fromkeys(("spine", "spine mid", "middle spine"), 1.18),
    "upper spine": 1.28,
    **dict.fromkeys(("spine shoulder", "shoulder centre", "thorax"), 1.41),
    "neck": 1.47,
    "nose": 1.62,
    "head": 1.72,
}
# x to the person's left, y up; those of the right side are at -x.
_LEFT = {
    "eye inner": (0.025, 1.685),
    "eye": (0.05, 1.69),
    "eye outer": (0.075, 1.685),
    "ear": (0.115, 1.65),
    "mouth": (0.04, 1.565),
    "collar": (0.08, 1.39),
    "shoulder": (0.19, 1.40),
    "elbow": (0.31, 1.14),
    "wrist": (0.40, 0.90),
    "hand": (0.43, 0.82),
    "hand tip": (0.46, 0.73),
    "thumb": (0.36, 0.79),
    "index": (0.41, 0.76),
    "pinky": (0.47, 0.80),
    "hip": (0.10, 0.94),
    "knee": (0.13, 0.51),
    "ankle": (0.15, 0.09),
    "heel": (0.13, 0.03),
    **dict.fromkeys(("foot", "big toe", "foot index"), (0.19, 0.0)),
    "small toe": (0.25, 0.02),
}
STANDING: dict[str, tuple[float, float]] = {
    **{name: (0.0, height) for name, height in _MIDLINE.items()},
    **{f"left {name}": (x, y) for name, (x, y) in _LEFT.items()},
    **{f"right {name}": (-x, y) for name, (x, y) in _LEFT.items()},
}
# The length of a bone to a joint of which nothing is known.
_STUB = 0.06


def standing_pose(layout: SkeletonLayout) -> Float[np.ndarray, "V 2"]:
    """Return where the joints of a standing person are: metres, x to the person's left, y up from the floor.

    A joint whose name says nothing stands between those that it joins, and at the end of a limb a little farther out.

    >>> from mica.skeleton import get_layout
    >>> standing_pose(get_layout("coco-17"))[5]  # left shoulder
    array([0.19, 1.4 ])
    """
    pose = np.array([STANDING.get(name, (math.nan, math.nan)) for name in layout.standard_joints()])
    if np.isnan(pose[layout.center]).any():
        pose[layout.center] = pose[list(layout.landmarks.values())].mean(axis=0)
    hops = layout.hop_distances()
    for joint in np.argsort(hops[layout.center], kind="stable"):
        if np.isnan(pose[joint]).any():
            pose[joint] = _between(pose, hops, int(joint), layout.center)
    pose = (pose + pose[list(layout.mirror)] * (-1, 1)) / 2
    for joint in range(layout.num_joints):
        if side := layout.side(joint):
            pose[joint, 0] = abs(pose[joint, 0]) * (1 if side == "left" else -1)
    return pose


def _between(
    pose: Float[np.ndarray, "V 2"], hops: Int[np.ndarray, "V V"], joint: int, center: int
) -> Float[np.ndarray, " 2"]:
    """The place of a joint whose neighbour towards the centre is placed already."""
    inner = _inward(hops, joint, center)
    behind = hops[joint] + hops[joint, center] == hops[center]  # as seen from the centre
    placed = np.flatnonzero(behind & ~np.isnan(pose).any(axis=1))
    if len(placed):
        return (pose[inner] + pose[min(placed, key=lambda other: hops[joint, other])]) / 2
    before = _inward(hops, inner, center)
    away = pose[inner] - pose[before] if before != inner else np.array([0.0, -1.0])
    siblings = np.flatnonzero((hops[inner] == 1) & (hops[center] > hops[center, inner]))
    fan = np.linspace(-1, 1, len(siblings) + 2)[1 + int(np.searchsorted(siblings, joint))]
    angle = math.atan2(away[1], away[0]) + (fan if pose[inner, 0] > 0 else -fan)
    return np.asarray(pose[inner] + _STUB * np.array([math.cos(angle), math.sin(angle)]))


def _inward(hops: Int[np.ndarray, "V V"], joint: int, center: int) -> int:
    """The neighbour towards the centre; the centre itself for the centre."""
    neighbours = np.flatnonzero(hops[joint] == 1)
    return next((int(v) for v in neighbours if hops[v, center] < hops[joint, center]), joint)
