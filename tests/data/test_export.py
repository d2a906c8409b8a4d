"""What we write for the peers' programs is what they read, and comes back as it was."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mica.data.clip import Clip, StoreInfo
from mica.data.export import export
from mica.data.formats.others import ctr_gcn, pyskl
from mica.data.splits import split
from mica.data.store import Store
from mica.errors import InputError

MakeClip = Callable[..., Clip]


@pytest.fixture
def store(make_clip: MakeClip, make_store: Callable[..., Store]) -> Store:
    """NTU clips of subjects that train (1, 2, 4) and test (3): one frame, two persons, lost frames, the longest."""
    lost = make_clip(
        "S001C001P002R001A007", 9, joints=25, subject=2, camera=1, setup=1, replication=1, label=6
    )
    lost.keypoints[[0, 4]] = 0
    clips = [
        make_clip("S001C002P001R001A001", 1, joints=25, subject=1, camera=2, setup=1, replication=1, label=0),
        make_clip("S017C003P003R002A060", 12, 2, 25, subject=3, camera=3, setup=17, replication=2, label=59),
        lost,
        make_clip("S001C001P004R001A050", 5, 2, 25, subject=4, camera=1, setup=1, replication=1, label=49),
    ]
    info = StoreInfo("ntu60", "ntu-25", tuple(f"class {i}" for i in range(60)), 30.0)
    return make_store(clips, info)


def test_ctr_gcn_reads_it(store: Store, tmp_path: Path) -> None:
    """As the peers' Feeder takes the file apart, spelt out; by the usual protocol where none is named."""
    file = export(store, "ctr-gcn", tmp_path / "NTU60_CS.npz", frames=12)
    parts = split(store, "cross-subject")
    with np.load(file) as content:
        assert sorted(content) == ["x_test", "x_train", "y_test", "y_train"]
        for part, clips in (("train", [0, 2, 3]), ("test", [1])):
            assert getattr(parts, part).tolist() == clips
            x, y = content[f"x_{part}"], content[f"y_{part}"]
            assert (x.dtype, x.shape, y.dtype, y.shape) == (
                np.float32, (len(clips), 12, 150), np.float64, (len(clips), 60),
            )  # fmt: skip
            labels = np.where(y > 0)[1]
            n, frames, _ = x.shape
            data = x.reshape((n, frames, 2, 25, 3)).transpose(0, 4, 1, 3, 2)  # N, C, T, V, M
            for row, i in enumerate(clips):
                expected = store.keypoints(i)
                assert labels[row] == store.labels[i]
                for t, m in np.ndindex(12, 2):
                    there = t < len(expected) and m < expected.shape[1]
                    np.testing.assert_array_equal(data[row, :, t, :, m].T, expected[t, m] if there else 0)


def test_pyskl_reads_it(store: Store, tmp_path: Path) -> None:
    """As the peers' PoseDataset takes the file apart, spelt out."""
    file = export(store, "pyskl", tmp_path / "ntu60.pkl", "cross-view")
    content = pickle.loads(file.read_bytes())
    assert content["split"] == {
        "xview_train": store.names[:2].tolist(),
        "xview_val": store.names[2:].tolist(),
    }
    for key, names in content["split"].items():
        chosen = [entry for entry in content["annotations"] if entry["frame_dir"] in set(names)]
        assert [entry["frame_dir"] for entry in chosen] == names, key
    for entry in content["annotations"]:
        i = store.names.tolist().index(entry["frame_dir"])
        assert type(entry["label"]) is type(entry["total_frames"]) is int
        assert (entry["label"], entry["total_frames"]) == (store.labels[i], store.frames[i])
        assert type(entry["keypoint"]) is np.ndarray
        assert entry["keypoint"].dtype == np.float32
        assert entry["keypoint"].shape == (store.persons[i], store.frames[i], 25, 3)
        for m, t in np.ndindex(*entry["keypoint"].shape[:2]):
            np.testing.assert_array_equal(entry["keypoint"][m, t], store.keypoints(i)[t, m])


def test_ctr_gcn_there_and_back(store: Store, tmp_path: Path) -> None:
    file = export(store, "ctr-gcn", tmp_path / "NTU60_CS.npz", "cross-subject")
    info, outcomes, total = ctr_gcn.read(file)
    assert (info.dataset, info.layout, total) == ("ntu60", "ntu-25", 4)
    for i, part, outcome in zip([0, 2, 3, 1], ["train"] * 3 + ["test"], outcomes, strict=True):
        assert outcome.clip is not None
        np.testing.assert_array_equal(outcome.clip.keypoints, store.keypoints(i))
        assert outcome.clip.label == store.labels[i]
        assert outcome.clip.parts == {"cross-subject": part}


def test_ctr_gcn_there_and_back_of_one_class(
    make_clip: MakeClip, make_store: Callable[..., Store], tmp_path: Path
) -> None:
    """One-hot labels of one class are a column of ones, which are not the second class."""
    clips = [make_clip(f"{i}", joints=25, subject=i) for i in range(1, 5)]
    store = make_store(clips, StoreInfo("mine", "ntu-25", ("wave",), 30.0))
    info, outcomes, total = ctr_gcn.read(export(store, "ctr-gcn", tmp_path / "x.npz", "cross-subject"))
    assert (info.class_names, total) == (("class 0",), 4)
    assert [outcome.clip and outcome.clip.label for outcome in outcomes] == [0] * 4


