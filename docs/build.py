"""Runs the Python cells of a page from top to bottom, as a notebook would, and keeps what they show in the page.

    python -m docs.build            # exits with 1 where docs/tutorial.md shows something else than its cells do now
    python -m docs.build --write    # writes what they show into the page, and their pictures beside it

Every block of Python is a cell. All share their variables and a temporary folder to work in. What a cell prints, and
its last line's value, stands below it between fences, after the mark `<!-- output -->`; where another processor may
come to other figures, after `<!-- output, numbers within 20 % -->`. A link to a picture `PAGE/NAME` shows the file
`NAME` that some cell has saved.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from unittest.mock import patch

import torch
from PIL import Image

from mica.report.figures.canvas import styled

PAGES = (Path(__file__).with_name("tutorial.md"),)
LARGEST_PICTURE = 150_000  # bytes; pages are read on phones, and git keeps every version

EXACTLY = "<!-- output -->"
_FENCED = (
    r"^```python\n(?P<code>.*?)^```\n"
    r"(?P<shown>\n(?P<mark><!-- output(?:, numbers within (?P<percent>\d+) %)? -->)\n```\n(?P<output>.*?)^```\n)?"
)
_CELL = re.compile(_FENCED, re.DOTALL | re.MULTILINE)
_PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_TEXT_IN_SVG = re.compile(r"<text[^>]*>([^<]*)</text>")


class CellError(Exception):
    """A cell that raised; the message names the line of the page."""


@dataclass(frozen=True)
class Cell:
    """A block of Python in a page.

    Args:
        line: of the page where the code begins, from 1.
        code: what is run.
        mark: the comment above its output; "" where none is shown.
        output: what the page says that it shows.
        tolerance: by which share of it a number may differ; with 0 the output is compared letter by letter.
    """

    line: int
    code: str
    mark: str
    output: str
    tolerance: float


def cells_of(page: str) -> list[Cell]:
    """Find the cells of a page.

    >>> cells_of("# Sums\\n\\n```python\\n1 + 1\\n```\\n\\n<!-- output -->\\n```\\n2\\n```\\n")
    [Cell(line=4, code='1 + 1\\n', mark='<!-- output -->', output='2\\n', tolerance=0.0)]
    """
    return [
        Cell(
            line=page.count("\n", 0, found.start("code")) + 1,
            code=found["code"],
            mark=found["mark"] or "",
            output=found["output"] or "",
            tolerance=int(found["percent"] or 0) / 100,
        )
        for found in _CELL.finditer(page)
    ]


def run_cells(cells: Sequence[Cell], page: Path, folder: Path) -> list[str]:
    """Run the cells one after another in `folder`; return what each shows. Raises CellError for the first that fails.

    PyTorch's generator and the looks of Matplotlib's pictures are afterwards as they were.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    with _kept_apart(folder):
        return [_run_cell(cell, page.resolve(), namespace) for cell in cells]


@contextmanager
def _kept_apart(folder: Path) -> Iterator[None]:
    undated = {"SOURCE_DATE_EPOCH": "0"}  # or every picture would hold the time at which it was made
    with chdir(folder), torch.random.fork_rng(devices=[]), patch.dict(os.environ, undated):
        yield


@styled
def _run_cell(cell: Cell, page: Path, namespace: dict[str, object]) -> str:
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            _execute(cell, page, namespace)
    except Exception as error:
        raise CellError(
            f"{page.name}:{_line_of(error, page, cell)}: {type(error).__name__}: {error}"
        ) from error
    return printed.getvalue()


def _execute(cell: Cell, page: Path, namespace: dict[str, object]) -> None:
    # Moved down to where it stands in the page, so that a traceback shows the page's line.
    tree = ast.parse("\n" * (cell.line - 1) + cell.code, filename=str(page))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(page), "exec"), namespace)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), str(page), "eval"), namespace)
        if value is not None:
            print(repr(value))


