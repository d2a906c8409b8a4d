"""Whatever is wrong with what we are given, the message says where and what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.io import savemat

from mica.data import store as store_module
from mica.data.clip import Clip, StoreInfo
from mica.data.formats import prepare
from mica.data.store import Store, write
from mica.errors import InputError

NW_CLIP, UTD_CLIP = "a01_s02_e00_v01", "a3_s2_t1"


def nw_content(**changes: Any) -> dict[str, Any]:
    frames = np.random.default_rng(0).normal(size=(3, 20, 3)).tolist()
    return {"file_name": NW_CLIP, "label": 1, "skeletons": frames, **changes}


def nw_frames(change: Callable[[list[Any]], Any]) -> dict[str, Any]:
    content = nw_content()
    change(content["skeletons"])
    return content


def without(key: str) -> dict[str, Any]:
    content = nw_content()
    del content[key]
    return content


def put(frame: int, joint: int, value: Any) -> Callable[[list[Any]], None]:
    def change(frames: list[Any]) -> None:
        frames[frame][joint][0] = value

    return change


WHOLE = json.dumps(nw_content())

# (what is wrong, file name, content, field, problem)
BAD_NW_UCLA: list[tuple[str, str, Any, str | None, str]] = [
    ("truncated", f"{NW_CLIP}.json", WHOLE[: len(WHOLE) // 2], None, "truncated"),
    ("empty file", f"{NW_CLIP}.json", "", None, "JSON"),
    ("not text", f"{NW_CLIP}.json", b"\xff\xfe\x00\x93", None, "JSON"),
    ("a list", f"{NW_CLIP}.json", "[1, 2]", None, "no JSON object"),
    ("no skeletons", f"{NW_CLIP}.json", without("skeletons"), "skeletons", "missing"),
    ("no label", f"{NW_CLIP}.json", without("label"), "label", "missing"),
    ("label of another action", f"{NW_CLIP}.json", nw_content(label=2), "label", "means 1"),
    ("label from 0", f"{NW_CLIP}.json", nw_content(label=0), "label", "means 1"),
    ("label is text", f"{NW_CLIP}.json", nw_content(label="one"), "label", "'one'"),
    (
        "another clip inside",
        f"{NW_CLIP}.json",
        nw_content(file_name="a01_s01_e00_v01"),
        "file_name",
        "a01_s01",
    ),
    ("no frames", f"{NW_CLIP}.json", nw_content(skeletons=[]), "skeletons", "no frames"),
    ("one number", f"{NW_CLIP}.json", nw_content(skeletons=4), "skeletons", "shape"),
    ("null", f"{NW_CLIP}.json", nw_content(skeletons=None), "skeletons", "shape"),
    ("words", f"{NW_CLIP}.json", nw_content(skeletons=[[["x", "y", "z"]]]), "skeletons", "numbers"),
    (
        "a joint missing",
        f"{NW_CLIP}.json",
        nw_frames(lambda f: f[1].pop()),
        "skeletons",
        "equally many joints",
    ),
    ("19 joints", f"{NW_CLIP}.json", nw_frames(lambda f: [x.pop() for x in f]), "skeletons", "19 joints"),
    ("no depth", f"{NW_CLIP}.json", nw_content(skeletons=[[[0.5, 0.5]] * 20]), "skeletons", "shape"),
    ("NaN", f"{NW_CLIP}.json", nw_frames(put(2, 5, float("nan"))), "skeletons", "frame 2"),
    ("infinite", f"{NW_CLIP}.json", nw_frames(put(0, 5, float("inf"))), "skeletons", "frame 0"),
    ("a null coordinate", f"{NW_CLIP}.json", nw_frames(put(1, 0, None)), "skeletons", "frame 1"),
    ("nobody", f"{NW_CLIP}.json", nw_content(skeletons=np.zeros((3, 20, 3)).tolist()), "skeletons", "nobody"),
    ("odd name", "clip 7.json", nw_content(), "name", "a01_s01_e00_v01.json"),
    ("unknown action", "a07_s01_e00_v01.json", nw_content(file_name="a07_s01_e00_v01"), "name", "code 7"),
]

SKELETON = np.random.default_rng(0).normal(size=(20, 3, 4))
UTD_FILE = f"{UTD_CLIP}_skeleton.mat"
BAD_UTD_MHAD: list[tuple[str, str, Any, str | None, str]] = [
    ("not MATLAB", UTD_FILE, b"nothing of the kind" * 20, None, "MATLAB 5"),
    ("empty file", UTD_FILE, b"", None, "MATLAB 5"),
    ("wrong variable", UTD_FILE, {"d_iner": SKELETON}, "d_skel", "found d_iner"),
    ("25 joints", UTD_FILE, {"d_skel": np.ones((25, 3, 4))}, "d_skel", "(25, 3, 4)"),
    ("axes exchanged", UTD_FILE, {"d_skel": SKELETON.transpose(2, 0, 1)}, "d_skel", "(4, 20, 3)"),
    ("text", UTD_FILE, {"d_skel": "hello"}, "d_skel", "expected numbers"),
    ("no frames", UTD_FILE, {"d_skel": np.ones((20, 3, 0))}, "d_skel", "no frames"),
    ("NaN", UTD_FILE, {"d_skel": np.where(np.arange(4) == 3, np.nan, SKELETON)}, "d_skel", "frame 3"),
    ("nobody", UTD_FILE, {"d_skel": np.zeros((20, 3, 4))}, "d_skel", "nobody"),
    ("odd name", "a3_s2_t1_inertial.mat", {"d_skel": SKELETON}, "name", "a1_s1_t1_skeleton.mat"),
    ("unknown action", "a28_s1_t1_skeleton.mat", {"d_skel": SKELETON}, "name", "1 to 27"),
    ("action 0", "a0_s1_t1_skeleton.mat", {"d_skel": SKELETON}, "name", "1 to 27"),
]


def save(path: Path, content: Any) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)
    elif path.suffix == ".mat":
        savemat(path, content)
    else:
        path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("dataset", "name", "content", "field", "problem"),
    [
        pytest.param(dataset, *row, id=f"{dataset}: {wrong}")
        for dataset, table in (("nw-ucla", BAD_NW_UCLA), ("utd-mhad", BAD_UTD_MHAD))
        for wrong, *row in table
    ],
)
def test_bad_raw_file(
    tmp_path: Path, dataset: str, name: str, content: Any, field: str | None, problem: str
) -> None:
    raw, out = tmp_path / "raw", tmp_path / "x.arrow"
    raw.mkdir()
    save(raw / name, content)
    with pytest.raises(InputError) as caught:
        prepare(dataset, raw, out, progress=False)
    message = str(caught.value)
    clip = (raw / name).stem
    assert str(raw / name) in message
    assert f"clip {clip.removesuffix('_skeleton')}" in message
    assert (f"field '{field}'" in message) if field else ("field" not in message)
    assert problem in message
    assert not out.exists()


def test_truncated_mat(tmp_path: Path) -> None:
    file = tmp_path / UTD_FILE
    savemat(file, {"d_skel": SKELETON}, do_compression=True)
    whole = file.read_bytes()
    for kept in (10, 127, 128, 140, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:kept])
        with pytest.raises(InputError) as caught:
            prepare("utd-mhad", tmp_path, tmp_path / "x.arrow", progress=False)
        assert str(file) in str(caught.value), kept


@pytest.mark.parametrize("dataset", ["nw-ucla", "utd-mhad"])
@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: None, "no such file or directory"),
        (lambda path: path.mkdir(), "files in it"),
        (lambda path: path.touch(), "files in it"),
    ],
    ids=["missing", "empty", "a file"],
)
def test_bad_raw_directory(tmp_path: Path, dataset: str, make: Callable[[Path], None], problem: str) -> None:
    raw = tmp_path / "raw"
    make(raw)
    with pytest.raises(InputError, match=problem) as caught:
        prepare(dataset, raw, tmp_path / "x.arrow")
    assert caught.value.file == raw
    assert "give the folder" in str(caught.value)


SECOND_ALONE = np.ones((2, 2, 20, 3), np.float32) * np.array([0, 1], np.float32)[:, None, None]


def changed(**changes: Any) -> Callable[[Clip], None]:
    return lambda clip: clip.__dict__.update(changes)


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        (changed(label=3), "label", "label 3 of 3 classes"),
        (changed(label=-1), "label", "label -1"),
        (changed(name=""), "name", "needs a name"),
        (changed(keypoints=np.ones((2, 1, 20, 3))), "keypoints", "float64"),
        (changed(keypoints=np.ones((2, 20, 3), np.float32)), "keypoints", "(2, 20, 3)"),
        (changed(keypoints=np.ones((2, 1, 20, 2), np.float32)), "keypoints", "(2, 1, 20, 2)"),
        (changed(keypoints=np.ones((2, 1, 25, 3), np.float32)), "keypoints", "25 joints"),
        (changed(keypoints=np.ones((0, 1, 20, 3), np.float32)), "keypoints", "no frames"),
        (changed(keypoints=np.ones((2, 0, 20, 3), np.float32)), "keypoints", "no persons"),
        (changed(keypoints=np.zeros((2, 1, 20, 3), np.float32)), "keypoints", "zero in every frame"),
        (changed(keypoints=SECOND_ALONE), "keypoints", "the first person is zero in every frame"),
        (changed(keypoints=np.full((2, 1, 20, 3), np.nan, np.float32)), "keypoints", "2 of 2 frames"),
        (changed(name="good"), "name", "came before"),
    ],
)
def test_bad_clip(
    tmp_path: Path,
    info: StoreInfo,
    make_clip: Callable[..., Clip],
    change: Callable[[Clip], None],
    field: str,
    problem: str,
) -> None:
    bad = make_clip("bad")
    change(bad)
    with pytest.raises(InputError) as caught:
        write(tmp_path / "x.arrow", [make_clip("good"), bad], info)
    assert (caught.value.clip, caught.value.field) == (bad.name, field)
    assert problem in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        (StoreInfo("x", "stick-figure-9", ("a",), 30.0), "openpose-18"),
        (StoreInfo("x", "ntu-25", (), 30.0), "class names"),
        (StoreInfo("x", "ntu-25", ("a", "a"), 30.0), "class names"),
        (StoreInfo("x", "ntu-25", ("a",), 0.0), "frame rate"),
        (StoreInfo("x", "ntu-25", ("a",), float("nan")), "frame rate"),
    ],
)
def test_bad_info(tmp_path: Path, info: StoreInfo, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        write(tmp_path / "x.arrow", [], info)
    assert list(tmp_path.iterdir()) == []


def test_no_clips(tmp_path: Path, info: StoreInfo) -> None:
    with pytest.raises(InputError, match="no clips of utd-mhad"):
        write(tmp_path / "x.arrow", [], info)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def whole(make_clip: Callable[..., Clip], make_store: Callable[..., Store]) -> Path:
    return make_store([make_clip("first"), make_clip("second", frames=7)]).path


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write the table of a store anew, as a stranger or another release might have."""
    with pa.OSFile(str(path)) as file:
        table = pa.ipc.open_file(file).read_all()
    table = change(table)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)


