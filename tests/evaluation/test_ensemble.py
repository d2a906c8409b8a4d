"""Fusing runs: which weights are tried, which win, what the probes are fitted on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import product

import pytest
import torch
from torch import Generator, Tensor

from mica.evaluation import ensemble
from mica.evaluation.ensemble import PARTS, PEERS_WEIGHTS, ensemble_scores, fuse, weight_grid
from mica.evaluation.features import SplitFeatures
from mica.evaluation.linear import LinearClassifier, fit_logistic
from mica.evaluation.results import Score

NAMES = ("wave", "clap", "bow", "kick")
K = len(NAMES)


def run(seed: int, noise: float = 1.5, blind_to: tuple[int, ...] = (), width: int = 5) -> SplitFeatures:
    """48 training clips, every fourth of them for validation, and 200 test clips; some classes may look alike."""
    random = Generator().manual_seed(seed)
    centres = 2 * torch.randn(K, width, generator=random)
    centres[list(blind_to)] = centres[list(blind_to)].mean(0) if blind_to else 0.0
    train_labels, test_labels = torch.arange(48) // 3 % K, torch.arange(200) % K
    train, test = (
        centres[labels] + noise * torch.randn(len(labels), width, generator=random)
        for labels in (train_labels, test_labels)
    )
    return SplitFeatures(train, train_labels, torch.arange(48) % 4 != 1, test, test_labels)


def by_name(scores: list[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


def probe(features: SplitFeatures, chosen: Mapping[str, object], *, final: bool) -> LinearClassifier:
    """The probe of a member, from what its score says was chosen."""
    penalty = float(str(chosen["setting"]).removeprefix("C "))
    part = torch.ones_like(features.fit) if final else features.fit
    return fit_logistic(features.train[part], features.train_labels[part], K, inverse_penalty=penalty)


def loop_confusion(scores: list[Tensor], weights: list[float], labels: Tensor) -> tuple[tuple[int, ...], ...]:
    """Clip by clip and class by class, in float64."""
    counts = [[0] * K for _ in range(K)]
    for clip, label in enumerate(labels.tolist()):
        sums = [
            sum(weight * float(of_run[clip, k]) for of_run, weight in zip(scores, weights, strict=True))
            for k in range(K)
        ]
        counts[label][sums.index(max(sums))] += 1
    return tuple(map(tuple, counts))


def loop_accuracy(scores: list[Tensor], weights: list[float], labels: Tensor) -> float:
    return (
        100
        * sum(row[label] for label, row in enumerate(loop_confusion(scores, weights, labels)))
        / len(labels)
    )


@pytest.mark.parametrize("members", [2, 3, 4])
def test_grid_has_all_weights_once_and_the_most_equal_first(members: int) -> None:
    names = tuple("abcd"[:members])
    grid = [tuple(weights[name] for name in names) for weights in weight_grid(names)]
    expected = {
        tuple(Fraction(part, PARTS) for part in parts)
        for parts in product(range(PARTS + 1), repeat=members)
        if sum(parts) == PARTS
    }
    assert len(grid) == len(expected)
    assert set(grid) == expected
    assert grid[0] == (Fraction(1, members),) * members
    inequality = [sum((weight - Fraction(1, members)) ** 2 for weight in weights) for weights in grid]
    assert inequality == sorted(inequality)
    assert sorted(grid[-members:]) == sorted(
        tuple(Fraction(name == other) for name in names) for other in names
    )


def test_probabilities_would_give_the_same_answers_as_scores() -> None:
    random = Generator().manual_seed(0)
    scores = {name: 4 * torch.randn(500, K, generator=random) for name in PEERS_WEIGHTS}
    logarithms = {name: found.log_softmax(1) for name, found in scores.items()}
    assert torch.equal(fuse(scores, PEERS_WEIGHTS), fuse(logarithms, PEERS_WEIGHTS))


def test_a_class_that_training_lacks_is_never_answered_nor_makes_nan() -> None:
    absent = torch.tensor([[-math.inf, 1.0, 0.0]])
    weights = {"a": Fraction(1), "b": Fraction(0)}
    assert fuse({"a": absent, "b": absent.flip(0)}, weights).tolist() == [1]
    assert fuse({"a": absent, "b": absent}, {"a": Fraction(1, 2), "b": Fraction(1, 2)}).tolist() == [1]


def test_scores_are_those_of_loops_over_the_probes() -> None:
    runs = {"motion": run(1), "joint": run(2), "bone": run(3)}
    scores = ensemble_scores(runs, NAMES)
    assert [score.name for score in scores] == [
        "weights chosen on validation",
        "equal weights",
        "peers' weights (.6, .6, .4)",
        "motion alone",
        "joint alone",
        "bone alone",
    ]
    found = by_name(scores)
    chosen = {name: found[f"{name} alone"].chosen for name in runs}
    test = [probe(runs[name], chosen[name], final=True).scores(runs[name].test) for name in runs]
    validation = [
        probe(runs[name], chosen[name], final=False).scores(runs[name].train[~runs[name].fit])
        for name in runs
    ]
    labels, truth = runs["joint"].test_labels, runs["joint"].for_choosing.validation_labels
    for name, weights in (
        ("equal weights", [1 / 3, 1 / 3, 1 / 3]),
        ("peers' weights (.6, .6, .4)", [0.4, 0.6, 0.6]),
        ("motion alone", [1, 0, 0]),
        ("bone alone", [0, 0, 1]),
    ):
        assert found[name].confusion == loop_confusion(test, weights, labels), name
    assert len({score.confusion for score in scores[1:]}) == 5, "the example tells the fusions apart"

    tried = {
        parts: loop_accuracy(validation, [part / PARTS for part in parts], truth)
        for parts in product(range(PARTS + 1), repeat=3)
        if sum(parts) == PARTS
    }
    best = max(tried.values())
    ties = [parts for parts, reached in tried.items() if reached == best]
    first = min(ties, key=lambda parts: sum(part**2 for part in parts))
    assert scores[0].chosen == {
        "setting": ", ".join(
            f"{name} {Fraction(part, PARTS)}" for name, part in zip(runs, first, strict=True)
        ),
        "validation_top1": pytest.approx(best),
    }
    weights = [part / PARTS for part in first]
    assert scores[0].confusion == loop_confusion(test, weights, labels)
    assert (found["equal weights"].chosen, found["peers' weights (.6, .6, .4)"].chosen) == ({}, {})
    assert best > loop_accuracy(validation, [1 / 3] * 3, truth), "the example has something to choose"


def test_what_one_run_confuses_another_tells_apart() -> None:
    runs = {"a": run(4, noise=0.3, blind_to=(0, 1)), "b": run(5, noise=0.3, blind_to=(2, 3))}
    found = by_name(ensemble_scores(runs, NAMES))
    assert found["weights chosen on validation"].top1 > 95
    assert max(found["a alone"].top1, found["b alone"].top1) < 85


def test_runs_that_agree_are_weighted_equally() -> None:
    """Every weight is as good as any other then."""
    runs = {"a": run(6), "b": run(6), "c": run(6)}
    first, *others = ensemble_scores(runs, NAMES)
    assert first.chosen["setting"] == "a 1/3, b 1/3, c 1/3"
    assert {score.top1 for score in others} == {first.top1}


def test_a_run_that_knows_nothing_does_not_spoil_the_others() -> None:
    noise = replace(run(7), train=torch.randn(48, 5, generator=Generator().manual_seed(1)))
    found = by_name(ensemble_scores({"noise": noise, "good": run(7, noise=0.2)}, NAMES))
    best = found["good alone"].chosen["validation_top1"]
    assert found["weights chosen on validation"].chosen["validation_top1"] >= best == 100.0
    assert found["noise alone"].chosen["validation_top1"] < 60


@pytest.mark.parametrize(
    ("names", "peers"),
    [(("joint", "bone", "motion"), True), (("joint", "bone"), False), (("joint", "bone", "other"), False)],
)
def test_peers_weights_are_for_the_peers_streams(names: tuple[str, ...], peers: bool) -> None:
    scores = by_name(ensemble_scores({name: run(8) for name in names}, NAMES))
    assert ("peers' weights (.6, .6, .4)" in scores) is peers


def test_probes_are_fitted_on_fit_for_the_choice_and_on_all_for_the_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = {"a": run(9), "b": run(10)}
    fitted: list[tuple[Tensor, float]] = []

    def spy(train: Tensor, labels: Tensor, num_classes: int, *, inverse_penalty: float) -> LinearClassifier:
        fitted.append((train, inverse_penalty))
        return fit_logistic(train, labels, num_classes, inverse_penalty=inverse_penalty)

    monkeypatch.setattr(ensemble, "fit_logistic", spy)
    found = by_name(ensemble_scores(runs, NAMES))
    per_run = len(ensemble.INVERSE_PENALTIES) + 1
    for (name, features), calls in zip(runs.items(), (fitted[:per_run], fitted[per_run:]), strict=True):
        for (seen, penalty), expected in zip(calls, ensemble.INVERSE_PENALTIES, strict=False):
            assert penalty == expected
            assert torch.equal(seen, features.train[features.fit])
        seen, penalty = calls[-1]
        assert torch.equal(seen, features.train)
        assert found[f"{name} alone"].chosen["setting"] == f"C {penalty:g}"


def test_one_run_is_no_ensemble() -> None:
    with pytest.raises(ValueError, match="at least two runs, got 1"):
        ensemble_scores({"joint": run(0)}, NAMES)


@pytest.mark.parametrize("field", ["train_labels", "test_labels", "fit"])
def test_runs_of_other_clips_are_refused(field: str) -> None:
    other = run(1)
    setattr(other, field, getattr(other, field).roll(1))
    with pytest.raises(ValueError, match=f"joint and bone are not of the same clips: their {field} differ"):
        ensemble_scores({"joint": run(0), "bone": other}, NAMES)


def test_a_class_without_training_clips_and_one_without_test_clips() -> None:
    def lame(features: SplitFeatures) -> SplitFeatures:
        kept, asked = features.train_labels != 2, features.test_labels != 3
        parts = (features.train[kept], features.train_labels[kept], features.fit[kept])
        return SplitFeatures(*parts, features.test[asked], features.test_labels[asked])

    for score in ensemble_scores({"a": lame(run(1)), "b": lame(run(2))}, NAMES):
        assert score.per_class["bow"] == 0.0
        assert score.per_class["kick"] is None
        assert sum(row[2] for row in score.confusion) == 0, "nobody has shown what a bow is"
