"""One file of one's own: from what it holds, in its own units and axes, to a clip in metres with y up."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from mica.data.formats.own.array_file import read_array_file
from mica.data.formats.own.bvh import Motion, joint_positions, read_bvh
from mica.data.formats.own.coordinates import check_numbers, check_units, fill_missing, mark_unseen, to_metres
from mica.data.formats.own.joint_table import plain, read_joint_table
from mica.data.formats.own.layout_file import layouts_with
from mica.errors import InputError
from mica.skeleton import SkeletonLayout, infer_layout, layout_to_dict

_SAME_RATE = 0.01  # of the frame rate


@dataclass(frozen=True)
class Recorded:
    """How files are to be read; `str()` of it is all that decides over their clips besides the frame rate.

    Args:
        layout: of the files' joints.
        like: the BVH file that `layout` was taken from, if any.
        units, up, dimensions: as `mica.data.formats.own.folder.find` takes them.
        frame_rate: that BVH files must have; None takes any.
    """

    layout: SkeletonLayout
    like: str | None = None
    units: str = "metres"
    up: str | None = None
    dimensions: int | None = None
    frame_rate: float | None = None

    def __str__(self) -> str:
        return repr((layout_to_dict(self.layout), self.like, self.units, self.up, self.dimensions))


def check_settings(units: str, up: str | None, dimensions: int | None) -> None:
    """Raise `InputError` for a setting that has no meaning."""
    check_units(units, up)
    if dimensions not in (None, 2, 3):
        raise InputError(f"{dimensions} dimensions, expected 2 or 3", field="dimensions")


def layout_of_motion(motion: Motion, name: str, about: str, file: str) -> SkeletonLayout:
    """Return the layout, called `name`, of the joints that a BVH file names; `InputError` if they are no body."""
    try:
        return infer_layout(name, motion.hierarchy.joints, motion.hierarchy.parents, about=about)
    except InputError as error:
        raise InputError(error.problem, file=file, field=error.field, hint=error.hint) from error


def read_keypoints(
    how: Recorded, content: bytes, file: str
) -> tuple[Float32[np.ndarray, "T M V 3"] | None, bool]:
    """Return the bodies of a `.npy`, `.npz`, `.csv` or `.bvh` file in metres with y up, None where nobody is seen.

    With them goes whether missing joints were interpolated. Raises `InputError` for whatever does not fit.

    >>> import io
    >>> from mica.skeleton import get_layout, standing_pose
    >>> layout, stream = get_layout("kinect-20"), io.BytesIO()
    >>> np.save(stream, np.tile(standing_pose(layout) * 1000, (8, 1, 1)))
    >>> keypoints, filled = read_keypoints(Recorded(layout, units="millimetres"), stream.getvalue(), "wave.npy")
    >>> keypoints.shape, filled
    ((8, 1, 20, 3), False)
    """
    values = _coordinates(how, content, file)
    check_numbers(values, file)
    values, was_missing = fill_missing(mark_unseen(values, how.units), how.layout, file)
    seen = ~np.isnan(values).all(axis=(0, 2, 3))
    if not seen.any():
        return None, was_missing
    return to_metres(values[:, seen], how.layout, how.units, how.up, file), was_missing


def _coordinates(how: Recorded, content: bytes, file: str) -> Float[np.ndarray, "T M V axes"]:
    """Return what a file holds, in its own units and axes, with the joints of the layout."""
    if file.lower().endswith(".bvh"):
        return _of_motion(how, read_bvh(content, file), file)
    if file.lower().endswith(".csv"):
        values = read_joint_table(content, file, how.layout)
    else:
        values = read_array_file(content, file, how.dimensions)
    if values.shape[2] != how.layout.num_joints:
        problem = f"{values.shape[2]} joints, layout {how.layout.name} has {how.layout.num_joints}"
        raise InputError(problem, file=file, hint=layouts_with(values.shape[2]))
    if how.units == "pixels" and values.shape[3] == 3:
        hint = "if the third number is a confidence, give dimensions 2; if it is a depth, units unknown"
        raise InputError("three coordinates a joint, but pixels have two", file=file, hint=hint)
    return values


def _of_motion(how: Recorded, motion: Motion, file: str) -> Float[np.ndarray, "T 1 V 3"]:
    """Return the positions of the layout's joints, by their names."""
    hierarchy = motion.hierarchy
    rate = how.frame_rate
    if rate is not None and not math.isclose(motion.frame_rate, rate, rel_tol=_SAME_RATE):
        problem = f"{motion.frame_rate:g} frames a second, the data set has {rate:g}"
        raise InputError(problem, file=file, hint="resample it, or prepare it as a data set of its own")
    if how.like and (hierarchy.joints, hierarchy.parents) != (how.layout.joints, how.layout.parents):
        problem = f"not the joints of {how.like}, which are those of the data set"
        hint = "write a layout file that names the joints that all files have"
        raise InputError(problem, file=file, hint=hint)
    place = {plain(name): joint for joint, name in enumerate(hierarchy.joints)}
    place |= {name: joint for joint, name in enumerate(hierarchy.joints)}
    called = [name if name in place else plain(name) for name in how.layout.joints]
    missing = [own for own, name in zip(how.layout.joints, called, strict=True) if name not in place]
    if missing:
        problem = f"no joint '{missing[0]}', which layout {how.layout.name} has"
        hint = "give no layout, so that the file says what its joints are, and to-layout for what they shall become"
        raise InputError(problem, file=file, hint=hint)
    return joint_positions(motion)[:, None, [place[name] for name in called]]
