"""Clips from single files: the same coordinates as `mica prepare` gives, on the model's joints, or a refusal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from benchmarks.raw_files import make_ntu, ntu_text
from mica.data.convert import convert
from mica.data.formats import prepare
from mica.data.store import Store
from mica.errors import InputError
from mica.inference.clips import SUFFIXES, Reading, read_clip
from mica.skeleton import get_layout, layout_from_dict
from tests.data.folders import body, npy, npz

KINECT, NTU, COCO = get_layout("kinect-20"), get_layout("ntu-25"), get_layout("coco-17")
ARM = """HIERARCHY
ROOT Hips
{
OFFSET 0 0 0
CHANNELS 3 Xposition Yposition Zposition
JOINT Spine
{
OFFSET 0 50 0
CHANNELS 1 Yrotation
JOINT LeftArm
{
OFFSET 20 0 0
CHANNELS 0
}
JOINT RightArm
{
OFFSET -20 0 0
CHANNELS 0
}
}
JOINT LeftUpLeg
{
OFFSET 10 -5 0
CHANNELS 0
}
JOINT RightUpLeg
{
OFFSET -10 -5 0
CHANNELS 0
}
}
MOTION
Frames: 3
Frame Time: 0.04
0 90 0 0
1 90 0 30
2 90 0 60
"""


def table(clip: np.ndarray) -> bytes:
    """A line a joint, the first joint of the second frame not seen."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["frame", "person", "joint", "x", "y", "z"])
    for (frame, person, joint), place in ((at, clip[at]) for at in np.ndindex(clip.shape[:3])):
        writer.writerow([frame, person, joint, *(("", "", "") if (frame, joint) == (1, 0) else place)])
    return stream.getvalue().encode()


def gone(clip: np.ndarray) -> np.ndarray:
    """The second body is absent at first, a third one always."""
    clip = clip.copy()
    clip[:2, 1], clip[:, 2] = np.nan, 0
    return clip


OWN: dict[str, tuple[str, bytes, dict[str, Any]]] = {
    "one body": ("a.npy", npy(body()[:, 0]), {}),
    "several": ("a.NPZ", npz(keypoints=gone(body(persons=3))), {}),
    "one frame": ("a.npy", npy(body(frames=1)), {}),
    "table": ("a.csv", table(body()), {}),
    "lying": ("a.npy", npy(body() * 1000), {"units": "millimetres", "up": "z"}),
    "pixels": (
        "a.npy",
        npy(body(COCO) * 300),
        {"units": "pixels", "dimensions": 2, "layout": "coco-17"},
    ),
}


@pytest.mark.parametrize("kind", OWN)
def test_own_files_as_prepared(tmp_path: Path, kind: str) -> None:
    name, content, how = OWN[kind]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "clips.csv").write_text(f"file,label\n{name},wave\n")
    settings = {"layout": "kinect-20", **how}
    prepare("folder", tmp_path, tmp_path / "out.arrow", progress=False, frame_rate=30.0, **settings)
    layout = get_layout(settings.pop("layout"))
    found = read_clip(tmp_path / name, layout, Reading(**settings))
    np.testing.assert_array_equal(found, Store.open(tmp_path / "out.arrow").keypoints(0))
    assert found.dtype == np.float32


def test_motion_as_prepared_on_its_own_joints(tmp_path: Path) -> None:
    (tmp_path / "walk.bvh").write_text(ARM)
    (tmp_path / "clips.csv").write_text("file,label\nwalk.bvh,walk\n")
    prepare("folder", tmp_path, tmp_path / "out.arrow", progress=False, units="centimetres", name="mine")
    store = Store.open(tmp_path / "out.arrow")
    found = read_clip(tmp_path / "walk.bvh", store.layout, Reading(units="centimetres"))
    np.testing.assert_array_equal(found, store.keypoints(0))
    with pytest.raises(InputError, match="cannot become 'kinect-20'"):
        read_clip(tmp_path / "walk.bvh", KINECT, Reading(units="centimetres"))


