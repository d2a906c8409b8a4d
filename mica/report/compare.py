"""Several runs on one page: what differs between them, and what came of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from markupsafe import Markup

from mica.evaluation.results import Score
from mica.evaluation.table import SOURCES
from mica.files import atomic_path, output_file
from mica.report.compared import ComparedRun, Row, Setting, differing_settings, read_runs, settings
from mica.report.figures import comparison
from mica.report.figures.canvas import Picture
from mica.report.figures.charts import row_percent
from mica.report.published import own_numbers, published_section, published_table
from mica.report.templates import style, template
from mica.report.words import DATASETS, TERMS

_MOST_PAIRS, _LEAST_CHANGE = 6, 2.0


def write_comparison(
    runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write one HTML page that sets runs beside each other and needs nothing besides itself; return its path.

    It reads what the run directories hold, evaluations where there are some, and neither data nor weights. Scores
    stand beside each other where the test clips are the same, and are ranked among runs that saw as much of the labels.
    Raises InputError for fewer than two runs, the same one twice, a directory that is no run, a damaged file, or an
    `out` that exists and may not be overwritten.
    """
    out = output_file(out, overwrite)
    page = render(read_runs(runs))
    with atomic_path(out, overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return out


def render(runs: Sequence[ComparedRun]) -> str:
    """Return the page; whatever comes from files is escaped."""
    places = {run.name: place for place, run in enumerate(runs)}
    return template("compare.html.j2").render(
        style=style(),
        runs=runs,
        pretrained_on={run.name: _title(run.card.dataset, run.card.protocol) for run in runs},
        differing=differing_settings(runs),
        views=[setting_view(setting, places) for setting in settings(runs)],
        unscored=[run.name for run in runs if not run.results],
        curves=curves(runs, places),
        sources=SOURCES,
    )


def _title(dataset: str, split: str) -> str:
    return f"{DATASETS.get(dataset, dataset)}, {split}"


def curves(runs: Sequence[ComparedRun], places: dict[str, int]) -> dict[str, list[Picture]]:
    """Loss, its terms and the running kNN, all runs of a data set and split in one picture each, by its title."""
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(_title(run.card.dataset, run.card.protocol), []).append(run)
    pictures = {title: _curves(group, places) for title, group in groups.items()}
    return {title: found for title, found in pictures.items() if found}


def _curves(runs: Sequence[ComparedRun], places: dict[str, int]) -> list[Picture]:
    pictures = []
    for term, (caption, unit) in TERMS.items():
        series = {}
        for run in runs:
            values = [entry.get(term) for entry in run.metrics]
            if any(value is not None for value in values):
                series[run.name] = ([int(entry["epoch"] or 0) + 1 for entry in run.metrics], values)
        if series:
            pictures.append(comparison.curves(series, places, caption, unit))
    return pictures


@dataclass(frozen=True)
class ConfusionChange:
    """Clips of class `true` that were taken for class `predicted`, in percent of that class: before and after."""

    true: str
    predicted: str
    before: float
    after: float


@dataclass(frozen=True)
class SettingView:
    """What a page shows of a setting: further figures by run, and classes and confusions of the row `closer`."""

    title: str
    setting: Setting
    measures: list[tuple[Row, str, list[float | None]]]
    closer: Row | None
    classes: Picture | None
    classes_left_out: int
    first: str
    confusions: dict[str, tuple[list[ConfusionChange], list[ConfusionChange]]]
    published: Markup | None


def setting_view(setting: Setting, places: dict[str, int]) -> SettingView:
    """Work out what a page shows of scores on the same clips; `places` says which colour a run has."""
    names = [run.name for run in setting.runs]
    closer = closer_row(setting.rows)
    scores = (
        {}
        if closer is None
        else {n: s for n, s in zip(names, closer.scores, strict=True) if s and s.per_class}
    )
    counts = {name: np.array(score.confusion) for name, score in scores.items() if score.confusion}
    classes, left_out = _classes(scores, setting.class_names, places)
    first = next(iter(counts), "")
    return SettingView(
        title=_title(setting.dataset, setting.split),
        setting=setting,
        measures=list(_measures(setting.rows)),
        closer=closer,
        classes=classes,
        classes_left_out=left_out,
        first=first,
        confusions={
            name: confusion_changes(counts[first], other, setting.class_names)
            for name, other in counts.items()
            if name != first
        },
        published=_published(setting),
    )


def _measures(rows: Sequence[Row]) -> Iterator[tuple[Row, str, list[float | None]]]:
    for row in rows:
        known = [{} if score is None else score.measures for score in row.scores]
        for name in dict.fromkeys(name for measures in known for name in measures):
            yield row, name, [measures.get(name) for measures in known]


def closer_row(rows: Sequence[Row]) -> Row | None:
    """The row whose classes are looked at: of the runs' own, that of most runs with classes, the first among equals."""
    counts = [sum(bool(score and score.per_class) for score in row.scores) for row in rows]
    known = [(row, count) for row, count in zip(rows, counts, strict=True) if row.source == "trained"]
    best = max(known, key=lambda pair: pair[1], default=None)
    return best[0] if best is not None and best[1] > 1 else None


def _classes(
    scores: dict[str, Score], class_names: Sequence[str], places: dict[str, int]
) -> tuple[Picture | None, int]:
    accuracy, names = by_difference(scores.values(), class_names)
    if not names:
        return None, 0
    shown = comparison.MOST_CLASSES
    own_places = {name: places[name] for name in scores}
    picture = comparison.class_dots(accuracy[:shown], names[:shown], own_places)
    return picture, max(0, len(names) - shown)


def by_difference(
    scores: Collection[Score], class_names: Sequence[str]
) -> tuple[Float[np.ndarray, "classes runs"], list[str]]:
    """Accuracies of the classes that have clips, sorted by how far the runs are apart, with their names.

    >>> runs = [Score("SGD", 0.0, per_class={"wave": 50.0, "clap": 90.0, "bow": None}),
    ...         Score("SGD", 0.0, per_class={"wave": 60.0, "clap": 40.0, "bow": None})]
    >>> by_difference(runs, ("wave", "clap", "bow"))[1]
    ['clap', 'wave']
    """
    rows = [[score.per_class.get(name) for score in scores] for name in class_names]
    accuracy = np.array(rows, dtype=np.float64)  # None becomes NaN
    known = [row for row in range(len(rows)) if not np.isnan(accuracy[row]).all()]
    order = sorted(known, key=lambda row: -float(np.nanmax(accuracy[row]) - np.nanmin(accuracy[row])))
    return accuracy[order], [class_names[row] for row in order]


def confusion_changes(
    before: Int[np.ndarray, "K K"], after: Int[np.ndarray, "K K"], class_names: Sequence[str]
) -> tuple[list[ConfusionChange], list[ConfusionChange]]:
    """The pairs of classes confused less than `before`, and those confused more, the most changed first.

    A change below two points, which a single clip may make, is left out.

    >>> one, other = np.array([[4, 6], [0, 5]]), np.array([[9, 1], [1, 4]])
    >>> better, worse = confusion_changes(one, other, ("wave", "clap"))
    >>> (better[0].true, better[0].before, better[0].after), (worse[0].true, worse[0].after)
    (('wave', 60.0, 10.0), ('clap', 20.0))
    """
    percents = row_percent(before), row_percent(after)
    change = (percents[1] - percents[0]) * ~np.eye(len(before), dtype=bool)
    found = []
    for sign in (-1, 1):
        order = np.argsort(-sign * change, axis=None, kind="stable")[:_MOST_PAIRS]
        pairs = zip(*np.unravel_index(order, change.shape), strict=True)
        found.append([
            ConfusionChange(class_names[t], class_names[p], float(percents[0][t, p]), float(percents[1][t, p]))
            for t, p in pairs
            if sign * change[t, p] >= _LEAST_CHANGE
        ])  # fmt: skip
    return found[0], found[1]


def _published(setting: Setting) -> Markup | None:
    table = published_table(setting.dataset, setting.split)
    if table is None:
        return None
    own = [
        number
        for run in setting.runs
        for number in own_numbers(run.name, run.card, len(run.metrics), run.results, table)
    ]
    return published_section(table, own)
