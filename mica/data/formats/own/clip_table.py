"""`clips.csv`, the table of one's own recordings: which file is which class, by whom, and for which part."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from mica.data.clip import PARTS
from mica.data.formats.own.delimited import TextTable, decode, read_table
from mica.data.recordings import Recording, Source
from mica.errors import InputError

TABLE, CLASSES = "clips.csv", "classes.txt"
SUFFIXES = (".npy", ".npz", ".csv", ".bvh")
_NEEDED, _NUMBERS = ("file", "label"), ("subject", "camera", "setup", "replication")
_COLUMNS = (*_NEEDED, *_NUMBERS, "text", "part")
_HEADER_HINT = f"its first line names the columns: {', '.join(_NEEDED)}, and of {', '.join(_COLUMNS[2:])} any"
_SUFFIX_HINT = f"write the whole name; it ends in {', '.join(SUFFIXES)}"
_INTEGER = re.compile(r"[+-]?\d{1,9}", re.ASCII)


@dataclass(frozen=True)
class Row:
    """A line of the table; `path` leads to the file from the source's root, `label` counts from 0."""

    line: int
    path: str
    name: str
    label: int
    numbers: dict[str, int]
    text: str
    parts: dict[str, str]


@dataclass(frozen=True)
class ClipTable:
    """The rows by the path of their file, in the table's order, and the names of the classes by label."""

    rows: dict[str, Row]
    class_names: tuple[str, ...]


def read_clip_table(source: Source, table: Recording, classes: Recording | None = None) -> ClipTable:
    """Read `clips.csv` and, if there, `classes.txt`.

    A label is a class name; where all are whole numbers, they are numbers. The classes are the lines of
    `classes.txt`, else the different labels, sorted. Raises `InputError` with the line for: a column missing or not
    known, a path that is empty, absolute or leaves the folder, a file or name that came before, a label that is not
    among the classes, a number that is none, a part that is not train, validation or test.
    """
    content = read_table(source.read(table.path), source.where(table.path))
    _check_header(content)
    if not content.rows:
        raise InputError("names no clips", file=content.file, hint=_HEADER_HINT)
    labels = {line: _cell(content, values, "label") for line, values in content.rows}
    if unlabelled := next((line for line, label in labels.items() if not label), None):
        raise content.refuse(unlabelled, "empty", "label")
    class_names, label_of = _classes(content, labels, source, classes)
    folder = table.path[: -len(table.name)]
    rows: dict[str, Row] = {}
    line_of: dict[str, int] = {}
    for line, values in content.rows:
        row = _row(content, line, values, label_of[labels[line]], folder)
        if row.name in line_of:
            problem = f"the clip {row.name} came in line {line_of[row.name]} already"
            hint = "a file is one clip, named by its path without the ending"
            raise content.refuse(line, problem, "file", hint)
        line_of[row.name] = line
        rows[row.path] = row
    return ClipTable(rows, class_names)


def _check_header(table: TextTable) -> None:
    for name in _NEEDED:
        if name not in table.header:
            problem = f"no column '{name}', found {', '.join(table.header)}"
            raise InputError(problem, file=table.file, field=name, hint=_HEADER_HINT)
    if unknown := [name for name in table.header if name not in _COLUMNS]:
        problem = f"unknown column '{unknown[0]}'"
        raise InputError(problem, file=table.file, hint=f"known columns: {', '.join(_COLUMNS)}")


def _cell(table: TextTable, values: list[str], column: str) -> str:
    return values[table.header.index(column)].strip() if column in table.header else ""


def _row(table: TextTable, line: int, values: list[str], label: int, folder: str) -> Row:
    path = _path(table, line, _cell(table, values, "file"))
    part = _cell(table, values, "part").lower()
    if part and part not in PARTS:
        raise table.refuse(line, f"'{part}', expected {', '.join(PARTS)}", "part")
    return Row(
        line=line,
        path=folder + path,
        name=path.rpartition(".")[0],
        label=label,
        numbers={column: _whole_number(table, line, values, column) for column in _NUMBERS},
        text=_cell(table, values, "text"),
        parts={"as-given": part} if part else {},
    )


def _path(table: TextTable, line: int, text: str) -> str:
    """Return the path with forward slashes, refused if it could lead out of the table's folder."""
    path = text.replace("\\", "/").removeprefix("./")
    steps = path.split("/")
    if not path:
        raise table.refuse(line, "empty", "file")
    if path.startswith("/") or ":" in steps[0] or ".." in steps:
        problem = f"'{text}' leads out of the folder"
        raise table.refuse(line, problem, "file", "give paths from the folder of the table, without '..'")
    if "" in steps or "." in steps or not path.isprintable():
        raise table.refuse(line, f"{text!r} is no path", "file")
    if not path.lower().endswith(SUFFIXES) or steps[-1].startswith("."):
        raise table.refuse(line, f"'{text}' is no kind of file that can be read", "file", _SUFFIX_HINT)
    return path


def _whole_number(table: TextTable, line: int, values: list[str], column: str) -> int:
    text = _cell(table, values, column) or "0"
    if not _INTEGER.fullmatch(text) or int(text) < 0:
        hint = "number the subjects, cameras, setups and replications from 1; leave unknown ones empty"
        raise table.refuse(line, f"'{text}' is not a whole number from 0 to 999999999", column, hint)
    return int(text)


def _classes(
    table: TextTable, labels: dict[int, str], source: Source, classes: Recording | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the names of the classes, and the number, from 0, of each label that the table holds."""
    different = set(labels.values())
    numbers = {label: int(label) for label in different if _INTEGER.fullmatch(label)}
    numbered = len(numbers) == len(different)
    if classes is None:
        names = [str(number) for number in sorted(set(numbers.values()))] if numbered else sorted(different)
        place = {name: index for index, name in enumerate(names)}
        return tuple(names), {
            label: place[str(numbers[label])] if numbered else place[label] for label in different
        }
    place = _class_list(source, classes)
    if different <= place.keys():
        return tuple(place), place
    if numbered:
        first = _first_number(table, numbers.values(), len(place))
        return tuple(place), {label: number - first for label, number in numbers.items()}
    line, label = next((line, label) for line, label in labels.items() if label not in place)
    raise table.refuse(line, f"'{label}' is not among the {len(place)} classes of {CLASSES}", "label")


def _class_list(source: Source, classes: Recording) -> dict[str, int]:
    """Return the classes in the order of their lines, each with its number from 0."""
    file = source.where(classes.path)
    place: dict[str, int] = {}
    for line, text in enumerate(decode(source.read(classes.path), file).splitlines(), start=1):
        name = text.strip()
        if name in place:
            raise InputError(f"line {line}: the class '{name}' came before", file=file)
        if name:
            place[name] = len(place)
    if not place:
        raise InputError("names no classes", file=file, hint="write the name of a class on each line")
    return place


def _first_number(table: TextTable, numbers: Collection[int], classes: int) -> int:
    """Return whether labels count from 0 or from 1, where only one of the two can be meant."""
    possible = [first for first in (0, 1) if first <= min(numbers) and max(numbers) < first + classes]
    if len(possible) == 1:
        return possible[0]
    if possible:
        problem = f"numbers {min(numbers)} to {max(numbers)} of {classes} classes may count from 0 or from 1"
    else:
        problem = f"numbers {min(numbers)} to {max(numbers)}, but {CLASSES} names {classes} classes"
    raise InputError(problem, file=table.file, field="label", hint="write the names of the classes instead")
