"""Figures that are kept as one JSON file a device, and the table that documents have of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.results import RESULTS, slug

Figures = dict[str, Any]
Lines = Callable[[Figures], Iterable[tuple[str, str]]]


def keep(name: str, found: Figures) -> None:
    """Write results/<device>/`name`, over earlier figures of that device."""
    write(RESULTS / slug(found["device"]) / name, found)


def write(file: Path, found: Figures) -> None:
    """Write figures to a file, in a folder that may not be there yet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")


def kept_table(name: str, command: str, lines: Lines, results: Path) -> str:
    """The kept figures in Markdown, a table a device."""
    files = sorted(results.glob(f"*/{name}"))
    tables = [table(json.loads(file.read_text()), command, lines) for file in files]
    return "\n\n".join(tables) or "Not yet measured."


def table(found: Figures, command: str, lines: Lines) -> str:
    """Where and with what figures were made, and what `lines` say of them; `command` may name some of the figures."""
    head = (
        f"**{found['device']}**, {found['threads']} threads, PyTorch {found['torch']}, commit {found['commit']}, "
        f"{found['date'][:10]}. Made by `{command.format_map(found)}`."
    )
    cells = (("what", "measured"), ("---", "---"), *lines(found))
    return "\n".join([head, "", *(f"| {' | '.join(row)} |" for row in cells)])
