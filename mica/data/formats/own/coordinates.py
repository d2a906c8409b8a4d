"""From coordinates in anyone's units and axes to clips in metres with y up, and what is done where joints are missing.

In all functions NaN is a joint that is not seen.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32

from mica.errors import InputError
from mica.skeleton import SkeletonLayout

Units = Literal["metres", "centimetres", "millimetres", "pixels", "unknown"]
Up = Literal["y", "-y", "z"]
Coordinates = Float[np.ndarray, "T M V axes"]

LARGEST_NUMBER = 1e9  # of a coordinate in any units
TORSO = 0.5  # metres from hips to shoulders, given to bodies whose size is not known
# Metres, from small children to exaggeration. Units mistaken are wrong by a factor of ten at least.
PLAUSIBLE_TORSO = (0.1, 3.0)
_METRES = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001}
_LARGEST = 1 << 24  # coordinates in a clip: an hour of two persons at 30 frames a second
_FARTHEST = 1e4  # metres; float32 is finer than a millimetre up to there

# Rows are what x, y, z become. All are rotations about x, so that left stays left.
_TURNS: dict[str, Float[np.ndarray, "3 3"]] = {
    "y": np.diag([1.0, 1.0, 1.0]),
    "-y": np.diag([1.0, -1.0, -1.0]),
    "z": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
}


def check_units(units: str, up: str | None) -> None:
    """Raise `InputError` for units or an upward axis that are not known."""
    if units not in get_args(Units):
        hint = f"one of {', '.join(get_args(Units))}"
        raise InputError(f"unknown units '{units}'", field="units", hint=hint)
    if up is not None and up not in get_args(Up):
        hint = f"one of {', '.join(get_args(Up))}"
        raise InputError(f"'{up}' is no axis that may point up", field="up", hint=hint)


def check_size(frames: int, persons: int, joints: int, file: str | os.PathLike[str]) -> None:
    """Raise `InputError` for a clip that has nothing in it, or too much to be one action."""
    if min(frames, persons, joints) < 1:
        missing = "frames" if frames < 1 else "persons" if persons < 1 else "joints"
        raise InputError(f"no {missing}", file=file)
    if frames * persons * joints * 3 > _LARGEST:
        problem = f"{frames:,} frames x {persons:,} persons x {joints:,} joints are too many for one clip"
        raise InputError(problem, file=file, hint="cut the recording into actions")


def hide_unsure(values: Float[np.ndarray, "*shape axes"]) -> Float[np.ndarray, "*shape fewer"]:
    """Take the last axis, the confidence, away; joints of confidence 0, or none, are not seen.

    >>> hide_unsure(np.array([[3.0, 4.0, 0.9], [3.0, 4.0, 0.0]]))
    array([[ 3.,  4.],
           [nan, nan]])
    """
    sure = np.nan_to_num(values[..., -1:]) != 0
    return np.where(sure, values[..., :-1], np.nan)


def mark_unseen(values: Coordinates, units: str) -> Coordinates:
    """Make a joint NaN in all axes if it is in one, and a body that is zero throughout; in pixels, a joint at (0, 0).

    Trackers write zeros for what they do not see; only of a whole body, or of an image's corner, is that certain.

    >>> mark_unseen(np.array([0.0, 0.0, 3.0, 4.0]).reshape(1, 1, 2, 2), "pixels")[0, 0]
    array([[nan, nan],
           [ 3.,  4.]])
    """
    unseen = np.isnan(values).any(axis=3)
    at_zero = ~np.where(unseen[..., None], 0.0, values).any(axis=3)
    unseen |= at_zero if units == "pixels" else np.all(at_zero, axis=2, keepdims=True)
    return np.where(unseen[..., None], np.nan, values)


def check_numbers(values: Coordinates, file: str) -> None:
    """Raise `InputError` for a coordinate that is infinite or beyond all measure."""
    _require_within(values, LARGEST_NUMBER, "no coordinate", file)


def _require_within(values: Coordinates, limit: float, what: str, file: str) -> None:
    beyond = np.abs(values) > limit  # never true of NaN
    if beyond.any():
        frame, person, joint, axis = np.argwhere(beyond)[0]
        number = values[frame, person, joint, axis]
        raise InputError(
            f"frame {frame}: {number:.4g} of joint {joint}, person {person}, is {what}", file=file
        )


def fill_missing(values: Coordinates, layout: SkeletonLayout, file: str) -> tuple[Coordinates, bool]:
    """Fill joints that are missing from a body that is seen, linearly over time; say whether there were any.

    Before a joint is first seen it stays where it will be, after the last time where it was. Raises `InputError` for
    a joint that is never seen of a body that is.
    """
    seen = ~np.isnan(values[..., 0])
    there = seen.any(axis=2)
    gaps = there[:, :, None] & ~seen
    if not gaps.any():
        return values, False
    filled = values.copy()
    for person, joint in np.argwhere(gaps.any(axis=0)).tolist():
        known, wanted = np.flatnonzero(seen[:, person, joint]), np.flatnonzero(gaps[:, person, joint])
        if not len(known):
            problem = f"joint {joint}, '{layout.joints[joint]}', of person {person} is never seen"
            hint = f"layout {layout.name} needs it; choose or write a layout without this joint"
            raise InputError(problem, file=file, hint=hint)
        for axis in range(values.shape[3]):
            filled[wanted, person, joint, axis] = np.interp(wanted, known, values[known, person, joint, axis])
    return filled, True


def to_metres(
    values: Coordinates, layout: SkeletonLayout, units: str, up: str | None, file: str
) -> Float32[np.ndarray, "T M V 3"]:
    """Return coordinates in metres with y up; a body that is not seen becomes zero.

    values: x, y and z, or x and y of a plane (z becomes 0). Metres, centimetres and millimetres are scaled; in pixels
    and unknown units, the clip is scaled so that the median torso, from the middle of the hips to the middle of the
    shoulders over all frames and persons, measures 0.5 m. Pixels are centred on the first torso seen. `up` is the axis
    that points up: "y", "-y" or "z"; None means "-y" in pixels, as images have it, and "y" otherwise. Raises
    `InputError` where a body's size cannot be right.

    >>> from mica.skeleton import get_layout, standing_pose
    >>> layout = get_layout("coco-17")
    >>> image = np.array([640.0, 480.0]) + standing_pose(layout)[None, None] * [200, -200]
    >>> clip = to_metres(image, layout, "pixels", None, "walk.npy")
    >>> clip[0, 0, layout.joints.index("left shoulder")].round(2)
    array([0.21, 0.25, 0.  ], dtype=float32)
    """
    space = np.concatenate([values, np.zeros((*values.shape[:3], 3 - values.shape[3]))], axis=3)
    space[np.isnan(values[..., 0])] = np.nan
    space = space @ _TURNS[up or ("-y" if units == "pixels" else "y")].T
    shoulders, hips = (_middle(space, layout, place) for place in ("shoulder", "hip"))
    lengths = np.linalg.norm(shoulders - hips, axis=-1)
    torso = float(np.nanmedian(lengths))
    scale = _scale(torso, units, file)
    space *= scale
    if units == "pixels":
        first = tuple(np.argwhere(~np.isnan(lengths))[0])
        space -= (shoulders[first] + hips[first]) / 2 * scale
    _require_within(space, _FARTHEST, "metres away: move the origin nearer", file)
    return np.nan_to_num(space).astype(np.float32)


def _middle(
    space: Float[np.ndarray, "T M V 3"], layout: SkeletonLayout, place: str
) -> Float[np.ndarray, "T M 3"]:
    left, right = (space[:, :, layout.landmarks[f"{side} {place}"]] for side in ("left", "right"))
    return (left + right) / 2


def _scale(torso: float, units: str, file: str) -> float:
    if units in _METRES:
        low, high = PLAUSIBLE_TORSO
        if low <= torso * _METRES[units] <= high:
            return _METRES[units]
        fitting = [name for name, scale in _METRES.items() if low <= torso * scale <= high] or ["unknown"]
        problem = f"from hips to shoulders it is {torso * _METRES[units]:.3g} metres: are these {units}?"
        raise InputError(problem, file=file, field="units", hint=f"try units: {', '.join(fitting)}")
    if torso < 1e-9:
        raise InputError("shoulders and hips are in the same place, so that no size can be told", file=file)
    return TORSO / torso
