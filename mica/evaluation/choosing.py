"""Where choices are made: between settings, by what each predicts for the validation clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from mica.evaluation.features import ForChoosing
from mica.evaluation.metrics import accuracy

Validated = Mapping[str, Mapping[str, float]]
"""By the name of a score, the accuracy of each setting that was tried for it, in percent on the validation clips."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and its accuracy on the validation clips in percent."""

    name: str
    validation_top1: float

    def as_dict(self) -> dict[str, str | float]:
        """As results keep it.

        >>> Choice("C 0.01", 87.5).as_dict()
        {'setting': 'C 0.01', 'validation_top1': 87.5}
        """
        return {"setting": self.name, "validation_top1": self.validation_top1}


def validate(predicted: Mapping[str, Int[Tensor, " validation"]], clips: ForChoosing) -> dict[str, float]:
    """How well each setting's predictions for the validation clips do, in percent.

    There is no room for test clips here: what is predicted is compared with the validation labels of `clips`, which
    hold the training part alone. Raises ValueError for predictions for other clips.

    >>> import torch
    >>> clips = ForChoosing(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 1]))
    >>> validate({"k = 1": torch.tensor([1, 1]), "k = 2": torch.tensor([0, 1])}, clips)
    {'k = 1': 50.0, 'k = 2': 100.0}
    """
    truth = clips.validation_labels
    for name, labels in predicted.items():
        if labels.shape != truth.shape:
            raise ValueError(f"{name}: {tuple(labels.shape)} predictions for {len(truth)} validation clips")
    return {name: accuracy(labels, truth) for name, labels in predicted.items()}


def best(validated: Mapping[str, float]) -> Choice:
    """The setting that does best on the validation clips; ties go to the first. Raises ValueError for none.

    >>> best({"k = 1": 50.0, "k = 2": 100.0, "k = 3": 100.0})
    Choice(name='k = 2', validation_top1=100.0)
    """
    # max takes the first of equals.
    return Choice(*max(validated.items(), key=lambda tried: tried[1]))


def choose(predicted: Mapping[str, Int[Tensor, " validation"]], clips: ForChoosing) -> Choice:
    """The setting whose predictions for the validation clips are best, by `validate` and `best`."""
    return best(validate(predicted, clips))
