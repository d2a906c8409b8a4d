from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica.data.class_names import CLASS_NAMES
from mica.data.splits import (
    PROTOCOLS,
    ZERO_SHOT_SPLITS,
    describe,
    get_protocol,
    protocols_of,
    published_protocols,
    split,
    validation_subjects,
    zero_shot_split,
)
from mica.data.store import Clip, Store, StoreInfo
from mica.errors import InputError

MakeClip = Callable[..., Clip]
MakeStore = Callable[..., Store]


@pytest.fixture
def store(make_clip: MakeClip, make_store: MakeStore) -> Store:
    """Eight subjects of three clips each, out of order."""
    subjects = [*range(8, 0, -1)] * 3
    return make_store([make_clip(f"{i}", subject=subject) for i, subject in enumerate(subjects)])


def test_parts_of_a_split(store: Store) -> None:
    parts = split(store, "cross-subject")
    assert set(store.subjects[parts.train].tolist()) == {1, 3, 5, 7}
    assert sorted([*parts.train, *parts.test]) == list(range(len(store)))
    assert sorted([*parts.fit, *parts.validation]) == parts.train.tolist()
    assert set(store.subjects[parts.validation].tolist()) == {5}
    assert 5 not in store.subjects[parts.fit]
    assert parts.note == "found 12 / 12, published 431 / 430"
    assert describe(store) == {"cross-subject": parts.note}


@given(st.sets(st.integers(0, 10_000), min_size=2, max_size=60))
def test_validation_is_a_spread_fifth(numbers: set[int]) -> None:
    subjects = np.array(sorted(numbers))
    held_out = validation_subjects(subjects)
    assert len(set(held_out.tolist())) == len(held_out) == max(1, round(len(numbers) / 5))
    assert set(held_out.tolist()) < numbers
    positions = np.searchsorted(subjects, held_out)
    gaps = np.diff(positions)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_ntu_protocols_are_the_official_ones(
    real_data: Path, make_clip: MakeClip, make_store: MakeStore
) -> None:
    official = json.loads((real_data / "splits" / "protocols.json").read_text())
    clips = [make_clip(f"{n}", frames=1, joints=25, subject=n, camera=n, setup=n) for n in range(1, 121)]

    def train(dataset: str, protocol: str) -> list[int]:
        store = make_store(clips, StoreInfo(dataset, "ntu-25", ("a",), 30.0))
        return [
            n
            for n, part in enumerate(get_protocol(store, protocol).divide(store), start=1)
            if part == "train"
        ]

    assert train("ntu60", "cross-subject") == official["ntu60_xsub_train_subjects"]
    assert train("ntu60", "cross-view") == official["ntu60_xview_train_cameras"]
    assert train("ntu120", "cross-subject") == official["ntu120_xsub_train_subjects"]
    assert train("ntu120", "cross-setup") == list(range(2, 121, 2))


@pytest.mark.parametrize(
    ("dataset", "total"),
    [("nw-ucla", 1484), ("utd-mhad", 861), ("ntu60", 56880 - 302), ("ntu120", 114480 - 535)],
)
def test_published_counts_add_up_to_the_data_set(dataset: str, total: int) -> None:
    for protocol in published_protocols(dataset):
        assert protocol.expected is not None
        assert sum(protocol.expected) == total


def test_note_of_a_set_without_published_counts(make_clip: MakeClip, make_store: MakeStore) -> None:
    made = StoreInfo("synthetic", "kinect-20", ("a",), 30.0)
    store = make_store([make_clip(f"{n}", subject=n) for n in range(1, 6)], made)
    assert split(store, "cross-subject").note == "3 / 2"


@pytest.mark.parametrize(
    ("subjects", "problem"),
    [
        ([2, 4], "no clips to train"),
        ([1, 3], "no clips to test"),
        ([1, 1, 2], "all training clips are of subject 1"),
    ],
)
def test_an_empty_part_is_refused(
    make_clip: MakeClip, make_store: MakeStore, subjects: list[int], problem: str
) -> None:
    store = make_store([make_clip(f"{i}", subject=subject) for i, subject in enumerate(subjects)])
    with pytest.raises(InputError, match=problem) as caught:
        split(store, "cross-subject")
    assert caught.value.file == store.path


def test_ones_own_set_divides_by_odd_and_even_subjects(make_clip: MakeClip, make_store: MakeStore) -> None:
    info = StoreInfo("my-set", "kinect-20", ("wave",), 30.0)
    store = make_store([make_clip(f"{subject}", subject=subject) for subject in (1, 2, 3, 4, 5)], info)
    division = split(store, "cross-subject")
    assert store.subjects[division.train].tolist() == [1, 3, 5]
    assert store.subjects[division.test].tolist() == [2, 4]


