"""The command for little time on a GPU: its steps are real commands, its time is kept, its summary is short."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import engine, gpu, precision
from benchmarks.__main__ import main, parser
from benchmarks.gpu import Step
from benchmarks.registry import OPERATORS
from benchmarks.results import HERE, ROWS, Row, keep
from benchmarks.run import STEP, selected
from mica.configs import load_config
from mica_kernels import build

Make = Callable[..., Row]
CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("text", "expected"), [("8m", 480), ("450s", 450), ("450", 450), ("1.5m", 90), ("0.25m", 15)]
)
def test_times(text: str, expected: float) -> None:
    assert gpu.seconds(text) == expected


@pytest.mark.parametrize("text", ["", "8h", "m", "-8m", "8 m", "8mm", "1e3", "8m30s"])
def test_what_is_no_time(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no time; say 8m or 450s"):
        gpu.seconds(text)
    with pytest.raises(SystemExit) as raised:
        main(["gpu", f"--budget={text}", "--out", "nowhere"])
    assert raised.value.code == 2
    assert "say 8m or 450s" in capsys.readouterr().err


@pytest.fixture
def steps(tmp_path: Path) -> dict[str, Step]:
    return {step.name: step for step in gpu.steps(tmp_path, tmp_path / "nw-ucla.arrow")}


def test_the_most_valuable_comes_first(steps: dict[str, Step], tmp_path: Path) -> None:
    first = ["build", "tests", "headlines", "training", "trainer tests", "engine", "all sizes", "tuning"]
    assert list(steps) == [*first, "accuracy"]
    assert all(0 < step.share <= 1 for step in steps.values())
    assert [step.name for step in gpu.steps(tmp_path)] == first


def test_steps_of_the_trainer(steps: dict[str, Step], tmp_path: Path) -> None:
    """They parse, and write where the rows lie; a test of it is found, without the package that reads settings."""
    for name, module in (("engine", engine), ("accuracy", precision)):
        assert steps[name].arguments[:2] == ("-m", module.__name__)
        parsed = module.parser().parse_args(steps[name].arguments[2:])
        assert parsed.out.is_relative_to(tmp_path)
        assert not parsed.keep
    assert parsed.data == tmp_path / "nw-ucla.arrow"
    assert load_config(parsed.config).text == "none", "no weights of a text encoder"
    assert steps["trainer tests"].arguments[:2] == ("-m", "pytest")
    program = (
        "import sys; sys.modules['jsonargparse'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *steps["trainer tests"].arguments[2:], "--collect-only"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        command, cwd=HERE.parent, env=environment, capture_output=True, text=True, timeout=120
    )
    assert steps["trainer tests"].needs == steps["engine"].needs == "accelerate"
    assert "test_no_step_waits_for_the_gpu" in done.stdout, done.stdout + done.stderr


def test_steps_that_run_the_suite(steps: dict[str, Step], tmp_path: Path) -> None:
    """They parse, and between them every case of a GPU is run, the quick ones first."""
    run: dict[str, set[str]] = {}
    for name in ("headlines", "all sizes", "tuning", "training"):
        module, arguments = steps[name].arguments[:2], steps[name].arguments[2:]
        assert module == ("-m", "benchmarks")
        parsed = parser().parse_args(arguments)
        selection = selected(parsed)
        assert parsed.out.is_absolute(), "steps run in another directory"
        chosen = [
            OPERATORS[operator].chosen(CUDA, selection.quick, selection.cases)
            for operator in selection.operators
            if operator != STEP
        ]
        run[name] = {case.name for cases in chosen for case in cases}
    assert run["training"] == set()
    assert run["headlines"] == run["tuning"] >= {"headline", "headline-joint", "kl-n16384"}
    assert not run["headlines"] & run["all sizes"]
    every = {case.name for operator in OPERATORS.values() for case in operator.cases}
    assert run["headlines"] | run["all sizes"] == every
    assert not (tmp_path / ROWS).exists()


def test_what_is_tuned_is_kept_apart(steps: dict[str, Step], tmp_path: Path) -> None:
    parsed = parser().parse_args(steps["tuning"].arguments[2:])
    assert parsed.implementation == ["fused"]
    assert parsed.out == tmp_path / "tuned"
    assert steps["tuning"].environment["MICA_KERNELS_TUNE"] == "1"
    assert not steps["headlines"].environment


def test_the_step_that_builds(steps: dict[str, Step]) -> None:
    arguments = steps["build"].arguments
    assert arguments[:3] == ("-m", "mica_kernels", "build")
    made = argparse.ArgumentParser()
    build.add_arguments(made)
    assert made.parse_args(arguments[3:]).arch == ["native"]


def test_the_step_that_tests(steps: dict[str, Step], bare: str) -> None:
    """The tests that need a GPU are found and can be read, with torch, triton, numpy and pytest alone."""
    assert steps["tests"].arguments[:2] == ("-m", "pytest")
    program = f"{bare}\nimport pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE.parent),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TRITON_INTERPRET": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *steps["tests"].arguments[2:], "--collect-only"],
        cwd=HERE.parent, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(found) > 50
    assert all(line.startswith("tests/mica_kernels/") for line in found)
    for file in ("test_spectral_gpu.py", "test_contrastive_gpu.py"):
        assert any(file in line for line in found)
    assert "error" not in done.stdout.splitlines()[-1]


def fake(name: str, program: str, **options: Any) -> Step:
    return Step(name, ("-c", program), **{"least": 0.0, **options})


def test_steps_are_run_in_order_and_the_summary_is_written_after_each(tmp_path: Path) -> None:
    summary = tmp_path / "out" / gpu.SUMMARY
    look = f"print(open({str(summary)!r}).read())"
    where = "import os; print(os.getcwd(), os.environ['PYTHONPATH'], os.environ['MORE'])"
    wanted = [
        fake("first", where, environment={"MORE": "than there was"}),
        fake("second one", look),
        fake("third", f"{look}; raise SystemExit(3)"),
    ]
    outcomes = gpu.spend(wanted, 60, tmp_path / "out")
    assert [outcome.step.name for outcome in outcomes] == ["first", "second one", "third"]
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed: exit status 3"]
    assert outcomes[0].printed == [f"{HERE.parent} {HERE.parent} than there was"]
    printed = (tmp_path / "out" / "second-one.txt").read_text()
    assert "first" in printed
    assert "second" not in printed
    assert "second one" in (tmp_path / "out" / "third.txt").read_text()
    lines = summary.read_text().splitlines()
    assert "device " in lines[0]
    assert [line.split()[0] for line in lines[2:5]] == ["first", "second", "third"]
    assert lines[4].endswith("failed: exit status 3")


def running(process: int) -> bool:
    """Whether a process is there and not only waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_step_that_outlasts_its_share_is_cut(tmp_path: Path, make_row: Make) -> None:
    """Its children with it; what it wrote stays; the next one is run in what is left."""
    keep(tmp_path, make_row())
    kept = tmp_path / "kept"
    program = f"""
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({str(kept)!r}).write_text(str(child.pid))
print("begun", flush=True)
time.sleep(600)
"""
    slow, quick = gpu.spend([fake("slow", program, share=0.05), fake("quick", "print(1)")], 60, tmp_path)
    assert slow.status == "cut"
    assert slow.printed == ["begun"]
    child = int(kept.read_text())
    assert child > 0
    deadline = time.monotonic() + 10
    while running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running(child)
    assert (quick.status, quick.printed) == ("done", ["1"])
    assert (tmp_path / ROWS).read_text()
    assert "cut" in (tmp_path / gpu.SUMMARY).read_text()


