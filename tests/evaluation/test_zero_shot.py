"""Classes by their words: the ways to take wordings, unseen classes alone and among all, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from mica.errors import InputError
from mica.evaluation.results import Score
from mica.evaluation.zero_shot import seen_unseen_curve, zero_shot_scores
from mica.models.text import concepts

K, W, D = 7, 3, 5
NAMES = tuple(f"class {label}" for label in range(K))
UNSEEN = (5, 1, 4)


def example(
    seed: int = 0, clips: int = 60, classes: Sequence[int] = range(K)
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit skeletons somewhere near the words of their classes, their labels, and unit words."""
    random = Generator().manual_seed(seed)
    texts = F.normalize(torch.randn(K, W, D, generator=random), dim=-1)
    labels = torch.tensor(classes)[torch.randint(len(classes), (clips,), generator=random)]
    skeletons = texts.mean(1)[labels] + 0.6 * torch.randn(clips, D, generator=random)
    return F.normalize(skeletons, dim=-1), labels, texts


def by_name(scores: list[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


def nearest(clip: np.ndarray, texts: np.ndarray, candidates: Sequence[int], how: str) -> int:
    """One clip at a time, in float64."""

    def fit(label: int) -> float:
        wordings = texts[label]
        if how == "best":
            return max(float(clip @ wording) for wording in wordings)
        mean = sum(wordings) / len(wordings) if how == "mean" else wordings[int(how)]
        return float(clip @ mean) / math.sqrt(float(mean @ mean))

    return max(candidates, key=fit)


def loop_accuracy(
    skeletons: Tensor, labels: Tensor, texts: Tensor, candidates: Sequence[int], how: str
) -> float:
    clips = [
        (clip, label)
        for clip, label in zip(skeletons.double().numpy(), labels.tolist(), strict=True)
        if label in candidates
    ]
    right = [nearest(clip, texts.double().numpy(), candidates, how) == label for clip, label in clips]
    return 100 * sum(right) / len(right)


@pytest.mark.parametrize(("unseen", "known"), [(UNSEEN, "unseen classes"), ((), "all classes seen")])
def test_the_ways_to_take_wordings_are_those_of_a_loop(unseen: tuple[int, ...], known: str) -> None:
    skeletons, labels, texts = example()
    candidates = unseen or tuple(range(K))
    found = by_name(zero_shot_scores(skeletons, labels, texts, unseen, NAMES))
    for name, how in (("mean of wordings", "mean"), ("best wording", "best")):
        expected = loop_accuracy(skeletons, labels, texts, candidates, how)
        assert found[f"{known}, {name}"].top1 == pytest.approx(expected)
    each = [loop_accuracy(skeletons, labels, texts, candidates, str(wording)) for wording in range(W)]
    single = found[f"{known}, single wording"]
    assert (single.top1, single.spread) == (pytest.approx(np.mean(each)), pytest.approx(np.std(each, ddof=1)))
    assert single.seeds == ()
    assert len({score.top1 for score in found.values()}) > 1, "the example tells the ways apart"


def test_only_clips_of_unseen_classes_are_asked_and_only_those_answered() -> None:
    skeletons, labels, texts = example()
    first, *others = zero_shot_scores(skeletons, labels, texts, UNSEEN, NAMES)
    assert first.name == "unseen classes, mean of wordings"
    assert first.clips == sum(label in UNSEEN for label in labels.tolist())
    assert first.measures == {"chance": pytest.approx(100 / 3)}
    confusion = np.array(first.confusion)
    assert np.flatnonzero(confusion.sum(1)).tolist() == sorted(UNSEEN)
    assert set(np.flatnonzero(confusion.sum(0))) <= set(UNSEEN)
    assert [other.name for other in others] == [
        "unseen classes, single wording",
        "unseen classes, best wording",
        "generalised, mean of wordings",
    ]
    assert np.sum(others[0].confusion) == W * first.clips
    assert all(score.chosen == {} for score in (first, *others)), "nothing is chosen"


def test_without_unseen_classes_nothing_is_called_zero_shot_or_generalised() -> None:
    scores = zero_shot_scores(*example(), (), NAMES)
    assert [score.name for score in scores] == [
        "all classes seen, mean of wordings",
        "all classes seen, single wording",
        "all classes seen, best wording",
    ]
    assert {score.clips for score in scores} == {60}


def loop_group_accuracy(predicted: Sequence[int], labels: Sequence[int], group: Sequence[int]) -> float:
    """The mean over the classes of `group` that have clips."""
    of_class = []
    for label in group:
        answers = [guess for guess, truth in zip(predicted, labels, strict=True) if truth == label]
        if answers:
            of_class.append(answers.count(label) / len(answers))
    return sum(of_class) / len(of_class)


def loop_area(scores: np.ndarray, labels: Sequence[int], unseen: Sequence[int]) -> float:
    """Every constant between two corners, by trying it: the area under straight lines between the points."""
    seen = [label for label in range(K) if label not in unseen]
    leads = sorted({row[seen].max() - row[list(unseen)].max() for row in scores})
    between = [(low + high) / 2 for low, high in pairwise(leads)]
    points = []
    for constant in (leads[0] - 1, *between, leads[-1] + 1):
        predicted = [
            int(np.argmax([s - constant * (k in seen) for k, s in enumerate(row)])) for row in scores
        ]
        points.append([loop_group_accuracy(predicted, labels, group) for group in (seen, unseen)])
    return sum((a[0] - b[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), unseen=st.sets(st.integers(0, K - 1), min_size=1, max_size=K - 1))
def test_generalised_is_what_loops_find(seed: int, unseen: set[int]) -> None:
    skeletons, labels, texts = example(seed, clips=24)
    labels[:2] = torch.tensor([min(unseen), min(set(range(K)) - unseen)])  # one clip of either at least
    score = zero_shot_scores(skeletons, labels, texts, sorted(unseen), NAMES)[-1]
    cosine = skeletons.double().numpy() @ concepts(texts.double()).numpy().T
    truth, predicted = labels.tolist(), cosine.argmax(1).tolist()
    groups = sorted(set(range(K)) - unseen), sorted(unseen)
    seen_accuracy, unseen_accuracy = (100 * loop_group_accuracy(predicted, truth, group) for group in groups)
    either = seen_accuracy + unseen_accuracy
    assert score.name == "generalised, mean of wordings"
    assert (score.clips, score.top1) == (24, pytest.approx(100 * np.mean(np.equal(predicted, truth))))
    assert score.measures == {
        "seen": pytest.approx(seen_accuracy),
        "unseen": pytest.approx(unseen_accuracy),
        "harmonic mean": pytest.approx(2 * seen_accuracy * unseen_accuracy / either if either else 0.0),
        "area under seen-unseen curve": pytest.approx(100 * loop_area(cosine, truth, groups[1])),
    }


def test_area_does_not_mind_a_constant_lead_and_accuracies_do() -> None:
    skeletons, labels, texts = example(clips=200)
    unseen = torch.tensor(UNSEEN)
    cosine = skeletons.double() @ concepts(texts.double()).T
    lead = torch.ones(K, dtype=torch.float64).index_fill(0, unseen, 0.0)
    for plain, led in zip(
        seen_unseen_curve(cosine, labels, unseen),
        seen_unseen_curve(cosine + 9 * lead, labels, unseen),
        strict=True,
    ):
        np.testing.assert_allclose(plain, led)
    assert not torch.equal(cosine.argmax(1), (cosine + 9 * lead).argmax(1))


def test_curve_runs_from_no_unseen_class_to_no_seen_one() -> None:
    skeletons, labels, texts = example(clips=200)
    seen, unseen = seen_unseen_curve(skeletons @ concepts(texts).T, labels, torch.tensor(UNSEEN))
    assert (unseen[0], seen[-1]) == (0.0, 0.0)
    others = [label for label in range(K) if label not in UNSEEN]
    mean = [nearest(clip, texts.double().numpy(), others, "mean") for clip in skeletons.double().numpy()]
    assert seen[0] == pytest.approx(loop_group_accuracy(mean, labels.tolist(), others))
    assert (np.diff(seen) <= 0).all()
    assert (np.diff(unseen) >= 0).all()


def test_clips_that_change_sides_together_make_a_straight_line() -> None:
    """A clip of either kind, at the same constant: neither order may be favoured, so the area is a triangle."""
    scores = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
    curve = seen_unseen_curve(scores, torch.tensor([0, 1]), torch.tensor([1]))
    assert [points.tolist() for points in curve] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("perfect", [True, False])
def test_extremes(perfect: bool) -> None:
    """All right, and all wrong: no division by zero in the harmonic mean."""
    texts = torch.eye(4)[:, None]
    labels = torch.arange(4)
    skeletons = torch.eye(4) if perfect else torch.eye(4)[[1, 0, 3, 2]]
    for score in zero_shot_scores(skeletons, labels, texts, (2, 3), NAMES[:4]):
        expected = 100.0 if perfect else 0.0
        figures = {name: value for name, value in score.measures.items() if name != "chance"}
        assert {score.top1, *figures.values()} == {expected}, score.name


def test_one_unseen_class_says_that_chance_knows_it() -> None:
    scores = zero_shot_scores(*example(), (4,), NAMES)
    assert (scores[0].top1, scores[0].measures["chance"]) == (100.0, 100.0)
    assert all(math.isfinite(value) for value in scores[-1].measures.values())


def test_test_part_without_an_unseen_class_is_refused() -> None:
    with pytest.raises(InputError, match="no clip of an unseen class"):
        zero_shot_scores(*example(classes=(0, 2, 3)), UNSEEN, NAMES)


def test_test_part_of_unseen_classes_alone_is_not_generalised() -> None:
    scores = zero_shot_scores(*example(classes=UNSEEN), UNSEEN, NAMES)
    assert [score.name for score in scores][-1] == "unseen classes, best wording"


def test_an_unseen_class_without_clips_counts_neither_as_right_nor_as_wrong() -> None:
    skeletons, labels, texts = example(classes=(0, 2, 3, 4))
    score = zero_shot_scores(skeletons, labels, texts, UNSEEN, NAMES)[-1]
    assert score.per_class["class 5"] is None
    assert score.measures["unseen"] == score.per_class["class 4"]
    assert all(math.isfinite(value) for value in score.measures.values())


def test_order_of_unseen_labels_does_not_matter_even_for_classes_of_the_same_words() -> None:
    skeletons, labels, texts = example()
    texts[list(UNSEEN)] = texts[UNSEEN[0]].clone()
    assert zero_shot_scores(skeletons, labels, texts, UNSEEN, NAMES) == zero_shot_scores(
        skeletons, labels, texts, sorted(UNSEEN), NAMES
    )