@pytest.mark.parametrize("protocol", ["cross-subject", "cross-view"])
def test_pyskl_there_and_back(store: Store, tmp_path: Path, protocol: str) -> None:
    info, outcomes, total = pyskl.read(export(store, "pyskl", tmp_path / "ntu60.pkl", protocol))
    assert (info.dataset, info.layout, total) == ("ntu60", "ntu-25", 4)
    tests = set(split(store, protocol).test.tolist())
    for outcome in outcomes:
        i = store.names.tolist().index(outcome.name)
        found, expected = outcome.clip, store.clip(i)
        assert found is not None
        np.testing.assert_array_equal(found.keypoints, expected.keypoints)
        assert found.parts == {protocol: "test" if i in tests else "train"}
        for name in ("label", "subject", "camera", "setup", "replication"):
            assert getattr(found, name) == getattr(expected, name)


def test_what_the_source_says_is_kept(
    make_clip: MakeClip, make_store: Callable[..., Store], tmp_path: Path
) -> None:
    """Another layout, a protocol of the source's own with a validation part, and a clip that takes no part."""
    clips = [
        make_clip(name, frames=4, label=i % 3, parts={"mine": part} if part else {})
        for i, (name, part) in enumerate([("a", "train"), ("b", "test"), ("c", "validation"), ("d", "")])
    ]
    store = make_store(clips, StoreInfo("chores", "kinect-20", ("sweep", "wash", "iron"), 25.0))
    content = pickle.loads(export(store, "pyskl", tmp_path / "x.pkl", "mine").read_bytes())
    assert content["split"] == {"mine_train": ["a", "c"], "mine_val": ["b"]}
    assert [entry["frame_dir"] for entry in content["annotations"]] == ["a", "c", "b"]
    file = export(store, "ctr-gcn", tmp_path / "x.npz", "mine", frames=4)
    info, outcomes, _ = ctr_gcn.read(file, layout="kinect-20", protocol="mine")
    assert len(info.class_names) == 3
    for i, outcome in zip([0, 2, 1], outcomes, strict=True):
        assert outcome.clip is not None
        np.testing.assert_array_equal(outcome.clip.keypoints, clips[i].keypoints)


@pytest.mark.parametrize(
    ("form", "protocol", "frames", "clip", "problem"),
    [
        ("ctr-gcn", "cross-subject", 11, "S017C003P003R002A060", "(?s)more than 11 frames.*--frames 12 is"),
        ("ctr-gcn", "cross-subject", 0, None, "0 frames a clip, expected at least 1"),
        ("agcn", "cross-subject", 300, None, "known forms: ctr-gcn, pyskl"),
        ("pyskl", "cross-setup", 300, None, "unknown protocol"),
    ],
)
def test_refused(
    store: Store, tmp_path: Path, form: str, protocol: str, frames: int, clip: str | None, problem: str
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=problem) as caught:
        export(store, form, tmp_path / "x", protocol, frames=frames)
    assert caught.value.clip == clip
    assert sorted(tmp_path.iterdir()) == before


def test_three_persons_are_refused(
    make_clip: MakeClip, make_store: Callable[..., Store], tmp_path: Path
) -> None:
    clips = [
        make_clip(f"{i}", persons=i, subject=i, parts={"a": part}) for i, part in ((1, "train"), (2, "test"))
    ]
    fine = make_clip("no part", persons=3)
    export(
        make_store([*clips, make_clip("more", subject=2, parts={"a": "train"}), fine]),
        "pyskl",
        tmp_path / "x",
        "a",
    )
    for form in ("ctr-gcn", "pyskl"):
        bad = make_clip("crowd", persons=3, subject=5, parts={"a": "train"})
        with pytest.raises(InputError, match="more than the 2 persons") as caught:
            export(make_store([*clips, bad]), form, tmp_path / "y", "a")
        assert caught.value.clip == "crowd"
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize("form", ["ctr-gcn", "pyskl"])
def test_an_existing_output_is_replaced_only_on_request(store: Store, tmp_path: Path, form: str) -> None:
    out = tmp_path / "x"
    out.write_text("precious")
    with pytest.raises(InputError, match="exists already"):
        export(store, form, out, "cross-subject")
    assert out.read_text() == "precious"
    assert export(store, form, out, "cross-subject", overwrite=True) == out
    assert out.read_bytes()[:1] != b"p"


@pytest.mark.parametrize("form", ["ctr-gcn", "pyskl"])
def test_writing_holds_a_clip_and_not_the_data_set(
    make_store: Callable[..., Store], tmp_path: Path, form: str
) -> None:
    keypoints = np.ones((1000, 2, 25, 3), np.float32)
    clips = [Clip(f"{i}", keypoints, i % 2, subject=1 + i % 4) for i in range(40)]
    store = make_store(clips, StoreInfo("mine", "ntu-25", ("a", "b"), 30.0))
    tracemalloc.start()
    try:
        export(store, form, tmp_path / "x", "cross-subject", frames=1000)
        assert tracemalloc.get_traced_memory()[1] < 8 * keypoints.nbytes
    finally:
        tracemalloc.stop()
