"""Tables in text: comma, semicolon or tab between the values, UTF-8, a header line; every fault with its line."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from dataclasses import dataclass

from mica.errors import InputError

_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class TextTable:
    """A table: `header` in lower case without spaces around, and `rows` as (line number from 1, values)."""

    file: str
    header: tuple[str, ...]
    rows: list[tuple[int, list[str]]]

    def refuse(
        self, line: int, problem: str, column: str | None = None, hint: str | None = None
    ) -> InputError:
        """Return the error for a fault in a line."""
        return InputError(f"line {line}: {problem}", file=self.file, field=column, hint=hint)


def decode(content: bytes, file: str) -> str:
    """Return UTF-8 text, with or without a byte order mark; `InputError` with the line otherwise."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise InputError(f"line {line}: not UTF-8 text", file=file, hint="save it as UTF-8") from error


def read_table(content: bytes, file: str) -> TextTable:
    """Read a table whose first line names its columns; the delimiter is the one that this line uses most.

    Blank lines are skipped. Raises `InputError`, which names `file` and the line, for text that is not UTF-8, quotes
    that do not close, a column named twice, and a line with more or fewer values than the header.

    >>> table = read_table(b"File;Label\\na.npy;wave\\n", "clips.csv")
    >>> table.header, table.rows
    (('file', 'label'), [(2, ['a.npy', 'wave'])])
    """
    text = decode(content, file)
    first = text.lstrip().partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        lines.extend((reader.line_num, values) for values in reader if values)
    except csv.Error as error:
        raise InputError(f"line {reader.line_num}: {error}", file=file, hint="check the quotes") from error
    if not lines:
        raise InputError("no header: the file is empty", file=file)
    header = tuple(name.strip().lower() for name in lines[0][1])
    table = TextTable(file, header, lines[1:])
    _check(table, lines[0][0])
    return table


def _check(table: TextTable, header_line: int) -> None:
    name, times = Counter(table.header).most_common(1)[0]
    if times > 1:
        raise table.refuse(header_line, f"{times} columns are called '{name}'")
    for line, values in table.rows:
        if len(values) != len(table.header):
            problem = f"{len(values)} values, the header names {len(table.header)} columns"
            raise table.refuse(line, problem)
        if any("\n" in value or "\r" in value for value in values):
            raise table.refuse(line, "a line break within quotes", hint="a quote may be left open above")


def parse_number(text: str) -> float:
    """Return a finite number, NaN for an empty text or "nan"; `ValueError` for anything else.

    >>> parse_number(" -1.5e2"), parse_number("")
    (-150.0, nan)
    """
    text = text.strip()
    if text.lower() in ("", "nan", "na"):
        return math.nan
    value = float(text)
    if "_" in text or not math.isfinite(value):  # float() takes 1_000
        raise ValueError(f"'{text}' is not a finite number")
    return value
