"""Figures that are kept as one JSON file a device, and the table that documents have of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
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


def kept(name: str, make: Callable[[Figures], str], results: Path) -> str:
    """What `make` says of the kept figures, a device at a time."""
    files = sorted(results.glob(f"*/{name}"))
    return "\n\n".join(make(json.loads(file.read_text())) for file in files) or "Not yet measured."


def kept_table(name: str, command: str, lines: Lines, results: Path) -> str:
    """The kept figures in Markdown, a table a device."""
    return kept(name, lambda found: table(found, command, lines), results)


def table(found: Figures, command: str, lines: Lines) -> str:
    """Where and with what figures were made, and what `lines` say of them; `command` may name some of the figures."""
    return "\n".join([origin(found, command), "", *markdown(("what", "measured"), list(lines(found)))])


def origin(found: Figures, command: str) -> str:
    """Where, with what and how figures were made."""
    threads = ""
    if "threads" in found:
        threads = f"{found['threads']} thread{'' if found['threads'] == 1 else 's'}, "
    return (
        f"**{found['device']}**, {threads}PyTorch {found['torch']}, commit {found['commit']}, "
        f"{found['date'][:10]}. Made by `{command.format_map(found)}`."
    )


def markdown(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> list[str]:
    return [f"| {' | '.join(map(str, cells))} |" for cells in (heads, ["---"] * len(heads), *lines)]
