"""What a trained model makes of the test clips: a map of their features, and the joints its gate keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor, nn

from mica.data.dataset import SkeletonDataset
from mica.data.store import Store
from mica.evaluation.features import extract_features
from mica.models.frest import FreST
from mica.models.mica import MICA
from mica.models.pretrained import ModelCard
from mica.models.stgcn import STGCN

MOST_CLIPS = 1000  # t-SNE of more takes long and shows no more
_PCA_WIDTH = 50  # what t-SNE's authors reduce to first
_POSE_CLIPS = 64


@dataclass(frozen=True)
class Gate:
    """What the FreST layers learned; joints in the layout's order, frequency f in cycles a clip.

    first, last: the filters' magnitudes in the first and the last layer, 1 at the start of training.
    kept: in which share of clips and channels the last layer passes a signal at a joint.
    strength: root mean square of what the last layer passes at a joint, relative to the average joint.
    switches: whether the layers switch anything off; if not, `kept` tells only where their input was 0.
    """

    first: Float[np.ndarray, "V F"]
    last: Float[np.ndarray, "V F_last"]
    kept: Float[np.ndarray, " V"]
    strength: Float[np.ndarray, " V"]
    switches: bool


@dataclass(frozen=True)
class Probe:
    """Test clips as the model sees them: `points` are their features in two dimensions, unit-free.

    `pose` is the mean first frame, front view, metres; `gate` is None in a model without FreST.
    """

    points: Float[np.ndarray, "clips 2"]
    labels: Int[np.ndarray, " clips"]
    pose: Float[np.ndarray, "V 2"]
    gate: Gate | None


def probe(model: MICA, card: ModelCard, store: Store, test: Int[np.ndarray, " test"]) -> Probe:
    """Pass at most `MOST_CLIPS` of the test clips, evenly spaced, through the model in evaluation mode."""
    chosen = evenly_spaced(test, MOST_CLIPS)
    dataset = SkeletonDataset(store, chosen, card.preprocessing)
    layers = model.encoder.frest_layers
    recorder = GateRecorder()
    with recorder.watch(model.encoder):
        features, labels = extract_features(model, dataset, card.preprocessing.stream, store.layout)
    gate = recorder.summary(layers[0], layers[-1]) if layers else None
    return Probe(flatten(features), labels.numpy(), mean_pose(store, card, chosen), gate)


def evenly_spaced(indices: Int[np.ndarray, " n"], most: int) -> Int[np.ndarray, " few"]:
    """Return `most` of the indices, or all if there are fewer.

    >>> evenly_spaced(np.arange(10), 4)
    array([0, 3, 6, 9])
    """
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(np.int64)]


def flatten(features: Float[Tensor, "clips features"]) -> Float[np.ndarray, "clips 2"]:
    """Lay features out in the plane by t-SNE of their cosine geometry; too few clips for that, by PCA."""
    unit = F.normalize(features, dim=1).numpy()
    count = len(unit)
    if count < 10:
        points = PCA(min(2, *unit.shape)).fit_transform(unit) if count > 1 else np.zeros((count, 2))
        return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    reduced = PCA(min(_PCA_WIDTH, *unit.shape), random_state=0).fit_transform(unit)
    return TSNE(perplexity=min(30.0, (count - 1) / 3), init="pca", random_state=0).fit_transform(reduced)


def mean_pose(store: Store, card: ModelCard, indices: Int[np.ndarray, " clips"]) -> Float[np.ndarray, "V 2"]:
    """Average the first frames of some clips, turned to the front: a person at rest, whatever the classes."""
    facing = replace(card.preprocessing, align_view=True)
    dataset = SkeletonDataset(store, evenly_spaced(indices, _POSE_CLIPS), facing)
    frames = torch.stack([dataset[i]["x"][:2, 0, :, 0] for i in range(len(dataset))])
    return frames.mean(0).T.numpy()


class GateRecorder:
    """Sums up over batches what the encoder's last FreST layer keeps, leaving absent bodies out."""

    def __init__(self) -> None:
        self.bodies = 0
        self.kept: Tensor | float = 0.0
        self.power: Tensor | float = 0.0

    @contextmanager
    def watch(self, encoder: STGCN) -> Iterator[None]:
        """Record during the context; does nothing for an encoder without FreST."""
        handles = [encoder.register_forward_pre_hook(self._see_bodies)]
        handles += [layer.register_forward_pre_hook(self._see_layer) for layer in encoder.frest_layers[-1:]]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see_bodies(self, encoder: nn.Module, inputs: tuple[Any, ...]) -> None:
        # Later on an absent body is no longer zero: normalisation and biases give it a signal.
        self._present = inputs[0].flatten(1).any(1)

    def _see_layer(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(layer, FreST)
        x = inputs[0][self._present]
        self.bodies += len(x)
        self.kept = self.kept + layer.gate_map(x)["kept"].sum(0)
        self.power = self.power + layer.filter(x).square().mean((1, 2)).sum(0)

    def summary(self, first: FreST, last: FreST) -> Gate:
        """The record as numbers; `first` and `last` are layers of the encoder that was watched."""
        assert isinstance(self.kept, Tensor)
        assert isinstance(self.power, Tensor)
        rms = (self.power / self.bodies).sqrt()
        return Gate(
            first=first.gate_map()["filter"].numpy(),
            last=last.gate_map()["filter"].numpy(),
            kept=(self.kept / self.bodies).numpy(),
            strength=(rms / rms.mean().clamp_min(torch.finfo(rms.dtype).tiny)).numpy(),
            switches=last.gate.sparsity is not None,
        )
