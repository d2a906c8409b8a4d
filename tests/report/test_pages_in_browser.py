"""Every page in a browser, on a phone and on a desk: no error, no request, nothing sticks out, all can be read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mica.comparison.page import PAGE, write_page
from mica.comparison.standings import QUESTIONS, Row, Standings
from mica.data.store import Store
from mica.evaluation.results import Result
from mica.models.mica import ModelCard
from mica.report import write_report
from mica.report.compare import write_comparison
from mica.report.motion.animation import animate

from ..conftest import faked_text
from .browser import DESKTOP, PHONE, Browser, Screen

# A figure whose names leave no room for what it shows is written all the same.
pytestmark = pytest.mark.filterwarnings("error:constrained_layout not applied")

SMALLEST, SMALLEST_IN_PICTURES = 11, 6.5  # CSS pixels
SECTIONS = ("results", "confusion", "map", "gate", "training")
FIGURES = {  # which sections of a page must hold a picture or a moving skeleton
    "report without text": SECTIONS,
    "report with unseen classes": SECTIONS,
    "comparison": ("classes-3", "training"),
    "animation": (),
    "standings": ("pictures",),
}


@pytest.fixture(scope="module")
def pages(
    tiny_run: Path, zero_shot_run: Path, tiny_store: Store, zero_shot_store: Store,
    make_card: Callable[..., ModelCard], write_run: Callable[..., Path], add_result: Callable[..., Result],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:  # fmt: skip
    folder = tmp_path_factory.mktemp("pages")
    reports = {
        "report without text": (tiny_run, tiny_store),
        "report with unseen classes": (zero_shot_run, zero_shot_store),
    }
    written, runs = {}, []
    with faked_text(folder / "cache"):
        for name, (trained, store) in reports.items():
            runs.append(Path(shutil.copytree(trained, folder / name)))
            evaluate_somehow(runs[-1], add_result)
            written[name] = write_report(runs[-1], store)
    for name in ("a plain one", "a-run-with-a-very-long-name-that-nobody-would-want-to-read-on-a-phone"):
        runs.append(
            write_run(folder / name, make_card(), [{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.5}])
        )
        evaluate_somehow(runs[-1], add_result)
    written["comparison"] = write_comparison(runs, folder / "comparison.html")
    written["animation"] = animate(tiny_store, 0, folder / "animation.html")
    (folder / "standings").mkdir()
    write_page(standings(), folder / "standings")
    written["standings"] = folder / "standings" / PAGE
    return written


def standings() -> Standings:
    """Of methods with short names and long ones, all kinds of supervision among them."""
    changed = "mica+encoder.frest=false+objectives.modulation=0+objectives.inter=0"
    chosen = ("heads.pooling=parts", "baseline.temperature=0.2")
    kinds = {
        "random encoder": None,
        "aimclr": "none",
        "mica": "words",
        changed: "words",
        "supervised": "labels",
    }
    rows = tuple(
        Row(
            name=name,
            supervision=supervision,  # type: ignore[arg-type]
            chosen=chosen if supervision == "none" else (),
            values={column: [60.0 + place, 61.5 + place, 64.0] for _, _, column in QUESTIONS},
            parameters=821_380,
            minutes=[] if supervision is None else [3.0, 4.0],
        )
        for place, (name, supervision) in enumerate(kinds.items())
    )
    return Standings("nw-ucla", "cross-view", "joint", 464, (40, 40), 3, rows)


def evaluate_somehow(run: Path, add_result: Callable[..., Result]) -> None:
    """Results of several protocols, as far as a page can tell."""
    card = ModelCard.read(run / "checkpoint")
    add_result(run, card, "linear", {"SGD": (70.0 + len(run.name) % 20, 72.0), "logistic regression": 66.0})
    add_result(run, card, "linear", {"SGD": 30.0, "logistic regression": 33.0}, source="random")
    add_result(run, card, "knn", {f"k = {k}": 50.0 + k for k in (1, 5, 10)})
    add_result(
        run, card, "retrieval", {"cosine": 55.0}, measures={"hit rate at 1": 55.0, "precision at 5": 48.0}
    )
    if card.text != "none":
        unseen = [name for i, name in enumerate(card.class_names) if i not in card.seen_classes]
        add_result(run, card, "zero-shot", {"mean of wordings": 40.0}, unseen_classes=tuple(unseen))


def unfold(browser: Browser, page: Path, screen: Screen) -> None:
    browser.open(page, screen=screen)
    browser.ask("document.querySelectorAll('details').forEach(one => { one.open = true; })")


@pytest.mark.parametrize("screen", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", FIGURES)
def test_page_works_on_its_own_and_can_be_read(
    browser: Browser, pages: dict[str, Path], name: str, screen: Screen
) -> None:
    unfold(browser, pages[name], screen)
    assert browser.ask("innerWidth") == screen.width
    assert browser.bad_pictures() == []
    assert browser.overflow() == []
    assert browser.small_text(SMALLEST) == []
    assert browser.small_text_in_pictures(SMALLEST_IN_PICTURES) == []
    assert browser.complaints == []
    assert browser.requests == []


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_there(browser: Browser, pages: dict[str, Path], name: str) -> None:
    unfold(browser, pages[name], DESKTOP)
    for section in FIGURES[name]:
        count = browser.ask(f"document.querySelectorAll('#{section} img, #{section} canvas').length")
        assert count > 0, section
    assert browser.ask("[...document.images].filter(one => one.alt === undefined).length") == 0
    assert browser.ask("document.title").strip()
    assert browser.ask("[...document.links].filter(one => !find(one.getAttribute('href'))).length") == 0


def test_page_looks_like_something(browser: Browser, pages: dict[str, Path]) -> None:
    """A style sheet that hides everything would pass all other tests."""
    browser.open(pages["comparison"], screen=PHONE)
    shot = browser.whole_page()
    assert shot.width == PHONE.width * PHONE.scale
    assert shot.height > 2 * PHONE.height
    assert len(shot.resize((200, 800)).getcolors(160_000)) > 100


INSIDE = "</main>"
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def spoilt(page: Path, out: Path, addition: str, policy: bool = False) -> Path:
    """The page with something in it that must not be there; the page's own policy would keep much of it away."""
    html = page.read_text(encoding="utf-8")
    assert html.count(INSIDE) == 1
    assert POLICY.search(html)
    html = html if policy else POLICY.sub("", html)
    out.write_text(html.replace(INSIDE, addition + INSIDE), encoding="utf-8")
    return out


