"""The command `python -m benchmarks`: what it lists, runs, prints and returns, and what it does without."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import words
from benchmarks.__main__ import main
from benchmarks.operators import Operator
from benchmarks.registry import OPERATORS
from benchmarks.results import MODES, ROWS, Row, read
from benchmarks.run import STEP

REPOSITORY = Path(command.__file__).parents[1]


def test_every_case_and_implementation_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if not line.startswith(" ")] == [*OPERATORS, STEP]
    count = sum(len(operator.cases) + len(operator.cpu_cases) for operator in OPERATORS.values())
    assert len(printed) == len(OPERATORS) + count + 2
    assert any(
        line.split() == ["cuda", "headline-joint", "fused,", "dense,", "eager,", "compiled", "(quick)"]
        for line in printed
    )
    assert any(line.split() == ["cpu", "cpu-bin", "fused,", "dense,", "eager"] for line in printed)


def test_a_run_prints_keeps_and_sums_up(
    tiny_suite: dict[str, Operator], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", *OPERATORS, "--quick", "--device", "cpu", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == words.HEAD
    rows = read(tmp_path)
    assert {row["operator"] for row in rows} == set(OPERATORS)
    body = printed[1 : printed.index("")]
    left_out = [row for row in rows if row.get("left_out")]
    assert len(left_out) % len(MODES) == 0
    # A reason is said once, of all modes.
    assert len(body) == len(rows) - len(left_out) + len(left_out) // len(MODES)
    end = printed[printed.index("") :]
    assert any(line.startswith("info_nce tiny, both: chunked is ") for line in end)
    assert any(line.startswith("similarity_kl tiny-kl, both: chunked is ") for line in end)
    assert not any("FAILED" in line for line in printed)
    # Again: rows are replaced.
    assert main([*arguments, "--implementation", "eager"]) == 0
    assert len(read(tmp_path)) == len(rows)


def test_a_part_of_a_run_replaces_its_rows_alone(tiny_suite: dict[str, Operator], tmp_path: Path) -> None:
    arguments = ["run", "info_nce", "--quick", "--device", "cpu", "--out", str(tmp_path)]
    assert main([*arguments, "--implementation", "eager", "chunked"]) == 0
    before = [json.loads(line) for line in (tmp_path / ROWS).read_text().splitlines()]
    assert main([*arguments, "--implementation", "eager", "--mode", "both"]) == 0
    after = read(tmp_path)
    changed = [
        (row["implementation"], row["mode"]) for row, old in zip(after, before, strict=True) if row != old
    ]
    assert changed == [("eager", "both")]


def test_what_was_measured_is_kept_when_it_is_stopped(
    tiny_suite: dict[str, Operator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = command.run

    def stopped(*arguments: Any) -> Iterator[Row]:
        yield next(run(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", stopped)
    assert main(["run", "info_nce", "--device", "cpu", "--out", str(tmp_path)]) == 130
    assert "stopped" in capsys.readouterr().err
    assert len(read(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "spectral"], "unknown: spectral; `python -m benchmarks list` shows what there is"),
        (["run", "--case", "n1025"], "unknown: n1025"),
        (["run", "--implementation", "triton", "--device", "cpu", "--quick"], "nothing of that name"),
        (["run", "info_nce", "--case", "headline-joint", "--device", "cpu"], "nothing of that name"),
        (["run", "info_nce", "--device", "tpu5"], "tpu5"),
        (["plot", "nowhere", "--out", "plots"], "nowhere"),
        (["table", "nowhere"], "nowhere"),
    ],
)
def test_bad_input(
    arguments: list[str],
    message: str,
    tiny_suite: dict[str, Operator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is said in a line, without a traceback, before anything is measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.run.CASES", {"headline-joint"})
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks: error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--device", "cuda"]) == 2
    assert "PyTorch finds no GPU; --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["sing"], ["run", "--mode", "sideways"], ["compare", "a"], ["gpu"]]
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert "usage: python -m benchmarks" in capsys.readouterr().err


@pytest.mark.parametrize("name", [None, "list", "run", "compare", "plot", "table", "gpu"])
def test_help(name: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"] if name is None else [name, "--help"])
    assert raised.value.code == 0
    assert "python -m benchmarks" in capsys.readouterr().out


def test_commands_of_the_help_can_be_read() -> None:
    """Each stands before what it is for, and more than one space."""
    assert command.__doc__ is not None
    lines = [line for line in command.__doc__.splitlines() if line.startswith("python -m benchmarks ")]
    assert len(lines) > 5
    for line in lines:
        said, about = re.split(r"\s{2,}", line)
        assert about
        assert callable(command.parser().parse_args(said.split()[3:]).command)


def test_without_what_mica_needs(bare: str) -> None:
    """The operators do with torch, triton and numpy; the training step is left out."""
    program = f"""{bare}
import benchmarks.__main__
from benchmarks import ceilings
ceilings.COPIED["cpu"], ceilings.SIDE["cpu"] = 1 << 16, 64
assert benchmarks.__main__.main(["list"]) == 0
run = ["run", "--case", "cpu-micro-joint", "--implementation", "eager", "--mode", "forward", "--device", "cpu"]
assert benchmarks.__main__.main(run) == 0
assert benchmarks.__main__.main(["run", "pretraining_step", "--device", "cpu"]) == 0
assert not set(sys.modules) & {{"matplotlib", "tqdm", "mica.models"}}
benchmarks.__main__.main(["--help"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(
        line.startswith("spectral_gate    cpu-micro-joint        eager          forward") for line in lines
    )
    assert any(line.startswith("pretraining_step") and "is not installed" in line for line in lines)
    assert any(line.startswith("usage: python -m benchmarks") for line in lines)
