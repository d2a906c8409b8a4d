"""Clips of a store as the tensors that training takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Float32, Int
from torch import Tensor
from torch.utils.data import Dataset

from mica.data.store import Store
from mica.errors import InputError
from mica.transforms.sampling import Preprocessing, prepare

MOST_PERSONS = 2


class Item(TypedDict):
    """One clip: `x` (3, T, V, M) float32, its label, and its position in the store."""

    x: Float32[Tensor, "3 T V M"]
    label: int
    index: int


class SkeletonDataset(Dataset[Item]):
    """The clips at `indices` of a store, each prepared as `how` says.

    Batches hold as many bodies as the fullest clip of the whole store, at most two, so that all splits agree.
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
        index = int(self.indices[i])
        x = prepare(self.store.keypoints(index), self.store.layout, self.persons, self.how)
        return {"x": x, "label": int(self.store.labels[index]), "index": index}
