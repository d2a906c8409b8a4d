"""Classes by their words alone: a clip goes to the class whose wordings lie nearest in the text's space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from statistics import harmonic_mean

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mica.errors import InputError
from mica.evaluation.results import Score, score
from mica.models.text import concepts


def zero_shot_scores(
    skeletons: Float[Tensor, "clips D"],
    labels: Int[Tensor, " clips"],
    texts: Float[Tensor, "K W D"],
    unseen: Sequence[int],
    class_names: Sequence[str],
) -> list[Score]:
    """Name the test clips by the words of their classes; nothing is fitted, so nothing is chosen.

    With `unseen` labels: the clips of those classes with only those classes to choose from, then all clips and all
    classes ("generalised"; left out where the test part has no seen class). Without: all clips and classes, which is
    no zero-shot and is not named so.

    The wordings of a class enter in three ways, the first to be quoted: as the mean of their vectors; one at a time
    (top-1 is the mean over the wordings and the spread their standard deviation, the confusions are those of all;
    `seeds` is empty, as nothing is drawn); and by the wording that fits the clip best. The measure "chance" is what
    guessing reaches on classes of equal size, in percent.

    Args:
        skeletons: embeddings of all test clips, L2-normalised.
        labels: their classes.
        texts: embeddings of W wordings of all K classes, L2-normalised.
        unseen: the classes that pretraining has left out, of which the test part must have a clip (InputError).
        class_names: in label order.

    >>> words = torch.eye(3)[:, None].repeat(1, 2, 1)
    >>> found = zero_shot_scores(torch.eye(3), torch.arange(3), words, (1, 2), ("wave", "clap", "bow"))
    >>> [(score.name, score.clips, score.top1) for score in found[:2]]
    [('unseen classes, mean of wordings', 2, 100.0), ('unseen classes, single wording', 2, 100.0)]
    >>> found[-1].name, found[-1].measures["harmonic mean"]
    ('generalised, mean of wordings', 100.0)
    """
    candidates = torch.tensor(sorted(unseen) or range(len(class_names)))
    asked = torch.isin(labels, candidates)
    if not asked.any():
        problem = "the test part has no clip of an unseen class"
        raise InputError(problem, hint="evaluate on a split whose test part has some")
    predictions = by_wordings(skeletons[asked], texts[candidates])
    known = "unseen classes" if unseen else "all classes seen"
    scores = [
        score(
            f"{known}, {how}",
            [candidates[predicted] for predicted in several],
            labels[asked],
            class_names,
            measures={"chance": 100 / len(candidates)},
        )
        for how, several in predictions.items()
    ]
    if not asked.all():
        scores.append(_generalised(skeletons @ concepts(texts).T, labels, candidates, class_names))
    return scores


def by_wordings(
    skeletons: Float[Tensor, "clips D"], texts: Float[Tensor, "K W D"]
) -> dict[str, list[Int[Tensor, " clips"]]]:
    """The nearest class (cosine) by each way to take its wordings: one prediction, or one a wording."""
    similarities = [skeletons @ wording.T for wording in texts.unbind(1)]
    return {
        "mean of wordings": [(skeletons @ concepts(texts).T).argmax(1)],
        "single wording": [similarity.argmax(1) for similarity in similarities],
        "best wording": [reduce(torch.maximum, similarities).argmax(1)],
    }


def _generalised(
    scores: Float[Tensor, "clips K"],
    labels: Int[Tensor, " clips"],
    unseen: Int[Tensor, " unseen"],
    class_names: Sequence[str],
) -> Score:
    """Every class is a candidate for every clip (Xian et al., Zero-shot learning: a comprehensive evaluation, 2018).

    Accuracies are means over the seen and over the unseen classes, "harmonic mean" is theirs. Pretraining has drawn
    clips to the words of seen classes, so that these win more often than they should; the area under the seen-unseen
    curve (`seen_unseen_curve`), in percent of what a perfect model reaches, does not depend on such a lead.
    """
    from sklearn.metrics import auc  # takes a second: only for who asks

    predicted, is_unseen = scores.argmax(1), torch.isin(labels, unseen)
    seen_accuracy, unseen_accuracy = (
        _mean_class_accuracy(predicted, labels, part) for part in (~is_unseen, is_unseen)
    )
    measures = {
        "seen": seen_accuracy,
        "unseen": unseen_accuracy,
        "harmonic mean": float(harmonic_mean((seen_accuracy, unseen_accuracy))),
        "area under seen-unseen curve": 100 * float(auc(*seen_unseen_curve(scores, labels, unseen))),
    }
    return score("generalised, mean of wordings", [predicted], labels, class_names, measures=measures)


def _mean_class_accuracy(
    predicted: Int[Tensor, " clips"], labels: Int[Tensor, " clips"], part: Bool[Tensor, " clips"]
) -> float:
    """The mean over the classes in `part` of the share of their clips that were recognised, in percent."""
    from sklearn.metrics import recall_score

    asked = labels[part].unique().numpy()
    return 100 * float(recall_score(labels.numpy(), predicted.numpy(), labels=asked, average="macro"))


def seen_unseen_curve(
    scores: Float[Tensor, "clips K"], labels: Int[Tensor, " clips"], unseen: Int[Tensor, " unseen"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Mean class accuracy (0 to 1) on seen and on unseen classes, for every constant taken from seen classes' scores.

    Calibrated stacking: as the constant grows, more and more clips are given to unseen classes (Chao et al., An
    empirical study and analysis of generalized zero-shot learning, ECCV 2016, arXiv 1605.04253). A clip changes sides
    where the constant passes the lead of its best seen class over its best unseen one, so that the curve's corners
    are known and none is missed. There must be clips of seen and of unseen classes.

    >>> scores = torch.tensor([[0.9, 0.1], [0.7, 0.3]])  # class 0 is seen, and the second clip is of class 1
    >>> seen, unseen = seen_unseen_curve(scores, torch.tensor([0, 1]), torch.tensor([1]))
    >>> list(zip(seen.tolist(), unseen.tolist()))
    [(1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    """
    is_unseen = torch.isin(torch.arange(scores.shape[1]), unseen)
    best_seen, best_unseen = (
        scores.masked_fill(hidden, -torch.inf).max(1) for hidden in (is_unseen, ~is_unseen)
    )
    corners, corner = torch.unique(best_seen.values - best_unseen.values, return_inverse=True)
    reached = []
    for best, part in ((best_seen, ~is_unseen[labels]), (best_unseen, is_unseen[labels])):
        weight = _weights(labels[part], (best.indices == labels)[part])
        at_corner = np.bincount(corner[part].numpy(), weight, minlength=len(corners))
        reached.append(np.concatenate([[0.0], np.cumsum(at_corner)]))
    lost_seen, gained_unseen = reached
    return lost_seen[-1] - lost_seen, gained_unseen


def _weights(labels: Int[Tensor, " clips"], right: Bool[Tensor, " clips"]) -> Float[np.ndarray, " clips"]:
    """What each clip adds to the mean class accuracy: nothing where it is wrong, else less in larger classes."""
    _, place, counts = labels.unique(return_inverse=True, return_counts=True)
    return (right.double() / (counts[place] * len(counts))).numpy()
