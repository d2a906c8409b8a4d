"""What became of every clip: counts to print, a table to look into, and the damaged files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mica.data.preparation.shards import Row
from mica.data.writing import WriteSummary
from mica.errors import InputError
from mica.files import atomic_path


def report_of(out: Path) -> Path:
    """Return where the table of a store `out` lies.

    >>> report_of(Path("set.arrow")).name, report_of(Path("set.v1")).name
    ('set.report.csv', 'set.v1.report.csv')
    """
    return out.with_name(f"{out.name.removesuffix('.arrow')}.report.csv")


class Account:
    """The rows that are worth a word: clips left out or cleaned, and files that are damaged."""

    def __init__(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        self.rows = [row for row in rows if row.left_out or row.cleaned or row.error]
        self.kept = sum(not (row.left_out or row.error) for row in rows)
        self.errors = [row.error for row in self.rows if row.error]
        self.left_out = Counter(row.left_out for row in self.rows if row.left_out)
        self.left_out.update(
            "file that could not be read" if row.unread else "damaged file" for row in self.rows if row.error
        )
        self.cleaned = Counter(what for row in self.rows for what in row.cleaned)

    def write(self, out: Path) -> Path | None:
        """Write the table of a store `out`, OUT.report.csv, and return its path; nothing where it would be empty."""
        path = report_of(out)
        if not self.rows:
            path.unlink(missing_ok=True)
            return None
        with (
            atomic_path(path, overwrite=True) as temporary,
            # A file's name need not be text.
            temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(["name", "outcome", "detail"])
            table.writerows(_line(row) for row in self.rows)
        return path

    def refusal(self, report: Path | None) -> InputError:
        """Return the error of the first damaged file, which says how many others there are and what can be done."""
        first, others = self.errors[0], len(self.errors) - 1
        problem = first["problem"] or ""
        if others:
            problem += f"\n  and {others:,} more damaged {'file' if others == 1 else 'files'}"
            problem += f": {report}" if report else ""
        hints = [first["hint"]] if first["hint"] else []
        if self.kept:
            hints += ["what was read is kept: the same command goes on from here"]
            hints += ["--skip-broken leaves damaged files out"]
        hint = "; ".join(hints) or None
        return InputError(problem, file=first["file"], clip=first["clip"], field=first["field"], hint=hint)

    def nothing_left(self, out: Path, dataset: str, report: Path | None) -> InputError:
        """Return the error of a preparation that has no clip to write, with the most frequent reason."""
        problem = f"no clips of {dataset} to write"
        for reason, count in self.left_out.most_common(1):
            problem += f": all {self.left_out.total():,} left out, {count:,} of them: {reason}"
        hint = f"{report} names them; --overwrite replaces it the next time" if report else None
        return InputError(problem, file=out, hint=hint)

    def complete(self, summary: WriteSummary, report: Path | None) -> WriteSummary:
        """Return `summary` with the counts of what was left out and cleaned."""
        return replace(summary, left_out=self.left_out, cleaned=self.cleaned, report=report)


def _line(row: Row) -> tuple[str, str, str]:
    if row.error:
        return row.name, "not read" if row.unread else "damaged", str(row.error["problem"])
    return (
        (row.name, "left out", row.left_out)
        if row.left_out
        else (row.name, "cleaned", "; ".join(row.cleaned))
    )
