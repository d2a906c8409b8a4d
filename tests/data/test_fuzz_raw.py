"""Raw files gone wrong in every way: each is read as its text says, or refused with the file and the line.

MICA_FUZZ_CASES=6000 python -m pytest tests/data/test_fuzz_raw.py      so many cases for each of the five parsers
"""

from __future__ import annotations

import os
import re
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.raw_files import label_text, make_ntu, make_pku, ntu_text, pku_text
from mica.data.formats import ntu, pku_mmd
from mica.data.formats.ntu_text import Skeletons, parse, parse_by_line
from mica.data.formats.pku_text import parse_labels, parse_list, parse_video, parse_video_by_line
from mica.data.recordings import Recording
from mica.errors import InputError

CASES = int(os.environ.get("MICA_FUZZ_CASES", "400"))
MOST_BYTES = 50e6  # that a case may claim
WORDS = (
    *(
        b"NaN",
        b"inf",
        b"-1.#IND",
        b"1e999",
        b"1e39",
        b"1e",
        b".",
        b"1.2.3",
        b"12,5",
        b"0x1F",
        b"1_0",
        b"\xd9\xa3",
    ),
    *(b"", b"-1", b"0", b"+5", b"007", b"25", b"2147483648", b"99999999999999999999", b"9" * 5000),
)
BYTES = tuple(bytes([byte]) for byte in b"\0\xff\r\n\t ,\x0b\x0c\x1a-.e7")


def mutated(text: bytes, rng: np.random.Generator) -> bytes:
    for _ in range(int(rng.integers(1, 4))):
        text = CHANGES[rng.integers(len(CHANGES))](text, rng)
    return text


def _at(text: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(len(text) + 1))


def flip(text: bytes, rng: np.random.Generator) -> bytes:
    place = _at(text, rng)
    return (
        text[:place]
        + bytes(byte ^ (1 << int(rng.integers(8))) for byte in text[place : place + 1])
        + text[place + 1 :]
    )


def insert(text: bytes, rng: np.random.Generator) -> bytes:
    place = _at(text, rng)
    return text[:place] + BYTES[rng.integers(len(BYTES))] + text[place:]


def cut_tail(text: bytes, rng: np.random.Generator) -> bytes:
    return text[: _at(text, rng)]


def cut_out(text: bytes, rng: np.random.Generator) -> bytes:
    first, second = sorted((_at(text, rng), _at(text, rng)))
    return text[:first] + text[second:]


def double(text: bytes, rng: np.random.Generator) -> bytes:
    first, second = sorted((_at(text, rng), _at(text, rng)))
    return text[:second] + text[first:]


def of_lines(
    change: Callable[[list[bytes], int, int], list[bytes]],
) -> Callable[[bytes, np.random.Generator], bytes]:
    def changed(text: bytes, rng: np.random.Generator) -> bytes:
        lines = text.split(b"\n")
        return b"\n".join(change(lines, int(rng.integers(len(lines))), int(rng.integers(len(lines)))))

    return changed


def swap(lines: list[bytes], one: int, other: int) -> list[bytes]:
    lines[one], lines[other] = lines[other], lines[one]
    return lines


