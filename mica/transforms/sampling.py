"""From a recorded clip of any length to the tensor an encoder takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mica.skeleton import SkeletonLayout
from mica.transforms.streams import Stream

Centering = Literal["frame", "clip"]


@dataclass(frozen=True)
class Preprocessing:
    """How a recorded clip becomes the encoder's input.

    Args:
        num_frames: T, to which every clip is resampled.
        stream: "joint", "bone" or "motion", computed after augmentation.
        align_view: turn every clip so that the body of its first frame faces the camera.
        center: subtract the centre joint of every "frame", or of the first frame of the "clip" (keeps the path).
    """

    num_frames: int = 64
    stream: Stream = "joint"
    align_view: bool = True
    center: Centering = "clip"


def prepare(
    keypoints: Float[np.ndarray, "T M V 3"],
    layout: SkeletonLayout,
    persons: int,
    how: Preprocessing,
) -> Float[Tensor, "3 num_frames V persons"]:
    """Fill drop-outs, resample, root-centre and turn to the front; a missing person stays zero.

    keypoints: metres, float32, an absent body all zero. Persons past `persons` are left out (stores keep the most
    moving first). The first person gives the origin and the heading for all, so that who stands where is kept.

    >>> from mica.skeleton import get_layout
    >>> clip = np.random.default_rng(0).normal(size=(31, 1, 20, 3)).astype(np.float32)
    >>> prepare(clip, get_layout("kinect-20"), persons=2, how=Preprocessing(num_frames=64)).shape
    torch.Size([3, 64, 20, 2])
    """
    kept = keypoints[:, :persons].astype(np.float32)
    seen = np.any(kept, axis=(2, 3))
    kept = fill_dropouts(kept, seen)
    kept = resample(kept, how.num_frames)
    present = seen.any(axis=0)
    origin = kept[:, :1, layout.center : layout.center + 1]
    kept = kept - (origin if how.center == "frame" else origin[:1])
    if how.align_view:
        kept = kept @ facing_rotation(kept[0, 0], layout)
    kept[:, ~present] = 0.0
    out = np.zeros((3, how.num_frames, layout.num_joints, persons), np.float32)
    out[..., : kept.shape[1]] = kept.transpose(3, 0, 2, 1)
    return torch.from_numpy(out)


def fill_dropouts(keypoints: Float[np.ndarray, "T M V 3"], seen: np.ndarray) -> Float[np.ndarray, "T M V 3"]:
    """Interpolate over frames in which a body that the clip shows elsewhere is missing (`seen`: T x M, bool)."""
    if seen.all():
        return keypoints
    filled, frames = keypoints.copy(), np.arange(len(keypoints))
    for person in np.flatnonzero(seen.any(axis=0) & ~seen.all(axis=0)):
        known = np.flatnonzero(seen[:, person])
        filled[:, person] = _interpolate(
            keypoints[known, person], np.interp(frames, known, np.arange(len(known)))
        )
    return filled


def resample(keypoints: Float[np.ndarray, "T ..."], num_frames: int) -> Float[np.ndarray, "num_frames ..."]:
    """Resample along time by linear interpolation; first and last frame stay, a one-frame clip is repeated."""
    return _interpolate(keypoints, np.linspace(0.0, len(keypoints) - 1.0, num_frames))


def facing_rotation(frame: Float[np.ndarray, "V 3"], layout: SkeletonLayout) -> Float[np.ndarray, "3 3"]:
    """Rotation about the vertical (y) that brings shoulders and hips of `frame` parallel to the x axis.

    Multiply from the right: `points @ facing_rotation(points[0], layout)`. Where the body gives no direction
    (a collapsed or edge-on frame) it is the identity.
    """
    marks = layout.landmarks
    across = frame[marks["left shoulder"]] - frame[marks["right shoulder"]]
    across = across + frame[marks["left hip"]] - frame[marks["right hip"]]
    x, z = float(across[0]), float(across[2])
    length = np.hypot(x, z)
    if length < 1e-6:
        return np.eye(3, dtype=np.float32)
    cos, sin = x / length, z / length
    return np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]], np.float32)


def _interpolate(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    low = np.floor(positions).astype(np.int64)
    high = np.minimum(low + 1, len(values) - 1)
    share = (positions - low).astype(values.dtype).reshape(-1, *([1] * (values.ndim - 1)))
    return values[low] * (1 - share) + values[high] * share
