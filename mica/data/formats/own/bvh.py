"""BVH, the text form of motion capture: a hierarchy of joints with offsets, and their channels frame by frame."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from mica.data.formats.own.coordinates import LARGEST_NUMBER, check_size
from mica.data.formats.own.delimited import decode
from mica.errors import InputError

_CHANNELS = tuple(f"{axis}{kind}" for kind in ("position", "rotation") for axis in "xyz")
_MOST_JOINTS = 400
_HINT = "export it again as BVH"


@dataclass(frozen=True)
class Hierarchy:
    """The joints of a BVH file in its order, parents first; the root is its own parent.

    `offsets` lead from parent to joint in the file's units. `channels` are what moves each joint, in the order of
    the columns, such as "zrotation". End sites are no joints: they have neither name nor motion.
    """

    joints: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Float[np.ndarray, "V 3"]
    channels: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Motion:
    """A BVH file: `values` holds the channels of all joints side by side, in the file's units and degrees."""

    hierarchy: Hierarchy
    frame_rate: float
    values: Float[np.ndarray, "T channels"]


def read_bvh(content: bytes, file: str) -> Motion:
    """Read a BVH file; `InputError` with the line for whatever does not fit.

    >>> text = '''HIERARCHY
    ... ROOT Hips { OFFSET 0 0 0 CHANNELS 3 Xposition Yposition Zposition }
    ... MOTION
    ... Frames: 1
    ... Frame Time: 0.04
    ... 1 90 2'''
    >>> motion = read_bvh(text.encode(), "still.bvh")
    >>> motion.hierarchy.joints, motion.frame_rate, motion.values
    (('Hips',), 25.0, array([[ 1., 90.,  2.]]))
    """
    lines = re.split(r"\r\n|\r|\n", decode(content, file))
    start = next((at for at, line in enumerate(lines) if line.strip().upper() == "MOTION"), None)
    if start is None:
        problem = "no line MOTION: not a BVH file, or one that was cut off"
        raise InputError(problem, file=file, hint=_HINT)
    hierarchy = _HierarchyReader(lines[:start], file).read()
    rows = [(at, line) for at, line in enumerate(lines[start + 1 :], start=start + 2) if line.strip()]
    frame_rate = _frame_rate(rows, file)
    count = sum(map(len, hierarchy.channels))
    check_size(len(rows) - 2, 1, max(len(hierarchy.joints), count), file)
    return Motion(hierarchy, frame_rate, _values(rows, count, file))


def joint_positions(motion: Motion) -> Float[np.ndarray, "T V 3"]:
    """Return where the joints are in every frame, in the file's units and axes.

    A joint lies at its offset from the parent, turned by all rotations above it; rotations about x, y and z act in
    the order of the channels, the last one first on a point. A position channel takes the place of its offset.

    >>> arm = Hierarchy(("a", "b"), (0, 0), np.array([[0, 0, 0], [3, 0, 0]]), (("zrotation",), ()))
    >>> joint_positions(Motion(arm, 30.0, np.array([[90.0]]))).round(6)
    array([[[0., 0., 0.],
            [0., 3., 0.]]])
    """
    hierarchy, frames = motion.hierarchy, len(motion.values)
    joints = len(hierarchy.joints)
    positions = np.empty((frames, joints, 3))
    turns = np.empty((frames, joints, 3, 3))
    column = 0
    for joint, (parent, channels) in enumerate(zip(hierarchy.parents, hierarchy.channels, strict=True)):
        values = motion.values[:, column : column + len(channels)]
        column += len(channels)
        shift, turn = _moved(hierarchy.offsets[joint], channels, values)
        if joint == parent:
            positions[:, joint], turns[:, joint] = shift, turn
        else:
            positions[:, joint] = positions[:, parent] + np.einsum("tij,tj->ti", turns[:, parent], shift)
            turns[:, joint] = turns[:, parent] @ turn
    return positions


