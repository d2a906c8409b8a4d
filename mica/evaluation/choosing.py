"""Where choices are made: between settings, by what each predicts for the validation clips."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from mica.evaluation.features import ForChoosing
from mica.evaluation.metrics import accuracy


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


def choose(predicted: Mapping[str, Int[Tensor, " validation"]], clips: ForChoosing) -> Choice:
    """Choose the setting whose predictions for the validation clips are best; ties go to the first.

    There is no room for test clips here: what is predicted is compared with the validation labels of `clips`, which
    hold the training part alone. Raises ValueError for nothing to choose from, or predictions for other clips.

    >>> import torch
    >>> clips = ForChoosing(torch.eye(2), torch.tensor([0, 1]), torch.eye(2), torch.tensor([0, 1]))
    >>> choose({"k = 1": torch.tensor([1, 1]), "k = 2": torch.tensor([0, 1])}, clips)
    Choice(name='k = 2', validation_top1=100.0)
    """
    truth = clips.validation_labels
    for name, labels in predicted.items():
        if labels.shape != truth.shape:
            raise ValueError(f"{name}: {tuple(labels.shape)} predictions for {len(truth)} validation clips")
    # max takes the first of equals.
    choices = (Choice(name, accuracy(labels, truth)) for name, labels in predicted.items())
    return max(choices, key=lambda choice: choice.validation_top1)
