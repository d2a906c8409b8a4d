"""One's own recordings: every kind of file against coordinates placed by hand, every fault with its place."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica.cli import main, make_parser
from mica.data.clip import Clip
from mica.data.formats.own.array_file import read_array_file
from mica.data.formats.own.coordinates import (
    PLAUSIBLE_TORSO,
    TORSO,
    Units,
    Up,
    fill_missing,
    mark_unseen,
    to_metres,
)
from mica.data.formats.own.folder import find
from mica.data.formats.own.joint_table import read_joint_table
from mica.data.formats.own.layout_file import find_layout
from mica.data.outcome import Found, Outcome
from mica.data.preparation import prepare_found
from mica.data.recordings import open_source
from mica.data.splits import split
from mica.data.store import Store
from mica.errors import InputError
from mica.skeleton import (
    SkeletonLayout,
    get_layout,
    layout_from_dict,
    layout_to_dict,
    map_layout,
    standing_pose,
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "own-data.md"
KINECT, COCO = get_layout("kinect-20"), get_layout("coco-17")


def body(layout: Any = KINECT, frames: int = 4, persons: int = 1, seed: int = 0) -> np.ndarray:
    """People who stand and tremble, (T, M, V, 3) in metres."""
    rng = np.random.default_rng(seed)
    pose = np.pad(standing_pose(layout), ((0, 0), (0, 1)))
    return pose + rng.normal(size=(frames, persons, layout.num_joints, 3)) * 0.02 + [0.3, 0.1, 2.0]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder: the table, and files by name (bytes, text, or an array that becomes a .npy)."""

    def write(table: str | bytes | None, files: dict[str, Any] | None = None) -> Path:
        root = tmp_path / "mine"
        shutil.rmtree(root, ignore_errors=True)
        for name, content in {"clips.csv": table, **(files or {})}.items():
            if content is None:
                continue
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = npy(content) if isinstance(content, np.ndarray) else content
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        root.mkdir(exist_ok=True)
        return root

    return write


def find_in(root: Path, **options: Any) -> Found:
    return find(open_source(root), **{"layout": "kinect-20", "frame_rate": 30, **options})


def outcomes(root: Path, **options: Any) -> list[Outcome]:
    found = find_in(root, **options)
    source = open_source(root)
    return [outcome for unit in found.units for outcome in found.read(source, unit)]


def one(root: Path, **options: Any) -> Clip:
    (outcome,) = outcomes(root, **options)
    assert outcome.clip is not None
    return outcome.clip


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        outcomes(root, **options)
    return str(caught.value)


# The table


def test_every_column(make: Callable[..., Path]) -> None:
    header = "file,label,subject,camera,setup,replication,text,part\n"
    lines = 'walk/a.npy,wave,3,2,1,4,"waves, twice",train\nb.npy,bow,,,,,,\nc.npy,wave,5,,,,,TEST\n'
    files = {"walk/a.npy": body(seed=1), "b.npy": body(seed=2), "c.npy": body(seed=3)}
    root = make(header + lines, files)
    found = find_in(root, name="mine")
    assert found.info.class_names == ("bow", "wave")
    assert (found.info.dataset, found.info.layout, found.info.frame_rate) == ("mine", "kinect-20", 30)
    assert found.info.own_layout is None
    a, b, c = (outcome.clip for outcome in outcomes(root))
    assert (a.name, a.label, a.subject, a.camera, a.setup, a.replication) == ("walk/a", 1, 3, 2, 1, 4)
    assert (a.text, a.parts) == ("waves, twice", {"as-given": "train"})
    assert (b.name, b.label, b.subject, b.text, b.parts) == ("b", 0, 0, "", {})
    assert (c.label, c.parts) == (1, {"as-given": "test"})
    for clip, seed in ((a, 1), (b, 2), (c, 3)):
        np.testing.assert_array_equal(clip.keypoints, body(seed=seed).astype(np.float32))
        assert clip.keypoints.dtype == np.float32


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_as_programs_write_them(
    make: Callable[..., Path], delimiter: str, end: str, mark: str
) -> None:
    lines = [["Label", " file "], ["wave", "a.npy"], [], ['"big ""W"""', ".\\b.npy"]]
    text = mark + end.join(delimiter.join(line) for line in lines) + end
    root = make(text, {"a.npy": body(), "b.npy": body()})
    assert [outcome.clip.label for outcome in outcomes(root)] == [1, 0]
    assert find_in(root).info.class_names == ('big "W"', "wave")


@pytest.mark.parametrize(
    ("labels", "classes", "names", "expected"),
    [
        (["b", "a", "b"], None, ("a", "b"), [1, 0, 1]),
        (["10", "9", "10"], None, ("9", "10"), [1, 0, 1]),
        (["07", "7", "-1"], None, ("-1", "7"), [1, 1, 0]),
        (["10", "9", "x"], None, ("10", "9", "x"), [0, 1, 2]),
        (["b", "a", "b"], "b\n\na\nc\n", ("b", "a", "c"), [0, 1, 0]),
        (["0", "2", "1"], "x\ny\nz", ("x", "y", "z"), [0, 2, 1]),
        (["0", "1", "1"], "x\ny\nz", ("x", "y", "z"), [0, 1, 1]),
        (["3", "2", "2"], "x\ny\nz", ("x", "y", "z"), [2, 1, 1]),
        (["2", "1", "2"], "2\n1\n", ("2", "1"), [0, 1, 0]),
    ],
)
def test_classes(
    make: Callable[..., Path],
    labels: list[str],
    classes: str | None,
    names: tuple[str, ...],
    expected: list[int],
) -> None:
    rows = "".join(f"{v}.npy,{label}\n" for v, label in enumerate(labels))
    root = make(f"file,label\n{rows}", {f"{v}.npy": body() for v in range(3)} | {"classes.txt": classes})
    assert find_in(root).info.class_names == names
    assert [outcome.clip.label for outcome in outcomes(root)] == expected


