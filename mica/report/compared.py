"""Several runs as their directories tell of them: names, settings that differ, and scores side by side."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

from mica.errors import InputError
from mica.evaluation.results import Result, Score
from mica.evaluation.runs import CHECKPOINT
from mica.evaluation.table import SOURCES
from mica.models.description import DESCRIPTION, Supervision
from mica.models.mica import ModelCard
from mica.report.records import read_records
from mica.report.words import PROTOCOLS, SEEN
from mica.training.run import CONFIG

# What one score has in common with another that it may be set beside: protocol, source, unseen classes, name.
_Question = tuple[str, str, tuple[str, ...], str]


@dataclass(frozen=True)
class ComparedRun:
    """A run without its weights.

    Args:
        name: tells it from the others.
        card: what its model is.
        config: its settings by dotted name, as config.yaml writes them.
        metrics: one entry an epoch.
        results: its evaluations.
        parameters: how many of the encoder, and of all that was trained with it.
    """

    name: str
    card: ModelCard
    config: Mapping[str, str]
    metrics: Sequence[Mapping[str, float | None]]
    results: Sequence[Result]
    parameters: tuple[int, int]

    @property
    def seen(self) -> str:
        """What pretraining has seen of the labels, in words."""
        return SEEN[self.card.supervision]

    @property
    def seconds(self) -> float | None:
        """How long training took; None where it was not recorded."""
        known = [entry.get("seconds") for entry in self.metrics]
        return sum(filter(None, known)) if any(known) else None

    @property
    def clips_per_second(self) -> float | None:
        """Of the epoch in the middle: the first one warms up."""
        known = [speed for entry in self.metrics if (speed := entry.get("clips_per_second"))]
        return statistics.median(known) if known else None


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[ComparedRun]:
    """Read run directories; raises InputError for fewer than two, the same one twice, a missing or a damaged file."""
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2:
        raise InputError(f"{len(paths)} run to compare, at least two are needed")
    return [read_run(path, name) for path, name in zip(paths, distinct_names(paths), strict=True)]


def read_run(folder: Path, name: str) -> ComparedRun:
    """Read a run directory, by the name that it is to have; raises InputError for a missing or a damaged file."""
    records, card = read_records(folder), ModelCard.read(folder / CHECKPOINT)
    return ComparedRun(
        name=name,
        card=card,
        config={
            "dataset": card.dataset,
            "layout": card.layout,
            **_settings(records.config, folder / CONFIG),
        },
        metrics=records.metrics,
        results=records.results,
        parameters=_count_parameters(card, folder / CHECKPOINT / DESCRIPTION),
    )


def _settings(text: str, file: Path) -> dict[str, str]:
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"not YAML ({error})", file=file) from error
    if not isinstance(settings, dict):
        raise InputError("no settings", file=file, hint="give a directory that `mica pretrain` wrote")
    return dict(_flat(settings))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _count_parameters(card: ModelCard, file: Path) -> tuple[int, int]:
    try:
        with torch.device("meta"):  # shapes without numbers
            model = card.build()
    except (TypeError, ValueError) as error:
        raise InputError(f"describes no model: {error}", file=file) from error
    encoder, all_of_it = (
        sum(parameter.numel() for parameter in part.parameters()) for part in (model.encoder, model)
    )
    return encoder, all_of_it


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, and as many before it as tell it from the others.

    Raises InputError for the same directory twice.

    >>> distinct_names([Path("/a/joint"), Path("/b/joint"), Path("/b/bone")])
    ['a/joint', 'b/joint', 'bone']
    """
    parts = [folder.resolve().parts for folder in folders]
    names = []
    for own, folder in zip(parts, folders, strict=True):
        ends = (own[-depth:] for depth in range(1, len(own) + 1))
        name = next((end for end in ends if sum(other[-len(end) :] == end for other in parts) == 1), None)
        if name is None:
            raise InputError("the same run twice", file=folder, hint="name each run once")
        names.append(str(Path(*name)))
    return names


def differing_settings(runs: Sequence[ComparedRun]) -> dict[str, list[str | None]]:
    """The settings that are not the same in all runs: for each its value in every run, None where there is none."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    values = {name: [run.config.get(name) for run in runs] for name in names}
    return {name: found for name, found in values.items() if len(set(found)) > 1}


@dataclass(frozen=True)
class Row:
    """A variant of a protocol in several runs.

    Args:
        protocol, source, name: which protocol on which features, and which of its variants.
        scores: one a run, None where the run has none.
        best: the runs that no other run with the same supervision beats; empty where there is no contest.
    """

    protocol: str
    source: str
    name: str
    scores: tuple[Score | None, ...]
    best: frozenset[int]


@dataclass(frozen=True)
class Setting:
    """What can be compared: scores on the same test clips of the same classes, `clips` of them."""

    dataset: str
    split: str
    class_names: tuple[str, ...]
    clips: int
    runs: tuple[ComparedRun, ...]
    rows: tuple[Row, ...]


def settings(runs: Sequence[ComparedRun]) -> list[Setting]:
    """Sort the scores of all runs by what they were scored on; runs without a result there are left out."""
    keys = dict.fromkeys(_scored_on(result) for run in runs for result in run.results)
    return [_setting(key, runs) for key in keys]


def _scored_on(result: Result) -> tuple[str, str, tuple[str, ...], int]:
    return result.dataset, result.split, result.class_names, result.parts.get("test", 0)


def _setting(key: tuple[str, str, tuple[str, ...], int], runs: Sequence[ComparedRun]) -> Setting:
    present = tuple(run for run in runs if any(_scored_on(result) == key for result in run.results))
    found: dict[_Question, dict[int, tuple[Score, Supervision]]] = {}
    for place, run in enumerate(present):
        for result in (result for result in run.results if _scored_on(result) == key):
            for score in result.scores:
                cells = found.setdefault(_question(result, score), {})
                cells[place] = (score, result.supervision)
    rows = tuple(_row(question, found[question], len(present)) for question in sorted(found, key=_order))
    return Setting(*key, present, rows)


def _question(result: Result, score: Score) -> _Question:
    asked = result.unseen_classes if result.protocol == "zero-shot" else ()
    return result.protocol, result.source, asked, score.name


def _order(question: _Question) -> tuple[int, int]:
    protocol, source, *_ = question
    return [*PROTOCOLS, protocol].index(protocol), [*SOURCES, source].index(source)


def _row(question: _Question, cells: Mapping[int, tuple[Score, Supervision]], runs: int) -> Row:
    protocol, source, _, name = question
    scores = tuple(cells[place][0] if place in cells else None for place in range(runs))
    return Row(protocol, source, name, scores, best_of(cells) if source == "trained" else frozenset())


def best_of(cells: Mapping[int, tuple[Score, Supervision]]) -> frozenset[int]:
    """The best at one decimal among the runs that have seen as much of the labels, where there are two or more.

    >>> a, b, c = (Score("SGD", top1) for top1 in (70.01, 70.04, 90.0))
    >>> sorted(best_of({0: (a, "none"), 1: (b, "none"), 2: (c, "words")}))
    [0, 1]
    """
    best: set[int] = set()
    for supervision in get_args(Supervision):
        rivals = {
            place: round(score.top1, 1) for place, (score, seen) in cells.items() if seen == supervision
        }
        if len(rivals) > 1:
            best |= {place for place, top1 in rivals.items() if top1 == max(rivals.values())}
    return frozenset(best)
