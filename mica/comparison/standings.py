"""What a comparison found, read from the runs' own files: nothing is kept twice."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mica.comparison.contestant import Contestant
from mica.evaluation.results import Result
from mica.models.description import Supervision
from mica.report.compared import ComparedRun, read_run

# The columns: protocol, variant, and what they are called.
QUESTIONS = (
    ("linear", "SGD", "linear, SGD"),
    ("linear", "logistic regression", "linear, logistic regression"),
    ("knn", "k = 1", "kNN"),
)
_FLOORS = {
    "raw": "raw coordinates",
    "turned": "raw, turned to the front",
    "random": "random encoder",
}


@dataclass(frozen=True)
class Row:
    """A contestant, or a floor that needs no training.

    Args:
        name: of the contestant, or what the floor is.
        supervision: what it has seen of the labels; None of a floor.
        chosen: settings that tuning chose.
        values: top-1 in percent by column, one for each seed.
        parameters: of the encoder; None without one.
        minutes: of training, one for each seed; empty without.
        runs: one a seed; empty for a floor.
    """

    name: str
    supervision: Supervision | None
    chosen: tuple[str, ...]
    values: dict[str, list[float]]
    parameters: int | None
    minutes: list[float]
    runs: tuple[ComparedRun, ...] = ()

    def mean(self, column: str) -> float:
        return statistics.fmean(self.values[column])

    def spread(self, column: str) -> float | None:
        """Standard deviation over the seeds (n - 1); None for fewer than two different trainings."""
        found = self.values[column]
        return statistics.stdev(found) if len(found) > 1 else None


@dataclass(frozen=True)
class Standings:
    """All rows, floors first, then by what was seen of the labels; and what they have in common.

    Args:
        dataset: whose clips were scored.
        split: by which protocol.
        stream: what the methods read of a clip; several where a name says otherwise.
        test_clips: how many were asked about.
        epochs: the least and the most that a method was trained for, the same unless a name says otherwise.
        seeds: how often each was trained.
        rows: floors and methods.
    """

    dataset: str
    split: str
    stream: str
    test_clips: int
    epochs: tuple[int, int]
    seeds: int
    rows: tuple[Row, ...]

    @property
    def budget(self) -> str:
        """How long the trainings were.

        >>> Standings("ntu60", "cross-subject", "joint", 10, (80, 120), 3, ()).budget
        '80 to 120 epochs'
        """
        least, most = self.epochs
        return f"{most} epochs" if least == most else f"{least} to {most} epochs"

    def ranked_with(self, row: Row) -> list[Row]:
        """The rows that have seen as much of the labels: a ranking holds these and no others."""
        return [other for other in self.rows if other.supervision == row.supervision]

    def is_best(self, row: Row, column: str) -> bool:
        """Whether no other row of its ranking has a higher mean, at one decimal, where there are others."""
        rivals = [round(other.mean(column), 1) for other in self.ranked_with(row)]
        return row.supervision is not None and len(rivals) > 1 and round(row.mean(column), 1) == max(rivals)


def read_standings(out: Path, contestants: Sequence[Contestant], seeds: int) -> Standings:
    """Read the runs of a comparison that is through; raises InputError where a file is missing or damaged."""
    runs = {
        one: tuple(read_run(out / one.folder / f"seed-{seed}", one.name) for seed in range(seeds))
        for one in contestants
    }
    rows = [_row(one, found) for one, found in runs.items()]
    first = runs[contestants[0]]
    order: tuple[Supervision, ...] = ("none", "words", "labels")
    rows.sort(key=lambda row: order.index(row.supervision or "none"))  # a stable sort
    result = _results(first[0], "linear", "trained")
    epochs = [len(run.metrics) for of_one in runs.values() for run in of_one]
    return Standings(
        dataset=result.dataset,
        split=result.split,
        stream=", ".join(dict.fromkeys(of_one[0].card.preprocessing.stream for of_one in runs.values())),
        test_clips=result.parts["test"],
        epochs=(min(epochs), max(epochs)),
        seeds=seeds,
        rows=(*_floors(first), *rows),
    )


def _row(one: Contestant, runs: tuple[ComparedRun, ...]) -> Row:
    return Row(
        name=one.name,
        supervision=runs[0].card.supervision,
        chosen=one.chosen,
        values=_values(runs, "trained"),
        parameters=runs[0].parameters[0],
        minutes=[(run.seconds or 0.0) / 60 for run in runs],
        runs=runs,
    )


def _floors(runs: tuple[ComparedRun, ...]) -> Iterator[Row]:
    for source, name in _FLOORS.items():
        drawn = runs if source == "random" else runs[:1]  # coordinates are the same for every seed
        parameters = runs[0].parameters[0] if source == "random" else None
        yield Row(name, None, (), _values(drawn, source), parameters, [])


def _values(runs: Sequence[ComparedRun], source: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for protocol, variant, column in QUESTIONS:
        results = [_results(run, protocol, source) for run in runs]
        found[column] = [score.top1 for result in results for score in result.scores if score.name == variant]
    return found


def _results(run: ComparedRun, protocol: str, source: str) -> Result:
    return next(result for result in run.results if (result.protocol, result.source) == (protocol, source))
