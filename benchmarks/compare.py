"""Two results, or two revisions of the kernels, side by side: what became faster, what slower, what stayed.

Revisions are measured here and now, in worktrees of their own, by the suite as it stands in this one, in the order
A, B, B, A, so that a machine that warms up or slows down favours neither; of two times of a row the smaller counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.registry import OPERATORS
from benchmarks.results import HERE, Row, key, measured, read
from benchmarks.run import add_selection_arguments, selected
from benchmarks.words import spread

HEAD = f"{'operator':16} {'case':22} {'implementation':14} {'mode':9} {'A, ms':>28} {'B, ms':>28} {'B/A':>6}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a file or folder of results, or a git revision")
    parser.add_argument("b", metavar="B", help="the same")
    add_selection_arguments(parser)


def main(parsed: argparse.Namespace) -> int:
    """Print the comparison."""
    selection = selected(parsed)
    a, b = (list(filter(selection.has, rows)) for rows in _sides(parsed))
    print(f"A: {parsed.a}, {_origin(a)}\nB: {parsed.b}, {_origin(b)}\n")
    lines = list(compared(a, b))
    if not lines:
        raise ValueError(f"{parsed.a} and {parsed.b} have no measured row in common")
    print("\n".join([HEAD, *lines]))
    return 0


def _sides(parsed: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    names = (parsed.a, parsed.b)
    kept = [Path(name).exists() for name in names]
    if all(kept):
        return read(Path(parsed.a)), read(Path(parsed.b))
    if any(kept):
        raise ValueError(
            f"{names[kept.index(False)]}: no such file or folder; two results or two revisions compare"
        )
    with _worktree(parsed.a) as first, _worktree(parsed.b) as second:
        runs = [(tree, _measure(tree, parsed)) for tree in (first, second, second, first)]
    a, b = ([rows for tree, rows in runs if tree == side] for side in (first, second))
    return best(*a), best(*b)


@contextmanager
def _worktree(revision: str) -> Iterator[Path]:
    """A checkout of a revision, with the suite of this one."""
    with TemporaryDirectory(prefix="benchmarks-") as folder:
        tree = Path(folder, "tree")
        _git("worktree", "add", "--quiet", "--detach", str(tree), revision)
        try:
            shutil.rmtree(tree / "benchmarks", ignore_errors=True)
            shutil.copytree(
                HERE, tree / "benchmarks", ignore=shutil.ignore_patterns("results", "__pycache__")
            )
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> None:
    done = subprocess.run(["git", "-C", str(HERE.parent), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {' '.join(arguments)}: {done.stderr.strip()}")


def _measure(tree: Path, parsed: argparse.Namespace) -> list[Row]:
    """The rows of the suite in a worktree."""
    options = [("--case", parsed.case), ("--implementation", parsed.implementation), ("--mode", parsed.mode)]
    arguments = [*(parsed.operator or OPERATORS), *(["--quick"] if parsed.quick else [])]
    for option, values in options:
        arguments += [option, *values] if values else []
    with TemporaryDirectory() as out:
        command = [sys.executable, "-m", "benchmarks", "run", *arguments, "--out", out]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        subprocess.run(
            command, cwd=tree, env=environment, stdout=subprocess.DEVNULL
        )  # what fails leaves its row
        return read(Path(out))


def best(*runs: Sequence[Row]) -> list[Row]:
    """Of several runs of the same rows, each row's fastest."""
    found: dict[tuple[str, ...], Row] = {}
    for row in measured(row for run in runs for row in run):
        other = found.get(key(row))
        if other is None or row["times"]["median"] < other["times"]["median"]:
            found[key(row)] = row
    return list(found.values())


def compared(a: Sequence[Row], b: Sequence[Row]) -> Iterator[str]:
    """A line for every row that both have: faster or slower where the spreads of the two do not overlap."""
    others = {key(row): row for row in measured(b)}
    for row in measured(a):
        other = others.get(key(row))
        if other is not None:
            names = f"{row['operator']:16} {row['case']:22} {row['implementation']:14} {row['mode']:9}"
            ratio = other["times"]["median"] / row["times"]["median"]
            yield f"{names} {spread(row):>28} {spread(other):>28} {ratio:6.2f}  {_verdict(row, other)}"


def _verdict(a: Row, b: Row) -> str:
    if b["times"]["p80"] < a["times"]["p20"]:
        return "B is faster"
    return "B is slower" if b["times"]["p20"] > a["times"]["p80"] else "same within the spread"


def _origin(rows: Sequence[Row]) -> str:
    """Where rows were made; several origins are all named."""
    origins = dict.fromkeys(f"{row.get('device')}, commit {row.get('commit')}" for row in rows)
    return "; ".join(origins)
