"""UTD-MHAD, the skeletons of its Kinect v1.

One MATLAB 5 file a clip, `a1_s1_t1_skeleton.mat` (action, subject, trial), holding `d_skel` (20, 3, T) in
metres. Its joints go down the spine from the head; they are put in the order of the Kinect SDK, which goes
up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from mica.data.class_names import CLASS_NAMES
from mica.data.clip import Clip, StoreInfo
from mica.data.formats.walk import list_files, name_numbers, read_clips
from mica.errors import InputError

INFO = StoreInfo(
    dataset="utd-mhad",
    layout="kinect-20",
    class_names=CLASS_NAMES["utd-mhad"],
    frame_rate=30.0,
    source="UTD-MHAD, skeletons of Kinect v1",
)
# Row of `d_skel` for each joint of the layout; only the four of the spine differ.
JOINT_ROWS = (3, 2, 1, 0, *range(4, 20))
_KEY = "d_skel"
_NAME = re.compile(r"a(?P<action>\d{1,2})_s(?P<subject>\d{1,2})_t(?P<trial>\d{1,2})_skeleton\.mat")
_HINT = "fetch this file again from the release"


def read(root: str | os.PathLike[str]) -> tuple[StoreInfo, Iterator[Clip], int]:
    """Read the skeletons under `root` (the folder `Skeleton` or the one above); clips are read as asked for.

    Raises `InputError` at once if there is no file, later at the first file that is damaged.
    """
    files = list_files(root, "Skeleton", ".mat")
    return INFO, read_clips(files, _read_clip, INFO, coordinates=_KEY), len(files)


def _read_clip(file: Path) -> Clip:
    numbers = name_numbers(file, _NAME, "a1_s1_t1_skeleton.mat")
    if not 1 <= numbers["action"] <= len(INFO.class_names):
        problem = f"action {numbers['action']}, expected 1 to {len(INFO.class_names)}"
        raise InputError(problem, file=file, clip=file.stem, field="name")
    return Clip(
        name=file.stem.removesuffix("_skeleton"),
        keypoints=_keypoints(_load(file), file),
        label=numbers["action"] - 1,
        subject=numbers["subject"],
        replication=numbers["trial"],
    )


def _load(file: Path) -> np.ndarray:
    try:
        content = loadmat(file)
    except Exception as error:  # scipy lets whatever a damaged file causes through
        problem = f"not readable as a MATLAB 5 file, perhaps truncated ({error})"
        raise InputError(problem, file=file, clip=file.stem, hint=_HINT) from error
    if _KEY not in content:
        found = ", ".join(key for key in content if not key.startswith("__")) or "nothing"
        problem = f"variable missing, found {found}"
        raise InputError(problem, file=file, clip=file.stem, field=_KEY, hint=_HINT)
    return np.atleast_3d(content[_KEY])  # MATLAB drops a last dimension of one: a clip of one frame


def _keypoints(skeleton: np.ndarray, file: Path) -> np.ndarray:
    """Turn (20, 3, T) into (T, 1, 20, 3), joints in the layout's order."""
    if skeleton.dtype.kind not in "fiu" or skeleton.ndim != 3 or skeleton.shape[:2] != (len(JOINT_ROWS), 3):
        problem = (
            f"{skeleton.dtype} of shape {skeleton.shape}, expected numbers of shape (20 joints, 3, frames)"
        )
        raise InputError(problem, file=file, clip=file.stem, field=_KEY, hint=_HINT)
    ordered = skeleton[list(JOINT_ROWS)].astype(np.float32)
    return ordered.transpose(2, 0, 1)[:, None]
