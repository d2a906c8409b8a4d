"""The standings as a table, for people in Markdown and for programs in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mica.comparison.standings import QUESTIONS, Row, Standings
from mica.files import atomic_path
from mica.report.words import DATASETS

SEEN = {None: "", "none": "no", "words": "as words", "labels": "yes"}
_COLUMNS = tuple(column for _, _, column in QUESTIONS)


def write_table(standings: Standings, out: Path) -> None:
    """Write comparison.md and comparison.json, over earlier ones."""
    for name, text in (
        ("comparison.md", "\n".join(markdown(standings)) + "\n"),
        ("comparison.json", json.dumps(as_entries(standings), indent=1) + "\n"),
    ):
        with atomic_path(out / name, overwrite=True) as temporary:
            temporary.write_text(text, encoding="utf-8")


def markdown(standings: Standings) -> Iterator[str]:
    """The lines of the table: floors, then each ranking, the best of it in bold."""
    title = DATASETS.get(standings.dataset, standings.dataset)
    yield (
        f"{title}, {standings.split}, {standings.stream} stream: top-1 % on {standings.test_clips:,} test clips, "
        f"mean ± standard deviation over {standings.seeds} seeds; {standings.budget} each. Bold is the best of those "
        "that have seen as much of the labels."
    )
    yield ""
    heads = ("method", "labels seen", *_COLUMNS, "parameters", "minutes")
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join(['---'] * len(heads))} |"
    for row in standings.rows:
        yield f"| {' | '.join(_cells(standings, row))} |"
    chosen = {row.name.partition("+")[0]: row.chosen for row in standings.rows if row.chosen}
    if chosen:
        said = (
            f"`{method}` {' '.join(f'`{one}`' for one in settings)}" for method, settings in chosen.items()
        )
        yield from ("", f"Chosen on the validation part: {', '.join(said)}.")


def _cells(standings: Standings, row: Row) -> Iterator[str]:
    yield row.name if row.supervision is None else f"`{row.name}`"
    yield SEEN[row.supervision]
    for column in _COLUMNS:
        cell = score_cell(row, column)
        yield f"**{cell}**" if standings.is_best(row, column) else cell
    yield "" if row.parameters is None else f"{row.parameters:,}"
    yield f"{sum(row.minutes) / len(row.minutes):.1f}" if row.minutes else ""


def score_cell(row: Row, column: str) -> str:
    """Mean and spread, as far as there are any."""
    spread = row.spread(column)
    return f"{row.mean(column):.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def as_entries(standings: Standings) -> dict[str, object]:
    """The same as JSON has it, every seed's number included."""
    return {
        "dataset": standings.dataset,
        "split": standings.split,
        "stream": standings.stream,
        "test_clips": standings.test_clips,
        "epochs": standings.epochs,
        "seeds": standings.seeds,
        "rows": [
            {
                "method": row.name,
                "supervision": row.supervision,
                "chosen": list(row.chosen),
                "top1": {column: list(row.values[column]) for column in _COLUMNS},
                "parameters": row.parameters,
                "minutes": [round(minutes, 2) for minutes in row.minutes],
            }
            for row in standings.rows
        ],
    }
