from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica.data import writing
from mica.data.store import Clip, Store, StoreInfo, write
from mica.errors import InputError

MakeClip = Callable[..., Clip]
MakeStore = Callable[..., Store]


def assert_same(found: Clip, expected: Clip) -> None:
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    empty = np.empty(0)
    assert replace(found, keypoints=empty).__dict__.keys() == expected.__dict__.keys()
    for name, value in expected.__dict__.items():
        assert name == "keypoints" or getattr(found, name) == value


def odd_clips(make_clip: MakeClip) -> list[Clip]:
    """One frame, several persons, dropped frames, every field set, letters beyond ASCII."""
    lost = make_clip("lost", frames=9, persons=2, label=2)
    lost.keypoints[3:5] = 0
    lost.keypoints[:, 1] = 0
    return [
        make_clip("one frame", frames=1, label=1),
        lost,
        make_clip(
            "full",
            frames=30,
            subject=7,
            camera=2,
            setup=32,
            replication=4,
            text="winkt, 手を振る",
            parts={"x": "train", "y": "test"},
        ),
        make_clip("three", frames=2, persons=3),
    ]


@pytest.mark.parametrize("coordinates_a_batch", [1, 1000, 4 << 20])
def test_round_trip(
    make_clip: MakeClip,
    make_store: MakeStore,
    info: StoreInfo,
    monkeypatch: pytest.MonkeyPatch,
    coordinates_a_batch: int,
) -> None:
    monkeypatch.setattr(writing, "_BATCH_COORDINATES", coordinates_a_batch)
    clips = odd_clips(make_clip)
    store = make_store(clips)
    assert len(store) == 4
    assert store.info == info
    assert store.layout.name == "kinect-20"
    for i, clip in enumerate(clips):
        assert_same(store.clip(i), clip)
    assert store.names.tolist() == [clip.name for clip in clips]
    assert store.frames.tolist() == [1, 9, 30, 2]
    assert store.persons.tolist() == [1, 2, 1, 3]
    assert store.labels.tolist() == [1, 2, 0, 0]
    assert (store.subjects[2], store.cameras[2], store.setups[2], store.replications[2]) == (7, 2, 32, 4)


@settings(max_examples=30, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 3)), min_size=1, max_size=8),
    seed=st.integers(0, 9),
)
def test_round_trip_of_any_shapes(shapes: list[tuple[int, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = [random.normal(size=(*shape, 25, 3)).astype(np.float32) for shape in shapes]
    info = StoreInfo("any", "ntu-25", ("a",), 30.0)
    with TemporaryDirectory() as folder:
        write(f"{folder}/x.arrow", (Clip(str(i), array, 0) for i, array in enumerate(arrays)), info)
        store = Store.open(f"{folder}/x.arrow")
        for i, array in enumerate(arrays):
            np.testing.assert_array_equal(store.keypoints(i), array)


def test_extreme_values_come_back_bit_for_bit(make_clip: MakeClip, make_store: MakeStore) -> None:
    clip = make_clip()
    clip.keypoints.reshape(-1)[:5] = [np.finfo(np.float32).max, np.finfo(np.float32).tiny, 1e-45, -0.0, 1 / 3]
    assert make_store([clip]).keypoints(0).tobytes() == clip.keypoints.tobytes()


def test_clips_that_are_views_with_strides(make_clip: MakeClip, make_store: MakeStore) -> None:
    whole = make_clip(frames=20)
    clip = replace(whole, keypoints=whole.keypoints[::-2])
    np.testing.assert_array_equal(make_store([clip]).keypoints(0), whole.keypoints[::-2])


def test_keypoints_are_read_only_views_of_the_mapped_file(make_clip: MakeClip, make_store: MakeStore) -> None:
    store = make_store(odd_clips(make_clip))
    first, again = store.keypoints(1), store.keypoints(1)
    assert np.shares_memory(first, again)
    assert not np.shares_memory(first, store.keypoints(2))
    assert not first.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1


def test_summary(tmp_path: Path, make_clip: MakeClip, info: StoreInfo) -> None:
    summary = write(tmp_path / "x.arrow", odd_clips(make_clip), info)
    assert summary.path == tmp_path / "x.arrow"
    assert (summary.clips, summary.frames, summary.persons) == (4, (1, 30), 3)
    assert summary.class_counts == (2, 1, 1)
    assert "4 clips of utd-mhad" in str(summary)
    assert "classes 3 of 3" in str(summary)


def test_writing_holds_a_batch_and_not_the_data_set(
    tmp_path: Path, make_clip: MakeClip, info: StoreInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_BATCH_COORDINATES", 4 * 5 * 20 * 3)
    handed_out: list[weakref.ref[np.ndarray]] = []
    most = 0

    def clips() -> Iterator[Clip]:
        nonlocal most
        for i in range(50):
            clip = make_clip(f"{i}")
            handed_out.append(weakref.ref(clip.keypoints))
            most = max(most, sum(keypoints() is not None for keypoints in handed_out))
            yield clip

    write(tmp_path / "x.arrow", clips(), info)
    assert most <= 6


def test_a_failure_leaves_nothing_behind(tmp_path: Path, make_clip: MakeClip, info: StoreInfo) -> None:
    def clips() -> Iterator[Clip]:
        yield make_clip("good")
        raise RuntimeError("the disk fell out")

    with pytest.raises(RuntimeError, match="fell out"):
        write(tmp_path / "x.arrow", clips(), info)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_store(make_clip: MakeClip, make_store: MakeStore, info: StoreInfo) -> None:
    store = make_store([make_clip("old")])
    before = store.path.read_bytes()
    with pytest.raises(InputError):
        write(store.path, [make_clip("new"), make_clip("bad", label=9)], info, overwrite=True)
    assert store.path.read_bytes() == before
    assert list(store.path.parent.iterdir()) == [store.path]


def test_an_existing_output_is_replaced_only_on_request(
    tmp_path: Path, make_clip: MakeClip, info: StoreInfo
) -> None:
    path = tmp_path / "new folder" / "x.arrow"
    write(path, [make_clip("old")], info)
    with pytest.raises(InputError, match="exists already"):
        write(path, [make_clip("new")], info)
    assert Store.open(path).names.tolist() == ["old"]
    write(path, [make_clip("new")], info, overwrite=True)
    assert Store.open(path).names.tolist() == ["new"]


def test_another_process_gets_the_path_and_not_the_data(make_clip: MakeClip, make_store: MakeStore) -> None:
    store = make_store([make_clip(frames=200)])
    message = pickle.dumps(store)
    assert len(message) < 1000
    np.testing.assert_array_equal(pickle.loads(message).keypoints(0), store.keypoints(0))
