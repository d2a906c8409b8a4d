"""What an evaluation found, in memory and on disk: RUN/evaluation/<name>.json, one file a protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int
from torch import Tensor

from mica.errors import InputError
from mica.evaluation.metrics import (
    ConfusedPair,
    accuracy,
    class_accuracy,
    count_confusions,
    most_confused,
)
from mica.files import atomic_path
from mica.models.description import Supervision

ProtocolName = Literal["linear", "knn", "retrieval", "finetune", "semi", "transfer", "zero-shot", "ensemble"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)

FORMAT = 2
FOLDER = "evaluation"


@dataclass(frozen=True)
class Score:
    """How one variant of a protocol did. All accuracies in percent.

    Args:
        name: of the variant, such as "SGD", "k = 5" or "10 %, class-balanced".
        top1: the mean over `seeds`.
        spread: standard deviation over the seeds (n - 1); None where nothing is drawn or drawn once.
        seeds: of what was drawn; empty where nothing is.
        clips: how many were asked about.
        chosen: what was chosen on the validation part, and how well it did there.
        measures: further figures by name.
        per_class: accuracy of each class, None where it has no clip.
        confusion: clips by true (rows) and predicted class, summed over the seeds.
        confused: the pairs most often taken one for the other.
    """

    name: str
    top1: float
    spread: float | None = None
    seeds: tuple[int, ...] = ()
    clips: int = 0
    chosen: Mapping[str, Any] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    confused: tuple[ConfusedPair, ...] = ()


def score(
    name: str,
    predictions: Sequence[Int[Tensor, " clips"]],
    labels: Int[Tensor, " clips"],
    class_names: Sequence[str],
    *,
    seeds: Sequence[int] = (),
    chosen: Mapping[str, Any] | None = None,
    measures: Mapping[str, float] | None = None,
) -> Score:
    """Sum up what was predicted for the test clips, once for each seed, or once where nothing is drawn.

    >>> import torch
    >>> truth = torch.tensor([0, 0, 1, 1])
    >>> found = score("SGD", [truth, torch.tensor([0, 1, 1, 1])], truth, ("wave", "clap"), seeds=(0, 1))
    >>> found.top1, round(found.spread, 1), found.per_class
    (87.5, 17.7, {'wave': 75.0, 'clap': 100.0})
    """
    reached = [accuracy(predicted, labels) for predicted in predictions]
    counts = sum(count_confusions(predicted, labels, len(class_names)) for predicted in predictions)
    assert isinstance(counts, np.ndarray)
    return Score(
        name=name,
        top1=float(np.mean(reached)),
        spread=float(np.std(reached, ddof=1)) if len(reached) > 1 else None,
        seeds=tuple(seeds),
        clips=len(labels),
        chosen=chosen or {},
        measures=measures or {},
        per_class=class_accuracy(counts, class_names),
        confusion=tuple(tuple(row) for row in counts.tolist()),
        confused=most_confused(counts, class_names),
    )


@dataclass(frozen=True)
class Result:
    """What a protocol found for a run, and under which circumstances.

    Args:
        protocol: as the command calls it: "linear", "knn", "zero-shot", ...
        source: which features: "trained", or to compare "random", "raw", "turned".
        scores: the variants, the one to be quoted first.
        dataset: whose clips were scored.
        split: the named protocol that divides the data set, such as "cross-subject".
        split_note: its counts beside the published ones.
        parts: how many clips are "train", "test", and of the former "fit" and "validation".
        validation_subjects: who was held out for every choice.
        pretrained_on: data set, protocol and part that the model was pretrained on; None without training.
        supervision: what pretraining has seen of the labels: "none", "words" or the "labels" themselves.
        class_names: in label order.
        unseen_classes: those that pretraining left out.
    """

    protocol: str
    source: str
    scores: tuple[Score, ...]
    dataset: str
    split: str
    split_note: str
    parts: Mapping[str, int]
    validation_subjects: tuple[int, ...]
    pretrained_on: str | None
    supervision: Supervision
    class_names: tuple[str, ...]
    unseen_classes: tuple[str, ...] = ()


def result_file(
    run: str | os.PathLike[str], protocol: str, source: str = "trained", target: str = ""
) -> Path:
    """Where a result is kept: linear.json, random-linear.json, transfer-TARGET.json for one on another data set."""
    name = protocol if source == "trained" else f"{source}-{protocol}"
    return Path(run) / FOLDER / f"{name}{target and '-'}{target}.json"


def write_result(file: Path, result: Result) -> None:
    """Write a result, whole or not at all, over an earlier one."""
    with atomic_path(file, overwrite=True) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, **asdict(result)}, indent=1) + "\n")


def read_result(file: str | os.PathLike[str]) -> Result:
    """Read a result; raises InputError where the file is missing, damaged or of another release."""
    file = Path(file)
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError("no such file", file=file, hint="`mica evaluate` writes it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"not JSON ({error})", file=file, hint="evaluate again") from error
    if not isinstance(entries, dict) or entries.pop("format", None) != FORMAT:
        raise InputError(f"no result of format {FORMAT}", file=file, field="format", hint="evaluate again")
    try:
        scores = tuple(_score(entry) for entry in entries.pop("scores"))
        tuples = ("validation_subjects", "class_names", "unseen_classes")
        result = Result(scores=scores, **{**entries, **{name: tuple(entries[name]) for name in tuples}})
        _check(result)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"an entry is missing or malformed: {error}", file=file, hint="evaluate again"
        ) from error
    return result


def read_results(run: str | os.PathLike[str]) -> list[Result]:
    """Every result of a run, sorted by file name; raises InputError for a damaged one."""
    return [read_result(file) for file in sorted((Path(run) / FOLDER).glob("*.json"))]


def _score(entries: dict[str, Any]) -> Score:
    return Score(
        **{
            **entries,
            "top1": float(entries["top1"]),
            "seeds": tuple(entries["seeds"]),
            "confusion": tuple(tuple(int(count) for count in row) for row in entries["confusion"]),
            "confused": tuple(ConfusedPair(**pair) for pair in entries["confused"]),
        }
    )


def _check(result: Result) -> None:
    classes = len(result.class_names)
    if not result.scores:
        raise ValueError("no score")
    for found in result.scores:
        if found.confusion and {len(found.confusion), *map(len, found.confusion)} != {classes}:
            raise ValueError(f"confusion counts that are not {classes} x {classes}, the number of classes")
