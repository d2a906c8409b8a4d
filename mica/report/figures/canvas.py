"""What every picture is drawn on: an SVG inside a data URI, with a text that says what it shows."""

from __future__ import annotations

import base64
import io
import textwrap
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any kind of colour vision; their yellow is too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
# More classes than colours: the marker changes when the colours are used up. Nine, so that 63 pairs differ.
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")
WIDTH = 3.9  # inches: about what a phone shows without shrinking the letters
_LONGEST_NAME = 34

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
styled = rc_context(_STYLE)
# Behind names that lie on a picture. An outline would turn the letters into curves, ten times the bytes.
PALE_BOX = {"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}


@dataclass(frozen=True)
class Picture:
    """An image for a page: a data URI, its size in pixels, and words for those who cannot see it."""

    source: str
    width: int
    height: int
    alt: str


def shorten(name: str) -> str:
    """Cut a long class name at a word, or where it has but one within it.

    >>> shorten("take something out of a bag or a backpack")
    'take something out of a bag or a …'
    >>> shorten("take_something_out_of_a_bag_or_a_backpack")
    'take_something_out_of_a_bag_or_a …'
    """
    name = drawable(name)
    if len(name) <= _LONGEST_NAME:
        return name
    short = textwrap.shorten(name, _LONGEST_NAME, placeholder=" …")
    return name[: _LONGEST_NAME - 2] + " …" if short == "…" else short


def drawable(text: str) -> str:
    """Put a question mark for what is beyond Unicode and has no glyph, half a pair of surrogates.

    >>> drawable("wave \\ud83d")
    'wave ?'
    """
    return text.encode(errors="replace").decode()


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def to_picture(figure: Figure, alt: str) -> Picture:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    width, height = figure.get_size_inches() * 96
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Picture(f"data:image/svg+xml;base64,{encoded}", round(width), round(height), alt)
