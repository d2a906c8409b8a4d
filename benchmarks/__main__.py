"""The suite: kernels against eager mode, torch.compile and the best known alternatives, correctness first.

python -m benchmarks list                                                  operators, cases, implementations
python -m benchmarks run --quick                                           a first impression, under three minutes
python -m benchmarks run spectral_gate --case cpu-joint --mode both        one row of the tables again
python -m benchmarks run --out benchmarks/results/my-machine               everything there is for this device
python -m benchmarks compare benchmarks/results/a benchmarks/results/b     two results, or two git revisions
python -m benchmarks plot benchmarks/results --out plots                   roofline, time against T, memory, training
python -m benchmarks table --write                                         the tables of README.md and the docs
python -m benchmarks gpu --budget 8m --out DIR                             little GPU time spent well
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import compare, gpu, plot, table, words
from benchmarks.operators import Operator
from benchmarks.registry import OPERATORS
from benchmarks.results import keep, this_device
from benchmarks.run import STEP, add_selection_arguments, run, selected


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 1 where something is wrong or out of date, 2 on bad input."""
    parsed = parser().parse_args(arguments)
    try:
        return parsed.command(parsed)
    except (OSError, ValueError) as error:
        print(f"benchmarks: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: stopped; the rows that were written are kept", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Of the whole command."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = made.add_subparsers(required=True)
    for name, about, add_arguments, command in (
        ("list", "what there is to run", lambda _: None, _list),
        ("run", "check and measure", _add_run_arguments, _run),
        ("compare", "two results, or two git revisions", compare.add_arguments, compare.main),
        ("plot", "pictures of results", plot.add_arguments, plot.main),
        ("table", "tables in Markdown", table.add_arguments, table.main),
        (
            "gpu",
            "tests, headline sizes, all else and tuning on a GPU, in little time",
            gpu.add_arguments,
            gpu.main,
        ),
    ):
        command_parser = commands.add_parser(name, help=about, description=about)
        add_arguments(command_parser)
        command_parser.set_defaults(command=command)
    return made


def _list(_: argparse.Namespace) -> int:
    for operator in OPERATORS.values():
        print("\n".join(_listed(operator)))
    print(f"{STEP}\n  the step of a pretraining, rung by rung")
    return 0


def _listed(operator: Operator) -> list[str]:
    lines = [operator.name]
    for device, cases in (("cuda", operator.cases), ("cpu", operator.cpu_cases)):
        for case in cases:
            names = ", ".join(operator.implementations(case, torch.device("cpu")))
            quick = " (quick)" if case.name in operator.quick else ""
            lines.append(f"  {device:4} {case.name:22} {names}{quick}")
    return lines


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection_arguments(parser)
    parser.add_argument("--device", default=this_device().type)
    parser.add_argument("--out", type=Path, help="a folder for the rows, where new ones replace old ones")


def _run(parsed: argparse.Namespace) -> int:
    selection = selected(parsed)
    if parsed.device.partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device is cpu or cuda, not {parsed.device}")
    device = torch.device(parsed.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no GPU; --device cpu measures what runs without one")
    print(words.HEAD)
    rows = []
    for row in run(selection, device):
        if words.reason_of(row) is None or row["mode"] not in selection.modes[1:]:  # a reason is said once
            print(words.line(row), flush=True)
        rows.append(row)
        if parsed.out is not None:
            keep(parsed.out, row)
    if not rows:
        raise ValueError("nothing of that name; `python -m benchmarks list` shows what there is")
    print("\n".join(["", *words.summary(rows)]))
    return 1 if any(row.get("failed") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
