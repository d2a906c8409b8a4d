"""k nearest neighbours by cosine similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mica.evaluation.choosing import Validated, best, validate
from mica.evaluation.features import ForChoosing, Scaling, SplitFeatures
from mica.evaluation.neighbours import nearest
from mica.evaluation.results import Score, score

POOLED, TEXT_SPACE = "pooled", "text space"
NEIGHBOURS = (1, 5, 10, 20)
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
    ks: Sequence[int] = NEIGHBOURS,
    validated: Validated | None = None,
) -> list[Score]:
    """Score the test clips by their nearest training clips: "k = 1", "k = 5", ...

    For each k validation chooses which features to compare (candidates are of the same clips), and whether as they
    are or standardised. A k that the clips to fit do not suffice for is left out.
    validated: as of `validate_ways`, of another encoder, where this one has trained on the validation clips.
    """
    ways = {f"{name}, {way}": (features, way) for name, features in candidates.items() for way in _WAYS}
    clips = next(iter(candidates.values()))
    if validated is None:
        validated = validate_ways({name: each.for_choosing for name, each in candidates.items()}, ks)
    ks = [k for k in ks if f"k = {k}" in validated]
    classes: dict[str, Tensor] = {}
    scores = []
    for k in ks:
        tried = validated[f"k = {k}"]
        choice = best({way: reached for way, reached in tried.items() if way in ways})
        if choice.name not in classes:
            features, way = ways[choice.name]
            train, labels, test = features.train, features.train_labels, features.test
            classes[choice.name] = _nearest_classes(train, labels, test, max(ks), way)
        predicted = vote(classes[choice.name][:, :k])
        scores.append(score(f"k = {k}", [predicted], clips.test_labels, class_names, chosen=choice.as_dict()))
    return scores


def validate_ways(
    candidates: Mapping[str, ForChoosing], ks: Sequence[int] = NEIGHBOURS
) -> dict[str, dict[str, float]]:
    """For each k that the clips to fit suffice for, how each way to compare does on the validation clips."""
    clips = next(iter(candidates.values()))
    ks = [k for k in ks if k <= len(clips.fit)]
    classes = {
        f"{name}, {way}": _nearest_classes(each.fit, each.fit_labels, each.validation, max(ks), way)
        for name, each in candidates.items()
        for way in _WAYS
    }
    return {
        f"k = {k}": validate({way: vote(found[:, :k]) for way, found in classes.items()}, clips) for k in ks
    }


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
