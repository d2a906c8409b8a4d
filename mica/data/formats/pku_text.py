"""The texts of PKU-MMD: videos, labels, and lists of the videos that train.

A video is a line a frame, of 150 numbers: x, y and z in metres of 25 joints of two bodies, all zero for a body that
is not there. Labels are a line an action: `class,start,end,confidence`. A list of videos has four lines: a heading,
the names of those that train, a heading, and the names of those that validate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from mica.data.formats.text_lines import line_error, plain_line, shown, split_lines, to_number, to_numbers
from mica.errors import InputError

CLASSES = 51
BODIES, JOINTS = 2, 25
_ROW = BODIES * JOINTS * 3
_WHOLE = re.compile(rb"-?\d{1,9}")
_VIDEO = re.compile(r"(?:\d{4}|A\d{2}N\d{2})-[LMR]")


def parse_video(text: bytes, file: str) -> Float32[np.ndarray, "T 2 25 3"]:
    """Read the text of a video, which messages call `file`: its bodies in metres.

    Raises `InputError` with the line where a row is not 150 finite numbers. Where the last row has no line end, it
    is refused as cut if its last number has other decimals than the one before; all numbers of a file have as many.

    >>> parse_video(150 * b" 0.5" + b"\\n" + 150 * b" 1.5", "0002-L.txt").shape
    (2, 2, 25, 3)
    """
    lines = split_lines(text)
    values = None if _is_cut(text) else to_numbers(text, len(lines), _ROW)
    if values is None:
        return parse_video_by_line(text, file)
    return values.reshape(-1, BODIES, JOINTS, 3)


def parse_video_by_line(text: bytes, file: str) -> Float32[np.ndarray, "T 2 25 3"]:
    """Read as `parse_video` does, number by number: slower, and what that must agree with."""
    lines = split_lines(text)
    if not lines:
        raise InputError("empty file", file=file)
    rows = [_row(lines, index, file) for index in range(len(lines))]
    if _is_cut(text):
        raise line_error(file, len(lines), "the file ends within a number, or lacks its last line end")
    return np.array(rows, np.float32).reshape(-1, BODIES, JOINTS, 3)


def _row(lines: list[bytes], index: int, file: str) -> list[float]:
    fields = plain_line(lines, index, file).split()
    if len(fields) != _ROW:
        raise line_error(file, index + 1, f"{len(fields)} numbers, expected {_ROW}")
    row: list[float] = []
    for field in fields:
        value = to_number(field)
        if value is None:
            problem = f"number {len(row) + 1} is {shown([field])}, expected a finite number"
            raise line_error(file, index + 1, problem)
        row.append(value)
    return row


def _is_cut(text: bytes) -> bool:
    if text[-1:].isspace():
        return False
    decimals = [len(number.partition(b".")[2]) for number in text[-1000:].split()[-2:]]
    return decimals != decimals[::-1]


@dataclass(frozen=True)
class Action:
    """A row of a label file: its line (from 1), the class from 0, and the first and the last frame."""

    line: int
    label: int
    start: int
    end: int


def parse_labels(text: bytes, file: str) -> list[Action]:
    """Read the text of a label file, which messages call `file`.

    The confidence is not looked at. Raises `InputError` with the line for a row that has not four fields, a class
    outside 1 to 51, and frames that are no integers or negative. That an action ends before it starts is for the
    reader to see to.

    >>> parse_labels(b"33,0,120,2\\n6, 131, 190, 1\\n", "0002-L.txt")[1]
    Action(line=2, label=5, start=131, end=190)
    """
    lines = split_lines(text)
    return [_action(lines, index, file) for index in range(len(lines))]


def _action(lines: list[bytes], index: int, file: str) -> Action:
    fields = [field.strip() for field in plain_line(lines, index, file).split(b",")]
    if len(fields) != 4 or not fields[3]:
        problem = f"{shown(lines[index].split())}, expected class,start,end,confidence"
        raise line_error(file, index + 1, problem)
    for what, field in zip(("class", "start", "end"), fields, strict=False):
        if not _WHOLE.fullmatch(field):
            raise line_error(file, index + 1, f"{what} is {shown([field])}, expected an integer")
    number, start, end = map(int, fields[:3])
    if not 1 <= number <= CLASSES:
        raise line_error(file, index + 1, f"class {number}, expected 1 to {CLASSES}")
    if start < 0 or end < 0:
        raise line_error(file, index + 1, f"an action from frame {start} to frame {end}")
    return Action(index + 1, number - 1, start, end)


def parse_list(text: bytes, file: str) -> dict[str, str]:
    """Return "train" or "test" for each video that a list names; messages call the list `file`.

    The owners call the second part validation; their paper and everyone after it test on it. Raises `InputError`
    with the line for what is no name of a video, and for a list that lacks a part.

    >>> parse_list(b"Training videos: \\n0002-L, 0002-M, \\nValidation videos:\\n0003-L,\\n", "cross-view.txt")
    {'0002-L': 'train', '0002-M': 'train', '0003-L': 'test'}
    """
    lines = split_lines(text)
    given: dict[str, str] = {}
    part = ""
    for index in range(len(lines)):
        line = plain_line(lines, index, file).decode()
        heading = line.strip().lower()
        if heading.startswith("train"):
            part = "train"
        elif heading.startswith(("valid", "test")):
            part = "test"
        else:
            for name in filter(None, map(str.strip, line.split(","))):
                _check_listed(name, part, given, file, index + 1)
                given[name] = part
    missing = {"train", "test"} - set(given.values())
    if missing:
        problem = f"no videos to {' and none to '.join(sorted(missing, reverse=True))}"
        raise InputError(
            problem, file=file, hint="the list has a heading, a row of videos, a heading, and another row"
        )
    return given


def _check_listed(name: str, part: str, given: dict[str, str], file: str, line: int) -> None:
    if not part:
        raise line_error(file, line, f"'{name[:20]}', expected the heading 'Training videos:'")
    if not _VIDEO.fullmatch(name):
        raise line_error(file, line, f"'{name[:20]}', expected the name of a video like 0002-L or A01N01-L")
    if given.get(name, part) != part:
        raise line_error(file, line, f"{name} is to train and to validate")