BAD_TABLES = {
    "empty": ("", "mine/clips.csv: no header"),
    "no clips": ("file,label\n", "mine/clips.csv: names no clips"),
    "no label": ("file,class\na.npy,x\n", "field 'label': no column 'label', found file, class"),
    "unknown column": ("file,label,subjects\na.npy,x,1\n", "unknown column 'subjects'"),
    "a column twice": ("file,label,File\na.npy,x,a\n", "line 1: 2 columns are called 'file'"),
    "a value missing": ("file,label\na.npy,x\nb.npy\n", "line 3: 1 values, the header names 2 columns"),
    "a value too much": ("file,label\na.npy,x,y\n", "line 2: 3 values"),
    "a quote left open": ('file,label\na.npy,"x\nb.npy,y\n', "line 3: unexpected end of data"),
    "a quote over lines": ('file,label\na.npy,"x\nb.npy,y"\n', "line 3: a line break within quotes"),
    "not UTF-8": (b"file,label\na.npy,\xe4\n", "line 2: not UTF-8 text"),
    "UTF-16": ("file,label\na.npy,x\n".encode("utf-16"), "line 1: not UTF-8 text"),
    "label empty": ("file,label\na.npy,x\nb.npy, \n", "field 'label': line 3: empty"),
    "file empty": ("file,label\n,x\n", "field 'file': line 2: empty"),
    "file absolute": ("file,label\n/etc/a.npy,x\n", "line 2: '/etc/a.npy' leads out of the folder"),
    "file on a drive": ("file,label\nC:\\a.npy,x\n", "line 2: 'C:\\a.npy' leads out of the folder"),
    "file above": ("file,label\nb/../../a.npy,x\n", "line 2: 'b/../../a.npy' leads out of the folder"),
    "file above in Windows' way": ("file,label\n..\\a.npy,x\n", "leads out of the folder"),
    "file with an odd step": ("file,label\nb//a.npy,x\n", "line 2: 'b//a.npy' is no path"),
    "file with NUL": ("file,label\na\0.npy,x\n", "line 2: 'a\\x00.npy' is no path"),
    "file of another kind": ("file,label\na.txt,x\n", "line 2: 'a.txt' is no kind of file that can be read"),
    "file without an ending": ("file,label\na,x\n", "line 2: 'a' is no kind of file"),
    "file is an ending": ("file,label\nb/.npy,x\n", "line 2: 'b/.npy' is no kind of file"),
    "the same file twice": ("file,label\na.npy,x\n./a.npy,y\n", "line 3: the clip a came in line 2 already"),
    "the same name twice": ("file,label\na.npy,x\na.csv,y\n", "line 3: the clip a came in line 2 already"),
    "no such file": ("file,label\na.npy,x\nA.npy,y\nc.npy,y\n", "field 'file': line 3: there is no file"),
    "subject is a name": ("file,label,subject\na.npy,x,Ann\n", "field 'subject': line 2: 'Ann' is not a whole"),
    "subject negative": ("file,label,subject\na.npy,x,-1\n", "line 2: '-1' is not a whole number"),
    "camera too large": ("file,label,camera\na.npy,x,99999999999\n", "field 'camera': line 2"),
    "setup a fraction": ("file,label,setup\na.npy,x,1.5\n", "field 'setup': line 2: '1.5'"),
    "part unknown": ("file,label,part\na.npy,x,val\n", "field 'part': line 2: 'val', expected train, validation, test"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_TABLES)
def test_bad_table(make: Callable[..., Path], wrong: str) -> None:
    table, problem = BAD_TABLES[wrong]
    message = refused(make(table, {"a.npy": body(), "b.npy": body()}))
    assert problem in message
    assert "clips.csv" in message


@pytest.mark.parametrize(
    ("labels", "classes", "problem"),
    [
        ("ab", "a\n", "clips.csv: field 'label': line 3: 'b' is not among the 1 classes of classes.txt"),
        ("ab", "a\nb\na\n", "classes.txt: line 3: the class 'a' came before"),
        ("ab", "\n \n", "classes.txt: names no classes"),
        ("12", "x\ny\nz", "numbers 1 to 2 of 3 classes may count from 0 or from 1"),
        ("04", "x\ny\nz", "numbers 0 to 4, but classes.txt names 3 classes"),
        ("03", "x\ny\nz", "numbers 0 to 3, but classes.txt names 3 classes"),
        ("1b", "x\n", "line 2: '1' is not among the 1 classes"),
        ("ab", b"\xff", "classes.txt: line 1: not UTF-8"),
    ],
)
def test_bad_classes(make: Callable[..., Path], labels: str, classes: str | bytes, problem: str) -> None:
    table = f"file,label\na.npy,{labels[0]}\nb.npy,{labels[1]}\n"
    assert problem in refused(make(table, {"a.npy": body(), "b.npy": body(), "classes.txt": classes}))


def test_table_missing_or_twice(make: Callable[..., Path], tmp_path: Path) -> None:
    assert "no clips.csv in it" in refused(make(None, {"a.npy": body()}))
    assert "no clips.csv in it" in refused(make(None, {"myclips.csv": "file,label\n"}))
    assert "clips.csv: is the table alone" in refused(make("file,label\na.npy,x\n") / "clips.csv")
    message = refused(make("file,label\na.npy,x\n", {"a.npy": body(), "b/clips.csv": "file,label\n"}))
    assert str(tmp_path / "mine" / "clips.csv") in message
    assert str(tmp_path / "mine" / "b" / "clips.csv") in message


def test_files_that_the_table_does_not_name_are_left_out(make: Callable[..., Path]) -> None:
    root = make(
        "file,label\nb.npy,x\n", {"a.npy": b"junk", "b.npy": body(), "c/b.bvh": "junk", "notes.txt": ""}
    )
    assert [(found.name, found.left_out) for found in outcomes(root)] == [
        ("b", ""), ("a.npy", "not in clips.csv"), ("c/b.bvh", "not in clips.csv")
    ]  # fmt: skip


@pytest.mark.parametrize("inside", ["", "my set/"])
def test_zip(make: Callable[..., Path], tmp_path: Path, inside: str) -> None:
    root = make("file,label\nb/a.npy,x\n", {"b/a.npy": body(), "classes.txt": "y\nx\n"})
    with zipfile.ZipFile(tmp_path / "mine.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("clips.csv", "b/a.npy", "classes.txt"):
            archive.write(root / name, inside + name)
    clip = one(tmp_path / "mine.zip")
    assert (clip.name, clip.label) == ("b/a", 1)
    np.testing.assert_array_equal(clip.keypoints, one(root).keypoints)


# Arrays


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: npy(x),
        lambda x: npy(np.asfortranarray(x)),
        lambda x: npy(x.astype(">f8")),
        lambda x: npy(np.repeat(x, 2, axis=0)[::2]),
        lambda x: npz(keypoints=x, other=x + 1),
        lambda x: npz(anything=x),
        lambda x: npy(np.concatenate([x, np.ones_like(x[..., :1])], axis=-1)),
    ],
)
def test_arrays(make: Callable[..., Path], change: Callable[[np.ndarray], bytes], frames: int) -> None:
    x = body(frames=frames, persons=2)
    content = change(x)
    name = "a.npz" if content[:2] == b"PK" else "a.npy"
    clip = one(make(f"file,label\n{name},x\n", {name: content}))
    np.testing.assert_array_equal(clip.keypoints, x.astype(np.float32))
    if name == "a.npy":
        single = one(make("file,label\na.npy,x\n", {"a.npy": change(x[:, 0])}))
        np.testing.assert_array_equal(single.keypoints, x[:, :1].astype(np.float32))


