"""What a model finds alike: test clips in motion beside the training clips nearest to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mica.data.dataset import SkeletonDataset
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.features import extract_features
from mica.evaluation.neighbours import nearest
from mica.models.mica import MICA, ModelCard
from mica.report.motion.animation import animation_html
from mica.report.probe import Probe, evenly_spaced

NEIGHBOURS, _EXAMPLES = 3, 4
MOST_TRAINING_CLIPS = 5000  # so many are passed through the model in a minute or two
_MOST_FRAMES = 32


@dataclass(frozen=True)
class Retrieval:
    """The training clips nearest to each probed test clip, by cosine of features; `clips` are places in the store.

    searched, training: among how many of how many training clips.
    """

    clips: Int[np.ndarray, "test k"]
    similarity: Float[np.ndarray, "test k"]
    searched: int
    training: int


def retrieve(
    model: MICA, card: ModelCard, store: Store, seen: Probe, train: Int[np.ndarray, " train"]
) -> Retrieval:
    """Find the neighbours of the clips that were probed; of very many training clips an even share is searched."""
    searched = evenly_spaced(train, MOST_TRAINING_CLIPS)
    dataset = SkeletonDataset(store, searched, card.preprocessing)
    gallery, _ = extract_features(model, dataset, card.preprocessing.stream, store.layout)
    similarity, index = nearest(seen.features, gallery, min(NEIGHBOURS, len(gallery)))
    return Retrieval(searched[index.numpy()], similarity.numpy(), len(searched), len(train))


def choose(
    right: Bool[np.ndarray, " clips"], labels: Int[np.ndarray, " clips"], count: int = _EXAMPLES
) -> list[int]:
    """Places of clips that show both: half of them where the nearest clip is right, half where it is wrong.

    Of each kind the first ones in order, of classes that no other example has where there are enough.

    >>> choose(np.array([True, True, False, True, False]), np.array([0, 0, 1, 2, 1]), count=2)
    [0, 2]
    """
    chosen: list[int] = []
    for wanted in (True, False):
        places = np.flatnonzero(right == wanted).tolist()
        for fresh in (True, False):
            for place in places:
                enough = sum(bool(right[one]) == wanted for one in chosen) >= count // 2
                known = place in chosen or (fresh and labels[place] in labels[chosen])
                if not enough and not known:
                    chosen.append(place)
    return chosen


@dataclass(frozen=True)
class Moving:
    """A clip as the page shows it: what is said of it, and its figure; `right` is None for the one that asks."""

    name: str
    about: str
    similarity: float | None
    right: bool | None
    figure: str


def examples(store: Store, seen: Probe, found: Retrieval) -> list[list[Moving]]:
    """A few test clips, each followed by its neighbours."""
    right = store.labels[found.clips[:, 0]] == seen.labels
    rows = []
    for place in choose(right, seen.labels):
        query = int(seen.clips[place])
        row = [_moving(store, query, None, None)]
        for clip, similarity in zip(
            found.clips[place].tolist(), found.similarity[place].tolist(), strict=True
        ):
            row.append(_moving(store, clip, similarity, bool(store.labels[clip] == store.labels[query])))
        rows.append(row)
    return rows


def _moving(store: Store, clip: int, similarity: float | None, right: bool | None) -> Moving:
    name = store.info.class_names[store.labels[clip]]
    numbers = (("subject", store.subjects[clip]), ("camera", store.cameras[clip]))
    about = ", ".join(f"{what} {number}" for what, number in numbers if number)
    return Moving(name, about, similarity, right, _figure(store, clip, name))


def _figure(store: Store, clip: int, title: str) -> str:
    keypoints = store.keypoints(clip)
    frames = evenly_spaced(np.arange(len(keypoints)), _MOST_FRAMES)
    rate = store.info.frame_rate * len(frames) / len(keypoints)
    try:
        return animation_html(keypoints[frames], store.layout, title, rate)
    except InputError:  # nobody is seen in these frames, though in others
        return animation_html(keypoints[keypoints.any(axis=(1, 2, 3))][:1], store.layout, title, rate)
