"""Votes of neighbours are those of a loop, and validation alone chooses what is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Generator, Tensor

from mica.evaluation.choosing import choose
from mica.evaluation.features import Scaling, SplitFeatures
from mica.evaluation.knn import knn_predict, knn_scores, vote
from mica.evaluation.metrics import accuracy

NAMES = ("a", "b", "c", "d")
WAYS = ("as they are", "standardised")


def by_loop(train: Tensor, labels: Tensor, queries: Tensor, k: int) -> list[int]:
    """In float64: most votes among the k nearest, ties to the class whose nearest is nearest."""
    out = []
    for query in queries.double():
        cosine = torch.cosine_similarity(train.double(), query[None], dim=1)
        near = [int(labels[i]) for i in sorted(range(len(train)), key=lambda i: -float(cosine[i]))[:k]]
        out.append(max(near, key=lambda label: (near.count(label), -near.index(label))))
    return out


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 48])
def test_is_a_loop_in_float64(made_up: Callable[..., SplitFeatures], k: int) -> None:
    f = made_up(spread=3.0)
    assert knn_predict(f.train, f.train_labels, f.test, k).tolist() == by_loop(
        f.train, f.train_labels, f.test, k
    )


@pytest.mark.parametrize("k", [1, 2, 5, 20])
def test_votes_are_counted_as_by_a_loop(k: int) -> None:
    neighbours = torch.randint(3, (200, k), generator=Generator().manual_seed(k)) * 7
    expected = [max(row, key=lambda c: (row.count(c), -row.index(c))) for row in neighbours.tolist()]
    assert vote(neighbours).tolist() == expected


def test_ties_go_to_the_nearest() -> None:
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4])
    train = torch.stack([angles.cos(), angles.sin()], 1)
    query = torch.tensor([[1.0, 0.0]])
    assert knn_predict(train, torch.tensor([5, 2, 2, 5]), query, k=4).item() == 5
    assert knn_predict(train, torch.tensor([2, 5, 5, 2]), query, k=4).item() == 2
    assert knn_predict(train, torch.tensor([9, 5, 5, 2]), query, k=3).item() == 5
    assert knn_predict(train, torch.tensor([9, 8, 7, 6]), query, k=4).item() == 9


@pytest.mark.parametrize("k", [0, -1, 49])
def test_refuses_other_k(made_up: Callable[..., SplitFeatures], k: int) -> None:
    f = made_up()
    with pytest.raises(ValueError, match="k must be between 1 and the 48"):
        knn_predict(f.train, f.train_labels, f.test, k)


def predicted(f: SplitFeatures, way: str, k: int, *, on_test: bool) -> tuple[Tensor, Tensor]:
    """Answers and truth, by copies scaled at once."""
    train, labels, queries, truth = (
        (f.train, f.train_labels, f.test, f.test_labels) if on_test else f.for_choosing
    )
    if way == "standardised":
        scaling = Scaling.of(train)
        train, queries = scaling(train), scaling(queries)
    return knn_predict(train, labels, queries, k), truth


@pytest.mark.parametrize("seed", range(6))
def test_each_k_has_the_features_that_validate_best(made_up: Callable[..., SplitFeatures], seed: int) -> None:
    candidates = {"one": made_up(seed, spread=1.5), "two": made_up(seed + 50, spread=1.5)}
    scores = knn_scores(candidates, NAMES, ks=(1, 5, 10))
    assert [score.name for score in scores] == ["k = 1", "k = 5", "k = 10"]
    for k, score in zip((1, 5, 10), scores, strict=True):
        found = {
            f"{name}, {way}": predicted(f, way, k, on_test=False)[0]
            for name, f in candidates.items()
            for way in WAYS
        }
        choice = choose(found, candidates["one"].for_choosing)
        assert score.chosen == choice.as_dict()
        name, way = choice.name.split(", ")
        assert score.top1 == accuracy(*predicted(candidates[name], way, k, on_test=True))
        assert (score.clips, score.seeds, score.spread) == (24, (), None)


def test_choices_differ_with_k_and_features(made_up: Callable[..., SplitFeatures]) -> None:
    """Else the test above could not tell one choice from another."""
    chosen = [
        score.chosen["setting"]
        for seed in range(6)
        for score in knn_scores(
            {"one": made_up(seed, 1.5), "two": made_up(seed + 50, 1.5)}, NAMES, (1, 5, 10)
        )
    ]
    assert {name for setting in chosen for name in setting.split(", ")} == {"one", "two", *WAYS}


def test_ties_between_features_go_to_the_first(made_up: Callable[..., SplitFeatures]) -> None:
    f = made_up(spread=0.01)
    (score,) = knn_scores({"a": f, "b": f}, NAMES, ks=(1,))
    assert score.chosen["setting"] == "a, as they are"


def test_a_k_beyond_the_gallery_is_left_out(made_up: Callable[..., SplitFeatures]) -> None:
    """36 clips to fit, of which validation asks."""
    f = made_up()
    names = [score.name for score in knn_scores({"only": f}, NAMES, ks=(1, 36, 37, 48))]
    assert names == ["k = 1", "k = 36"]


def test_a_class_without_test_clips_has_no_accuracy(made_up: Callable[..., SplitFeatures]) -> None:
    f = made_up(spread=0.01)
    asked = f.test_labels != 2
    f = replace(f, test=f.test[asked], test_labels=f.test_labels[asked])
    (score,) = knn_scores({"only": f}, NAMES, ks=(1,))
    assert score.per_class == {"a": 100.0, "b": 100.0, "c": None, "d": 100.0}
