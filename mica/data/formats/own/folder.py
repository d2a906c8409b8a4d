"""One's own recordings: a folder, or a zip of one, with a file for each clip and the table `clips.csv`.

docs/own-data.md describes it with examples. What a file's joints are, a layout says; coordinates come to metres with y
up. Coordinates that are NaN are joints that were not seen.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Hashable, Iterator
from functools import lru_cache, partial
from typing import cast

from mica.data.clip import Clip, StoreInfo, check_clip, check_info
from mica.data.formats.own.bvh import Motion, read_bvh
from mica.data.formats.own.clip_table import CLASSES, SUFFIXES, TABLE, ClipTable, read_clip_table
from mica.data.formats.own.layout_file import find_layout
from mica.data.formats.own.recorded import Recorded, check_settings, layout_of_motion, read_keypoints
from mica.data.outcome import Found, Outcome, Unit
from mica.data.recordings import Recording, Source
from mica.errors import InputError
from mica.skeleton import (
    LAYOUTS,
    LayoutMap,
    SkeletonLayout,
    get_layout,
    layout_to_dict,
    map_layout,
)

_TABLE_HINT = (
    f"write a table {TABLE} with the columns file and label beside the files, as docs/own-data.md shows"
)


def find(
    source: Source,
    *,
    name: str = "own",
    layout: str | os.PathLike[str] | None = None,
    to_layout: str | None = None,
    units: str = "metres",
    up: str | None = None,
    dimensions: int | None = None,
    frame_rate: float | None = None,
) -> Found:
    """Find the recordings of a folder or zip and read their table, but not yet the files.

    Args:
        source: where `clips.csv` lies, and the files that it names.
        name: what the data set is called.
        layout: the joints of the files: the name of a registered layout, or a JSON or YAML file that describes one.
            BVH files name their joints: where it is None, the first one that is whole says what the joints are.
        to_layout: a registered layout that all clips are brought to; None keeps the files' own.
        units: "metres", "centimetres", "millimetres", "pixels" (x and y of an image), or "unknown"; the last two
            scale each clip so that its median torso measures 0.5 m.
        up: the axis of the files that points up: "y", "-y" or "z"; None is "-y" for pixels and "y" for all others.
        dimensions: 2 where arrays of three numbers a joint hold x, y and a confidence; None takes them as x, y, z.
        frame_rate: frames a second; None takes that of the first whole BVH file.

    Raises `InputError` for a table that is missing or wrong (with its line), a file that is not there, a layout that
    is not known or does not fit, and a setting without meaning.

    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from mica.data.recordings import open_source
    >>> with tempfile.TemporaryDirectory() as place:
    ...     _ = Path(place, "clips.csv").write_text("file,label\\nmonday/1.npy,wave")
    ...     Path(place, "monday").mkdir()
    ...     np.save(Path(place, "monday", "1.npy"), np.ones((40, 20, 3)))
    ...     found = find(open_source(place), layout="kinect-20", frame_rate=30)
    >>> found.info.class_names, [file.path for file in found.units[0]]
    (('wave',), ['monday/1.npy', 'clips.csv'])
    """
    check_settings(units, up, dimensions)
    recordings = source.list(*SUFFIXES, CLASSES)
    table = _only_table(source, recordings)
    folder = table.path[: -len(table.name)]
    classes = [recording for recording in recordings if recording.path == folder + CLASSES]
    listed = read_clip_table(source, table, *classes)
    _table_here.cache_clear()  # what this process remembers may have been written over
    files = {
        found.path: found for found in recordings if found.name.lower().endswith(SUFFIXES) and found != table
    }
    _require_all(source, table, listed, files)
    motion = _first_motion(source, listed) if layout is None or frame_rate is None else None
    recorded = _inferred_layout(name, source, motion) if layout is None else find_layout(layout)
    mapping = None if to_layout is None else map_layout(recorded, get_layout(to_layout))
    is_known = mapping is not None or recorded is LAYOUTS.get(recorded.name)
    info = StoreInfo(
        dataset=name,
        layout=recorded.name if mapping is None else mapping.target.name,
        class_names=listed.class_names,
        frame_rate=_frame_rate(frame_rate, motion),
        source=f"own recordings in {source.root.resolve().name}",
        own_layout=None if is_known else layout_to_dict(recorded),
    )
    check_info(info)
    like = motion[0] if motion is not None and layout is None else None
    how = Recorded(recorded, like, units, up, dimensions, info.frame_rate)
    paths = [*listed.rows, *(path for path in files if path not in listed.rows)]
    work: list[Unit] = [(files[path], table, *classes) for path in paths]
    return Found(info, work, partial(read, info, how, mapping), str(how))


def read(
    info: StoreInfo, how: Recorded, mapping: LayoutMap | None, source: Source, unit: Unit
) -> Iterator[Outcome]:
    """Read the clip of one file, as its line in the table says."""
    recording, table, *classes = unit
    row = _table_here(cast(Hashable, source), table, *classes).rows.get(recording.path)
    if row is None:
        yield Outcome(recording.path, None, left_out=f"not in {TABLE}")
        return
    file = source.where(recording.path)
    keypoints, was_missing = read_keypoints(how, source.read(recording.path), file)
    if keypoints is None:
        yield Outcome(row.name, None, left_out="no body in any frame")
        return
    if mapping is not None:
        keypoints = mapping.apply(keypoints)
    clip = Clip(row.name, keypoints, row.label, **row.numbers, text=row.text, parts=row.parts)
    cleaned = ("missing joints interpolated",) if was_missing else ()
    yield Outcome(row.name, check_clip(clip, info, file=file), cleaned=cleaned)


_table_here = lru_cache(maxsize=1)(read_clip_table)  # each process that reads clips needs it once


def _only_table(source: Source, recordings: list[Recording]) -> Recording:
    if source.root.name == TABLE:
        raise InputError("is the table alone", file=source.root, hint="give the folder that it lies in")
    tables = [recording for recording in recordings if recording.name == TABLE]
    if not tables:
        raise InputError(f"no {TABLE} in it", file=source.root, hint=_TABLE_HINT)
    if len(tables) > 1:
        problem = f"a table {TABLE}, and another in {source.where(tables[1].path)}"
        raise InputError(problem, file=source.where(tables[0].path), hint="give the folder of one of them")
    return tables[0]


def _require_all(source: Source, table: Recording, listed: ClipTable, files: Collection[str]) -> None:
    """Raise `InputError` if a file that the table names is not there."""
    missing = [row for path, row in listed.rows.items() if path not in files]
    if missing:
        others = f", nor {len(missing) - 1} more" if len(missing) > 1 else ""
        problem = f"line {missing[0].line}: there is no file {source.where(missing[0].path)}{others}"
        hint = "paths are those from the folder of the table, in the same upper and lower case"
        if _plain(missing[0].path) in map(_plain, files):
            hint = (
                "a file of that name is there, with its accents in other Unicode characters (NFC or NFD): "
                "copy the name from the folder, or rename the file"
            )
        raise InputError(problem, file=source.where(table.path), field="file", hint=hint)


def _plain(path: str) -> str:
    """The path in the one way of several in which Unicode may write it."""
    return unicodedata.normalize("NFC", path)


def _first_motion(source: Source, listed: ClipTable) -> tuple[str, Motion] | None:
    """Return the first BVH file that is whole: damaged ones are told of when all are read."""
    damaged: list[InputError] = []
    for path in listed.rows:
        if path.lower().endswith(".bvh"):
            try:
                return path, read_bvh(source.read(path), source.where(path))
            except InputError as error:
                damaged.append(error)
    if damaged:
        raise damaged[0]
    return None


def _inferred_layout(name: str, source: Source, motion: tuple[str, Motion] | None) -> SkeletonLayout:
    """Return the layout of the joints that a BVH file names."""
    if motion is None:
        hint = f"one of {', '.join(sorted(LAYOUTS))}, or a file that describes one"
        raise InputError("which joints the files hold is not said", field="layout", hint=hint)
    path, content = motion
    return layout_of_motion(content, f"{name}-bvh", f"the joints of {path}", source.where(path))


def _frame_rate(given: float | None, motion: tuple[str, Motion] | None) -> float:
    if given is not None:
        return given
    if motion is None:
        raise InputError("frames a second are not said", field="frame_rate", hint="e.g. 30")
    return motion[1].frame_rate