def test_unknown_names_list_the_known_ones(store: Store) -> None:
    with pytest.raises(InputError, match=r"(?s)'cross-view' for utd-mhad.*cross-subject"):
        split(store, "cross-view")
    with pytest.raises(InputError, match=r"(?s)'50/10' for ntu60.*55/5, 48/12"):
        zero_shot_split("ntu60", "50/10")
    with pytest.raises(InputError, match=r"(?s)nw-ucla.*none"):
        zero_shot_split("nw-ucla", "8/2")
    assert len({(protocol.dataset, protocol.name) for protocol in PROTOCOLS}) == len(PROTOCOLS)


@pytest.mark.parametrize("chosen", ZERO_SHOT_SPLITS, ids=lambda chosen: f"{chosen.dataset} {chosen.name}")
def test_zero_shot_splits_count_what_their_names_say(chosen: object) -> None:
    found = zero_shot_split(chosen.dataset, chosen.name)  # type: ignore[attr-defined]
    seen, unseen = map(int, found.name.split("/"))
    assert len(set(found.unseen)) == unseen
    assert seen + unseen == len(CLASS_NAMES[found.dataset])
    assert max(found.unseen) < seen + unseen


def test_class_names(real_data: Path) -> None:
    for dataset, file in (
        ("nw-ucla", "nw_ucla"),
        ("utd-mhad", "utd_mhad"),
        ("ntu60", "ntu60"),
        ("ntu120", "ntu120"),
        ("pku-mmd-1", "pkummd"),
        ("pku-mmd-2", "pkummd"),
    ):
        listed = (real_data / "class_names" / f"{file}.txt").read_text().split("\n")
        assert CLASS_NAMES[dataset] == tuple(line.strip() for line in listed if line.strip())
        assert len(set(CLASS_NAMES[dataset])) == len(CLASS_NAMES[dataset])


PARTS = {"train": {"official": "train"}, "held out": {"official": "validation"}, "test": {"official": "test"}}


def given_store(make_clip: MakeClip, make_store: MakeStore, dataset: str = "my-set") -> Store:
    """Six clips whose source says who trains, validates and tests, and one of which it says nothing."""
    order = ("test", "train", "train", "held out", "train", "test", "")
    clips = [
        make_clip(f"{i}", joints=25, subject=i, camera=1, parts=PARTS.get(part, {}))
        for i, part in enumerate(order)
    ]
    return make_store(clips, StoreInfo(dataset, "ntu-25", ("a",), 30.0))


def test_a_source_that_divides_itself_is_followed(make_clip: MakeClip, make_store: MakeStore) -> None:
    store = given_store(make_clip, make_store)
    assert [protocol.name for protocol in protocols_of(store)] == ["official"]
    found = split(store, "official")
    assert found.train.tolist() == [1, 2, 3, 4]
    assert (found.fit.tolist(), found.validation.tolist()) == ([1, 2, 4], [3])
    assert found.test.tolist() == [0, 5]
    assert found.note == "4 / 2, in neither 1"
    with pytest.raises(InputError, match=r"(?s)'cross-subject' for my-set.*known protocols: official"):
        split(store, "cross-subject")


def test_what_the_source_says_comes_before_the_published_rule(
    make_clip: MakeClip, make_store: MakeStore
) -> None:
    """Prepared by others, subjects are unknown, but not who trains."""
    parts = ({"cross-subject": "train"}, {"cross-subject": "train"}, {"cross-subject": "test"})
    clips = [
        make_clip(f"{i}", joints=25, subject=(3, 6, 7)[i], camera=1 + i, parts=part)
        for i, part in enumerate(parts)
    ]
    store = make_store(clips, StoreInfo("ntu60", "ntu-25", ("a",), 30.0))
    assert [protocol.name for protocol in protocols_of(store)] == ["cross-subject", "cross-view"]
    assert describe(store)["cross-subject"] == "found 2 / 1, published 40,091 / 16,487"
    assert describe(store)["cross-view"] == "found 2 / 1, published 37,646 / 18,932"
    assert split(store, "cross-view").test.tolist() == [0]