def test_steps_that_there_is_no_time_for(tmp_path: Path) -> None:
    """A shorter one that comes later is run all the same."""
    mark = tmp_path / "mark"
    long = fake("long", f"open({str(mark)!r}, 'w')", least=1000.0)
    outcomes = gpu.spend([long, fake("short", "")], 60, tmp_path)
    assert [outcome.status for outcome in outcomes] == ["not started: no time left", "done"]
    assert not mark.exists()
    assert "not started: no time left" in (tmp_path / gpu.SUMMARY).read_text()


def test_a_step_whose_package_is_missing_is_left_out(tmp_path: Path) -> None:
    wanted = [fake("one", "", needs="no_such_package"), fake("two", "", needs="pytest")]
    outcomes = gpu.spend(wanted, 60, tmp_path)
    assert [outcome.status for outcome in outcomes] == [
        "left out: no_such_package is not installed",
        "done",
    ]


@pytest.fixture
def many(tmp_path: Path, make_row: Make) -> Path:
    """A folder with hundreds of rows, and among the last of them one that failed, in several lines."""
    rows = [
        make_row(operator, f"{name}-{place}", implementation, median=median)
        for operator, name in (("spectral_gate", "t64"), ("info_nce", "n"))
        for place in range(100)
        for implementation, median in (("fused", 1.0), ("eager", 0.5))
    ]
    rows.append(
        make_row("similarity_kl", "kl-n1024", median=None, failed="CompilationError:\n at\n 3:7\n" * 40)
    )
    (tmp_path / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_summary_is_short_and_has_what_failed(many: Path) -> None:
    """Whatever else there is: lines that a person can read before the time is up."""
    printed = (
        "print('FAILED tests/a.py::b - wrong'); print('1 failed, 7 passed in 2.00s'); raise SystemExit(1)"
    )
    gpu.spend([fake("tests", printed)], 60, many)
    lines = (many / gpu.SUMMARY).read_text().splitlines()
    assert len(lines) < 100
    assert max(map(len, lines)) <= 200
    assert "FAILED tests/a.py::b - wrong" in lines
    assert "1 failed, 7 passed in 2.00s" in lines
    assert any(line.startswith("FAILED similarity_kl kl-n1024 fused: CompilationError:") for line in lines)
    assert "lines more" in lines[-1]


def test_what_tuning_gained(tmp_path: Path, make_row: Make) -> None:
    keep(tmp_path, make_row(median=3.0))
    keep(tmp_path / "tuned", make_row(median=2.0))
    keep(tmp_path / "tuned", make_row(median=2.0, case="t32-joint"))
    keep(tmp_path / "tuned", make_row(median=2.0, mode="forward"))
    lines = [line for line in gpu.summary([], tmp_path) if line.startswith("tuned")]
    assert lines == ["tuned: spectral_gate headline-joint: 1.50 times as fast as with what is shipped"]


@pytest.mark.parametrize(("program", "status"), [("", 0), ("raise SystemExit(1)", 1)])
def test_the_exit_status_tells_of_failures(
    program: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What was cut for want of time is no failure."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    names = dict.fromkeys(("device", "torch", "triton", "python", "commit"), "made up")
    monkeypatch.setattr(gpu, "about", lambda device: names)
    fakes = [fake("one", program), fake("cut", "import time; time.sleep(600)", share=0.01)]
    monkeypatch.setattr(gpu, "steps", lambda out, data: fakes)
    assert main(["gpu", "--budget", "60s", "--out", str(tmp_path)]) == status
    printed = capsys.readouterr().out
    assert (tmp_path / gpu.SUMMARY).read_text() in printed
    assert "device made up" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--out", str(tmp_path / "out")]) == 2
    assert "PyTorch finds no GPU" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