def replace_word(text: bytes, rng: np.random.Generator) -> bytes:
    """Of a line at the beginning or anywhere: the first lines have the counts."""
    lines = text.split(b"\n")
    line = int(rng.integers(min(len(lines), 4 if rng.random() < 0.5 else len(lines))))
    words = re.split(rb"([ ,]+)", lines[line])
    words[2 * int(rng.integers((len(words) + 1) // 2))] = WORDS[rng.integers(len(WORDS))]
    lines[line] = b"".join(words)
    return b"\n".join(lines)


def change_digit(text: bytes, rng: np.random.Generator) -> bytes:
    digits = [match.start() for match in re.finditer(rb"\d", text)]
    if not digits:
        return text
    place = digits[rng.integers(len(digits))]
    return text[:place] + b"%d" % rng.integers(10) + text[place + 1 :]


CHANGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    flip,
    insert,
    cut_tail,
    cut_out,
    double,
    of_lines(swap),
    of_lines(lambda lines, one, _: lines[:one] + lines[one + 1 :]),
    of_lines(lambda lines, one, other: [*lines[:one], lines[other], *lines[one:]]),
    of_lines(lambda lines, one, _: [*lines[:one], b" ", *lines[one:]]),
    replace_word,
    change_digit,
    lambda text, _: text.replace(b"\r\n", b"\n") if b"\r" in text else text.replace(b"\n", b"\r\n"),
    lambda text, rng: text.replace(b" ", b" \t"[: int(rng.integers(3))] or b"  "),
    lambda text, _: text.rstrip(),
)


@dataclass(frozen=True)
class Memory:
    """Raw files that lie nowhere."""

    files: dict[str, bytes]
    root: Path = Path("memory")

    def list(self, *suffixes: str) -> list[Recording]:
        return [Recording(path, len(text), 0) for path, text in self.files.items() if path.endswith(suffixes)]

    def read(self, path: str) -> bytes:
        return self.files[path]

    def where(self, path: str) -> str:
        return f"memory/{path}"


def attempt(read: Callable[[], object]) -> object:
    """What is read, or the message of the refusal; any other error gets through."""
    try:
        return read()
    except InputError as error:
        return str(error)


def check_message(message: str, file: str, text: bytes) -> None:
    """It names the file, and a line of it unless the fault is the file's."""
    match = re.match(
        rf"{re.escape(file)}: (?:line (\d+): .|empty file|no videos|clip \S+: field 'keypoints': )", message
    )
    assert match, message
    assert match[1] is None or 1 <= int(match[1]) <= text.count(b"\n") + 1
    assert len(message) < 1000


def tokens_of_ntu(text: bytes) -> dict[str, list[tuple[int, list[float]]]]:
    """The coordinates of each body, from words that follow one another, whatever the lines."""
    words = iter(text.split())
    bodies: dict[str, list[tuple[int, list[float]]]] = {}
    for frame in range(int(next(words))):
        for _ in range(int(next(words))):
            body = next(words).decode()
            assert [next(words) for _ in range(10)][-1] == b"25"
            joints = [[next(words) for _ in range(12)] for _ in range(25)]
            bodies.setdefault(body, []).append(
                (frame, [float(word) for joint in joints for word in joint[:3]])
            )
    assert next(words, None) is None
    return bodies


def check_skeletons(skeletons: Skeletons, text: bytes) -> None:
    bodies = tokens_of_ntu(text)
    assert [track.body for track in skeletons.tracks] == [int(body) for body in bodies]
    for track, seen in zip(skeletons.tracks, bodies.values(), strict=True):
        assert track.frames.tolist() == [frame for frame, _ in seen]
        joints = np.array([points for _, points in seen]).astype(np.float32)
        np.testing.assert_array_equal(track.joints.reshape(len(seen), -1), joints)
        assert np.isfinite(track.joints).all()


def check_ntu(text: bytes) -> bool:
    fast, slow = (attempt(lambda read=read: read(text, "x")) for read in (parse, parse_by_line))
    name = "S001C001P001R001A001.skeleton"
    source = Memory({name: text})
    read = attempt(
        lambda: list(ntu._read_clip("ntu60", frozenset(), source, tuple(source.list(".skeleton"))))
    )
    if isinstance(read, str):
        check_message(read, f"memory/{name}", text)
    if isinstance(slow, str):
        assert fast == slow
        check_message(slow, "x", text)
        assert isinstance(read, str)
        return False
    assert isinstance(fast, Skeletons)
    assert isinstance(slow, Skeletons)
    assert fast.num_frames == slow.num_frames
    for one, other in zip(fast.tracks, slow.tracks, strict=True):
        assert repr(astuple(one)) == repr(astuple(other))
    check_skeletons(fast, text)
    check_skeletons(slow, text)
    return True


def check_video(text: bytes) -> bool:
    fast, slow = (attempt(lambda read=read: read(text, "x")) for read in (parse_video, parse_video_by_line))
    if isinstance(slow, str):
        assert fast == slow
        check_message(slow, "x", text)
        return False
    rows = [[float(word) for word in line.split()] for line in text.decode().rstrip().split("\n")]
    for video in (fast, slow):
        np.testing.assert_array_equal(np.reshape(video, (-1, 150)), np.array(rows).astype(np.float32))
    assert np.isfinite(fast).all()
    return True


def check_labels(text: bytes) -> bool:
    actions = attempt(lambda: parse_labels(text, "x"))
    if isinstance(actions, str):
        check_message(actions, "x", text)
        return False
    rows = [
        [int(word) for word in line.split(",")[:3]]
        for line in text.decode().rstrip().split("\n")
        if line.strip()
    ]
    assert [[action.label + 1, action.start, action.end] for action in actions] == rows
    assert all(1 <= number <= 51 and min(start, end) >= 0 for number, start, end in rows)
    return True


def check_list(text: bytes) -> bool:
    given = attempt(lambda: parse_list(text, "x"))
    if isinstance(given, str):
        check_message(given, "x", text)
        return False
    names = re.findall(r"\d{4}-[LMR]", text.decode())
    assert set(given) == set(names)
    assert set(given.values()) == {"train", "test"}
    return True


VIDEO = make_pku("0002-L", np.random.default_rng(0), frames=40)
VIDEO_TEXT = pku_text(VIDEO.keypoints)


def check_release(text: bytes) -> bool:
    """A label file gone wrong beside a good video, all the way to the clips."""
    source = Memory({"s/0002-L.txt": VIDEO_TEXT, "label/0002-L.txt": text})
    found = pku_mmd.find(source, 1)
    read = attempt(lambda: list(found.read(source, found.units[0])))
    if isinstance(read, str):
        check_message(read, "memory/label/0002-L.txt", text)
        return False
    for outcome in read:
        assert bool(outcome.left_out) == (outcome.clip is None)
    return True


def ntu_texts() -> Iterator[bytes]:
    for index, kind in enumerate(("one", "gaps", "two", "two")):
        rng = np.random.default_rng(index)
        yield ntu_text(make_ntu(kind, rng, 4), rng, end="\r\n" if index % 2 else "\n")
    yield b"2\n1\n72057594037931101 0 1 1 1 1 0 0 0 2\n25\n" + 25 * b"0.5 1 2 4 5 6 7 8 9 10 11 2\n" + b"0\n"
    yield b"3\r\n0\r\n0\r\n0\r\n"


LIST = b"Training videos: \n0002-L, 0002-M, 0002-R, \nValidataion videos: \n0003-L, 0003-M, 0003-R, \n"
PARSERS: dict[str, tuple[Callable[[bytes], bool], list[bytes]]] = {
    "ntu": (check_ntu, list(ntu_texts())),
    "pku video": (check_video, [pku_text(VIDEO.keypoints[:6]), pku_text(VIDEO.keypoints[:1], "\r\n")]),
    "pku labels": (check_labels, [label_text(VIDEO), label_text(VIDEO, "\r\n"), b"1,2,3,1"]),
    "pku list": (check_list, [LIST, LIST.replace(b"\n", b"\r\n")]),
    "pku release": (check_release, [label_text(VIDEO)]),
}


@contextmanager
def claimed_memory(measured: bool) -> Iterator[list[int]]:
    """The most bytes that were held at a time; measuring takes several times as long."""
    claimed = [0]
    if not measured:
        yield claimed
        return
    tracemalloc.start()
    try:
        yield claimed
        claimed[0] = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("parser", PARSERS)
def test_mutated_files(parser: str) -> None:
    check, texts = PARSERS[parser]
    assert all(check(text) for text in texts)
    read, most = 0, 0
    for case in range(CASES):
        rng = np.random.default_rng([len(parser), case])
        text = mutated(texts[rng.integers(len(texts))], rng)
        with claimed_memory(case % 8 == 0) as claimed:
            try:
                read += check(text)
            except Exception as error:
                error.add_note(f"{parser}, case {case}: {text[:200]!r}")
                raise
        most = max(most, *claimed)
    print(f"{parser}: {CASES} cases, {read} read, {CASES - read} refused, at most {most / 1e6:.1f} MB")
    assert most < MOST_BYTES
    assert 0.02 * CASES < read < 0.98 * CASES


ALPHABET = st.sampled_from(
    [*"0123456789", " ", " ", "\n", "\n", "\r", "-", ".", "e", ",", "N", "\t", "\x0b", "\0"]
)


@settings(max_examples=300, deadline=None)
@given(st.text(ALPHABET, max_size=60), st.sampled_from(sorted(PARSERS)))
def test_any_text(text: str, parser: str) -> None:
    PARSERS[parser][0](text.encode())


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.floats().map(repr),
            st.text("0123456789+-.eE_x", max_size=6),
            st.sampled_from(["", "1e38", "3.5e38"]),
        ),
        min_size=3,
        max_size=3,
    ),
    st.sampled_from([" ", "  ", "\t"]),
)
def test_any_coordinates(words: list[str], between: str) -> None:
    joint = between.join([*words, *"456789abc"])
    head = "1\n1\n72057594037931101 0 1 1 1 1 0 0 0 2\n25\n"
    check_ntu((head + 24 * "1 2 3 4 5 6 7 8 9 a b c\n" + joint + "\n").encode())
    check_video(between.join([*words, *("147" * 49)]).encode() + b"\n")
