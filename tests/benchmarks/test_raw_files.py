"""Raw files that are made up look like the owners', hold what they promise, and are read by the benchmark."""

from __future__ import annotations

import json
import re
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from benchmarks import parsing, raw_files
from benchmarks.raw_files import NtuClip, make_ntu, make_pku, ntu_text, pku_text, write_ntu, write_pku
from benchmarks.raw_ntu import KINDS, ntu_names

NAME = re.compile(
    r"S0(0[1-9]|[12]\d|3[0-2])C00[1-3]P(0[0-9][1-9]|0[1-9]0|10[0-6])R00[12]A(0\d[1-9]|0[1-9]0|1[01]\d|120)"
)
NUMBER = re.compile(r"-?\d+(\.\d+)?(e-\d\d)?")


def significant(number: str) -> int:
    """How many digits a decimal number has without its leading zeros."""
    return len(number.partition("e")[0].lstrip("-0.").replace(".", ""))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("digits", [6, 9])
def test_every_line_of_a_skeleton_file(kind: str, digits: int) -> None:
    rng = np.random.default_rng(5)
    clip = make_ntu(kind, rng, 31, digits)
    text = ntu_text(clip, rng, digits).decode()
    assert text.endswith("\r\n")
    lines = iter(text.removesuffix("\r\n").split("\r\n"))
    assert int(next(lines)) == clip.num_frames == 31
    for frame in range(31):
        there = {body for body, (frames, _) in clip.tracks.items() if frame in frames}
        assert int(next(lines)) == len(there)
        for _ in range(len(there)):
            header = next(lines).split(" ")
            there.remove(int(header[0]))
            assert (len(header), len(header[0]), next(lines)) == (10, 17, "25")
            for _ in range(25):
                fields = next(lines).split(" ")
                assert len(fields) == 12
                assert all(NUMBER.fullmatch(field) for field in fields[:3])
                assert all(significant(field) <= digits for field in fields[:3])
    assert next(lines, None) is None


def spread(joints: np.ndarray) -> np.ndarray:
    return (joints.max(axis=1) - joints.min(axis=1))[:, :2]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", KINDS)
def test_who_is_noise_is_so_by_far(kind: str, seed: int) -> None:
    """The truth does not hang on a last digit: twice as wide as allowed, or half as much motion."""
    clip: NtuClip = make_ntu(kind, np.random.default_rng(seed), 30)
    kept = [clip.tracks[body][1] for body in clip.kept]
    assert all(len(joints) > 11 for joints in kept)
    assert all((x < 0.8 * y).all() for x, y in (spread(joints).T for joints in kept))
    motion = [joints.reshape(-1, 3).var(axis=0).sum() for joints in kept]
    others = {body: joints for body, (_, joints) in clip.tracks.items() if body not in clip.kept}
    kinds = set()
    for joints in others.values():
        x, y = spread(joints).T
        if len(joints) <= 11:
            kinds.add("track of 11 frames or fewer")
        elif (x > y).all():
            kinds.add("track wider than high")
        else:
            assert joints.reshape(-1, 3).var(axis=0).sum() < 0.7 * min(motion)
            kinds.add("more than two bodies")
    assert kinds == set(clip.cleaned)
    assert len(kept) < 2 or motion[1] < 0.7 * motion[0]


def test_the_set_is_as_long_and_as_crowded_as_the_real_one(tmp_path: Path) -> None:
    truth = write_ntu(tmp_path, clips=48, seed=0).values()
    frames = sum(clip.num_frames for clip in truth)
    bodies = sum(len(when) for clip in truth for when, _ in clip.tracks.values())
    assert 70 < frames / 48 < 90
    assert 1.1 < bodies / frames < 1.25
    assert any(len(clip.tracks) > 2 for clip in truth)
    assert any(not clip.tracks for clip in truth)


def test_names_are_distinct_and_of_the_data_set() -> None:
    names = list(ntu_names(114_480))
    assert len(set(names)) == len(names)
    assert all(map(NAME.fullmatch, names[::97]))
    assert {int(name[1:4]) for name in names} == set(range(1, 33))
    assert all((int(name[1:4]) <= 17) == (int(name[-3:]) <= 60) for name in names)


