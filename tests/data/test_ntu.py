"""NTU RGB+D from its text to clips, against what is known of files that were made up, and against slow definitions."""

from __future__ import annotations

import pickle
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.raw_files import NtuClip, make_ntu, ntu_text, write_ntu
from benchmarks.raw_ntu import KINDS
from mica.data.class_names import CLASS_NAMES
from mica.data.formats import ntu
from mica.data.formats import ntu_text as ntu_text_module
from mica.data.formats.ntu_bodies import CROWD, SHORT, WIDE, arrange, choose_bodies, motion
from mica.data.formats.ntu_text import Skeletons, Track, parse, parse_by_line
from mica.data.outcome import Outcome
from mica.data.recordings import Source, open_source
from mica.errors import InputError

ID = 72057594037931101  # its neighbours are the same number as a float


def text_of(frames: list[list[int]], end: str = "\n") -> str:
    """Frames of bodies by ID, with coordinates that count up."""
    lines, value = [str(len(frames))], 0
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body in bodies:
            lines += [f"{body} 0 1 1 1 1 0 -0.02 0.05 2", "25"]
            for _ in range(25):
                lines.append(
                    f"{value + 0.25} {value + 0.5} {value + 0.75} 277.4 191.8 1036.2 519.1 -0.2 0.05 0.9 -0.1 2"
                )
                value += 1
    return end.join([*lines, ""])


SMALL = text_of([[ID], [], [ID + 1, ID]])


def same(one: Skeletons, other: Skeletons) -> bool:
    return one.num_frames == other.num_frames and all(
        a.body == b.body and np.array_equal(a.frames, b.frames) and np.array_equal(a.joints, b.joints)
        for a, b in zip(one.tracks, other.tracks, strict=True)
    )


@pytest.mark.parametrize("read", [parse, parse_by_line])
def test_small_text(read: Callable[[bytes, str], Skeletons]) -> None:
    skeletons = read(SMALL.encode(), "x")
    first, second = skeletons.tracks
    assert (skeletons.num_frames, first.body, second.body) == (3, ID, ID + 1)
    assert (first.frames.tolist(), second.frames.tolist()) == ([0, 2], [2])
    assert first.joints.dtype == np.float32
    assert first.joints.shape == (2, 25, 3)
    assert first.joints[0, :2].tolist() == [[0.25, 0.5, 0.75], [1.25, 1.5, 1.75]]
    assert first.joints[1, 24].tolist() == [74.25, 74.5, 74.75]
    assert second.joints[0, 0].tolist() == [25.25, 25.5, 25.75]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [parse, parse_by_line])
def test_made_up_files_are_read_as_they_were_made(
    kind: str, end: str, read: Callable[[bytes, str], Skeletons]
) -> None:
    rng = np.random.default_rng(len(kind))
    digits = 6 + len(kind) % 4
    truth = make_ntu(kind, rng, 30, digits)
    skeletons = read(ntu_text(truth, rng, digits, end), "x")
    assert skeletons.num_frames == truth.num_frames
    assert {track.body for track in skeletons.tracks} == set(truth.tracks)
    for track in skeletons.tracks:
        frames, joints = truth.tracks[track.body]
        np.testing.assert_array_equal(track.frames, frames)
        np.testing.assert_array_equal(track.joints, joints.astype(np.float32))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "nobody"])
def test_usual_files_are_read_at_once(kind: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    text = ntu_text(make_ntu(kind, rng, 30), rng, end=end)
    monkeypatch.setattr(ntu_text_module, "parse_by_line", lambda *_: pytest.fail("read line by line"))
    for usual in (text, text.rstrip(), text.replace(b" ", b"  ")):
        assert parse(usual, "x").tracks


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r\n").removesuffix("\n"),
        lambda text: text + "\n \r\n\t\n",
        lambda text: text.removesuffix("\n"),
        lambda text: text.replace("\n", " \n"),
        lambda text: "\t" + text.replace("\n", "\n  ").rstrip(" "),
        lambda text: text.replace(" ", " \t "),
        lambda text: text.replace(" 277.4", " -1.#IND").replace(" 0.9", " NaN").replace("519.1", "-Infinity"),
        lambda text: text.replace("0.25 ", "0.25E0 ").replace(" 0.5 ", " +.5 ").replace("1.25 ", "12.50e-1 "),
    ],
)
@pytest.mark.parametrize("read", [parse, parse_by_line])
def test_what_does_not_matter(change: Callable[[str], str], read: Callable[[bytes, str], Skeletons]) -> None:
    assert same(read(change(SMALL).encode(), "x"), parse(SMALL.encode(), "x"))


