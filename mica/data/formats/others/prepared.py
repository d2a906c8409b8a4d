"""What the readers of prepared files have in common: names, divisions, class names, padding."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Num

from mica.data.class_names import CLASS_NAMES
from mica.data.clip import Clip, StoreInfo, check_clip, check_info
from mica.data.outcome import Outcome
from mica.errors import InputError

LAYOUT_OF_JOINTS = {20: "kinect-20", 25: "ntu-25"}
"""Whose bodies of three-dimensional files these are, where nothing else is said."""

_NTU_NAME = re.compile(
    r"S(?P<setup>\d{3})C(?P<camera>\d{3})P(?P<subject>\d{3})R(?P<replication>\d{3})A(?P<action>\d{3})"
)
_SPLIT_NAME = re.compile(r"(?:(?P<protocol>.+)_)?(?P<part>train|val|test)(?:ing|id|idation)?(?P<number>\d*)")
_PROTOCOLS = {"xsub": "cross-subject", "xview": "cross-view", "xset": "cross-setup", "xsetup": "cross-setup"}
_FRAME_RATE = 30.0  # the Kinect's and NTU's videos'; the files do not say
_MOST_CLASSES = 100_000


def ntu_numbers(name: str) -> dict[str, int]:
    """Return what a name of NTU RGB+D says, all counted from 1; nothing for another name.

    >>> ntu_numbers("S018C002P003R001A061.skeleton")
    {'setup': 18, 'camera': 2, 'subject': 3, 'replication': 1, 'action': 61}
    """
    match = _NTU_NAME.match(name)
    return {key: int(number) for key, number in match.groupdict().items()} if match else {}


def split_parts(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the protocol and the part for each name of a list of clips; other names are left out.

    `val` is what peers score, and so our test part, unless the protocol also has a `test`.

    >>> split_parts(["xsub_train", "xsub_val", "test1", "everything"])
    {'xsub_train': ('cross-subject', 'train'), 'xsub_val': ('cross-subject', 'test'), 'test1': ('split-1', 'test')}
    """
    found = {}
    for name in names:
        if match := _SPLIT_NAME.fullmatch(name):
            number = f"split-{match['number']}" if match["number"] else ""
            given = _PROTOCOLS.get(match["protocol"] or "", match["protocol"])
            found[name] = ("-".join(filter(None, (given, number))) or "as-given", match["part"])
    tested = {protocol for protocol, part in found.values() if part == "test"}
    ours = {"train": lambda _: "train", "test": lambda _: "test"}
    ours["val"] = lambda protocol: "validation" if protocol in tested else "test"
    return {name: (protocol, ours[part](protocol)) for name, (protocol, part) in found.items()}


def ntu_dataset(names: Sequence[str], labels: Sequence[int]) -> str | None:
    """Return which NTU RGB+D all the clips are of, None if they are of something else."""
    if not names or not all(map(ntu_numbers, names)):
        return None
    return "ntu60" if max(labels) < len(CLASS_NAMES["ntu60"]) else "ntu120"


def describe(
    dataset: str, layout: str, num_classes: int, class_names: Sequence[str], file: Path, made_by: str
) -> StoreInfo:
    """Return the description of a data set whose labels need `num_classes` classes.

    Their names are those given, else the data set's own, else "class 0" and so on. Raises `InputError` if there
    are too few.
    """
    if num_classes > _MOST_CLASSES:
        raise InputError(f"{num_classes} classes, at most {_MOST_CLASSES} are read", file=file, field="label")
    names = tuple(class_names) or CLASS_NAMES.get(dataset) or tuple(f"class {i}" for i in range(num_classes))
    if len(names) < num_classes:
        problem = f"its labels need {num_classes} classes, {dataset} has {len(names)}"
        raise InputError(problem, file=file, field="label", hint="name another data set, or other classes")
    info = StoreInfo(dataset, layout, names, _FRAME_RATE, f"{file.name}, as prepared by {made_by}")
    check_info(info)
    return info


def to_float32(values: Num[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Return `values` as float32; what is too large becomes infinite, which `check_clip` refuses."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def cut_padding(keypoints: Float32[np.ndarray, "T M V 3"]) -> Float32[np.ndarray, "T_seen M V 3"]:
    """Return the frames up to the last that shows a body.

    >>> cut_padding(np.array([1, 0, 1, 0, 0], np.float32).reshape(5, 1, 1, 1)).shape
    (3, 1, 1, 1)
    """
    seen = np.flatnonzero(keypoints.any(axis=(1, 2, 3)))
    return keypoints[: seen[-1] + 1 if len(seen) else 0]


def outcome_of(
    clip: Clip, info: StoreInfo, *, file: Path, field: str | None, cleaned: tuple[str, ...] = ()
) -> Outcome:
    """Return `clip` without persons whom no frame shows, checked; it is left out if that is everyone.

    An NTU name gives it its subject, camera, setup and replication. Raises `InputError`, which names `file` and
    calls the coordinates `field`, for a clip that a store may not hold.
    """
    present = clip.keypoints.any(axis=(0, 2, 3))
    if not present.any():
        return Outcome(clip.name, None, left_out="no body in any frame")
    numbers: dict[str, Any] = {**ntu_numbers(clip.name)}
    numbers.pop("action", None)
    clip = replace(clip, keypoints=clip.keypoints[:, present], **numbers)
    check_clip(clip, info, file=file, coordinates=field or "keypoints")
    return Outcome(clip.name, clip, cleaned=cleaned)


def as_label(value: Any, *, file: Path, clip: str) -> int:
    """Return a label read from a pickle; `InputError` unless it is a whole number from 0."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        problem = "expected a whole number from 0"
        raise InputError(problem, file=file, clip=clip, field="label")
    return int(value)


def refuse_other_actions(dataset: str, names: Sequence[str], labels: Sequence[int], file: Path) -> None:
    """Raise `InputError` if the name of a clip of NTU RGB+D says another action than its label."""
    if dataset not in ("ntu60", "ntu120"):
        return
    for name, label in zip(names, labels, strict=True):
        action = ntu_numbers(name).get("action", label + 1)
        if action != label + 1:
            problem = f"{label} (from 0), but its name says action {action} (from 1)"
            raise InputError(problem, file=file, clip=name, field="label")


def refuse_repeated(names: Iterable[str], file: Path) -> None:
    """Raise `InputError` if two clips have one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError("a clip of this name came before", file=file, clip=name, field="name")
        seen.add(name)
