"""Results in tables: this run's scores, and beside them what needs no pretraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mica.evaluation.results import Result, Score
from mica.evaluation.table import SOURCES
from mica.report.figures.canvas import Picture
from mica.report.figures.charts import Dot, score_dots
from mica.report.words import DATASETS, in_order, meaning

_COUNTS = ("labels",)  # measures that are no share


@dataclass(frozen=True)
class Line:
    """A score with its floors by name; `small` are short sentences on how it came about."""

    score: Score
    floors: Mapping[str, Score]
    small: list[str]


@dataclass(frozen=True)
class Group:
    """A protocol on a data set: its scores, the one to be quoted first; `circumstances` say on whose clips.

    `picture` shows them all where there are several.
    """

    name: str
    meaning: str
    circumstances: str
    lines: list[Line]
    picture: Picture | None

    @property
    def floors(self) -> list[str]:
        """The names of what any of the scores is set beside."""
        return _names(self.lines)


@dataclass(frozen=True)
class ScoreTable:
    """All that was measured of a run, `picture` shows the first score of each group."""

    groups: list[Group]
    picture: Picture | None

    @property
    def floors(self) -> list[str]:
        """The names of what any of the first scores is set beside."""
        return _names([group.lines[0] for group in self.groups])


def score_table(results: Sequence[Result], dataset: str) -> ScoreTable:
    """Sort results of a run that was pretrained on `dataset`: by protocol, those on other data sets behind."""
    own = [result for result in results if result.source == "trained"]
    order = in_order({result.protocol for result in own})
    own.sort(key=lambda result: (result.dataset != dataset, order.index(result.protocol), result.dataset))
    groups = [_group(result, results, dataset) for result in own]
    dots = [_dot(group.name, group.lines[0]) for group in groups]
    return ScoreTable(groups, score_dots(dots, "Results of this run") if dots else None)


def _group(result: Result, results: Sequence[Result], dataset: str) -> Group:
    name = result.protocol
    if result.dataset != dataset:
        name = f"{name} to {DATASETS.get(result.dataset, result.dataset)}"
    lines = [Line(score, _floors(result, score, results), _small(score)) for score in result.scores]
    picture = None
    if len(lines) > 1:
        picture = score_dots([_dot(line.score.name, line) for line in lines], f"All scores of {name}")
    held_out = ", ".join(map(str, result.validation_subjects))
    circumstances = f"{DATASETS.get(result.dataset, result.dataset)}, {result.split}: {result.split_note}"
    if held_out:
        circumstances += f"; held out for choices: subjects {held_out}"
    return Group(name, meaning(result), circumstances, lines, picture)


def _floors(result: Result, score: Score, results: Sequence[Result]) -> dict[str, Score]:
    """The same variant of the same protocol on the same clips, by features that need no pretraining."""
    place = (result.protocol, result.dataset, result.split)
    return {
        SOURCES[other.source]: same
        for source in SOURCES
        for other in results
        if other.source == source != "trained" and (other.protocol, other.dataset, other.split) == place
        for same in other.scores
        if same.name == score.name
    }


def _names(lines: Sequence[Line]) -> list[str]:
    found = {name for line in lines for name in line.floors}
    return [name for name in SOURCES.values() if name in found]


def _dot(name: str, line: Line) -> Dot:
    score = line.score
    return Dot(name, score.top1, score.spread, {floor: found.top1 for floor, found in line.floors.items()})


def _small(score: Score) -> list[str]:
    said = []
    if score.measures:
        said.append(", ".join(f"{name}: {_figure(name, value)}" for name, value in score.measures.items()))
    if score.chosen:
        said.append(f"chosen on validation: {_chosen(score.chosen)}")
    return said


def _chosen(chosen: Mapping[str, object]) -> str:
    settings = [str(value) for name, value in chosen.items() if name != "validation_top1"]
    there = chosen.get("validation_top1")
    return ", ".join(settings) + (f" ({there:.1f} % there)" if isinstance(there, float) else "")


def _figure(name: str, value: float) -> str:
    return f"{value:,.0f}" if name in _COUNTS else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
