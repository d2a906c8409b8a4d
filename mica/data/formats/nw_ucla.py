"""NW-UCLA (Northwestern-UCLA Multiview Action 3D), the JSON release that came with CTR-GCN.

One file a clip, `a01_s01_e00_v01.json` (action code, subject, episode, view), holding `file_name`,
`skeletons` (T, 20, 3) in metres and `label`. Action codes have gaps; `label` is the position of the code
among those in use, counted from 1.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mica.data.class_names import CLASS_NAMES
from mica.data.clip import Clip, StoreInfo
from mica.data.formats.walk import list_files, name_numbers, read_clips
from mica.errors import InputError

INFO = StoreInfo(
    dataset="nw-ucla",
    layout="kinect-20",
    class_names=CLASS_NAMES["nw-ucla"],
    frame_rate=30.0,  # the sensor's; the release does not say whether frames were left out
    source="NW-UCLA, JSON release of CTR-GCN",
)
ACTION_CODES = (1, 2, 3, 4, 5, 6, 8, 9, 11, 12)
_NAME = re.compile(r"a(?P<action>\d{2})_s(?P<subject>\d{2})_e(?P<episode>\d{2})_v(?P<view>\d{2})\.json")
_HINT = "fetch this file again from the release"


def read(root: str | os.PathLike[str]) -> tuple[StoreInfo, Iterator[Clip], int]:
    """Read the release under `root` (the folder `all_sqe` or the one above); clips are read as asked for.

    `replication` is the episode, which counts from 0. Raises `InputError` at once if there is no file, later
    at the first file that is damaged.
    """
    files = list_files(root, "all_sqe", ".json")
    return INFO, read_clips(files, _read_clip, INFO, coordinates="skeletons"), len(files)


def _read_clip(file: Path) -> Clip:
    numbers = name_numbers(file, _NAME, "a01_s01_e00_v01.json")
    clip = file.stem
    content = _load(file)
    if content.get("file_name", clip) != clip:
        problem = f"the file holds the clip {content['file_name']}"
        raise InputError(problem, file=file, clip=clip, field="file_name", hint=_HINT)
    if numbers["action"] not in ACTION_CODES:
        problem = f"action code {numbers['action']}, known are {', '.join(map(str, ACTION_CODES))}"
        raise InputError(problem, file=file, clip=clip, field="name")
    label = ACTION_CODES.index(numbers["action"])
    if content["label"] != label + 1:
        problem = f"{content['label']!r}, but action code {numbers['action']} in the name means {label + 1}"
        raise InputError(problem, file=file, clip=clip, field="label", hint=_HINT)
    return Clip(
        name=clip,
        keypoints=_keypoints(content["skeletons"], file),
        label=label,
        subject=numbers["subject"],
        camera=numbers["view"],
        replication=numbers["episode"],
    )


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        problem = f"not readable as JSON, perhaps truncated ({error})"
        raise InputError(problem, file=file, clip=file.stem, hint=_HINT) from error
    if not isinstance(content, dict):
        raise InputError("no JSON object", file=file, clip=file.stem, hint=_HINT)
    for key in ("label", "skeletons"):
        if key not in content:
            raise InputError("key missing", file=file, clip=file.stem, field=key, hint=_HINT)
    return content


def _keypoints(skeletons: Any, file: Path) -> np.ndarray:
    """Turn lists of (T, V, 3) into an array of (T, 1, V, 3)."""
    try:
        frames = np.asarray(skeletons, dtype=np.float32)
    except (ValueError, TypeError) as error:
        problem = f"not frames of equally many joints of three numbers ({error})"
        raise InputError(problem, file=file, clip=file.stem, field="skeletons", hint=_HINT) from error
    if frames.ndim != 3:
        problem = "no frames" if frames.size == 0 else f"shape {frames.shape}, expected (frames, joints, 3)"
        raise InputError(problem, file=file, clip=file.stem, field="skeletons", hint=_HINT)
    return frames[:, None]
