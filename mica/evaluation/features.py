"""Features of clips: by a trained encoder, by one that never learned anything, or the coordinates themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mica.data.dataset import SkeletonDataset, SkeletonLoader, in_order
from mica.data.splits import Split
from mica.data.store import Store
from mica.models.mica import MICA
from mica.models.pretrained import ModelCard
from mica.skeleton import SkeletonLayout
from mica.transforms.streams import Stream, to_stream

Source = Literal["trained", "random", "raw", "turned"]


@dataclass
class SplitFeatures:
    """Features and labels of a protocol's training and test part; `fit` marks the training clips without validation."""

    train: Float[Tensor, "train features"]
    train_labels: Int[Tensor, " train"]
    fit: Bool[Tensor, " train"]
    test: Float[Tensor, "test features"]
    test_labels: Int[Tensor, " test"]

    @property
    def for_choosing(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features and labels of the fit clips, then of the validation clips: all that a choice may look at."""
        fit = self.fit
        return self.train[fit], self.train_labels[fit], self.train[~fit], self.train_labels[~fit]


@torch.inference_mode()
def extract_features(
    model: MICA, dataset: SkeletonDataset, stream: Stream, layout: SkeletonLayout, batch_size: int = 128
) -> tuple[Float[Tensor, "clips features"], Int[Tensor, " clips"]]:
    """Return float32 features on the CPU and the labels, in the dataset's order; the model is left as it was."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    features, labels = [], []
    for batch in SkeletonLoader(dataset, in_order(len(dataset), batch_size), device):
        features.append(model.features(to_stream(batch["x"], stream, layout)).float().cpu())
        labels.append(batch["label"].cpu())
    model.train(was_training)
    return torch.cat(features), torch.cat(labels)


def encoder_features(model: MICA, card: ModelCard, store: Store, division: Split) -> SplitFeatures:
    """Features of the model, which is fed as its card says."""

    def extract(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        dataset = SkeletonDataset(store, indices, card.preprocessing)
        return extract_features(model, dataset, card.preprocessing.stream, store.layout)

    return _by_part(division, extract(division.train), extract(division.test))


def random_model(card: ModelCard) -> MICA:
    """The same architecture with the weights it had before training."""
    torch.manual_seed(card.seed)
    return card.build().eval()


def raw_features(card: ModelCard, store: Store, division: Split, *, align_view: bool) -> SplitFeatures:
    """Coordinates resampled and centred as for the encoder, as recorded or turned to the front: the floor."""
    how = replace(card.preprocessing, align_view=align_view)

    def read(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        dataset = SkeletonDataset(store, indices, how)
        loader = SkeletonLoader(dataset, in_order(len(dataset), 256), torch.device("cpu"))
        batches = [(batch["x"].flatten(1), batch["label"]) for batch in loader]
        return torch.cat([x for x, _ in batches]), torch.cat([labels for _, labels in batches])

    return _by_part(division, read(division.train), read(division.test))


def _by_part(division: Split, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> SplitFeatures:
    fit = torch.from_numpy(np.isin(division.train, division.fit))
    return SplitFeatures(*train, fit, *test)


def standardise(
    train: Float[Tensor, "clips features"], *others: Float[Tensor, "more features"]
) -> tuple[Tensor, ...]:
    """Scale every feature by the training part's mean and spread; a feature that never varies becomes 0.

    >>> train, test = standardise(torch.tensor([[0.0, 5.0], [2.0, 5.0]]), torch.tensor([[4.0, 5.0]]))
    >>> train.tolist(), test.tolist()
    ([[-1.0, 0.0], [1.0, 0.0]], [[3.0, 0.0]])
    """
    mean, spread = train.mean(0), train.std(0, unbiased=False)
    scale = torch.where(spread > 1e-6, 1 / spread.clamp_min(1e-6), 0)
    return tuple((part - mean) * scale for part in (train, *others))
