"""The text of a `.skeleton` file of NTU RGB+D 60 and 120.

Line 1 is the number of frames. A frame is a line with the number of bodies, which can be 0, and for each body a
line of 10 fields that begins with the body's ID, the line `25`, and 25 lines of 12 fields that begin with x, y and z
in metres. The other fields (places in the images, orientations, states) are not looked at; odd words such as
-1.#IND occur there. Lines end in LF or CRLF.

`parse_by_line` is the definition and finds the line that is wrong. `parse` takes the whole text at a time and
leaves to the former whatever it does not understand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int

from mica.data.formats.text_lines import (
    PLAIN,
    line_error,
    plain_line,
    shown,
    split_lines,
    to_number,
    to_numbers,
)
from mica.errors import InputError

JOINTS, BODY_FIELDS, JOINT_FIELDS = 25, 10, 12
MOST_FRAMES = 100_000
"""An hour: no clip is that long, and a number gone wrong must not claim memory."""
_COUNT = re.compile(rb"\d{1,9}")
_BODY = re.compile(rb"\d{1,20}")  # 64 bits: a float would confuse the IDs of bodies


@dataclass(frozen=True)
class Track:
    """One body: its ID, the frames that show it, ascending, and its joints there (float32, metres)."""

    body: int
    frames: Int[np.ndarray, " F"]
    joints: Float32[np.ndarray, "F 25 3"]


@dataclass(frozen=True)
class Skeletons:
    """What a file holds: the number of frames, and the bodies in the order in which they appear."""

    num_frames: int
    tracks: tuple[Track, ...]


def parse(text: bytes, file: str) -> Skeletons:
    r"""Read the text of a `.skeleton` file, which messages call `file`.

    The same body twice in a frame, a coordinate that is no finite number, counts that do not fit, text that ends
    early or goes on after the last frame raise `InputError` with the line. Only a line end may be missing at the
    end: there the last field, a state, is not looked at, so that no cut goes unnoticed that loses a coordinate.

    >>> joint = "0.5 0.25 3 0 0 0 0 0 0 0 0 2\n"
    >>> frame = "1\n72057594037931101 0 1 1 1 1 0 0 0 2\n25\n" + 25 * joint
    >>> skeletons = parse(("3\n" + frame + "0\n" + frame).encode(), "S001C001P001R001A001.skeleton")
    >>> skeletons.num_frames, [(track.body, track.frames.tolist()) for track in skeletons.tracks]
    (3, [(72057594037931101, [0, 2])])
    """
    found = _parse_at_once(text)
    return parse_by_line(text, file) if found is None else found


def parse_by_line(text: bytes, file: str) -> Skeletons:
    """Read as `parse` does, line by line: slower, and what `parse` must agree with."""
    lines = _Lines(text, file)
    num_frames = lines.count("the number of frames")
    if num_frames > MOST_FRAMES:
        raise lines.error(f"{num_frames:,} frames, expected at most {MOST_FRAMES:,}")
    frames, bodies, joints = [], [], []
    for frame in range(num_frames):
        place = f"frame {frame + 1} of {num_frames}"
        there: set[int] = set()
        for _ in range(lines.count(f"the number of bodies in {place}")):
            body = lines.body(place)
            if body in there:
                raise lines.error(f"body {body} is a second time in {place}")
            there.add(body)
            frames.append(frame)
            bodies.append(body)
            joints.append(lines.joints(f"body {body} in {place}"))
    lines.end()
    return Skeletons(num_frames, _tracks(frames, bodies, np.array(joints, np.float32)))


class _Lines:
    """The lines of a file, taken one after another."""

    def __init__(self, text: bytes, file: str) -> None:
        self.lines, self.file, self.taken = split_lines(text), file, 0
        if not self.lines:
            raise InputError("empty file", file=file)

    def error(self, problem: str) -> InputError:
        """About the line that was taken last."""
        return line_error(self.file, self.taken, problem)

    def next(self, what: str) -> list[bytes]:
        if self.taken == len(self.lines):
            raise self.error(f"the file ends here, before {what}")
        self.taken += 1
        return plain_line(self.lines, self.taken - 1, self.file).split()

    def count(self, what: str) -> int:
        fields = self.next(what)
        if len(fields) != 1 or not _COUNT.fullmatch(fields[0]):
            raise self.error(f"{shown(fields)}, expected {what}")
        return int(fields[0])

    def body(self, place: str) -> int:
        fields = self.next(f"a body of {place}")
        if len(fields) != BODY_FIELDS:
            raise self.error(f"{len(fields)} fields, expected the {BODY_FIELDS} of a body in {place}")
        if not _BODY.fullmatch(fields[0]):
            raise self.error(f"{shown(fields[:1])}, expected the ID of a body in {place}")
        return int(fields[0])

    def joints(self, whose: str) -> list[list[float]]:
        what = f"the number of joints of {whose}"
        fields = self.next(what)
        if fields != [b"25"]:
            raise self.error(f"{shown(fields)}, expected 25, {what}")
        return [self.joint(f"joint {joint + 1} of {whose}") for joint in range(JOINTS)]

    def joint(self, what: str) -> list[float]:
        fields = self.next(what)
        if len(fields) != JOINT_FIELDS:
            raise self.error(f"{len(fields)} fields, expected the {JOINT_FIELDS} of {what}")
        point = []
        for axis, field in zip("xyz", fields, strict=False):
            value = to_number(field)
            if value is None:
                raise self.error(f"{axis} is {shown([field])}, expected a finite number for {what}")
            point.append(value)
        return point

    def end(self) -> None:
        if self.taken < len(self.lines):
            self.taken += 1
            raise self.error("the file goes on after the last frame")


def _parse_at_once(text: bytes) -> Skeletons | None:
    """Read a text that is without fault and in the usual shape; None for any other."""
    if text.translate(None, PLAIN):
        return None
    if not text.endswith(b"\n"):
        text += b"\n"
    byte = np.frombuffer(text, np.uint8)
    line_ends = np.flatnonzero(byte == ord("\n"))
    if np.count_nonzero(byte == ord("\r")) != np.count_nonzero(byte[line_ends - 1] == ord("\r")):
        return None
    walked = _walk(text, line_ends.tolist())
    if walked is None:
        return None
    num_frames, frames, bodies, first_joints = walked
    joints = _points(text, line_ends, (np.array(first_joints, np.int64)[:, None] + np.arange(JOINTS)).ravel())
    if joints is None:
        return None
    return Skeletons(num_frames, _tracks(frames, bodies, joints.reshape(-1, JOINTS, 3)))


def _points(
    text: bytes, line_ends: Int[np.ndarray, " lines"], joint_lines: Int[np.ndarray, " N"]
) -> Float32[np.ndarray, "1 3*N"] | None:
    """Return the first three fields of lines that have as many as a joint has; None if they are no numbers."""
    written = np.frombuffer(b" " + text, np.uint8) > ord(" ")
    fields = np.flatnonzero(written[1:] & ~written[:-1])  # where each begins
    before = np.searchsorted(fields, line_ends)  # the fields before the end of each line
    first = before[joint_lines - 1]
    if np.any(before[joint_lines] - first != JOINT_FIELDS):
        return None
    starts, stops = fields[first].tolist(), fields[first + 3].tolist()
    points = b"".join([text[start:stop] for start, stop in zip(starts, stops, strict=True)])
    return to_numbers(points, 1, 3 * len(first))


_COUNT_LINE = re.compile(rb"[ \t]*(\d{1,9})[ \t]*\r?\n")
_BODY_LINES = re.compile(rb"[ \t]*(\d{1,20})(?:[ \t]++\S++){9}[ \t]*\r?\n[ \t]*25[ \t]*\r?\n")


def _walk(text: bytes, line_ends: list[int]) -> tuple[int, list[int], list[int], list[int]] | None:
    """Go from frame to frame and from body to body over the joints between.

    Returns the number of frames, and of each body seen its frame, its ID and its first joint's line (from 0).
    """
    match = _COUNT_LINE.match(text)
    if match is None or int(match[1]) > MOST_FRAMES:
        return None
    num_frames, line = int(match[1]), 1
    frames, bodies, lines = [], [], []
    for frame in range(num_frames):
        match = _COUNT_LINE.match(text, line_ends[line - 1] + 1)
        if match is None:
            return None
        line += 1
        for _ in range(int(match[1])):
            match = _BODY_LINES.match(text, line_ends[line - 1] + 1)
            if match is None or line + 2 + JOINTS > len(line_ends):
                return None
            frames.append(frame)
            bodies.append(int(match[1]))
            lines.append(line + 2)
            line += 2 + JOINTS
    is_whole = not text[line_ends[line - 1] + 1 :].strip()
    is_distinct = len(set(zip(frames, bodies, strict=True))) == len(frames)
    return (num_frames, frames, bodies, lines) if is_whole and is_distinct else None


def _tracks(
    frames: Sequence[int], bodies: Sequence[int], joints: Float32[np.ndarray, "N 25 3"]
) -> tuple[Track, ...]:
    """Put together what was seen of each body."""
    seen: dict[int, list[int]] = {}
    for index, body in enumerate(bodies):
        seen.setdefault(body, []).append(index)
    when = np.array(frames, np.int64)
    return tuple(Track(body, when[indices], joints[indices]) for body, indices in seen.items())
