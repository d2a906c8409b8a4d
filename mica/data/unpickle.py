"""Pickles from strangers, read without running anything that they ask for.

A pickle is a program: it names functions and calls them, so that `pickle.load` runs whatever its author wished. Here
its operations are carried out one by one by a machine that knows containers, numbers, text, bytes and NumPy
arrays, and has no way to import or call anything else.
"""

from __future__ import annotations

import io
import os
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mica.data.pickled import (
    ARGUMENTS,
    CALLS,
    OLD_NAMES,
    Allowance,
    Name,
    Refused,
    Unfinished,
    expect,
    hashable,
    shown,
)
from mica.errors import InputError

_HINT = (
    "if you trust its author, load it with Python's own pickle and save it again as plain lists and arrays"
)
_LARGEST = 1 << 63


def restricted_load(source: str | os.PathLike[str] | bytes) -> Any:
    """Return what the pickle in a file, or in `source` itself, holds; it is held in memory whole.

    Admitted are None, truth values, numbers, text, bytes, lists, tuples, sets, dictionaries (ordered and default ones
    become plain ones) and NumPy arrays and scalars of numbers or text, of every protocol from 0 to 5. The text of
    Python 2 is taken as Latin-1. Raises `InputError` for a damaged pickle, and for one that asks for anything
    else, by the name of what it asked for; nothing of that is ever imported or run.

    >>> restricted_load(b"(lp0\\nS'wave'\\np1\\naI3\\na.")
    ['wave', 3]
    >>> restricted_load(b"cos\\nsystem\\n(S'echo harm'\\ntR.")
    Traceback (most recent call last):
        ...
    mica.errors.InputError: asks for os.system, which is no plain data; nothing of it was run...
    """
    file = None if isinstance(source, bytes) else Path(source)
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
            return _Machine(size=stream.seek(0, os.SEEK_END)).run(stream)
    except Refused as refusal:
        raise InputError(f"{refusal}; nothing of it was run", file=file, hint=_HINT) from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=file) from error
    except Exception as error:  # whatever a damaged pickle makes the operations stumble over
        problem = (
            f"not a pickle of plain data, perhaps truncated ({type(error).__name__}: {shown(str(error))})"
        )
        raise InputError(problem, file=file, hint="fetch this file again") from error


class _Machine:
    """The stack machine that pickles are programs for. `size` is the length of the pickle in bytes."""

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._unfinished = 0
        self._allowance = Allowance(size)

    def run(self, stream: IO[bytes]) -> Any:
        stream.seek(0)
        for operation, argument, _ in pickletools.genops(stream):
            if operation.name not in _ACTIONS:
                raise Refused(f"holds the operation {operation.name}, which plain data do not need")
            _ACTIONS[operation.name](self, argument)
        if stream.read(1) or self._marked or self._unfinished:
            raise ValueError("it ends in the wrong place")
        (value,) = self.stack
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_number(self, value: int) -> None:
        if not -_LARGEST <= value < 2 * _LARGEST:
            raise ValueError("a number of more than 64 bits")
        self.push(value)

    def push_text(self, value: str) -> None:
        value.encode()  # raises for half a character, which could not be printed or stored
        self.push(value)

    def push_tuple(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def mark(self, _: Any) -> None:
        self._marked.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._marked.pop()
        return items

    def pop(self, _: Any) -> None:
        self.stack.pop()

    def pop_mark(self, _: Any) -> None:
        self.pop_to_mark()

    def put(self, index: int) -> None:
        self._memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.put(len(self._memo))

    def get(self, index: int) -> None:
        value = self._memo[index]
        self.push(value.value() if isinstance(value, Unfinished) else value)

    def append(self, items: list[Any]) -> None:
        expect(self.stack[-1], list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        expect(self.stack[-1], dict).update(_pairs(items))

    def add_items(self, items: list[Any]) -> None:
        expect(self.stack[-1], set).update(hashable(items))

    def name(self, module: Any, name: Any) -> None:
        module, name = expect(module, str), expect(name, str)
        full = f"{OLD_NAMES.get(module, module)}.{name}"
        if full not in CALLS and full not in ARGUMENTS:
            raise Refused(f"asks for {shown(f'{module}.{name}')}, which is no plain data")
        self.push(Name(full))

    def instance(self, pair: str) -> None:
        raise Refused(f"asks for {shown(pair.replace(' ', '.'))}, which is no plain data")

    def call(self, _: Any) -> None:
        arguments, function = expect(self.stack.pop(), tuple), expect(self.stack.pop(), Name)
        if function.name not in CALLS:
            raise Refused(f"calls {function.name}, which is no plain data")
        made = CALLS[function.name](self._allowance, *arguments)
        self._unfinished += isinstance(made, Unfinished)
        self.push(made)

    def build(self, _: Any) -> None:
        """Fill the dtype or array that was announced last."""
        state, target = expect(self.stack.pop(), tuple), expect(self.stack.pop(), Unfinished)
        self.push(target.fill(self._allowance, state))
        self._unfinished -= 1


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    keys, values = items[::2], items[1::2]
    return list(zip(hashable(keys), values, strict=True))


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _Machine.push_number),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"), _Machine.push_text),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _Machine.push_text),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "NONE"), _Machine.push),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_SET": lambda machine, _: machine.push(set()),
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "DICT": lambda machine, _: machine.push(dict(_pairs(machine.pop_to_mark()))),
    "FROZENSET": lambda machine, _: machine.push(frozenset(hashable(machine.pop_to_mark()))),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_to_mark()),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": lambda machine, pair: machine.name(*pair.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(machine.stack.pop(-2), machine.stack.pop()),
    "INST": _Machine.instance,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
