"""Vectors on disk: read back by those for whom they are written, whole or not there, however many they are."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mica.errors import InputError
from mica.inference.embeddings import KEY, Embeddings, write_embeddings

SUFFIXES = ("npz", "parquet")
ABOUT = {"what": "features", "layout": "ntu-25"}
NAMES = ("wave", 'éteindre, "now"')
VECTORS = np.random.default_rng(0).normal(size=(2500, 7)).astype(np.float32)
LABELS = np.arange(2500) % 2


def made(sizes: tuple[int, ...] = (1000, 1, 1499), vectors: np.ndarray = VECTORS) -> Embeddings:
    columns = {
        "name": np.array([f"clip {i}" for i in range(len(VECTORS))]),
        "label": LABELS,
        "class_name": np.array(NAMES)[LABELS],
    }
    ends = np.cumsum(sizes)
    blocks = (vectors[end - size : end] for end, size in zip(ends, sizes, strict=True))
    return Embeddings(columns, vectors.shape[1], blocks, ABOUT, NAMES)


def test_npz(tmp_path: Path) -> None:
    out = write_embeddings(tmp_path / "a.npz", made())
    with np.load(out, allow_pickle=False) as content:
        assert set(content) == {"name", "label", "class_name", "features", "class_names", "about"}
        np.testing.assert_array_equal(content["features"], VECTORS)
        assert content["features"].dtype == np.float32
        assert content["name"][2499] == "clip 2499"
        assert content["label"].tolist() == LABELS.tolist()
        assert content["class_name"][:2].tolist() == content["class_names"].tolist() == list(NAMES)
        assert json.loads(str(content["about"][0])) == ABOUT


def test_parquet(tmp_path: Path) -> None:
    out = write_embeddings(tmp_path / "a.parquet", made())
    table = pq.read_table(out)
    assert table.column_names == ["name", "label", "class_name", "features"]
    vectors = table["features"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    np.testing.assert_array_equal(vectors, VECTORS)
    assert vectors.dtype == np.float32
    assert table["name"].to_pylist() == [f"clip {i}" for i in range(2500)]
    assert table["label"].to_pylist() == LABELS.tolist()
    assert table["class_name"].to_pylist() == np.array(NAMES)[LABELS].tolist()
    assert json.loads(table.schema.metadata[KEY.encode()]) == {"about": ABOUT, "class_names": list(NAMES)}


def test_parquet_comes_in_groups_that_hold_their_own_clips(tmp_path: Path) -> None:
    out = write_embeddings(tmp_path / "a.parquet", made((128,) * 19 + (68,)))
    file = pq.ParquetFile(out)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [1024, 1024, 452]
    second = file.read_row_group(1)
    assert second["name"][0].as_py() == "clip 1024"
    np.testing.assert_array_equal(second["features"][0].as_py(), VECTORS[1024])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_classes_and_no_names(tmp_path: Path, suffix: str) -> None:
    """Clips from files have no labels; names may be empty and of any script."""
    columns = {"name": np.array(["", "手"])}
    embeddings = Embeddings(columns, 1, iter([np.ones((2, 1), np.float32)]), {})
    out = write_embeddings(tmp_path / f"a.{suffix}", embeddings)
    if suffix == "npz":
        with np.load(out, allow_pickle=False) as content:
            assert content["name"].tolist() == ["", "手"]
            assert content["class_names"].shape == (0,)
    else:
        assert pq.read_table(out)["name"].to_pylist() == ["", "手"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("sizes", [(1000,), (1000, 1500, 1)])
def test_as_many_vectors_as_clips(tmp_path: Path, suffix: str, sizes: tuple[int, ...]) -> None:
    vectors = np.zeros((3000, 7), np.float32)
    with pytest.raises(ValueError):  # noqa: PT011 (a fault of the program, not of its user)
        write_embeddings(tmp_path / f"a.{suffix}", made(sizes, vectors))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.csv", "a", ".npz"])
def test_other_endings_are_refused_at_once(tmp_path: Path, name: str) -> None:
    embeddings = made()
    with pytest.raises(InputError, match=r"as \.npz or \.parquet"):
        write_embeddings(tmp_path / name, embeddings)
    assert len(next(embeddings.blocks)) == 1000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_exists_is_replaced_only_on_demand(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"a.{suffix}"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_embeddings(out, made())
    assert out.read_text() == "mine"
    write_embeddings(out, made(), overwrite=True)
    assert out.stat().st_size > 4 * VECTORS.size


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_stopped_in_the_middle_nothing_is_left(tmp_path: Path, suffix: str) -> None:
    def stopped() -> Iterator[np.ndarray]:
        yield VECTORS[:1200]
        raise KeyboardInterrupt

    whole = made()
    with pytest.raises(KeyboardInterrupt):
        write_embeddings(tmp_path / f"a.{suffix}", Embeddings(whole.columns, 7, stopped(), ABOUT))
    assert not list(tmp_path.iterdir())


def child(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_killed_in_the_middle_no_file_takes_the_name(tmp_path: Path) -> None:
    ends = child(f"""
        import os, signal
        import numpy as np
        from mica.inference.embeddings import Embeddings, write_embeddings

        def blocks():
            for _ in range(40):
                yield np.ones((100, 64), np.float32)
            os.kill(os.getpid(), signal.SIGKILL)

        columns = {{"name": np.array([str(i) for i in range(5000)])}}
        for suffix in {SUFFIXES}:
            child = os.fork()
            if not child:
                write_embeddings(f"{tmp_path}/a.{{suffix}}", Embeddings(columns, 64, blocks(), {{}}))
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)
    assert ends.split() == [str(-signal.SIGKILL)] * 2
    assert not list(tmp_path.glob("[!.]*"))


def test_memory_does_not_grow_with_the_number_of_vectors(tmp_path: Path) -> None:
    """200 MB of vectors are written with less than half of that in memory."""
    grown = child(f"""
        from pathlib import Path
        import numpy as np
        from mica.inference.embeddings import Embeddings, write_embeddings

        def write(out, count):
            rng = np.random.default_rng(0)
            blocks = (rng.random((128, 2560), np.float32) for _ in range(count // 128))
            columns = {{"name": np.array([f"clip {{i}}" for i in range(count)])}}
            write_embeddings(f"{tmp_path}/{{out}}", Embeddings(columns, 2560, blocks, {{}}))
            status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory, too
            return int(status.split("VmHWM:")[1].split()[0])

        for suffix in {SUFFIXES}:
            before = write(f"small.{{suffix}}", 1280)
            print(write(f"large.{{suffix}}", 20480) - before)
    """)
    assert all(int(kibibytes) < 80_000 for kibibytes in grown.split()), grown
