"""A pickle from a stranger gives plain data or an error, and never runs anything."""

from __future__ import annotations

import collections
import functools
import io
import operator
import os
import pickle
import struct
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica.data.unpickle import restricted_load
from mica.errors import InputError

# Of pickletools, about text of Python 2 with a damaged escape in it.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
)
plain = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(scalars, inner),
        st.sets(scalars),
        st.frozensets(scalars),
        st.dictionaries(scalars, inner).map(collections.OrderedDict),
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_come_back(value: Any, protocol: int) -> None:
    assert restricted_load(pickle.dumps(value, protocol)) == value


def test_default_dictionaries_become_plain_ones() -> None:
    lists: dict[str, list[int]] = collections.defaultdict(list)
    lists["a"].append(1)
    for protocol in PROTOCOLS:
        found = restricted_load(pickle.dumps(lists, protocol))
        assert type(found) is dict
        assert found == {"a": [1]}


whole = np.arange(48, dtype=np.float64).reshape(2, 3, 8)
ARRAYS = [
    whole,
    whole.astype(np.float16),
    whole.astype(">i4"),
    np.asfortranarray(whole[0]),
    whole[:, ::-1, ::3],
    whole.transpose(1, 2, 0),
    np.zeros((0, 3), np.float32),
    np.array(1.5),
    whole > 3,
    np.array(["é", "", "abc"]),
    np.array([b"ab", b""]),
    np.array([1 + 2j]),
    np.float32(2.5),
    np.int64(-7),
    np.bool_(True),
    np.str_("S001"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("old_numpy", [False, True])
def test_arrays_come_back(protocol: int, old_numpy: bool) -> None:
    """Twice in one pickle, so that the second refers to what is known of the first."""
    content = pickle.dumps([ARRAYS, {"again": ARRAYS}], protocol)
    if old_numpy and protocol < 4:  # later protocols say the length of the name before it
        content = content.replace(b"numpy._core", b"numpy.core")
    first, second = restricted_load(content)
    for found in (first, second["again"]):
        assert len(found) == len(ARRAYS)
        for array, expected in zip(found, ARRAYS, strict=True):
            assert type(array) is type(expected)
            assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(array, expected)


def test_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "label.pkl"
    file.write_bytes(pickle.dumps((["a"], [1])))
    assert restricted_load(file) == restricted_load(str(file)) == (["a"], [1])
    with pytest.raises(InputError, match="cannot be read") as caught:
        restricted_load(tmp_path / "missing.pkl")
    assert caught.value.file == tmp_path / "missing.pkl"


def test_python_2() -> None:
    """As Python 2 and its NumPy wrote them: text in Latin-1, bytes of arrays as text."""
    assert restricted_load(b"((lp0\nS'S001C001'\np1\naS'x'\np2\na(lp3\nI0\naL59L\natp4\n.") == (
        ["S001C001", "x"],
        [0, 59],
    )
    assert restricted_load(b"\x80\x02]q\x00(U\x02\xe9aq\x01M,\x01e.") == ["éa", 300]
    numbers = np.array([1.5, -2.25], "<f4")
    assert numbers.tobytes().decode("latin-1") != numbers.tobytes().decode("ascii", "replace")
    array = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04\x87q"
        b"\x05Rq\x06(K\x01K\x02\x85q\x07cnumpy\ndtype\nq\x08U\x02f4q\tK\x00K\x01\x87q\nRq\x0b(K\x03U\x01<q\x0cNNNJ"
        b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\rb\x89U\x08" + numbers.tobytes() + b"q\x0etq\x0fb."
    )
    np.testing.assert_array_equal(restricted_load(array), numbers)
    np.testing.assert_array_equal(pickle.loads(array, encoding="latin1"), numbers)


class Asks:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Own:
    pass


def hostile(harm: str) -> dict[str, tuple[Any, str]]:
    """Objects whose pickles would make the folder `harm`, or reach for what could, and what they ask for."""
    code = f"__import__('os').mkdir({harm!r})"
    return {
        "os": (Asks(os.mkdir, harm), f"{os.name}.mkdir"),
        "eval": (Asks(eval, code), "eval"),
        "exec": (Asks(exec, code), "exec"),
        "getattr": (Asks(getattr, Asks(__import__, "os"), "mkdir"), "getattr"),
        "import": (Asks(__import__, "antigravity"), "__import__"),
        "partial": (Asks(functools.partial(os.mkdir, harm)), "functools.partial"),
        "attrgetter": (Asks(operator.attrgetter("system"), "x"), "operator.attrgetter"),
        "open": (Asks(open, harm, "w"), "open"),
        "numpy code": (Asks(np.load, harm), "load"),
        "numpy memmap": (Asks(np.memmap, harm, "u1", "w+", 0, 8), "memmap"),
        "numpy call": (Asks(np.frompyfunc, eval, 1, 1), "frompyfunc"),
        "nested pickle": (Asks(pickle.loads, pickle.dumps(Asks(eval, code))), "loads"),
        "own class": (Own(), "Own|copy_reg._reconstructor"),
        "a function": (print, "print"),
        "in an object array": (np.array([Asks(eval, code)], object), "O8"),
        "default factory": (
            collections.defaultdict(functools.partial(os.mkdir, harm), a=1),
            "functools.partial",
        ),
        "bytearray": (Asks(bytearray, 1 << 40), "bytearray"),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("which", hostile("x"))
def test_nothing_is_run(tmp_path: Path, which: str, protocol: int) -> None:
    harm = tmp_path / "harm"
    value, asked = hostile(str(harm))[which]
    if which == "in an object array" and protocol == 5:
        asked = "_reconstruct|O8"
    file = tmp_path / "x.pkl"
    file.write_bytes(pickle.dumps(["fine", value], protocol))
    before = set(sys.modules)
    with pytest.raises(InputError, match=rf"(?s){asked}.*nothing of it was run") as caught:
        restricted_load(file)
    assert caught.value.file == file
    assert not harm.exists()
    assert set(sys.modules) == before


def test_the_harm_is_real(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(hostile(str(tmp_path / "harm"))["os"][0]))
    assert (tmp_path / "harm").exists()


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def asks(module: str, name: str) -> bytes:
    return short(module) + short(name) + b"\x93"


ARRAY = asks("numpy", "ndarray")
RECONSTRUCT = asks("numpy.core.multiarray", "_reconstruct") + ARRAY + b"K\x00\x85C\x01b\x87R"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x80\x04" + asks("numpy", "ndarray.__reduce__") + b".", "numpy.ndarray.__reduce__"),
        (b"\x80\x04" + asks("numpy.core.multiarray", "fromfile") + b".", "numpy.core.multiarray.fromfile"),
        (b"\x80\x04" + asks("_codecs", "lookup") + b".", "_codecs.lookup"),
        (b"\x80\x04" + asks("builtins", "list.append") + b".", "builtins.list.append"),
        (b"\x80\x04" + asks("a\x1b[2J", "b") + b".", r"a\\x1b\[2J.b"),
        (b"cos\nsystem\n(S'x'\ntR.", "os.system"),
        (b"c__builtin__\neval\n(S'x'\ntR.", "__builtin__.eval"),
        (b"(S'x'\nios\nsystem\n.", "os.system"),
        (b"(cos\nsystem\nS'x'\no.", "os.system"),
        (b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.", "NEWOBJ"),
        (b"\x80\x04cnumpy\nndarray\nK\x05\x85}\x92.", "NEWOBJ_EX"),
        (b"(cnumpy\nndarray\nI5\no.", "OBJ"),
        (b"(I5\ninumpy\nndarray\n.", "numpy.ndarray"),
        (b"\x80\x04" + ARRAY + b"K\x05\x85R.", "calls numpy.ndarray"),
        (b"\x80\x04" + asks("builtins", "list") + b"]\x85R.", "calls builtins.list"),
        (b"Pelsewhere\n.", "PERSID"),
        (b"K\x01Q.", "BINPERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x04" + asks("_codecs", "encode") + short("x") + short("idna") + b"\x86R.", "encoding 'idna'"),
        (b"\x80\x04" + asks("numpy", "dtype") + short("O8") + b"\x85R.", "type 'O8'"),
        (b"\x80\x04" + asks("numpy", "dtype") + short("V8") + b"\x85R.", "type 'V8'"),
        (b"\x80\x04" + asks("numpy", "dtype") + short("f8,(99999999,)f8") + b"\x85R.", "neither numbers"),
        (
            b"\x80\x04" + asks("numpy.core.multiarray", "_reconstruct") + asks("builtins", "list")
            + b"K\x00\x85C\x01b\x87R.",
            "array of builtins.list",
        ),
        (pickle.dumps(np.array([(1, 2.0)], "i4,f4")), "V8"),
        (pickle.dumps(np.array(["2020-01-01"], "M8[D]")), "M8"),
        (pickle.dumps(np.ma.array([1, 2])), "numpy.ma"),
        (pickle.dumps({(1, 2): 3}), "a tuple for a key"),
        (pickle.dumps({frozenset({frozenset()})}), "a frozenset for a key"),
    ],
)  # fmt: skip
def test_refused(content: bytes, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        restricted_load(content)
    assert "nothing of it was run" in str(caught.value)


def nested_tuples(depth: int) -> bytes:
    """A tuple of itself twice, over and over: a hundred bytes whose hash takes 2^depth steps."""
    return b"\x80\x04)" + b"2\x86" * depth


MINUS_ONE = b"J\xff\xff\xff\xff"
DTYPE = (
    asks("numpy", "dtype")
    + short("f4")
    + b"\x89\x88\x87R(K\x03"
    + short("<")
    + b"NNN"
    + MINUS_ONE * 2
    + b"K\x00tb"
)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(content, id=name)
        for name, content in {
            "nothing": b"",
            "text": b"nothing of the kind",
            "only an end": b".",
            "two values": b"\x80\x04K\x01K\x02.",
            "more after the end": pickle.dumps([1]) + b"x",
            "an open mark": b"\x80\x04(K\x01.",
            "bytes of 2^60": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
            "bytes of 2^36": b"\x80\x04\x8e" + struct.pack("<Q", 2**36) + b"x.",
            "bytes of 2^64": b"\x80\x04\x8e" + struct.pack("<Q", 2**64 - 1) + b"x.",
            "text of 2^60": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x.",
            "bytearray of 2^60": b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"x.",
            "text of negative length": b"T\xff\xff\xff\xffx.",
            "number of 2^31 bytes": b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
            "number of 10000 bytes": b"\x80\x02\x8b\x10\x27\x00\x00" + b"\x01" * 10000 + b".",
            "number of 5000 digits": b"I" + b"9" * 5000 + b"\n.",
            "half a character": b"\x80\x04\x8c\x03\xed\xa0\x80.",
            "memo never filled": b"\x80\x04h\x07.",
            "pop of nothing": b"\x80\x040.",
            "append to a number": b"\x80\x04K\x01K\x02a.",
            "odd dictionary": b"\x80\x04}(K\x01K\x02K\x03u.",
            "a list for a key": b"\x80\x04}]K\x02s.",
            "build of a list": b"\x80\x04])b.",
            "call of a number": b"\x80\x04K\x01)R.",
            "array without content": b"\x80\x04" + RECONSTRUCT + b".",
            "array filled twice": b"\x80\x04" + RECONSTRUCT + b"2(K\x01)" + DTYPE
            + b"\x89C\x04\x00\x00\x00\x00tb0(K\x01)" + DTYPE + b"\x89C\x04\x00\x00\x00\x00tb.",
            "array too long": b"\x80\x04" + RECONSTRUCT + b"(K\x01K\x02\x85" + DTYPE + b"\x89C\x04\x00\x00\x00\x00tb.",
            "array of 2^62": b"\x80\x04" + RECONSTRUCT + b"(K\x01\x8a\x08" + struct.pack("<Q", 2**62) + b"\x85" + DTYPE
            + b"\x89C\x00tb.",
            "array of negative length": b"\x80\x04" + RECONSTRUCT + b"(K\x01J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86"
            + DTYPE + b"\x89C\x04\x00\x00\x00\x00tb.",
            "array of lists": b"\x80\x04" + RECONSTRUCT + b"(K\x01K\x01\x85" + DTYPE + b"\x89]tb.",
            "text beyond Unicode": pickle.dumps(np.array(["ab"]), 4).replace(b"a\0\0\0", b"a\0\0\x7f"),
            "dtype of 10^9 characters": b"\x80\x04" + asks("numpy", "dtype") + short("U999999999") + b"\x85R.",
        }.items()
    ],
)  # fmt: skip
@pytest.mark.parametrize("from_file", [False, True])
def test_damaged(tmp_path: Path, content: bytes, from_file: bool) -> None:
    file = tmp_path / "x.pkl"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        restricted_load(file if from_file else content)
    assert caught.value.file == (file if from_file else None)
    assert len(str(caught.value)) < 1000


