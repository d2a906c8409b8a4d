"""The tables in Markdown that the README files and docs/performance.md carry, made from the results that are kept.

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`. `--write` fills in all of them, `--check`
says which are out of date.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks import accuracy, data, engine, evaluating, methods, precision
from benchmarks.figures import markdown
from benchmarks.registry import OPERATORS
from benchmarks.results import (
    HERE,
    RESULTS,
    Row,
    fastest_other,
    measured,
    pick,
    read,
    slug,
    speedup,
)
from benchmarks.run import STEP
from benchmarks.words import (
    AS_PEERS,
    groups,
    megabytes,
    milliseconds,
    number,
    ours,
    percent,
    reason_of,
    spread,
)

DOCUMENTS = tuple(
    HERE.parent / name
    for name in (
        "README.md",
        "RESULTS.md",
        "benchmarks/README.md",
        "docs/performance.md",
        "docs/data.md",
        "docs/evaluation.md",
        "docs/scaling.md",
    )
)
MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", type=Path, nargs="?", default=RESULTS, help="a folder of results; the kept ones"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--write", action="store_true", help="fill the tables into the documents that carry them"
    )
    group.add_argument(
        "--check", action="store_true", help="exit with 1 where a document's table is out of date"
    )


def main(parsed: argparse.Namespace) -> int:
    """Print every table, or see to the documents."""
    rows = read(parsed.results)
    if not (parsed.write or parsed.check):
        print("\n\n".join(f"### {name}\n\n{make(rows)}" for name, make in TABLES.items()))
        return 0
    stale = []
    for document in DOCUMENTS:
        text = document.read_text()
        fresh = filled(text, rows)
        if fresh != text:
            stale.append(document.name)
            if parsed.write:
                document.write_text(fresh)
    if stale:
        print(f"{'written' if parsed.write else 'out of date'}: {', '.join(stale)}")
    return 1 if stale and parsed.check else 0


def filled(text: str, rows: Sequence[Row]) -> str:
    """A document with the tables of these rows. Raises ValueError for a table that there is not."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES | FIGURES:
            raise ValueError(f"there is no table {name}; there are {', '.join([*TABLES, *FIGURES])}")
        made = TABLES[name](rows) if name in TABLES else FIGURES[name]()
        return f"{match[1]}\n{made}\n\n{match[3]}"

    return MARKED.sub(table, text)


def headlines(rows: Sequence[Row]) -> str:
    """A line a case and device: ours forward and backward, and the fastest other."""
    heads = (
        "device",
        "operator",
        "case",
        "size",
        "ours",
        "ms (20-80 %)",
        "extra",
        "fastest other",
        "ms",
        "extra",
        "ratio",
    )
    return _by_origin(rows, heads, _headline_cells)


def _headline_cells(rows: Sequence[Row]) -> Iterator[tuple[Row, list[str]]]:
    for found in groups(pick(rows, mode="both")).values():
        if found[0]["operator"] not in OPERATORS:
            continue
        mine = ours(found)
        row = next(measured(pick(found, implementation=mine)), None)
        other = fastest_other(found, mine)
        if row is None:
            continue
        beside = ["", "", "", ""]
        if other is not None:
            ratio = number(speedup(found, mine), ".2f")
            median = milliseconds(other["times"]["median"])
            beside = [f"`{other['implementation']}`", median, megabytes(other.get("extra_bytes")), ratio]
        cells = [f"`{mine}`", spread(row), megabytes(row.get("extra_bytes")), *beside]
        yield row, [row["operator"], row["case"], size(row), *cells]


def everything(rows: Sequence[Row]) -> str:
    """A line a row, what was left out and what failed included."""
    heads = (
        "device", "operator", "case", "implementation", "mode", "ms (20-80 %)", "in a loop, ms", "graph replay, ms",
        "Python, µs", "first calls, s", "extra", "of copy", "of matmul", "worst error",
    )  # fmt: skip
    return _by_origin(rows, heads, _all_cells)


