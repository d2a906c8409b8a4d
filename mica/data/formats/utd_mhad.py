"""UTD-MHAD, the skeletons of its Kinect v1.

One MATLAB 5 file a clip, `a1_s1_t1_skeleton.mat` (action, subject, trial), holding `d_skel` (20, 3, T) in
metres. Its joints go down the spine from the head; they are put in the order of the Kinect SDK, which goes
up.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import PurePath

import numpy as np
from jaxtyping import Float32
from scipy.io import loadmat

from mica.data.class_names import CLASS_NAMES
from mica.data.clip import Clip, StoreInfo, check_clip
from mica.data.formats.walk import files_in, name_numbers
from mica.data.outcome import Found, Outcome, Unit
from mica.data.recordings import Source
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


def find(source: Source) -> Found:
    """Find the skeletons in `Skeleton`, or in the folder given; `InputError` if there is none."""
    return Found(INFO, files_in(source, "Skeleton", ".mat"), read)


def read(source: Source, unit: Unit) -> Iterator[Outcome]:
    """Read the clip of one file."""
    file = source.where(unit[0].path)
    clip = _read_clip(unit[0].name, source.read(unit[0].path), file)
    yield Outcome(clip.name, check_clip(clip, INFO, file=file, coordinates=_KEY))


def read_keypoints(content: bytes, file: str) -> Float32[np.ndarray, "T 1 20 3"]:
    """Return the bodies of a file like those of the release, whatever its name, in metres and the layout's order.

    Raises `InputError` for a damaged file.

    >>> from scipy.io import savemat
    >>> stream = io.BytesIO()
    >>> savemat(stream, {"d_skel": np.ones((20, 3, 41))})
    >>> read_keypoints(stream.getvalue(), "wave.mat").shape
    (41, 1, 20, 3)
    """
    clip = PurePath(file).stem
    return _keypoints(_load(content, clip, file), clip, file)


def _read_clip(name: str, content: bytes, file: str) -> Clip:
    numbers = name_numbers(name, file, _NAME, "a1_s1_t1_skeleton.mat")
    clip = name.removesuffix("_skeleton.mat")
    if not 1 <= numbers["action"] <= len(INFO.class_names):
        problem = f"action {numbers['action']}, expected 1 to {len(INFO.class_names)}"
        raise InputError(problem, file=file, clip=clip, field="name")
    return Clip(
        name=clip,
        keypoints=_keypoints(_load(content, clip, file), clip, file),
        label=numbers["action"] - 1,
        subject=numbers["subject"],
        replication=numbers["trial"],
    )


def _load(file_content: bytes, clip: str, file: str) -> np.ndarray:
    try:
        content = loadmat(io.BytesIO(file_content))  # type: ignore[arg-type]  # the stub forgets open files
    except Exception as error:  # scipy lets whatever a damaged file causes through
        problem = f"not readable as a MATLAB 5 file, perhaps truncated ({error})"
        raise InputError(problem, file=file, clip=clip, hint=_HINT) from error
    if _KEY not in content:
        found = ", ".join(key for key in content if not key.startswith("__")) or "nothing"
        problem = f"variable missing, found {found}"
        raise InputError(problem, file=file, clip=clip, field=_KEY, hint=_HINT)
    return np.atleast_3d(content[_KEY])  # MATLAB drops a last dimension of one: a clip of one frame


def _keypoints(skeleton: np.ndarray, clip: str, file: str) -> Float32[np.ndarray, "T 1 20 3"]:
    """Turn (20, 3, T) into (T, 1, 20, 3), joints in the layout's order."""
    if skeleton.dtype.kind not in "fiu" or skeleton.ndim != 3 or skeleton.shape[:2] != (len(JOINT_ROWS), 3):
        problem = (
            f"{skeleton.dtype} of shape {skeleton.shape}, expected numbers of shape (20 joints, 3, frames)"
        )
        raise InputError(problem, file=file, clip=clip, field=_KEY, hint=_HINT)
    ordered = skeleton[list(JOINT_ROWS)].astype(np.float32)
    return ordered.transpose(2, 0, 1)[:, None]