def test_truncated_anywhere() -> None:
    for protocol in PROTOCOLS:
        content = pickle.dumps({"split": ["a"], "x": [np.ones((2, 3)), np.int64(3), {1}, b"ab"]}, protocol)
        for end in range(len(content)):
            with pytest.raises(InputError):
                restricted_load(content[:end])


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(nested_tuples(200) + b"\x85\x94}h\x00K\x01s.", id="hash of nested tuples"),
        pytest.param(nested_tuples(200) + b"\x94\x8f(h\x00\x90.", id="set of nested tuples"),
        pytest.param(
            b"\x80\x04" + asks("_codecs", "encode") + b"\x94X" + struct.pack("<I", 100_000) + b"x" * 100_000
            + b"\x94" + short("latin1") + b"\x94](" + b"h\x00h\x01h\x02\x86R" * 20_000 + b"e.",
            id="two gigabytes of copies",
        ),
        pytest.param(
            b"\x80\x04" + asks("builtins", "set") + b"\x94]("
            + b"".join(b"M" + struct.pack("<H", i) for i in range(9999))
            + b"e\x94](" + b"h\x00h\x01\x85R" * 20_000 + b"e.",
            id="many sets of one list",
        ),
    ],
)  # fmt: skip
def test_what_unfolds_is_refused_while_it_is_small(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"key|its own size"):
            restricted_load(content)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(content) + 10_000_000
    finally:
        tracemalloc.stop()


