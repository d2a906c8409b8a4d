"""A clip as a GIF."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from mica.report.motion.scene import FLOOR_COLOUR, FLOOR_LINES, SIDE_COLOURS, TILT, Scene, flat, set_scene
from mica.skeleton import SkeletonLayout

_INCHES, _DOTS_AN_INCH = 4.8, 100
_SHADES = 16  # of each ink, for smooth edges on white
_TITLE_INK, _TEXT_INK = "#1d1d1f", "#5a5a60"
_MOST_PICTURES, _MOST_A_SECOND = 600, 25
_LONGEST_PICTURE = 60_000  # milliseconds; the file has 16 bits for hundredths of a second
_LONGEST_TITLE, _LONGEST_ABOUT = 34, 60  # letters that fit
_SECONDS_WITHOUT_BAR = 3


def write_gif(
    out: Path,
    keypoints: Float[np.ndarray, "T M V 3"],
    layout: SkeletonLayout,
    title: str,
    about: str,
    frame_rate: float = 30.0,
) -> None:
    """Write a clip as a GIF that keeps its speed: at most 25 pictures a second and 600 in all, which loop for ever.

    Coordinates are as in `animation_html`; `title` and `about` stand above the bodies. Raises `InputError` likewise.
    """
    scene = set_scene(keypoints, layout)
    shown, milliseconds = picture_times(len(keypoints), frame_rate)
    with rc_context({"text.parse_math": False}):  # a class may be called "$"
        pictures = _pictures(scene, layout, shown, (_cut(title, _LONGEST_TITLE), _cut(about, _LONGEST_ABOUT)))
        first = next(pictures)
        first.save(
            out,
            format="GIF",
            save_all=True,
            append_images=pictures,
            duration=milliseconds,
            loop=0,
            disposal=1,
        )


def picture_times(frames: int, frame_rate: float) -> tuple[Int[np.ndarray, " pictures"], int]:
    """Return which frames a GIF shows, and for how many milliseconds each: tens of them, as GIFs have it.

    >>> picture_times(7, 30.0)
    (array([0, 1, 2, 3, 4, 6]), 40)
    """
    rate = min(_MOST_A_SECOND, frame_rate, _MOST_PICTURES * frame_rate / frames)
    milliseconds = min(10 * math.ceil(100 / rate), _LONGEST_PICTURE)
    # A clip so slow that a picture cannot stand long enough goes faster.
    step = max(frame_rate * milliseconds / 1000, frames / _MOST_PICTURES, 1.0)
    return np.arange(0, frames, step).astype(np.int64), milliseconds


def _pictures(
    scene: Scene, layout: SkeletonLayout, shown: Int[np.ndarray, " pictures"], titles: tuple[str, str]
) -> Iterator[Image.Image]:
    figure = Figure(figsize=(_INCHES, _INCHES), dpi=_DOTS_AN_INCH)
    canvas, palette = FigureCanvasAgg(figure), _palette()
    axes = _stage(figure, scene, titles)
    told = figure.text(0.97, 0.02, "", ha="right", fontsize=9, color=_TEXT_INK)
    bones = LineCollection([], linewidths=2.4, capstyle="round", clip_on=False)
    axes.add_collection(bones)
    dots = axes.scatter([], [], s=22, linewidth=0, zorder=3, clip_on=False)
    pairs = np.array(layout.bones, dtype=np.int64).reshape(-1, 2)
    colours = np.array([SIDE_COLOURS[layout.side(joint)] for joint in range(layout.num_joints)])
    for frame in tqdm(
        shown, desc="draw", unit="picture", delay=_SECONDS_WITHOUT_BAR, disable=None, leave=False
    ):
        bodies = scene.joints[frame]
        bodies = bodies[~np.isnan(bodies).any(axis=(1, 2))]
        lines = bodies[:, pairs].reshape(-1, 2, 3)
        order = np.argsort(lines[:, :, 2].sum(axis=1))  # the nearest last, before all others
        bones.set_segments(list(flat(lines[order])))
        bones.set_color(np.tile(colours[pairs[:, 0]], len(bodies))[order].tolist())
        dots.set_offsets(flat(bodies).reshape(-1, 2))
        dots.set_facecolor(np.tile(colours, len(bodies)).tolist())
        told.set_text(f"frame {frame + 1} of {len(scene.joints)}")
        canvas.draw()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).quantize(
            palette=palette, dither=Image.Dither.NONE
        )


def _palette() -> Image.Image:
    """An image that holds the colours of all pictures, so that none flickers between two."""
    inks = np.array([to_rgb(ink) for ink in (*SIDE_COLOURS.values(), _TITLE_INK, _TEXT_INK)])
    shades = 1 - np.linspace(0, 1, _SHADES)[:, None, None] * (1 - inks)
    colours = np.concatenate([shades.reshape(-1, 3), [to_rgb(FLOOR_COLOUR)]])
    image = Image.new("P", (1, 1))
    image.putpalette((255 * colours).round().astype(np.uint8).tobytes())
    return image


def _cut(text: str, longest: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest - 2]} …"


def _stage(figure: Figure, scene: Scene, titles: tuple[str, str]) -> Axes:
    """Axes with the floor, the titles and the colours' meaning."""
    axes = figure.add_axes((0.02, 0.06, 0.96, 0.8))
    near = scene.radius * np.sin(TILT)
    axes.set(xlim=(-1.1 * scene.radius, 1.1 * scene.radius), ylim=(-1.1 * near, 1.05 * scene.height + near))
    axes.set_aspect("equal")
    axes.axis("off")
    at = 0.75 * scene.radius * np.linspace(-1, 1, FLOOR_LINES + 1)
    lines = np.stack(np.broadcast_arrays(at[:, None], 0.0, at[[0, -1]]), axis=-1)
    floor = flat(np.concatenate([lines, lines[..., ::-1]]))
    axes.add_collection(LineCollection(list(floor), colors=FLOOR_COLOUR, linewidths=0.8))
    figure.text(0.03, 0.94, titles[0], fontsize=12, weight="bold", color=_TITLE_INK)
    figure.text(0.03, 0.89, titles[1], fontsize=9.5, color=_TEXT_INK)
    for x, side in ((0.03, "left"), (0.11, "right")):
        figure.text(x, 0.02, side, fontsize=9, weight="bold", color=SIDE_COLOURS[side])
    figure.text(0.2, 0.02, "the person's own", fontsize=9, color=_TEXT_INK)
    return axes
