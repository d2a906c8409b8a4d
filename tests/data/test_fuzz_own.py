"""Damaged files of one's own: each is read as an independent reader reads it, or refused with its name.

MICA_FUZZ_CASES says how many are tried of each kind.
"""

from __future__ import annotations

import csv
import io
import os
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mica.data.formats.own.array_file import read_array_file
from mica.data.formats.own.bvh import joint_positions, read_bvh
from mica.data.formats.own.delimited import read_table
from mica.data.formats.own.folder import find
from mica.data.formats.own.joint_table import read_joint_table
from mica.data.recordings import Recording
from mica.errors import InputError
from mica.skeleton import get_layout, standing_pose

CASES = int(os.environ.get("MICA_FUZZ_CASES", "300"))
MOST_MEMORY = 64 << 20  # the files have a few kilobytes
LAYOUT = get_layout("kinect-20")
NUMBERS = [
    "-1",
    "0",
    "1e9",
    "1e300",
    "-1e-300",
    "nan",
    "inf",
    "4294967296",
    "99999999999999999999",
    "0x10",
    "1_0",
    "",
]


def body(frames: int = 3) -> np.ndarray:
    pose = np.pad(standing_pose(LAYOUT), ((0, 0), (0, 1)))
    return pose + np.random.default_rng(0).normal(size=(frames, 1, 20, 3)).round(3) * 0.05


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a file as disks, editors and people do, once or a few times."""
    for _ in range(int(rng.integers(1, 4))):
        content = CHANGES[int(rng.integers(len(CHANGES)))](content, rng)
    return content


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(max(1, len(content))))
    return content[:at] + bytes([int(rng.integers(256))]) + content[at + 1 :]


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content) + 1))]


def repeat(content: bytes, rng: np.random.Generator) -> bytes:
    start, end = sorted(rng.integers(len(content) + 1, size=2).tolist())
    return content[:end] + content[start:]


def drop(content: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(content) + 1))
    return content[:start] + content[start + int(rng.integers(1, 20)) :]


def insert(content: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(content) + 1))
    piece = [b"\n", b"\r", b'"', b",", b";", b"\t", b"\0", b"{", b"}", b"\xff", b"-", b"9" * 30, b" "]
    return content[:at] + piece[int(rng.integers(len(piece)))] + content[at:]


def swap_lines(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.split(b"\n")
    one, other = rng.integers(len(lines), size=2).tolist()
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def change_number(content: bytes, rng: np.random.Generator) -> bytes:
    found = list(re.finditer(rb"-?\d[\d.e+-]*", content))
    if not found:
        return content
    one = found[int(rng.integers(len(found)))]
    number = NUMBERS[int(rng.integers(len(NUMBERS)))].encode()
    return content[: one.start()] + number + content[one.end() :]


CHANGES: list[Callable[[bytes, np.random.Generator], bytes]] = [
    flip, cut, repeat, drop, insert, swap_lines, change_number, change_number
]  # fmt: skip


@dataclass(frozen=True)
class Memory:
    """A source of files in memory."""

    files: tuple[tuple[str, bytes], ...]
    root: Path = Path("memory")

    def list(self, *suffixes: str) -> list[Recording]:
        return [Recording(name, len(content), 0) for name, content in self.files if name.endswith(suffixes)]

    def read(self, path: str) -> bytes:
        return dict(self.files)[path]

    def where(self, path: str) -> str:
        return f"memory/{path}"


def try_damaged(
    whole: bytes, name: str, read: Callable[[bytes], object], same: Callable[[bytes, object], None]
) -> None:
    """Read damaged files: what is read must be `same`, what is refused must name the file."""
    rng = np.random.default_rng(len(whole))
    refused = 0
    for case in range(CASES):
        content = damage(whole, rng)
        tracemalloc.start()
        result, problem = attempt(read, content)
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert memory < MOST_MEMORY, (case, content)
        if problem is None:
            same(content, result)
        else:
            refused += 1
            assert name in problem, (case, content)
    assert refused, "nothing was refused"


def attempt(read: Callable[[bytes], object], content: bytes) -> tuple[object, str | None]:
    """Return what was read, or the message of the refusal."""
    try:
        return read(content), None
    except InputError as error:
        return None, str(error)
    except Exception as error:
        raise AssertionError(repr(content)) from error


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2"])
def test_damaged_npy(dtype: str) -> None:
    def same(content: bytes, result: object) -> None:
        with np.errstate(invalid="ignore"):
            expected = np.load(io.BytesIO(content), allow_pickle=False).astype(np.float64)
        np.testing.assert_array_equal(np.ravel(result), np.ravel(expected[..., :3]))

    whole = npy((body() * 10).astype(dtype)[:, 0])
    try_damaged(whole, "a.npy", lambda content: read_array_file(content, "a.npy", None), same)


def test_damaged_npz() -> None:
    """A checksum guards the array: what is read is what was written."""
    array = body().astype(np.float32)

    def same(content: bytes, result: object) -> None:
        np.testing.assert_array_equal(result, array)

    stream = io.BytesIO()
    np.savez_compressed(stream, keypoints=array)
    try_damaged(stream.getvalue(), "a.npz", lambda content: read_array_file(content, "a.npz", None), same)


def test_npz_whose_member_is_damaged() -> None:
    """As before, with an archive around the damage that is whole."""

    def wrap(content: bytes) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("keypoints.npy", content)
        return stream.getvalue()

    def same(content: bytes, result: object) -> None:
        expected = np.load(io.BytesIO(content), allow_pickle=False).astype(np.float64)
        np.testing.assert_array_equal(np.ravel(result), np.ravel(expected[..., :3]))

    try_damaged(npy(body()), "a.npz", lambda content: read_array_file(wrap(content), "a.npz", None), same)


LONG = "frame,person,joint,x,y,z\n" + "\n".join(
    f"{frame},0,{joint},{','.join(f'{value:.3f}' for value in place)}"
    for frame, people in enumerate(body(2))
    for joint, place in enumerate(people[0])
)
WIDE = "\n".join(
    [
        ";".join(f"{name.replace(' ', '_')}_{axis}" for name in LAYOUT.joints for axis in "xyz"),
        *(";".join(f"{value:.3f}" for value in frame.ravel()) for frame in body(3)),
    ]
)


def plain_cells(content: bytes) -> list[float]:
    """The numbers of a table's coordinates in any order, read without the code under test."""
    text = content.decode("utf-8-sig")
    delimiter = max(",;\t", key=text.lstrip().split("\n")[0].count)
    head, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    skipped = {at for at, name in enumerate(head) if name.strip().lower() in ("frame", "person", "joint")}
    cells = [value.strip() for row in rows for at, value in enumerate(row) if at not in skipped]
    return [float(value) for value in cells if value and value.lower() not in ("nan", "na")]


