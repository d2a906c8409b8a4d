"""The tool that runs a page: what a cell is, where it fails, what fits what, and which pictures are kept."""

from __future__ import annotations

import io
import os
import traceback
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image

from docs import build
from docs.build import (
    Cell,
    CellError,
    cells_of,
    difference,
    filled,
    main,
    picture_problems,
    problems_of,
    run_cells,
    write,
)

SUMS = """# Sums

```python
total = 1 + 1
print("total:", total)
```

<!-- output -->
```
total: 2
```

Words.

```
not Python
```

```python
total / 3
```

<!-- output, numbers within 5 % -->
```
0.67
```
"""


def save(folder: Path, text: str, name: str = "sums.md") -> Path:
    page = folder / name
    page.write_text(text)
    return page


def cell(output: str, tolerance: float = 0.0) -> Cell:
    return Cell(1, "", "", output, tolerance)


def test_cells_with_their_lines_outputs_and_tolerances() -> None:
    first, second = cells_of(SUMS)
    assert (first.line, first.output, first.tolerance) == (4, "total: 2\n", 0.0)
    assert (second.line, second.output, second.tolerance) == (20, "0.67\n", 0.05)
    assert SUMS.splitlines()[second.line - 1] == second.code.strip() == "total / 3"


def test_a_cell_takes_no_output_that_belongs_to_a_later_one() -> None:
    text = "```python\na = 1\n```\n\nWords.\n\n```python\na\n```\n\n<!-- output -->\n```\n1\n```\n"
    assert [found.output for found in cells_of(text)] == ["", "1\n"]


def test_cells_share_variables_and_the_last_value_is_shown(tmp_path: Path) -> None:
    shows = run_cells(cells_of(SUMS), save(tmp_path, SUMS), tmp_path)
    assert shows == ["total: 2\n", "0.6666666666666666\n"]


@pytest.mark.parametrize(
    ("code", "shows"),
    [
        ("print(1)\nNone\n", "1\n"),
        ("x = 5\n", ""),
        ("'a'\n", "'a'\n"),
        ("0\n", "0\n"),
        ("", ""),
        ("def f(): return 3\nf()\n", "3\n"),
    ],
)
def test_what_a_cell_shows(code: str, shows: str, tmp_path: Path) -> None:
    assert run_cells([Cell(1, code, "", "", 0.0)], tmp_path / "a.md", tmp_path) == [shows]


@pytest.mark.parametrize(
    ("code", "line", "error"),
    [
        ("a = 1\nb = a / 0\n", 5, "ZeroDivisionError: division by zero"),
        ("def half(x):\n    return x / 0\n\nhalf(1)\n", 5, "ZeroDivisionError"),
        ("a = (1 +\n", 4, "SyntaxError"),
        ("import pathlib\n\npathlib.Path('none').read_text()\n", 6, "FileNotFoundError"),
    ],
)
def test_a_cell_that_raises_names_its_line_in_the_page(
    code: str, line: int, error: str, tmp_path: Path
) -> None:
    page = save(tmp_path, f"# Page\n\n```python\n{code}```\n")
    with pytest.raises(CellError, match=rf"^sums\.md:{line}: {error}"):
        run_cells(cells_of(page.read_text()), page, tmp_path)


def test_nothing_a_page_does_is_felt_outside(tmp_path: Path) -> None:
    here, state, size = Path.cwd(), torch.get_rng_state(), matplotlib.rcParams["font.size"]
    code = "import torch\ntorch.manual_seed(5)\nopen('made.txt', 'w').close()\nprint(torch.initial_seed())\n"
    assert run_cells([Cell(1, code, "", "", 0.0)], tmp_path / "a.md", tmp_path) == ["5\n"]
    assert Path.cwd() == here
    assert torch.equal(torch.get_rng_state(), state)
    assert matplotlib.rcParams["font.size"] == size
    assert "SOURCE_DATE_EPOCH" not in os.environ
    assert (tmp_path / "made.txt").exists()


@pytest.mark.parametrize(
    ("written", "shown", "tolerance"),
    [
        ("(2, 3)\n", "(2, 3)\n", 0.0),
        ("loss 1.00, kNN 50 %\n", "loss 0.91, kNN 54 %\n", 0.1),
        ("a 9.9\n", "a   10.1\n", 0.1),
        ("-1e-3\n", "-1.05e-3\n", 0.1),
        ("0\n", "0\n", 0.1),
    ],
)
def test_outputs_that_fit(written: str, shown: str, tolerance: float) -> None:
    assert difference(cell(written, tolerance), shown, "a.md") == ""


@pytest.mark.parametrize(
    ("written", "shown", "tolerance"),
    [
        ("(2, 3)\n", "(2, 4)\n", 0.0),
        ("1.0\n", "1.0000001\n", 0.0),
        ("a  b\n", "a b\n", 0.0),
        ("loss 1.00\n", "loss 0.85\n", 0.1),
        ("loss 1.00\n", "cost 1.00\n", 0.1),
        ("loss 1.00\n", "loss -1.00\n", 0.1),
        ("loss 1.00\n", "loss nan\n", 0.1),
        ("1 2\n", "1 2 3\n", 0.5),
        ("1 2\n", "1\n", 0.5),
        ("", "1\n", 0.5),
        ("1\n", "", 0.5),
    ],
)
def test_outputs_that_no_longer_fit(written: str, shown: str, tolerance: float) -> None:
    assert difference(cell(written, tolerance), shown, "a.md")


def test_an_output_that_no_longer_fits_is_shown_as_a_diff(tmp_path: Path) -> None:
    page = save(tmp_path, SUMS.replace("total: 2", "total: 3"))
    [found] = problems_of(page, tmp_path)
    assert found.splitlines() == [
        "--- sums.md:4, as written",
        "+++ sums.md:4, as it runs",
        "@@ -1 +1 @@",
        "-total: 3",
        "+total: 2",
    ]


