"""The charts of a report: curves, confusions, and scores side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from matplotlib.ticker import MaxNLocator

from mica.report.figures.canvas import (
    COLOURS,
    MARKERS,
    PALE_BOX,
    WIDTH,
    Picture,
    new_axes,
    shorten,
    styled,
    to_picture,
)

_MOST_CLASSES_WITH_NUMBERS = 40


@styled
def curve(
    epochs: Sequence[int], values: Sequence[float | None], title: str, unit: str, colour: int = 0
) -> Picture:
    """A value against the epochs finished; epochs without a value are skipped, few values get dots."""
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    x, y = [epoch for epoch, _ in known], [value for _, value in known]
    figure, axes = new_axes(3.6, 2.3)
    axes.plot(
        x,
        y,
        color=COLOURS[colour % len(COLOURS)],
        linewidth=1.6,
        marker="o" if len(x) < 30 else None,
        markersize=3,
    )
    axes.set(title=title, xlabel="epochs finished", ylabel=unit)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    alt = f"{title} against epochs: {y[0]:.3g} {unit} after epoch {x[0]}, {y[-1]:.3g} after epoch {x[-1]}."
    return to_picture(figure, alt)


@styled
def confusion(counts: Int[np.ndarray, "K K"], class_names: Sequence[str]) -> Picture:
    """A confusion matrix in percent of each true class, whose zeros stay empty."""
    percent = row_percent(counts)
    classes = len(class_names)
    names = [shorten(name) for name in class_names]
    # The matrix is square; names stand left of it and below it, the scale to the right.
    side, room = 0.25 * max(classes, 8), 0.3 + 0.065 * max(map(len, names))
    figure, axes = new_axes(side + room + 0.8, side + room)
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, interpolation="none")
    axes.set_xticks(range(classes), names, rotation=90)
    axes.set_yticks(range(classes), names)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted class", ylabel="true class")
    if classes <= _MOST_CLASSES_WITH_NUMBERS:
        for row, column in np.argwhere(percent >= 0.5):
            value = percent[row, column]
            colour = "white" if value > 55 else "#222222"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=25, pad=0.02)
    bar.set_label("share of the true class [%]")
    bar.outline.set_visible(False)
    alt = (
        f"Confusion matrix of {classes} classes, in percent of each true class; "
        f"{np.diag(percent)[counts.any(axis=1)].mean():.0f} % on the diagonal on average."
    )
    return to_picture(figure, alt)


@dataclass(frozen=True)
class Dot:
    """A top-1 accuracy in percent with its standard deviation, and what it is set beside, by name."""

    name: str
    top1: float
    spread: float | None
    floors: Mapping[str, float]


@styled
def score_dots(dots: Sequence[Dot], title: str) -> Picture:
    """Accuracies in a column, a line each: this run's as a full dot, what it is set beside as hollow marks."""
    figure, axes = new_axes(WIDTH, 1.15 + 0.36 * len(dots))
    places = np.arange(len(dots))
    for place, dot in zip(places, dots, strict=True):
        axes.plot(
            [*dot.floors.values(), dot.top1], [place] * (1 + len(dot.floors)), color="#dcdce0", zorder=1
        )
        axes.annotate(
            f"{dot.top1:.1f}", (dot.top1, place), xytext=(0, 6), textcoords="offset points",
            ha="center", fontsize=8, fontweight="bold", color=COLOURS[0],
        )  # fmt: skip
    spreads = [dot.spread or 0.0 for dot in dots]
    axes.errorbar(
        [dot.top1 for dot in dots], places, xerr=spreads, fmt="o", color=COLOURS[0], markersize=7,
        elinewidth=1.6, zorder=3, label="this run",
    )  # fmt: skip
    for number, floor in enumerate(dict.fromkeys(name for dot in dots for name in dot.floors)):
        at = [place for place, dot in enumerate(dots) if floor in dot.floors]
        axes.scatter(
            [dots[place].floors[floor] for place in at], at, s=34, marker=MARKERS[1 + number], facecolor="white",
            edgecolor="#555555", zorder=2, label=floor,
        )  # fmt: skip
    axes.set_yticks(places, [shorten(dot.name) for dot in dots])
    axes.set(xlim=(0, 102), ylim=(len(dots) - 0.4, -0.75), xlabel="top-1 accuracy on the test part [%]")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, handletextpad=0.2, columnspacing=1.2)
    told = "; ".join(_told(dot) for dot in dots)
    return to_picture(figure, f"{title}, top-1 accuracy in percent. {told}.")


def _told(dot: Dot) -> str:
    spread = "" if dot.spread is None else f" ± {dot.spread:.1f}"
    floors = ", ".join(f"{name} {top1:.1f}" for name, top1 in dot.floors.items())
    return f"{dot.name}: {dot.top1:.1f}{spread}" + (f" ({floors})" if floors else "")


@styled
def class_bars(per_class: Mapping[str, float], mean: float, worst: int) -> Picture:
    """The accuracy of each class in percent, the best first; the `worst` last are in another colour."""
    names = sorted(per_class, key=lambda name: -per_class[name])
    values = [per_class[name] for name in names]
    failing = [place >= len(names) - worst for place in range(len(names))]
    colours = [COLOURS[1] if fails else COLOURS[0] for fails in failing]
    figure, axes = new_axes(WIDTH, 0.6 + 0.21 * len(names))
    places = np.arange(len(names))
    axes.hlines(places, 0, values, color=colours, linewidth=1.4, alpha=0.55)
    axes.scatter(values, places, s=34, c=colours, zorder=3)
    for place, value in enumerate(values):
        axes.annotate(
            f"{value:.0f}", (value, place), xytext=(7, 0), textcoords="offset points", va="center",
            fontsize=8, color=colours[place], fontweight="bold" if failing[place] else "normal", bbox=PALE_BOX,
        )  # fmt: skip
    axes.axvline(mean, color="#767676", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        f"all clips {mean:.0f}", (mean, -0.9), xytext=(-4, 0), textcoords="offset points", ha="right",
        va="center", fontsize=8, color="#555555",
    )  # fmt: skip
    axes.set_yticks(places, [shorten(name) for name in names])
    axes.set(xlim=(0, 107), ylim=(len(names) - 0.4, -1.4), xlabel="clips of the class recognised [%]")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    told = ", ".join(f"{name} {per_class[name]:.0f} %" for name in names)
    return to_picture(figure, f"Accuracy of {len(names)} classes, the best first: {told}.")


def row_percent(counts: Int[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    """Scale each row to a sum of 100; a class without clips stays 0.

    >>> row_percent(np.array([[3, 1], [0, 0]])).tolist()
    [[75.0, 25.0], [0.0, 0.0]]
    """
    return 100.0 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
