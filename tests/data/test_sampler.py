"""The order of an epoch, and the views of its batches, are the same however many processes share them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from mica.data.clip import Clip
from mica.data.dataset import SkeletonDataset, SkeletonLoader
from mica.data.sampler import GlobalBatchSampler
from mica.data.store import Store
from mica.errors import InputError
from mica.transforms.augment import VIEWS, augment
from mica.transforms.draws import Draws
from mica.transforms.sampling import Preprocessing

MakeClip = Callable[..., Clip]
MakeStore = Callable[..., Store]

BATCH, SEED, EPOCHS = 16, 3, 2


@pytest.fixture
def store(make_clip: MakeClip, make_store: MakeStore) -> Store:
    return make_store([make_clip(f"{i}", 3 + 5 * i % 23, 1 + i % 2) for i in range(35)])


def views(store: Store, rank: int, processes: int) -> list[Tensor]:
    """What a process sees of two epochs: the clips of each step and a strong view of them."""
    dataset = SkeletonDataset(store, np.arange(len(store)), Preprocessing(num_frames=12))
    order = GlobalBatchSampler(len(dataset), BATCH, SEED, rank, processes)
    loader = SkeletonLoader(dataset, order, torch.device("cpu"))
    found, step = [], 0
    for epoch in range(EPOCHS):
        order.set_epoch(epoch)
        for batch in loader:
            draws = Draws(SEED, step, order.positions)
            found += [batch["index"], augment(batch["x"], VIEWS["strong"], store.layout, draws)]
            step += 1
    return found


def take_part(rank: int, processes: int, path: Path, out: Path) -> None:
    torch.set_num_threads(1)
    found = views(Store.open(path), rank, processes)
    np.savez(out / f"{rank}.npz", *[tensor.numpy() for tensor in found])


def assert_equal(whole: list[Tensor], parts: list[list[Tensor]]) -> None:
    assert len(whole) == 2 * 2 * EPOCHS
    for together, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat(shares), together)


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_parts_are_the_whole_batch_to_the_bit(store: Store, processes: int) -> None:
    parts = [views(store, rank, processes) for rank in range(processes)]
    assert all(len(shares[0]) == BATCH // processes for shares in parts)
    assert_equal(views(store, 0, 1), parts)


def test_four_processes_have_the_views_of_one(store: Store, tmp_path: Path) -> None:
    mp.spawn(take_part, (4, store.path, tmp_path), nprocs=4)
    parts = []
    for rank in range(4):
        with np.load(tmp_path / f"{rank}.npz") as found:
            parts.append([torch.from_numpy(array) for array in found.values()])
    assert_equal(views(store, 0, 1), parts)


def test_an_epoch_shows_every_clip_once() -> None:
    order = GlobalBatchSampler(count=100, batch_size=10, seed=0)
    assert len(order) == 10
    seen = [clip for batch in order for clip in batch]
    assert sorted(seen) == list(range(100))
    assert seen != sorted(seen)


def test_what_fills_no_batch_is_left_out_and_comes_another_time() -> None:
    order, seen = GlobalBatchSampler(count=11, batch_size=4, seed=0), []
    for epoch in range(20):
        order.set_epoch(epoch)
        batches = list(order)
        assert [len(batch) for batch in batches] == [4, 4] == [4] * len(order)
        seen.append(frozenset(range(11)) - {clip for batch in batches for clip in batch})
    assert len(set(seen)) > 10
    assert frozenset.union(*seen) == set(range(11))


def test_order_follows_from_seed_and_epoch_alone() -> None:
    def epoch(number: int, seed: int = 0) -> list[list[int]]:
        order = GlobalBatchSampler(count=50, batch_size=5, seed=seed)
        order.set_epoch(number)
        return list(order)

    before = torch.get_rng_state()
    assert epoch(3) == epoch(3)
    assert torch.equal(before, torch.get_rng_state())
    orders = [epoch(number, seed) for number in range(4) for seed in range(4)]
    assert all(one != two for i, one in enumerate(orders) for two in orders[:i])
    again = GlobalBatchSampler(count=50, batch_size=5, seed=0)
    assert list(again) == list(again) == epoch(0)


def test_every_order_is_as_likely() -> None:
    order, counts = GlobalBatchSampler(count=4, batch_size=4, seed=0), {}
    for epoch in range(1200):
        order.set_epoch(epoch)
        (batch,) = order
        counts[tuple(batch)] = counts.get(tuple(batch), 0) + 1
    assert len(counts) == 24
    assert (
        sum((count - 50) ** 2 / 50 for count in counts.values()) < 49.7
    )  # chi-square, 23 degrees, p = 0.001


def test_order_owes_nothing_to_the_views() -> None:
    (order,) = GlobalBatchSampler(count=64, batch_size=64, seed=0)
    assert order != Draws(0, 0, range(64)).bits(1)[:, 0].argsort().tolist()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"processes": 3}, "batch_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -4}, "batch_size"),
        ({"batch_size": 24}, "batch_size"),
        ({"count": 0}, "batch_size"),
        ({"processes": 0}, "processes"),
        ({"rank": 1}, "rank"),
        ({"rank": -1, "processes": 2}, "rank"),
    ],
)
def test_what_cannot_be_shared_is_refused(changes: dict[str, int], field: str) -> None:
    with pytest.raises(InputError) as caught:
        GlobalBatchSampler(**{"count": 20, "batch_size": 10, "seed": 0, **changes})
    assert caught.value.field == field
