"""The clips in the plane, with or without the words of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from mica.report.figures.canvas import (
    COLOURS,
    MARKERS,
    PALE_BOX,
    Picture,
    new_axes,
    shorten,
    styled,
    to_picture,
)

MOST_NAMES = 30  # more do not fit into a map; their stars bear numbers
_MAP_SIZE = 3.9, 3.8
_ANCHORED_SIZE = 7.2, 5.6
# Where a name may stand about its star, in points and by which of its edges; the first that is free, or else the last.
_PLACES = (
    *((9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 9, "center", "bottom"), (0, -9, "center", "top")),
    *((7, 7, "left", "bottom"), (7, -7, "left", "top"), (-7, 7, "right", "bottom"), (-7, -7, "right", "top")),
    *((9, 16, "left", "bottom"), (9, -16, "left", "top"), (-9, 16, "right", "bottom"), (-9, -16, "right", "top")),
)  # fmt: skip


@styled
def embedding_map(points: Float[np.ndarray, "clips 2"], labels: Int[np.ndarray, " clips"]) -> Picture:
    """The clips in the plane, a colour and marker a class; `legend` says which is which."""
    figure, axes = new_axes(*_MAP_SIZE)
    _clips(axes, points, labels)
    classes = len(np.unique(labels))
    alt = f"Map of {len(points)} test clips of {classes} classes; clips that the model finds alike lie close."
    return to_picture(figure, alt)


@styled
def anchored_map(
    points: Float[np.ndarray, "clips 2"],
    labels: Int[np.ndarray, " clips"],
    anchors: Float[np.ndarray, "K 2"],
    class_names: Sequence[str],
    unseen: Sequence[int] = (),
) -> Picture:
    """The clips and, as stars with their names, the words of all classes; those of `unseen` classes are hollow."""
    figure, axes = new_axes(*_ANCHORED_SIZE)
    _clips(axes, points, labels)
    few = len(class_names) <= MOST_NAMES
    stars = []
    for label, (x, y) in enumerate(anchors):
        colour = COLOURS[label % len(COLOURS)]
        face = "white" if label in unseen else colour
        axes.scatter([x], [y], s=170, marker="*", facecolor=face, edgecolor="black", linewidth=0.9, zorder=4)
        name = shorten(class_names[label]) if few else str(label + 1)
        star = axes.annotate(
            name, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=8.5, color="#111111", zorder=5,
            bbox=PALE_BOX,
        )  # fmt: skip
        stars.append(star)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the names that now follow are small: nothing has to make room for them
    _place(stars, axes.get_window_extent())
    alt = (
        f"Map of {len(points)} test clips and the words of {len(class_names)} classes, shown as stars, in the "
        "model's text space; a class that the model has tied to its words has its star among its clips."
    )
    return to_picture(figure, alt)


def _place(names: Sequence[Annotation], page: Bbox) -> None:
    """Move each name to the first place about its star where it covers no other name; else to the last."""
    taken: list[Bbox] = []
    for name in names:
        for place in _PLACES:
            _move(name, place)
            box = name.get_window_extent()
            if page.x0 <= box.x0 and box.x1 <= page.x1 and not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def _move(name: Annotation, place: tuple[float, float, str, str]) -> None:
    x, y, across, up = place
    name.set(position=(x, y), horizontalalignment=across, verticalalignment=up)


def _clips(axes: Axes, points: Float[np.ndarray, "clips 2"], labels: Int[np.ndarray, " clips"]) -> None:
    for label in np.unique(labels):
        x, y = points[labels == label].T
        axes.scatter(x, y, s=14, **_class_style(label))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set(xlabel="first dimension (no unit)", ylabel="second dimension (no unit)")


@styled
def legend(labels: Int[np.ndarray, " clips"], class_names: Sequence[str]) -> list[tuple[Picture, str]]:
    """The markers of the classes that occur, each with its name; not in the map, so that a page can wrap."""
    entries = []
    for label in np.unique(labels):
        figure, axes = new_axes(0.18, 0.18)
        axes.scatter([0], [0], s=36, clip_on=False, **_class_style(label))
        axes.axis("off")
        number = f"{label + 1} " if len(class_names) > MOST_NAMES else ""
        entries.append((to_picture(figure, alt=""), f"{number}{class_names[label]}"))
    return entries


def _class_style(label: int) -> dict[str, Any]:
    marker = MARKERS[label // len(COLOURS) % len(MARKERS)]
    return {"color": COLOURS[label % len(COLOURS)], "marker": marker, "linewidth": 0, "alpha": 0.85}