@pytest.mark.parametrize("whole", [LONG, WIDE], ids=["a line a joint", "a line a frame"])
def test_damaged_tables_of_joints(whole: str) -> None:
    def same(content: bytes, result: object) -> None:
        values = np.ravel(result)
        assert sorted(values[~np.isnan(values)]) == sorted(plain_cells(content))

    try_damaged(whole.encode(), "a.csv", lambda content: read_joint_table(content, "a.csv", LAYOUT), same)


BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0.0 0.0 0.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Chest
  {
    OFFSET 0.0 50.0 0.0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 1.0 20.0 0.0
    }
  }
  JOINT Leg
  {
    OFFSET 10.0 -5.0 0.0
    CHANNELS 0
  }
}
MOTION
Frames: 3
Frame Time: 0.0333333
0 90 0 1 2 3 4 5 6
0.5 90 0 1 2 3 4 5 6
1 90 0 1 2 3 4 5 6
"""


def test_damaged_bvh() -> None:
    """What is read has as many frames as announced, the numbers of the lines, and bones as long as their offsets."""

    def read(content: bytes) -> object:
        motion = read_bvh(content, "a.bvh")
        return motion, joint_positions(motion)

    def same(content: bytes, result: object) -> None:
        motion, positions = result  # type: ignore[misc]
        lines = [line for line in re.split(r"\r\n|\r|\n", content.decode("utf-8-sig")) if line.strip()]
        start = next(at for at, line in enumerate(lines) if line.strip().upper() == "MOTION")
        assert float(lines[start + 1].split(":")[1]) == len(motion.values) == len(lines) - start - 3
        np.testing.assert_array_equal(
            motion.values, [list(map(float, line.split())) for line in lines[start + 3 :]]
        )
        hierarchy = motion.hierarchy
        words = " ".join(lines[:start]).upper().replace("{", " ").split()
        assert len(hierarchy.joints) == words.count("JOINT") + 1
        assert motion.values.shape[1] == sum(map(len, hierarchy.channels))
        for joint, parent in enumerate(hierarchy.parents):
            if joint != parent and not any("position" in channel for channel in hierarchy.channels[joint]):
                lengths = np.linalg.norm(positions[:, joint] - positions[:, parent], axis=-1)
                scale = max(1.0, np.abs(positions).max())
                expected = np.linalg.norm(hierarchy.offsets[joint])
                if scale < 1e6:
                    np.testing.assert_allclose(lengths, expected, atol=1e-6 * scale)

    try_damaged(BVH.encode(), "a.bvh", read, same)


TABLE = "file,label,subject,camera,text,part\n" + "".join(
    f'{name}.npy,{label},{subject},,"one, two",{part}\n'
    for name, label, subject, part in [
        ("a", "wave", 1, "train"),
        ("b", "bow", 2, ""),
        ("c", "wave", 3, "test"),
    ]
)


@pytest.mark.parametrize("classes", [None, b"bow\nwave\nsit\n"])
def test_damaged_table_of_clips(classes: bytes | None) -> None:
    """Clips have the labels and numbers of their lines, read here by the names of the columns."""
    clip = npy(body().astype(np.float32))

    def read(content: bytes) -> object:
        files = [("clips.csv", content), *((f"{name}.npy", clip) for name in "abc")]
        source = Memory((*files, *([("classes.txt", classes)] if classes else [])))
        found = find(source, layout="kinect-20", frame_rate=30)
        return found.info, [outcome for unit in found.units for outcome in found.read(source, unit)]

    def same(content: bytes, result: object) -> None:
        info, outcomes = result  # type: ignore[misc]
        table = read_table(content, "clips.csv")
        rows = [dict(zip(table.header, map(str.strip, values), strict=True)) for _, values in table.rows]
        by_file = {row["file"].replace("\\", "/").removeprefix("./"): row for row in rows}
        kept = [outcome.clip for outcome in outcomes if outcome.clip is not None]
        assert len(kept) == len(rows) == len(by_file)
        assert len(outcomes) == 3
        for one in kept:
            row = by_file[f"{one.name}.npy"]
            named = info.class_names[one.label]
            assert named == row["label"] or int(named) == int(row["label"])
            assert one.subject == int(row.get("subject") or 0)
            assert one.parts.get("as-given", "") == row.get("part", "").lower()
            np.testing.assert_array_equal(one.keypoints, body().astype(np.float32))

    try_damaged(TABLE.encode(), "clips.csv", read, same)


def test_damaged_classes() -> None:
    clip = npy(body())

    def read(content: bytes) -> object:
        files = (("clips.csv", b"file,label\na.npy,wave\n"), ("a.npy", clip), ("classes.txt", content))
        return find(Memory(files), layout="kinect-20", frame_rate=30).info.class_names

    def same(content: bytes, result: object) -> None:
        assert list(result) == [  # type: ignore[call-overload]
            name.strip() for name in content.decode("utf-8-sig").splitlines() if name.strip()
        ]

    try_damaged(b"bow\nwave\nsit down\n", "cl", read, same)
