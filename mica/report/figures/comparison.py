"""The figures of a comparison: a colour and marker a run, the same in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mica.report.figures.canvas import (
    COLOURS,
    MARKERS,
    WIDTH,
    Picture,
    drawable,
    new_axes,
    shorten,
    styled,
    to_picture,
)

MOST_CLASSES = 40
_LONGEST_NAME = 34
_LINES = ("-", "--", ":", "-.")


@styled
def curves(
    series: Mapping[str, tuple[Sequence[int], Sequence[float | None]]],
    places: Mapping[str, int],
    title: str,
    unit: str,
) -> Picture:
    """A value of several runs against the epochs finished; `places` says which colour a run has."""
    figure, axes = new_axes(WIDTH, 2.6 + 0.2 * len(series))
    told = []
    for name, (epochs, values) in series.items():
        known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
        x, y = [epoch for epoch, _ in known], [value for _, value in known]
        # Few points get their markers; of many, so many that the runs stay told apart.
        axes.plot(x, y, linewidth=1.5, markersize=4, markevery=max(1, len(x) // 12), **_line(places[name]),
                  label=run_label(name))  # fmt: skip
        told.append(f"{name} {y[-1]:.3g} after epoch {x[-1]}")
    axes.set(title=title, xlabel="epochs finished", ylabel=unit)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, columns=1)
    return to_picture(figure, f"{title} against epochs, in {unit}: {'; '.join(told)}.")


@styled
def class_dots(
    accuracy: Float[np.ndarray, "classes runs"], class_names: Sequence[str], places: Mapping[str, int]
) -> Picture:
    """The accuracy of each class in percent, a dot a run; NaN is left out. Classes stand as they are given."""
    figure, axes = new_axes(WIDTH, 1.0 + 0.21 * len(class_names) + 0.2 * len(places))
    rows = np.arange(len(class_names))
    axes.hlines(rows, np.nanmin(accuracy, 1), np.nanmax(accuracy, 1), color="#dcdce0", linewidth=3, zorder=1)
    for (name, place), values in zip(places.items(), accuracy.T, strict=True):
        style = _line(place)
        axes.scatter(values, rows, s=30, color=style["color"], marker=style["marker"], linewidth=0,
                     alpha=0.85, zorder=2, label=run_label(name))  # fmt: skip
    axes.set_yticks(rows, [drawable(shorten(name)) for name in class_names])
    least = 10 * np.floor(np.nanmin(accuracy) / 10)
    axes.set(xlim=(min(least, 90), 101), ylim=(len(rows) - 0.4, -0.6), xlabel="recognised [%]")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    _legend(figure, columns=1)
    first = ", ".join(
        f"{name} {value:.0f} %" for name, value in zip(places, accuracy[0], strict=True) if value == value
    )
    alt = f"Accuracy of {len(class_names)} classes, a dot a run. The first, {class_names[0]}: {first}."
    return to_picture(figure, alt)


def _line(place: int) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": _LINES[place // len(COLOURS) % len(_LINES)],
    }


def run_label(name: str) -> str:
    """Cut a long name in the middle: the runs of a series differ at its end.

    >>> run_label("nw-ucla-cross-view-joint-words-seed-0")
    'nw-ucla-cross-vi … words-seed-0'
    """
    return drawable(name if len(name) <= _LONGEST_NAME else f"{name[:16]} … {name[-12:]}")


def _legend(figure: Figure, columns: int) -> None:
    figure.legend(loc="outside lower left", ncols=columns, frameon=False, handletextpad=0.5, borderpad=0)
