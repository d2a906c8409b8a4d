from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mica.data.dataset import SkeletonDataset, SkeletonLoader, as_fetched, in_order
from mica.data.store import Clip, Store
from mica.errors import InputError
from mica.transforms.sampling import Preprocessing, prepare

MakeClip = Callable[..., Clip]
MakeStore = Callable[..., Store]
CPU = torch.device("cpu")


@pytest.fixture
def store(make_clip: MakeClip, make_store: MakeStore) -> Store:
    shapes = [(1, 1), (9, 2), (64, 1), (30, 3), (2, 1)]
    return make_store([make_clip(f"{i}", *shape, label=i % 3) for i, shape in enumerate(shapes)])


def test_items_are_the_chosen_clips_in_their_order(store: Store) -> None:
    how = Preprocessing(num_frames=16)
    dataset = SkeletonDataset(store, [3, 0, 2], how)
    assert len(dataset) == 3
    for i, index in enumerate([3, 0, 2]):
        item = dataset[i]
        assert item["index"] == index
        assert item["label"] == store.labels[index]
        assert item["x"].shape == (3, 16, 20, 2)
        assert item["x"].dtype == torch.float32
        recorded = torch.from_numpy(store.keypoints(index)[:, :2].copy())
        lengths = torch.tensor([len(recorded)])
        assert torch.equal(
            item["x"][..., : recorded.shape[1]], prepare(recorded, lengths, store.layout, how)[0]
        )
        assert not item["x"][..., recorded.shape[1] :].any()


def test_preprocessing_reaches_the_clips(store: Store) -> None:
    plain, aligned = (
        SkeletonDataset(store, [2], Preprocessing(num_frames=8, align_view=align)) for align in (False, True)
    )
    assert not torch.allclose(plain[0]["x"], aligned[0]["x"])


def test_persons_are_those_of_the_store_at_most_two(
    store: Store, make_clip: MakeClip, make_store: MakeStore
) -> None:
    how = Preprocessing(num_frames=8)
    only_single = SkeletonDataset(store, [0, 2], how)
    assert only_single[1]["x"].shape[-1] == 2  # as for the other clips of the store
    assert not only_single[1]["x"][..., 1].any()
    assert SkeletonDataset(make_store([make_clip("a")]), [0], how)[0]["x"].shape[-1] == 1


def test_of_a_crowd_the_first_two_are_used(make_clip: MakeClip, make_store: MakeStore) -> None:
    clip = make_clip("crowd", frames=6, persons=4)
    clip.keypoints[:, 2:] *= 100  # however much others move
    fetched = SkeletonDataset(make_store([clip]), [0], Preprocessing()).__getitems__([0])
    np.testing.assert_array_equal(fetched["keypoints"], clip.keypoints[:, :2])


def test_clips_are_fetched_as_recorded_with_room_for_two(store: Store) -> None:
    fetched = SkeletonDataset(store, [4, 3, 1, 0], Preprocessing()).__getitems__([1, 0, 3])
    assert fetched["index"].tolist() == [3, 4, 0]
    assert fetched["lengths"].tolist() == [30, 2, 1]
    assert fetched["label"].tolist() == [0, 1, 0]
    assert fetched["keypoints"].shape == (33, 2, 20, 3)
    parts = fetched["keypoints"].split([30, 2, 1])
    np.testing.assert_array_equal(parts[0], store.keypoints(3)[:, :2])
    for part, index in zip(parts[1:], (4, 0), strict=True):
        np.testing.assert_array_equal(part[:, :1], store.keypoints(index))
        assert not part[:, 1:].any()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_loader_fetches_a_batch_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(SkeletonDataset, "__getitem__", lambda *_: pytest.fail("clip by clip"))
    dataset = SkeletonDataset(store, np.arange(5), Preprocessing())
    batches = list(DataLoader(dataset, batch_size=3, collate_fn=as_fetched, num_workers=workers))
    assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2], [3, 4]]
    assert [len(batch["keypoints"]) for batch in batches] == [1 + 9 + 64, 30 + 2]


def test_loader_gives_the_batches_of_an_order(store: Store) -> None:
    dataset = SkeletonDataset(store, [4, 3, 2, 1, 0], Preprocessing(num_frames=12))
    loader = SkeletonLoader(dataset, [[3, 0], [2, 2, 1]], CPU)
    assert len(loader) == 2
    for _ in range(2):  # as often as one likes
        batches = list(loader)
        assert [batch["index"].tolist() for batch in batches] == [[1, 4], [2, 2, 3]]
        assert [batch["label"].tolist() for batch in batches] == [[1, 1], [2, 2, 0]]
        for batch, places in zip(batches, [[3, 0], [2, 2, 1]], strict=True):
            expected = torch.stack([dataset[place]["x"] for place in places])
            torch.testing.assert_close(batch["x"], expected, atol=1e-6, rtol=0)


def test_loading_leaves_the_global_generator_alone(store: Store) -> None:
    before = torch.get_rng_state()
    list(SkeletonLoader(SkeletonDataset(store, [0, 1], Preprocessing()), [[0], [1]], CPU))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("count", "size"), [(0, 3), (1, 3), (6, 3), (7, 3)])
def test_batches_in_order(count: int, size: int) -> None:
    batches = in_order(count, size)
    assert [clip for batch in batches for clip in batch] == list(range(count))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(0 < len(batch) <= size for batch in batches)


def test_no_frames_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="0 frames"):
        SkeletonDataset(store, [0], Preprocessing(num_frames=0))