def _moved(
    offset: Float[np.ndarray, " 3"], channels: tuple[str, ...], values: Float[np.ndarray, "T channels"]
) -> tuple[Float[np.ndarray, "T 3"], Float[np.ndarray, "T 3 3"]]:
    """Return the way from the parent to a joint, and its own rotation."""
    shift = np.tile(offset, (len(values), 1))
    turn = np.tile(np.eye(3), (len(values), 1, 1))
    for channel, numbers in zip(channels, values.T, strict=True):
        axis = "xyz".index(channel[0])
        if channel.endswith("position"):
            shift[:, axis] = numbers
        else:
            turn = turn @ _rotation(axis, np.radians(numbers))
    return shift, turn


def _rotation(axis: int, angles: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 3 3"]:
    """Return the rotations about a main axis that turn the next axis towards the one after it."""
    out = np.zeros((len(angles), 3, 3))
    second, third = (axis + 1) % 3, (axis + 2) % 3
    out[:, axis, axis] = 1.0
    out[:, second, second] = out[:, third, third] = np.cos(angles)
    out[:, third, second] = np.sin(angles)
    out[:, second, third] = -out[:, third, second]
    return out


@dataclass
class _Joint:
    """A joint whose block is being read."""

    name: str
    parent: int
    line: int
    offset: list[float] = field(default_factory=list)
    channels: tuple[str, ...] | None = None


class _HierarchyReader:
    """Reads the words before MOTION one after another."""

    def __init__(self, lines: list[str], file: str) -> None:
        self._file = file
        self._words = [(word, at) for at, line in enumerate(lines, start=1) for word in _words(line)]
        self._at = 0
        self._joints: list[_Joint] = []
        self._open: list[int] = []  # blocks not yet closed, from the root down

    def read(self) -> Hierarchy:
        self._expect("HIERARCHY")
        self._expect("ROOT")
        self._begin_joint()
        while self._open:
            self._statement()
        if self._at < len(self._words):
            word = self._words[self._at][0]
            hint = "write a file for each figure" if word.upper() == "ROOT" else _HINT
            raise self._refuse(f"'{word}' after the end of the hierarchy", self._words[self._at][1], hint)
        return self._finished()

    def _statement(self) -> None:
        """Read one statement of the innermost open block."""
        word, line = self._next("a joint, OFFSET, CHANNELS or '}'")
        joint = self._joints[self._open[-1]]
        if word == "}":
            if not joint.offset:
                raise self._refuse(f"joint '{joint.name}' has no OFFSET", line)
            self._open.pop()
        elif word.upper() == "JOINT":
            self._begin_joint()
        elif word.upper() == "END":
            self._end_site()
        elif word.upper() == "OFFSET" and not joint.offset:
            joint.offset = self._three_numbers()
        elif word.upper() == "CHANNELS" and joint.channels is None:
            joint.channels = self._channels()
        else:
            raise self._refuse(f"'{word}' where a joint, OFFSET, CHANNELS or '}}' should be", line)

    def _begin_joint(self) -> None:
        words, line = [], self._words[self._at - 1][1]
        while (found := self._next("'{'"))[0] != "{":
            if found[1] != line or found[0] == "}":
                raise self._refuse(f"'{found[0]}' where '{{' should be", found[1])
            words.append(found[0])
        if not words:
            raise self._refuse("a joint without a name", line)
        if len(self._joints) == _MOST_JOINTS:
            raise self._refuse(f"more than {_MOST_JOINTS} joints", line)
        own = len(self._joints)
        self._joints.append(_Joint(" ".join(words), self._open[-1] if self._open else own, line))
        self._open.append(own)

    def _end_site(self) -> None:
        for word in ("SITE", "{", "OFFSET"):
            self._expect(word)
        self._three_numbers()
        self._expect("}")

    def _three_numbers(self) -> list[float]:
        return [_number(*self._next("a number"), self._file) for _ in range(3)]

    def _channels(self) -> tuple[str, ...]:
        count, line = self._next("the number of channels")
        if not re.fullmatch("[0-6]", count):
            raise self._refuse(f"'{count}' channels, expected 0 to 6", line)
        channels = []
        for _ in range(int(count)):
            name, line = self._next("a channel")
            if name.lower() not in _CHANNELS or name.lower() in channels:
                problem = "came before" if name.lower() in channels else "is not known"
                known = ", ".join(channel.capitalize() for channel in _CHANNELS)
                raise self._refuse(
                    f"the channel '{name}' {problem}", line, f"channels: {known}, each at most once"
                )
            channels.append(name.lower())
        return tuple(channels)

    def _next(self, wanted: str) -> tuple[str, int]:
        if self._at == len(self._words):
            line = self._words[-1][1] if self._words else 1
            raise self._refuse(f"the hierarchy ends where {wanted} should be", line)
        self._at += 1
        return self._words[self._at - 1]

    def _expect(self, wanted: str) -> None:
        word, line = self._next(wanted)
        if word.upper() != wanted:
            raise self._refuse(f"'{word}' where {wanted} should be", line)

    def _refuse(self, problem: str, line: int, hint: str = _HINT) -> InputError:
        return InputError(f"line {line}: {problem}", file=self._file, hint=hint)

    def _finished(self) -> Hierarchy:
        first: dict[str, int] = {}
        for joint in self._joints:
            if joint.name in first:
                problem = f"a joint is called '{joint.name}', as that of line {first[joint.name]}"
                raise self._refuse(problem, joint.line, "give each joint a name of its own")
            first[joint.name] = joint.line
        return Hierarchy(
            joints=tuple(joint.name for joint in self._joints),
            parents=tuple(joint.parent for joint in self._joints),
            offsets=np.array([joint.offset for joint in self._joints]),
            channels=tuple(joint.channels or () for joint in self._joints),
        )


def _words(line: str) -> list[str]:
    return line.replace("{", " { ").replace("}", " } ").split()


def _number(text: str, line: int, file: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST_NUMBER or "_" in text:  # float() takes nan and 1_000
        problem = f"'{text}' is not a finite number up to {LARGEST_NUMBER:g}"
        raise InputError(f"line {line}: {problem}", file=file, hint=_HINT)
    return value


def _frame_rate(rows: list[tuple[int, str]], file: str) -> float:
    """Check the two lines under MOTION against the lines that follow, and return the frames a second."""
    declared, seconds = (_declared(rows, at, name, file) for at, name in enumerate(("Frames", "Frame Time")))
    if declared != len(rows) - 2:
        problem = f"{declared:g} frames are announced, {len(rows) - 2} lines of values follow"
        raise InputError(f"line {rows[0][0]}: {problem}", file=file, hint=_HINT)
    if not 1e-5 <= seconds <= 1e3:
        raise InputError(f"line {rows[1][0]}: a frame of {seconds:g} seconds", file=file, hint=_HINT)
    return round(1 / seconds, 2)  # 0.0333333 means 30 frames a second


def _declared(rows: list[tuple[int, str]], at: int, name: str, file: str) -> float:
    if at >= len(rows):
        raise InputError(f"ends before '{name}:'", file=file, hint=_HINT)
    line, text = rows[at]
    before, colon, after = text.partition(":")
    if not colon or " ".join(before.split()).lower() != name.lower():
        raise InputError(
            f"line {line}: '{text.strip()[:40]}' where '{name}:' should be", file=file, hint=_HINT
        )
    return _number(after.strip(), line, file)


def _values(rows: list[tuple[int, str]], count: int, file: str) -> Float[np.ndarray, "T channels"]:
    if count == 0:
        raise InputError("no joint has a channel, so that nothing moves", file=file, hint=_HINT)
    values = np.empty((len(rows) - 2, count))
    for frame, (line, text) in enumerate(rows[2:]):
        words = text.split()
        if len(words) != count:
            problem = f"line {line}: {len(words)} values, the hierarchy has {count} channels"
            raise InputError(problem, file=file, hint=_HINT)
        try:
            values[frame] = words
        except ValueError:
            values[frame] = np.nan
        if "_" in text or not (np.abs(values[frame]) <= LARGEST_NUMBER).all():  # find out which
            values[frame] = [_number(word, line, file) for word in words]
    return values