def test_validation_without_subjects(make_clip: MakeClip, make_store: MakeStore) -> None:
    """Whole setups where those are known; else every fifth clip of a class."""
    info = StoreInfo("my-set", "kinect-20", ("a", "b"), 30.0)
    train, test = {"x": "train"}, {"x": "test"}
    videos = [make_clip(f"{i}", setup=1 + i // 3, parts=train) for i in range(30)] + [
        make_clip("t", parts=test)
    ]
    found = split(make_store(videos, info), "x")
    assert set((found.validation // 3).tolist()) == {2, 7}
    assert len(found.validation) == 6

    unknown = [make_clip(f"{i}", label=i % 2, parts=train) for i in range(25)] + [make_clip("t", parts=test)]
    store = make_store(unknown, info)
    found = split(store, "x")
    assert found.validation.tolist() == [8, 9, 18, 19]
    assert sorted([*found.fit, *found.validation]) == list(range(25))


@pytest.mark.parametrize(
    ("labels", "held_out"),
    [
        ([0, 1, 0, 1, 0], [3, 4]),
        ([0, 1, 1, 2], [2]),
        ([0] * 5 + [1] * 4, [4]),  # where some class has five, nothing else is held out
    ],
)
def test_few_clips_of_unknown_people_validate(
    make_clip: MakeClip, make_store: MakeStore, labels: list[int], held_out: list[int]
) -> None:
    clips = [make_clip(f"{i}", label=label, parts={"x": "train"}) for i, label in enumerate(labels)]
    found = split(make_store([*clips, make_clip("t", parts={"x": "test"})]), "x")
    assert found.validation.tolist() == held_out
    assert sorted([*found.fit, *found.validation]) == list(range(len(labels)))


def test_where_nothing_can_be_held_out_the_split_is_refused(
    make_clip: MakeClip, make_store: MakeStore
) -> None:
    clips = [make_clip(f"{i}", label=i, parts={"x": "train"}) for i in range(3)]
    store = make_store([*clips, make_clip("t", parts={"x": "test"})])
    with pytest.raises(
        InputError, match=r"(?s)no class has two clips that train.*`part` in clips\.csv"
    ) as caught:
        split(store, "x")
    assert (caught.value.file, caught.value.field) == (store.path, "label")


def test_one_setup_of_unknown_people_is_no_reason_to_refuse(
    make_clip: MakeClip, make_store: MakeStore
) -> None:
    clips = [make_clip(f"{i}", setup=1, parts={"x": "train"}) for i in range(10)]
    found = split(make_store([*clips, make_clip("t", setup=2, parts={"x": "test"})]), "x")
    assert found.validation.tolist() == [4, 9]


def test_a_source_that_names_nobody_to_train_is_refused(make_clip: MakeClip, make_store: MakeStore) -> None:
    clips = [make_clip(part, subject=1, parts={"x": part}) for part in ("validation", "test")]
    with pytest.raises(InputError, match="leaves no clips to train"):
        split(make_store(clips), "x")


@pytest.mark.parametrize(
    ("dataset", "column", "protocol", "values", "expected"),
    [
        ("mine", "subject", "cross-subject", [0, 1, 2, 0, 3], ["", "train", "test", "", "train"]),
        ("ntu60", "camera", "cross-view", [1, 0, 2], ["test", "", "train"]),
        ("ntu120", "setup", "cross-setup", [1, 0, 2], ["test", "", "train"]),
        ("mine", "subject", "cross-subject", [999_999_999, 1_000_001, 1_000_002], ["train", "train", "test"]),
        ("mine", "subject", "cross-subject", [2**31 - 1, 2], ["train", "test"]),
    ],
)
def test_a_clip_of_which_nothing_is_known_takes_no_part(
    make_clip: MakeClip,
    make_store: MakeStore,
    dataset: str,
    column: str,
    protocol: str,
    values: list[int],
    expected: list[str],
) -> None:
    """Zero is unknown, and no even number; numbers may be as large as a store holds."""
    clips = [make_clip(f"{i}", joints=25, **{column: value}) for i, value in enumerate(values)]
    store = make_store(clips, StoreInfo(dataset, "ntu-25", ("a",), 30.0))
    assert get_protocol(store, protocol).divide(store).tolist() == expected
    if "" in expected:
        assert f"in neither {expected.count('')}" in describe(store)[protocol]


def test_subjects_that_nobody_knows_divide_nothing(make_clip: MakeClip, make_store: MakeStore) -> None:
    """Zero is no even subject."""
    clips = [make_clip(f"{i}", parts={"as-given": part}) for i, part in enumerate(("train", "train", "test"))]
    store = make_store(clips)
    assert describe(store) == {
        "cross-subject": "unknown: the files did not say their subjects",
        "as-given": "2 / 1",
    }
    with pytest.raises(InputError, match=r"(?s)leaves no clips to train.*cross-subject, as-given"):
        split(store, "cross-subject")


def test_lists_that_were_not_among_the_files(make_clip: MakeClip, make_store: MakeStore) -> None:
    clips = [make_clip(f"{i}", joints=25, camera=1 + i) for i in range(3)]
    store = make_store(clips, StoreInfo("pku-mmd-1", "ntu-25", ("a",), 30.0))
    assert all("did not say their list of videos" in note for note in describe(store).values())
    with pytest.raises(InputError, match=r"(?s)no clips to train.*cross-subject, cross-view"):
        split(store, "cross-subject")
