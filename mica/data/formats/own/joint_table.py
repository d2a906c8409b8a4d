"""Joints of a clip in a text table: a line a joint (`frame,person,joint,x,y,z`), or a line a frame
(`left_wrist_x,left_wrist_y,...` or `x0,y0,z0,x1,...`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mica.data.formats.own.coordinates import check_size, hide_unsure
from mica.data.formats.own.delimited import TextTable, parse_number, read_table
from mica.errors import InputError
from mica.skeleton import SkeletonLayout

_AXES = ("x", "y", "z", "confidence")
_BY_NUMBER = re.compile(r"(?P<axis>[xyz]|confidence)(?P<joint>\d{1,6})", re.ASCII)
_BY_NAME = re.compile(r"(?P<joint>.+)[ _.\-](?P<axis>[xyz]|confidence)", re.DOTALL)
_HINT = (
    "a line a joint: frame,person,joint,x,y,z (no z in 2-D; person may be missing); or a line a frame: x0,y0,z0,x1,... "
    "or left_wrist_x,left_wrist_y,...; a column confidence may follow each"
)
_FEWEST_LISTED = 0.5  # of the frames from first to last; numbers with wider gaps are times


@dataclass(frozen=True)
class _Readings:
    """What the lines say, an entry a joint in a frame; `axes` names the columns of `values`."""

    axes: list[str]
    lines: Int[np.ndarray, " n"]
    frames: Int[np.ndarray, " n"]
    persons: Int[np.ndarray, " n"]
    joints: Int[np.ndarray, " n"]
    values: Float[np.ndarray, "n axes"]


def read_joint_table(content: bytes, file: str, layout: SkeletonLayout) -> Float[np.ndarray, "T M V axes"]:
    """Return the coordinates of a table, with 2 or 3 axes and NaN where a joint is not seen.

    Frames are those from the smallest number to the largest; without a column `frame`, each line is one. Persons come
    in the order in which the file names them. Joints are named or numbered from 0 in the layout's order. Raises
    `InputError` with the line or column for whatever does not fit.

    >>> from mica.skeleton import get_layout
    >>> layout = get_layout("kinect-20")
    >>> rows = [f"7,0,{joint},{joint},0.5,2" for joint in range(20)]
    >>> text = "\\n".join(["frame,person,joint,x,y,z", *rows])
    >>> read_joint_table(text.encode(), "wave.csv", layout)[0, 0, 3]
    array([3. , 0.5, 2. ])
    """
    table = read_table(content, file)
    if not table.rows:
        raise InputError("no lines of coordinates", file=file, hint=_HINT)
    readings = _line_a_joint(table, layout) if "joint" in table.header else _line_a_frame(table, layout)
    values = _placed(table, readings, layout)
    return hide_unsure(values) if "confidence" in readings.axes else values


def plain(name: str) -> str:
    """Return a joint's name as it is compared: lower case, without spaces, underscores, dots and hyphens.

    >>> plain("Left_Wrist") == plain("left wrist")
    True
    """
    return re.sub(r"[\s_.\-]+", "", name).lower()


def _line_a_joint(table: TextTable, layout: SkeletonLayout) -> _Readings:
    axes = _axes(table, set(table.header) & set(_AXES))
    _require_known(table, {"frame", "person", "joint", *axes})
    if "frame" not in table.header:
        raise InputError("no column 'frame'", file=table.file, field="frame", hint=_HINT)
    values = _numbers(table, [table.header.index(axis) for axis in axes])
    return _Readings(axes, _lines(table), _frames(table), _persons(table), _joints(table, layout), values)


def _joints(table: TextTable, layout: SkeletonLayout) -> Int[np.ndarray, " rows"]:
    by_number = {str(joint): joint for joint in range(layout.num_joints)}
    by_name = {plain(name): joint for joint, name in enumerate(layout.joints)}
    column = table.header.index("joint")
    joints = np.empty(len(table.rows), dtype=np.int64)
    for row, (line, values) in enumerate(table.rows):
        text = values[column].strip()
        joint = by_number.get(text, by_name.get(plain(text)))
        if joint is None:
            hint = f"numbers from 0 to {layout.num_joints - 1}, or names: {', '.join(layout.joints)}"
            raise table.refuse(line, f"layout {layout.name} has no joint '{text}'", "joint", hint)
        joints[row] = joint
    return joints


def _line_a_frame(table: TextTable, layout: SkeletonLayout) -> _Readings:
    columns = _columns(table, layout)
    axes = _axes(table, {axis for _, axis in columns})
    if "person" in table.header and "frame" not in table.header:
        raise InputError(
            "lines of several persons need their frame", file=table.file, field="frame", hint=_HINT
        )
    for joint, name in enumerate(layout.joints):
        if missing := [axis for axis in axes if (joint, axis) not in columns]:
            problem = f"no column for {missing[0]} of joint {joint} of layout {layout.name}, '{name}'"
            raise InputError(problem, file=table.file, hint=_HINT)
    wanted = [columns[joint, axis] for joint in range(layout.num_joints) for axis in axes]
    rows, joints = len(table.rows), layout.num_joints
    check_size(rows, 1, joints, table.file)
    return _Readings(
        axes=axes,
        lines=np.repeat(_lines(table), joints),
        frames=np.repeat(_frames(table), joints),
        persons=np.repeat(_persons(table), joints),
        joints=np.tile(np.arange(joints), rows),
        values=_numbers(table, wanted).reshape(rows * joints, len(axes)),
    )


def _columns(table: TextTable, layout: SkeletonLayout) -> dict[tuple[int, str], int]:
    """Return the column of each joint and axis."""
    place = {plain(name): joint for joint, name in enumerate(layout.joints)}
    columns: dict[tuple[int, str], int] = {}
    for column, name in enumerate(table.header):
        if name in ("frame", "person"):
            continue
        numbered, named = _BY_NUMBER.fullmatch(name), _BY_NAME.fullmatch(name)
        if numbered is not None and int(numbered["joint"]) < layout.num_joints:
            key = int(numbered["joint"]), numbered["axis"]
        elif named is not None and plain(named["joint"]) in place:
            key = place[plain(named["joint"])], named["axis"]
        else:
            problem = f"column '{name}' is no coordinate of a joint of layout {layout.name}"
            raise InputError(problem, file=table.file, field=name, hint=_HINT)
        if key in columns:
            problem = f"the column says the same as '{table.header[columns[key]]}'"
            raise InputError(problem, file=table.file, field=name)
        columns[key] = column
    return columns


def _axes(table: TextTable, found: set[str]) -> list[str]:
    for axis in ("x", "y"):
        if axis not in found:
            raise InputError(f"no column for {axis}", file=table.file, field=axis, hint=_HINT)
    return [axis for axis in _AXES if axis in found]


def _require_known(table: TextTable, known: set[str]) -> None:
    if unknown := [name for name in table.header if name not in known]:
        raise InputError(f"unknown column '{unknown[0]}'", file=table.file, field=unknown[0], hint=_HINT)


def _numbers(table: TextTable, columns: list[int]) -> Float[np.ndarray, "rows columns"]:
    out = np.empty((len(table.rows), len(columns)))
    for row, (line, values) in enumerate(table.rows):
        for position, column in enumerate(columns):
            try:
                out[row, position] = parse_number(values[column])
            except ValueError:
                hint = "write numbers with a decimal point; leave the value empty where a joint is not seen"
                problem = f"'{values[column]}' is not a finite number"
                raise table.refuse(line, problem, table.header[column], hint) from None
    return out


def _lines(table: TextTable) -> Int[np.ndarray, " rows"]:
    return np.array([line for line, _ in table.rows])


def _frames(table: TextTable) -> Int[np.ndarray, " rows"]:
    if "frame" not in table.header:
        return np.arange(len(table.rows))
    frames = _numbers(table, [table.header.index("frame")])[:, 0]
    wrong = ~((frames == np.floor(frames)) & (np.abs(frames) < 1e15))
    if wrong.any():
        line, values = table.rows[int(np.flatnonzero(wrong)[0])]
        problem = f"'{values[table.header.index('frame')]}' is not the number of a frame"
        raise table.refuse(line, problem, "frame", "number the frames 0, 1, 2, ...")
    return frames.astype(np.int64)


def _persons(table: TextTable) -> Int[np.ndarray, " rows"]:
    if "person" not in table.header:
        return np.zeros(len(table.rows), dtype=np.int64)
    column = table.header.index("person")
    place: dict[str, int] = {}
    return np.array([place.setdefault(values[column].strip(), len(place)) for _, values in table.rows])


def _placed(table: TextTable, readings: _Readings, layout: SkeletonLayout) -> Float[np.ndarray, "T M V axes"]:
    """Put each reading in its place; a place without one is NaN."""
    first, last = int(readings.frames.min()), int(readings.frames.max())
    frames, persons = last - first + 1, int(readings.persons.max()) + 1
    listed = len(np.unique(readings.frames))
    if listed < _FEWEST_LISTED * frames:
        problem = f"frames {first} to {last}, but only {listed} of them have lines"
        hint = "number the frames one by one; write a line with empty coordinates for a frame that saw nobody"
        raise InputError(problem, file=table.file, field="frame", hint=hint)
    check_size(frames, persons, layout.num_joints, table.file)
    shape = (frames, persons, layout.num_joints)
    places = np.ravel_multi_index((readings.frames - first, readings.persons, readings.joints), shape)
    _refuse_repetition(table, readings, places)
    out = np.full((frames * persons * layout.num_joints, readings.values.shape[1]), np.nan)
    out[places] = readings.values
    return out.reshape(*shape, -1)


def _refuse_repetition(table: TextTable, readings: _Readings, places: Int[np.ndarray, " n"]) -> None:
    _, firsts = np.unique(places, return_index=True)
    if len(firsts) < len(places):
        again = np.setdiff1d(np.arange(len(places)), firsts)[0]
        problem = "this joint of this person came in this frame before"
        raise table.refuse(
            int(readings.lines[again]), problem, hint="tell persons apart in a column 'person'"
        )
