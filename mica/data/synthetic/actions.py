"""Sixteen everyday actions as key poses, and the curve through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mica.data.synthetic.body import CHANNELS

Pose = dict[str, float]
"""Values for some `CHANNELS`; the others are at rest."""


def arm(side: str, outward: float, up: float, forward: float) -> Pose:
    """The wrist at this place relative to the shoulder, in arm lengths.

    >>> arm("left", 0.0, 0.0, 0.9)
    {'left elevation': 90.0, 'left azimuth': 0.0, 'left reach': 0.9}
    """
    reach = float(np.linalg.norm([outward, up, forward]))
    return {
        f"{side} elevation": float(np.degrees(np.arccos(-up / reach))),
        f"{side} azimuth": float(np.degrees(np.arctan2(outward, forward))),
        f"{side} reach": reach,
    }


def arms(outward: float, up: float, forward: float) -> Pose:
    """Both wrists at the same place, mirrored."""
    return arm("right", outward, up, forward) | arm("left", outward, up, forward)


def leg(side: str, hip: float, knee: float) -> Pose:
    """Thigh forward by `hip` degrees, shank back by `knee` degrees from it."""
    return {f"{side} hip": hip, f"{side} knee": knee}


def legs(hip: float, knee: float) -> Pose:
    """Both legs alike."""
    return leg("right", hip, knee) | leg("left", hip, knee)


REST: Pose = dict.fromkeys(CHANNELS, 0.0) | arms(0.16, -0.95, 0.1) | legs(4, 6)
REST |= {"right abduct": 4.0, "left abduct": 4.0}


@dataclass(frozen=True)
class Action:
    """Key poses at times from 0 to 1 of one performance by a right-handed person.

    A performance lasts `seconds`. A repeated one is a cycle, which begins and ends in the same pose and is
    entered from and left to rest. People do it `seated` as well where that makes sense.
    """

    name: str
    seconds: float
    keys: tuple[tuple[float, Pose], ...]
    repeated: bool = False
    seated: bool = False

    @property
    def times(self) -> Float[np.ndarray, " K"]:
        return np.array([time for time, _ in self.keys])

    @property
    def poses(self) -> Float[np.ndarray, "K D"]:
        return np.array([vector(pose) for _, pose in self.keys])

    @property
    def uses_left_arm(self) -> bool:
        return any("left elevation" in pose for _, pose in self.keys)


def vector(pose: Pose, base: Pose = REST) -> Float[np.ndarray, " D"]:
    """The pose as one value a channel, the others from `base`, else 0."""
    full = base | pose
    return np.array([full.get(name, 0.0) for name in CHANNELS])


def interpolate(
    frames: Float[np.ndarray, " T"], times: Float[np.ndarray, " K"], poses: Float[np.ndarray, "K D"]
) -> Float[np.ndarray, "T D"]:
    """Monotone cubic curve through the key poses, held before the first and after the last.

    It never overshoots a key, so a pose held between two equal keys stays still, and it does not stop at a
    key that lies on the way (Fritsch and Butland, "A method for constructing local monotone piecewise cubic
    interpolants", 1984).

    >>> keys = np.array([[0.0], [1.0], [1.0]])
    >>> interpolate(np.array([-1.0, 1.0, 2.5, 9.0]), np.array([0.0, 2.0, 3.0]), keys).T
    array([[0. , 0.5, 1. , 1. ]])
    """
    frames = np.clip(frames, times[0], times[-1])
    span = np.diff(times)[:, None]
    slope = np.diff(poses, axis=0) / span
    before, after = slope[:-1], slope[1:]
    same = before * after > 0
    harmonic = 2 * before * after / np.where(same, before + after, 1.0)
    tangent = np.zeros_like(poses)
    tangent[1:-1] = np.where(same, harmonic, 0.0)
    left = np.clip(np.searchsorted(times, frames, side="right") - 1, 0, len(times) - 2)
    u = ((frames - times[left]) / span[left, 0])[:, None]
    rise = u * u * (3 - 2 * u)
    return (
        poses[left] * (1 - rise)
        + poses[left + 1] * rise
        + span[left] * (tangent[left] * u * (1 - u) ** 2 - tangent[left + 1] * u * u * (1 - u))
    )


SEATED: Pose = legs(88, 88) | arms(0.0, -0.6, 0.45) | {"lean": 4.0}
_RISING = legs(62, 82) | arms(0.1, -0.6, 0.6) | {"lean": 38.0, "nod": -10.0}
_MOUTH = arm("right", -0.3, 0.07, 0.3)
_CROWN = arm("right", -0.2, 0.5, 0.22)
_WATCH = arm("left", -0.25, -0.18, 0.5)
_GUARD = arms(-0.12, -0.02, 0.4) | legs(12, 24) | {"lean": 6.0}
_POINT = arm("right", 0.1, 0.05, 0.97)
_STOOP = (
    legs(55, 88)
    | arm("right", -0.1, -0.1, 0.97)
    | arm("left", 0.1, -0.4, 0.75)
    | {"lean": 75.0, "nod": -15.0}
)
_BOWED = arms(0.12, -0.75, 0.6) | {"lean": 52.0, "nod": 22.0}
_CROUCH = legs(48, 86) | arms(0.2, -0.85, -0.4) | {"lean": 32.0}


def _circle(elevation: float, azimuth: float) -> Pose:
    return {
        f"{side} {channel}": value
        for side in ("left", "right")
        for channel, value in (("elevation", elevation), ("azimuth", azimuth), ("reach", 0.97))
    }


def _stride(front: str, back: str) -> Pose:
    """`front` knee up, the arm of the other side forward."""
    return leg(front, 42, 62) | leg(back, 2, 4) | arm(back, 0.1, -0.75, 0.5) | arm(front, 0.15, -0.85, -0.4)


ACTIONS: tuple[Action, ...] = (
    Action("drink water", 2.2, (
        (0, {}), (0.3, _MOUTH), (0.42, _MOUTH | {"nod": -18.0}), (0.65, _MOUTH | {"nod": -22.0}), (1, {}),
    ), seated=True),
    Action("put on a hat", 2.0, (
        (0, {}), (0.25, arm("right", -0.05, -0.25, 0.5) | {"nod": 12.0}), (0.55, _CROWN),
        (0.7, _CROWN | {"nod": 8.0}), (1, {}),
    ), seated=True),
    Action("check time (from watch)", 1.9, (
        (0, {}), (0.3, _WATCH | {"nod": 28.0, "turn": 10.0}), (0.7, _WATCH | {"nod": 30.0, "turn": 10.0}),
        (1, {}),
    ), seated=True),
    Action("pointing to something", 1.8, ((0, {}), (0.35, _POINT), (0.7, _POINT), (1, {})), seated=True),
    Action("throw", 1.4, (
        (0, {}), (0.4, arm("right", 0.35, 0.35, -0.3) | {"twist": -35.0, "lean": -8.0}),
        (0.55, arm("right", 0.0, 0.35, 0.88) | {"twist": 20.0, "lean": 12.0}),
        (0.68, arm("right", -0.35, -0.5, 0.6) | {"twist": 32.0, "lean": 22.0}), (1, {}),
    )),
    Action("pick up", 2.2, (
        (0, {}), (0.4, _STOOP), (0.52, _STOOP), (0.82, arm("right", -0.05, -0.3, 0.5) | {"lean": 8.0}),
        (1, arm("right", 0.0, -0.4, 0.5)),
    )),
    Action("bow", 1.9, ((0, {}), (0.4, _BOWED), (0.58, _BOWED), (1, {}))),
    Action("sitting down", 1.7, ((0, {}), (0.5, _RISING), (1, SEATED))),
    Action("standing up", 1.7, ((0, SEATED), (0.5, _RISING), (1, {}))),
    Action("kicking something", 1.5, (
        (0, {}), (0.35, leg("right", -22, 55) | arm("left", 0.3, -0.6, 0.5) | {"lean": 6.0}),
        (0.52, leg("right", 62, 8) | arm("right", 0.4, -0.7, -0.3) | {"lean": -10.0, "left knee": 14.0}),
        (0.62, leg("right", 58, 20) | {"lean": -8.0, "left knee": 12.0}), (1, {}),
    )),
    Action("jump up", 1.5, (
        (0, {}), (0.35, _CROUCH), (0.46, arms(0.2, 0.6, 0.5) | legs(0, 2)),
        (0.58, arms(0.2, 0.85, 0.35) | legs(4, 14) | {"jump": 0.28}),
        (0.7, arms(0.35, 0.2, 0.6) | legs(8, 14)),
        (0.8, legs(38, 66) | arms(0.3, -0.5, 0.5) | {"lean": 22.0}), (1, {}),
    )),
    Action("hand waving", 0.7, (
        (0, arm("right", 0.12, 0.5, 0.35)), (0.5, arm("right", 0.62, 0.42, 0.3)),
        (1, arm("right", 0.12, 0.5, 0.35)),
    ), repeated=True, seated=True),
    Action("clapping", 0.55, (
        (0, arms(-0.26, -0.08, 0.55)), (0.5, arms(0.12, -0.05, 0.55)), (1, arms(-0.26, -0.08, 0.55)),
    ), repeated=True, seated=True),
    Action("punching", 0.75, (
        (0, _GUARD), (0.35, _GUARD | arm("right", -0.2, 0.05, 0.95) | {"twist": 28.0}), (0.6, _GUARD),
        (1, _GUARD),
    ), repeated=True),
    Action("arm circles", 1.1, (
        (0, _circle(50, 70)), (0.25, _circle(95, 25)), (0.5, _circle(140, 70)), (0.75, _circle(95, 115)),
        (1, _circle(50, 70)),
    ), repeated=True),
    Action("walking in place", 1.1, (
        (0, {}), (0.25, _stride("right", "left")), (0.5, {}), (0.75, _stride("left", "right")), (1, {}),
    ), repeated=True),
)  # fmt: skip

CLASS_NAMES = tuple(action.name for action in ACTIONS)
