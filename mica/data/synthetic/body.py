"""A virtual person: limb lengths, and joint angles turned into the 25 joints of NTU RGB+D.

The body frame has x to the person's left, y up and z forward, with the floor at y = 0. Limb lengths are
shares of the standing height after Drillis and Contini (1966), shorter where Kinect places its joints inside
the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# The columns of a pose sequence: degrees, except `reach` (shoulder to wrist, share of the straight arm) and
# `jump`, `travel left`, `travel forward` (metres).
CHANNELS = (
    *("lean", "side", "twist", "nod", "turn"),
    *("right elevation", "right azimuth", "right reach"),
    *("left elevation", "left azimuth", "left reach"),
    *("right hip", "right abduct", "right knee"),
    *("left hip", "left abduct", "left knee"),
    *("jump", "travel left", "travel forward", "heading"),
)
COLUMN = {name: index for index, name in enumerate(CHANNELS)}

_SIDES = {"left": 1.0, "right": -1.0}
_ARMS = {"left": (4, 5, 6, 7, 21, 22), "right": (8, 9, 10, 11, 23, 24)}
_LEGS = {"left": (12, 13, 14, 15), "right": (16, 17, 18, 19)}
_ELBOW_POLE = np.array([0.5, -1.0, -0.3])  # elbows fall down, outward and a little back
_CONTACT = 0.03  # metres of ankle height over which the weight moves from one foot to the other


@dataclass(frozen=True)
class Body:
    """Bone lengths in metres; `shoulder` and `hip` are half widths, `ankle` is its height above the floor.

    >>> round(Body.of_height(1.75).thigh, 3)
    0.429
    """

    spine: float
    neck: float
    head: float
    shoulder: float
    upper_arm: float
    forearm: float
    hand: float
    hip: float
    thigh: float
    shank: float
    foot: float
    ankle: float

    @classmethod
    def of_height(cls, height: float, *, arms: float = 1.0, legs: float = 1.0, width: float = 1.0) -> Body:
        """The average proportions at `height` metres, with factors for arms, legs and breadth."""
        return cls(
            spine=0.148 * height,
            neck=0.045 * height,
            head=0.085 * height,
            shoulder=0.105 * height * width,
            upper_arm=0.172 * height * arms,
            forearm=0.146 * height * arms,
            hand=0.045 * height * arms,
            hip=0.052 * height * width,
            thigh=0.245 * height * legs,
            shank=0.246 * height * legs,
            foot=0.075 * height,
            ankle=0.039 * height,
        )


def forward_kinematics(body: Body, pose: Float[np.ndarray, "T D"]) -> Float[np.ndarray, "T 25 3"]:
    """Joint positions, in metres, of the pose sequence with columns `CHANNELS`; every bone keeps its length.

    The lower foot carries the body: it rests at the origin of the floor, so that crouching lowers the pelvis.
    """
    angle = {name: pose[:, index] for name, index in COLUMN.items()}
    joints = np.zeros((len(pose), 25, 3))
    for side, leg in _LEGS.items():
        joints[:, leg] = _leg(body, angle, side)
    joints += _standing_offset(body, joints, angle)[:, None]
    upper = _rotation("y", angle["twist"]) @ _rotation("x", angle["lean"]) @ _rotation("z", angle["side"])
    lower = (  # the spine bends evenly: its lower half takes half of each angle
        _rotation("y", angle["twist"] / 2)
        @ _rotation("x", angle["lean"] / 2)
        @ _rotation("z", angle["side"] / 2)
    )
    skull = upper @ _rotation("y", angle["turn"]) @ _rotation("x", angle["nod"])
    pelvis = (joints[:, 12] + joints[:, 16]) / 2
    joints[:, 0] = pelvis
    joints[:, 1] = pelvis + lower @ np.array([0, body.spine, 0])
    joints[:, 20] = joints[:, 1] + upper @ np.array([0, body.spine, 0])
    joints[:, 2] = joints[:, 20] + upper @ np.array([0, body.neck, 0.0])
    joints[:, 3] = joints[:, 2] + skull @ np.array([0, body.head, 0.15 * body.head])
    for side, arm in _ARMS.items():
        joints[:, arm] = joints[:, 20, None] + _arm(body, angle, side) @ upper.transpose(0, 2, 1)
    return joints @ _rotation("y", angle["heading"]).transpose(0, 2, 1)


def _leg(body: Body, angle: dict[str, np.ndarray], side: str) -> Float[np.ndarray, "T 4 3"]:
    """Hip, knee, ankle and foot relative to the pelvis."""
    spread = _rotation("z", _SIDES[side] * angle[f"{side} abduct"])
    flexion = angle[f"{side} hip"]
    thigh = spread @ _rotation("x", -flexion) @ np.array([0, -body.thigh, 0])
    shank = spread @ _rotation("x", angle[f"{side} knee"] - flexion) @ np.array([0, -body.shank, 0])
    hip = np.broadcast_to(np.array([_SIDES[side] * body.hip, -0.2 * body.hip, 0]), thigh.shape)
    foot = body.foot * np.array([0.2 * _SIDES[side], -0.3, np.sqrt(1 - 0.2**2 - 0.3**2)])
    ankle = hip + thigh + shank
    return np.stack([hip, hip + thigh, ankle, ankle + foot], axis=1)


def _standing_offset(
    body: Body, joints: np.ndarray, angle: dict[str, np.ndarray]
) -> Float[np.ndarray, "T 3"]:
    ankles = joints[:, [14, 18]]
    height = ankles[..., 1] - ankles[..., 1].min(axis=1, keepdims=True)
    weight = np.exp(-height / _CONTACT)
    support = (weight / weight.sum(axis=1, keepdims=True))[..., None] * ankles
    travel = np.stack([angle["travel left"], body.ankle + angle["jump"], angle["travel forward"]], axis=1)
    return travel - support.sum(axis=1)


def _arm(body: Body, angle: dict[str, np.ndarray], side: str) -> Float[np.ndarray, "T 6 3"]:
    """Shoulder, elbow, wrist, hand, tip and thumb relative to the spine shoulder joint, in the chest's frame.

    Elevation (0 down, 180 up) and azimuth (0 forward, 90 outward) give the direction from shoulder to wrist,
    reach the bend of the elbow, which lies in the plane of that direction and `_ELBOW_POLE`.
    """
    outward = np.array([_SIDES[side], 1.0, 1.0])
    elevation, azimuth = np.radians(angle[f"{side} elevation"]), np.radians(angle[f"{side} azimuth"])
    line = np.stack(
        [np.sin(elevation) * np.sin(azimuth), -np.cos(elevation), np.sin(elevation) * np.cos(azimuth)], axis=1
    )
    reach = np.clip(angle[f"{side} reach"], 0.3, 0.995)[:, None] * (body.upper_arm + body.forearm)
    along = (body.upper_arm**2 - body.forearm**2 + reach**2) / (2 * reach)
    bend = _unit(_ELBOW_POLE - (line @ _ELBOW_POLE)[:, None] * line)
    elbow = along * line + np.sqrt(np.maximum(body.upper_arm**2 - along**2, 0)) * bend
    wrist = reach * line
    forearm = _unit(wrist - elbow)
    thumb = _unit(forearm + 0.8 * _unit(np.cross(forearm, bend)))
    hand = wrist + body.hand * forearm
    shoulder = np.array([body.shoulder, -0.25 * body.neck, 0])
    tip, tip_of_thumb = hand + body.hand * forearm, wrist + body.hand * thumb
    chain = np.stack([np.zeros_like(wrist), elbow, wrist, hand, tip, tip_of_thumb], axis=1)
    return (shoulder + chain) * outward


def _rotation(axis: str, degrees: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 3 3"]:
    """Right-handed rotation about one axis."""
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.tile(np.eye(3), (len(degrees), 1, 1))
    matrix[:, first, first] = matrix[:, second, second] = cosine
    matrix[:, second, first], matrix[:, first, second] = sine, -sine
    return matrix


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)
