"""Clips as GIFs: at the right speed, of all sides, whatever they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from mica.report.motion.gif import picture_times, write_gif
from mica.report.motion.scene import SIDE_COLOURS
from mica.skeleton import get_layout, standing_pose

LAYOUT = get_layout("kinect-20")
FRAMES = 12


def person(frames: int = FRAMES) -> np.ndarray:
    """A body two metres from the sensor that faces it, the left side towards -x as a sensor has it, and sways."""
    x, y = standing_pose(LAYOUT).T
    body = np.stack([-x, y, 2 - 0.1 * y], axis=-1)
    sway = np.linspace(0, 0.1, frames)[:, None, None, None] * (1, 0, 0)
    return (body + sway).astype(np.float32)


def colour_counts(picture: Image.Image) -> dict[str, int]:
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    wanted = {side: ImageColor.getrgb(colour) for side, colour in SIDE_COLOURS.items()}
    return {side: int((abs(pixels - colour).max(axis=2) < 8).sum()) for side, colour in wanted.items()}


def bodies(gif: Image.Image, number: int) -> Image.Image:
    """A picture of a GIF without what is written around the bodies."""
    gif.seek(number)
    return gif.convert("RGB").crop((10, 70, 470, 450))


@pytest.mark.parametrize(
    ("frames", "rate"),
    [(1, 30.0), (45, 30.0), (10, 25.0), (100, 12.0), (7, 0.5), (90_000, 120.0), (3, 1e-6), (90_000, 0.01)],
)
def test_gif_keeps_the_speed_of_the_clip(frames: int, rate: float) -> None:
    shown, milliseconds = picture_times(frames, rate)
    assert shown[0] == 0
    assert shown[-1] < frames
    assert 1 <= len(shown) <= 600
    assert milliseconds >= 40
    assert milliseconds % 10 == 0
    if rate > 0.1:  # one that is slower than a picture may stand goes faster
        told = np.arange(len(shown)) * milliseconds / 1000
        assert (abs(shown / rate - told) <= 1 / rate + 1e-9).all()
        assert abs(len(shown) * milliseconds / 1000 - frames / rate) <= milliseconds / 1000 + 1e-9


def test_gif_shows_the_clip(tmp_path: Path) -> None:
    write_gif(tmp_path / "clip.gif", person(), LAYOUT, "name", "about", 30.0)
    with Image.open(tmp_path / "clip.gif") as gif:
        assert (gif.format, gif.size, gif.info["loop"], gif.info["duration"]) == ("GIF", (480, 480), 0, 40)
        assert gif.n_frames == len(picture_times(FRAMES, 30.0)[0])
        pictures = [bodies(gif, number) for number in (0, gif.n_frames - 1)]
    for picture in pictures:
        assert min(colour_counts(picture).values()) > 100
    assert np.asarray(pictures[0]).tolist() != np.asarray(pictures[1]).tolist()


@pytest.mark.filterwarnings("ignore:Glyph")
def test_gif_of_absent_bodies_extreme_values_and_odd_names(tmp_path: Path) -> None:
    clip = np.concatenate([person(), person() + np.float32([0.9, 0, 0.5])], axis=1)
    clip[:, 1, 0, 0] = 3e38
    clip[2] = 0
    hostile = "$\\frac$ \x00 \n\n" * 9
    write_gif(tmp_path / "odd.gif", clip, LAYOUT, hostile, hostile, 10.0)
    with Image.open(tmp_path / "odd.gif") as gif:
        assert gif.n_frames == FRAMES
        assert gif.info["duration"] == 100
        nobody = colour_counts(bodies(gif, 2))
        assert nobody["left"] == nobody["right"] == 0


def test_gif_keeps_long_titles_within_the_picture(tmp_path: Path) -> None:
    write_gif(tmp_path / "long.gif", person(1), LAYOUT, "S001C002P003" * 20, "words " * 50)
    with Image.open(tmp_path / "long.gif") as gif:
        head = np.asarray(gif.convert("L").crop((0, 0, 480, 60)))
    assert (head[:, :-5] < 128).any()
    assert (head[:, -5:] == 255).all()
