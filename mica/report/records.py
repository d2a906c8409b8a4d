"""What a run directory says of itself: configuration, metrics, evaluations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from mica.errors import InputError
from mica.evaluation.table import SOURCES
from mica.training.run import CONFIG, EVALUATION, METRICS

# What the run is compared with lies beside its own results: evaluation/random-linear.json beside linear.json.
BASELINES = {f"{source}-": name for source, name in SOURCES.items() if source != "trained"}
_SECOND_CLASSIFIER = "logistic_regression"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: top-1 accuracies in percent, of this run and of what it is compared with.

    `confusion` counts clips, rows by true and columns by predicted class; None where it was not recorded.
    `unseen_classes` are those that zero-shot was asked to tell apart.
    """

    protocol: str
    top1: float
    clips: int
    baselines: dict[str, float] = field(default_factory=dict)
    unseen_classes: tuple[str, ...] = ()
    confusion: Int[np.ndarray, "true predicted"] | None = None


@dataclass(frozen=True)
class RunRecords:
    """The text files of a run; `metrics` has one entry an epoch, `evaluations` one a protocol."""

    config: str
    metrics: list[dict[str, Any]]
    evaluations: dict[str, Evaluation]


def read_records(run: Path) -> RunRecords:
    """Read a run directory; raises InputError where a file is missing (evaluations may be) or damaged."""
    for name in (CONFIG, METRICS):
        if not (run / name).is_file():
            hint = "give a directory that `mica pretrain` wrote"
            raise InputError("no such file", file=run / name, hint=hint)
    config, metrics = (run / CONFIG).read_text(), read_metrics(run / METRICS)
    return RunRecords(config, metrics, read_evaluations(run / EVALUATION))


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the entries, one an epoch; none for a run of no epochs."""
    entries = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        entry = _parse(line, file, f"line {number}")
        if not {"epoch", "loss"} <= entry.keys():
            raise InputError("no epoch or no loss", file=file, field=f"line {number}")
        entries.append(entry)
    return entries


def read_evaluations(folder: Path) -> dict[str, Evaluation]:
    """Return evaluations by protocol, each with what else was scored in the same way as a baseline."""
    own: dict[str, Evaluation] = {}
    others: list[tuple[str, Evaluation]] = []
    for file in sorted(folder.glob("*.json")):
        source = next((name for prefix, name in BASELINES.items() if file.stem.startswith(prefix)), None)
        for evaluation in read_evaluation(file):
            if source is None:
                own[evaluation.protocol] = evaluation
            else:
                others.append((source, evaluation))
    for source, evaluation in others:
        if found := own.get(evaluation.protocol):
            baselines = {**found.baselines, source: evaluation.top1}
            own[evaluation.protocol] = replace(found, baselines=baselines)
    return own


def read_evaluation(file: Path) -> list[Evaluation]:
    """Read one file: its evaluation and, of a linear one, the second classifier's.

    Raises InputError where an entry is missing or malformed.
    """
    entry = _parse(file.read_text(), file, None)
    try:
        evaluations = [_evaluation(entry, str(entry["protocol"]))]
        if second := entry.get(_SECOND_CLASSIFIER):
            evaluations.append(_evaluation(second, f"{entry['protocol']}, logistic regression"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"an entry is missing or malformed: {error}", file=file) from error
    classes = len(entry.get("class_names", ()))
    for evaluation in evaluations:
        if evaluation.confusion is not None and evaluation.confusion.shape != (classes, classes):
            shape = " x ".join(map(str, evaluation.confusion.shape))
            raise InputError(f"{shape} counts for {classes} classes", file=file, field="confusion")
    return evaluations


def _evaluation(entry: dict[str, Any], protocol: str) -> Evaluation:
    confusion = entry.get("confusion")
    return Evaluation(
        protocol=protocol,
        top1=float(entry["top1"]),
        clips=int(entry["clips"]),
        baselines={str(name): float(top1) for name, top1 in entry.get("baselines", {}).items()},
        unseen_classes=tuple(map(str, entry.get("unseen_classes", ()))),
        confusion=np.array(confusion, dtype=np.int64) if confusion else None,
    )


def _parse(text: str, file: Path, place: str | None) -> dict[str, Any]:
    try:
        entry = json.loads(text)
    except ValueError as error:
        raise InputError(f"not JSON ({error})", file=file, field=place) from error
    if not isinstance(entry, dict):
        raise InputError("not a JSON object", file=file, field=place)
    return entry
