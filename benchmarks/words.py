"""How rows are put in words: a line for a terminal, cells for a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.registry import OPERATORS
from benchmarks.results import Row, fastest_other, pick, speedup

AS_PEERS = "as peers write it"
"""The first rung of the training step, which the others are set against."""
HEAD = (
    f"{'operator':16} {'case':22} {'implementation':14} {'mode':9} {'ms (20-80 %)':>28} {'extra':>9} "
    f"{'of copy':>8} {'of matmul':>9} {'error':>8} {'µs Python':>9}"
)


def line(row: Row) -> str:
    """A row for a terminal.

    >>> line({"operator": "o", "case": "c", "implementation": "fused", "mode": "both", "left_out": "no GPU"})
    'o                c                      fused          both      left out: no GPU'
    """
    names = f"{row['case']:22} {row['implementation']:14}"
    if len(names) > 37:  # those of the training step: a short case and long names
        names = f"{row['case']:5} {row['implementation']:31}"
    start = f"{row['operator']:16} {names} {row['mode']:9}"
    reason = reason_of(row)
    if reason is not None:
        return f"{start} {reason}"[:200]
    cells = (
        f"{spread(row):>28}",
        f"{megabytes(row.get('extra_bytes')):>9}",
        f"{percent(row.get('bandwidth_share')):>8}",
        f"{percent(row.get('rate_share')):>9}",
        f"{number(max(row.get('errors', {}).values(), default=None), '.0e'):>8}",
        f"{number(row.get('python_us'), '.0f'):>9}",
    )
    rate = f"  {row['clips_per_second']:.1f} clips/s" if row.get("clips_per_second") else ""
    return f"{start} {' '.join(cells)}{rate}".rstrip()


def reason_of(row: Row) -> str | None:
    """Why a row has no times."""
    if row.get("failed"):
        return f"FAILED: {' '.join(row['failed'].split())}"
    return f"left out: {' '.join(row['left_out'].split())}" if row.get("left_out") else None


def spread(row: Row) -> str:
    """The median, and the percentiles."""
    times = row["times"]
    return f"{milliseconds(times['median'])} ({milliseconds(times['p20'])}-{milliseconds(times['p80'])})"


def milliseconds(value: float) -> str:
    """Four digits, or all before the point.

    >>> milliseconds(0.012345), milliseconds(16934.5)
    ('0.01235', '16,934')
    """
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def number(value: float | None, form: str) -> str:
    """A number, or nothing."""
    return "" if value is None else format(value, form)


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def megabytes(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:,.1f} MB"


def groups(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Rows that compare: of one operator, case and mode."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["operator"], row["case"], row["mode"]), []).append(row)
    return found


def ours(rows: Sequence[Row]) -> str:
    """Which implementation our operator comes to, of the rows of one case and mode."""
    ran = {row["implementation"] for row in rows if not row.get("left_out")}
    return next((name for name in ("fused", "dense") if name in ran), OPERATORS[rows[0]["operator"]].fallback)


def headlines(rows: Iterable[Row]) -> Iterator[str]:
    """Of every case, forward and backward, how ours compares with the fastest other: a line each, losses included."""
    for (operator, case, mode), found in groups(rows).items():
        if mode != "both" or operator not in OPERATORS:
            continue
        mine = ours(found)
        ratio, other = speedup(found, mine), fastest_other(found, mine)
        if ratio is not None and other is not None:
            faster = f"{ratio:.2f} times as fast as"
            yield f"{operator} {case}, {mode}: {mine} is {faster} the fastest other, {other['implementation']}"


def summary(rows: Sequence[Row]) -> list[str]:
    """What a run comes to: ratios, aims and what failed."""
    lines = list(headlines(rows))
    for name, operator in OPERATORS.items():
        lines += operator.aims(pick(rows, operator=name))
    broken = {
        f"{row['operator']} {row['case']} {row['implementation']}: {' '.join(row['failed'].split())}"
        for row in rows
        if row.get("failed")
    }
    return [*(f"FAILED {text[:160]}" for text in sorted(broken)), *lines]
