"""NW-UCLA (Northwestern-UCLA Multiview Action 3D), the JSON release that came with CTR-GCN.

One file a clip, `a01_s01_e00_v01.json` (action code, subject, episode, view), holding `file_name`,
`skeletons` (T, 20, 3) in metres and `label`. Action codes have gaps; `label` is the position of the code
among those in use, counted from 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np
from jaxtyping import Float32

from mica.data.class_names import CLASS_NAMES
from mica.data.clip import Clip, StoreInfo, check_clip
from mica.data.formats.walk import files_in, name_numbers
from mica.data.outcome import Found, Outcome, Unit
from mica.data.recordings import Source
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


def find(source: Source) -> Found:
    """Find the files of the release in `all_sqe`, or in the folder given; `InputError` if there is none.

    `replication` is the episode, which counts from 0.
    """
    return Found(INFO, files_in(source, "all_sqe", ".json"), read)


def read(source: Source, unit: Unit) -> Iterator[Outcome]:
    """Read the clip of one file."""
    file = source.where(unit[0].path)
    clip = _read_clip(unit[0].name, source.read(unit[0].path), file)
    yield Outcome(clip.name, check_clip(clip, INFO, file=file, coordinates="skeletons"))


def read_keypoints(text: bytes, file: str) -> Float32[np.ndarray, "T 1 V 3"]:
    """Return the `skeletons` of a file like those of the release, in metres; all else in it may be missing.

    Raises `InputError` for a damaged file.

    >>> read_keypoints(b'{"skeletons": [[[0.1, 0.9, 2.0]]]}', "blink.json").tolist()
    [[[[0.10000000149011612, 0.8999999761581421, 2.0]]]]
    """
    clip = PurePath(file).stem
    return _keypoints(_load(text, clip, file, "skeletons")["skeletons"], clip, file)


def _read_clip(name: str, text: bytes, file: str) -> Clip:
    numbers = name_numbers(name, file, _NAME, "a01_s01_e00_v01.json")
    clip = name.removesuffix(".json")
    content = _load(text, clip, file, "label", "skeletons")
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
        keypoints=_keypoints(content["skeletons"], clip, file),
        label=label,
        subject=numbers["subject"],
        camera=numbers["view"],
        replication=numbers["episode"],
    )


def _load(text: bytes, clip: str, file: str, *keys: str) -> dict[str, Any]:
    try:
        content = json.loads(text.decode("utf-8"))
    except ValueError as error:
        problem = f"not readable as JSON, perhaps truncated ({error})"
        raise InputError(problem, file=file, clip=clip, hint=_HINT) from error
    if not isinstance(content, dict):
        raise InputError("no JSON object", file=file, clip=clip, hint=_HINT)
    for key in keys:
        if key not in content:
            raise InputError("key missing", file=file, clip=clip, field=key, hint=_HINT)
    return content


def _keypoints(skeletons: Any, clip: str, file: str) -> Float32[np.ndarray, "T 1 V 3"]:
    """Turn lists of (T, V, 3) into an array of (T, 1, V, 3)."""
    try:
        frames = np.asarray(skeletons, dtype=np.float32)
    except (ValueError, TypeError) as error:
        problem = f"not frames of equally many joints of three numbers ({error})"
        raise InputError(problem, file=file, clip=clip, field="skeletons", hint=_HINT) from error
    if frames.ndim != 3:
        problem = "no frames" if frames.size == 0 else f"shape {frames.shape}, expected (frames, joints, 3)"
        raise InputError(problem, file=file, clip=clip, field="skeletons", hint=_HINT)
    return frames[:, None]
