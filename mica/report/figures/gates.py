"""Pictures of FreST's filters and gates: joints against frequencies, and bodies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from mica.report.figures.canvas import PALE_BOX, WIDTH, Picture, new_axes, shorten, styled, to_picture
from mica.skeleton import SkeletonLayout

_DIVERGING = "PuOr_r"
# Inches, and where in a panel its halves lie: they are many, and laying each out anew takes long.
_PANEL, _PANEL_BODY, _PANEL_MAP = (WIDTH, 2.6), (0.0, 0.03, 0.36, 0.86), (0.53, 0.17, 0.46, 0.72)
_NAMED = 4
_RANGE = 1000.0  # what has a thousandth of the most energetic is as dark as what has none
_TIMES = {-3: "⅛", -2: "¼", -1: "½", 0: "1", 1: "2", 2: "4", 3: "8"}


@styled
def filter_map(
    magnitude: Float[np.ndarray, "V F"], layout: SkeletonLayout, title: str, bound: float
) -> Picture:
    """A FreST layer's filter: joints by body part against frequencies, white at 1, which changes nothing."""
    figure, axes = _map_axes(layout)
    image = _joint_map(axes, magnitude, layout, cmap=_DIVERGING, vmin=1 - bound, vmax=1 + bound)
    axes.set(title=title)
    _bar(figure, axes, image, "gain (1 = unchanged)")
    joint, frequency = np.unravel_index(np.abs(magnitude - 1).argmax(), magnitude.shape)
    joints, frequencies = magnitude.shape
    alt = (
        f"{title}, {joints} joints by {frequencies} frequencies. Gain between {magnitude.min():.2f} and "
        f"{magnitude.max():.2f}, farthest from 1 at {layout.joints[joint]}, {frequency} cycles per clip."
    )
    return to_picture(figure, alt)


@styled
def energy_map(shares: Float[np.ndarray, "V F"], layout: SkeletonLayout, title: str) -> Picture:
    """Where the energy is, in percent of all of it, on a logarithmic scale."""
    figure, axes = _map_axes(layout)
    highest = max(100 * float(shares.max()), 1e-3)
    norm = LogNorm(highest / _RANGE, highest, clip=True)
    image = _joint_map(axes, 100 * shares, layout, cmap="viridis", norm=norm)
    axes.set(title=title)
    _bar(figure, axes, image, "share of the energy [%]", format="%g").minorticks_off()
    still = 100 * shares[:, 0].sum()
    return to_picture(figure, f"{title}, by joint and frequency; {still:.0f} % of it at frequency 0.")


@styled
def ratio_map(ratio: Float[np.ndarray, "V F"], layout: SkeletonLayout, title: str) -> Picture:
    """Energy behind a layer over energy before it, white where it is the same."""
    figure, axes = _map_axes(layout)
    bound = max(0.05, float(np.quantile(np.abs(ratio - 1), 0.98)))
    image = _joint_map(
        axes, 100 * ratio, layout, cmap=_DIVERGING, vmin=100 - 100 * bound, vmax=100 + 100 * bound
    )
    axes.set(title=title)
    _bar(figure, axes, image, "passing / entering [%]")
    alt = f"{title}, by joint and frequency: between {100 * ratio.min():.0f} and {100 * ratio.max():.0f} %."
    return to_picture(figure, alt)


@styled
def kept_by_class(kept: Float[np.ndarray, "K V"], names: Sequence[str], layout: SkeletonLayout) -> Picture:
    """In which share of its channels the gate lets a joint pass, a line a class."""
    order = _by_part(layout)
    percent = 100 * kept[:, order]
    figure, axes = new_axes(1.9 + 0.22 * len(order), 1.9 + 0.19 * len(names))
    image = axes.imshow(percent, cmap="viridis", vmax=100, aspect="auto", interpolation="none")
    axes.set_yticks(range(len(names)), [shorten(name) for name in names])
    axes.set_xticks(range(len(order)), [layout.joints[joint] for joint in order], rotation=90)
    for end in _ends(layout):
        axes.axvline(end - 0.5, color="white", linewidth=1)
    axes.tick_params(length=0)
    _bar(figure, axes, image, "channels in which the joint passes [%]")
    row, column = divmod(int(percent.argmin()), len(order))
    alt = (
        f"How often the gate lets a joint pass, {len(names)} classes by {len(order)} joints: between "
        f"{percent.min():.0f} and {percent.max():.0f} %, least at {layout.joints[order[column]]} in {names[row]}."
    )
    return to_picture(figure, alt)