def header_says(shape: str, data: bytes = b"", descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


BAD_ARRAYS = {
    "empty": (b"", "not readable as .npy"),
    "no NumPy file": (b"junk" * 30, "not readable as .npy"),
    "a newer version": (b"\x93NUMPY\x09\x00" + npy(body())[8:], "not readable as .npy"),
    "cut": (npy(body())[:-1], "bytes of numbers, but shape (4, 1, 20, 3) of float64 takes 1,920"),
    "too long": (npy(body()) + b"\0", "1,921 bytes of numbers"),
    "absurd": (header_says("(1000000000000, 20, 3)"), "1,000,000,000,000 frames x 1 persons x 20 joints are too many"),
    "more than there": (header_says("(10000, 20, 3)"), "0 bytes of numbers, but shape (10000, 20, 3)"),
    "negative": (header_says("(-4, -20, 3)"), "no frames"),
    "huge and empty": (header_says("(1000000000000000000000, 0, 20, 3)"), "no persons"),
    "no shape": (header_says("7"), "not readable as .npy"),
    "header with code": (header_says("__import__('os').abort()"), "not readable as .npy"),
    "objects": (npy(np.array([None, {}], dtype=object)), "holds object, expected numbers"),
    "text": (npy(np.array([["a"]])), "holds <U1, expected numbers"),
    "complex": (npy(body().astype(complex)), "holds complex128"),
    "truth": (npy(body() > 0), "holds bool"),
    "two axes": (npy(body()[0, 0]), "shape (20, 3), expected (frames, joints, axes)"),
    "five axes": (npy(body()[None]), "shape (1, 4, 1, 20, 3)"),
    "axes first": (npy(body()[:, 0].transpose(2, 0, 1)), "shape (3, 4, 20)"),
    "five numbers a joint": (npy(np.ones((4, 20, 5))), "shape (4, 20, 5)"),
    "no frames": (npy(np.ones((0, 20, 3))), "no frames"),
    "no persons": (npy(np.ones((4, 0, 20, 3))), "no persons"),
    "25 joints": (npy(np.ones((4, 25, 3))), "kinect-20 has 20\n  hint: layouts with 25 joints: ntu-25"),
    "infinite": (npy(np.where(np.arange(3) == 1, np.inf, body())), "frame 0: inf of joint 0, person 0, is no"),
    "absurdly far": (npy(np.where(np.arange(3) == 1, 1e30, body())), "1e+30 of joint 0, person 0, is no coordinate"),
    "too far": (npy(body() + 2e4), "metres away: move the origin nearer"),
    "millimetres": (npy(body() * 1000), "metres: are these metres?\n  hint: try units: millimetres"),
    "centimetres": (npy(body() * 100), "hint: try units: centimetres"),
    "collapsed": (npy(np.ones((4, 20, 3))), "it is 0 metres: are these metres?\n  hint: try units: unknown"),
    "one joint never seen": (
        npy(np.where(np.arange(20)[:, None] == 6, np.nan, body())), "joint 6, 'left wrist', of person 0 is never seen"
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_ARRAYS)
def test_bad_array(make: Callable[..., Path], wrong: str) -> None:
    content, problem = BAD_ARRAYS[wrong]
    message = refused(make("file,label\na.npy,x\n", {"a.npy": content}))
    assert "mine/a.npy: " in message
    assert problem in message


def test_bad_npz(make: Callable[..., Path]) -> None:
    whole, two = npz(keypoints=body()), npz(a=body(), b=body())
    lzma = io.BytesIO()
    with zipfile.ZipFile(lzma, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("keypoints.npy", npy(body()))
    for content, problem in (
        (whole[:100], "not readable as .npz"),
        (whole[:60] + b"\0\0\0\0" + whole[64:], "not readable as .npz"),
        (b"", "not readable as .npz"),
        (two, "field 'keypoints': array missing, found a, b"),
        (npz(), "array missing, found nothing"),
        (lzma.getvalue(), "packed in a way that NumPy does not use"),
        (npz(keypoints=np.array([None])), "holds object"),
    ):
        message = refused(make("file,label\na.npz,x\n", {"a.npz": content}))
        assert "mine/a.npz" in message
        assert problem in message
    bomb = bytearray(whole)
    at = bomb.rindex(b"PK\x01\x02") + 24
    bomb[at : at + 4] = (2**31).to_bytes(4, "little")
    assert "2,147,483,648 bytes unpacked" in refused(make("file,label\na.npz,x\n", {"a.npz": bytes(bomb)}))


# What was not seen


def test_joints_that_are_missing_are_interpolated(make: Callable[..., Path]) -> None:
    """Against np.interp's definition by hand: ends are held, gaps are straight, absent bodies stay absent."""
    x = body(frames=6)
    holes = x.copy()
    holes[[0, 2, 3, 5], 0, 7, 1] = np.nan  # one coordinate missing is a joint missing
    holes[4] = np.nan  # nobody there
    expected = x.copy()
    expected[0, 0, 7] = x[1, 0, 7]
    expected[[2, 3, 5], 0, 7] = x[1, 0, 7]
    expected[4] = 0
    (outcome,) = outcomes(make("file,label\na.npy,x\n", {"a.npy": holes}))
    assert outcome.cleaned == ("missing joints interpolated",)
    np.testing.assert_array_equal(outcome.clip.keypoints, expected.astype(np.float32))


def test_gaps_are_straight() -> None:
    x = np.zeros((5, 1, 20, 2))
    x[:, 0, :, 0] = 1 + np.arange(5)[:, None] ** 2
    x[[1, 2], 0, 3] = np.nan
    filled, was_missing = fill_missing(x, KINECT, "a.npy")
    assert was_missing
    np.testing.assert_allclose(filled[:, 0, 3, 0], [1, 1 + 9 / 3, 1 + 18 / 3, 10, 17])
    assert np.isnan(x[1, 0, 3]).all(), "the input was written to"


def test_persons_and_frames_without_anybody(make: Callable[..., Path]) -> None:
    x = body(persons=3)
    x[:, 0] = 0
    x[1, 1] = 0
    x[2, 2] = np.nan
    clip = one(make("file,label\na.npy,x\n", {"a.npy": x}), up="-y")
    expected = np.nan_to_num(x[:, 1:] * [1, -1, -1]).astype(np.float32)
    np.testing.assert_array_equal(clip.keypoints, expected)
    (outcome,) = outcomes(make("file,label\na.npy,x\n", {"a.npy": np.zeros((4, 20, 3))}))
    assert (outcome.name, outcome.clip, outcome.left_out) == ("a", None, "no body in any frame")


def test_confidence(make: Callable[..., Path]) -> None:
    x = body(COCO)[..., :2] * -400 + 900
    unsure = np.concatenate([x, np.full_like(x[..., :1], 0.7)], axis=-1)
    unsure[1, 0, 4, 2] = 0
    unsure[2, 0, 4, 2] = np.nan
    unsure[3, 0, 4] = 0
    holes = np.where((np.arange(17) == 4)[:, None] & (np.arange(4) > 0)[:, None, None, None], np.nan, x)
    options = {"layout": "coco-17", "units": "pixels"}
    sure = one(make("file,label\na.npy,x\n", {"a.npy": holes}), **options)
    clip = one(make("file,label\na.npy,x\n", {"a.npy": unsure}), dimensions=2, **options)
    np.testing.assert_array_equal(clip.keypoints, sure.keypoints)
    message = refused(make("file,label\na.npy,x\n", {"a.npy": unsure}), **options)
    assert "three coordinates a joint, but pixels have two" in message
    message = refused(make("file,label\na.npy,x\n", {"a.npy": x}), dimensions=3, **options)
    assert "2 numbers a joint, but 3 dimensions were asked for" in message


def test_in_pixels_a_joint_in_the_corner_is_not_seen() -> None:
    x = np.ones((2, 1, 3, 2))
    x[0, 0, 1] = 0
    assert np.isnan(mark_unseen(x, "pixels")).any(axis=-1).tolist() == [[[False, True, False]], [[False] * 3]]
    assert not np.isnan(mark_unseen(x, "metres")).any()


# Units and axes


@pytest.mark.parametrize(("units", "factor"), [("metres", 1), ("centimetres", 100), ("millimetres", 1000)])
@pytest.mark.parametrize(
    ("up", "axes"), [(None, (0, 1, 2)), ("y", (0, 1, 2)), ("-y", (0, -1, -2)), ("z", (0, -2, 1))]
)
def test_units_and_axes(
    make: Callable[..., Path], units: str, factor: float, up: str | None, axes: tuple[int, ...]
) -> None:
    """`axes` says what the file's axes hold of the upright body: x is 0, y 1, z 2, negative where opposite."""
    x = body()
    turned = np.stack([np.copysign(1, axis) * x[..., abs(axis)] for axis in axes], axis=-1)
    clip = one(make("file,label\na.npy,x\n", {"a.npy": turned * factor}), units=units, up=up)
    np.testing.assert_allclose(clip.keypoints, x, atol=1e-6)


@pytest.mark.parametrize("up", ["y", "-y", "z"])
def test_axes_are_turned_and_never_mirrored(up: str) -> None:
    corner = np.eye(3)[None, None] * 0.5
    layout = COCO
    x = np.zeros((1, 1, 17, 3))
    x[0, 0, :3] = corner
    x[0, 0, layout.landmarks["left shoulder"]] = [0.2, 0.5, 0.1]
    out = to_metres(x, layout, "metres", up, "a.npy")[0, 0, :3] / 0.5
    assert np.linalg.det(out) == pytest.approx(1.0)


def by_loops(x: np.ndarray) -> np.ndarray:
    """Pixels to metres in the plainest way: (T, M, 17, 2), NaN where nobody is."""
    torsos, middles = [], []
    for frame in x:
        for person in frame:
            if not np.isnan(person).any():
                shoulders, hips = (person[5] + person[6]) / 2, (person[11] + person[12]) / 2
                torsos.append(float(np.hypot(*(shoulders - hips))))
                middles.append((shoulders + hips) / 2)
    out = np.zeros((*x.shape[:3], 3))
    for place in np.ndindex(x.shape[:3]):
        if not np.isnan(x[place]).any():
            out[place][:2] = (x[place] - middles[0]) * [1, -1] * 0.5 / np.median(torsos)
    return out


@pytest.mark.parametrize("frames", [1, 6])
def test_pixels(make: Callable[..., Path], frames: int) -> None:
    random = np.random.default_rng(1)
    x = body(COCO, frames, persons=2)[..., :2] * random.uniform(200, 300, (frames, 1, 1, 1)) * [1, -1] + 500
    x[0, 0] = np.nan
    x[1:2, 1] = np.nan
    clip = one(make("file,label\na.npy,x\n", {"a.npy": x}), layout="coco-17", units="pixels")
    kept = [person for person in range(2) if not np.isnan(x[:, person]).all()]
    np.testing.assert_allclose(clip.keypoints, by_loops(x)[:, kept], atol=1e-6)
    first = clip.keypoints[0, -1]
    assert first[0, 1] > first[15, 1], "the nose is above the ankles"
    assert first[5, 0] > first[6, 0], "left stays on its side"


def test_pixels_with_y_up_already_and_unknown_units(make: Callable[..., Path]) -> None:
    x = body(COCO)
    flat, options = x[..., :2], {"layout": "coco-17"}
    down = one(make("file,label\na.npy,x\n", {"a.npy": flat * [7, -7]}), units="pixels", **options)
    upward = one(make("file,label\na.npy,x\n", {"a.npy": flat * 7}), units="pixels", up="y", **options)
    np.testing.assert_allclose(down.keypoints, upward.keypoints, atol=1e-6)
    whole = one(make("file,label\na.npy,x\n", {"a.npy": x * 7}), units="unknown", **options)
    torso = (x[:, :, [5, 6]] - x[:, :, [11, 12]]).mean(axis=2)
    scale = 0.5 / np.median(np.linalg.norm(torso, axis=-1))
    np.testing.assert_allclose(whole.keypoints, x * scale, rtol=1e-5)
    message = refused(
        make("file,label\na.npy,x\n", {"a.npy": np.ones((4, 17, 2))}), units="pixels", **options
    )
    assert "shoulders and hips are in the same place" in message


# Tables of joints


def number(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))


def line_a_joint(x: np.ndarray, names: tuple[str, ...] | None, first: int = 0) -> str:
    lines = ["joint,z,frame,person,x,y"]
    for frame, person, joint in np.ndindex(x.shape[:3]):
        a, b, c = map(number, x[frame, person, joint])
        name = joint if names is None else names[joint].upper().replace(" ", "_")
        lines.append(f"{name},{c},{first + frame},P{person},{a},{b}")
    return "\n".join(lines)


def line_a_frame(x: np.ndarray, names: tuple[str, ...] | None) -> str:
    titles = (
        [f"{axis}{v}" for v in range(x.shape[2]) for axis in "xyz"]
        if names is None
        else [f"{name.title().replace(' ', '')}_{axis}" for name in names for axis in "zxy"]
    )
    order = [0, 1, 2] if names is None else [2, 0, 1]
    lines = [";".join(titles)]
    lines += [";".join(number(value) for value in frame[0][:, order].ravel()) for frame in x]
    return "\n".join(lines)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("names", [None, KINECT.joints])
@pytest.mark.parametrize("write", [line_a_joint, line_a_frame])
def test_tables_of_joints(
    make: Callable[..., Path], write: Callable[..., str], names: tuple[str, ...] | None, frames: int
) -> None:
    x = body(frames=frames, persons=2 if write is line_a_joint else 1)
    clip = one(make("file,label\na.csv,x\n", {"a.csv": write(x, names)}))
    np.testing.assert_array_equal(clip.keypoints, x.astype(np.float32))
    x[0, 0, 3, 2] = np.nan
    if frames > 1:
        (outcome,) = outcomes(make("file,label\na.csv,x\n", {"a.csv": write(x, names)}))
        assert outcome.cleaned == ("missing joints interpolated",)
        np.testing.assert_array_equal(outcome.clip.keypoints[0, 0, 3], x[1, 0, 3].astype(np.float32))


def test_lines_in_any_order_frames_from_any_number_and_gaps(make: Callable[..., Path]) -> None:
    x = body(frames=5)
    lines = line_a_joint(x, None, first=-2).split("\n")
    kept = [line for line in lines[1:] if line.split(",")[2] != "1"]  # frame 3 of x saw nobody
    shuffled = [kept[0], *np.random.default_rng(0).permutation(kept[1:])]
    clip = one(make("file,label\na.csv,x\n", {"a.csv": "\n".join([lines[0], *shuffled])}))
    x[3] = 0
    np.testing.assert_array_equal(clip.keypoints, x.astype(np.float32))


def test_a_line_a_frame_with_frames_and_persons(make: Callable[..., Path]) -> None:
    x = body(COCO, frames=3, persons=2)[..., :2] * 300
    head = ["frame", "person", *(f"{axis}{v}" for v in range(17) for axis in ("x", "y", "confidence"))]
    sure = np.concatenate([x, np.ones_like(x[..., :1])], axis=-1)
    sure[1, 1, 4, 2] = 0
    rows = [[t, "ba"[m], *sure[t, m].ravel()] for t in range(3) for m in range(2) if (t, m) != (2, 0)]
    text = "\n".join("\t".join(map(str, row)) for row in [head, *rows])
    x[2, 0] = np.nan
    x[1, 1, 4] = np.nan
    options = {"layout": "coco-17", "units": "pixels"}
    expected = one(make("file,label\na.npy,x\n", {"a.npy": x}), **options)
    clip = one(make("file,label\na.csv,x\n", {"a.csv": text}), **options)
    np.testing.assert_array_equal(clip.keypoints, expected.keypoints)


LONG, WIDE = line_a_joint(body(), None), line_a_frame(body(), None)
BAD_JOINTS = {
    "empty": ("", "a.csv: no header"),
    "only a header": (LONG.split("\n")[0], "a.csv: no lines of coordinates"),
    "no frame": (LONG.replace("frame", "person2", 1), "unknown column 'person2'"),
    "no frame at all": ("joint,x,y\n0,1,1\n", "field 'frame': no column 'frame'"),
    "no y": (LONG.replace(",y", ",w", 1), "field 'y': no column for y"),
    "unknown column": (LONG.replace("z,", "time,", 1), "unknown column 'time'"),
    "unknown joint": (LONG.replace("\n3,", "\ntail,", 1), "field 'joint': line 5: layout kinect-20 has no"),
    "joints from 1": (LONG.replace("\n0,", "\n20,", 1), "line 2: layout kinect-20 has no joint '20'"),
    "joint negative": (LONG.replace("\n1,", "\n-1,", 1), "line 3: layout kinect-20 has no joint '-1'"),
    "not a number": (re.sub(r"\n0,[^,]*", "\n0,abc", LONG, count=1), "field 'z': line 2: 'abc' is not a finite number"),
    "infinite": (re.sub(r"\n0,[^,]*", "\n0,inf", LONG, count=1), "field 'z': line 2: 'inf' is not a finite number"),
    "underscores": (re.sub(r"\n0,[^,]*", "\n0,1_0", LONG, count=1), "line 2: '1_0' is not a finite number"),
    "a frame that is none": (LONG.replace(",0,P0", ",0.5,P0", 1), "field 'frame': line 2: '0.5' is not the number of"),
    "a frame missing": (LONG.replace(",0,P0", ",,P0", 1), "field 'frame': line 2: '' is not the number of a frame"),
    "a frame absurd": (LONG.replace(",0,P0", ",1e14,P0", 1), "frames 0 to 100000000000000, but only 5 of them"),
    "a frame beyond": (LONG.replace(",0,P0", ",1e300,P0", 1), "line 2: '1e300' is not the number of a frame"),
    "frames are times": (
        re.sub(r",(\d),P0", lambda found: f",{int(found[1]) * 33},P0", LONG), "frames 0 to 99, but only 4 of them"
    ),
    "a joint twice": (f"{LONG}\n5,1,2,P0,1,1", "line 82: this joint of this person came in this frame before"),
    "a joint never": (re.sub(r"\n5,.*", "", LONG), "joint 5, 'left elbow', of person 0 is never seen"),
    "too many": (
        "frame,person,joint,x,y\n" + "\n".join(f"{v},{v},0,1,1" for v in range(3000)), "3,000 frames x 3,000 persons"
    ),
    "a value missing": (LONG + "\n1,2,3", "line 82: 3 values, the header names 6 columns"),
    "no header": (WIDE[WIDE.index("\n") + 1 :], "is no coordinate of a joint of layout kinect-20"),
    "a joint too much": (WIDE.replace("z19", "z20", 1), "field 'z20': column 'z20' is no coordinate"),
    "a column missing": (WIDE.replace("z19", "x019", 1), "says the same as 'x19'"),
    "no z of one joint": (
        "\n".join(line.rsplit(";", 1)[0] for line in WIDE.split("\n")), "no column for z of joint 19 of layout"
    ),
    "persons without frames": (
        "\n".join(f"{person};{line}" for person, line in zip(["person", *"0123"], WIDE.split("\n"), strict=True)),
        "field 'frame': lines of several persons need their frame",
    ),
    "decimal commas": (WIDE.replace(".", ","), "is not a finite number\n  hint: write numbers with a decimal point"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD_JOINTS)
def test_bad_table_of_joints(make: Callable[..., Path], wrong: str) -> None:
    text, problem = BAD_JOINTS[wrong]
    message = refused(make("file,label\na.csv,x\n", {"a.csv": text}))
    assert "mine/a.csv: " in message
    assert problem in message


@given(st.integers(1, 4), st.integers(1, 3), st.floats(0, 0.4), st.integers(0, 2**32 - 1))
def test_a_table_says_the_same_as_an_array(frames: int, persons: int, share: float, seed: int) -> None:
    """Whatever is missing: either both refuse, or both give the same clip."""
    x = body(frames=frames, persons=persons, seed=seed)
    holes = np.random.default_rng(seed).random(x.shape) < share
    x[holes] = np.nan
    table = read_joint_table(line_a_joint(x, None).encode(), "a.csv", KINECT)
    array = read_array_file(npy(x), "a.npy", None)
    np.testing.assert_array_equal(mark_unseen(table, "metres"), mark_unseen(array, "metres"))


# Layouts and BVH


def hanging_bvh(frames: int = 3, offset: float = 0.0, names: str = "Hips Spine LeftArm RightArm LeftUpLeg RightUpLeg",
                frame_time: float = 0.04) -> str:  # fmt: skip
    """A body of six joints in centimetres that walks along z."""
    hips, spine, *others = names.split()
    places = ["20 0 0", "-20 0 0", "10 -5 0", "-10 -5 0"]
    blocks = [
        f"JOINT {name}\n{{\nOFFSET {place}\nCHANNELS 0\n}}"
        for name, place in zip(others, places, strict=True)
    ]
    head = f"HIERARCHY\nROOT {hips}\n{{\nOFFSET 0 0 0\nCHANNELS 3 Xposition Yposition Zposition\n"
    tree = f"JOINT {spine}\n{{\nOFFSET 0 50 0\nCHANNELS 1 Yrotation\n"
    tree += f"{blocks[0]}\n{blocks[1]}\n}}\n{blocks[2]}\n{blocks[3]}\n}}\n"
    rows = "".join(f"{offset} 90 {frame} 0\n" for frame in range(frames))
    return f"{head}{tree}MOTION\nFrames: {frames}\nFrame Time: {frame_time}\n{rows}"


def test_bvh_says_its_layout_and_rate(make: Callable[..., Path]) -> None:
    root = make("file,label\na.bvh,x\nb.BVH,x\n", {"a.bvh": hanging_bvh(), "b.BVH": hanging_bvh(5)})
    found = find_in(root, name="mocap", layout=None, frame_rate=None, units="centimetres")
    assert (found.info.layout, found.info.frame_rate) == ("mocap-bvh", 25.0)
    assert found.info.own_layout["joints"] == [
        "Hips",
        "Spine",
        "LeftArm",
        "RightArm",
        "LeftUpLeg",
        "RightUpLeg",
    ]
    first, second = (next(iter(found.read(open_source(root), unit))).clip for unit in found.units)
    assert second.keypoints.shape == (5, 1, 6, 3)
    expected = [[0, 0.9], [0, 1.4], [0.2, 1.4], [-0.2, 1.4], [0.1, 0.85], [-0.1, 0.85]]
    np.testing.assert_allclose(first.keypoints[2, 0, :, :2], expected, atol=1e-6)
    np.testing.assert_allclose(first.keypoints[2, 0, :, 2], 0.02, atol=1e-6)


def test_bvh_files_of_one_set_agree(make: Callable[..., Path]) -> None:
    table = "file,label\na.bvh,x\nb.bvh,x\n"
    other = hanging_bvh(names="Hips Chest LeftArm RightArm LeftUpLeg RightUpLeg")
    options = {"layout": None, "frame_rate": None, "units": "centimetres"}
    message = refused(make(table, {"a.bvh": hanging_bvh(), "b.bvh": other}), **options)
    assert re.search(r"mine/b\.bvh: not the joints of a\.bvh", message)
    message = refused(make(table, {"a.bvh": hanging_bvh(), "b.bvh": hanging_bvh(frame_time=0.05)}), **options)
    assert "b.bvh: 20 frames a second, the data set has 25" in message
    files = {"a.bvh": hanging_bvh(), "b.bvh": hanging_bvh(frame_time=0.0401)}
    assert len(outcomes(make(table, files), **options)) == 2
    assert "a.bvh: 25 frames a second, the data set has 30" in refused(
        make(table, files), **{**options, "frame_rate": 30}
    )
    nameless = hanging_bvh(names="a b c d e f")
    assert "mine/a.bvh: field 'landmarks'" in refused(
        make(table, {"a.bvh": nameless, "b.bvh": nameless}), **options
    )
    assert "a.bvh: line 1: 'x'" in refused(make(table, {"a.bvh": "x\nMOTION", "b.bvh": other}), **options)


def test_a_layout_chooses_joints_of_a_bvh_by_name(make: Callable[..., Path], tmp_path: Path) -> None:
    joints = ["spine", "left_arm", "Right Arm", "left up leg", "right-up-leg"]
    described = {
        "name": "five",
        "joints": joints,
        "parents": [-1, 0, 0, 0, 0],
        "landmarks": dict(
            zip(["left shoulder", "right shoulder", "left hip", "right hip"], joints[1:], strict=True)
        ),
    }
    (tmp_path / "five.json").write_text(json.dumps(described))
    root = make("file,label\na.bvh,x\n", {"a.bvh": hanging_bvh()})
    clip = one(root, layout=tmp_path / "five.json", units="centimetres", frame_rate=None)
    np.testing.assert_allclose(clip.keypoints[0, 0, :2], [[0, 1.4, 0], [0.2, 1.4, 0]], atol=1e-6)
    assert find_in(root, layout=tmp_path / "five.json").info.own_layout == layout_to_dict(
        layout_from_dict(described)
    )
    message = refused(root, layout="kinect-20", frame_rate=None, units="centimetres")
    assert "a.bvh: no joint 'hip centre', which layout kinect-20 has\n  hint: give no layout" in message


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_layout_files(make: Callable[..., Path], tmp_path: Path, suffix: str) -> None:
    described = {**layout_to_dict(KINECT), "name": "mine"}
    del (
        described["mirror"],
        described["parts"],
        described["landmarks"],
        described["center"],
        described["name"],
    )
    path = tmp_path / f"mine{suffix}"
    path.write_text(json.dumps(described))  # which is YAML, too
    root = make("file,label\na.npy,x\n", {"a.npy": body()})
    found = find_in(root, layout=str(path))
    assert found.info.layout == found.info.own_layout["name"] == "mine"
    assert one(root, layout=path).keypoints.shape == (4, 1, 20, 3)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("ntu25", None, "field 'layout': unknown skeleton layout 'ntu25'\n  hint: name a file"),
        ("no.json", None, "no.json: field 'layout': cannot be read: No such file"),
        ("a.json", "{", "a.json: not readable as JSON"),
        ("a.yaml", "[1", "a.yaml: not readable as YAML"),
        ("a.yml", "hello", "a.yml: describes no skeleton"),
        ("a.json", "[" * 100_000, "a.json: not readable as JSON"),
        ("a.json", b"\xff", "a.json: not UTF-8"),
        ("a.json", '{"parents": []}', "a.json: field 'joints'"),
        ("a.json", '{"joints": ["a", "b"], "parents": [0, 0]}', "a.json: field 'landmarks'"),
        (
            "kinect-20.json",
            json.dumps({**layout_to_dict(COCO), "name": "kinect-20"}),
            "another skeleton layout",
        ),
    ],
)
def test_bad_layout(
    make: Callable[..., Path], tmp_path: Path, name: str, content: str | bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    path = tmp_path / name if "." in name else name
    assert problem in refused(make("file,label\na.npy,x\n", {"a.npy": body()}), layout=path)


def test_to_layout(make: Callable[..., Path]) -> None:
    x = body(COCO, persons=2)
    x[0, 0] = np.nan
    root = make("file,label\na.npy,x\n", {"a.npy": x})
    found = find_in(root, layout="coco-17", to_layout="kinect-20")
    assert (found.info.layout, found.info.own_layout) == ("kinect-20", None)
    clip = one(root, layout="coco-17", to_layout="kinect-20")
    expected = map_layout(COCO, KINECT).apply(np.nan_to_num(x).astype(np.float32))
    np.testing.assert_array_equal(clip.keypoints, expected)
    assert not clip.keypoints[0, 0].any()
    assert "unknown skeleton layout 'kinect'" in refused(root, layout="coco-17", to_layout="kinect")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"units": "inches"}, "field 'units': unknown units 'inches'"),
        ({"up": "x"}, "field 'up': 'x' is no axis"),
        ({"dimensions": 4}, "field 'dimensions': 4 dimensions"),
        ({"frame_rate": None}, "field 'frame_rate': frames a second are not said"),
        ({"frame_rate": 0}, "frame rate 0"),
        ({"frame_rate": float("nan")}, "frame rate nan"),
        ({"layout": None}, "field 'layout': which joints the files hold is not said"),
    ],
)
def test_bad_options(make: Callable[..., Path], options: dict[str, Any], problem: str) -> None:
    assert problem in refused(make("file,label\na.npy,x\n", {"a.npy": body()}), **options)


