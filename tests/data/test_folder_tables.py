"""One's own recordings as tables of joints: against arrays of the same coordinates, every fault with its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica.data.formats.own.array_file import read_array_file
from mica.data.formats.own.coordinates import mark_unseen
from mica.data.formats.own.joint_table import read_joint_table

from .folders import COCO, KINECT, body, npy, one, outcomes, refused


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
    make_folder: Callable[..., Path], write: Callable[..., str], names: tuple[str, ...] | None, frames: int
) -> None:
    x = body(frames=frames, persons=2 if write is line_a_joint else 1)
    clip = one(make_folder("file,label\na.csv,x\n", {"a.csv": write(x, names)}))
    np.testing.assert_array_equal(clip.keypoints, x.astype(np.float32))
    x[0, 0, 3, 2] = np.nan
    if frames > 1:
        (outcome,) = outcomes(make_folder("file,label\na.csv,x\n", {"a.csv": write(x, names)}))
        assert outcome.cleaned == ("missing joints interpolated",)
        np.testing.assert_array_equal(outcome.clip.keypoints[0, 0, 3], x[1, 0, 3].astype(np.float32))


def test_lines_in_any_order_frames_from_any_number_and_gaps(make_folder: Callable[..., Path]) -> None:
    x = body(frames=5)
    lines = line_a_joint(x, None, first=-2).split("\n")
    kept = [line for line in lines[1:] if line.split(",")[2] != "1"]  # frame 3 of x saw nobody
    shuffled = [kept[0], *np.random.default_rng(0).permutation(kept[1:])]
    clip = one(make_folder("file,label\na.csv,x\n", {"a.csv": "\n".join([lines[0], *shuffled])}))
    x[3] = 0
    np.testing.assert_array_equal(clip.keypoints, x.astype(np.float32))


def test_a_line_a_frame_with_frames_and_persons(make_folder: Callable[..., Path]) -> None:
    x = body(COCO, frames=3, persons=2)[..., :2] * 300
    head = ["frame", "person", *(f"{axis}{v}" for v in range(17) for axis in ("x", "y", "confidence"))]
    sure = np.concatenate([x, np.ones_like(x[..., :1])], axis=-1)
    sure[1, 1, 4, 2] = 0
    rows = [[t, "ba"[m], *sure[t, m].ravel()] for t in range(3) for m in range(2) if (t, m) != (2, 0)]
    text = "\n".join("\t".join(map(str, row)) for row in [head, *rows])
    x[2, 0] = np.nan
    x[1, 1, 4] = np.nan
    options = {"layout": "coco-17", "units": "pixels"}
    expected = one(make_folder("file,label\na.npy,x\n", {"a.npy": x}), **options)
    clip = one(make_folder("file,label\na.csv,x\n", {"a.csv": text}), **options)
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
def test_bad_table_of_joints(make_folder: Callable[..., Path], wrong: str) -> None:
    text, problem = BAD_JOINTS[wrong]
    message = refused(make_folder("file,label\na.csv,x\n", {"a.csv": text}))
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
