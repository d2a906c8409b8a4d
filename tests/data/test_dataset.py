from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mica.data.dataset import SkeletonDataset
from mica.data.store import Clip, Store
from mica.errors import InputError
from mica.transforms.sampling import Preprocessing, prepare

MakeClip = Callable[..., Clip]
MakeStore = Callable[..., Store]


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
        assert torch.equal(item["x"], prepare(store.keypoints(index), store.layout, 2, how))


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


def test_loader_makes_batches(store: Store) -> None:
    dataset = SkeletonDataset(store, np.arange(5), Preprocessing(num_frames=12))
    batches = list(DataLoader(dataset, batch_size=2))
    assert [tuple(batch["x"].shape) for batch in batches] == [(2, 3, 12, 20, 2)] * 2 + [(1, 3, 12, 20, 2)]
    assert torch.cat([batch["label"] for batch in batches]).tolist() == [0, 1, 2, 0, 1]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3, 4]


def test_no_frames_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="0 frames"):
        SkeletonDataset(store, [0], Preprocessing(num_frames=0))