@styled
def class_panel(
    pose: Float[np.ndarray, "V 2"],
    motion: Float[np.ndarray, " V"],
    spectrum: Float[np.ndarray, "V F"],
    layout: SkeletonLayout,
    title: str,
    bound: float,
) -> Picture:
    """A class beside the average class, log2: its motion by joint on a body, and joints against frequencies."""
    figure = Figure(figsize=_PANEL)
    left, right = figure.add_axes(_PANEL_BODY), figure.add_axes(_PANEL_MAP)
    scale: dict[str, Any] = {"cmap": _DIVERGING, "vmin": -bound, "vmax": bound}
    _person(left, pose, layout, motion, sizes=42, **scale)
    _joint_map(right, spectrum, layout, names=False, **scale)
    figure.text(0.01, 0.99, shorten(title), va="top", fontsize=10)
    highest, lowest = layout.joints[motion.argmax()], layout.joints[motion.argmin()]
    alt = (
        f"{title} beside the average class: relatively most motion at {highest} "
        f"({2 ** motion.max():.1f} times), least at {lowest} ({2 ** motion.min():.1f} times)."
    )
    return to_picture(figure, alt)


@styled
def times_scale(bound: float) -> Picture:
    """What the colours of `class_panel` mean."""
    figure = Figure(figsize=(WIDTH, 0.75))
    axes = figure.add_axes((0.03, 0.62, 0.94, 0.2))
    colours = ScalarMappable(Normalize(-bound, bound), _DIVERGING)
    bar = figure.colorbar(colours, cax=axes, orientation="horizontal")
    _write_times(bar, bound)
    bar.set_label("times the average class")
    return to_picture(
        figure, f"Colours from {2**-bound:.2g} to {2**bound:.2g} times the average class; white is once."
    )


@styled
def contrast_body(
    pose: Float[np.ndarray, "V 2"],
    motion: Float[np.ndarray, " V"],
    layout: SkeletonLayout,
    names: tuple[str, str],
    bound: float,
) -> Picture:
    """Motion in one of two classes over motion in the other, log2, by joint on a body."""
    figure, axes = _map_axes(layout)
    _person(axes, pose, layout, motion, sizes=95, cmap=_DIVERGING, vmin=-bound, vmax=bound)
    named = np.argsort(-np.abs(motion), kind="stable")[:_NAMED].tolist()
    _name(axes, pose, layout, named)
    axes.margins(x=0.45, y=0.06)
    where = ", ".join(f"{layout.joints[joint]} {2 ** motion[joint]:.1f} times" for joint in named)
    return to_picture(
        figure, f"Motion in {names[0]} over motion in {names[1]}, relatively, by joint: {where}."
    )


@styled
def contrast_map(
    spectrum: Float[np.ndarray, "V F"], layout: SkeletonLayout, names: tuple[str, str], bound: float
) -> Picture:
    """Energy in one of two classes over energy in the other, log2, joints against frequencies."""
    one, other = (shorten(name) for name in names)
    figure, axes = _map_axes(layout)
    image = _joint_map(axes, spectrum, layout, cmap=_DIVERGING, vmin=-bound, vmax=bound)
    _write_times(_bar(figure, axes, image, f"“{one}”\nover “{other}”"), bound)
    joint, frequency = divmod(int(np.abs(spectrum).argmax()), spectrum.shape[1])
    alt = (
        f"Energy in {names[0]} over energy in {names[1]}, by joint and frequency; they differ most at "
        f"{layout.joints[joint]}, {frequency} cycles per clip, {2 ** spectrum[joint, frequency]:.2g} times."
    )
    return to_picture(figure, alt)


