"""Arrays in .npy and .npz files, read and written a row at a time, so that they may be larger than the memory."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Shaped

from mica.errors import InputError

_LONGEST_HEADER = 10_000
_LONGEST_ROW = 1 << 30
_PACKED_BY_NUMPY = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_HINT = "fetch or make this file again"


@dataclass(frozen=True)
class StoredArray:
    """An array of numbers on disk; `member` is its name in a .npz, None for a .npy file.

    `start` is where in the file or member the numbers begin, in bytes.
    """

    file: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int

    def rows(self) -> Iterator[Shaped[np.ndarray, ...]]:
        """Yield the entries along the first axis, read-only, holding one; `InputError` if the file ends early.

        Whether a .npz is damaged in the middle is known, by its checksum, once the last row has been read.
        """
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _opened(self.file, self.member) as (stream, _):
            stream.read(self.start)
            for row in range(self.shape[0]):
                content = stream.read(size)
                if len(content) < size:
                    raise self.refuse(f"ends in row {row} of {self.shape[0]}: truncated", hint=_HINT)
                yield np.frombuffer(content, self.dtype).reshape(self.shape[1:])

    def refuse(self, problem: str, clip: str | None = None, hint: str | None = None) -> InputError:
        """Return the error for something that is wrong with this array."""
        return InputError(problem, file=self.file, clip=clip, field=self.member, hint=hint)


def open_array(file: str | os.PathLike[str], member: str | None = None) -> StoredArray:
    """Look at the header of a .npy file, or of an array in a .npz, compressed or not.

    Raises `InputError` for a damaged file, an array that is not there, one without entries, one of anything but
    numbers, one in Fortran's order (whose rows do not lie together), and a size at odds with the header. Nothing is
    unpickled.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", x=np.arange(6).reshape(3, 2))
    ...     array = open_array(f"{folder}/a.npz", "x")
    ...     array.shape, [row.tolist() for row in array.rows()]
    ((3, 2), [[0, 1], [2, 3], [4, 5]])
    """
    file = Path(file)
    with _opened(file, member) as (stream, size):
        shape, fortran, dtype, start = _read_header(stream, file, member)
    array = StoredArray(file, member, shape, dtype, start)
    if dtype.kind not in "biuf":
        raise array.refuse(f"an array of {dtype}, expected numbers")
    if not shape or min(shape) < 1:
        raise array.refuse(f"an array of shape {shape}, expected one with entries")
    if fortran and len(shape) > 1:
        hint = "save it again with np.ascontiguousarray(array)"
        raise array.refuse("in Fortran's order, which cannot be read row by row", hint=hint)
    promised = math.prod(shape) * dtype.itemsize
    if promised != size - start:
        problem = f"shape {shape} of {dtype} takes {promised:,} bytes, found {size - start:,}"
        raise array.refuse(problem, hint=_HINT)
    if promised // shape[0] > _LONGEST_ROW:
        raise array.refuse(f"a row takes {promised // shape[0]:,} bytes, at most {_LONGEST_ROW:,} are read")
    return array


@contextmanager
def _opened(file: Path, member: str | None) -> Iterator[tuple[IO[bytes], int]]:
    """Give the bytes of a file, or of an array in a .npz, and their number."""
    try:
        if member is None:
            with file.open("rb") as stream:
                yield stream, os.fstat(stream.fileno()).st_size
        else:
            with zipfile.ZipFile(file) as archive, archive.open(_entry(archive, file, member)) as stream:
                yield stream, archive.getinfo(f"{member}.npy").file_size
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError("no such file", file=file) from error
    except Exception as error:  # zipfile lets whatever a damaged archive causes through
        kind = "a .npy file" if member is None else "a .npz file"
        problem = f"not readable as {kind}, perhaps truncated ({_brief(str(error))})"
        raise InputError(problem, file=file, field=member, hint=_HINT) from error


def _entry(archive: zipfile.ZipFile, file: Path, member: str) -> zipfile.ZipInfo:
    names = archive.namelist()
    if f"{member}.npy" not in names:
        found = ", ".join(sorted(name.removesuffix(".npy") for name in names)) or "nothing"
        raise InputError(f"array missing, found {_brief(found)}", file=file, field=member)
    entry = archive.getinfo(f"{member}.npy")
    if entry.compress_type not in _PACKED_BY_NUMPY:
        problem = "packed in a way that np.savez and np.savez_compressed do not use"
        raise InputError(problem, file=file, field=member, hint="save it again with one of them")
    return entry


def _brief(text: str) -> str:
    """What a file says, for a message: short, and without characters that steer a terminal."""
    return text[:200].encode("unicode_escape").decode()


def _read_header(
    stream: IO[bytes], file: Path, member: str | None
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether in Fortran's order, dtype, and where the numbers begin."""
    head = io.BytesIO(stream.read(_LONGEST_HEADER))  # a damaged length cannot make NumPy read more than this
    try:
        version = np.lib.format.read_magic(head)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(head, max_header_size=_LONGEST_HEADER)
    except Exception as error:  # NumPy lets whatever a damaged header causes through
        problem = f"no readable .npy header ({_brief(str(error))})"
        raise InputError(problem, file=file, field=member, hint=_HINT) from error
    return shape, fortran, dtype, head.tell()


@dataclass(frozen=True)
class NewArray:
    """An array to be written; `rows` gives as many entries as the shape says."""

    shape: tuple[int, ...]
    dtype: str
    rows: Iterable[Shaped[np.ndarray, ...]]


def write_npz(file: str | os.PathLike[str], arrays: dict[str, NewArray]) -> None:
    """Write a .npz that `np.load` reads, as `np.savez` would, holding one row in memory.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_npz(f"{folder}/a.npz", {"x": NewArray((2, 3), "<f4", [np.zeros(3), np.ones(3)])})
    ...     with np.load(f"{folder}/a.npz") as content:
    ...         content["x"].tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            # Sizes are unknown at the start, so that room is left for those beyond 4 GiB.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as stream:
                _write_array(stream, array)


def _write_array(stream: IO[bytes], array: NewArray) -> None:
    header = {"descr": array.dtype, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    for _, row in zip(range(array.shape[0]), array.rows, strict=True):
        stream.write(np.broadcast_to(row, array.shape[1:]).astype(array.dtype).tobytes())