def test_a_zip_holds_what_a_folder_does(tmp_path: Path) -> None:
    for target in (tmp_path / "raw", tmp_path / "raw.zip"):
        write_ntu(target, clips=70, seed=4, templates=8, cut=2, mean_frames=30)
    files = {file.name: file.read_bytes() for file in (tmp_path / "raw").rglob("*.skeleton")}
    with ZipFile(tmp_path / "raw.zip") as archive:
        assert archive.testzip() is None
        assert {Path(name).name: archive.read(name) for name in archive.namelist()} == files
    assert len(files) == 70
    assert len(set(files.values())) == 8 + 2
    assert {b"\r\n" in text for text in files.values()} == {False, True}
    folders = {file.parent.name for file in (tmp_path / "raw").rglob("*.skeleton")}
    assert folders == {"nturgb+d_skeletons", "nturgb+d_skeletons120"}


def test_files_depend_on_the_seed_alone(tmp_path: Path) -> None:
    texts = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_ntu(tmp_path / folder, clips=3, seed=seed, templates=3, mean_frames=30)
        texts.append([file.read_bytes() for file in sorted((tmp_path / folder).rglob("*.skeleton"))])
    assert texts[0] == texts[1] != texts[2]


def test_a_video_of_pku_mmd() -> None:
    video = make_pku("0002-L", np.random.default_rng(0), frames=50)
    rows = pku_text(video.keypoints, "\r\n").decode().removesuffix("\r\n").split("\r\n")
    assert len(rows) == 50
    assert all(re.fullmatch(r"( -?\d+\.\d{6}){150}", row) for row in rows)
    np.testing.assert_array_equal(
        np.array([row.split() for row in rows], float), video.keypoints.reshape(50, 150)
    )
    assert not video.keypoints[:25, 1].any()
    assert video.keypoints[25:40].all(axis=(0, 2)).any(axis=1).all()
    assert not video.keypoints[40:].any()
    assert all(1 <= number <= 51 and start <= stop for number, start, stop in video.actions)
    assert (video.actions[0][1], video.actions[-2][2] > 49, video.actions[-1][1] >= 40) == (0, True, True)


@pytest.mark.parametrize(
    ("part", "name", "lists"),
    [(1, "0002-L", "cross-subject cross-view"), (2, "A01N01-L", "cross_subject_v2 cross_view_v2")],
)
def test_a_release_of_pku_mmd(tmp_path: Path, part: int, name: str, lists: str) -> None:
    videos = write_pku(tmp_path, 9, part=part, frames=40)
    assert videos[0].name == name
    assert len({video.name for video in videos}) == 9
    for folder in ("Data/PKU_Skeleton_Renew", "Label"):
        assert {file.stem for file in (tmp_path / folder).iterdir()} == {video.name for video in videos}
    for protocol, file in zip(("cross-subject", "cross-view"), lists.split(), strict=True):
        lines = (tmp_path / "Split" / f"{file}.txt").read_text().split("\n")
        assert [lines[0], lines[2], lines[4]] == ["Training videos: ", "Validataion videos: ", ""]
        for part_name, line in (("train", lines[1]), ("test", lines[3])):
            assert line.endswith(", ")
            expected = [video.name for video in videos if video.parts[protocol] == part_name]
            assert line.split(", ")[:-1] == expected


def test_command_that_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["raw_files", "ntu", str(tmp_path / "raw.zip"), "--clips", "5"])
    raw_files.main()
    assert len(ZipFile(tmp_path / "raw.zip").namelist()) == 5


def test_command_that_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parsing.main(["--megabytes", "0.1", "--json", str(tmp_path / "rates.json")])
    rates = json.loads((tmp_path / "rates.json").read_text())
    assert {kind: set(readers) for kind, readers in rates.items()} == {
        "NTU RGB+D": set(parsing.NTU),
        "PKU-MMD": set(parsing.PKU),
    }
    assert all(rate > 0 for readers in rates.values() for rate in readers.values())
    assert "peers, dictionaries" in capsys.readouterr().out


def test_nothing_is_measured_of_a_reader_that_errs(monkeypatch: pytest.MonkeyPatch) -> None:
    read = parsing.parse_video
    monkeypatch.setattr(parsing, "parse_video", lambda text, file: read(text, file) + np.float32(1e-5))
    with pytest.raises(AssertionError):
        parsing.measure(0.1)