def test_what_only_looks_large_costs_nothing() -> None:
    tracemalloc.start()
    try:
        assert (
            restricted_load(b"\x80\x04]r\xff\xff\xff\xff.") == []
        )  # Python's own makes room for 2^33 entries
        assert restricted_load(b"(lp99999999999\n.") == []
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_nesting_has_no_depth_that_crashes() -> None:
    value = restricted_load(b"\x80\x04" + b"]" * 300_000 + b"a" * 299_999 + b".")
    depth = 0
    while value:
        (value,), depth = value, depth + 1
    assert depth == 299_999


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for position in random.integers(len(changed), size=random.integers(1, 3)):
        changed[position] = random.integers(256)
    return bytes(changed)


class Allowing(pickle._Unpickler):  # type: ignore[name-defined]
    """Python's own machine, which takes its functions by name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in {
            ("numpy", "dtype"), ("numpy", "ndarray"), ("_codecs", "encode"),
            ("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"),
            ("numpy._core.numeric", "_frombuffer"),
        }:  # fmt: skip
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)

    def load_build(self) -> None:
        # NumPy believes the flags: a number that is flagged as an object becomes a pointer into nowhere.
        if isinstance(self.stack[-2], np.dtype) and self.stack[-1][5:] != (-1, -1, 0):
            raise pickle.UnpicklingError("a dtype of another size or with other flags")
        super().load_build()

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}  # noqa: RUF012


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray | np.generic):
        return (
            type(found) is type(expected)
            and found.dtype == expected.dtype
            and found.tobytes() == expected.tobytes()
        )
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list | tuple):
        return (
            type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
        )
    return type(found) is type(expected) and (found == expected or found != found)


def test_damaged_bytes_are_read_as_python_reads_them_or_refused() -> None:
    random = np.random.default_rng(0)
    value = {
        "split": {"a": ["b", "c"]},
        "x": [np.arange(6, dtype=np.float16), np.int64(3), 1.5, b"ab", None, True],
    }
    agreed = 0
    for case in range(int(os.environ.get("MICA_FUZZ_CASES", "600"))):
        content = mutated(pickle.dumps(value, case % 6), random)
        try:
            found = restricted_load(content)
        except InputError:
            continue
        try:
            expected = Allowing(io.BytesIO(content), encoding="latin1").load()
        except Exception:
            continue  # it counts frames, which here do not matter
        assert same(found, expected), content
        agreed += 1
    assert agreed > 40
