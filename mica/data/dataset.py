"""Clips of a store as the tensors that training takes, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Float32, Int, Int64
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from mica.data.clip import MOST_PERSONS
from mica.data.store import Store
from mica.errors import InputError
from mica.transforms.sampling import Preprocessing, prepare


class Item(TypedDict):
    """One clip: `x` (3, T, V, M) float32, its label, and its position in the store."""

    x: Float32[Tensor, "3 T V M"]
    label: int
    index: int


class Batch(TypedDict):
    """Clips as the encoder takes them, their labels, and their positions in the store."""

    x: Float32[Tensor, "N 3 T V M"]
    label: Int64[Tensor, " N"]
    index: Int64[Tensor, " N"]


class RaggedBatch(TypedDict):
    """Clips as recorded, their frames one after another, with room for the same number of persons in all."""

    keypoints: Float32[Tensor, "F M V 3"]
    lengths: Int64[Tensor, " N"]
    label: Int64[Tensor, " N"]
    index: Int64[Tensor, " N"]


class SkeletonDataset(Dataset[Item]):
    """The clips at `indices` of a store, each prepared as `how` says.

    Batches hold as many bodies as the fullest clip of the whole store, at most two, so that all splits agree.
    `SkeletonLoader` makes prepared batches; a `DataLoader` with `collate_fn=as_fetched` makes ragged ones.
    """

    def __init__(
        self, store: Store, indices: Sequence[int] | Int[np.ndarray, " clips"], how: Preprocessing
    ) -> None:
        if how.num_frames < 1:
            raise InputError(f"{how.num_frames} frames a clip, expected at least 1", field="num_frames")
        self.store, self.how = store, how
        self.indices = np.asarray(indices, dtype=np.int64)
        self.persons = min(MOST_PERSONS, int(store.persons.max()))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Item:
        batch = self.prepared(self.__getitems__([i]))
        return {"x": batch["x"][0], "label": int(batch["label"]), "index": int(batch["index"])}

    def __getitems__(self, chosen: Sequence[int]) -> RaggedBatch:
        """Read the clips at these places of the dataset as recorded; persons past the first two are left out.

        Which these are, the reader of the raw files decides: of NTU RGB+D those who move most, else those who come
        first in the file.
        """
        index = self.indices[np.asarray(chosen)]
        lengths = self.store.frames[index]
        keypoints = np.empty((lengths.sum(), self.persons, self.store.layout.num_joints, 3), np.float32)
        end = 0
        for clip in index:
            recorded = self.store.keypoints(clip)[:, : self.persons]
            start, end = end, end + len(recorded)
            keypoints[start:end, : recorded.shape[1]] = recorded
            keypoints[start:end, recorded.shape[1] :] = 0
        return {
            "keypoints": torch.from_numpy(keypoints),
            "lengths": torch.from_numpy(lengths),
            "label": torch.from_numpy(self.store.labels[index]),
            "index": torch.from_numpy(index),
        }

    def prepared(self, batch: RaggedBatch) -> Batch:
        """Prepare clips on the device that they are on."""
        x = prepare(batch["keypoints"], batch["lengths"], self.store.layout, self.how)
        return {"x": x, "label": batch["label"], "index": batch["index"]}


def to_device(batch: RaggedBatch, device: torch.device) -> RaggedBatch:
    """Copy a batch to a device, without waiting where its memory is pinned."""
    return {
        "keypoints": batch["keypoints"].to(device, non_blocking=True),
        "lengths": batch["lengths"].to(device, non_blocking=True),
        "label": batch["label"].to(device, non_blocking=True),
        "index": batch["index"].to(device, non_blocking=True),
    }


class SkeletonLoader:
    """Prepared batches on a device: clips are fetched as recorded, a batch at once, and resampled where they are used.

    `order` gives the places in the dataset that make up each batch; `workers` processes read ahead of their use, and
    none where it is 0.
    """

    def __init__(
        self, dataset: SkeletonDataset, order: Iterable[list[int]], device: torch.device, workers: int = 0
    ) -> None:
        self.dataset, self.device = dataset, device
        self._fetcher = DataLoader(
            dataset,
            batch_sampler=order,
            collate_fn=as_fetched,
            pin_memory=device.type == "cuda",
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=Generator(),  # else each pass would draw from PyTorch's own, and change what others draw
        )

    def __len__(self) -> int:
        return len(self._fetcher)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._fetcher:
            yield self.dataset.prepared(to_device(batch, self.device))


def as_fetched(batch: Any) -> Any:
    """The clips of a batch are together already: `DataLoader` has nothing to collate."""
    return batch


def in_order(count: int, batch_size: int) -> list[list[int]]:
    """Batches of clips one after another, the last as large as what is left.

    >>> in_order(5, batch_size=2)
    [[0, 1], [2, 3], [4]]
    """
    return [list(range(start, min(start + batch_size, count))) for start in range(0, count, batch_size)]