# All of it


def test_reading_works_in_another_process(make: Callable[..., Path]) -> None:
    root = make("file,label\na.bvh,x\n", {"a.bvh": hanging_bvh()})
    found = find_in(root, layout=None, frame_rate=None, units="centimetres", name="elsewhere")
    read, source, unit = pickle.loads(pickle.dumps((found.read, open_source(root), found.units[0])))
    (outcome,) = read(source, unit)
    assert outcome.clip.keypoints.shape == (3, 1, 6, 3)


def test_a_table_written_anew_is_read_anew(make: Callable[..., Path]) -> None:
    """Even within the resolution of the file system's clock."""
    root = make("file,label\na.npy,x\nb.npy,y\n", {"a.npy": body(), "b.npy": body()})
    assert [outcome.clip.label for outcome in outcomes(root)] == [0, 1]
    before = (root / "clips.csv").stat()
    (root / "clips.csv").write_text("file,label\na.npy,y\nb.npy,x\n")
    os.utime(root / "clips.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [outcome.clip.label for outcome in outcomes(root)] == [1, 0]


def test_options_and_units_tell_whether_work_can_be_taken_up(make: Callable[..., Path]) -> None:
    root = make("file,label\na.npy,x\n", {"a.npy": body(), "classes.txt": "x\n"})
    plain = find_in(root)
    assert plain.options == find_in(root).options
    for other in ({"units": "unknown"}, {"up": "-y"}, {"dimensions": 3}, {"layout": "ntu-25"}):
        assert find_in(root, **other).options != plain.options
    (unit,) = plain.units
    assert [recording.path for recording in unit] == ["a.npy", "clips.csv", "classes.txt"]


def test_store_and_split(make: Callable[..., Path], tmp_path: Path) -> None:
    rows = [f"{v}.npy,{'ab'[v % 2]},{v},{'test' if v > 3 else 'train'}" for v in range(6)]
    table = "file,label,subject,part\n" + "\n".join(rows)
    root = make(table, {f"{v}.npy": body(seed=v) for v in range(6)} | {"6.npy": body()})
    source, out = open_source(root), tmp_path / "mine.arrow"
    summary = prepare_found(find_in(root, name="mine"), source, out, processes=1, progress=False)
    assert (summary.clips, summary.left_out) == (6, {"not in clips.csv": 1})
    store = Store.open(out)
    np.testing.assert_array_equal(store.keypoints(2), body(seed=2).astype(np.float32))
    parts = split(store, "as-given")
    assert (parts.train.tolist(), parts.test.tolist()) == ([0, 1, 2, 3], [4, 5])


TEXT = DOCUMENT.read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    return [block for of, block in found if of == language]


COMMANDS = [line for block in blocks("") for line in block.splitlines() if line.startswith("mica ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_documents_commands_parse(command: str) -> None:
    arguments = command.split()[1:]
    assert make_parser().parse_args(arguments).subcommand == arguments[0]


def test_the_documents_first_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], DOCUMENT.name, "exec"), {})
    prepare, inspect = (next(line for line in COMMANDS if name in line) for name in ("prepare", "inspect"))
    main(prepare.split()[1:])
    main(inspect.split()[1:])
    assert "16 clips of mine, layout kinect-20" in capsys.readouterr().out
    store = Store.open(tmp_path / "mine.arrow")
    parts = split(store, "as-given")
    assert (len(parts.train), len(parts.test)) == (12, 4)
    assert re.search(r"--clip (\S+)", TEXT)[1] in store.names  # type: ignore[index]