@pytest.mark.parametrize("kind", ["one", "two", "crowd", "gaps"])
def test_ntu_as_prepared(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    file = tmp_path / "S001C002P003R002A013.skeleton"
    file.write_bytes(ntu_text(make_ntu(kind, rng, frames=30), rng))
    prepare("ntu60", tmp_path, tmp_path / "out.arrow", progress=False)
    expected = Store.open(tmp_path / "out.arrow").keypoints(0)
    np.testing.assert_array_equal(read_clip(file, NTU), expected)
    renamed = file.rename(tmp_path / "wave.skeleton")
    np.testing.assert_array_equal(read_clip(renamed, NTU), expected)


def test_releases_as_prepared(tmp_path: Path) -> None:
    clip = body(seed=3).astype(np.float32)
    content = {"file_name": "a01_s01_e00_v01", "skeletons": clip[:, 0].tolist(), "label": 1}
    (tmp_path / "a01_s01_e00_v01.json").write_text(json.dumps(content))
    savemat(tmp_path / "a1_s1_t1_skeleton.mat", {"d_skel": body(seed=4)[:, 0].transpose(1, 2, 0)})
    for dataset, name in (("nw-ucla", "a01_s01_e00_v01.json"), ("utd-mhad", "a1_s1_t1_skeleton.mat")):
        prepare(dataset, tmp_path, tmp_path / "out.arrow", progress=False, overwrite=True)
        expected = Store.open(tmp_path / "out.arrow").keypoints(0)
        np.testing.assert_array_equal(read_clip(tmp_path / name, KINECT), expected)
        renamed = (tmp_path / name).rename(tmp_path / f"mine{Path(name).suffix}")
        np.testing.assert_array_equal(read_clip(renamed, KINECT), expected)


def test_a_recording_needs_no_label(tmp_path: Path) -> None:
    clip = body(frames=1).astype(np.float32)
    (tmp_path / "mine.json").write_text(json.dumps({"skeletons": clip[:, 0].tolist()}))
    np.testing.assert_array_equal(read_clip(tmp_path / "mine.json", KINECT), clip)


@pytest.mark.parametrize("target", ["ntu-25", "coco-17"])
def test_mapped_as_converted(tmp_path: Path, target: str) -> None:
    np.save(tmp_path / "a.npy", body(persons=2))
    (tmp_path / "clips.csv").write_text("file,label\na.npy,wave\n")
    raw = tmp_path / "raw.arrow"
    prepare("folder", tmp_path, raw, progress=False, layout="kinect-20", frame_rate=30.0)
    expected = Store.open(convert(Store.open(raw), target, tmp_path / "to.arrow").path).keypoints(0)
    found = read_clip(tmp_path / "a.npy", get_layout(target), Reading(layout=KINECT))
    np.testing.assert_array_equal(found, expected)


def test_a_layout_of_ones_own(tmp_path: Path) -> None:
    joints = ["pelvis", "chest", "l_arm", "r_arm", "l_hip", "r_hip"]
    described = {"name": "six", "joints": joints, "parents": [-1, 0, 1, 1, "pelvis", "pelvis"]}
    layout = layout_from_dict(described)
    places = [[0, 0, 0], [0, 0.5, 0], [0.2, 0.5, 0], [-0.2, 0.5, 0], [0.1, 0, 0], [-0.1, 0, 0]]
    clip = np.array(places, np.float32)
    np.save(tmp_path / "a.npy", clip[None])
    np.testing.assert_array_equal(read_clip(tmp_path / "a.npy", layout), clip[None, None])


def write(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def a_folder(folder: Path) -> Path:
    (folder / "a.npy").mkdir()
    return folder / "a.npy"


REFUSED: dict[str, tuple[Callable[[Path], Path], Reading, str]] = {
    "kind": (write("a.txt", b""), Reading(), f"end in {', '.join(SUFFIXES)}"),
    "no ending": (write("clip", b""), Reading(), "of no kind that can be read"),
    "missing": (lambda folder: folder / "a.npy", Reading(), "No such file"),
    "folder": (a_folder, Reading(), "Is a directory"),
    "joints": (write("a.npy", npy(body(NTU))), Reading(), "25 joints, layout kinect-20 has 20.*ntu-25"),
    "unlike": (write("a.npy", npy(body())), Reading(layout=NTU), "20 joints, layout ntu-25 has 25"),
    "units": (write("a.npy", npy(body())), Reading(units="millimetres"), "are these millimetres"),
    "no units": (write("a.npy", npy(body())), Reading(units="feet"), "unknown units 'feet'"),
    "up": (write("a.npy", npy(body())), Reading(up="x"), "no axis that may point up"),
    "dimensions": (write("a.npy", npy(body())), Reading(dimensions=4), "expected 2 or 3"),
    "nobody": (write("a.npy", npy(np.zeros((4, 20, 3)))), Reading(), "no body in any frame"),
    "nobody there": (write("a.skeleton", b"1\n0\n"), Reading(), "no body in any frame"),
    "empty": (write("a.csv", b""), Reading(), "the file is empty"),
    "damaged": (write("a.npz", npz(keypoints=body())[:-30]), Reading(), "perhaps truncated"),
    "other joints": (write("a.json", b'{"skeletons": [[[1, 2, 3]]]}'), Reading(), "1 joints, layout kinect-20"),
    "no clip": (write("a.json", b"{}"), Reading(), "key missing"),
    "not finite": (
        write("a.json", b'{"skeletons": [[' + b"[NaN, 0, 1]," * 19 + b"[0, 0, 1]]]}"),
        Reading(),
        "not finite",
    ),
    "settings": (write("a.skeleton", b"1\n0\n"), Reading(units="millimetres"), "leave out"),
    "other layout": (write("a.mat", b""), Reading(layout=NTU), "on the joints kinect-20"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_name_the_file(tmp_path: Path, kind: str) -> None:
    make, how, problem = REFUSED[kind]
    file = make(tmp_path)
    with pytest.raises(InputError, match=f"(?s){problem}") as caught:
        read_clip(file, KINECT, how)
    about_settings = kind in ("no units", "up", "dimensions")
    assert about_settings or str(caught.value.file) == str(file)


def test_a_layout_that_is_the_files_own_may_be_said(tmp_path: Path) -> None:
    clip = body().astype(np.float32)
    (tmp_path / "a.json").write_text(json.dumps({"skeletons": clip[:, 0].tolist()}))
    np.testing.assert_array_equal(read_clip(tmp_path / "a.json", KINECT, Reading(layout=KINECT)), clip)
