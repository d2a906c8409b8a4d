"""Lines of numbers in text files: what the readers of raw skeletons have in common."""

from __future__ import annotations

import io
import math
import re

import numpy as np
from jaxtyping import Float32

from mica.errors import InputError

HINT = "fetch this file again from the release"
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_TOO_LARGE = 2.0**128 - 2.0**103  # what float32 rounds to infinity, from here on
_IN_NUMBERS = b"0123456789+-.eE \t\r\n"
PLAIN = bytes(range(32, 127)) + b"\t\r\n"
"""The bytes that a text of numbers can hold."""
_PLAIN_LINE = PLAIN.rstrip(b"\r\n")


def line_error(file: str, line: int, problem: str) -> InputError:
    """Return the error that names a line, counted from 1.

    >>> print(line_error("0002-L.txt", 7, "149 numbers, expected 150"))
    0002-L.txt: line 7: 149 numbers, expected 150
      hint: fetch this file again from the release
    """
    return InputError(f"line {line}: {problem}", file=file, hint=HINT)


def split_lines(text: bytes) -> list[bytes]:
    r"""Return the lines without their ends, LF or CRLF, and without the empty ones after the last.

    >>> split_lines(b" 1 2\r\n\r\n3\n \n\n")
    [b' 1 2', b'', b'3']
    """
    lines = [line.removesuffix(b"\r") for line in text.split(b"\n")]
    while lines and not lines[-1].strip(b" \t"):
        lines.pop()
    return lines


def plain_line(lines: list[bytes], index: int, file: str) -> bytes:
    """Return the line at `index`; `InputError` if it holds anything but plain text."""
    strange = lines[index].translate(None, _PLAIN_LINE)
    if strange:
        raise line_error(file, index + 1, f"byte {strange[0]:#04x}, expected plain text")
    return lines[index]


def shown(fields: list[bytes]) -> str:
    """Return how a message quotes fields: shortened, in quotes, or "nothing".

    >>> shown([b"2", b"bodies"]), shown([])
    ("'2 bodies'", 'nothing')
    """
    text = b" ".join(fields).decode("latin-1")
    return f"'{text[:20]}...'" if len(text) > 23 else f"'{text}'" if text else "nothing"


def to_number(field: bytes) -> float | None:
    """Return a decimal number; None for anything else, NaN, and what float32 cannot hold.

    >>> to_number(b"-1.5e-1"), to_number(b"NaN"), to_number(b"1e39"), to_number(b"1_0")
    (-0.15, None, None, None)
    """
    value = float(field) if _NUMBER.fullmatch(field) else math.inf
    return value if abs(value) < _TOO_LARGE else None


def to_numbers(text: bytes, rows: int, columns: int) -> Float32[np.ndarray, "rows columns"] | None:
    """Return the numbers of a text; None unless it is so many rows of fields that `to_number` takes.

    This is as fast as NumPy reads. Empty rows are passed over.

    >>> to_numbers(b"1 2.5\\n-3 4\\n", 2, 2), to_numbers(b"1 nan", 1, 2)
    (array([[ 1. ,  2.5],
           [-3. ,  4. ]], dtype=float32), None)
    """
    if text.isspace() or not text or text.translate(None, _IN_NUMBERS):
        return None
    try:
        values = np.loadtxt(io.BytesIO(text), comments=None, ndmin=2)
    except ValueError:
        return None
    if values.shape != (rows, columns) or not (np.abs(values) < _TOO_LARGE).all():
        return None
    return values.astype(np.float32)
