"""Several runs asked about the same clips: the scores of their linear probes, weighted and summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mica.evaluation.choosing import Choice, choose
from mica.evaluation.features import ForChoosing, SplitFeatures
from mica.evaluation.linear import INVERSE_PENALTIES, fit_logistic
from mica.evaluation.results import Score, score

PARTS = 12
"""Weights are chosen among multiples of a twelfth, as two, three and four runs can share twelve equally."""
PEERS_WEIGHTS = {"joint": Fraction(6, 10), "bone": Fraction(6, 10), "motion": Fraction(4, 10)}

Weights = Mapping[str, Fraction]


@dataclass(frozen=True)
class Member:
    """A run's class scores: of the validation clips by a probe fitted without them, of the test clips by a final one.

    `choice` is the penalty that both were fitted with.
    """

    validation: Float[Tensor, "validation K"]
    test: Float[Tensor, "test K"]
    choice: Choice


def ensemble_scores(runs: Mapping[str, SplitFeatures], class_names: Sequence[str]) -> list[Score]:
    """Fuse the linear probes of at least two runs on the same clips; the fusion to be quoted comes first.

    The fusions: weights chosen on validation, among all multiples of a twelfth that sum to one (ties go to the most
    equal ones); equal weights; and the peers' where the runs are "joint", "bone" and "motion". Then each run alone. A
    probe is a logistic regression. Its penalty and the weights are chosen with probes fitted on the fit clips; the
    test clips are scored by probes fitted on the whole training part.

    Raw class scores are summed, as the peers do (AimCLR, AAAI 2022, `ensemble_ntu_cs.py`). Logarithms of probabilities
    would give the same answers: they are the scores less a constant that is the same for all classes of a clip.
    A probe with a weaker penalty has larger scores, and a louder voice for that; chosen weights make up for it.

    runs: features by the name of the stream, or of the run. Raises ValueError for fewer than two runs, and where
    their clips have other labels or stand in another order.
    """
    _check_same_clips(runs)
    members = {name: _probe(features, len(class_names)) for name, features in runs.items()}
    any_run = next(iter(runs.values()))
    weights, choice = _choose_weights(
        {name: member.validation for name, member in members.items()}, any_run.for_choosing
    )
    fusions: dict[str, tuple[Weights, Choice | None]] = {
        "weights chosen on validation": (weights, choice),
        "equal weights": (dict.fromkeys(runs, Fraction(1, len(runs))), None),
    }
    if runs.keys() == PEERS_WEIGHTS.keys():
        fusions["peers' weights (.6, .6, .4)"] = (PEERS_WEIGHTS, None)
    fusions |= {f"{name} alone": ({name: Fraction(1)}, member.choice) for name, member in members.items()}
    test = {name: member.test for name, member in members.items()}
    return [
        score(
            name,
            [fuse(test, weights)],
            any_run.test_labels,
            class_names,
            chosen=None if choice is None else choice.as_dict(),
        )
        for name, (weights, choice) in fusions.items()
    ]


def fuse(scores: Mapping[str, Float[Tensor, "clips K"]], weights: Weights) -> Int[Tensor, " clips"]:
    """The class with the largest weighted sum of scores.

    >>> runs = {"joint": torch.tensor([[3.0, 1.0]]), "bone": torch.tensor([[0.0, 4.0]])}
    >>> fuse(runs, {"joint": Fraction(1, 2), "bone": Fraction(1, 2)}), fuse(runs, {"joint": Fraction(1)})
    (tensor([1]), tensor([0]))
    """
    # Who has no say is left out: a class that training lacks scores -inf, and nothing times that is not a number.
    return (
        torch.stack([float(weight) * scores[name] for name, weight in weights.items() if weight])
        .sum(0)
        .argmax(1)
    )


def weight_grid(names: Sequence[str]) -> list[Weights]:
    """All weights that are multiples of 1 / `PARTS` and sum to one, the most equal first.

    >>> grid = weight_grid(("joint", "bone", "motion"))
    >>> len(grid), [str(weight) for weight in grid[0].values()], [str(weight) for weight in grid[1].values()]
    (91, ['1/3', '1/3', '1/3'], ['1/4', '1/3', '5/12'])
    """
    # Bars among stars: how many stars stand between two bars is the part of one name.
    places = range(PARTS + len(names) - 1)
    bars = ((-1, *inner, PARTS + len(names) - 1) for inner in combinations(places, len(names) - 1))
    shares = [[right - left - 1 for left, right in pairwise(fence)] for fence in bars]
    shares.sort(key=lambda parts: sum(part * part for part in parts))
    return [
        {name: Fraction(part, PARTS) for name, part in zip(names, parts, strict=True)} for parts in shares
    ]


def _check_same_clips(runs: Mapping[str, SplitFeatures]) -> None:
    if len(runs) < 2:
        raise ValueError(f"an ensemble needs at least two runs, got {len(runs)}")
    first, *others = runs.items()
    for name, features in others:
        for field in ("train_labels", "fit", "test_labels"):
            if not torch.equal(getattr(first[1], field), getattr(features, field)):
                raise ValueError(
                    f"runs {first[0]} and {name} are not of the same clips: their {field} differ"
                )


def _probe(features: SplitFeatures, num_classes: int) -> Member:
    clips = features.for_choosing
    penalties = {f"C {penalty:g}": penalty for penalty in INVERSE_PENALTIES}
    scores = {
        name: fit_logistic(clips.fit, clips.fit_labels, num_classes, inverse_penalty=penalty).scores(
            clips.validation
        )
        for name, penalty in penalties.items()
    }
    choice = choose({name: found.argmax(1) for name, found in scores.items()}, clips)
    final = fit_logistic(
        features.train, features.train_labels, num_classes, inverse_penalty=penalties[choice.name]
    )
    return Member(scores[choice.name], final.scores(features.test), choice)


def _choose_weights(
    scores: Mapping[str, Float[Tensor, "validation K"]], clips: ForChoosing
) -> tuple[Weights, Choice]:
    grid = {
        ", ".join(f"{name} {weight}" for name, weight in weights.items()): weights
        for weights in weight_grid(tuple(scores))
    }
    choice = choose({name: fuse(scores, weights) for name, weights in grid.items()}, clips)
    return grid[choice.name], choice
