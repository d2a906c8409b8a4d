"""From predictions to figures: accuracy, classes, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from torch import Tensor

MOST_CONFUSED = 8


def accuracy(predicted: Int[Tensor, " clips"], labels: Int[Tensor, " clips"]) -> float:
    """Top-1 accuracy in percent.

    >>> import torch
    >>> accuracy(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 0]))
    50.0
    """
    return 100.0 * float((predicted.cpu() == labels.cpu()).double().mean())


def count_confusions(
    predicted: Int[Tensor, " clips"], labels: Int[Tensor, " clips"], num_classes: int
) -> Int[np.ndarray, "true predicted"]:
    """Count clips by true class (rows) and predicted class (columns)."""
    from sklearn.metrics import confusion_matrix  # takes a second, which a training need not wait for

    counts = confusion_matrix(labels.cpu().numpy(), predicted.cpu().numpy(), labels=range(num_classes))
    return counts.astype(np.int64)


def class_accuracy(
    counts: Int[np.ndarray, "true predicted"], class_names: Sequence[str]
) -> dict[str, float | None]:
    """Accuracy of each class in percent, None where it has no clip.

    >>> class_accuracy(np.array([[3, 1], [0, 0]]), ("wave", "clap"))
    {'wave': 75.0, 'clap': None}
    """
    clips = counts.sum(axis=1)
    return {
        name: 100.0 * int(counts[label, label]) / int(clips[label]) if clips[label] else None
        for label, name in enumerate(class_names)
    }


@dataclass(frozen=True)
class ConfusedPair:
    """Clips of class `true` that were taken for class `predicted`, in percent of the clips of that class."""

    true: str
    predicted: str
    percent: float


def most_confused(
    counts: Int[np.ndarray, "true predicted"], class_names: Sequence[str]
) -> tuple[ConfusedPair, ...]:
    """The pairs of classes most often taken one for the other, by share of the true class, the worst first.

    >>> counts = np.array([[8, 2, 0], [0, 4, 4], [0, 0, 8]])
    >>> [(pair.true, pair.predicted, pair.percent) for pair in most_confused(counts, ("wave", "clap", "bow"))]
    [('clap', 'bow', 50.0), ('wave', 'clap', 20.0)]
    """
    mistakes = counts * ~np.eye(len(counts), dtype=bool)
    percent = 100.0 * mistakes / counts.sum(axis=1).clip(min=1)[:, None]
    worst = np.argsort(-percent, axis=None, kind="stable")[:MOST_CONFUSED]
    return tuple(
        ConfusedPair(class_names[true], class_names[predicted], float(percent[true, predicted]))
        for true, predicted in zip(*np.unravel_index(worst, percent.shape), strict=True)
        if mistakes[true, predicted] > 0
    )