@styled
def body(
    pose: Float[np.ndarray, "V 2"],
    values: Float[np.ndarray, " V"],
    layout: SkeletonLayout,
    unit: str,
    named: Sequence[int],
) -> Picture:
    """A skeleton from the front, its joints coloured and sized by `values`, those in `named` labelled."""
    figure, axes = new_axes(WIDTH, 5.0)
    sizes = 30 + 170 * (values - values.min()) / (float(np.ptp(values)) or 1.0)
    dots = _person(axes, pose, layout, values, sizes, cmap="viridis")
    _name(axes, pose, layout, named)
    axes.margins(x=0.45, y=0.06)
    bar = figure.colorbar(dots, ax=axes, orientation="horizontal", aspect=30, pad=0.02, shrink=0.85)
    bar.set_label(unit)
    bar.outline.set_visible(False)
    names = ", ".join(layout.joints[joint] for joint in named)
    return to_picture(figure, f"A skeleton from the front, joints by {unit}; the highest: {names}.")


def _person(
    axes: Axes,
    pose: Float[np.ndarray, "V 2"],
    layout: SkeletonLayout,
    values: Float[np.ndarray, " V"],
    sizes: float | Float[np.ndarray, " V"],
    **scale: Any,
) -> Any:
    for bone in layout.bones:
        axes.plot(*pose[list(bone)].T, color="#b5b5b5", linewidth=2, zorder=1, solid_capstyle="round")
    x, y = pose.T
    axes.set_aspect("equal")
    axes.axis("off")
    return axes.scatter(x, y, c=values, s=sizes, edgecolor="#555555", linewidth=0.6, zorder=2, **scale)


def _name(axes: Axes, pose: Float[np.ndarray, "V 2"], layout: SkeletonLayout, named: Sequence[int]) -> None:
    middle = pose[:, 0].mean()
    for joint in named:
        right = pose[joint, 0] >= middle
        axes.annotate(
            layout.joints[joint], pose[joint], xytext=(10 if right else -10, 0), textcoords="offset points",
            ha="left" if right else "right", va="center", fontsize=9, color="#222222",
            bbox=PALE_BOX, zorder=3,
        )  # fmt: skip


def _map_axes(layout: SkeletonLayout) -> tuple[Figure, Axes]:
    return new_axes(WIDTH, 1.0 + 0.19 * layout.num_joints)


def _joint_map(
    axes: Axes, values: Float[np.ndarray, "V F"], layout: SkeletonLayout, names: bool = True, **scale: Any
) -> AxesImage:
    """Joints by body part against frequencies; without `names` only the parts are named."""
    order, (joints, frequencies) = _by_part(layout), values.shape
    extent = (-0.5, frequencies - 0.5, joints - 0.5, -0.5)
    image = axes.imshow(values[order], aspect="auto", interpolation="none", extent=extent, **scale)
    ends = _ends(layout)
    if names:
        axes.set_yticks(range(joints), [layout.joints[joint] for joint in order])
    else:
        starts = np.array([0, *ends[:-1]])
        axes.set_yticks((starts + ends - 1) / 2, list(layout.parts))
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color="#767676", linewidth=0.6)
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="frequency [cycles per clip]")
    return image


def _by_part(layout: SkeletonLayout) -> list[int]:
    return [joint for part in layout.parts.values() for joint in part]


def _ends(layout: SkeletonLayout) -> np.ndarray:
    return np.cumsum([len(part) for part in layout.parts.values()])


def _bar(figure: Figure, axes: Axes, image: AxesImage, label: str, **how: Any) -> Any:
    bar = figure.colorbar(image, ax=axes, aspect=30, pad=0.02, **how)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bar


def _write_times(bar: Any, bound: float) -> None:
    """Write the log2 values of a scale as what they mean."""
    ticks = [value for value in _TIMES if abs(value) <= bound]
    bar.set_ticks(ticks, labels=[_TIMES[value] for value in ticks])