STRANGE = '<img alt="" src="http://127.0.0.1:9/x.png">'


@pytest.mark.parametrize(
    ("addition", "noticed"),
    [
        (STRANGE, lambda browser: "http://127.0.0.1:9/x.png" in browser.requests and browser.bad_pictures()),
        ("<script>fetch('http://127.0.0.1:9/y').catch(() => 0)</script>", lambda browser: browser.requests),
        ("<script>throw new Error('oh')</script>", lambda browser: "oh" in str(browser.complaints)),
        ("<script>console.log('oh')</script>", lambda browser: "oh" in str(browser.complaints)),
        ('<div style="width: 2000px">wide</div>', lambda browser: len(browser.overflow()) >= 2),
        ('<p style="margin-left: -90px">left</p>', lambda browser: 'p. "left"' in browser.overflow()),
        ('<p style="font-size: 7px">tiny</p>', lambda browser: browser.small_text(11) == ["7 px: tiny"]),
        ('<img alt="" src="data:image/svg+xml,<svg">', lambda browser: browser.bad_pictures()),
        ('<canvas aria-label="bare"></canvas>', lambda browser: browser.bad_pictures() == ["empty canvas: bare"]),
    ],
)  # fmt: skip
def test_what_must_not_be_is_noticed(
    browser: Browser,
    pages: dict[str, Path],
    tmp_path: Path,
    addition: str,
    noticed: Callable[[Browser], object],
) -> None:
    browser.open(spoilt(pages["animation"], tmp_path / "page.html", addition), screen=PHONE)
    assert noticed(browser)


def test_small_letters_in_pictures_are_noticed(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["comparison"], screen=PHONE)
    assert browser.small_text_in_pictures(30)
    browser.ask("document.images[0].style.width = '60px'")
    assert browser.small_text_in_pictures(SMALLEST_IN_PICTURES)


def test_what_scrolls_by_itself_may_be_wide(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    addition = '<div class="scroll"><p style="width: 2000px; max-width: none">wide</p></div>'
    browser.open(spoilt(pages["animation"], tmp_path / "page.html", addition), screen=PHONE)
    assert browser.overflow() == []


@pytest.mark.parametrize("name", FIGURES)
def test_policy_keeps_strangers_away(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str
) -> None:
    addition = f"{STRANGE}<script>document.title = 'taken'</script>"
    browser.open(spoilt(pages[name], tmp_path / "page.html", addition, policy=True))
    assert browser.ask("document.title") != "taken"
    assert "127.0.0.1" in str(browser.complaints)
    assert browser.ask("[...document.images].at(-1).naturalWidth") == 0
