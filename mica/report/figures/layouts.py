"""Drawings of skeleton layouts as SVG: which joint has which index and name, and what hangs from what."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from sklearn.isotonic import isotonic_regression

from mica.report.figures.canvas import COLOURS
from mica.skeleton import LAYOUTS, SkeletonLayout, standing_pose
from mica.skeleton.naming import SIDES

_COLOURS = {"left": COLOURS[0], "right": COLOURS[1], "": COLOURS[6]}
_STYLE: dict[Any, object] = {
    "font.size": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "mica",  # the same layout gives the same bytes
    "text.parse_math": False,  # a joint may be called "$"
}
_draw = rc_context(_STYLE)

_SHEET_COLUMNS = 4
_LONGEST_NAME, _LONGEST_ABOUT = 40, 100  # letters
# Metres on the panels: their height, how far out the names begin, a letter's width, lines of text apart.
_HEIGHT, _NAMES_AT, _LETTER, _LINE = 2.22, 0.64, 0.025, 0.064
_INCHES = 2.5  # a metre


@_draw
def draw_layout(layout: SkeletonLayout) -> str:
    """Return an SVG image of the joints, each with its index and name, and the bones of a layout.

    >>> from mica.skeleton import get_layout
    >>> image = draw_layout(get_layout("coco-17"))
    >>> image.startswith("<?xml"), "11 left hip" in image
    (True, True)
    """
    return _sheet([layout], columns=1)


@_draw
def draw_all() -> str:
    """Return an SVG image of all registered layouts, side by side.

    >>> image = draw_all()
    >>> all(name in image for name in LAYOUTS)
    True
    """
    return _sheet(list(LAYOUTS.values()), columns=_SHEET_COLUMNS)


def _sheet(layouts: Sequence[SkeletonLayout], columns: int) -> str:
    rows = math.ceil(len(layouts) / columns)
    widest = max(len(_label(layout, joint)) for layout in layouts for joint in range(layout.num_joints))
    half_width = max(_NAMES_AT + _LETTER * widest, _LONGEST_ABOUT / 2 * _LETTER)
    size = (_INCHES * 2 * half_width * columns, _INCHES * _HEIGHT * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels:
        axes.axis("off")
    for axes, layout in zip(panels, layouts, strict=False):
        _person(axes, layout, half_width)
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False)
    buffer = io.BytesIO()
    names = ", ".join(layout.name for layout in layouts)
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Title": f"Skeleton layouts: {names}"})
    return buffer.getvalue().decode()


def _person(axes: Axes, layout: SkeletonLayout, half_width: float) -> None:
    pose = standing_pose(layout)
    colours = [_COLOURS[layout.side(joint)] for joint in range(layout.num_joints)]
    axes.add_patch(Circle((0.0, 1.65), 0.17, facecolor="#f0f0f0", edgecolor="none", zorder=0))
    for child, parent in layout.bones:
        axes.plot(*pose[[child, parent]].T, color=colours[child], alpha=0.45, linewidth=3, zorder=2)
    x, y = pose.T
    axes.scatter(x, y, s=26, c=colours, edgecolor="white", linewidth=0.6, zorder=4)
    axes.scatter(
        x[layout.center], y[layout.center], s=110, facecolor="none", edgecolor=_COLOURS[""], zorder=3
    )
    for side, joints in _columns(layout).items():
        _names(axes, layout, pose, joints, side)
    about = textwrap.shorten(f"{layout.num_joints} joints. {layout.about}", _LONGEST_ABOUT, placeholder=" …")
    axes.text(0.0, 2.04, layout.name, ha="center", fontsize=11, fontweight="bold")
    axes.text(0.0, 1.95, about, ha="center", color="#555555")
    axes.set(xlim=(-half_width, half_width), ylim=(-0.1, _HEIGHT - 0.1), aspect="equal")


def _columns(layout: SkeletonLayout) -> dict[str, list[int]]:
    """The joints whose names stand left and right of the person; those on the midline fill the shorter column."""
    sides = [layout.side(joint) for joint in range(layout.num_joints)]
    columns = {side: [joint for joint, found in enumerate(sides) if found == side] for side in SIDES}
    for joint, side in enumerate(sides):
        if side not in SIDES:
            min(columns.values(), key=len).append(joint)
    return columns


def _names(
    axes: Axes, layout: SkeletonLayout, pose: Float[np.ndarray, "V 2"], joints: Sequence[int], side: str
) -> None:
    """Write the joints' names into a column, each on a line of its own that leads to its joint."""
    outward = 1 if side == "left" else -1
    downwards = sorted(joints, key=lambda joint: (-pose[joint, 1], joint))
    for joint, height in zip(downwards, spread(pose[downwards, 1]), strict=True):
        colour = _COLOURS[layout.side(joint)]
        line = [pose[joint], (outward * (_NAMES_AT - 0.08), height), (outward * (_NAMES_AT - 0.02), height)]
        axes.plot(*zip(*line, strict=True), color="#bbbbbb", linewidth=0.6, zorder=1)
        axes.text(
            outward * _NAMES_AT, height, _label(layout, joint),
            ha="left" if side == "left" else "right", va="center", color=colour,
        )  # fmt: skip


def _label(layout: SkeletonLayout, joint: int) -> str:
    name = layout.joints[joint]
    name = name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "…"
    return f"{joint} {name} (centre)" if joint == layout.center else f"{joint} {name}"


def spread(heights: Float[np.ndarray, " n"], gap: float = _LINE) -> Float[np.ndarray, " n"]:
    """Move falling heights as little as it takes (in squares) to lie `gap` apart.

    >>> spread(np.array([1.0, 0.5, 0.5]), gap=0.2).round(2).tolist()
    [1.0, 0.6, 0.4]
    """
    lines = gap * np.arange(len(heights))
    return np.asarray(isotonic_regression(heights + lines, increasing=False)) - lines


def _legend() -> list[Line2D]:
    def dot(label: str, **style: Any) -> Line2D:
        return Line2D([], [], linewidth=0, marker="o", label=label, **style)

    return [
        dot("the person's left", color=_COLOURS["left"]),
        dot("the person's right", color=_COLOURS["right"]),
        dot("on the midline", color=_COLOURS[""]),
        dot("centre", color="none", markeredgecolor=_COLOURS[""], markersize=10),
    ]
