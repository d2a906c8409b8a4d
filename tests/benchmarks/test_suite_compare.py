"""Two results or two revisions side by side: verdicts, and worktrees that are gone afterwards."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import compare, results
from benchmarks.__main__ import main
from benchmarks.results import Row

Make = Callable[..., Row]

SUITE = """
import json, os, pathlib, sys
tree = pathlib.Path.cwd()
assert os.environ["PYTHONPATH"] == str(tree)
assert not (tree / "benchmarks" / "results").exists()
median = float((tree / "kernel.txt").read_text()) - 0.1 * pathlib.Path(os.environ["ORDER"]).read_text().count("\\n")
with open(os.environ["ORDER"], "a") as order:
    order.write(f"{(tree / 'kernel.txt').read_text()} {' '.join(sys.argv[1:-1])}\\n")
row = {"operator": "spectral_gate", "case": "cpu-micro-joint", "implementation": "eager", "mode": "forward"}
row |= {"times": {"median": median, "p20": median, "p80": median}, "device": "d", "commit": "c"}
pathlib.Path(sys.argv[-1], "rows.jsonl").write_text(json.dumps(row))
"""
"""A suite that takes no time: what it measures is written in a file of the revision, less what was run before."""


@pytest.fixture
def two(tmp_path: Path, make_row: Make) -> Callable[..., list[str]]:
    """Folders of results, the second with these changes of the first's row; arguments of a comparison."""

    def make(**changes: object) -> list[str]:
        results.keep(tmp_path / "a", make_row(commit="aaa", median=1.0))
        results.keep(tmp_path / "b", {**make_row(commit="bbb"), **changes})
        return ["compare", str(tmp_path / "a"), str(tmp_path / "b")]

    return make


def times(median: float, spread: float) -> dict[str, float]:
    return {"median": median, "p20": median * (1 - spread), "p80": median * (1 + spread)}


