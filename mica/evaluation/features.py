"""Features of clips: by a trained encoder, by one that never learned anything, or the coordinates themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor
from tqdm import tqdm

from mica.data.dataset import SkeletonDataset, SkeletonLoader, in_order
from mica.data.splits import Split
from mica.data.store import Store
from mica.errors import InputError
from mica.models.mica import MICA, ModelCard
from mica.skeleton import SkeletonLayout
from mica.transforms.streams import Stream, to_stream

Source = Literal["trained", "random", "raw", "turned"]

_ROWS = 256
_LEAST_SPREAD = 1e-6


class ForChoosing(NamedTuple):
    """All that a choice may look at: the training part, divided into clips to fit and clips to validate."""

    fit: Float[Tensor, "fit features"]
    fit_labels: Int[Tensor, " fit"]
    validation: Float[Tensor, "validation features"]
    validation_labels: Int[Tensor, " validation"]


@dataclass
class SplitFeatures:
    """Features and labels of a protocol's training and test part; `fit` marks the training clips without validation."""

    train: Float[Tensor, "train features"]
    train_labels: Int[Tensor, " train"]
    fit: Bool[Tensor, " train"]
    test: Float[Tensor, "test features"]
    test_labels: Int[Tensor, " test"]

    @property
    def for_choosing(self) -> ForChoosing:
        """The training part alone, copied into its two parts."""
        fit = self.fit
        return ForChoosing(self.train[fit], self.train_labels[fit], self.train[~fit], self.train_labels[~fit])


@torch.no_grad()  # not inference mode, whose tensors no later training could save for its backward pass
def extract_features(
    model: MICA,
    dataset: SkeletonDataset,
    stream: Stream,
    layout: SkeletonLayout,
    batch_size: int = 128,
    progress: str | None = None,
) -> tuple[Float32[Tensor, "clips features"], Int64[Tensor, " clips"]]:
    """Return float32 features on the CPU and the labels, in the dataset's order; the model is left as it was.

    progress: what to call the bar that is shown meanwhile; none without it. Raises InputError where a feature is not
    finite.
    """

    def features_of(x: Float[Tensor, "N C T V M"]) -> Float[Tensor, "N features"]:
        return model.features(to_stream(x, stream, layout))

    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        return _fill(dataset, model.num_features, features_of, device, batch_size, progress)
    finally:
        model.train(was_training)


@torch.inference_mode()
def in_text_space(model: MICA, features: Float[Tensor, "clips features"]) -> Float[Tensor, "clips D"]:
    """Where the clips meet the words, L2-normalised, on the CPU: `model.embed` of its features, some rows at a time."""
    device = next(model.parameters()).device
    return torch.cat([model.embed(rows.to(device)).cpu() for rows in features.split(4096)])


def encoder_features(
    model: MICA, card: ModelCard, store: Store, division: Split, progress: str | None = None
) -> SplitFeatures:
    """Features of the model, which is fed as its card says."""

    def extract(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        dataset = SkeletonDataset(store, indices, card.preprocessing)
        return extract_features(model, dataset, card.preprocessing.stream, store.layout, progress=progress)

    return _by_part(division, extract(division.train), extract(division.test))


def random_model(card: ModelCard) -> MICA:
    """The same architecture with the weights it had before training."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(card.seed)
        return card.build().eval()


def raw_features(
    card: ModelCard, store: Store, division: Split, *, align_view: bool, progress: str | None = None
) -> SplitFeatures:
    """Coordinates resampled and centred as for the encoder, as recorded or turned to the front: the floor."""
    how = replace(card.preprocessing, align_view=align_view)

    def read(indices: np.ndarray) -> tuple[Tensor, Tensor]:
        dataset = SkeletonDataset(store, indices, how)
        width = 3 * how.num_frames * store.layout.num_joints * dataset.persons
        return _fill(dataset, width, lambda x: x.flatten(1), torch.device("cpu"), 256, progress)

    return _by_part(division, read(division.train), read(division.test))


def _fill(
    dataset: SkeletonDataset,
    width: int,
    features_of: Callable[[Tensor], Tensor],
    device: torch.device,
    batch_size: int,
    progress: str | None,
) -> tuple[Float32[Tensor, "clips width"], Int64[Tensor, " clips"]]:
    # Made before it is filled: to join batches at the end would take the memory twice.
    features = torch.empty(len(dataset), width)
    end = 0
    with tqdm(total=len(dataset), unit="clip", desc=progress, disable=progress is None) as bar:
        for batch in SkeletonLoader(dataset, in_order(len(dataset), batch_size), device):
            start, end = end, end + len(batch["x"])
            features[start:end] = features_of(batch["x"])
            bar.update(end - start)
    _check_finite(features, dataset)
    return features, torch.from_numpy(dataset.store.labels[dataset.indices])


def _check_finite(features: Float[Tensor, "clips width"], dataset: SkeletonDataset) -> None:
    # A row that holds NaN or infinity sums up to one of them.
    broken = ~features.sum(1).isfinite()
    if broken.any():
        clip = dataset.indices[int(broken.nonzero()[0])]
        raise InputError(
            f"features that are not finite, of {int(broken.sum()):,} of {len(features):,} clips",
            file=dataset.store.path,
            clip=str(dataset.store.names[clip]),
            hint="look for NaN or huge coordinates with `mica inspect`; if there are none, the model has diverged",
        )


def _by_part(division: Split, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> SplitFeatures:
    fit = torch.from_numpy(np.isin(division.train, division.fit))
    return SplitFeatures(*train, fit, *test)


@dataclass(frozen=True)
class Scaling:
    """Takes every feature to mean 0 and spread 1, as measured on some clips; one that never varies becomes 0.

    >>> scaling = Scaling.of(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
    >>> scaling(torch.tensor([[4.0, 5.0]])).tolist()
    [[3.0, 0.0]]
    """

    mean: Float[Tensor, " features"]
    scale: Float[Tensor, " features"]

    @classmethod
    def of(cls, clips: Float[Tensor, "clips features"]) -> Scaling:
        """Measure mean and spread (n, not n - 1).

        A feature that varies a million times less than the one that varies most counts as one that never does: what
        it holds is rounding.
        """
        # In float64, but some rows at a time: all features in float64 would be the largest thing in memory. Sums are
        # added up in place, or each would lie where the block before it lay, and the next block further on.
        count, mean = len(clips), torch.zeros(clips.shape[1], dtype=torch.float64, device=clips.device)
        squares = torch.zeros_like(mean)
        for block in clips.split(_ROWS):
            mean += block.double().sum(0)
        mean /= count
        for block in clips.split(_ROWS):
            squares += block.double().sub_(mean).square_().sum(0)
        spread = (squares / count).sqrt()
        scale = torch.where(spread > _LEAST_SPREAD * spread.max(), 1 / spread, 0)
        return cls(mean.to(clips.dtype), scale.to(clips.dtype))

    def __call__(self, clips: Float[Tensor, "clips features"]) -> Float[Tensor, "clips features"]:
        """The scaled features: a copy, and no second one on the way."""
        return clips.sub(self.mean).mul_(self.scale)
