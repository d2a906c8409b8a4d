"""Little time on a GPU spent well: what is most worth knowing comes first, and whatever is done is written at once.

In order: the kernels are compiled on all cores; the tests that need a GPU; the headline sizes; the training step, and
the trainer around it; all other sizes; and, with what time is left, the headline sizes again while launch
configurations are tuned. Each is a process of its own, which is ended when its time is up. Needs torch, triton, numpy
and pytest, and no installation; the trainer needs the package's dependencies.

With `--data`, a store of NW-UCLA, the last step is whether bfloat16 and the kernels cost accuracy.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks import words
from benchmarks.registry import OPERATORS
from benchmarks.results import HERE, ROWS, Row, about, measured, pick, read_file, this_device
from benchmarks.run import STEP

SUMMARY = "summary.txt"
TESTS = HERE.parent / "tests" / "mica_kernels"
TRAINER_TESTS = HERE.parent / "tests" / "training" / "test_guards.py"
LONGEST = 99
"""Lines of a summary."""


@dataclass(frozen=True)
class Step:
    """A command of Python's.

    share: how much it may take of the time left; least: seconds worth starting for; needs: a package beyond those that
    all steps need.
    """

    name: str
    arguments: tuple[str, ...]
    share: float = 1.0
    least: float = 5.0
    environment: dict[str, str] = field(default_factory=dict)
    needs: str | None = None


@dataclass
class Outcome:
    """How a step ended: what it printed last, and in how many seconds."""

    step: Step
    status: str
    seconds: float
    printed: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--budget", type=seconds, default=480.0, metavar="TIME", help="as 8m or 450s; default: 8m"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="for rows, outputs and the summary"
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="a store of NW-UCLA, for accuracy")


def seconds(text: str) -> float:
    """A time in seconds.

    >>> seconds("8m"), seconds("1.5m"), seconds("450s"), seconds("450")
    (480.0, 90.0, 450.0, 450.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; say 8m or 450s")
    return float(match[1]) * (60 if match[2] == "m" else 1)


def main(parsed: argparse.Namespace) -> int:
    """Go through the steps; the exit status is 1 where a test failed or a result was wrong."""
    if not torch.cuda.is_available():
        raise ValueError("PyTorch finds no GPU; `python -m benchmarks run` measures what runs without one")
    outcomes = spend(steps(parsed.out, parsed.data), parsed.budget, parsed.out)
    print((parsed.out / SUMMARY).read_text())
    return 1 if any(outcome.status.startswith("failed") for outcome in outcomes) else 0


def steps(out: Path, data: Path | None = None) -> list[Step]:
    """The most valuable first; what takes a store is left out without one."""
    quick = {
        case.name for operator in OPERATORS.values() for case in operator.cases if case.name in operator.quick
    }
    others = [
        case.name for operator in OPERATORS.values() for case in operator.cases if case.name not in quick
    ]
    run = ("-m", "benchmarks", "run")
    tests = (
        "-m", "pytest", "-m", "gpu", *sorted(map(str, TESTS.glob("test_*_gpu.py"))),
        "-q", "-p", "no:cacheprovider", "--tb=short",
        # Of these tests alone, without what those of `mica` share, which needs all of its dependencies.
        f"--confcutdir={TESTS}", "-o", "addopts=--import-mode=importlib --strict-markers -ra",
    )  # fmt: skip
    rows, tuned = str(out.resolve()), str(out.resolve() / "tuned")
    trainer_tests = ("-m", "pytest", "-m", "gpu", str(TRAINER_TESTS), "-q", "-p", "no:cacheprovider")
    wanted = [
        Step("build", ("-m", "mica_kernels", "build", "--arch", "native"), share=0.3, needs="tqdm"),
        Step("tests", tests, share=0.5),
        Step("headlines", (*run, *OPERATORS, "--quick", "--out", rows), share=0.7),
        Step("training", (*run, STEP, "--out", rows), share=0.5, least=20),
        Step("trainer tests", trainer_tests, share=0.3, needs="accelerate"),
        Step("engine", ("-m", "benchmarks.engine", "--out", rows), share=0.4, least=20, needs="accelerate"),
        Step("all sizes", (*run, *OPERATORS, "--case", *others, "--out", rows), share=0.75, least=20),
        Step(
            "tuning",
            (*run, *OPERATORS, "--quick", "--implementation", "fused", "--out", tuned),
            least=30,
            environment={"MICA_KERNELS_TUNE": "1", "MICA_KERNELS_CACHE": tuned},
            share=0.5 if data else 1.0,
        ),
    ]
    if data is not None:
        # Without text, so that no weights of a text encoder are needed.
        options = ("--data", str(data.resolve()), "--config", "mica-self/nw-ucla")
        accuracy = ("-m", "benchmarks.precision", *options, "--out", str(out.resolve() / "precision"))
        wanted.append(Step("accuracy", accuracy, least=60, needs="jsonargparse"))
    return wanted


def spend(wanted: Sequence[Step], budget: float, out: Path) -> list[Outcome]:
    """Run the steps within so many seconds; the summary is written anew after each."""
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + budget
    outcomes: list[Outcome] = []
    for step in wanted:
        left = deadline - time.monotonic()
        if step.needs is not None and find_spec(step.needs) is None:
            outcomes.append(Outcome(step, f"left out: {step.needs} is not installed", 0.0, []))
        elif left < step.least:
            outcomes.append(Outcome(step, "not started: no time left", 0.0, []))
        else:
            print(f"{step.name}: at most {step.share * left:.0f} of {left:.0f} s", flush=True)
            outcomes.append(_run(step, step.share * left, out))
        (out / SUMMARY).write_text("\n".join(summary(outcomes, out)) + "\n")
    return outcomes


def _run(step: Step, limit: float, out: Path) -> Outcome:
    """The step in a process group of its own, which is ended after so many seconds; its output goes to a file."""
    log = out / f"{step.name.replace(' ', '-')}.txt"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONUNBUFFERED": "1", **step.environment}
    started = time.monotonic()
    with log.open("w") as output:
        command = [sys.executable, *step.arguments]
        process = subprocess.Popen(
            command, cwd=HERE.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(limit)
            status = "done" if code == 0 else f"failed: exit status {code}"
        except subprocess.TimeoutExpired:
            status = "cut"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    printed = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return Outcome(step, status, time.monotonic() - started, printed)


def summary(outcomes: Sequence[Outcome], out: Path) -> list[str]:
    """What a person wants to know first, in under a hundred lines."""
    where = about(this_device())
    lines = [
        ", ".join(f"{name} {where[name]}" for name in ("device", "torch", "triton", "python", "commit")),
        "",
    ]
    lines += [f"{each.step.name:10} {each.seconds:6.0f} s  {each.status}" for each in outcomes]
    tests = [each for each in outcomes if each.step.name == "tests"]
    lines += [line[:160] for each in tests for line in each.printed[-12:] if _tells(line)]
    rows = _rows(out)
    lines += ["", *words.summary(rows), *_steps_of_training(rows), *_tuned(rows, _rows(out / "tuned"))]
    if len(lines) > LONGEST:
        lines = [
            *lines[: LONGEST - 1],
            f"({len(lines) - LONGEST + 1} lines more: `python -m benchmarks table {out}`)",
        ]
    return lines


def _tells(line: str) -> bool:
    """Whether a line of pytest's says how it went."""
    return line.startswith(("FAILED", "ERROR")) or re.search(r"\d+ (passed|failed|error)", line) is not None


def _rows(folder: Path) -> list[Row]:
    file = folder / ROWS
    return read_file(file) if file.exists() else []


def _steps_of_training(rows: Sequence[Row]) -> list[str]:
    of_step = pick(rows, operator=STEP)
    return ["", *(words.line(row) for row in of_step)] if of_step else []


def _tuned(rows: Sequence[Row], tuned: Sequence[Row]) -> list[str]:
    """What tuning gained, over the shipped configurations."""
    lines = []
    for row in measured(tuned):
        before = next(
            measured(
                pick(rows, **{name: row[name] for name in ("operator", "case", "implementation", "mode")})
            ),
            None,
        )
        if before is not None and row["mode"] == "both":
            gain = before["times"]["median"] / row["times"]["median"]
            lines.append(
                f"tuned: {row['operator']} {row['case']}: {gain:.2f} times as fast as with what is shipped"
            )
    return lines
