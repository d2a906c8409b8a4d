"""k nearest neighbours by cosine similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mica.evaluation.choosing import Choice, choose
from mica.evaluation.features import Scaling, SplitFeatures
from mica.evaluation.neighbours import nearest
from mica.evaluation.results import Score, score

_WAYS = ("as they are", "standardised")


def knn_predict(
    train: Float[Tensor, "clips features"],
    labels: Int[Tensor, " clips"],
    queries: Float[Tensor, "queries features"],
    k: int = 1,
) -> Int[Tensor, " queries"]:
    """The majority class of the k most similar training clips; ties go to the class of the nearest of them.

    Raises ValueError where k is not between 1 and the number of training clips.

    >>> knn_predict(torch.eye(3), torch.tensor([4, 5, 6]), torch.tensor([[0.1, 0.9, 0.0]]))
    tensor([5])
    """
    return vote(labels[nearest(queries, train, k)[1]])


def vote(neighbours: Int[Tensor, "queries k"]) -> Int[Tensor, " queries"]:
    """The class that most neighbours have; ties go to the class of the nearest, which comes first.

    >>> vote(torch.tensor([[3, 7, 7], [3, 7, 5]]))
    tensor([7, 3])
    """
    votes = torch.zeros_like(neighbours)
    for column in neighbours.unbind(1):
        votes += neighbours == column[:, None]
    # argmax takes the first of equals.
    return neighbours.gather(1, votes.argmax(1, keepdim=True)).squeeze(1)


def knn_scores(
    candidates: Mapping[str, SplitFeatures],
    class_names: Sequence[str],
    ks: Sequence[int] = (1, 5, 10, 20),
) -> list[Score]:
    """Score the test clips by their nearest training clips: "k = 1", "k = 5", ...

    For each k validation chooses which features to compare (candidates are of the same clips), and whether as they
    are or standardised. A k that the clips to fit do not suffice for is left out.
    """
    ways = {f"{name}, {way}": (features, way) for name, features in candidates.items() for way in _WAYS}
    clips = next(iter(candidates.values()))
    chosen = _choose_ways(candidates, [k for k in ks if k <= int(clips.fit.sum())])
    classes: dict[str, Tensor] = {}
    scores = []
    for k, choice in chosen.items():
        if choice.name not in classes:
            features, way = ways[choice.name]
            train, labels, test = features.train, features.train_labels, features.test
            classes[choice.name] = _nearest_classes(train, labels, test, max(chosen), way)
        predicted = vote(classes[choice.name][:, :k])
        scores.append(score(f"k = {k}", [predicted], clips.test_labels, class_names, chosen=choice.as_dict()))
    return scores


def _choose_ways(candidates: Mapping[str, SplitFeatures], ks: Sequence[int]) -> dict[int, Choice]:
    classes = {}
    for name, features in candidates.items():
        clips = features.for_choosing
        for way in _WAYS:
            classes[f"{name}, {way}"] = _nearest_classes(
                clips.fit, clips.fit_labels, clips.validation, max(ks), way
            )
    return {k: choose({way: vote(found[:, :k]) for way, found in classes.items()}, clips) for k in ks}


def _nearest_classes(
    train: Float[Tensor, "clips features"],
    labels: Int[Tensor, " clips"],
    queries: Float[Tensor, "queries features"],
    k: int,
    way: str,
) -> Int[Tensor, "queries k"]:
    """The classes of the k nearest training clips, the nearest first."""
    scaling = Scaling.of(train) if way == "standardised" else None
    return labels[nearest(queries, train, k, scaling=scaling)[1]]
