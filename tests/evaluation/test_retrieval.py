"""Retrieval's figures are those of loops that follow their definitions, over the gallery that they speak of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mica.evaluation.features import SplitFeatures
from mica.evaluation.retrieval import rank_measures, retrieval_scores, text_retrieval_scores

NAMES = ("a", "b", "c", "d")


def by_loop(relevant: list[list[bool]], ks: tuple[int, ...]) -> dict[str, float]:
    """Hit rate, precision and mean average precision, in percent, as textbooks define them for the first k."""

    def average_precision(answers: list[bool]) -> float:
        precisions = [sum(answers[: rank + 1]) / (rank + 1) for rank, good in enumerate(answers) if good]
        return sum(precisions) / len(precisions) if precisions else 0.0

    def mean(of: Callable[[list[bool]], float]) -> float:
        return 100 * sum(of(answers) for answers in relevant) / len(relevant)

    found = {f"hit rate at {k}": mean(lambda answers, k=k: any(answers[:k])) for k in ks}
    found |= {f"precision at {k}": mean(lambda answers, k=k: sum(answers[:k]) / k) for k in ks if k > 1}
    if ks[-1] > 1:
        found[f"mean average precision at {ks[-1]}"] = mean(lambda a: average_precision(a[: ks[-1]]))
    return found


def answers(queries: Tensor, gallery: Tensor, labels: Tensor) -> list[list[int]]:
    """The classes of the whole gallery for each query in float64, the most similar first."""
    cosine = F.normalize(queries.double(), dim=1) @ F.normalize(gallery.double(), dim=1).T
    return labels[cosine.argsort(dim=1, descending=True)].tolist()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("ks", [(1,), (1, 5), (1, 5, 10)])
def test_measures_are_their_definitions(share: float, ks: tuple[int, ...]) -> None:
    relevant = torch.rand(60, ks[-1], generator=Generator().manual_seed(1)) < share
    assert rank_measures(relevant, ks) == pytest.approx(by_loop(relevant.tolist(), ks), abs=1e-4)


@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_test_clips_ask_and_training_clips_answer(
    made_up: Callable[..., SplitFeatures], spread: float
) -> None:
    f = made_up(spread=spread)
    (score,) = retrieval_scores(f, NAMES)
    found = answers(f.test, f.train, f.train_labels)
    relevant = [
        [answer == truth for answer in row] for row, truth in zip(found, f.test_labels.tolist(), strict=True)
    ]
    assert dict(score.measures) == pytest.approx(by_loop(relevant, (1, 5, 10)), abs=1e-4)
    assert score.name == "cosine"
    assert score.top1 == pytest.approx(score.measures["hit rate at 1"])
    assert score.clips == 24
    assert score.chosen == {}


def test_answers_that_point_away_count_too() -> None:
    """All cosines are negative here, and yet the nearest clip is of the class."""
    train = torch.tensor([[-1.0, 0.0], [-1.0, 2.0]])
    f = SplitFeatures(
        train,
        torch.tensor([0, 1]),
        torch.tensor([True, False]),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([1]),
    )
    (score,) = retrieval_scores(f, NAMES, ks=(1, 2))
    assert score.top1 == score.measures["hit rate at 1"] == 100.0
    assert score.measures["precision at 2"] == 50.0
    assert score.measures["mean average precision at 2"] == 100.0


def test_a_class_that_training_lacks_is_never_found(made_up: Callable[..., SplitFeatures]) -> None:
    f = made_up(spread=0.01)
    kept = f.train_labels != 2
    f = replace(f, train=f.train[kept], train_labels=f.train_labels[kept], fit=f.fit[kept])
    (score,) = retrieval_scores(f, NAMES)
    assert score.per_class == {"a": 100.0, "b": 100.0, "c": 0.0, "d": 100.0}
    assert score.measures["hit rate at 10"] == pytest.approx(75.0)
    assert score.measures["mean average precision at 10"] == pytest.approx(75.0)


def test_ranks_beyond_the_gallery_are_left_out(made_up: Callable[..., SplitFeatures]) -> None:
    f = made_up()
    few = replace(f, train=f.train[:6], train_labels=f.train_labels[:6], fit=f.fit[:6])
    (score,) = retrieval_scores(few, NAMES)
    assert list(score.measures) == [
        "hit rate at 1",
        "hit rate at 5",
        "precision at 5",
        "mean average precision at 5",
    ]


def test_words_ask_and_test_clips_answer(made_up: Callable[..., SplitFeatures]) -> None:
    f = made_up(spread=1.0)
    texts = F.normalize(torch.randn(4, 3, 6, generator=Generator().manual_seed(5)), dim=2)
    (score,) = text_retrieval_scores(f, texts, NAMES)
    relevant = []
    for label in range(4):
        for wording in range(3):
            found = answers(texts[label, wording][None], f.test, f.test_labels)[0]
            relevant.append([answer == label for answer in found])
    assert dict(score.measures) == pytest.approx(by_loop(relevant, (1, 5, 10)), abs=1e-4)
    assert score.name == "by words"
    assert score.top1 == pytest.approx(score.measures["hit rate at 1"])
    assert score.clips == sum(map(sum, score.confusion)) == 12, "wordings"


def test_words_without_clips_are_not_asked_for(made_up: Callable[..., SplitFeatures]) -> None:
    f = made_up(spread=0.01)
    asked = f.test_labels != 1
    f = replace(f, test=f.test[asked], test_labels=f.test_labels[asked])
    texts = torch.stack([made_up(spread=0.01).test[label] for label in range(4)])[:, None]
    (score,) = text_retrieval_scores(f, texts, NAMES, ks=(1, 5))
    assert score.per_class == {"a": 100.0, "b": None, "c": 100.0, "d": 100.0}
    assert score.measures["precision at 5"] == 100.0
