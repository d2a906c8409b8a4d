"""The .npy of ST-GCN, 2s-AGCN, CrosSCLR and AimCLR, with labels in a pickle beside it.

A folder holds `train_data.npy` (ST-GCN), `train_data_joint.npy` (2s-AGCN) or `train_position.npy` (AimCLR) of shape
(clips, 3, frames, joints, persons), `train_label.pkl` with the names and the labels from 0, and the same for `val`.
ST-GCN fills clips up with zeros; 2s-AGCN repeats them instead and moves and turns the bodies, AimCLR's 50 frames
are resampled: what they did to a clip cannot be undone here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Num

from mica.data.clip import Clip, StoreInfo
from mica.data.formats.others.prepared import (
    LAYOUT_OF_JOINTS,
    as_label,
    cut_padding,
    describe,
    ntu_dataset,
    outcome_of,
    refuse_other_actions,
    refuse_repeated,
    split_parts,
    to_float32,
)
from mica.data.npy import StoredArray, open_array
from mica.data.outcome import Outcome
from mica.data.unpickle import restricted_load
from mica.errors import InputError

# The joints' own places; bones and motion lie beside them under other names.
_DATA = re.compile(r"(?P<split>.+)_(?:data|data_joint|position)\.npy")
_BENCHMARK = re.compile(r"xsub|xview|xsetup|xset")


@dataclass(frozen=True)
class _Part:
    """A data file with what its label file says of its clips."""

    data: StoredArray
    names: list[str]
    labels: list[int]
    parts: dict[str, str]


def read(
    path: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    layout: str | None = None,
    protocol: str | None = None,
    class_names: Sequence[str] = (),
) -> tuple[StoreInfo, Iterator[Outcome], int]:
    """Return the description, the clips one by one as they are asked for, and how many there are.

    `path` is the folder, or one data file of it. One clip is in memory at a time, however large the files. Frames of
    zeros at the end are cut, as are persons whom no frame shows; a clip that shows nobody is left out. NTU names
    tell subject, camera, setup and replication, and `dataset`; else that is the folder's name. The part is kept
    under `protocol`, by default told from "xsub", "xview" or "xset" in the folder's name, else "as-given"; `val` is
    the test part unless there is a `test`. `layout` need only be said for bodies of other than 20 or 25 joints,
    whose three channels must be x, y and z. Raises `InputError` at once for files that are not of this form or do not
    belong together, later for one that is damaged in the middle.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/val_data_joint.npy", np.ones((1, 3, 300, 25, 2), np.float32))
    ...     _ = Path(folder, "val_label.pkl").write_bytes(b"((lS'S001C001P003R001A007.skeleton'\\na(lI6\\nat.")
    ...     info, outcomes, total = read(folder)
    ...     clip = next(outcomes).clip
    ...     info.dataset, clip.keypoints.shape, clip.subject, clip.parts
    ('ntu60', (300, 2, 25, 3), 3, {'as-given': 'test'})
    """
    parts = [_read_part(file, given) for file, given in _find(Path(path), protocol).items()]
    names = [name for part in parts for name in part.names]
    labels = [label for part in parts for label in part.labels]
    refuse_repeated(names, Path(path))
    layout = layout or _layout_of(parts[0].data)
    dataset = dataset or ntu_dataset(names, labels) or parts[0].data.file.parent.name.lower()
    info = describe(dataset, layout, 1 + max(labels), class_names, Path(path), "ST-GCN, 2s-AGCN or AimCLR")
    for part in parts:
        refuse_other_actions(dataset, part.names, part.labels, _label_file(part.data.file))
    return info, (outcome for part in parts for outcome in _outcomes(part, info)), len(names)


def _find(path: Path, protocol: str | None) -> dict[Path, dict[str, str]]:
    """Return each data file with the parts that its clips take."""
    if not path.exists():
        raise InputError("no such file or directory", file=path)
    folder = path if path.is_dir() else path.parent
    files = {
        file: match["split"] for file in sorted(folder.iterdir()) if (match := _DATA.fullmatch(file.name))
    }
    benchmark = _BENCHMARK.search(folder.name.lower())
    prefix = f"{benchmark[0]}_" if benchmark else ""
    parts = split_parts(f"{prefix}{split}" for split in files.values())
    found = {}
    for file, split in files.items():
        if file == path or folder == path:
            given, part = parts.get(f"{prefix}{split}", ("", ""))
            found[file] = {protocol or given: part} if part else {}
    if not found:
        hint = (
            "give the folder of train_data.npy, train_data_joint.npy or train_position.npy, or one such file"
        )
        raise InputError("no data file of this form", file=path, hint=hint)
    return found


def _read_part(file: Path, parts: dict[str, str]) -> _Part:
    label_file = _label_file(file)
    names, labels = _read_labels(label_file)
    data = open_array(file)
    if data.dtype.kind != "f" or len(data.shape) != 5 or data.shape[1] != 3:
        problem = f"{data.dtype} of shape {data.shape}, expected numbers of shape (clips, 3, frames, joints, persons)"
        raise data.refuse(problem)
    if len(names) != data.shape[0]:
        problem = f"{len(names)} labels, but {data.shape[0]} clips in {file.name}"
        raise InputError(
            problem, file=label_file, hint="the two must come from one run of the peers' program"
        )
    return _Part(data, names, labels, parts)


def _label_file(file: Path) -> Path:
    return file.with_name(_DATA.sub(r"\g<split>_label.pkl", file.name))


def _read_labels(file: Path) -> tuple[list[str], list[int]]:
    content = restricted_load(file)
    if not isinstance(content, list | tuple) or len(content) != 2 or not all(map(_is_column, content)):
        raise InputError("expected two lists, names and labels", file=file)
    names, labels = content
    if len(names) != len(labels):
        raise InputError(f"{len(names)} names, but {len(labels)} labels", file=file)
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InputError(f"entry {i}: a {type(name).__name__}, expected text", file=file, field="name")
    names = [str(name).removesuffix(".skeleton") for name in names]
    return names, [as_label(label, file=file, clip=name) for name, label in zip(names, labels, strict=True)]


def _is_column(values: Any) -> bool:
    return isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.ndim == 1)


def _layout_of(data: StoredArray) -> str:
    joints = data.shape[3]
    if joints not in LAYOUT_OF_JOINTS:
        hint = "name the layout, if the three channels are x, y and z; of Kinetics the third is a confidence"
        raise data.refuse(f"bodies of {joints} joints, which could be several layouts", hint=hint)
    return LAYOUT_OF_JOINTS[joints]


def _outcomes(part: _Part, info: StoreInfo) -> Iterator[Outcome]:
    for name, label, coordinates in zip(part.names, part.labels, part.data.rows(), strict=True):
        clip = Clip(name, _keypoints(coordinates), label, parts=dict(part.parts))
        yield outcome_of(clip, info, file=part.data.file, field=part.data.member)


def _keypoints(coordinates: Num[np.ndarray, "3 T V M"]) -> Float32[np.ndarray, "T_seen M V 3"]:
    return cut_padding(to_float32(coordinates).transpose(1, 3, 2, 0))
