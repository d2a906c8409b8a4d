"""NTU RGB+D 60 and 120, the skeletons as their owners hand them out.

One text file a clip, `S001C002P003R002A013.skeleton` (setup, camera, performer, replication, action, all from 1),
in one folder or several: the second half of NTU RGB+D 120 comes in a zip of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from mica.data.class_names import CLASS_NAMES
from mica.data.clip import Clip, StoreInfo, check_clip
from mica.data.formats.ntu_bodies import arrange, choose_bodies
from mica.data.formats.ntu_text import parse
from mica.data.outcome import Found, Outcome, Unit
from mica.data.recordings import Recording, Source
from mica.errors import InputError

Dataset = Literal["ntu60", "ntu120"]

NOBODY = "no body in any frame"
LISTED = "on the list of missing skeletons"

_INFO = {
    dataset: StoreInfo(
        dataset=dataset,
        layout="ntu-25",
        class_names=CLASS_NAMES[dataset],
        frame_rate=30.0,
        source=f"{name}, skeletons of its Kinects v2",
    )
    for dataset, name in (("ntu60", "NTU RGB+D"), ("ntu120", "NTU RGB+D 120"))
}
_LAST_SETUP = {"ntu60": 17, "ntu120": 999}
_CLIP = r"S(?P<setup>\d{3})C(?P<camera>\d{3})P(?P<subject>\d{3})R(?P<replication>\d{3})A(?P<action>\d{3})"
_NAME = re.compile(_CLIP)
_FILE_NAME = re.compile(rf"{_CLIP}\.skeleton", re.IGNORECASE)


def find(source: Source, dataset: Dataset, missing_list: str | os.PathLike[str] | None = None) -> Found:
    """Look for the clips of NTU RGB+D 60 or 120: a unit a file, in the order of their names.

    ntu60 is actions 1 to 60 of setups 1 to 17, whatever else is there; ntu120 is all. Clips that `missing_list`
    names, the owners' `samples_with_missing_skeletons.txt`, are left out, and so are those that show nobody.
    Raises `InputError` for a file with another name, for a clip that is there twice, and if there is none.

    >>> import tempfile
    >>> from mica.data.recordings import open_source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "S018C001P008R001A061.skeleton").write_text("1\\n0\\n")
    ...     source = open_source(folder)
    ...     found = find(source, "ntu120")
    ...     list(found.read(source, found.units[0]))
    [Outcome(name='S018C001P008R001A061', clip=None, left_out='no body in any frame', cleaned=())]
    """
    clips: dict[str, Recording] = {}
    for file in source.list(".skeleton"):
        name = _name_of(source, file)
        if name in clips:
            problem = f"a second file of {name}, the first is {source.where(clips[name].path)}"
            raise InputError(problem, file=source.where(file.path), hint="leave one of them there")
        clips[name] = file
    units: list[Unit] = [(clips[name],) for name in sorted(clips) if _is_of(dataset, name)]
    if not units:
        what = (
            f"no clip of {dataset} among {len(clips):,} .skeleton files"
            if clips
            else "no .skeleton files in it"
        )
        hint = (
            "give the folder or zip of the skeletons, nturgb+d_skeletons, or a folder of several such folders"
        )
        raise InputError(what, file=source.root, hint=hint)
    listed = frozenset() if missing_list is None else read_missing_list(missing_list)
    digest = hashlib.sha256(" ".join(sorted(listed)).encode()).hexdigest()
    return Found(_INFO[dataset], units, partial(_read_clip, dataset, listed), options=f"missing {digest}")


def read_missing_list(file: str | os.PathLike[str]) -> frozenset[str]:
    """Return the clips that a list names, one a line with or without `.skeleton`.

    Sentences, as the owners' lists begin with, are passed over; a single word that is no name raises `InputError`.
    """
    try:
        lines = Path(file).read_bytes().decode("ascii", "replace").splitlines()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from error
    names = set()
    hint = "give the owners' list of missing skeletons, a clip a line"
    for number, words in enumerate(map(str.split, lines), start=1):
        if len(words) == 1:
            name = words[0].upper().removesuffix(".SKELETON")
            if not _NAME.fullmatch(name):
                problem = (
                    f"line {number}: '{words[0][:40]}' is not the name of a clip, as S001C002P005R002A008 is"
                )
                raise InputError(problem, file=file, hint=hint)
            names.add(name)
    if not names:
        raise InputError("names no clip", file=file, hint=hint)
    return frozenset(names)


def read_keypoints(
    content: bytes, file: str
) -> tuple[Float32[np.ndarray, "T M 25 3"] | None, tuple[str, ...]]:
    """Return the one or two persons of a `.skeleton` file in metres, None where it shows nobody.

    With them goes what kinds of other bodies were dropped. Raises `InputError` with the line for a damaged file.

    >>> read_keypoints(b"1\\n0\\n", "empty.skeleton")
    (None, ())
    """
    skeletons = parse(content, file)
    if not skeletons.tracks:
        return None, ()
    tracks, dropped = choose_bodies(skeletons.tracks)
    return arrange(skeletons.num_frames, tracks), dropped


def _name_of(source: Source, file: Recording) -> str:
    match = _FILE_NAME.fullmatch(file.name)
    if match is None:
        problem = "unexpected file name, expected one like S001C002P003R002A013.skeleton"
        raise InputError(problem, file=source.where(file.path), field="name")
    if not 1 <= int(match["action"]) <= 120:
        raise InputError(
            f"action {int(match['action'])}, expected 1 to 120", file=source.where(file.path), field="name"
        )
    return file.name.partition(".")[0].upper()


def _numbers(name: str) -> dict[str, int]:
    match = _NAME.fullmatch(name)
    assert match is not None
    return {key: int(value) for key, value in match.groupdict().items()}


def _is_of(dataset: Dataset, name: str) -> bool:
    numbers = _numbers(name)
    return numbers["action"] <= len(CLASS_NAMES[dataset]) and numbers["setup"] <= _LAST_SETUP[dataset]


def _read_clip(dataset: Dataset, listed: frozenset[str], source: Source, unit: Unit) -> Iterable[Outcome]:
    file = unit[0]
    name = _name_of(source, file)
    if name in listed:
        return (Outcome(name, None, LISTED),)
    where = source.where(file.path)
    keypoints, cleaned = read_keypoints(source.read(file.path), where)
    if keypoints is None:
        return (Outcome(name, None, NOBODY),)
    numbers = _numbers(name)
    clip = Clip(
        name=name,
        keypoints=keypoints,
        label=numbers["action"] - 1,
        subject=numbers["subject"],
        camera=numbers["camera"],
        setup=numbers["setup"],
        replication=numbers["replication"],
    )
    return (Outcome(name, check_clip(clip, _INFO[dataset], file=where), cleaned=cleaned),)
