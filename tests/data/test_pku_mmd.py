"""PKU-MMD from its texts to clips, against what is known of files that were made up."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.raw_files import PkuVideo, label_text, make_pku, pku_text, write_pku
from mica.data.class_names import CLASS_NAMES
from mica.data.formats import pku_mmd
from mica.data.formats import pku_text as pku_text_module
from mica.data.formats.pku_text import parse_labels, parse_list, parse_video, parse_video_by_line
from mica.data.outcome import Outcome
from mica.data.recordings import Source, open_source
from mica.errors import InputError

Read = Callable[[bytes, str], np.ndarray]
READERS = pytest.mark.parametrize("read", [parse_video, parse_video_by_line])
VIDEO = make_pku("0002-L", np.random.default_rng(0), frames=40)
TEXT = pku_text(VIDEO.keypoints)


@READERS
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("frames", [1, 40])
def test_made_up_videos_are_read_as_they_were_made(read: Read, end: str, frames: int) -> None:
    keypoints = VIDEO.keypoints[:frames]
    video = read(pku_text(keypoints, end), "x")
    assert video.dtype == np.float32
    np.testing.assert_array_equal(video, keypoints.astype(np.float32))


@READERS
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.removeprefix(b" "),
        lambda text: text.removesuffix(b"\n"),
        lambda text: text.removesuffix(b"\n") + b" ",
        lambda text: text + b" \r\n\n",
        lambda text: text.replace(b"\n", b" \n").replace(b" ", b" \t"),
        lambda text: (
            text.replace(b" 0.000000", b" 0").replace(b" -0.", b" -.0e1") if b" -.0" in text else text
        ),
    ],
)
def test_what_does_not_matter_in_videos(read: Read, change: Callable[[bytes], bytes]) -> None:
    np.testing.assert_array_equal(read(change(TEXT), "x"), parse_video(TEXT, "x"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_usual_videos_are_read_at_once(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pku_text_module, "parse_video_by_line", lambda *_: pytest.fail("read line by line"))
    text = pku_text(VIDEO.keypoints, end)
    for usual in (text, text.rstrip(), text.removeprefix(b" ")):
        assert len(parse_video(usual, "x")) == 40


def value(row: int, position: int, new: str) -> Callable[[bytes], bytes]:
    def change(text: bytes) -> bytes:
        rows = text.split(b"\n")
        fields = rows[row - 1].split()
        fields[position - 1] = new.encode()
        rows[row - 1] = b" ".join(fields)
        return b"\n".join(rows)

    return change


BAD_VIDEOS: list[tuple[str, Callable[[bytes], bytes], int | None, str]] = [
    ("empty", lambda text: b"", None, "empty file"),
    ("blank", lambda text: b" \r\n \n", None, "empty file"),
    ("cut in a row", lambda text: text[:-200], 40, "numbers, expected 150"),
    ("cut in the last number", lambda text: text[:-3], 40, "ends within a number"),
    ("cut before the decimals", lambda text: text[:-7], 40, "ends within a number"),
    ("cut after the point", lambda text: text[:-6], 40, "ends within a number"),
    ("a number more", value(7, 150, "1.0 2.0"), 7, "151 numbers, expected 150"),
    ("rows of 149 and 151", lambda text: value(3, 1, "")(value(4, 1, "1 2")(text)), 3, "149 numbers"),
    ("an empty line", lambda text: text.replace(b"\n", b"\n\n", 1), 2, "0 numbers, expected 150"),
    ("a word", value(2, 1, "none"), 2, "number 1 is 'none', expected a finite number"),
    ("NaN", value(40, 150, "nan"), 40, "number 150 is 'nan'"),
    ("infinite", value(1, 75, "-inf"), 1, "number 75 is '-inf'"),
    ("too large", value(1, 3, "1e39"), 1, "number 3 is '1e39'"),
    ("two points", value(1, 3, "1.2.3"), 1, "number 3 is '1.2.3'"),
    ("a comma", value(5, 3, "1,5"), 5, "number 3 is '1,5'"),
    ("a digit group", value(5, 3, "1_5"), 5, "number 3 is '1_5'"),
    ("a zero byte", value(5, 3, "1\0"), 5, "byte 0x00, expected plain text"),
    (
        "as many lines as rows",
        lambda text: text.replace(b"\n", b"\r", 1).replace(b"\n", b"\n\n", 1),
        1,
        "byte 0x0d, expected plain text",
    ),
    ("a lone return", lambda text: text.replace(b" ", b"\r", 150), 1, "byte 0x0d, expected plain text"),
]


@READERS
@pytest.mark.parametrize(
    ("change", "where", "problem"), [row[1:] for row in BAD_VIDEOS], ids=[row[0] for row in BAD_VIDEOS]
)
def test_bad_video(read: Read, change: Callable[[bytes], bytes], where: int | None, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        read(change(TEXT), "folder/0002-L.txt")
    message = str(caught.value)
    assert message.startswith("folder/0002-L.txt: " + (f"line {where}: " if where else ""))
    assert problem in message


def test_a_cut_loses_whole_rows_or_is_noticed() -> None:
    text = pku_text(VIDEO.keypoints[:3] + 1e-6)
    whole = parse_video(text, "x")
    rows = set()
    for kept in range(1, len(text)):
        try:
            video = parse_video(text[:kept], "x")
        except InputError:
            continue
        np.testing.assert_array_equal(video, whole[: len(video)])
        rows.add((len(video), text[:kept].count(b"\n")))
    assert rows == {(1, 0), (1, 1), (2, 1), (2, 2), (3, 2)}


def test_labels() -> None:
    text = b" 6 ,1, 30 ,2\r\n51,0,0,1\r\n1,7,99999,0.5\r\n\r\n \n"
    assert [(a.line, a.label, a.start, a.end) for a in parse_labels(text, "x")] == [
        (1, 5, 1, 30),
        (2, 50, 0, 0),
        (3, 0, 7, 99999),
    ]
    assert parse_labels(b"\n", "x") == []


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("0,1,2,1", "class 0, expected 1 to 51"),
        ("52,1,2,1", "class 52, expected 1 to 51"),
        ("-1,1,2,1", "class -1"),
        ("5,-1,10,1", "an action from frame -1 to frame 10"),
        ("5.0,1,2,1", "class is '5.0', expected an integer"),
        ("5,1,two,1", "end is 'two', expected an integer"),
        ("5,,2,1", "start is nothing, expected an integer"),
        ("5,1,9999999999,1", "end is '9999999999', expected an integer"),
        ("5,1,2", "'5,1,2', expected class,start,end,confidence"),
        ("5,1,2,", "'5,1,2,', expected class"),
        ("5,1,2,1,1", "'5,1,2,1,1', expected class,start,end,confidence"),
        ("5 1 2 1", "'5 1 2 1', expected class"),
        ("", "nothing, expected class"),
        ("5,1,2,\0", "byte 0x00, expected plain text"),
    ],
)
def test_bad_labels(row: str, problem: str) -> None:
    text = f"1,2,3,1\n{row}\n4,5,6,1\n"
    with pytest.raises(InputError, match=re.escape(f"Label/0002-L.txt: line 2: {problem}")) as caught:
        parse_labels(text.encode(), "Label/0002-L.txt")
    assert "fetch this file again" in str(caught.value)


def test_list_of_videos() -> None:
    text = b"Training videos: \r\n0002-L, 0002-M,A01N13-R, \r\nValidataion videos: \r\n\r\n0003-R\r\n"
    assert parse_list(text, "x") == {
        "0002-L": "train",
        "0002-M": "train",
        "A01N13-R": "train",
        "0003-R": "test",
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no videos to train and none to test"),
        ("Training videos:\n0002-L\n", "no videos to test"),
        ("Training videos:\nValidation videos:\n0002-L\n", "no videos to train"),
        ("0002-L\n", "line 1: '0002-L', expected the heading"),
        (
            "Training videos:\n0002-L 0002-M\nTest\n0003-L",
            "line 2: '0002-L 0002-M', expected the name of a video",
        ),
        ("Training videos:\n0002-L\nValidation videos:\n0003-L,000", "line 4: '000', expected the name"),
        (
            "Training videos:\n0002-L\nValidation videos:\n0002-L",
            "line 4: 0002-L is to train and to validate",
        ),
        ("Training videos:\n0002-L\0", "line 2: byte 0x00"),
    ],
)
def test_bad_list(text: str, problem: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"cross-view.txt: {problem}")):
        parse_list(text.encode(), "cross-view.txt")


def test_the_owners_list_of_part_one(real_data: Path) -> None:
    file = real_data / "splits" / "pkummd1_cross_subject.txt"
    if not file.exists():
        pytest.skip(f"no {file}")
    given = list(parse_list(file.read_bytes(), str(file)).values())
    assert (len(given), given.count("train"), given.count("test")) == (1076, 944, 132)


def outcomes(source: Source, part: pku_mmd.Part = 1) -> dict[str, Outcome]:
    found = pku_mmd.find(source, part)
    read = pickle.loads(pickle.dumps(found.read))  # it goes to other processes
    return {outcome.name: outcome for unit in found.units for outcome in read(source, unit)}


def expected(video: PkuVideo) -> dict[str, tuple[np.ndarray, int]]:
    """Keypoints and label of each action that shows somebody, frame by frame and body by body."""
    made = {}
    for position, (number, start, end) in enumerate(video.actions, start=1):
        frames = [video.keypoints[frame] for frame in range(start, end + 1) if frame < len(video.keypoints)]
        there = [body for body in range(2) if any(frame[body].any() for frame in frames)]
        if there:
            clip = np.array([[frame[body] for body in there] for frame in frames], np.float32)
            made[f"{video.name}_{position:03d}"] = (clip, number - 1)
    return made


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("part", [1, 2])
def test_a_release(tmp_path: Path, part: pku_mmd.Part, kind: str) -> None:
    root = tmp_path / "raw"
    videos = write_pku(root, videos=9, seed=1, part=part, frames=60)
    if kind == "zip":
        root = Path(shutil.make_archive(str(root), "zip", root))
    read = outcomes(open_source(root), part)
    assert len(read) == 5 * 9
    for video in videos:
        clips = expected(video)
        assert [read[f"{video.name}_{position:03d}"].cleaned for position in (1, 4)] == [
            (),
            ("label ends after the video",),
        ]
        assert read[f"{video.name}_005"].left_out == "no body in any frame"
        assert set(clips) == {name for name in read if name.startswith(video.name) and read[name].clip}
        for name, (keypoints, label) in clips.items():
            clip = read[name].clip
            assert clip is not None
            np.testing.assert_array_equal(clip.keypoints, keypoints)
            assert (clip.name, clip.label, clip.parts) == (name, label, video.parts)
    clip = read["0003-M_001" if part == 1 else "A01N02-M_001"].clip
    assert clip is not None
    assert (clip.camera, clip.setup, clip.subject) == ((2, 3, 0) if part == 1 else (2, 1, 2))
    info = pku_mmd.find(open_source(root), part).info
    assert (info.dataset, info.layout, info.class_names) == (
        f"pku-mmd-{part}",
        "ntu-25",
        CLASS_NAMES[f"pku-mmd-{part}"],
    )


def put(root: Path, **files: bytes) -> Source:
    for path, text in files.items():
        file = root / f"{path}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text)
    return open_source(root)


LABELS = label_text(VIDEO)


def test_files_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    source = put(tmp_path, **{"a/0002-L": LABELS, "b/0002-L": TEXT})
    assert len(outcomes(source)) == 5
    assert outcomes(source)["0002-L_001"].clip is not None


def test_a_second_body_alone(tmp_path: Path) -> None:
    keypoints = VIDEO.keypoints[:20, ::-1].copy()
    source = put(tmp_path, **{"a/0002-L": pku_text(keypoints), "label/0002-L": b"9,2,10,1"})
    clip = outcomes(source)["0002-L_001"].clip
    assert clip is not None
    np.testing.assert_array_equal(clip.keypoints, keypoints[2:11, 1:].astype(np.float32))


def test_what_lacks_its_other_half_is_left_out_and_counted(tmp_path: Path) -> None:
    source = put(
        tmp_path,
        **{
            "a/0002-L": TEXT,
            "label/0003-L": LABELS,
            "a/0004-L": TEXT,
            "label/0004-L": b"\n",
            "label/0005-L": b"",
        },
    )
    reasons = {name: outcome.left_out for name, outcome in outcomes(source).items()}
    unseen = {f"0003-L_{position:03d}": "labels without a video" for position in range(1, 6)}
    nothing = "video without labels"
    assert reasons == {"0002-L": nothing, **unseen, "0004-L": nothing, "0005-L": "labels without a video"}


def test_both_parts_in_one_folder_and_lists_in_another_hand(tmp_path: Path) -> None:
    lists = {
        1: b"Training videos:\n0002-L\nTest videos:\n0003-L",
        2: b"Training videos:\nA01N01-L\nTest videos:\nA02N01-L",
    }
    source = put(
        tmp_path,
        **{
            "one/s/0002-L": TEXT,
            "one/label/0002-L": LABELS,
            "two/s/A01N01-L": TEXT,
            "two/label/A01N01-L": LABELS,
        },
        **{"one/Cross_View": lists[1], "two/cross-view": lists[2], "readme": b"hello", "Actions": b"1,bow"},
    )
    for part, name in ((1, "0002-L"), (2, "A01N01-L")):
        read = outcomes(source, part)  # type: ignore[arg-type]
        assert {clip.rpartition("_")[0] for clip in read} == {name}
        clip = read[f"{name}_001"].clip
        assert clip is not None
        assert clip.parts == {"cross-view": "train"}


def test_lists_decide_over_the_outcome(tmp_path: Path) -> None:
    source = put(tmp_path, **{"s/0002-L": TEXT, "label/0002-L": LABELS})
    before = pku_mmd.find(source, 1).options
    assert outcomes(source)["0002-L_001"].clip.parts == {}  # type: ignore[union-attr]
    put(tmp_path, **{"cross-subject": b"Training videos:\n0002-L\nValidation videos:\n0003-L"})
    assert pku_mmd.find(source, 1).options != before


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"a/0002-L": TEXT, "b/0002-L": TEXT}, "a second file of the skeletons of 0002-L, the first is"),
        ({"label/0002-L": LABELS, "b/0002-L": LABELS}, "a second file of the labels of 0002-L, the first is"),
        ({"A01N01-L": TEXT}, "no video of PKU-MMD part I in it"),
        ({}, "no video of PKU-MMD part I in it"),
        (
            {"a/0002-L": TEXT, **{f"{n}/cross-view": b"Training\n0002-L\nTest\n0003-L" for n in "ab"}},
            "a second list for cross-view, the first is",
        ),
        ({"a/0002-L": TEXT, "cross-view": b"Training\n0002"}, "cross-view.txt: line 2: '0002'"),
    ],
)
def test_bad_release(tmp_path: Path, files: dict[str, bytes], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        pku_mmd.find(put(tmp_path, **files), 1)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (
            {"label/0002-L": b"1,0,5,1\n2,40,41,1"},
            "label/0002-L.txt: line 2: an action from frame 40, but the video has 40",
        ),
        ({"label/0002-L": b"1,0,5,1\n77,1,2,1"}, "label/0002-L.txt: line 2: class 77"),
        ({"s/0002-L": TEXT[:3000]}, r"s/0002-L.txt: line \d: \d+ numbers, expected 150"),
        ({"s/0002-L": b"\0\1\2"}, "s/0002-L.txt: line 1: byte 0x00"),
    ],
)
def test_damaged_files_are_named_with_the_line(tmp_path: Path, files: dict[str, bytes], problem: str) -> None:
    source = put(tmp_path, **{"s/0002-L": TEXT, "label/0002-L": LABELS} | files)
    with pytest.raises(InputError, match=problem):
        outcomes(source)


def test_an_action_that_ends_before_it_starts_is_left_out(tmp_path: Path) -> None:
    source = put(tmp_path, **{"s/0002-L": TEXT, "label/0002-L": b"1,0,5,1\n2,20,10,1\n3,99,98,1\n4,6,6,1"})
    left_out = {name: outcome.left_out for name, outcome in outcomes(source).items()}
    assert left_out == {
        "0002-L_001": "",
        "0002-L_002": pku_mmd.BACKWARDS,
        "0002-L_003": pku_mmd.BACKWARDS,
        "0002-L_004": "",
    }
