"""The rows that are kept: replaced, ordered, whole; read with errors that say where; and what is made of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import results
from benchmarks.results import Row

CPU = torch.device("cpu")
Make = Callable[..., Row]


def test_a_newer_row_takes_the_place_of_an_older_one(tmp_path: Path, make_row: Make) -> None:
    """Where it stood; all others stay, and there is nothing but the one file."""
    folder = tmp_path / "results" / "machine"
    for name, mode in (("eager", "both"), ("fused", "both"), ("fused", "forward"), ("fused", "backward")):
        results.keep(folder, make_row(implementation=name, mode=mode, median=1.0))
    results.keep(folder, make_row(implementation="fused", mode="both", median=2.0))
    rows = results.read(folder)
    assert [(row["implementation"], row["mode"], row["times"]["median"]) for row in rows] == [
        ("eager", "both", 1.0),
        ("fused", "both", 2.0),
        ("fused", "forward", 1.0),
        ("fused", "backward", 1.0),
    ]
    assert [file.name for file in folder.iterdir()] == [results.ROWS]
    assert len((folder / results.ROWS).read_text().splitlines()) == 4


def test_a_row_that_failed_replaces_one_that_did_not(tmp_path: Path, make_row: Make) -> None:
    results.keep(tmp_path, make_row())
    results.keep(tmp_path, make_row(median=None, failed="wrong"))
    (row,) = results.read(tmp_path)
    assert "times" not in row


def test_the_file_is_whole_whatever_happens(
    tmp_path: Path, make_row: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written beside the old one, which stays until the new one is there."""
    results.keep(tmp_path, make_row())
    before = (tmp_path / results.ROWS).read_text()

    def interrupted(self: Path, target: Path) -> Path:
        assert self.read_text().startswith(before)
        assert target.read_text() == before
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        results.keep(tmp_path, make_row(implementation="eager"))
    assert (tmp_path / results.ROWS).read_text() == before


def test_reads_a_file_or_all_in_a_folder(tmp_path: Path, make_row: Make) -> None:
    for folder, name in (("b", "eager"), ("a", "fused")):
        results.keep(tmp_path / folder, make_row(implementation=name))
    assert [row["implementation"] for row in results.read(tmp_path)] == ["fused", "eager"]
    assert [row["implementation"] for row in results.read(tmp_path / "b" / results.ROWS)] == ["eager"]


def test_empty_lines_are_no_rows(tmp_path: Path, make_row: Make) -> None:
    file = tmp_path / "any.jsonl"
    row = make_row(implementation="eager")
    file.write_text(f"\n{json.dumps(row)}\n\n")
    assert results.read(file) == [json.loads(json.dumps(row))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('{"operator": "o", "case": "c"}', "line 2: no row of a benchmark, implementation, mode missing"),
        ("[1, 2]", "line 2: no row of a benchmark, operator, case, implementation, mode missing"),
        ("null", "line 2: no row of a benchmark"),
    ],
)
def test_what_is_no_row_is_named(line: str, message: str, tmp_path: Path, make_row: Make) -> None:
    file = tmp_path / results.ROWS
    file.write_text(f"{json.dumps(make_row())}\n{line}\n")
    with pytest.raises(results.ResultsError) as raised:
        results.read(tmp_path)
    assert str(raised.value).startswith(f"{file}, {message}")


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(results.ResultsError, match=r"no rows\.jsonl in this folder"):
        results.read(tmp_path)
    with pytest.raises(results.ResultsError, match=r"nowhere\.jsonl: cannot be read"):
        results.read(tmp_path / "nowhere.jsonl")
    (tmp_path / "picture").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(results.ResultsError, match="picture: cannot be read"):
        results.read(tmp_path / "picture")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("AMD EPYC 9654 96-Core Processor", "amd-epyc-9654-96-core-processor"),
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", "intel-core-i7-8550u-cpu-1.80ghz"),
        ("../x86_64/", "..-x86-64"),
    ],
)
def test_folders_of_devices(name: str, expected: str) -> None:
    assert results.slug(name) == expected
    assert "/" not in results.slug(name)


def test_where_a_row_is_made() -> None:
    stamp = results.stamp(CPU)
    assert stamp["device"] == results.device_name(CPU)
    assert {"device", "python", "torch", "triton", "commit", "threads", "date"} == stamp.keys()
    assert json.loads(json.dumps(stamp)) == stamp


def git(repository: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(repository), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_revisions_are_marked_where_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New results are no difference."""
    kept = tmp_path / "benchmarks" / "results" / "machine"
    kept.mkdir(parents=True)
    monkeypatch.setattr(results, "HERE", tmp_path / "benchmarks")
    git(tmp_path, "init", "--quiet")
    assert results._commit() is None, "there is no revision yet"
    (tmp_path / "kernel.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    revision = git(tmp_path, "rev-parse", "HEAD")[:12]
    assert results._commit() == revision
    (kept / results.ROWS).write_text("{}")
    assert results._commit() == revision
    (tmp_path / "kernel.py").write_text("2")
    assert results._commit() == f"{revision}-dirty"


def test_a_plain_copy_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "HERE", tmp_path / "benchmarks")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert results._commit() is None
    monkeypatch.setenv("PATH", "")
    assert results._commit() is None


def test_the_fastest_other(make_row: Make) -> None:
    """A copy is none, nor is what failed or was left out."""
    rows = [
        make_row(implementation="copy", median=0.1),
        make_row(implementation="fused", median=1.0),
        make_row(implementation="compiled", median=None, failed="no compiler"),
        make_row(implementation="circulant", median=None, left_out="not here"),
        make_row(implementation="eager", median=6.0),
        make_row(implementation="chunked", median=4.0),
    ]
    other = results.fastest_other(rows, "fused")
    assert other is not None
    assert other["implementation"] == "chunked"
    assert results.speedup(rows, "fused") == pytest.approx(4)
    assert results.speedup(rows, "eager") == pytest.approx(1 / 6)
    assert results.speedup(rows, "compiled") is None
    assert results.speedup(rows[:4], "fused") is None
    assert results.fastest_other(rows[:4], "fused") is None


def test_the_fastest_other_in_a_loop(make_row: Make) -> None:
    """Of a backward pass alone there is no loop."""
    rows = [make_row(implementation=name, median=of) for name, of in (("fused", 1.0), ("eager", 2.0))]
    rows[0]["times"]["looped"] = 4.0
    assert results.speedup(rows, "fused", "looped") == pytest.approx(0.5)
    rows[1]["times"]["looped"] = None
    assert results.fastest_other(rows, "fused", "looped") is None
    assert results.speedup(rows, "fused", "looped") is None


def test_picking(make_row: Make) -> None:
    rows = [make_row(mode=mode, median=median) for mode, median in (("forward", 1.0), ("both", None))]
    assert results.pick(rows, mode="both", case="headline-joint") == rows[1:]
    assert results.median(rows, mode="forward") == 1.0
    assert results.median(rows, mode="both") is None
    assert list(results.measured(rows)) == rows[:1]


def test_devices_keep_their_rows(make_row: Make, tmp_path: Path) -> None:
    """In one folder, too; and what lies in a folder within it belongs to something else."""
    for device in ("one", "another", "one"):
        results.keep(tmp_path, make_row(device=device))
    results.keep(tmp_path / "tuned", make_row(device="third"))
    assert [row["device"] for row in results.read(tmp_path)] == ["one", "another"]
