"""The picture of the training step: clips a second, rung by rung."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.words import AS_PEERS

Row = dict[str, Any]

PEERS, GAIN, APART, FREST, LOSS = "#BBBBBB", "#0072B2", "#8A8A8A", "#D55E00", "#CC79A7"
STYLE: dict[str, Any] = {
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": False,
    "text.parse_math": False,
}
GAP = 0.7
"""Between the ladder, what stands apart of it, and what was not measured."""
REASON = 75
"""Most letters of a reason."""


@rc_context(STYLE)
def figure(rows: Sequence[Row]) -> Figure:
    """A bar a rung, what it adds in colour, and its multiple of the peers' clips a second; then those apart."""
    case, rows = _largest(rows)
    measured = sorted((row for row in rows if "times" in row), key=lambda row: row.get("apart", False))
    ladder = [row for row in measured if not row.get("apart")]
    apart = measured[len(ladder) :]
    missing = [row for row in rows if "times" not in row]
    drawn = Figure(figsize=(11, 1.9 + 0.55 * len(rows)), layout="constrained")
    axes = drawn.add_subplot()
    places = _places(len(ladder), len(apart), len(missing))
    peers = next((row["clips_per_second"] for row in ladder if row["implementation"] == AS_PEERS), None)
    _draw_ladder(axes, ladder, places)
    for place, row in zip(places[len(ladder) :], apart, strict=False):
        axes.barh(place, row["clips_per_second"], color=FREST if "FreST" in row["implementation"] else APART)
    ends = _ends(ladder) + [row["clips_per_second"] for row in apart]
    for place, end, row in zip(places, ends, measured, strict=False):
        _number(axes, place, end, row, peers)
    for place, row in zip(places[len(measured) :], missing, strict=True):
        axes.text(0, place, _reason(row), va="center", color="#777777", style="italic", fontsize=11)
    names = [row["implementation"] for row in (*measured, *missing)]
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(places, default=0) + 0.6, -0.6)
    axes.set_xlim(0, 1.22 * max((row["clips_per_second"] for row in measured), default=1))
    axes.set(title=_title(case), xlabel="clips a second")
    return drawn


def _largest(rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """The case of the largest batch, and its rows: a quick run's rows may lie beside those of a whole one."""
    most = max(rows, key=lambda row: row.get("shape", {}).get("batch", 0))
    return most, [row for row in rows if row["case"] == most["case"]]


def _places(*groups: int) -> list[float]:
    """Heights of the lines of each group, a gap between groups."""
    places: list[float] = []
    start = 0.0
    for count in groups:
        places += [start + line for line in range(count)]
        start += count + (GAP if count else 0)
    return places


def _draw_ladder(axes: Axes, ladder: Sequence[Row], places: Sequence[float]) -> None:
    before = 0.0
    for place, row in zip(places, ladder, strict=False):
        rate = row["clips_per_second"]
        axes.barh(place, min(before, rate) if before else rate, color=PEERS)
        if before:
            axes.barh(
                place, abs(rate - before), left=min(before, rate), color=GAIN if rate > before else LOSS
            )
        before = rate


def _ends(ladder: Sequence[Row]) -> list[float]:
    """How far the bars of the ladder reach: one that lost shows what it lost."""
    rates = [row["clips_per_second"] for row in ladder]
    return [max(rate, before) for before, rate in zip([0.0, *rates], rates, strict=False)]


def _number(axes: Axes, place: float, end: float, row: Row, peers: float | None) -> None:
    rate = row["clips_per_second"]
    multiple = f"  {rate / peers:.2f}x" if peers else ""
    axes.annotate(
        f"{rate:.{0 if rate >= 100 else 1}f}{multiple}",
        (end, place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontweight="bold",
    )


def _reason(row: Row) -> str:
    words = f"failed: {row['failed']}" if row.get("failed") else f"left out: {row.get('left_out')}"
    return textwrap.shorten(words, REASON, placeholder=" ...")


def _title(row: Row) -> str:
    shape = row.get("shape", {})
    size = (
        f": {shape['batch']} clips of {shape['frames']} frames, {shape['joints']} joints, "
        f"{shape['persons']} person{'s' if shape['persons'] > 1 else ''}"
        if shape
        else ""
    )
    device = f"\n{row['device']}" if "device" in row else ""
    return f"One pretraining step{size}{device}"
