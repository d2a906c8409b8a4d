"""The standings as a page, for people who would rather look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mica.comparison.standings import QUESTIONS, Row, Standings
from mica.comparison.table import SEEN, score_cell
from mica.files import atomic_path
from mica.report.figures.standings import Strip, strips
from mica.report.templates import style, template
from mica.report.words import DATASETS

PAGE = "comparison.html"
KINDS = {
    None: "needs no training",
    "none": "self-supervised",
    "words": "language-supervised",
    "labels": "supervised",
}


def write_page(standings: Standings, out: Path) -> None:
    """Write comparison.html, which needs nothing besides itself, over an earlier one."""
    with atomic_path(out / PAGE, overwrite=True) as temporary:
        temporary.write_text(render(standings), encoding="utf-8")


def render(standings: Standings) -> str:
    """Return the page; whatever comes from files is escaped."""
    columns = [column for _, _, column in QUESTIONS]
    return template("standings.html.j2").render(
        style=style(),
        title=f"{DATASETS.get(standings.dataset, standings.dataset)}, {standings.split}",
        budget=standings.budget,
        seeds=standings.seeds,
        clips=standings.test_clips,
        columns=columns,
        rows=[_shown(standings, row, columns) for row in standings.rows],
        pictures=[
            strips(
                [Strip(row.name, KINDS[row.supervision], row.values[column]) for row in standings.rows],
                column,
            )
            for column in columns
        ],
    )


def _shown(standings: Standings, row: Row, columns: list[str]) -> dict[str, Any]:
    return {
        "name": row.name,
        "chosen": row.chosen,
        "seen": SEEN[row.supervision],
        "cells": [
            {"text": score_cell(row, column), "best": standings.is_best(row, column)} for column in columns
        ],
        "parameters": row.parameters,
        "minutes": sum(row.minutes) / len(row.minutes) if row.minutes else None,
    }
