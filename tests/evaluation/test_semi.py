"""Few labels: how many are drawn of which class, from whom, and that nothing else is looked at."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mica.data.splits import Split, split
from mica.data.store import Store
from mica.evaluation import semi
from mica.evaluation.finetune import FineTuneConfig, Tuning
from mica.evaluation.results import Score
from mica.evaluation.semi import Drawing, draw_labels, few_labels, semi_scores
from mica.models.mica import MICA, ModelCard
from mica.transforms.draws import Draws

CONFIG = FineTuneConfig(epochs=1)
DRAWINGS: tuple[Drawing, ...] = ("class-balanced", "uniform")
Score_ = Callable[..., dict[str, Score]]


@pytest.fixture(scope="module")
def division(tiny_store: Store) -> Split:
    return split(tiny_store, "cross-subject")


@pytest.fixture(scope="module")
def evaluate(tiny_run: Path, tiny_store: Store, division: Split) -> Iterator[Score_]:
    """Score the run with few labels of a store, the tiny one unless told, after a step or two each."""

    def evaluate(store: Store = tiny_store, seeds: tuple[int, ...] = (0,)) -> dict[str, Score]:
        def model_maker() -> MICA:
            return MICA.from_pretrained(tiny_run / "checkpoint")

        card, names = ModelCard.read(tiny_run / "checkpoint"), store.info.class_names
        scores = semi_scores(model_maker, card, store, division, names, CONFIG, seeds=seeds, progress=False)
        return {score.name: score for score in scores}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semi, "LEAST_STEPS", 1)
        yield evaluate


@pytest.fixture(scope="module")
def found(evaluate: Score_) -> dict[str, Score]:
    """The scores of the tiny store with the first seed."""
    return evaluate()


def drawn_by_loop(labels: list[int], share: float, drawing: Drawing, seed: int) -> list[int]:
    """The same by lists: clips in a random order, each kept while there is need of it."""
    numbers = Draws(seed, 0, range(len(labels)), stream=2).bits(1)[:, 0].tolist()
    shuffled = sorted(range(len(labels)), key=lambda clip: (numbers[clip], clip))
    if drawing == "uniform":
        return sorted(shuffled[: max(1, round(len(labels) * share))])
    each = max(1, round(len(labels) * share / len(set(labels))))
    kept: list[int] = []
    for clip in shuffled:
        if sum(labels[other] == labels[clip] for other in kept) < each:
            kept.append(clip)
    return sorted(kept)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    share=st.sampled_from([0.01, 0.05, 0.1, 0.5, 1.0]),
    drawing=st.sampled_from(DRAWINGS),
    seed=st.integers(0, 1000),
)
def test_draws_are_those_of_a_loop(labels: list[int], share: float, drawing: Drawing, seed: int) -> None:
    assert draw_labels(torch.tensor(labels), share, drawing, seed).tolist() == drawn_by_loop(
        labels, share, drawing, seed
    )


@pytest.mark.parametrize(
    ("counts", "share", "each"),
    [
        ((100, 100), 0.01, (1, 1)),
        ((100, 100), 0.05, (5, 5)),
        ((16,) * 27, 0.01, (1,) * 27),
        ((16,) * 27, 0.05, (1,) * 27),
        ((16,) * 27, 0.1, (2,) * 27),
        ((190, 9, 1), 0.1, (7, 7, 1)),
        ((30, 0, 30), 0.1, (3, 0, 3)),
        ((1,), 0.01, (1,)),
    ],
)
def test_class_balanced_gives_every_class_as_many(
    counts: tuple[int, ...], share: float, each: tuple[int, ...]
) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    for seed in range(3):
        drawn = draw_labels(labels, share, "class-balanced", seed)
        assert len(set(drawn.tolist())) == len(drawn)
        found = Counter(labels[drawn].tolist())
        assert tuple(found[label] for label in range(len(counts))) == each


@pytest.mark.parametrize(
    ("count", "share", "drawn"), [(1020, 0.01, 10), (431, 0.1, 43), (431, 0.05, 22), (9, 0.01, 1)]
)
def test_uniform_draws_a_share_of_all(count: int, share: float, drawn: int) -> None:
    assert len(set(draw_labels(torch.zeros(count), share, "uniform", seed=0).tolist())) == drawn


@pytest.mark.parametrize("drawing", DRAWINGS)
def test_every_clip_has_the_same_chance_and_larger_draws_hold_smaller(drawing: Drawing) -> None:
    labels = torch.arange(4).repeat(10)
    often = np.zeros(40)
    for seed in range(400):
        drawn = draw_labels(labels, 0.2, drawing, seed)
        often[drawn] += 1
        assert set(draw_labels(labels, 0.1, drawing, seed)) < set(drawn)
    assert len(drawn) == 8
    # 400 draws of probability 0.2: 80 on average, with a standard deviation of 8.
    assert 80 - 4.5 * 8 < often.min() < often.max() < 80 + 4.5 * 8


@pytest.mark.parametrize("count", [1, 4, 16, 17, 31, 51, 102, 4009])
def test_few_labels_are_gone_through_often_enough(count: int) -> None:
    config = FineTuneConfig(epochs=5)
    few = few_labels(config, count)
    steps = few.epochs * few.steps_per_epoch(count)
    assert steps >= semi.LEAST_STEPS
    assert few.epochs == 5 or steps - few.steps_per_epoch(count) < semi.LEAST_STEPS
    assert replace(few, epochs=5, batch_size=config.batch_size) == config


def test_scores_of_all_shares_and_drawings(found: dict[str, Score]) -> None:
    assert list(found) == [f"{share} %, {drawing}" for share in (1, 5, 10) for drawing in DRAWINGS]
    labels = {name: score.measures["labels"] for name, score in found.items()}
    assert list(labels.values()) == [16, 1, 16, 3, 16, 6]  # of 64 clips of 16 classes
    for name, score in found.items():
        assert (score.seeds, score.clips, score.chosen) == ((0,), 64, {})
        assert (
            score.measures["classes"] == 16
            if "balanced" in name
            else score.measures["classes"] <= labels[name]
        )


def test_classes_without_a_label_are_never_predicted(
    found: dict[str, Score], tiny_store: Store, division: Split
) -> None:
    labels = torch.from_numpy(tiny_store.labels[division.train])
    for share, name in ((0.01, "1 %, uniform"), (0.05, "5 %, uniform"), (0.1, "10 %, uniform")):
        known = set(labels[draw_labels(labels, share, "uniform", 0)].tolist())
        assert set(np.flatnonzero(np.array(found[name].confusion).sum(0))) <= known


def test_a_class_that_nobody_trains_with(evaluate: Score_, tiny_store: Store, division: Split) -> None:
    """Its test clips are asked about all the same, and never recognised."""
    store = copy.copy(tiny_store)
    store.labels = tiny_store.labels.copy()
    train = division.train[store.labels[division.train] == 7]
    store.labels[train] = 8
    score = evaluate(store)["10 %, class-balanced"]
    assert score.measures == {"labels": 15, "classes": 15}
    assert score.per_class[store.info.class_names[7]] == 0
    assert np.array(score.confusion).sum(0)[7] == 0


def test_test_labels_change_no_prediction(
    evaluate: Score_, found: dict[str, Score], tiny_store: Store, division: Split
) -> None:
    other = copy.copy(tiny_store)
    other.labels = tiny_store.labels.copy()
    other.labels[division.test] = np.roll(tiny_store.labels[division.test], 5)
    for one, two in zip(found.values(), evaluate(other).values(), strict=True):
        np.testing.assert_array_equal(np.sum(one.confusion, 0), np.sum(two.confusion, 0))
        assert one.measures == two.measures


def test_only_the_drawn_labels_matter(
    evaluate: Score_, found: dict[str, Score], tiny_store: Store, division: Split
) -> None:
    """With all other labels of the training part turned upside down, what was drawn uniformly predicts the same."""
    labels = torch.from_numpy(tiny_store.labels[division.train])
    drawn = draw_labels(labels, 0.1, "uniform", 0)
    other = copy.copy(tiny_store)
    other.labels = tiny_store.labels.copy()
    others = np.delete(division.train, drawn)
    other.labels[others] = np.roll(tiny_store.labels[others], 3)
    assert found["10 %, uniform"] == evaluate(other)["10 %, uniform"]


def test_seeds_are_repeatable_and_one_draw_is_trained_with_once(
    evaluate: Score_, found: dict[str, Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    original = Tuning.train

    def train(self: Tuning, places: np.ndarray, *rest: object, **options: object) -> object:
        trained.append(len(places))
        return original(self, places, *rest, **options)

    monkeypatch.setattr(Tuning, "train", train)
    torch.rand(3)
    both = evaluate(seeds=(0, 1))
    assert sorted(trained) == [1, 1, 3, 3, 6, 6, 16, 16]  # one clip a class is 1, 5 and 10 %
    balanced = [score.confusion for name, score in both.items() if "balanced" in name]
    assert balanced[0] == balanced[1] == balanced[2]
    for name, score in both.items():
        second = np.subtract(score.confusion, found[name].confusion)
        assert second.min() >= 0, "of the first seed the same as alone"
        assert second.sum() == 64
        assert second.tolist() != np.array(found[name].confusion).tolist()