@pytest.mark.parametrize(
    ("median", "spread", "verdict"),
    [
        (0.5, 0.1, "  0.50  B is faster"),
        (2.0, 0.1, "  2.00  B is slower"),
        (0.8, 0.2, "  0.80  same within the spread"),
        (1.2, 0.2, "  1.20  same within the spread"),
        (1.0, 0.0, "  1.00  same within the spread"),
    ],
)
def test_verdicts(
    median: float,
    spread: float,
    verdict: str,
    two: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Beside a time of 0.9 to 1.1 ms: something is faster where the spreads do not meet."""
    assert main(two(times=times(median, spread))) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("/a, NVIDIA H200, commit aaa")
    assert printed[1].endswith("/b, NVIDIA H200, commit bbb")
    assert len(printed) == 5
    assert printed[-1].startswith("spectral_gate    headline-joint         fused          both ")
    assert printed[-1].endswith(verdict)


def test_no_row_in_common(two: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    for changes in ({"case": "t32-joint"}, {"times": None, "failed": "wrong"}):
        assert main(two(**changes)) == 2
        assert "no measured row in common" in capsys.readouterr().err


def test_a_folder_and_a_revision(two: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = two()
    assert main([*arguments[:2], "HEAD"]) == 2
    assert "HEAD: no such file or folder" in capsys.readouterr().err
    assert main(["compare", "HEAD", arguments[2]]) == 2
    assert "HEAD: no such file or folder" in capsys.readouterr().err


def test_of_several_runs_the_fastest_counts(make_row: Make) -> None:
    first = [make_row(median=2.0), make_row(implementation="eager", median=5.0)]
    second = [make_row(median=3.0), make_row(implementation="eager", median=4.0)]
    third = [make_row(median=None, failed="wrong"), make_row(implementation="compiled", median=9.0)]
    best = compare.best(first, second, third)
    assert {row["implementation"]: row["times"]["median"] for row in best} == {
        "fused": 2.0,
        "eager": 4.0,
        "compiled": 9.0,
    }


def test_rows_of_either_alone_are_not_compared(make_row: Make) -> None:
    a = [make_row(), make_row(implementation="eager"), make_row(implementation="copy", mode="forward")]
    lines = list(compare.compared(a, [make_row(), make_row(implementation="compiled")]))
    assert [line.split()[2] for line in lines] == ["fused"]


def git(repository: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(repository), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two revisions, of 2 ms and 1 ms, and the suite of neither, with results; the order of runs goes to a file."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path / "repository"
    (folder / "benchmarks").mkdir(parents=True)
    git(folder, "init", "--quiet")
    for milliseconds in ("2", "1"):
        (folder / "kernel.txt").write_text(milliseconds)
        (folder / "benchmarks" / "__main__.py").write_text("raise SystemExit('the suite of a revision')")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", milliseconds)
    (folder / "kernel.txt").write_text("not committed")
    (folder / "benchmarks" / "__main__.py").write_text(SUITE)
    (folder / "benchmarks" / "results").mkdir()
    (folder / "benchmarks" / "results" / "rows.jsonl").write_text("{}")
    order = tmp_path / "order"
    order.touch()
    monkeypatch.setenv("ORDER", str(order))
    monkeypatch.setattr(compare, "HERE", folder / "benchmarks")
    return folder


def test_two_revisions(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order A, B, B, A, each by the suite as it stands; nothing of it remains."""
    before = git(repository, "worktree", "list"), git(repository, "status", "--porcelain")
    selection = [
        "spectral_gate",
        "--case",
        "cpu-micro-joint",
        "--implementation",
        "eager",
        "--mode",
        "forward",
    ]
    assert main(["compare", "HEAD~1", "HEAD", *selection]) == 0
    assert (git(repository, "worktree", "list"), git(repository, "status", "--porcelain")) == before
    order = (tmp_path / "order").read_text().splitlines()
    assert [line[0] for line in order] == ["2", "1", "1", "2"]
    assert {line[2:] for line in order} == {f"run {' '.join(selection)} --out"}
    # Of 2 and 1.7 ms, and of 0.9 and 0.8 ms, the smaller.
    assert capsys.readouterr().out.splitlines()[-1].endswith("0.47  B is faster")


def test_a_quick_comparison_of_revisions(repository: Path, tmp_path: Path) -> None:
    """Of the operators: the training step belongs to another package."""
    assert main(["compare", "HEAD~1", "HEAD", "--quick"]) == 0
    said = (tmp_path / "order").read_text().splitlines()[0].split()
    assert said[:2] == ["2", "run"]
    assert "--quick" in said
    assert "pretraining_step" not in said


@pytest.mark.parametrize(
    "broken",
    ["raise SystemExit(1)", "import sys; open(sys.argv[-1] + '/rows.jsonl', 'w')"],
    ids=["no file", "no row"],
)
def test_worktrees_go_when_nothing_is_measured(
    broken: str, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = git(repository, "worktree", "list")
    (repository / "benchmarks" / "__main__.py").write_text(broken)
    assert main(["compare", "HEAD~1", "HEAD", "spectral_gate"]) == 2
    assert "benchmarks: error: " in capsys.readouterr().err
    assert git(repository, "worktree", "list") == before


def test_a_revision_that_does_not_exist(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = git(repository, "worktree", "list")
    assert main(["compare", "HEAD", "no-such-revision"]) == 2
    assert "no-such-revision" in capsys.readouterr().err
    assert git(repository, "worktree", "list") == before


def test_unknown_names_before_anything_is_measured(
    repository: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["compare", "HEAD~1", "HEAD", "--case", "no-such-case"]) == 2
    assert "unknown: no-such-case" in capsys.readouterr().err
    assert not (tmp_path / "order").read_text()


def test_a_selection_of_two_results(
    two: Callable[..., list[str]], make_row: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It holds for what was kept as for what is measured."""
    arguments = two()
    for folder in ("a", "b"):
        results.keep(tmp_path / folder, make_row("info_nce", "n1024", "eager", mode="forward"))
    for selection, expected in (
        ([], {"fused", "eager"}),
        (["info_nce"], {"eager"}),
        (["--case", "headline-joint"], {"fused"}),
        (["--implementation", "eager"], {"eager"}),
        (["--mode", "both"], {"fused"}),
    ):
        assert main([*arguments, *selection]) == 0
        lines = capsys.readouterr().out.splitlines()[4:]
        assert {line.split()[2] for line in lines} == expected, selection
