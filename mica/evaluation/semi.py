"""Semi-supervised evaluation: the encoder fine-tuned with the labels of a small share of the training part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from mica.data.dataset import SkeletonDataset
from mica.data.splits import Split
from mica.data.store import Store
from mica.evaluation.finetune import FineTuneConfig, Tuning
from mica.evaluation.results import Score, score
from mica.models.mica import MICA, ModelCard
from mica.transforms.draws import Draws

Drawing = Literal["class-balanced", "uniform"]
Places = Int[np.ndarray, " drawn"]

SHARES = (0.01, 0.05, 0.1)
BATCH_SIZE = 16
"""At most: of few labels a larger batch would make few steps of an epoch."""
LEAST_STEPS = 15
"""Few labels are gone through more often than the fine-tuning's epochs say, until there were so many steps."""
_STREAM = 2
"""Keeps the labels that are drawn apart from order and views, which are drawn from the same seed."""


def draw_labels(labels: Int[Tensor, " clips"], share: float, drawing: Drawing, seed: int) -> Places:
    """Choose which clips keep their label; returns their places, in ascending order.

    "uniform": the rounded share of all clips, whatever their classes; at least one. "class-balanced": the same number
    of every class, the rounded share of what a class has on average and at least one; a class with fewer clips gives
    all of them. So that of 27 classes with 16 clips each, 1 % and 5 % both mean one clip a class. Peers differ: some
    take the share of each class as large as it is. For a seed, smaller draws are part of larger ones.

    >>> labels = torch.arange(3).repeat_interleave(20)
    >>> drawn = draw_labels(labels, 0.1, "class-balanced", seed=0)
    >>> labels[drawn].tolist(), len(draw_labels(labels, 0.1, "uniform", seed=0))
    ([0, 0, 1, 1, 2, 2], 6)
    """
    order = Draws(seed, 0, range(len(labels)), stream=_STREAM).bits(1)[:, 0].argsort(stable=True)
    if drawing == "uniform":
        chosen = order[: max(1, round(share * len(labels)))]
    else:
        classes = labels.unique()
        each = max(1, round(share * len(labels) / len(classes)))
        chosen = torch.cat([order[labels[order] == label][:each] for label in classes])
    return chosen.sort().values.numpy()


def few_labels(config: FineTuneConfig, count: int) -> FineTuneConfig:
    """The recipe for `count` clips with labels: small batches, and epochs until there are steps enough.

    >>> few = few_labels(FineTuneConfig(epochs=5), 50)
    >>> few.batch_size, few.epochs, few.steps_per_epoch(50)
    (16, 5, 3)
    """
    few = replace(config, batch_size=min(config.batch_size, BATCH_SIZE))
    return replace(few, epochs=max(config.epochs, math.ceil(LEAST_STEPS / few.steps_per_epoch(count))))


def semi_scores(
    model_maker: Callable[[], MICA],
    card: ModelCard,
    store: Store,
    division: Split,
    class_names: Sequence[str],
    config: FineTuneConfig,
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    progress: bool = True,
) -> list[Score]:
    """Fine-tune with 1, 5 and 10 % of the labels of the training part, drawn anew for each seed; score the test part.

    The labels come from the whole training part, as published. None is left to choose anything with, so nothing is
    chosen: each training goes through all epochs of `few_labels`. A class that a draw lacks is never predicted.
    Returns a score for each share and way of drawing, such as "5 %, uniform", with the mean number of "labels" and of
    "classes" that have one.

    model_maker: gives the model to start from, on the device to train on, another copy at each call. Raises InputError
    where a loss is not finite.
    """
    tuning = Tuning(model_maker, card, store, division, len(class_names))
    truth = torch.from_numpy(store.labels[division.test])
    draws = {
        f"{100 * share:g} %, {drawing}": [draw_labels(tuning.labels, share, drawing, seed) for seed in seeds]
        for share in SHARES
        for drawing in get_args(Drawing)
    }
    predicted = _predict_each(tuning, division, draws, config, seeds, progress)
    return [
        score(
            name, predicted[name], truth, class_names, seeds=seeds, measures=_measures(tuning.labels, drawn)
        )
        for name, drawn in draws.items()
    ]


def _predict_each(
    tuning: Tuning,
    division: Split,
    draws: Mapping[str, Sequence[Places]],
    config: FineTuneConfig,
    seeds: Sequence[int],
    progress: bool,
) -> dict[str, list[Int[Tensor, " test"]]]:
    """The test clips' classes after training with each draw; one that is the same by two names is trained with once."""
    test = SkeletonDataset(tuning.store, division.test, tuning.card.preprocessing)
    unlike = {
        (seed, tuple(places)): places
        for drawn in draws.values()
        for seed, places in zip(seeds, drawn, strict=True)
    }
    predictions = {}
    with tqdm(total=len(unlike), unit="training", desc="semi-supervised", disable=not progress) as bar:
        for (seed, _), places in unlike.items():
            recipe = few_labels(config, len(places))
            classifier = tuning.train(places, tuning.head(places, recipe), recipe, seed)
            predictions[seed, tuple(places)] = classifier.predict(test)
            bar.update()
    return {
        name: [predictions[seed, tuple(places)] for seed, places in zip(seeds, drawn, strict=True)]
        for name, drawn in draws.items()
    }


def _measures(labels: Int[Tensor, " clips"], draws: Sequence[Places]) -> dict[str, float]:
    return {
        "labels": float(np.mean([len(drawn) for drawn in draws])),
        "classes": float(np.mean([len(labels[drawn].unique()) for drawn in draws])),
    }
