"""Damaged files of others give the clips that are in them or an `InputError` that names the file, nothing else.

`MICA_FUZZ_CASES` raises the number of damaged files of each kind.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mica.data.clip import StoreInfo, check_clip
from mica.data.formats.others import agcn, ctr_gcn, pyskl
from mica.data.outcome import Outcome
from mica.errors import InputError

# Of pickletools, about text of Python 2 with a damaged escape in it.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")

CASES = int(os.environ.get("MICA_FUZZ_CASES", "150"))
Read = tuple[StoreInfo, list[Outcome]]


def flip(content: bytearray, random: np.random.Generator) -> None:
    for position in random.integers(len(content), size=random.integers(1, 6)):
        content[position] = random.integers(256)


def flip_near_an_end(content: bytearray, random: np.random.Generator) -> None:
    """The headers of arrays, the directory of an archive."""
    reach = min(len(content), 400)
    for distance in random.integers(reach, size=random.integers(1, 4)):
        content[distance if random.random() < 0.5 else -1 - distance] = random.integers(256)


def cut(content: bytearray, random: np.random.Generator) -> None:
    start, end = sorted(random.integers(len(content) + 1, size=2))
    del content[start if random.random() < 0.3 else end :]


def take_out(content: bytearray, random: np.random.Generator) -> None:
    start = random.integers(len(content))
    del content[start : start + random.integers(1, 100)]


def put_in(content: bytearray, random: np.random.Generator) -> None:
    start = random.integers(len(content))
    content[start:start] = random.bytes(random.integers(1, 20))


def blank(content: bytearray, random: np.random.Generator) -> None:
    start, length = random.integers(len(content)), random.integers(1, 64)
    content[start : start + length] = bytes([random.choice([0, 255])]) * len(content[start : start + length])


def other_number(content: bytearray, random: np.random.Generator) -> None:
    """Write another number over one that is spelt out, as the shapes in headers are."""
    found = list(re.finditer(rb"\d+", content))
    chosen = found[random.integers(len(found))]
    longer, negative = b"1" + chosen[0], b"-" + chosen[0][1:]
    absurd = [b"0", b"1", b"7", b"9" * len(chosen[0]), longer, negative, b"1e9", b"9" * 25, b"True"]
    content[chosen.start() : chosen.end()] = absurd[random.integers(len(absurd))]


def four_bytes(content: bytearray, random: np.random.Generator) -> None:
    """Write a large or small number over four bytes or eight, as lengths in archives and pickles are."""
    size = int(random.choice([4, 8]))
    number = int(random.choice([0, 1, 255, 2**16, 2**31 - 1, 2**32 - 1]))
    start = random.integers(max(1, len(content) - size))
    content[start : start + size] = number.to_bytes(size, "little")


DAMAGES = [flip, flip_near_an_end, cut, take_out, put_in, blank, other_number, four_bytes]


def collected(result: tuple[StoreInfo, Any, int]) -> Read:
    info, outcomes, total = result
    found = list(outcomes)
    assert len(found) == total
    return info, found


def check_all(read: Read) -> None:
    info, outcomes = read
    for outcome in outcomes:
        if outcome.clip is None:
            assert outcome.left_out
        else:
            assert check_clip(outcome.clip, info).name == outcome.name


def check_error(error: InputError, path: Path) -> None:
    assert error.file is not None, error
    assert Path(error.file) in (path, path.parent), error
    assert len(str(error)) < 2000


def damaged_copies(
    files: dict[Path, bytes], read: Callable[[], tuple[StoreInfo, Any, int]], right: Callable[[Read], None]
) -> None:
    """Damage one of `files` after another in every way; what `read` makes of it must be `right`, or an error."""
    random, refused = np.random.default_rng(0), 0
    paths = list(files)
    for case in range(CASES):
        path = paths[case // len(DAMAGES) % len(paths)]
        content = bytearray(files[path])
        DAMAGES[case % len(DAMAGES)](content, random)
        path.write_bytes(content)
        try:
            found = collected(read())
        except InputError as error:
            refused += 1
            check_error(error, path)
        else:
            check_all(found)
            right(found)
        path.write_bytes(files[path])
    assert refused > CASES // 5
    right(collected(read()))


def bodies(seed: int, frames: int, persons: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, persons, 25, 3)).astype(np.float32)


def same_clips(found: list[Outcome], expected: list[tuple[np.ndarray, int]]) -> None:
    """`expected` are arrays (T, M, V, 3), padded, and labels."""
    assert len(found) == len(expected)
    for outcome, (padded, label) in zip(found, expected, strict=True):
        frames = [t for t in range(len(padded)) if padded[t:].any()]
        persons = [m for m in range(padded.shape[1]) if padded[:, m].any()]
        if not frames:
            assert outcome.clip is None
            continue
        assert outcome.clip is not None
        assert outcome.clip.label == label
        np.testing.assert_array_equal(outcome.clip.keypoints, padded[frames][:, persons].astype(np.float32))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_npz(tmp_path: Path, save: Callable[..., None]) -> None:
    file = tmp_path / "NTU60_CS.npz"
    arrays: dict[str, np.ndarray] = {"y_train": np.eye(60)[[3, 59]], "y_test": np.array([0])}
    for part, n in (("train", 2), ("test", 1)):
        arrays[f"x_{part}"] = np.zeros((n, 4, 150), np.float32)
        for i in range(n):
            arrays[f"x_{part}"][i, : 3 - i, : 75 * (i + 1)] = bodies(i, 3 - i, i + 1).reshape(3 - i, -1)
    save(file, **arrays)

    def right(read: Read) -> None:
        """The archive's checksums leave no damage to the numbers unseen."""
        expected = []
        for part in ctr_gcn.PARTS:
            x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
            labels = y.argmax(axis=1) if y.ndim == 2 else y
            expected += [
                (row.reshape(-1, 2, 25, 3), int(label)) for row, label in zip(x, labels, strict=True)
            ]
        same_clips(read[1], expected)

    damaged_copies({file: file.read_bytes()}, lambda: ctr_gcn.read(file), right)