def metadata(**changes: str | None) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
        values |= {f"mica.{key}": value for key, value in changes.items() if value is not None}
        return table.replace_schema_metadata(
            {k: v for k, v in values.items() if changes.get(k[5:], v) is not None}
        )

    return change


def column(name: str, values: list[Any]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        field = table.schema.field(name)
        return table.set_column(table.schema.get_field_index(name), field, pa.array(values, type=field.type))

    return change


def info_json(**changes: Any) -> str:
    values = {"dataset": "x", "layout": "kinect-20", "class_names": ["a"], "frame_rate": 30.0, "source": ""}
    return json.dumps(values | changes)


@pytest.mark.parametrize(
    ("change", "clip", "field", "problem"),
    [
        (metadata(format_version="1"), None, "mica.format_version", "format version 1, this release reads 2"),
        (metadata(format_version=None), None, "mica.format_version", "not one of ours"),
        (lambda table: table.replace_schema_metadata(None), None, "mica.format_version", "not one of ours"),
        (metadata(info="{"), None, "mica.info", "delimiter|property name|Expecting"),
        (metadata(info=info_json(colour="red")), None, "mica.info", "colour"),
        (metadata(info=info_json(layout="stick-figure-9")), None, "mica.info", "openpose-18"),
        (metadata(info=info_json(frame_rate=-1.0)), None, "mica.info", "frame rate"),
        (metadata(info=info_json(dataset="lab/gait")), None, "mica.info", "a data set called 'lab/gait'"),
        (lambda table: table.drop_columns(["subject"]), None, "subject", "columns missing: subject"),
        (lambda table: table.drop_columns(["keypoints"]), None, "keypoints", "columns missing: keypoints"),
        (
            lambda table: table.set_column(2, "frames", pa.array([5.0, 7.0])),
            None,
            "frames",
            "type double, expected int32",
        ),
        (column("frames", [5, 8]), "second", "keypoints", "does not hold"),
        (column("frames", [-5, 7]), "first", "keypoints", "does not hold"),
        (column("persons", [2, 1]), "first", "keypoints", "does not hold"),
        (
            lambda table: column("persons", [-1, 1])(column("frames", [-5, 7])(table)),
            "first",
            "keypoints",
            "does not hold",
        ),
        (column("label", [0, 3]), "second", "label", "outside the 3 classes"),
        (column("label", [-1, 0]), "first", "label", "outside the 3 classes"),
        (lambda table: table.slice(0, 0), None, None, "no clips"),
    ],
)
def test_bad_store(
    whole: Path, change: Callable[[pa.Table], pa.Table], clip: str | None, field: str | None, problem: str
) -> None:
    rewrite(whole, change)
    with pytest.raises(InputError, match=problem) as caught:
        Store.open(whole)
    assert (caught.value.file, caught.value.clip, caught.value.field) == (whole, clip, field)
    assert "prepare it again" in str(caught.value)


def test_extents_past_the_end_of_the_coordinates(
    make_clip: Callable[..., Clip], make_store: Callable[..., Store]
) -> None:
    """Frames and offsets agree with each other, but not with the buffer that they point into."""
    path = make_store([make_clip(frames=5)]).path
    rewrite(path, column("frames", [50]))
    content = path.read_bytes()
    offsets, longer = (np.array([0, frames * 20 * 3], np.int32).tobytes() for frames in (5, 50))
    before, found, after = content.rpartition(offsets)  # the header before them holds the same numbers
    assert found
    path.write_bytes(before + longer + after)
    with pytest.raises(InputError, match=r"damaged Arrow file .*3000"):
        Store.open(path)


@pytest.mark.parametrize("kept", [0, 5, 6, 100, 700, -1, -6])
def test_store_cut_short(whole: Path, kept: int) -> None:
    whole.write_bytes(whole.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"truncated|not an Arrow file|too small") as caught:
        Store.open(whole)
    assert caught.value.file == whole
    assert "prepare it again" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"PK\x03\x04 a zip file", "not an Arrow file"), (b"ARROW1 then ARROW1", "damaged")],
)
def test_foreign_file(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "x.arrow").write_bytes(content)
    with pytest.raises(InputError, match=problem):
        Store.open(tmp_path / "x.arrow")


def test_damage_in_the_middle_is_an_error_or_harmless(whole: Path) -> None:
    """Bytes overwritten anywhere: open refuses, or every clip can still be read with its shape."""
    content = whole.read_bytes()
    starts = range(8, len(content) - 8, 97)
    refused = 0
    for start in starts:
        whole.write_bytes(content[:start] + b"\xff" * 8 + content[start + 8 :])
        try:
            store = Store.open(whole)
        except InputError:
            refused += 1
        else:
            shapes = [store.keypoints(i).shape for i in range(len(store))]
            assert shapes == [(t, m, 20, 3) for t, m in zip(store.frames, store.persons, strict=True)]
    assert 0 < refused < len(starts)


def test_missing_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Store.open(tmp_path / "x.arrow")
    with pytest.raises(InputError, match="no such file"):
        Store.open(tmp_path)
    assert store_module.FORMAT_VERSION == 2
