"""BVH files: the parser against texts written here, the kinematics against matrices multiplied one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from mica.data.formats.own.bvh import Hierarchy, Motion, joint_positions, read_bvh
from mica.errors import InputError

ARM = """HIERARCHY
ROOT Hips
{
  OFFSET 0.0 0.0 0.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Upper
  {
    OFFSET 10.0 0.0 0.0
    CHANNELS 3 Zrotation Xrotation Yrotation
    JOINT Lower
    {
      OFFSET 5.0 0.0 0.0
      CHANNELS 3 Zrotation Xrotation Yrotation
      End Site
      {
        OFFSET 1.0 0.0 0.0
      }
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.0083333
0 100 0 0 0 0 90 0 0 0 0 0
1 2 3 90 0 0 0 0 90 0 0 0
"""


def write_bvh(hierarchy: Hierarchy, values: np.ndarray, frame_time: float = 0.02) -> str:
    """Write a BVH file the plain way; leaves get an end site."""

    def block(joint: int) -> str:
        children = [v for v, parent in enumerate(hierarchy.parents) if parent == joint != v]
        x, y, z = hierarchy.offsets[joint].tolist()
        channels = hierarchy.channels[joint]
        inner = "\n".join(f"JOINT {hierarchy.joints[child]}\n{block(child)}" for child in children)
        inner = inner or "End Site\n{\nOFFSET 0 1 0\n}"
        return f"{{\nOFFSET {x!r} {y!r} {z!r}\nCHANNELS {len(channels)} {' '.join(channels)}\n{inner}\n}}"

    rows = "\n".join(" ".join(map(repr, row)) for row in values.tolist())
    head = f"HIERARCHY\nROOT {hierarchy.joints[0]}\n{block(0)}\n"
    return f"{head}MOTION\nFrames: {len(values)}\nFrame Time: {frame_time}\n{rows}\n"


def rotation_4x4(axis: str, degrees: float) -> np.ndarray:
    """Rodrigues' formula: independent of how the code writes its matrices."""
    x, y, z = (float(axis == name) for name in "xyz")
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    out = np.eye(4)
    out[:3, :3] += math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return out


def positions_by_loops(motion: Motion) -> np.ndarray:
    """A joint at a time, a frame at a time: the product of all transformations from the root down."""
    hierarchy = motion.hierarchy
    out = np.empty((len(motion.values), len(hierarchy.joints), 3))
    for frame, row in enumerate(motion.values):
        column, worlds = 0, []
        for joint, parent in enumerate(hierarchy.parents):
            local, place = np.eye(4), hierarchy.offsets[joint].copy()
            for channel in hierarchy.channels[joint]:
                axis, kind = channel[0].lower(), channel[1:].lower()
                if kind == "position":
                    place["xyz".index(axis)] = row[column]
                else:
                    local = local @ rotation_4x4(axis, row[column])
                column += 1
            local[:3, 3] = place
            worlds.append(local if parent == joint else worlds[parent] @ local)
            out[frame, joint] = worlds[joint][:3, 3]
    return out


def random_motion(orders: Sequence[str], frames: int, seed: int = 0) -> Motion:
    """A random tree whose joints turn in the given orders; some shift, some do not move."""
    rng = np.random.default_rng(seed)
    joints = 9
    parents = (0, *(int(rng.integers(0, v)) for v in range(1, joints)))
    kinds = [
        *(tuple(f"{axis}rotation" for axis in order) for order in orders),
        ("yrotation", "xposition", "xrotation", "zposition"),
        ("yposition",),
        (),
    ]
    channels = [kinds[v % len(kinds)] for v in range(joints)]
    channels[0] = ("xposition", "yposition", "zposition", *channels[0])
    names = _depth_first(parents)
    order = {joint: place for place, joint in enumerate(names)}
    hierarchy = Hierarchy(
        joints=tuple(f"j{joint}" for joint in names),
        parents=tuple(order[parents[joint]] for joint in names),
        offsets=rng.normal(size=(joints, 3)) * 10,
        channels=tuple(channels[place] for place in range(joints)),
    )
    values = rng.uniform(-400, 400, size=(frames, sum(map(len, channels))))
    return Motion(hierarchy, 50.0, values)


def _depth_first(parents: Sequence[int], joint: int = 0) -> list[int]:
    children = [v for v, parent in enumerate(parents) if parent == joint != v]
    return [joint, *(v for child in children for v in _depth_first(parents, child))]


@pytest.mark.parametrize("order", ["".join(order) for order in itertools.permutations("xyz")])
@pytest.mark.parametrize("frames", [1, 4])
def test_positions_are_the_products_of_matrices(order: str, frames: int) -> None:
    motion = random_motion([order], frames, seed=frames)
    np.testing.assert_allclose(joint_positions(motion), positions_by_loops(motion), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_read_gives_back_what_was_written(seed: int) -> None:
    motion = random_motion(["zxy", "yxz", "xyz"], frames=3, seed=seed)
    read = read_bvh(write_bvh(motion.hierarchy, motion.values).encode(), "a.bvh")
    assert (read.hierarchy.joints, read.hierarchy.parents) == (
        motion.hierarchy.joints,
        motion.hierarchy.parents,
    )
    assert read.hierarchy.channels == motion.hierarchy.channels
    assert read.frame_rate == 50.0
    np.testing.assert_array_equal(read.hierarchy.offsets, motion.hierarchy.offsets)
    np.testing.assert_array_equal(read.values, motion.values)
    np.testing.assert_allclose(joint_positions(read), positions_by_loops(motion), rtol=0, atol=1e-10)


def test_poses_computed_by_hand() -> None:
    """Frame 0: the upper arm is bent up at a right angle. Frame 1: all lies along y, then the forearm turns to z."""
    positions = joint_positions(read_bvh(ARM.encode(), "arm.bvh"))
    np.testing.assert_allclose(positions[0], [[0, 100, 0], [10, 100, 0], [10, 105, 0]], atol=1e-12)
    # The root turns by 90 degrees about z: its x is the world's y. The upper arm turns by 90 degrees about y (its
    # third channel), which takes its x to -z.
    np.testing.assert_allclose(positions[1], [[1, 2, 3], [1, 12, 3], [1, 12, -2]], atol=1e-12)


def test_a_position_channel_takes_the_place_of_its_offset_on_that_axis() -> None:
    hierarchy = Hierarchy(
        ("a", "b"), (0, 0), np.array([[7.0, 8.0, 9.0], [1.0, 2.0, 3.0]]), (("yposition",), ("zposition",))
    )
    positions = joint_positions(Motion(hierarchy, 30.0, np.array([[100.0, -5.0]])))
    np.testing.assert_array_equal(positions, [[[7, 100, 9], [8, 102, 4]]])


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("  ", "\t").replace(" 0.0", "\t 0.0"),
        lambda text: text.replace("\n", " \n\n"),
        lambda text: text.replace("\n  {\n", " {\n").replace("\n{", "{"),
        lambda text: text.replace("{\n        OFFSET 1.0 0.0 0.0\n      }", "{ OFFSET 1.0 0.0 0.0}"),
        lambda text: (
            text.replace("CHANNELS", "Channels").replace("End Site", "END SITE").replace("ROOT", "Root")
        ),
        lambda text: text.replace("Zrotation", "ZROTATION").replace("Frames: 2", "frames:\t2 "),
        lambda text: text.replace("Frame Time:", "Frame  Time :"),
        lambda text: "\ufeff" + text,
        lambda text: text.rstrip("\n"),
    ],
)
def test_spaces_line_ends_and_capitals_do_not_matter(change: object) -> None:
    plain, changed = (read_bvh(text.encode(), "a.bvh") for text in (ARM, change(ARM)))  # type: ignore[operator]
    assert changed.hierarchy.joints == plain.hierarchy.joints == ("Hips", "Upper", "Lower")
    assert changed.hierarchy.channels == plain.hierarchy.channels
    np.testing.assert_array_equal(changed.values, plain.values)
    assert changed.frame_rate == plain.frame_rate == 120.0


def test_names_may_have_spaces_and_any_letters() -> None:
    text = ARM.replace("JOINT Upper", "JOINT Left Arm 上").replace("Lower", "mixamorig:Lower")
    assert read_bvh(text.encode(), "a.bvh").hierarchy.joints == ("Hips", "Left Arm 上", "mixamorig:Lower")


def line_of(text: str, piece: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), start=1) if piece in line)


