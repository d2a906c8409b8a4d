"""The figure of a comparison of methods: what every training reached, a row a method."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from mica.report.figures.canvas import COLOURS, WIDTH, Picture, drawable, new_axes, styled, to_picture
from mica.report.figures.comparison import run_label


@dataclass(frozen=True)
class Strip:
    """A row of dots: a method, the group it is ranked in, and an accuracy in percent for each training."""

    name: str
    group: str
    values: Sequence[float]


@styled
def strips(rows: Sequence[Strip], title: str) -> Picture:
    """A dot for each training and a line at their mean; groups have a colour each."""
    figure, axes = new_axes(WIDTH, 1.0 + 0.24 * len(rows) + 0.2 * len({row.group for row in rows}))
    draw_strips(axes, rows)
    axes.set(title=title)
    figure.legend(loc="outside lower left", frameon=False, handletextpad=0.3, borderpad=0)
    told = "; ".join(f"{row.name} {statistics.fmean(row.values):.1f}" for row in rows)
    return to_picture(figure, f"{title}, mean top-1 in percent: {told}.")


def draw_strips(axes: Axes, rows: Sequence[Strip]) -> None:
    """Draw the rows, the first on top, with a label for each group in case there is to be a legend."""
    groups = list(dict.fromkeys(row.group for row in rows))
    for place, row in enumerate(rows):
        colour = COLOURS[groups.index(row.group) % len(COLOURS)]
        mean = statistics.fmean(row.values)
        axes.plot([mean, mean], [place - 0.32, place + 0.32], color=colour, linewidth=2)
        axes.scatter(
            row.values, [place] * len(row.values), s=22, color=colour, alpha=0.6, linewidth=0, zorder=2
        )
        axes.annotate(f"{mean:.1f}", (max(row.values), place), xytext=(5, 0), textcoords="offset points",
                      va="center", fontsize=8, color="#333333")  # fmt: skip
    for place, group in enumerate(groups):
        axes.scatter([], [], s=22, color=COLOURS[place % len(COLOURS)], linewidth=0, label=drawable(group))
    axes.set_yticks(range(len(rows)), [run_label(row.name) for row in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel="top-1 [%]")
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
