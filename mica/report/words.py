"""What a report says in words."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from mica.data.splits import Split
from mica.data.store import Store
from mica.evaluation.results import Result
from mica.models.description import METHODS, Supervision
from mica.models.mica import ModelCard

PROTOCOLS = {
    "linear": "a linear classifier on frozen features",
    "knn": "nearest neighbours among frozen features",
    "retrieval": "test clips ask, the nearest training clips answer",
    "finetune": "the whole encoder trained on with all labels",
    "semi": "the whole encoder trained on with few labels",
    "zero-shot": "unseen classes, by their descriptions alone",
    "transfer": "the encoder put to another data set",
    "ensemble": "several runs' scores added up",
}
# What a command needs besides this run and its data.
OTHER_INPUTS = {
    "transfer": "mica evaluate transfer --run {run} --data OTHER.arrow",
    "ensemble": "mica evaluate ensemble --run {run} --data {data} --with OTHER_RUN OTHER_RUN",
}
# The name in metrics.jsonl: what it is, its unit.
TERMS = {
    "loss": ("Total loss, weighted", "nats"),
    "modulation": ("Feature Modulation, KL(P || Q)", "nats"),
    "inter": ("Inter: skeleton and text", "nats"),
    "intra": ("Intra: two views of a clip", "no unit"),
    "instance": ("Instance: a clip among others", "nats"),
    "divergence": ("Divergence of extreme views (AimCLR)", "nats"),
    "joint": ("Joint stream (CrosSCLR)", "nats"),
    "motion": ("Motion stream (CrosSCLR)", "nats"),
    "bone": ("Bone stream (CrosSCLR)", "nats"),
    "classes": ("Classes, with labels", "nats"),
    "knn_validation": ("Running kNN on validation clips", "top-1 [%]"),
}
SEEN: dict[Supervision, str] = {
    "none": "skeletons alone",
    "words": "with words",
    "labels": "with labels",
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


def title(card: ModelCard) -> str:
    """Data set and protocol."""
    return f"{DATASETS.get(card.dataset, card.dataset)}, {card.protocol}"


def method(card: ModelCard, epochs: int) -> str:
    """The method in one sentence."""
    frest = "with a FreST layer in every block" if card.encoder.frest else "without FreST"
    part = "whole training part" if card.part == "train" else "training part less the validation clips"
    trained = "not trained at all: a random encoder"
    if epochs:
        trained = f"pretrained for {epochs} epochs on the {part}"
        if len(card.seen_classes) < len(card.class_names):
            trained += f", of {len(card.seen_classes)} of the {len(card.class_names)} classes"
    stream = card.preprocessing.stream
    return f"{METHODS[card.method]} with the encoder {card.encoder.preset} on the {stream} stream, {frest}, {trained}."


def parts(store: Store, division: Split) -> str:
    """How many clips train, validate and test, and who validates."""
    held_out = [subject for subject in np.unique(store.subjects[division.validation]).tolist() if subject]
    trains = set(store.subjects[division.fit].tolist())
    who = f"subject{'s' * (len(held_out) > 1)} {', '.join(map(str, held_out))}"
    if not held_out or trains & set(held_out):
        who = "not told apart by subject"
    return (
        f"{len(division.train):,} clips train, {len(division.test):,} test ({division.note}). Of the former, "
        f"{len(division.validation):,} are held out for every choice: {who}."
    )


def in_order(protocols: Collection[str]) -> list[str]:
    """Sort as in `PROTOCOLS`, unknown ones last.

    >>> in_order({"mine", "knn", "linear"})
    ['linear', 'knn', 'mine']
    """
    ranks = {name: rank for rank, name in enumerate(PROTOCOLS)}
    return sorted(protocols, key=lambda name: (ranks.get(name, len(ranks)), name))


def meaning(result: Result) -> str:
    """What a protocol measures; zero-shot over classes that were all seen is said not to be zero-shot."""
    if result.protocol == "zero-shot":
        if not result.unseen_classes:
            return "all classes by their descriptions, which pretraining has seen: not truly zero-shot"
        count = len(result.unseen_classes)
        return f"{count} unseen class{'es' * (count > 1)}, by their descriptions alone"
    return PROTOCOLS.get(result.protocol, "")


def unmeasured(card: ModelCard, measured: Collection[str]) -> dict[str, str]:
    """The protocols that wait for `mica evaluate`; without text there is no zero-shot to wait for."""
    possible = PROTOCOLS.keys() - ({"zero-shot"} if card.text == "none" else set())
    return {name: PROTOCOLS[name] for name in in_order(possible - set(measured))}


def commands(names: Collection[str], run: str, data: str) -> list[str]:
    """How to measure these protocols.

    >>> commands(["knn"], run="runs/a", data="a.arrow")
    ['mica evaluate knn --run runs/a --data a.arrow']
    """
    plain = "mica evaluate {name} --run {run} --data {data}"
    return [OTHER_INPUTS.get(name, plain).format(name=name, run=run, data=data) for name in names]
