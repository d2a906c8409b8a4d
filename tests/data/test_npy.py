"""Arrays that are read and written a row at a time, against NumPy's own reader, and headers that promise too much."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from mica.data.npy import NewArray, open_array, write_npz
from mica.errors import InputError


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "|u1", "<i8", "|b1"])
@pytest.mark.parametrize("shape", [(5,), (1,), (4, 3), (1, 2, 3, 4)])
def test_rows(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    expected = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    np.save(tmp_path / "x.npy", expected)
    np.savez(tmp_path / "x.npz", other=np.ones(3), x=expected)
    np.savez_compressed(tmp_path / "packed.npz", x=expected)
    for array in (
        open_array(tmp_path / "x.npy"),
        open_array(tmp_path / "x.npz", "x"),
        open_array(tmp_path / "packed.npz", "x"),
    ):
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        for _ in range(2):
            np.testing.assert_array_equal(np.stack(list(array.rows())), expected)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    np.save(file, np.ones((1000, 100)))
    array = open_array(file)
    with file.open("r+b") as opened:
        opened.truncate(500_000)
    with pytest.raises(InputError, match="ends in row 624 of 1000"):
        list(array.rows())


def test_written_arrays(tmp_path: Path) -> None:
    rows = [np.arange(6.0).reshape(2, 3)[:, ::-1] + i for i in range(4)]
    arrays = {
        "x": NewArray((4, 2, 3), "<f4", iter(rows)),
        "y": NewArray((2,), "<i8", [np.array(3), np.array(5)]),
        "none": NewArray((0, 3), "<f4", []),
    }
    write_npz(tmp_path / "x.npz", arrays)
    with np.load(tmp_path / "x.npz") as found:
        assert sorted(found) == ["none", "x", "y"]
        np.testing.assert_array_equal(found["x"], np.stack(rows).astype(np.float32))
        np.testing.assert_array_equal(found["y"], [3, 5])
        assert (found["none"].shape, found["x"].dtype) == ((0, 3), np.float32)
    np.testing.assert_array_equal(list(open_array(tmp_path / "x.npz", "x").rows()), rows)


@pytest.mark.parametrize("count", [1, 3])
def test_rows_as_many_as_promised(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        write_npz(tmp_path / "x.npz", {"x": NewArray((2, 3), "<f4", [np.ones(3)] * count)})


def written(shape: str, descr: str = "<f4", fortran: str = "False", version: bytes = b"\x01\x00") -> bytes:
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little") + text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "header"),
        (b"PK\x03\x04" * 10, "header"),
        (written("(2, 3)"), "takes 24 bytes, found 0"),
        (written("(2, 3)") + b"\0" * 25, "takes 24 bytes, found 25"),
        (written("(1152921504606846976, 3)") + b"\0" * 24, "takes 13,835,058,055,282,163,712 bytes"),
        (written("(-2, -3)") + b"\0" * 24, "with entries"),
        (written("()") + b"\0" * 4, "with entries"),
        (written("(2.0, 3)") + b"\0" * 24, "header"),
        (written("(2, 3)", "|O") + b"\0" * 48, "expected numbers"),
        (written("(6,)", "<c8") + b"\0" * 48, "expected numbers"),
        (written("(2, 3)", "nonsense") + b"\0" * 24, "header"),
        (written("(2, 3)", fortran="True") + b"\0" * 24, "Fortran"),
        (written("(" * 5000 + ")" * 5000), "header"),
        (written("(2**9999999, )"), "header"),
        (written("(" + "1, " * 9000 + ")", version=b"\x02\x00"), "header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100, "header"),
        (b"\x93NUMPY\x09\x00" + b" " * 100, "header"),
        (written("(1, 1073741825)", "|u1"), "found 0"),
    ],
)
def test_bad_headers(tmp_path: Path, content: bytes, problem: str) -> None:
    file, archive = tmp_path / "x.npy", tmp_path / "x.npz"
    file.write_bytes(content)
    np.savez(archive, y=np.ones(2))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("x.npy", content)
    for path, member in ((file, None), (archive, "x")):
        with pytest.raises(InputError, match=problem) as caught:
            open_array(path, member)
        assert (caught.value.file, caught.value.field) == (path, member)


def test_a_row_must_fit_into_memory(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    with file.open("wb") as sparse:
        header = written("(1, 1073741825)", "|u1")
        sparse.write(header)
        sparse.truncate(len(header) + 1073741825)
    with pytest.raises(InputError, match="at most 1,073,741,824 are read"):
        open_array(file)


def test_packed_otherwise(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", written("(1,)") + b"\0" * 4)
    with pytest.raises(InputError, match="savez_compressed do not use"):
        open_array(tmp_path / "x.npz", "x")


def test_messages_stay_short(tmp_path: Path) -> None:
    """A damaged archive may call an array by a name as long as itself."""
    np.savez(tmp_path / "x.npz", **{"\x1b[2J" + "x" * 9000: np.ones(1)})
    with pytest.raises(InputError, match=r"array missing, found \\x1b") as caught:
        open_array(tmp_path / "x.npz", "y")
    assert len(str(caught.value)) < 1000
