"""Clips in motion: written as GIF or as a page, and what the page does in a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from mica.data.clip import Clip, StoreInfo
from mica.data.store import Store, write
from mica.errors import InputError
from mica.report.motion.animation import animate, animation_html, animation_page
from mica.report.motion.scene import SIDE_COLOURS, set_scene
from mica.skeleton import get_layout, standing_pose

from .browser import Browser, Screen

LAYOUT = get_layout("kinect-20")
HOSTILE = '</script><b onload="x">$\\frac$ & {{ 7*7 }}\n'
FRAMES = 35
MISSING = 9  # the frame without a body


def person(frames: int = FRAMES) -> np.ndarray:
    """A body two metres from the sensor that faces it, the left side towards -x as a sensor has it, and sways."""
    x, y = standing_pose(LAYOUT).T
    body = np.stack([-x, y, 2 - 0.1 * y], axis=-1)
    sway = np.linspace(0, 0.1, frames)[:, None, None, None] * (1, 0, 0)
    return (body + sway).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A clip of one person, one of two of whom the second comes late and nobody is there once, one of one frame."""
    two = np.concatenate([person(), person() + np.float32([0.9, 0, 0.5])], axis=1)
    two[:20, 1] = 0
    two[MISSING] = 0
    clips = [
        Clip("alone", person(), 0, subject=3, camera=2),
        Clip("together", two, 1),
        Clip("a blink", person(1), 2),
        Clip("1", person(2), 0),
    ]
    info = StoreInfo("mine", "kinect-20", ("wave", HOSTILE, "bow"), 30.0)
    return Store.open(write(tmp_path_factory.mktemp("store") / "tiny.arrow", clips, info).path)


