"""The rows that benchmarks leave: one JSON object a line, in one file a folder, a folder a device.

A row says what was measured (operator, case, implementation, mode, size), what came out, and where: device, versions,
commit and date. A row that could not be measured says why, in `failed` (wrong or broken) or `left_out` (not here).
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mica.training.environment import device_name
from mica_kernels.prebuilt import triton_version

Row = dict[str, Any]

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROWS = "rows.jsonl"
KEY = ("operator", "case", "implementation", "mode")
MODES = ("forward", "backward", "both")


class ResultsError(ValueError):
    """A file of results that cannot be read, by file and line."""


def key(row: Row) -> tuple[str, ...]:
    """What a row is about."""
    return tuple(row[name] for name in KEY)


def keep(folder: Path, row: Row) -> None:
    """Write a row to the folder's file, in place of the one of its key and device; the file is whole at any time."""
    file = folder / ROWS
    rows = read_file(file) if file.exists() else []
    same = (*key(row), row.get("device"))
    found = [place for place, other in enumerate(rows) if (*key(other), other.get("device")) == same]
    if found:
        rows[found[0]] = row
    else:
        rows.append(row)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    temporary.replace(file)


def read(path: Path) -> list[Row]:
    """The rows of a file, of a folder's, or of all its folders'; raises ResultsError where there are none."""
    files = [path]
    if path.is_dir():
        files = [path / ROWS] if (path / ROWS).exists() else sorted(path.glob(f"*/{ROWS}"))
    if not files:
        raise ResultsError(f"{path}: no {ROWS} in this folder")
    return [row for file in files for row in read_file(file)]


def read_file(file: Path) -> list[Row]:
    """The rows of one file. Raises ResultsError, naming the line, for what is no row."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ResultsError(f"{file}: cannot be read: {error}") from error
    return [_parsed(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(file: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ResultsError(f"{file}, line {number}: not JSON ({error})") from error
    missing = [name for name in KEY if not isinstance(row, dict) or name not in row]
    if missing:
        raise ResultsError(f"{file}, line {number}: no row of a benchmark, {', '.join(missing)} missing")
    return row


@cache
def about(device: torch.device) -> Row:
    """Where and with what a row is made, but for its date."""
    found: Row = {
        "device": device_name(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton_version(),
        "commit": _commit(),
    }
    if device.type == "cpu":
        return {**found, "threads": torch.get_num_threads()}
    return {**found, "cuda": torch.version.cuda, "capability": list(torch.cuda.get_device_capability(device))}


def this_device() -> torch.device:
    """What trains here: the GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def stamp(device: torch.device) -> Row:
    """The end of a row: where, with what and when."""
    return {**about(device), "date": datetime.now(UTC).isoformat(timespec="seconds")}


def slug(name: str) -> str:
    """A folder's name for a device's.

    >>> slug("NVIDIA H200"), slug("Intel(R) Xeon(R) Processor @ 2.80GHz")
    ('nvidia-h200', 'intel-xeon-processor-2.80ghz')
    """
    plain = re.sub(r"\((r|tm)\)", "", name.lower())
    return re.sub(r"[^a-z0-9.]+", "-", plain).strip("-")


def _commit() -> str | None:
    """The revision, marked where code differs from it; of a plain copy without git, None."""
    try:
        revision = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results", ":!docs", ":!*.md")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{revision}-dirty" if changed else revision


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(HERE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def measured(rows: Iterable[Row]) -> Iterator[Row]:
    """Those that have times."""
    return (row for row in rows if row.get("times"))


def pick(rows: Iterable[Row], **wanted: str) -> list[Row]:
    """Those whose fields have these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def median(rows: Iterable[Row], **wanted: str) -> float | None:
    """Milliseconds of the one row with these fields; None where it was not measured."""
    found = list(measured(pick(rows, **wanted)))
    return found[0]["times"]["median"] if found else None


FLOORS = ("copy",)
"""What is timed beside the implementations, and is none of them."""


def fastest_other(rows: Sequence[Row], ours: str, kind: str = "median") -> Row | None:
    """Of the rows of one case and mode, the fastest that is not ours."""
    others = [row for row in measured(rows) if row["implementation"] not in (ours, *FLOORS)]
    others = [row for row in others if row["times"].get(kind) is not None]
    return min(others, key=lambda row: row["times"][kind], default=None)


def speedup(rows: Sequence[Row], ours: str, kind: str = "median") -> float | None:
    """How many times faster ours is than the fastest other, of the rows of one case and mode; None: not measured."""
    mine, other = list(measured(pick(rows, implementation=ours))), fastest_other(rows, ours, kind)
    if not mine or other is None or not mine[0]["times"].get(kind):
        return None
    return other["times"][kind] / mine[0]["times"][kind]
