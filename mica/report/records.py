"""What a run directory says of itself: configuration, metrics, results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mica.errors import InputError
from mica.evaluation.results import Result, read_results
from mica.training.run import CONFIG, METRICS


@dataclass(frozen=True)
class RunRecords:
    """The text files of a run; `metrics` has one entry an epoch, `results` one a protocol and source of features."""

    config: str
    metrics: list[dict[str, Any]]
    results: list[Result]


def read_records(run: Path) -> RunRecords:
    """Read a run directory; raises InputError where a file is missing (results may be) or damaged."""
    for name in (CONFIG, METRICS):
        if not (run / name).is_file():
            hint = "give a directory that `mica pretrain` wrote"
            raise InputError("no such file", file=run / name, hint=hint)
    return RunRecords(_text(run / CONFIG), read_metrics(run / METRICS), read_results(run))


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """Return the entries, one an epoch; none for a run of no epochs."""
    entries = []
    for number, line in enumerate(_text(file).splitlines(), start=1):
        place = f"line {number}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"not JSON ({error})", file=file, field=place) from error
        if not isinstance(entry, dict):
            raise InputError("not a JSON object", file=file, field=place)
        if not (isinstance(entry.get("epoch"), int) and isinstance(entry.get("loss"), int | float)):
            raise InputError("no epoch or no loss", file=file, field=place)
        entries.append(entry)
    return entries


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not a text ({error})", file=file) from error
