from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mica.report.figures.layouts import draw_all, draw_layout, spread
from mica.skeleton import LAYOUTS, SkeletonLayout, get_layout, infer_layout

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
SVG = "{http://www.w3.org/2000/svg}"


def texts(image: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(image).iter(f"{SVG}text"))


def place(text: ElementTree.Element) -> tuple[float, float]:
    numbers = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", text.attrib["transform"])
    if numbers is None:
        return float(text.attrib["x"]), float(text.attrib["y"])
    return float(numbers[1]), float(numbers[2])


@every_layout
def test_every_joint_is_named_on_its_side_and_on_a_line_of_its_own(layout: SkeletonLayout) -> None:
    written = {text.text: text for text in texts(draw_layout(layout))}
    assert layout.name in written
    assert any(layout.about in (text or "") for text in written)
    columns: dict[str, list[float]] = {}
    for joint, name in enumerate(layout.joints):
        text = written[f"{joint} {name} (centre)" if joint == layout.center else f"{joint} {name}"]
        x, y = place(text)
        anchor = re.search(r"text-anchor: (\w+)", text.attrib["style"])
        side = "right" if anchor and anchor[1] == "end" else "left"
        columns.setdefault(side, []).append(y)
        middle, _ = place(written[layout.name])
        assert x > middle + 50 if side == "left" else x < middle - 50
        fill = re.search(r"fill: (#\w+)", text.attrib["style"])
        assert fill is not None
        if name.split()[0] in ("left", "right"):
            assert side == name.split()[0]
            assert fill[1] == {"left": "#0072b2", "right": "#d55e00"}[side]
        else:
            assert fill[1] == "#333333"
    for heights in columns.values():
        assert min(b - a for a, b in pairwise(sorted(heights))) > 9  # points; the letters are 8 high


def test_same_bytes_again() -> None:
    layout = get_layout("coco-17")
    assert draw_layout(layout) == draw_layout(layout)


def test_sheet_shows_all_layouts() -> None:
    written = [text.text for text in texts(draw_all())]
    for layout in LAYOUTS.values():
        assert written.count(layout.name) == 1
    assert written.count("5 left shoulder") == [layout.joints[5] for layout in LAYOUTS.values()].count(
        "left shoulder"
    )


def test_names_of_ones_own_are_drawn_as_they_are() -> None:
    joints = ("$hips$", "l_<arm>", "r_<arm>", "l & hip", "r & hip", "ü" * 50)
    layout = infer_layout("<own>", joints, (0, 0, 0, 0, 0, 0), about="of “mine” " + 60 * "very ")
    written = [text.text or "" for text in texts(draw_layout(layout))]
    assert "<own>" in written
    assert "1 l_<arm>" in written
    assert "0 $hips$ (centre)" in written
    assert f"5 {'ü' * 40}…" in written
    assert any(text.startswith("6 joints. of “mine” very") and text.endswith("…") for text in written)


@given(st.lists(st.floats(0, 2), min_size=1, max_size=20), st.floats(0.01, 0.2))
def test_spread(heights: list[float], gap: float) -> None:
    wished = np.array(sorted(heights, reverse=True))
    found = spread(wished, gap)
    assert (np.diff(found) <= -gap + 1e-9).all()
    if (np.diff(wished) <= -gap).all():
        np.testing.assert_allclose(found, wished, atol=1e-9)
    # Moved as little as it takes: no shift of the whole brings them nearer.
    assert abs((found - wished).sum()) < 1e-6