class Tags(HTMLParser):
    """Names and attributes of all tags, what the scripts hold, and the other text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem:
            self.scripts.append(data)
        else:
            self.text += data


@pytest.fixture(scope="module")
def pages(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    return {str(name): animate(store, i, folder / f"{i}.html") for i, name in enumerate(store.names)}


def test_page_holds_the_clip_in_millimetres(store: Store, pages: dict[str, Path]) -> None:
    page = Tags(pages["together"].read_text(encoding="utf-8"))
    clip = json.loads(page.scripts[0])
    assert (clip["rate"], len(clip["frames"]), len(clip["frames"][0])) == (30.0, FRAMES, 2)
    assert clip["parents"] == list(LAYOUT.parents)
    assert clip["frames"][MISSING] == [None, None]
    assert clip["frames"][19][1] is None
    scene = set_scene(store.keypoints(1), store.layout)
    for t, m in ((0, 0), (30, 1)):
        shown = np.array(clip["frames"][t][m]).reshape(20, 3)
        assert all(isinstance(value, int) for value in clip["frames"][t][m])
        np.testing.assert_allclose(shown, 1000 * scene.joints[t, m], atol=0.5)
    assert clip["radius"] == pytest.approx(1000 * scene.radius)
    assert clip["height"] == pytest.approx(1000 * scene.height)


def test_page_says_what_it_shows_and_fetches_nothing(pages: dict[str, Path]) -> None:
    page = Tags(pages["alone"].read_text(encoding="utf-8"))
    assert "wave, subject 3, camera 2" in page.text
    assert f"frame 1 of {FRAMES}" in page.text
    names = [name for name, _ in page.tags]
    assert not {"link", "img", "iframe", "object"} & set(names)
    for _, attributes in page.tags:
        assert not {"src", "href", "srcset", "action"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for name, a in page.tags if name == "meta" and "http-equiv" in a)
    assert str(policy).startswith("default-src 'none';")
    assert not re.search(r"@import|url\(|fetch\(|XMLHttp", page.text + "".join(page.scripts))


def test_hostile_class_names_stay_text(pages: dict[str, Path]) -> None:
    page = Tags(pages["together"].read_text(encoding="utf-8"))
    assert HOSTILE.strip() in page.text
    assert "b" not in [name for name, _ in page.tags]
    assert len(page.scripts) == 2
    label = next(a["aria-label"] for name, a in page.tags if name == "canvas")
    assert HOSTILE in str(label)


def colour_counts(picture: Image.Image) -> dict[str, int]:
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    wanted = {side: ImageColor.getrgb(colour) for side, colour in SIDE_COLOURS.items()}
    return {side: int((abs(pixels - colour).max(axis=2) < 8).sum()) for side, colour in wanted.items()}


def where(picture: Image.Image, side: str) -> float:
    """How far to the right the colour of a side lies on average."""
    distance = abs(np.asarray(picture).astype(int) - ImageColor.getrgb(SIDE_COLOURS[side])).max(axis=2)
    return float(np.nonzero(distance < 8)[1].mean())


def test_browser_draws_bodies_that_face_us(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["together"])
    picture = browser.picture()
    assert min(colour_counts(picture).values()) > 200
    assert where(picture, "left") > where(picture, "right") + 50
    assert browser.ask("button.textContent") == "Play"  # less motion was asked for
    assert browser.ask("changes(() => time.value, 0.5)") is False
    assert not browser.complaints


def test_browser_plays_until_stopped(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["together"], motion="no-preference")
    assert browser.ask("button.textContent") == "Pause"
    assert browser.ask("changes(() => time.value, 20)") is True
    browser.ask("time.focus()")
    browser.press("ArrowRight")
    assert browser.ask("button.textContent") == "Play"
    assert browser.ask("changes(() => time.value, 0.5)") is False
    browser.ask("[button.click(), button.click(), button.click(), button.click()]")
    assert browser.ask("changes(() => time.value, 0.5)") is False
    assert not browser.complaints


def test_browser_turns_with_the_mouse(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["alone"])
    before = browser.picture()
    browser.mouse("mousePressed", 300, 300)
    browser.mouse("mouseMoved", 400, 300)
    assert browser.ask("turn.value") == "60"
    browser.mouse("mouseMoved", 600, 310)
    browser.mouse("mouseReleased", 600, 310)
    browser.mouse("mouseMoved", 450, 300)
    assert browser.ask("turn.value") == "-180"
    after = browser.picture()
    assert where(before, "left") > where(before, "right")
    assert where(after, "left") < where(after, "right")
    browser.mouse("mousePressed", 300, 300)
    browser.mouse("mouseMoved", 310, 300)
    browser.mouse("mouseReleased", 310, 300)
    assert browser.ask("turn.value") == "-174"
    assert not browser.complaints


def test_browser_shows_the_right_side_after_a_quarter_turn(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["alone"])
    browser.ask("[turn.value = 90, turn.dispatchEvent(new Event('input'))]")
    picture = browser.picture()
    counts = colour_counts(picture)
    assert counts["right"] > 2 * counts["left"]
    legs = picture.crop((0, picture.height // 2, picture.width, picture.height))
    assert where(picture, "") > where(legs, "right") + 10  # who leans forward has the head before the feet
    assert not browser.complaints


def test_browser_obeys_the_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["together"])
    order = []
    for _ in range(3):
        browser.press("Tab")
        order.append(browser.ask("document.activeElement.name || document.activeElement.textContent"))
    assert order == ["Play", "frame", "turn"]
    browser.press("ArrowLeft")
    assert browser.ask("turn.value") == "-1"
    browser.ask("time.focus()")
    browser.press("ArrowRight")
    assert browser.ask("find('.told').textContent") == f"frame 2 of {FRAMES}"
    assert browser.ask("time.getAttribute('aria-valuetext')") == f"frame 2 of {FRAMES}"
    browser.ask("button.focus()")
    browser.press(" ")
    assert browser.ask("button.textContent") == "Pause"
    assert browser.ask("changes(() => time.value, 20)") is True
    assert not browser.complaints


def test_browser_says_so_where_nobody_is(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["together"])
    browser.ask(f"[time.value = {MISSING}, time.dispatchEvent(new Event('input'))]")
    picture = browser.picture()
    assert colour_counts(picture)["left"] == colour_counts(picture)["right"] == 0
    assert (np.asarray(picture.crop((200, 150, 480, 350))) < 128).any()
    assert not browser.complaints


def test_browser_fits_a_phone(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["together"], screen=Screen(320, 900))
    assert browser.ask("document.documentElement.scrollWidth") <= 320
    assert browser.ask("button.getBoundingClientRect().height") >= 44
    assert min(colour_counts(browser.picture()).values()) > 100
    assert not browser.complaints


def test_browser_shows_a_clip_of_one_frame(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["a blink"], motion="no-preference")
    assert browser.ask("find('.told').textContent + button.textContent") == "frame 1 of 1Play"
    assert not browser.complaints


@pytest.mark.parametrize("suffix", [".gif", ".html"])
def test_keeps_an_existing_file_unless_told(store: Store, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"x{suffix}"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        animate(store, 2, out)
    assert out.read_text() == "mine"
    animate(store, 2, out, overwrite=True)
    assert out.read_bytes() != b"mine"
    assert [file.name for file in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize("name", ["x.mp4", "x", ".gif", "x.html.gz", "", ".."])
def test_refuses_other_kinds_of_files(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"\.gif or a \.html"):
        animate(store, 0, Path(name))
    assert not list(tmp_path.iterdir())


def test_a_gif_is_one_by_its_name(store: Store, tmp_path: Path) -> None:
    with Image.open(animate(store, 3, tmp_path / "clip.GIF")) as gif:
        assert (gif.format, gif.n_frames) == ("GIF", 2)


def test_several_figures_share_a_player(store: Store, browser: Browser, tmp_path: Path) -> None:
    figures = "".join(animation_html(store.keypoints(i), store.layout, f"clip {i}") for i in (0, 1))
    (tmp_path / "two.html").write_text(animation_page("two", figures), encoding="utf-8")
    browser.open(tmp_path / "two.html")
    count = "[...document.querySelectorAll('canvas')].filter(one => one.toDataURL().length > 5000).length"
    assert browser.ask(count) == 2
    assert not browser.complaints


def test_class_names_beyond_unicode_are_replaced(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = StoreInfo("mine", "kinect-20", ("half \ud800", "b", "c"), 30.0)
    monkeypatch.setattr(store, "info", info)
    assert "half ?" in animate(store, 0, tmp_path / "x.html").read_text(encoding="utf-8")
