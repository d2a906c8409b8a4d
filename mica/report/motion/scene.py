"""A clip before a viewer: where the bodies stand and how they look from there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mica.errors import InputError
from mica.report.figures.canvas import COLOURS
from mica.skeleton import SkeletonLayout

# By what `SkeletonLayout.side` says of a joint, as in the drawings of layouts.
SIDE_COLOURS = {"left": COLOURS[0], "right": COLOURS[1], "": COLOURS[6]}
FLOOR_COLOUR, FLOOR_LINES = "#dcdce0", 8
TILT = 0.16  # radians by which the viewer looks down, enough to see the floor as one
_ROOM = 0.4  # the least radius for a height, so that a body at rest has a floor to stand on
_SMALLEST = 0.01  # even a scene of a single point has an extent


@dataclass(frozen=True)
class Scene:
    """Bodies in the eyes of a viewer: x to the viewer's right, y up from the floor, z towards the viewer.

    `joints` are NaN where a body is not seen. But for short outbreaks they lie in a cylinder of `radius` and `height`
    that stands on the floor around the origin. The unit is that of the coordinates.
    """

    joints: Float[np.ndarray, "T M V 3"]
    radius: float
    height: float


def set_scene(keypoints: Float[np.ndarray, "T M V 3"], layout: SkeletonLayout) -> Scene:
    """Place a clip before a viewer who stands on the side that the bodies face: the sensor's, in a recording.

    A body that is all zero or not finite in a frame is not seen there. Raises `InputError` if the shape is none of
    bodies of this layout, or no body is seen at all.
    """
    expected = ("T", "M", layout.num_joints, 3)
    if keypoints.ndim != 4 or keypoints.shape[2:] != expected[2:]:
        shape = ", ".join(map(str, expected))
        raise InputError(f"shape {keypoints.shape}, layout {layout.name} needs ({shape})", field="keypoints")
    seen = keypoints.any(axis=(2, 3)) & np.isfinite(keypoints).all(axis=(2, 3))
    if not seen.any():
        raise InputError("no body is seen in any frame", field="keypoints")
    joints = np.where(seen[:, :, None, None], keypoints, np.nan).astype(np.float64)
    marks = layout.landmarks
    left, right = (
        joints[:, :, [marks[f"{side} shoulder"], marks[f"{side} hip"]], 0] for side in ("left", "right")
    )
    if np.nansum(left - right) < 0:  # whoever faces us has the left side to our right
        joints = joints * (-1, 1, -1)
    bodies = joints[seen]
    low = np.quantile(bodies.min(axis=1), 0.02, axis=0)
    high = np.quantile(bodies.max(axis=1), 0.98, axis=0)
    joints -= (low + high) / 2 * (1, 0, 1) + low * (0, 1, 0)
    reach = np.hypot(joints[seen][..., 0], joints[seen][..., 2]).max(axis=1)
    radius, height = float(np.quantile(reach, 0.98)), float(high[1] - low[1])
    return Scene(joints, max(radius, _ROOM * height, _SMALLEST), max(height, _SMALLEST))


def flat(points: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 2"]:
    """What the viewer, looking down a little, sees of points in a scene."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([x, y * np.cos(TILT) - z * np.sin(TILT)], axis=-1)
