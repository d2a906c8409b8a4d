"""Clips that are asked for by a clip, or by words: how many of those that come first are of the class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mica.evaluation.features import SplitFeatures
from mica.evaluation.neighbours import nearest
from mica.evaluation.results import Score, score


def retrieval_scores(
    features: SplitFeatures, class_names: Sequence[str], ks: Sequence[int] = (1, 5, 10)
) -> list[Score]:
    """Every test clip asks for clips of its class, and the gallery is all training clips: one score, "cosine".

    Features are compared as they are. The measures are `rank_measures`; top-1 is the hit rate at 1.
    """
    ks = _within(ks, len(features.train))
    index = nearest(features.test, features.train, max(ks))[1]
    answers = features.train_labels[index]
    measures = rank_measures(answers == features.test_labels[:, None], ks)
    return [score("cosine", [answers[:, 0]], features.test_labels, class_names, measures=measures)]


def text_retrieval_scores(
    features: SplitFeatures,
    texts: Float[Tensor, "K W D"],
    class_names: Sequence[str],
    ks: Sequence[int] = (1, 5, 10),
) -> list[Score]:
    """Every wording of a class asks for clips of it, and the gallery is all test clips: one score, "by words".

    features: embeddings in the texts' space. Classes without a test clip are not asked for, so the clips that the
    score counts are wordings. The gallery is the test part, since training has shown the model its clips with their
    words.
    """
    ks = _within(ks, len(features.test))
    asked = features.test_labels.unique()
    index = nearest(texts[asked].flatten(0, 1), features.test, max(ks))[1]
    truth, answers = asked.repeat_interleave(texts.shape[1]), features.test_labels[index]
    measures = rank_measures(answers == truth[:, None], ks)
    return [score("by words", [answers[:, 0]], truth, class_names, measures=measures)]


def rank_measures(relevant: Bool[Tensor, "queries ranks"], ks: Sequence[int]) -> dict[str, float]:
    """How good the first answers are, in percent, by torchmetrics.

    relevant: whether the answer at each rank is of the class that was asked for, the first rank first. The hit rate
    at k is the share of questions with at least one such answer among the first k, the precision at k the mean share
    of such answers. The mean average precision at k averages, over the such answers among the first k, the precision
    at the rank of each; a question without any counts 0.

    >>> rank_measures(torch.tensor([[True, False], [False, True]]), ks=(1, 2))
    {'hit rate at 1': 50.0, 'hit rate at 2': 100.0, 'precision at 2': 50.0, 'mean average precision at 2': 75.0}
    """
    from torchmetrics import Metric  # brings matplotlib and more along, which takes seconds
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP, RetrievalPrecision

    # torchmetrics sorts by preference and counts nothing whose preference is not above 0, which a cosine may well be.
    ranks = relevant.shape[1]
    preference = torch.arange(ranks, 0, -1.0).expand(relevant.shape).flatten()
    question = torch.arange(len(relevant)).repeat_interleave(ranks)
    metrics: dict[str, Metric] = {f"hit rate at {k}": RetrievalHitRate(top_k=k) for k in ks}
    metrics |= {f"precision at {k}": RetrievalPrecision(top_k=k) for k in ks if k > 1}
    metrics |= {f"mean average precision at {k}": RetrievalMAP(top_k=k) for k in ks[-1:] if k > 1}
    answers = relevant.cpu().flatten()
    return {
        name: 100.0 * float(metric(preference, answers, indexes=question)) for name, metric in metrics.items()
    }


def _within(ks: Sequence[int], gallery: int) -> list[int]:
    return [k for k in ks if k <= gallery]
