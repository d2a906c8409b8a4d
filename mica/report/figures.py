"""The figures of a report: each an SVG inside a data URI, with a text that says what it shows."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib import patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mica.report.probe import Gate
from mica.skeleton import SkeletonLayout

# Okabe and Ito's colours, told apart with any kind of colour vision; their yellow is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
# More classes than colours: the marker changes when the colours are used up. Nine, so that 63 pairs differ.
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")
_LONGEST_NAME = 34
_MOST_CLASSES_WITH_NUMBERS = 40

_STYLE: dict[Any, object] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#767676",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mica",  # the same run gives the same bytes
    "text.parse_math": False,  # a class may be called "$"
}
_draw = rc_context(_STYLE)


@dataclass(frozen=True)
class Picture:
    """An image for a page: a data URI, its size in pixels, and words for those who cannot see it."""

    source: str
    width: int
    height: int
    alt: str


@_draw
def curve(
    epochs: Sequence[int], values: Sequence[float | None], title: str, unit: str, colour: int = 0
) -> Picture:
    """A value against the epochs finished; epochs without a value are skipped, few values get dots."""
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    x, y = [epoch for epoch, _ in known], [value for _, value in known]
    figure, axes = _axes(3.6, 2.3)
    axes.plot(x, y, color=COLOURS[colour], linewidth=1.6, marker="o" if len(x) < 30 else None, markersize=3)
    axes.set(title=title, xlabel="epochs finished", ylabel=unit)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    alt = f"{title} against epochs: {y[0]:.3g} {unit} after epoch {x[0]}, {y[-1]:.3g} after epoch {x[-1]}."
    return _picture(figure, alt)


@_draw
def confusion(counts: Int[np.ndarray, "K K"], class_names: Sequence[str]) -> Picture:
    """A confusion matrix in percent of each true class, whose zeros stay empty."""
    percent = row_percent(counts)
    classes = len(class_names)
    names = [shorten(name) for name in class_names]
    # The matrix is square; names stand left of it and below it, the scale to the right.
    side, room = 0.25 * max(classes, 8), 0.3 + 0.065 * max(map(len, names))
    figure, axes = _axes(side + room + 0.8, side + room)
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
        f"{np.diag(percent).mean():.0f} % on the diagonal on average."
    )
    return _picture(figure, alt)


def row_percent(counts: Int[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    """Scale each row to a sum of 100; a class without clips stays 0.

    >>> row_percent(np.array([[3, 1], [0, 0]])).tolist()
    [[75.0, 25.0], [0.0, 0.0]]
    """
    return 100.0 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)


@_draw
def embedding_map(points: Float[np.ndarray, "clips 2"], labels: Int[np.ndarray, " clips"]) -> Picture:
    """The clips in the plane, a colour and marker a class; `legend` says which is which."""
    figure, axes = _axes(5.0, 4.8)
    for label in np.unique(labels):
        x, y = points[labels == label].T
        axes.scatter(x, y, s=16, **_class_style(label))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set(xlabel="first dimension (no unit)", ylabel="second dimension (no unit)")
    classes = len(np.unique(labels))
    alt = f"Map of {len(points)} test clips of {classes} classes; clips that the model finds alike lie close."
    return _picture(figure, alt)


@_draw
def legend(labels: Int[np.ndarray, " clips"], class_names: Sequence[str]) -> list[tuple[Picture, str]]:
    """The markers of the classes that occur, each with its name; not in the map, so that a page can wrap."""
    entries = []
    for label in np.unique(labels):
        figure, axes = _axes(0.18, 0.18)
        axes.scatter([0], [0], s=36, clip_on=False, **_class_style(label))
        axes.axis("off")
        entries.append((_picture(figure, alt=""), class_names[label]))
    return entries


def _class_style(label: int) -> dict[str, Any]:
    marker = MARKERS[label // len(COLOURS) % len(MARKERS)]
    return {"color": COLOURS[label % len(COLOURS)], "marker": marker, "linewidth": 0, "alpha": 0.85}


@_draw
def filter_map(
    magnitude: Float[np.ndarray, "V F"], layout: SkeletonLayout, title: str, bound: float
) -> Picture:
    """A FreST layer's filter: joints by body part against frequencies, white at 1, which changes nothing."""
    order = [joint for part in layout.parts.values() for joint in part]
    joints, frequencies = magnitude.shape
    figure, axes = _axes(4.6, 1.0 + 0.19 * joints)
    extent = (-0.5, frequencies - 0.5, joints - 0.5, -0.5)
    image = axes.imshow(
        magnitude[order], cmap="PuOr_r", vmin=1 - bound, vmax=1 + bound, aspect="auto", interpolation="none",
        extent=extent,
    )  # fmt: skip
    axes.set_yticks(range(joints), [layout.joints[joint] for joint in order])
    for end in np.cumsum([len(part) for part in layout.parts.values()])[:-1]:
        axes.axhline(end - 0.5, color="#767676", linewidth=0.6)
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=title, xlabel="frequency [cycles per clip]")
    bar = figure.colorbar(image, ax=axes, aspect=30, pad=0.02)
    bar.set_label("gain (1 = unchanged)")
    bar.outline.set_visible(False)
    joint, frequency = np.unravel_index(np.abs(magnitude - 1).argmax(), magnitude.shape)
    alt = (
        f"{title}, {joints} joints by {frequencies} frequencies. Gain between {magnitude.min():.2f} and "
        f"{magnitude.max():.2f}, farthest from 1 at {layout.joints[joint]}, {frequency} cycles per clip."
    )
    return _picture(figure, alt)