def test_the_documents_layout_is_one(make: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "sensor.yaml").write_text(blocks("yaml")[0])
    layout = find_layout(tmp_path / "sensor.yaml")
    assert (layout.name, layout.num_joints, layout.joints[layout.mirror[3]]) == (
        "my-sensor",
        11,
        "r_shoulder",
    )


def test_the_documents_tables_are_read() -> None:
    joints = ("left shoulder", "left elbow")
    two = cast(SkeletonLayout, SimpleNamespace(name="two", joints=joints, num_joints=2))
    tables = [block for block in blocks("") if "0.21" in block]
    assert len(tables) == 3
    for table in tables:
        values = read_joint_table(table.encode(), "a.csv", two)
        np.testing.assert_array_equal(values, [[[[0.21, 1.42, 2.5], [0.25, 1.15, 2.48]]]])


def test_the_documents_links_and_numbers_hold() -> None:
    headings = [line[3:].lower() for line in TEXT.splitlines() if line.startswith("## ")]
    anchors = {re.sub(r"[^a-z ]", "", heading).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) == anchors
    low, high = PLAUSIBLE_TORSO
    assert f"below {low:g} m or above {high:g} m" in TEXT
    assert f"measures {TORSO:g} m" in TEXT
    for choice in (*get_args(Units), *get_args(Up)):
        assert f"`{choice}`" in TEXT
