"""What a trained model makes of the test clips: a map of their features, and what its gate keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from mica.data.dataset import SkeletonDataset
from mica.data.store import Store
from mica.evaluation.features import extract_features
from mica.models.frest import FreST
from mica.models.mica import MICA, ModelCard
from mica.report.gate_by_class import GateByClass, gate_by_class
from mica.report.spectra import SpectrumRecorder

MOST_CLIPS = 1000  # t-SNE of more takes long and shows no more
_PCA_WIDTH = 50  # what t-SNE's authors reduce to first
_POSE_CLIPS = 64


@dataclass(frozen=True)
class Gate:
    """What the FreST layers learned; joints in the layout's order, frequency f in cycles a clip.

    first, last: the filters' magnitudes in the first and the last layer, 1 where FreST starts as the identity.
    kept: in which share of clips and channels the last layer passes a signal at a joint.
    strength: root mean square of what the last layer passes at a joint, relative to the average joint.
    switches: whether the layers switch anything off; if not, `kept` tells only where their input was 0.
    by_class: what the first layer passes of each class: its joints are not yet mixed, and it has most frequencies.
    """

    first: Float[np.ndarray, "V F"]
    last: Float[np.ndarray, "V F_last"]
    kept: Float[np.ndarray, " V"]
    strength: Float[np.ndarray, " V"]
    switches: bool
    by_class: GateByClass


@dataclass(frozen=True)
class Probe:
    """Test clips as the model sees them: `clips` are their places in the store, `features` what evaluations use.

    `points` are the features in two dimensions, unit-free; `pose` is the mean first frame, front view, metres; `gate`
    is None in a model without FreST, and where no clip shows a body that moves.
    """

    clips: Int[np.ndarray, " clips"]
    labels: Int[np.ndarray, " clips"]
    features: Float[Tensor, "clips features"]
    points: Float[np.ndarray, "clips 2"]
    pose: Float[np.ndarray, "V 2"]
    gate: Gate | None


def probe(model: MICA, card: ModelCard, store: Store, test: Int[np.ndarray, " test"]) -> Probe:
    """Pass at most `MOST_CLIPS` of the test clips, evenly spaced, through the model in evaluation mode."""
    chosen = evenly_spaced(test, MOST_CLIPS)
    dataset = SkeletonDataset(store, chosen, card.preprocessing)
    recorder = SpectrumRecorder(dataset.persons)
    with recorder.watch(model.encoder):
        features, labels = extract_features(model, dataset, card.preprocessing.stream, store.layout)
    layers, pose = model.encoder.frest_layers, mean_pose(store, card, chosen)
    gate = summary(recorder, layers, labels.numpy()) if layers and recorder.bodies else None
    return Probe(chosen, labels.numpy(), features, flatten(features), pose, gate)


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
    if not np.ptp(unit, axis=0).any():  # t-SNE crashes on features that are all the same
        return np.zeros((count, 2))
    if count < 10:
        points = PCA(min(2, *unit.shape)).fit_transform(unit)
        return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    reduced = PCA(min(_PCA_WIDTH, *unit.shape), random_state=0).fit_transform(unit)
    return TSNE(perplexity=min(30.0, (count - 1) / 3), init="pca", random_state=0).fit_transform(reduced)


def mean_pose(store: Store, card: ModelCard, indices: Int[np.ndarray, " clips"]) -> Float[np.ndarray, "V 2"]:
    """Average the first frames of some clips, turned to the front: a person at rest, whatever the classes."""
    facing = replace(card.preprocessing, align_view=True)
    dataset = SkeletonDataset(store, evenly_spaced(indices, _POSE_CLIPS), facing)
    frames = torch.stack([dataset[i]["x"][:2, 0, :, 0] for i in range(len(dataset))])
    return frames.mean(0).T.numpy()


def summary(recorder: SpectrumRecorder, layers: Sequence[FreST], labels: Int[np.ndarray, " clips"]) -> Gate:
    """The record of an encoder's first and last layer as numbers."""
    first, last = layers[0], layers[-1]
    seen = recorder.spectra(last)
    rms = np.sqrt(seen.passed.sum(axis=1).mean(axis=0, dtype=np.float64) / seen.num_frames)
    return Gate(
        first=first.gate_map()["filter"].cpu().numpy(),
        last=last.gate_map()["filter"].cpu().numpy(),
        kept=seen.kept.mean(axis=0, dtype=np.float64),
        strength=rms / max(rms.mean(), np.finfo(np.float64).tiny),
        switches=last.gate.sparsity is not None,
        by_class=gate_by_class(recorder.spectra(first), labels),
    )