def test_a_cell_whose_output_is_not_in_the_page_is_a_problem(tmp_path: Path) -> None:
    page = save(tmp_path, "```python\n1 + 1\n```\n")
    [found] = problems_of(page, tmp_path)
    assert found.endswith("+2")


def test_outputs_are_filled_in_replaced_and_taken_away() -> None:
    text = SUMS.replace("total: 2\n", "").replace("print(", "other = (")
    fresh = filled(text, ["", "0.7\n"])
    assert "<!-- output -->" not in fresh
    assert "<!-- output, numbers within 5 % -->\n```\n0.7\n```\n" in fresh
    assert "Words." in fresh
    assert "not Python" in fresh
    assert filled("```python\n1\n```\nWords.\n", ["1\n"]) == (
        "```python\n1\n```\n\n<!-- output -->\n```\n1\n```\nWords.\n"
    )


def test_a_page_that_was_written_has_no_problems_and_does_not_change(tmp_path: Path) -> None:
    page = save(tmp_path, SUMS.replace("total: 2", "old").replace("0.67", ""))
    write(page, tmp_path)
    text = page.read_text()
    assert text == SUMS.replace("0.67", "0.6666666666666666")
    assert problems_of(page, tmp_path) == []
    write(page, tmp_path)
    assert page.read_text() == text


PICTURE = """```python
from matplotlib.figure import Figure

figure = Figure()
figure.subplots().set(title="joints", xlabel="time", xticks=[0, 1])
figure.savefig("a.svg")
```

![joints against time](page/a.svg) and ![not ours](elsewhere/b.svg)
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A page with a picture that was just written, and an empty folder `made` to run it in."""
    page = save(tmp_path, PICTURE, "page.md")
    for name in ("made", "first"):
        (tmp_path / name).mkdir()
    write(page, tmp_path / "first")
    return page


def test_a_picture_is_kept_beside_the_page_and_is_the_same_each_time(page: Path) -> None:
    made = page.parent / "made"
    assert problems_of(page, made) == []
    assert (page.parent / "page" / "a.svg").read_bytes() == (made / "a.svg").read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('savefig("a.svg")', 'savefig("b.svg")', "page/a.svg: no cell saves a.svg"),
        ('title="joints"', 'title="bones"', "page/a.svg: out of date"),
        ("page/a.svg", "page/b.svg", "page/b.svg: no cell saves b.svg"),
        ("![joints against time](page/a.svg)", "", "page/a.svg: not shown by the page"),
    ],
)
def test_pictures_that_no_longer_fit(old: str, new: str, problem: str, page: Path) -> None:
    page.write_text(PICTURE.replace(old, new))
    assert any(found.startswith(problem) for found in problems_of(page, page.parent / "made"))


def test_numbers_in_a_picture_may_differ(page: Path) -> None:
    page.write_text(PICTURE.replace("[0, 1]", "[-1, 0.5, 2]"))
    assert problems_of(page, page.parent / "made") == []


def test_a_picture_that_is_missing_or_too_large_is_a_problem(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = page.parent / "made"
    monkeypatch.setattr(build, "LARGEST_PICTURE", 100)
    [found] = problems_of(page, made)
    assert found.startswith("page/a.svg: ")
    assert found.endswith(" bytes, more than 100")
    (page.parent / "page" / "a.svg").unlink()
    assert picture_problems(PICTURE, page, made) == ["page/a.svg: missing"]


def test_of_other_pictures_the_size_is_compared(tmp_path: Path) -> None:
    page, kept, made = tmp_path / "page.md", tmp_path / "page", tmp_path / "made"
    for folder, width in ((kept, 4), (made, 4)):
        folder.mkdir()
        Image.new("RGB", (width, 4), "red" if folder == kept else "blue").save(folder / "a.png")
    text = "![a square](page/a.png)"
    assert picture_problems(text, page, made) == []
    Image.new("RGB", (5, 4)).save(made / "a.png")
    [found] = picture_problems(text, page, made)
    assert found.startswith("page/a.png: out of date")


def test_a_picture_the_page_shows_no_more_is_taken_away(page: Path) -> None:
    page.write_text(PICTURE.replace("page/a.svg", "elsewhere/a.svg"))
    write(page, page.parent / "made")
    assert list((page.parent / "page").iterdir()) == []


def test_a_page_is_left_alone_where_a_cell_fails(page: Path) -> None:
    text = PICTURE + "\n```python\n1 / 0\n```\n"
    page.write_text(text)
    with pytest.raises(CellError):
        write(page, page.parent / "made")
    assert page.read_text() == text


def test_the_command_says_what_differs_and_writes_on_demand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = save(tmp_path, SUMS.replace("total: 2", "total: 3"))
    assert main([str(page)]) == 1
    assert "-total: 3\n+total: 2" in capsys.readouterr().err
    assert main([str(page), "--write"]) == 0
    assert main([str(page)]) == 0
    page.write_text("```python\nraise KeyError('none')\n```\n")
    assert main([str(page)]) == 1
    assert "sums.md:2: KeyError: 'none'" in capsys.readouterr().err


def test_a_traceback_shows_the_line_as_it_stands_in_the_page(tmp_path: Path) -> None:
    page = save(tmp_path, "# Page\n\n```python\nwanted = {}['here']\n```\n")
    with pytest.raises(CellError) as caught:
        run_cells(cells_of(page.read_text()), page, tmp_path)
    text = io.StringIO()
    traceback.print_exception(caught.value, file=text)
    assert "sums.md\", line 4, in <module>\n    wanted = {}['here']" in text.getvalue()