@_draw
def body(
    pose: Float[np.ndarray, "V 2"],
    values: Float[np.ndarray, " V"],
    layout: SkeletonLayout,
    unit: str,
    named: Sequence[int],
) -> Picture:
    """A skeleton from the front, its joints coloured and sized by `values`, those in `named` labelled."""
    figure, axes = _axes(4.2, 5.2)
    for bone in layout.bones:
        axes.plot(*pose[list(bone)].T, color="#b5b5b5", linewidth=2, zorder=1, solid_capstyle="round")
    spread = float(np.ptp(values)) or 1.0
    sizes = 30 + 170 * (values - values.min()) / spread
    x, y = pose.T
    dots = axes.scatter(x, y, c=values, s=sizes, cmap="viridis", edgecolor="white", linewidth=0.8, zorder=2)
    middle = pose[:, 0].mean()
    for joint in named:
        right = pose[joint, 0] >= middle
        axes.annotate(
            layout.joints[joint], pose[joint], xytext=(10 if right else -10, 0), textcoords="offset points",
            ha="left" if right else "right", va="center", fontsize=8, color="#222222",
            path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")], zorder=3,
        )  # fmt: skip
    axes.set_aspect("equal")
    axes.margins(x=0.45, y=0.06)
    axes.axis("off")
    bar = figure.colorbar(dots, ax=axes, orientation="horizontal", aspect=30, pad=0.02, shrink=0.85)
    bar.set_label(unit)
    bar.outline.set_visible(False)
    names = ", ".join(layout.joints[joint] for joint in named)
    return _picture(figure, f"A skeleton from the front, joints by {unit}; the highest: {names}.")


def filter_bound(gate: Gate) -> float:
    """How far the gains of both layers stray from 1: one colour scale for both."""
    return max(0.01, float(np.abs(gate.first - 1).max()), float(np.abs(gate.last - 1).max()))


def shorten(name: str) -> str:
    """Cut a long class name at a word.

    >>> shorten("take something out of a bag or a backpack")
    'take something out of a bag or a …'
    """
    return textwrap.shorten(name, _LONGEST_NAME, placeholder=" …") if len(name) > _LONGEST_NAME else name


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _picture(figure: Figure, alt: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    width, height = figure.get_size_inches() * 96
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/svg+xml;base64,{encoded}", round(width), round(height), alt)
