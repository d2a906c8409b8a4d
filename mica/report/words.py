"""What a report says in words."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mica.models.pretrained import ModelCard
from mica.report.records import Evaluation

PROTOCOLS = {
    "linear": "a linear classifier on frozen features",
    "knn": "nearest neighbour among frozen features",
    "zero-shot": "unseen classes, by their descriptions alone",
}
DATASETS = {
    "nw-ucla": "NW-UCLA",
    "utd-mhad": "UTD-MHAD",
    "ntu60": "NTU RGB+D 60",
    "ntu120": "NTU RGB+D 120",
    "pku-mmd-1": "PKU-MMD I",
    "pku-mmd-2": "PKU-MMD II",
    "synthetic": "Synthetic actions",
}
_MOST_CONFUSED = 8


@dataclass(frozen=True)
class Confusion:
    """`mistaken` of `clips` clips of class `true` were taken for class `predicted`."""

    true: str
    predicted: str
    mistaken: int
    clips: int


def title(card: ModelCard) -> str:
    """Data set and protocol."""
    return f"{DATASETS.get(card.dataset, card.dataset)}, {card.protocol}"


def method(card: ModelCard, epochs: int) -> str:
    """The method in one sentence."""
    frest = "with a FreST layer in every block" if card.encoder.frest else "without FreST"
    part = "whole training part" if card.part == "train" else "training part less the validation subjects"
    trained = "not trained at all: a random encoder"
    if epochs:
        trained = f"pretrained for {epochs} epochs on the {part}"
    stream = card.preprocessing.stream
    return f"MICA with the encoder {card.encoder.preset} on the {stream} stream, {frest}, {trained}."


def in_order(protocols: Collection[str]) -> list[str]:
    """Sort as in `PROTOCOLS`, variants behind their protocol, unknown ones last.

    >>> in_order({"mine", "knn", "linear, logistic regression", "linear"})
    ['linear', 'linear, logistic regression', 'knn', 'mine']
    """
    ranks = {name: rank for rank, name in enumerate(PROTOCOLS)}
    return sorted(protocols, key=lambda name: (ranks.get(name.split(",")[0], len(ranks)), name))


def meaning(evaluation: Evaluation) -> str:
    """What a protocol measures; zero-shot over classes that were all seen is said not to be zero-shot."""
    if evaluation.protocol == "zero-shot" and not evaluation.unseen_classes:
        return "all classes by their descriptions, which pretraining has seen: not truly zero-shot"
    if evaluation.protocol == "zero-shot":
        return f"{len(evaluation.unseen_classes)} unseen classes, by their descriptions alone"
    if evaluation.protocol == "linear, logistic regression":
        return "the same, fitted to the optimum"
    return PROTOCOLS.get(evaluation.protocol, "")


def unmeasured(card: ModelCard, measured: Collection[str]) -> dict[str, str]:
    """The protocols that wait for `mica evaluate`; without text there is no zero-shot to wait for."""
    possible = PROTOCOLS.keys() - ({"zero-shot"} if card.text == "none" else set())
    return {name: PROTOCOLS[name] for name in in_order(possible - set(measured))}


def most_confused(counts: Int[np.ndarray, "K K"], class_names: Sequence[str]) -> list[Confusion]:
    """The pairs of classes most often taken one for the other, by share of the true class (rows of `counts`).

    >>> counts = np.array([[8, 2, 0], [0, 4, 4], [0, 0, 8]])
    >>> first, second = most_confused(counts, ("wave", "clap", "bow"))
    >>> (first.true, first.predicted, first.mistaken, first.clips), second.true
    (('clap', 'bow', 4, 8), 'wave')
    """
    clips = counts.sum(axis=1)
    mistakes = counts * ~np.eye(len(clips), dtype=bool)
    share = mistakes / clips.clip(min=1)[:, None]
    worst = np.argsort(-share, axis=None, kind="stable")[:_MOST_CONFUSED]
    return [
        Confusion(class_names[true], class_names[predicted], int(mistakes[true, predicted]), int(clips[true]))
        for true, predicted in zip(*np.unravel_index(worst, share.shape), strict=True)
        if mistakes[true, predicted] > 0
    ]