def test_damaged_npy(tmp_path: Path) -> None:
    folder = tmp_path / "xsub"
    folder.mkdir()
    data = np.zeros((3, 3, 5, 25, 2), np.float32)
    for i in range(3):
        data[i, :, : 1 + i, :, : 1 + i % 2] = bodies(i, 1 + i, 1 + i % 2).transpose(3, 0, 2, 1)
    file = folder / "train_data.npy"
    np.save(file, data)
    names, labels = ["a", "b", "c"], [4, 0, 2]
    (folder / "train_label.pkl").write_bytes(pickle.dumps((names, labels), 2))

    def right(read: Read) -> None:
        """Damaged numbers are but other numbers: what NumPy reads is in the file."""
        expected = np.load(file, allow_pickle=False)
        same_clips(
            read[1], [(row.transpose(1, 3, 2, 0), label) for row, label in zip(expected, labels, strict=True)]
        )
        assert [outcome.name for outcome in read[1]] == names

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, about headers that look like Python 2's
        damaged_copies({file: file.read_bytes()}, lambda: agcn.read(folder), right)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_damaged_labels(tmp_path: Path, protocol: int) -> None:
    folder = tmp_path / "xsub"
    folder.mkdir()
    names = [f"S001C001P001R001A00{i}" for i in range(1, 4)]
    np.save(folder / "val_data_joint.npy", np.ones((3, 3, 2, 25, 1), np.float32))
    file = folder / "val_label.pkl"
    file.write_bytes(pickle.dumps((names, np.array([0, 1, 2]) if protocol > 2 else [0, 1, 2]), protocol))

    def right(read: Read) -> None:
        info, outcomes = read
        clips = [outcome.clip for outcome in outcomes if outcome.clip]
        assert len(clips) == 3
        if info.dataset == "ntu60":  # then names and labels bear each other out
            assert [int(clip.name[17:20]) - 1 for clip in clips] == [clip.label for clip in clips]

    damaged_copies({file: file.read_bytes()}, lambda: agcn.read(folder), right)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_damaged_pyskl(tmp_path: Path, protocol: int) -> None:
    names = [f"S001C001P001R001A00{i}" for i in range(1, 4)]
    annotations = [
        {
            "frame_dir": name,
            "label": i,
            "total_frames": 2,
            "keypoint": bodies(i, 2, 1 + i % 2).transpose(1, 0, 2, 3),
        }
        for i, name in enumerate(names)
    ]
    content = {"split": {"xsub_train": names[:2], "xsub_val": names[2:]}, "annotations": annotations}
    file = tmp_path / "ntu60.pkl"
    file.write_bytes(pickle.dumps(content, protocol))

    def right(read: Read) -> None:
        """What the machine of `restricted_load` reads is held against Python's own in `test_unpickle`."""
        clips = [outcome.clip for outcome in read[1] if outcome.clip]
        assert {clip.keypoints.shape[2:] for clip in clips} <= {(25, 3)}
        assert {part for clip in clips for part in clip.parts.values()} <= {"train", "test"}

    damaged_copies({file: file.read_bytes()}, lambda: pyskl.read(file), right)