def _line_of(error: Exception, page: Path, cell: Cell) -> int:
    """The innermost line of the page that an error came from."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return error.lineno
    line, trace = cell.line, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(page):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def difference(cell: Cell, shows: str, name: str) -> str:
    """How what a cell shows differs from what its page says, as a diff that names the line; "" if it fits.

    >>> cell = Cell(4, "1 / 3", "<!-- output, numbers within 1 % -->", "0.33\\n", tolerance=0.01)
    >>> difference(cell, "0.3333\\n", "sums.md")
    ''
    >>> print(difference(cell, "0.25\\n", "sums.md"))
    --- sums.md:4, as written
    +++ sums.md:4, as it runs
    @@ -1 +1 @@
    -0.33
    +0.25
    """
    if shows == cell.output or (cell.tolerance and _alike(cell.output, shows, cell.tolerance)):
        return ""
    titles = (f"{name}:{cell.line}, as written", f"{name}:{cell.line}, as it runs")
    return "\n".join(unified_diff(cell.output.splitlines(), shows.splitlines(), *titles, lineterm=""))


def _alike(written: str, shown: str, tolerance: float) -> bool:
    """Whether two outputs say the same but for white space and the size of numbers."""
    ours, theirs = (_NUMBER.split(" ".join(text.split())) for text in (written, shown))
    pairs = zip(map(float, ours[1::2]), map(float, theirs[1::2]), strict=False)
    words = [[part.strip() for part in parts[::2]] for parts in (ours, theirs)]
    return words[0] == words[1] and all(abs(a - b) <= tolerance * max(abs(a), abs(b)) for a, b in pairs)


def filled(page: str, shows: Sequence[str]) -> str:
    """The page with what its cells show; a cell that shows nothing loses its output."""
    outputs = iter(shows)

    def with_output(found: re.Match[str]) -> str:
        cell = found[0].removesuffix(found["shown"] or "")
        output = next(outputs)
        return f"{cell}\n{found['mark'] or EXACTLY}\n```\n{output}```\n" if output else cell

    return _CELL.sub(with_output, page)


def pictures_of(text: str, page: Path) -> list[str]:
    """Names of the pictures that the page's cells make: those it shows from the folder that is called as it is."""
    folder = f"{page.stem}/"
    return [target.removeprefix(folder) for target in _PICTURE.findall(text) if target.startswith(folder)]


def picture_problems(text: str, page: Path, made: Path) -> list[str]:
    """What is wrong with the pictures beside a page, set beside those that its cells have just `made`."""
    names, kept = pictures_of(text, page), page.with_suffix("")
    found = sorted(file.name for file in kept.iterdir()) if kept.is_dir() else []
    problems = [f"{page.stem}/{name}: not shown by the page" for name in found if name not in names]
    for name in names:
        if not (made / name).is_file():
            problems.append(f"{page.stem}/{name}: no cell saves {name}")
        elif not (kept / name).is_file():
            problems.append(f"{page.stem}/{name}: missing")
        elif (size := (kept / name).stat().st_size) > LARGEST_PICTURE:
            problems.append(f"{page.stem}/{name}: {size:,} bytes, more than {LARGEST_PICTURE:,}")
        elif _what_it_shows(kept / name) != _what_it_shows(made / name):
            problems.append(f"{page.stem}/{name}: out of date, its words or its size are others now")
    return problems


def _what_it_shows(file: Path) -> object:
    """Of a picture what no processor changes: the words of an SVG, numbers left out; the size of any other."""
    if file.suffix == ".svg":
        texts = _TEXT_IN_SVG.findall(file.read_text())
        return sorted(text for text in texts if not _NUMBER.fullmatch(text.replace("\N{MINUS SIGN}", "-")))
    with Image.open(file) as image:
        return image.size


def problems_of(page: Path, folder: Path) -> list[str]:
    """Run a page in `folder`; return what it shows otherwise than before, a text for each cell or picture."""
    text = page.read_text()
    cells = cells_of(text)
    shows = run_cells(cells, page, folder)
    differences = [difference(cell, shown, page.name) for cell, shown in zip(cells, shows, strict=True)]
    return [found for found in differences if found] + picture_problems(text, page, folder)


def write(page: Path, folder: Path) -> None:
    """Run a page in `folder`, and keep what it shows: outputs in the page, pictures beside it."""
    text = page.read_text()
    fresh = filled(text, run_cells(cells_of(text), page, folder))
    names, kept = pictures_of(text, page), page.with_suffix("")
    kept.mkdir(exist_ok=True)
    for name in names:
        shutil.copyfile(folder / name, kept / name)
    for file in kept.iterdir():
        if file.name not in names:
            file.unlink()
    page.write_text(fresh)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m docs.build", description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, help="the tutorial by default")
    parser.add_argument(
        "--write", action="store_true", help="keep what the cells show; then read what the page says of it"
    )
    parsed = parser.parse_args(arguments)
    problems = []
    for page in parsed.pages:
        with tempfile.TemporaryDirectory() as folder:
            try:
                if parsed.write:
                    write(page, Path(folder))
                else:
                    problems += problems_of(page, Path(folder))
            except CellError as error:
                problems.append(str(error))
    print("\n\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
