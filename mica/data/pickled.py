"""The few functions that pickles of plain data call: what each of them makes, done safely in its place."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import UInt32

_NUMBERS_AND_TEXT = re.compile(r"[biufcSU]\d{1,9}")
_MOST_DIMENSIONS = 32


class Refused(Exception):
    """The pickle asks for what it must not have."""


class Allowance:
    """How many bytes may still be copied: a small file could ask for the same copy a million times."""

    def __init__(self, size: int) -> None:
        self._left = size

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Refused("unfolds to much more than its own size")


class Name:
    """The name of a function or type of Python that plain data need; never the thing itself."""

    def __init__(self, name: str) -> None:
        self.name = name


class Unfinished:
    """An array or dtype between being announced and being filled; other places may refer to it later."""

    def __init__(self, dtype: np.dtype[Any] | None = None) -> None:
        self._dtype = dtype
        self._value: Any = None

    def fill(self, allowance: Allowance, state: tuple[Any, ...]) -> Any:
        """Return what it is, now that its state is known."""
        self._value = _array_of(allowance, *state) if self._dtype is None else _dtype_of(self._dtype, *state)
        return self._value

    def value(self) -> Any:
        if self._value is None:
            raise ValueError("an array that is used before it is filled")
        return self._value


def shown(text: str) -> str:
    """Return a stranger's text for a message: short, and without characters that steer a terminal."""
    return text[:100].encode("unicode_escape").decode()


def expect(value: Any, *kinds: type) -> Any:
    """Return `value` if it is of one of the `kinds`; `ValueError` otherwise."""
    if not isinstance(value, kinds):
        raise ValueError(f"a {type(value).__name__} where a {kinds[0].__name__.lower()} belongs")
    return value


def hashable(keys: Iterable[Any]) -> Iterable[Any]:
    """Return `keys` if they are numbers or text: the hash of nested tuples can take for ever."""
    for key in keys:
        if not isinstance(key, str | bytes | int | float | np.generic | None):
            raise Refused(f"has a {type(key).__name__} for a key")
    return keys


def _dtype(allowance: Allowance, code: Any, align: object = False, copy: object = True) -> Unfinished:
    if not _NUMBERS_AND_TEXT.fullmatch(expect(code, str)):
        raise Refused(f"holds an array of type '{shown(code)}', which is neither numbers nor text")
    return Unfinished(np.dtype(code))


def _dtype_of(
    dtype: np.dtype[Any], version: int, order: Any, base: None, names: None, fields: None, *rest: Any
) -> np.dtype[Any]:
    if not (base is names is fields is None):
        raise Refused("holds an array of records")
    return dtype.newbyteorder(order)


def _reconstruct(allowance: Allowance, kind: Any, shape: Any, code: Any) -> Unfinished:
    if expect(kind, Name).name != "numpy.ndarray":
        raise Refused(f"makes an array of {kind.name}")
    return Unfinished()


def _array_of(
    allowance: Allowance, version: int, shape: Any, dtype: Any, fortran: Any, data: Any
) -> np.ndarray:
    data = _encode(allowance, data) if isinstance(data, str) else data  # Python 2 had no bytes
    return _array(allowance, data, dtype, shape, "F" if fortran else "C")


def _array(allowance: Allowance, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    expect(data, bytes, bytearray), expect(dtype, np.dtype), expect(shape, tuple)
    if len(shape) > _MOST_DIMENSIONS or any(expect(length, int) < 0 for length in shape):
        raise ValueError(f"an array of more than {_MOST_DIMENSIONS} dimensions, or of a negative length")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} and type {dtype} in {len(data)} bytes")
    array = np.ndarray(shape, dtype, data, order="F" if order == "F" else "C")
    if dtype.kind == "U":
        allowance.spend(len(data))
        _check_characters(np.frombuffer(data, np.dtype("u4").newbyteorder(dtype.byteorder)))
    return array


def _check_characters(codes: UInt32[np.ndarray, " characters"]) -> None:
    """Raise `ValueError` for what is no character of Unicode, of which NumPy would make text all the same."""
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        raise ValueError("text of characters that do not exist")


def _from_buffer(
    allowance: Allowance, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> np.ndarray:
    array = _array(allowance, data, dtype, shape, order)
    return array if axes is None else array.transpose(expect(axes, tuple))


def _scalar(allowance: Allowance, dtype: Any, data: Any) -> Any:
    allowance.spend(len(data))
    data = data.encode("latin-1") if isinstance(data, str) else data
    return _array(allowance, data, dtype, (), "C")[()]


def _encode(allowance: Allowance, text: Any, encoding: Any = "latin1") -> bytes:
    """How protocols before 3 spell bytes."""
    if expect(encoding, str) not in ("latin1", "latin-1"):
        raise Refused(f"asks for the encoding '{shown(encoding)}'")
    allowance.spend(len(expect(text, str)))
    return text.encode("latin-1")


def _set(allowance: Allowance, items: Any = ()) -> set[Any]:
    allowance.spend(len(expect(items, list, tuple)))
    return set(hashable(items))


OLD_NAMES = {
    "__builtin__": "builtins",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
}
"""Modules that were called otherwise in Python 2 or before NumPy 2."""

CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encode,
    "builtins.bytes": lambda allowance: b"",
    "builtins.frozenset": _set,
    "builtins.set": _set,
    "collections.OrderedDict": lambda allowance: {},
    "collections.defaultdict": lambda allowance, factory=None: {},
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "numpy.dtype": _dtype,
}
"""What is done where a pickle calls a function of this name."""

ARGUMENTS = frozenset({"builtins.dict", "builtins.int", "builtins.list", "numpy.ndarray"})
"""Names that are only handed to these."""