def replaced(old: str, new: str, line: int | None, problem: str) -> tuple[str, int | None, str]:
    assert old in ARM
    return ARM.replace(old, new, 1), line, problem


ROW_1, ROW_2 = 24, 25
BAD = {
    "empty": ("", None, "no line MOTION"),
    "not BVH": ("\x00\x01\x02", None, "no line MOTION"),
    "cut in the hierarchy": (ARM[:150], None, "no line MOTION"),
    "no hierarchy": replaced("HIERARCHY", "ANARCHY", 1, "'ANARCHY' where HIERARCHY should be"),
    "nothing before": (ARM[ARM.index("MOTION") :], 1, "the hierarchy ends where HIERARCHY should be"),
    "no root": replaced("ROOT", "JOINT", 2, "'JOINT' where ROOT should be"),
    "a brace missing": replaced("}\nMOTION", "MOTION", 19, "the hierarchy ends where"),
    "a brace too much": replaced("}\nMOTION", "}\n}\nMOTION", 21, "'}' after the end"),
    "a brace not opened": replaced("ROOT Hips\n{", "ROOT Hips\n", 4, "'OFFSET' where '{' should be"),
    "two roots": replaced("}\nMOTION", "}\nROOT B\n{\n OFFSET 0 0 0\n}\nMOTION", 21, "'ROOT' after the end"),
    "a root within": replaced("JOINT Lower", "ROOT Lower", 10, "'ROOT' where a joint"),
    "no name": replaced("JOINT Upper", "JOINT", 6, "without a name"),
    "a name twice": replaced("Lower", "Upper", 10, "as that of line 6"),
    "no offset": replaced("    OFFSET 10.0 0.0 0.0\n", "", 18, "'Upper' has no OFFSET"),
    "offset twice": replaced("    OFFSET 10.0", "    OFFSET 1 1 1\n    OFFSET 10.0", 9, "'OFFSET' where"),
    "two numbers in an offset": replaced("OFFSET 10.0 0.0 0.0", "OFFSET 10.0 0.0", 9, "'CHANNELS' is not a finite"),
    "offset NaN": replaced("10.0", "nan", 8, "'nan' is not a finite number"),
    "offset infinite": replaced("10.0", "1e999", 8, "'1e999' is not a finite number"),
    "offset absurd": replaced("10.0", "1e300", 8, "'1e300' is not a finite number up to 1e+09"),
    "offset with underscore": replaced("10.0", "1_0", 8, "'1_0' is not a finite number"),
    "channels unknown": replaced("Xposition", "Wposition", 5, "'Wposition' is not known"),
    "channels twice": replaced("Xposition Y", "Yposition Y", 5, "'Yposition' came before"),
    "channels said twice": replaced("CHANNELS 6", "CHANNELS 0 CHANNELS 6", 5, "'CHANNELS' where"),
    "channels too few": replaced("CHANNELS 6", "CHANNELS 5", 5, "'Yrotation' where"),
    "channels too many": replaced("CHANNELS 6", "CHANNELS 7", 5, "'7' channels"),
    "channels absurd": replaced("CHANNELS 6", "CHANNELS 6000000000", 5, "expected 0 to 6"),
    "channels no number": replaced("CHANNELS 6", "CHANNELS six", 5, "'six' channels"),
    "end of something else": replaced("End Site", "End Sight", 14, "'Sight' where SITE should be"),
    "end site with a channel": replaced(
        "OFFSET 1.0 0.0 0.0", "OFFSET 1.0 0.0 0.0 CHANNELS 0", 16, "'CHANNELS' where }"
    ),
    "no frames line": replaced("Frames: 2\n", "", 22, "'Frame Time: 0.0083333' where 'Frames:' should be"),
    "no frame time": replaced("Frame Time: 0.0083333\n", "", 23, "where 'Frame Time:' should be"),
    "ends after MOTION": (ARM[: ARM.index("Frames")], None, "ends before 'Frames:'"),
    "ends after Frames": (ARM[: ARM.index("Frame Time")], None, "ends before 'Frame Time:'"),
    "a row missing": (ARM[: ARM.index("1 2 3 90")], 22, "2 frames are announced, 1 lines"),
    "a row too much": (ARM + "0 100 0 0 0 0 90 0 0 0 0 0\n", 22, "2 frames are announced, 3 lines"),
    "frames absurd": replaced("Frames: 2", "Frames: 999999999", 22, "2 lines of values follow"),
    "frames negative": replaced("Frames: 2", "Frames: -2", 22, "2 lines of values follow"),
    "frames no number": replaced("Frames: 2", "Frames: two", 22, "'two' is not a finite number"),
    "frames none": (ARM[: ARM.index("0 100 0")].replace("Frames: 2", "Frames: 0"), None, "no frames"),
    "frame time zero": replaced("0.0083333", "0.0", 23, "a frame of 0 seconds"),
    "frame time negative": replaced("0.0083333", "-0.01", 23, "a frame of -0.01 seconds"),
    "frame time NaN": replaced("0.0083333", "NaN", 23, "'NaN' is not a finite number"),
    "a value missing": replaced("0 100 0 0 0 0 90", "0 100 0 0 0 90", ROW_1, "11 values, the hierarchy has 12"),
    "a value too much": replaced("1 2 3 90", "1 2 2 3 90", ROW_2, "13 values"),
    "a value NaN": replaced("1 2 3 90", "1 nan 3 90", ROW_2, "'nan' is not a finite number"),
    "a value infinite": replaced("1 2 3 90", "1 -inf 3 90", ROW_2, "'-inf' is not a finite number"),
    "a value absurd": replaced("1 2 3 90", "1 -1e10 3 90", ROW_2, "'-1e10' is not a finite number up to"),
    "a value with underscore": replaced("1 2 3 90", "1 2 3 9_0", ROW_2, "'9_0' is not a finite number"),
    "a value with a comma": replaced("0 100 0", "0 100,5 0", ROW_1, "'100,5' is not a finite number"),
    "a brace in a row": replaced("1 2 3 90", "1 } 3 90", ROW_2, "'}' is not a finite number"),
    "no channels": (
        "HIERARCHY\nROOT a\n{\nOFFSET 0 0 0\n}\nMOTION\nFrames: 1\nFrame Time: 0.1\n5", None, "no joint has a channel"
    ),
    "too many joints": (
        "HIERARCHY\nROOT a\n{\n" + "".join(f"JOINT j{v}\n{{\n" for v in range(500)) + "MOTION", 802, "400 joints"
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", BAD)
def test_bad_file(wrong: str) -> None:
    text, line, problem = BAD[wrong]
    with pytest.raises(InputError) as caught:
        read_bvh(text.encode(), "folder/a.bvh")
    message = str(caught.value)
    assert message.startswith("folder/a.bvh: " if line is None else f"folder/a.bvh: line {line}: "), message
    assert problem in message
    assert "hint:" in message or line is None


def test_text_that_is_not_utf_8() -> None:
    with pytest.raises(InputError, match="line 10: not UTF-8"):
        read_bvh(ARM.encode().replace(b"Lower", b"Unt\xe4n"), "a.bvh")


def test_frames_times_joints_are_bounded() -> None:
    """A thousand joints' worth of nothing must not become gigabytes."""
    joints = "".join(f"JOINT j{v}\n{{\nOFFSET 0 0 0\n}}\n" for v in range(398))
    head = f"HIERARCHY\nROOT a\n{{\nOFFSET 0 0 0\nCHANNELS 1 Xposition\n{joints}}}\n"
    text = f"{head}MOTION\nFrames: 20000\nFrame Time: 0.1\n" + "1\n" * 20000
    with pytest.raises(InputError, match="20,000 frames x 1 persons x 399 joints are too many"):
        read_bvh(text.encode(), "a.bvh")
