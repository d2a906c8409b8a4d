"""A choice is the best on validation, the first of equals, and cannot be asked about other clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mica.evaluation.choosing import Choice, choose
from mica.evaluation.features import ForChoosing, SplitFeatures


def clips(truth: list[int]) -> ForChoosing:
    return ForChoosing(
        torch.zeros(0, 2), torch.zeros(0).long(), torch.zeros(len(truth), 2), torch.tensor(truth)
    )


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), min_size=5, max_size=5),
)
def test_the_best_and_the_first_of_equals(answers: list[list[int]], truth: list[int]) -> None:
    right = [sum(a == b for a, b in zip(row, truth, strict=True)) for row in answers]
    predicted = {str(place): torch.tensor(row) for place, row in enumerate(answers)}
    choice = choose(predicted, clips(truth))
    assert choice.name == str(right.index(max(right)))
    assert choice.validation_top1 == pytest.approx(20 * max(right))


def test_other_clips_are_refused() -> None:
    predicted = {"a": torch.tensor([0, 1]), "b": torch.tensor([0, 1, 1])}
    with pytest.raises(ValueError, match=r"b: \(3,\) predictions for 2 validation clips"):
        choose(predicted, clips([0, 1]))


def test_scores_are_no_predictions() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) predictions for 2"):
        choose({"scores": torch.eye(2)}, clips([0, 1]))


def test_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="empty"):
        choose({}, clips([0, 1]))


def test_what_a_choice_may_look_at_is_the_training_part(made_up: Callable[..., SplitFeatures]) -> None:
    """The two parts make up the training part, and none of it changes with the test part."""
    f = made_up()
    parts = f.for_choosing
    assert torch.equal(parts.fit, f.train[f.fit])
    assert torch.equal(parts.validation, f.train[~f.fit])
    assert sorted(parts.fit_labels.tolist() + parts.validation_labels.tolist()) == sorted(
        f.train_labels.tolist()
    )
    other = replace(f, test=f.test * 7, test_labels=f.test_labels.flip(0)).for_choosing
    assert all(torch.equal(one, two) for one, two in zip(parts, other, strict=True))


def test_as_results_keep_it() -> None:
    assert Choice("lr 0.1", 62.5).as_dict() == {"setting": "lr 0.1", "validation_top1": 62.5}
