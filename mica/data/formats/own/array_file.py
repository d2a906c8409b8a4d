"""Coordinates in NumPy's files: `.npy`, or `.npz` with one array."""

from __future__ import annotations

import io
import math
import zipfile
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from mica.data.formats.own.coordinates import check_size, hide_unsure
from mica.errors import InputError

KEY = "keypoints"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SHAPES = "expected (frames, joints, axes) or (frames, persons, joints, axes) with 2 to 4 axes"
_HINT = "save it with numpy.save or numpy.savez(file, keypoints=...)"
_MEMBER_LIMIT = 1 << 29  # bytes of an array unpacked


def read_array_file(content: bytes, file: str, dimensions: int | None) -> Float[np.ndarray, "T M V axes"]:
    """Return the coordinates of a `.npy` or `.npz` file, with 2 or 3 axes and NaN where a joint is not seen.

    The file holds numbers of shape (T, V, C) or (T, M, V, C). C is 2 (x, y), 3 (x, y, z) or 4 (x, y, z, confidence);
    `dimensions` 2 makes of 3 x, y and a confidence. Of an `.npz` it is the array `keypoints`, or the only one. Raises
    `InputError` for anything else; nothing is unpickled, and no more is read than the file holds.

    >>> stream = io.BytesIO()
    >>> np.save(stream, np.ones((8, 20, 3), np.float32))
    >>> read_array_file(stream.getvalue(), "wave.npy", dimensions=None).shape
    (8, 1, 20, 3)
    """
    name = None
    if file.lower().endswith(".npz"):
        content, name = _unpacked(content, file)
    with np.errstate(invalid="ignore"):  # NaN may be of the kind that warns
        values = _parsed(content, file, name).astype(np.float64)
    axes = values.shape[3]
    wanted = dimensions or min(axes, 3)
    if axes not in (wanted, wanted + 1):
        problem = f"{axes} numbers a joint, but {wanted} dimensions were asked for"
        raise InputError(problem, file=file, field="dimensions")
    return hide_unsure(values) if axes > wanted else values


def _unpacked(content: bytes, file: str) -> tuple[bytes, str]:
    """Return the one array of an `.npz` as the content of a `.npy`, and what it is called."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entry = _choose(archive, file)
            return archive.read(entry), entry.filename.removesuffix(".npy")
    except InputError:
        raise
    except Exception as error:  # zipfile lets whatever a damaged file causes through
        raise InputError(
            f"not readable as .npz, perhaps truncated ({_short(error)})", file=file, hint=_HINT
        ) from error


def _choose(archive: zipfile.ZipFile, file: str) -> zipfile.ZipInfo:
    arrays = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if KEY not in arrays and len(arrays) != 1:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise InputError(f"array missing, found {found}", file=file, field=KEY, hint=_HINT)
    entry = arrays.get(KEY) or next(iter(arrays.values()))
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError("packed in a way that NumPy does not use", file=file, hint=_HINT)
    if entry.file_size > _MEMBER_LIMIT:
        problem = f"{entry.file_size:,} bytes unpacked are too many for one clip"
        raise InputError(problem, file=file, hint="cut the recording into actions")
    return entry


def _parsed(content: bytes, file: str, name: str | None) -> Shaped[np.ndarray, "T M V axes"]:
    """Return the array in the content of a `.npy`, a view of it; one person where it has no axis for persons."""
    stream = io.BytesIO(content)
    try:
        shape, fortran_order, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # NumPy lets whatever a damaged header causes through
        raise InputError(
            f"not readable as .npy ({_short(error)})", file=file, field=name, hint=_HINT
        ) from error
    if dtype.kind not in "fiu":
        raise InputError(f"holds {dtype}, expected numbers", file=file, field=name, hint=_HINT)
    if len(shape) not in (3, 4) or shape[-1] not in (2, 3, 4):
        raise InputError(f"shape {shape}, {_SHAPES}", file=file, field=name)
    frames, persons, joints, axes = shape if len(shape) == 4 else (shape[0], 1, *shape[1:])
    check_size(frames, persons, joints, file)
    there, declared = len(content) - stream.tell(), math.prod(shape) * dtype.itemsize
    if there != declared:
        problem = f"{there:,} bytes of numbers, but shape {shape} of {dtype} takes {declared:,}"
        raise InputError(problem, file=file, field=name, hint=_HINT)
    order: Literal["F", "C"] = "F" if fortran_order else "C"
    array = np.ndarray(shape, dtype, buffer=content, offset=stream.tell(), order=order)
    return array.reshape(frames, persons, joints, axes)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
