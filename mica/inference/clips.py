"""One clip from one file, of one's own or of a data set, on the joints that a model was trained on."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mica.data.clip import Clip, StoreInfo, check_clip
from mica.data.formats import ntu, nw_ucla, utd_mhad
from mica.data.formats.own.bvh import read_bvh
from mica.data.formats.own.clip_table import SUFFIXES as OWN
from mica.data.formats.own.recorded import Recorded, check_settings, layout_of_motion, read_keypoints
from mica.data.recordings import SingleFile
from mica.errors import InputError
from mica.skeleton import SkeletonLayout, get_layout, layout_to_dict, map_layout

Keypoints = Float32[np.ndarray, "T M V 3"]

RELEASED: dict[str, tuple[str, str, Callable[[bytes, str], Keypoints | None]]] = {
    ".skeleton": ("NTU RGB+D", "ntu-25", lambda content, file: ntu.read_keypoints(content, file)[0]),
    ".json": ("NW-UCLA", "kinect-20", nw_ucla.read_keypoints),
    ".mat": ("UTD-MHAD", "kinect-20", utd_mhad.read_keypoints),
}
"""The files of data sets by their ending: whose, on which joints, and who reads them."""

SUFFIXES = (*OWN, *RELEASED)
"""What can be read."""


@dataclass(frozen=True)
class Reading:
    """How one's own files (`.npy`, `.npz`, `.csv`, `.bvh`) are to be read; those of data sets know for themselves.

    Args:
        layout: of the file's joints; None takes the model's, and of a BVH file the joints that it names.
        units, up, dimensions: as `mica prepare folder` has them.
    """

    layout: SkeletonLayout | None = None
    units: str = "metres"
    up: str | None = None
    dimensions: int | None = None


AS_THEY_ARE = Reading()


def read_clip(
    file: str | os.PathLike[str], layout: SkeletonLayout, how: Reading = AS_THEY_ARE
) -> Float32[np.ndarray, "T M V 3"]:
    """Read a clip and bring it to the joints of `layout`: metres, y up, a body that is not seen all zero.

    It has the coordinates that `mica prepare` gives a store of the same file. Raises `InputError` for a file that is
    missing, damaged, shows nobody or is of no kind that we read, and for joints that do not fit or cannot be mapped.

    >>> import tempfile
    >>> from mica.skeleton import standing_pose
    >>> kinect, ntu = get_layout("kinect-20"), get_layout("ntu-25")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.tile(standing_pose(kinect), (8, 1, 1)))
    ...     read_clip(f"{folder}/a.npy", ntu, Reading(layout=kinect)).shape
    (8, 1, 25, 3)
    """
    path = Path(file)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        hint = f"files that can be read end in {', '.join(SUFFIXES)}"
        raise InputError("of no kind that can be read", file=path, hint=hint)
    source = SingleFile(path)
    content, where = source.read(path.name), source.where(path.name)
    if suffix in RELEASED:
        recorded, keypoints = _released(content, where, suffix, how)
    else:
        recorded, keypoints = _own(content, where, layout, how)
    if keypoints is None:
        raise InputError("no body in any frame", file=path)
    _check(path, keypoints, recorded)
    return map_layout(recorded, layout).apply(keypoints) if recorded != layout else keypoints


def _released(
    content: bytes, file: str, suffix: str, how: Reading
) -> tuple[SkeletonLayout, Keypoints | None]:
    dataset, name, read = RELEASED[suffix]
    layout = get_layout(name)
    if how not in (AS_THEY_ARE, Reading(layout)):
        problem = f"{suffix} files are those of {dataset}: on the joints {name}, in metres, y up"
        raise InputError(
            problem, file=file, hint="leave out what you said of layout, units, up and dimensions"
        )
    return layout, read(content, file)


def _own(
    content: bytes, file: str, model_layout: SkeletonLayout, how: Reading
) -> tuple[SkeletonLayout, Keypoints | None]:
    check_settings(how.units, how.up, how.dimensions)
    layout = how.layout or model_layout
    if how.layout is None and file.lower().endswith(".bvh"):
        layout = _named_in(content, file, model_layout)
    recorded = Recorded(layout, units=how.units, up=how.up, dimensions=how.dimensions)
    return layout, read_keypoints(recorded, content, file)[0]


def _named_in(content: bytes, file: str, model_layout: SkeletonLayout) -> SkeletonLayout:
    """Return the layout of the joints that a BVH file names: the model's, if they are the same."""
    motion, name = read_bvh(content, file), Path(file).stem
    joints = motion.hierarchy.joints, motion.hierarchy.parents
    if joints == (model_layout.joints, model_layout.parents):
        return model_layout
    return layout_of_motion(motion, f"{name}-bvh", f"the joints of {name}", file)


def _check(file: Path, keypoints: Keypoints, layout: SkeletonLayout) -> None:
    """Refuse what no store would hold."""
    info = StoreInfo("one clip", layout.name, ("unknown",), 30.0, own_layout=layout_to_dict(layout))
    check_clip(Clip(file.stem, keypoints, label=0), info, file=file)