def _all_cells(rows: Sequence[Row]) -> Iterator[tuple[Row, list[str]]]:
    said: set[tuple[str, ...]] = set()
    for row in rows:
        if row["operator"] == STEP:
            continue
        start = [row["operator"], row["case"], row["implementation"], row["mode"]]
        reason = reason_of(row)
        if reason is not None:
            if tuple(start[:3]) not in said:
                said.add(tuple(start[:3]))
                yield row, [*start[:3], "all", reason.replace("|", "/"), *[""] * 8]
            continue
        worst = max(row["errors"].values()) if row.get("errors") else None
        yield (
            row,
            [
                *start,
                spread(row),
                number(row["times"].get("looped"), ".4g"),
                number(row.get("graph_ms"), ".4g"),
                number(row.get("python_us"), ".0f"),
                number(row.get("first_calls_s"), ".2f"),
                megabytes(row.get("extra_bytes")),
                percent(row.get("bandwidth_share")),
                percent(row.get("rate_share")),
                number(worst, ".0e"),
            ],
        )


def training(rows: Sequence[Row]) -> str:
    """A line a rung of the training step."""
    heads = ("device", "step", "clips/s", "times the peers'", "ms (20-80 %)", "extra memory")
    return _by_origin(pick(rows, operator=STEP), heads, _training_cells)


def _training_cells(rows: Sequence[Row]) -> Iterator[tuple[Row, list[str]]]:
    bases = {
        row["case"]: row["clips_per_second"] for row in measured(rows) if row["implementation"] == AS_PEERS
    }
    for row in rows:
        reason = reason_of(row)
        if reason is not None:
            yield row, [row["implementation"], reason.replace("|", "/"), "", "", ""]
            continue
        rate, base = row["clips_per_second"], bases.get(row["case"])
        yield (
            row,
            [
                row["implementation"],
                f"{rate:.1f}",
                "" if base is None else f"{rate / base:.2f}",
                spread(row),
                megabytes(row.get("extra_bytes")),
            ],
        )


def _is_quick(row: Row) -> bool:
    return row["operator"] in OPERATORS and row["case"] in OPERATORS[row["operator"]].quick


def size(row: Row) -> str:
    """What a case's rows have in common, in few words."""
    given = row["size"]
    if "shape" in given:
        layout = "" if given["layout"] == "channels_last" else f", {given['layout']}"
        return f"{'x'.join(map(str, given['shape']))}, {given['dtype']}{layout}"
    sides = f"{given['rows']:,} x {given['columns'] or given['rows']:,}"
    queue = f" + {given['queue']:,}" if given["queue"] else ""
    return f"{sides}{queue}, D = {given['width']}, {given['dtype']}"


def _by_origin(
    rows: Sequence[Row],
    heads: Sequence[str],
    cells: Callable[[Sequence[Row]], Iterable[tuple[Row, list[str]]]],
) -> str:
    """A table a device; what was not measured anywhere is said so."""
    parts = []
    for device in dict.fromkeys(row["device"] for row in rows):
        lines = [line for _, line in cells(pick(rows, device=device))]
        if lines:
            parts.append("\n".join([_origin(pick(rows, device=device)), "", *markdown(heads[1:], lines)]))
    if not any("NVIDIA" in row["device"] for row in rows):
        parts.append("On a GPU: not yet measured.")
    return "\n\n".join(parts)


def _origin(rows: Sequence[Row]) -> str:
    commits = ", ".join(dict.fromkeys(str(row["commit"]) for row in rows))
    dates = sorted({row["date"][:10] for row in rows})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    first = rows[0]
    threads = f", {first['threads']} threads" if first.get("threads") else ""
    return (
        f"**{first['device']}**{threads}, PyTorch {first['torch']}, Triton {first['triton']}, commit {commits}, "
        f"{days}. "
        f"Made by `python -m benchmarks run --out benchmarks/results/{slug(first['device'])}`."
    )


TABLES: dict[str, Callable[[Sequence[Row]], str]] = {
    "quick": lambda rows: headlines([row for row in rows if _is_quick(row)]),
    "headlines": headlines,
    "training": training,
    "everything": everything,
}
FIGURES: dict[str, Callable[[], str]] = {
    "data": data.table,
    "engine": engine.table,
    "evaluating": evaluating.table,
    "precision": precision.table,
    **{name: partial(accuracy.table, name) for name in accuracy.TABLES},
    **{name: partial(methods.table, name) for name in methods.COMPARISONS},
    "accuracy-commands": accuracy.listing,
    "methods-commands": methods.listing,
}
"""Tables of what has results of its own, and no rows."""
