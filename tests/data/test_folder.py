"""One's own recordings: the table that names them, every fault with its place, and all the way into a store."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mica.data.preparation import prepare_found
from mica.data.recordings import open_source
from mica.data.splits import split
from mica.data.store import Store

from .folders import body, find_in, hanging_bvh, one, outcomes, refused


def test_every_column(make_folder: Callable[..., Path]) -> None:
    header = "file,label,subject,camera,setup,replication,text,part\n"
    lines = 'walk/a.npy,wave,3,2,1,4,"waves, twice",train\nb.npy,bow,,,,,,\nc.npy,wave,5,,,,,TEST\n'
    files = {"walk/a.npy": body(seed=1), "b.npy": body(seed=2), "c.npy": body(seed=3)}
    root = make_folder(header + lines, files)
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
    make_folder: Callable[..., Path], delimiter: str, end: str, mark: str
) -> None:
    lines = [["Label", " file "], ["wave", "a.npy"], [], ['"big ""W"""', ".\\b.npy"]]
    text = mark + end.join(delimiter.join(line) for line in lines) + end
    root = make_folder(text, {"a.npy": body(), "b.npy": body()})
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
    make_folder: Callable[..., Path],
    labels: list[str],
    classes: str | None,
    names: tuple[str, ...],
    expected: list[int],
) -> None:
    rows = "".join(f"{v}.npy,{label}\n" for v, label in enumerate(labels))
    root = make_folder(
        f"file,label\n{rows}", {f"{v}.npy": body() for v in range(3)} | {"classes.txt": classes}
    )
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
def test_bad_table(make_folder: Callable[..., Path], wrong: str) -> None:
    table, problem = BAD_TABLES[wrong]
    message = refused(make_folder(table, {"a.npy": body(), "b.npy": body()}))
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
def test_bad_classes(
    make_folder: Callable[..., Path], labels: str, classes: str | bytes, problem: str
) -> None:
    table = f"file,label\na.npy,{labels[0]}\nb.npy,{labels[1]}\n"
    assert problem in refused(make_folder(table, {"a.npy": body(), "b.npy": body(), "classes.txt": classes}))


def test_table_missing_or_twice(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    assert "no clips.csv in it" in refused(make_folder(None, {"a.npy": body()}))
    assert "no clips.csv in it" in refused(make_folder(None, {"myclips.csv": "file,label\n"}))
    assert "clips.csv: is the table alone" in refused(make_folder("file,label\na.npy,x\n") / "clips.csv")
    message = refused(make_folder("file,label\na.npy,x\n", {"a.npy": body(), "b/clips.csv": "file,label\n"}))
    assert str(tmp_path / "mine" / "clips.csv") in message
    assert str(tmp_path / "mine" / "b" / "clips.csv") in message


def test_files_that_the_table_does_not_name_are_left_out(make_folder: Callable[..., Path]) -> None:
    root = make_folder(
        "file,label\nb.npy,x\n", {"a.npy": b"junk", "b.npy": body(), "c/b.bvh": "junk", "notes.txt": ""}
    )
    assert [(found.name, found.left_out) for found in outcomes(root)] == [
        ("b", ""), ("a.npy", "not in clips.csv"), ("c/b.bvh", "not in clips.csv")
    ]  # fmt: skip


def test_accents_that_unicode_writes_in_two_ways(make_folder: Callable[..., Path]) -> None:
    """As a Mac writes the names of files, and a spreadsheet the table."""
    message = refused(make_folder("file,label\nCaf\u00e9.npy,x\n", {"Cafe\u0301.npy": body()}))
    assert "other Unicode characters (NFC or NFD)" in message
    assert "Unicode" not in refused(make_folder("file,label\nCaf\u00e9.npy,x\n", {"Cafe.npy": body()}))


@pytest.mark.parametrize("inside", ["", "my set/"])
def test_zip(make_folder: Callable[..., Path], tmp_path: Path, inside: str) -> None:
    root = make_folder("file,label\nb/a.npy,x\n", {"b/a.npy": body(), "classes.txt": "y\nx\n"})
    with zipfile.ZipFile(tmp_path / "mine.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("clips.csv", "b/a.npy", "classes.txt"):
            archive.write(root / name, inside + name)
    clip = one(tmp_path / "mine.zip")
    assert (clip.name, clip.label) == ("b/a", 1)
    np.testing.assert_array_equal(clip.keypoints, one(root).keypoints)


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
def test_bad_options(make_folder: Callable[..., Path], options: dict[str, Any], problem: str) -> None:
    assert problem in refused(make_folder("file,label\na.npy,x\n", {"a.npy": body()}), **options)


def test_reading_works_in_another_process(make_folder: Callable[..., Path]) -> None:
    root = make_folder("file,label\na.bvh,x\n", {"a.bvh": hanging_bvh()})
    found = find_in(root, layout=None, frame_rate=None, units="centimetres", name="elsewhere")
    read, source, unit = pickle.loads(pickle.dumps((found.read, open_source(root), found.units[0])))
    (outcome,) = read(source, unit)
    assert outcome.clip.keypoints.shape == (3, 1, 6, 3)


def test_a_table_written_anew_is_read_anew(make_folder: Callable[..., Path]) -> None:
    """Even within the resolution of the file system's clock."""
    root = make_folder("file,label\na.npy,x\nb.npy,y\n", {"a.npy": body(), "b.npy": body()})
    assert [outcome.clip.label for outcome in outcomes(root)] == [0, 1]
    before = (root / "clips.csv").stat()
    (root / "clips.csv").write_text("file,label\na.npy,y\nb.npy,x\n")
    os.utime(root / "clips.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [outcome.clip.label for outcome in outcomes(root)] == [1, 0]


def test_options_and_units_tell_whether_work_can_be_taken_up(make_folder: Callable[..., Path]) -> None:
    root = make_folder("file,label\na.npy,x\n", {"a.npy": body(), "classes.txt": "x\n"})
    plain = find_in(root)
    assert plain.options == find_in(root).options
    for other in ({"units": "unknown"}, {"up": "-y"}, {"dimensions": 3}, {"layout": "ntu-25"}):
        assert find_in(root, **other).options != plain.options
    (unit,) = plain.units
    assert [recording.path for recording in unit] == ["a.npy", "clips.csv", "classes.txt"]


def test_store_and_split(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    rows = [f"{v}.npy,{'ab'[v % 2]},{v},{'test' if v > 3 else 'train'}" for v in range(6)]
    table = "file,label,subject,part\n" + "\n".join(rows)
    root = make_folder(table, {f"{v}.npy": body(seed=v) for v in range(6)} | {"6.npy": body()})
    source, out = open_source(root), tmp_path / "mine.arrow"
    summary = prepare_found(find_in(root, name="mine"), source, out, processes=1, progress=False)
    assert (summary.clips, summary.left_out) == (6, {"not in clips.csv": 1})
    store = Store.open(out)
    np.testing.assert_array_equal(store.keypoints(2), body(seed=2).astype(np.float32))
    parts = split(store, "as-given")
    assert (parts.train.tolist(), parts.test.tolist()) == ([0, 1, 2, 3], [4, 5])