def line(number: int, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.split("\n")
        lines[number - 1] = new
        return "\n".join(lines)

    return change


def field(number: int, position: int, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        lines = text.split("\n")
        fields = lines[number - 1].split()
        fields[position] = new
        lines[number - 1] = " ".join(fields)
        return "\n".join(lines)

    return change


# (what is wrong, the change, the line, what is said); frame 1 is lines 2 to 29, 2 is 30, 3 is 31 to 85
BAD: list[tuple[str, Callable[[str], str], int | None, str]] = [
    ("empty", lambda text: "", None, "empty file"),
    ("blank", lambda text: " \n\r\n", None, "empty file"),
    ("leading line", lambda text: "\n" + text, 1, "nothing, expected the number of frames"),
    ("no count", line(1, "frames: 3"), 1, "'frames: 3', expected the number of frames"),
    ("-1 frames", line(1, "-1"), 1, "'-1', expected the number of frames"),
    ("2^31 frames", line(1, "2147483648"), 1, "'2147483648', expected the number of frames"),
    ("too many frames", line(1, "100001"), 1, "100,001 frames, expected at most 100,000"),
    ("a frame more", line(1, "4"), 85, "the file ends here, before the number of bodies in frame 4 of 4"),
    ("a frame less", line(1, "2"), 31, "the file goes on after the last frame"),
    ("1e9 bodies", line(2, "1e9"), 2, "'1e9', expected the number of bodies in frame 1 of 3"),
    ("a digit group", line(2, "1_0"), 2, "'1_0', expected"),
    ("a billion bodies", line(31, "999999999"), 85, "the file ends here, before a body of frame 3 of 3"),
    ("-1 bodies", line(30, "-1"), 30, "'-1', expected the number of bodies in frame 2"),
    ("a body less", line(31, "1"), 59, "the file goes on after the last frame"),
    ("a body more", line(2, "2"), 30, "1 fields, expected the 10 of a body in frame 1"),
    ("9 fields of a body", line(3, f"{ID} 0 1 1 1 1 0 0 0"), 3, "9 fields, expected the 10 of a body in frame 1"),
    ("a float as ID", field(3, 0, "7.2e16"), 3, "'7.2e16', expected the ID of a body in frame 1"),
    ("24 joints", line(4, "24"), 4, "'24', expected 25, the number of joints"),
    ("a joint lost", lambda text: line(10, "")(text).replace("\n\n", "\n"), 29, "1 fields, expected the 12 of"),
    ("an empty line", line(10, ""), 10, "0 fields, expected the 12 of joint 6 of body"),
    ("11 fields", line(85, "1 2 3 4 5 6 7 8 9 10 11"), 85, "11 fields, expected the 12 of joint 25"),
    ("13 fields", line(5, "1 2 3 4 5 6 7 8 9 10 11 12 13"), 5, "13 fields, expected the 12 of joint 1"),
    ("NaN", field(5, 2, "NaN"), 5, "z is 'NaN', expected a finite number for joint 1 of body"),
    ("infinite", field(6, 0, "-inf"), 6, "x is '-inf'"),
    ("of Windows", field(7, 1, "-1.#IND"), 7, "y is '-1.#IND'"),
    ("too large", field(7, 1, "1e39"), 7, "y is '1e39'"),
    ("far too large", field(7, 1, "1e999"), 7, "y is '1e999'"),
    ("two points", field(7, 1, "1.2.3"), 7, "y is '1.2.3'"),
    ("a comma", field(7, 1, "1,5"), 7, "y is '1,5'"),
    ("hexadecimal", field(7, 1, "0x10"), 7, "y is '0x10'"),
    ("an exponent cut", field(7, 1, "1e"), 7, "y is '1e'"),
    ("numbers grown together", field(7, 1, "1-2"), 7, "y is '1-2'"),
    ("twice in a frame", field(59, 0, str(ID + 1)), 59, f"body {ID + 1} is a second time in frame 3 of 3"),
    ("text after the end", lambda text: text + "1\n", 86, "the file goes on after the last frame"),
    ("a zero byte", field(40, 7, "0\0"), 40, "byte 0x00, expected plain text"),
    ("a letter", field(40, 7, "ä"), 40, "byte 0xc3, expected plain text"),
    ("of old Macs", lambda text: text.replace("\n", "\r"), 1, "byte 0x0d, expected plain text"),
    ("a return in a line", lambda text: text.replace(" 191.8", "\r191.8", 1), 5, "byte 0x0d, expected plain text"),
    ("an hour and a frame", lambda text: "100001\n" + 99998 * "0\n" + text[2:], 1, "100,001 frames, expected at most"),
    ("a form feed", field(41, 3, "1\f"), 41, "byte 0x0c, expected plain text"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "where", "problem"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_bad_text(change: Callable[[str], str], where: int | None, problem: str) -> None:
    for read in (parse, parse_by_line):
        with pytest.raises(InputError) as caught:
            read(change(SMALL).encode(), "folder/x.skeleton")
        message = str(caught.value)
        assert message.startswith("folder/x.skeleton: " + (f"line {where}: " if where else ""))
        assert problem in message


def test_binary_junk_is_refused() -> None:
    for junk in (b"\x00", b"\xff\xfe3\x000\x00", bytes(range(256)), b"PK\x03\x04" + SMALL.encode()):
        with pytest.raises(InputError, match=r"x: line \d+: "):
            parse(junk, "x")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_no_cut_goes_unnoticed_that_loses_a_coordinate(end: str) -> None:
    text = text_of([[], [ID]], end).encode()
    whole = parse(text, "x")
    for kept in range(len(text)):
        try:
            cut = parse(text[:kept], "x")
        except InputError:
            continue
        assert same(cut, whole)
        assert kept >= len(text) - len(end)


def test_counts_gone_wrong_claim_no_memory() -> None:
    tracemalloc.start()
    for text in (b"99999\n0\n", b"1\n999999999\n", b"99999\n" + 50 * b"0\n"):
        with pytest.raises(InputError):
            parse(text, "x")
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def kept_slowly(tracks: list[Track]) -> tuple[list[int], list[str]]:
    """The rules of CTR-GCN, one number after another; IDs kept, and kinds of what was dropped."""

    def variance(points: list[list[float]]) -> float:
        total = 0.0
        for axis in range(3):
            values = [point[axis] for point in points]
            mean = sum(values) / len(values)
            total += sum((value - mean) ** 2 for value in values) / len(values)
        return total

    bodies = {}
    for track in tracks:
        frames = track.joints.astype(float).tolist()
        steady = []
        for points in frames:
            x, y = [point[0] for point in points], [point[1] for point in points]
            if max(x) - min(x) <= 0.8 * (max(y) - min(y)):
                steady.append(points)
        motion = variance([point for points in frames for point in points])
        if 0 < len(steady) < len(frames):
            motion = min(motion, variance([point for points in steady for point in points]))
        bodies[track.body] = (len(frames), 1 - len(steady) / len(frames), motion)
    kinds = []
    for kind, bad in ((SHORT, lambda body: body[0] <= 11), (WIDE, lambda body: body[1] > 0.69754)):
        if len(bodies) > 1:
            good = {name: body for name, body in bodies.items() if not bad(body)}
            if not good:
                best = max(bodies, key=lambda name: bodies[name][2])
                good = {best: bodies[best]}
            kinds += [kind] * (len(good) < len(bodies))
            bodies = good
    ranked = sorted(bodies, key=lambda name: -bodies[name][2])
    return ranked[:2], kinds + [CROWD] * (len(ranked) > 2)


def make_track(
    body: int, frames: int, wide_share: float, size: float, rng: np.random.Generator, width: float = 5
) -> Track:
    """A cloud of joints, in some frames as many times wider as `width` says; about 3 is the limit."""
    joints = size * rng.normal(size=(frames, 25, 3)) * (0.3, 1.0, 0.3)
    joints[rng.random(frames) < wide_share] *= (width, rng.choice([0.7, 1.4]), 1)
    return Track(body, np.arange(frames), joints.astype(np.float32))


bodies = st.tuples(
    st.sampled_from([1, 5, 11, 12, 13, 30]), st.sampled_from([0, 0.3, 0.7, 1]), st.floats(0.5, 2)
)


@settings(max_examples=100, deadline=None)
@given(st.lists(bodies, min_size=1, max_size=6), st.integers(0, 2**32))
def test_the_choice_of_bodies_is_the_slow_one(shapes: list[tuple[int, float, float]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    tracks = [make_track(body, *shape, rng, rng.uniform(2, 5)) for body, shape in enumerate(shapes)]
    kept, cleaned = choose_bodies(tracks)
    expected, kinds = kept_slowly(tracks)
    assert [track.body for track in kept] == expected
    assert list(cleaned) == kinds


def test_a_body_alone_is_kept_and_all_noise_leaves_the_most_moving() -> None:
    rng = np.random.default_rng(0)
    for frames, share in ((1, 0), (11, 0), (12, 1)):
        track = make_track(1, frames, share, 1, rng)
        assert choose_bodies([track]) == ([track], ())
    calm, lively = make_track(1, 11, 0, 0.5, rng), make_track(2, 3, 0, 2, rng)
    kept, cleaned = choose_bodies([calm, lively])
    assert ([track.body for track in kept], cleaned) == ([2], (SHORT,))
    calm, lively = make_track(1, 20, 1, 0.5, rng), make_track(2, 20, 1, 2, rng)
    kept, cleaned = choose_bodies([calm, lively])
    assert ([track.body for track in kept], cleaned) == ([2], (WIDE,))


def test_motion_of_two_points() -> None:
    joints = np.zeros((2, 25, 3), np.float32)
    joints[1] = (1, 2, 2)  # both frames no wider than high: each is a point
    assert motion(Track(1, np.arange(2), joints)) == pytest.approx(0.25 + 1 + 1)


def test_bodies_are_zero_where_they_are_not() -> None:
    track = Track(1, np.array([0, 3]), np.ones((2, 25, 3), np.float32))
    keypoints = arrange(5, [track, Track(2, np.array([4]), np.full((1, 25, 3), 2, np.float32))])
    assert keypoints.shape == (5, 2, 25, 3)
    assert keypoints.dtype == np.float32
    assert keypoints[:, :, 7, 1].tolist() == [[1, 0], [0, 0], [0, 0], [1, 0], [0, 2]]


def outcomes(source: Source, dataset: ntu.Dataset = "ntu120", **options: Path) -> dict[str, Outcome]:
    found = ntu.find(source, dataset, **options)
    read = pickle.loads(pickle.dumps(found.read))  # it goes to other processes
    return {outcome.name: outcome for unit in found.units for outcome in read(source, unit)}


def check(outcome: Outcome, truth: NtuClip) -> None:
    if not truth.tracks:
        assert (outcome.clip, outcome.left_out) == (None, "no body in any frame")
        return
    assert outcome.clip is not None
    expected = np.zeros((truth.num_frames, len(truth.kept), 25, 3))
    for person, body in enumerate(truth.kept):
        frames, joints = truth.tracks[body]
        expected[frames, person] = joints
    np.testing.assert_array_equal(outcome.clip.keypoints, expected.astype(np.float32))
    assert outcome.cleaned == truth.cleaned


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_release(tmp_path: Path, kind: str) -> None:
    root = tmp_path / ("raw.zip" if kind == "zip" else "raw")
    truth = write_ntu(root, clips=130, seed=3, templates=16, mean_frames=30)
    read = outcomes(open_source(root))
    assert list(read) == sorted(truth)
    for name, outcome in read.items():
        check(outcome, truth[name])
    clip = next(outcome.clip for name, outcome in read.items() if outcome.clip and "A061" in name)
    assert (clip.name, clip.label, clip.setup, clip.camera) == ("S018C001P001R001A061", 60, 18, 1)
    assert (clip.subject, clip.replication) == (1, 1)


def test_ntu60_is_a_part_of_what_may_lie_there(tmp_path: Path) -> None:
    truth = write_ntu(tmp_path, clips=130, templates=7, mean_frames=30)
    source = open_source(tmp_path)
    read = outcomes(source, "ntu60")
    assert set(read) == {name for name in truth if int(name[1:4]) <= 17 and int(name[-3:]) <= 60}
    assert len(read) == 70
    found = ntu.find(source, "ntu60")
    assert (found.info.dataset, found.info.layout, found.info.frame_rate) == ("ntu60", "ntu-25", 30.0)
    assert found.info.class_names == CLASS_NAMES["ntu60"]


def put(folder: Path, *names: str, text: str = SMALL) -> Source:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return open_source(folder)


def test_units_are_in_the_order_of_names_not_of_folders(tmp_path: Path) -> None:
    names = [
        "b/S001C001P001R001A001.skeleton",
        "a/S002C001P001R001A001.SKELETON",
        "a/s001c001p001r001a003.skeleton",
    ]
    source = put(tmp_path, *names)
    assert list(outcomes(source)) == [f"S00{s}C001P001R001A00{a}" for s, a in ((1, 1), (1, 3), (2, 1))]


def test_ntu60_ends_with_setup_17_and_action_60(tmp_path: Path) -> None:
    clips = ("S017C001P001R001A060", "S017C001P001R001A061", "S018C001P001R001A060")
    source = put(tmp_path, *(f"{clip}.skeleton" for clip in clips))
    assert list(outcomes(source, "ntu60")) == ["S017C001P001R001A060"]
    assert list(outcomes(source, "ntu120")) == sorted(clips)


def test_one_frame(tmp_path: Path) -> None:
    (outcome,) = outcomes(put(tmp_path, "S001C001P001R001A001.skeleton", text=text_of([[ID]]))).values()
    assert outcome.clip is not None
    assert outcome.clip.keypoints.shape == (1, 1, 25, 3)


def test_the_owners_list(tmp_path: Path) -> None:
    names = [f"S001C001P001R001A00{action}" for action in (1, 2, 3)]
    source = put(tmp_path / "raw", *(f"{name}.skeleton" for name in names))
    missing = tmp_path / "missing.txt"
    text = '302 of the captured samples in the "NTU RGB+D" dataset\r\nPlease ignore them.\r\n\r\n{}\r\n{}.skeleton \r\n'
    missing.write_text(text.format(names[0], names[2]) + "S009C001P001R001A001\n")
    read = outcomes(source, missing_list=missing)
    assert [read[name].left_out for name in names] == [
        "on the list of missing skeletons",
        "",
        read[names[0]].left_out,
    ]
    options = {ntu.find(source, "ntu60", *given).options for given in ((), (missing,))}
    missing.write_text(names[0])
    assert len(options | {ntu.find(source, "ntu60", missing).options}) == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "S001C001P001R001A001\nS001C001P001R001A1\n",
            "line 2: 'S001C001P001R001A1' is not the name of a clip",
        ),
        ("", "names no clip"),
        ("a sentence only", "names no clip"),
        (None, "cannot be read"),
    ],
)
def test_bad_list(tmp_path: Path, text: str | None, problem: str) -> None:
    source = put(tmp_path / "raw", "S001C001P001R001A001.skeleton")
    missing = tmp_path / "missing.txt"
    if text is not None:
        missing.write_text(text)
    with pytest.raises(InputError, match=problem) as caught:
        ntu.find(source, "ntu60", missing)
    assert str(missing) in str(caught.value)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["S001C001P001R001A1.skeleton"], "unexpected file name"),
        (["S001C001P001R001A001 (1).skeleton"], "unexpected file name"),
        (["S001C001P001R001A000.skeleton"], "action 0, expected 1 to 120"),
        (["S001C001P001R001A121.skeleton"], "action 121, expected 1 to 120"),
        (["S018C001P001R001A061.skeleton"], "no clip of ntu60 among 1"),
        (["readme.txt"], "no .skeleton files in it"),
    ],
)
def test_bad_release(tmp_path: Path, names: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        ntu.find(put(tmp_path, *names), "ntu60")
    assert str(tmp_path) in str(caught.value)


def test_a_clip_in_two_folders_is_refused(tmp_path: Path) -> None:
    source = put(tmp_path, "a/S001C001P001R001A001.skeleton", "b/S001C001P001R001A001.skeleton")
    with pytest.raises(InputError, match="a second file of S001C001P001R001A001") as caught:
        ntu.find(source, "ntu120")
    for folder in "ab":
        assert str(tmp_path / folder / "S001C001P001R001A001.skeleton") in str(caught.value)


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path) -> None:
    write_ntu(tmp_path / "raw.zip", clips=6, templates=3, cut=1, mean_frames=30)
    with ZipFile(tmp_path / "raw.zip") as archive:
        last = archive.namelist()[-1]
    with pytest.raises(InputError, match=rf"{re.escape(last)}: line \d+: "):
        outcomes(open_source(tmp_path / "raw.zip"))
