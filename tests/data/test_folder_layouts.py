"""One's own recordings: layouts from files and from BVH."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mica.data.preparation import prepare_found
from mica.data.recordings import open_source
from mica.errors import InputError
from mica.skeleton import layout_from_dict, layout_to_dict, map_layout

from .folders import COCO, KINECT, body, find_in, hanging_bvh, one, outcomes, refused


def test_bvh_says_its_layout_and_rate(make_folder: Callable[..., Path]) -> None:
    root = make_folder("file,label\na.bvh,x\nb.BVH,x\n", {"a.bvh": hanging_bvh(), "b.BVH": hanging_bvh(5)})
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


def test_bvh_files_of_one_set_agree(make_folder: Callable[..., Path]) -> None:
    table = "file,label\na.bvh,x\nb.bvh,x\n"
    other = hanging_bvh(names="Hips Chest LeftArm RightArm LeftUpLeg RightUpLeg")
    options = {"layout": None, "frame_rate": None, "units": "centimetres"}
    message = refused(make_folder(table, {"a.bvh": hanging_bvh(), "b.bvh": other}), **options)
    assert re.search(r"mine/b\.bvh: not the joints of a\.bvh", message)
    message = refused(
        make_folder(table, {"a.bvh": hanging_bvh(), "b.bvh": hanging_bvh(frame_time=0.05)}), **options
    )
    assert "b.bvh: 20 frames a second, the data set has 25" in message
    files = {"a.bvh": hanging_bvh(), "b.bvh": hanging_bvh(frame_time=0.0401)}
    assert len(outcomes(make_folder(table, files), **options)) == 2
    assert "a.bvh: 25 frames a second, the data set has 30" in refused(
        make_folder(table, files), **{**options, "frame_rate": 30}
    )
    nameless = hanging_bvh(names="a b c d e f")
    assert "mine/a.bvh: field 'landmarks'" in refused(
        make_folder(table, {"a.bvh": nameless, "b.bvh": nameless}), **options
    )
    assert "a.bvh: line 1: 'x'" in refused(
        make_folder(table, {"a.bvh": "x\nMOTION", "b.bvh": other}), **options
    )


def test_a_damaged_first_bvh_does_not_stop_the_others(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    files = {"a.bvh": "junk", "b.bvh": hanging_bvh(), "c.bvh": hanging_bvh()}
    root = make_folder("file,label\n" + "".join(f"{name},x\n" for name in files), files)
    source = open_source(root)
    found = find_in(root, layout=None, frame_rate=None, units="centimetres", name="mine")
    assert (found.info.layout, found.info.frame_rate) == ("mine-bvh", 25)
    how = {"processes": 1, "progress": False}
    with pytest.raises(InputError) as caught:
        prepare_found(found, source, tmp_path / "x.arrow", **how)
    assert caught.value.file == str(root / "a.bvh")
    assert prepare_found(found, source, tmp_path / "x.arrow", skip_broken=True, **how).clips == 2
    for name in files:
        (root / name).write_text("junk")
    find_in(root)  # layout and rate are given: what the files say of them does not matter
    assert "a.bvh" in refused(root, layout=None, frame_rate=None)


def test_a_layout_chooses_joints_of_a_bvh_by_name(make_folder: Callable[..., Path], tmp_path: Path) -> None:
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
    root = make_folder("file,label\na.bvh,x\n", {"a.bvh": hanging_bvh()})
    clip = one(root, layout=tmp_path / "five.json", units="centimetres", frame_rate=None)
    np.testing.assert_allclose(clip.keypoints[0, 0, :2], [[0, 1.4, 0], [0.2, 1.4, 0]], atol=1e-6)
    assert find_in(root, layout=tmp_path / "five.json").info.own_layout == layout_to_dict(
        layout_from_dict(described)
    )
    message = refused(root, layout="kinect-20", frame_rate=None, units="centimetres")
    assert "a.bvh: no joint 'hip centre', which layout kinect-20 has\n  hint: give no layout" in message


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_layout_files(make_folder: Callable[..., Path], tmp_path: Path, suffix: str) -> None:
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
    root = make_folder("file,label\na.npy,x\n", {"a.npy": body()})
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
    make_folder: Callable[..., Path], tmp_path: Path, name: str, content: str | bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    path = tmp_path / name if "." in name else name
    assert problem in refused(make_folder("file,label\na.npy,x\n", {"a.npy": body()}), layout=path)


def test_to_layout(make_folder: Callable[..., Path]) -> None:
    x = body(COCO, persons=2)
    x[0, 0] = np.nan
    root = make_folder("file,label\na.npy,x\n", {"a.npy": x})
    found = find_in(root, layout="coco-17", to_layout="kinect-20")
    assert (found.info.layout, found.info.own_layout) == ("kinect-20", None)
    clip = one(root, layout="coco-17", to_layout="kinect-20")
    expected = map_layout(COCO, KINECT).apply(np.nan_to_num(x).astype(np.float32))
    np.testing.assert_array_equal(clip.keypoints, expected)
    assert not clip.keypoints[0, 0].any()
    assert "unknown skeleton layout 'kinect'" in refused(root, layout="coco-17", to_layout="kinect")
