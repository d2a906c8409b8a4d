"""Checking, measuring and recording: from an operator's case to rows."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import ceilings, measure
from benchmarks.measure import Function, Measured, Slot
from benchmarks.operators import LeftOutError, Make, Operator, WrongResultError
from benchmarks.registry import OPERATORS
from benchmarks.results import KEY, MODES, Row, stamp

STEP = "pretraining_step"
NAMES = (*OPERATORS, STEP)
CASES = {case.name for operator in OPERATORS.values() for case in (*operator.cases, *operator.cpu_cases)}
QUICK = frozenset().union(*(operator.quick for operator in OPERATORS.values()))


@dataclass(frozen=True)
class Selection:
    """What to run; an empty tuple stands for all. quick: the few cases of a quick run."""

    operators: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    implementations: tuple[str, ...] = ()
    modes: tuple[str, ...] = MODES
    quick: bool = False

    def has(self, row: Row) -> bool:
        """Whether a row that was kept is of this selection."""
        if self.quick and row["case"] not in QUICK:
            return False
        chosen = (self.operators, self.cases, self.implementations, self.modes if self.modes != MODES else ())
        return all(not names or row[part] in names for names, part in zip(chosen, KEY, strict=True))


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """What a command says of what to run."""
    parser.add_argument("operator", nargs="*", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--case", nargs="+", default=[], metavar="CASE", help="named sizes, of any device")
    parser.add_argument("--implementation", nargs="+", default=[], metavar="NAME", help="all by default")
    parser.add_argument("--mode", nargs="+", default=MODES, choices=MODES, help="all by default")
    parser.add_argument("--quick", action="store_true", help="a few cases of each operator")


def selected(parsed: argparse.Namespace) -> Selection:
    """What was said; raises ValueError for an operator or a case that does not exist."""
    unknown = [name for name in parsed.operator if name not in NAMES]
    unknown += [name for name in parsed.case if name not in CASES]
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; `python -m benchmarks list` shows what there is")
    return Selection(
        operators=tuple(parsed.operator),
        cases=tuple(parsed.case),
        implementations=tuple(parsed.implementation),
        modes=tuple(parsed.mode),
        quick=parsed.quick,
    )


def run(selection: Selection, device: torch.device) -> Iterator[Row]:
    """The rows of a selection, each as soon as it is measured; the training step comes last."""
    one = selection.cases or selection.implementations  # of which the training step has none
    for name in selection.operators or (tuple(OPERATORS) if one else NAMES):
        if name == STEP:
            yield from _steps(selection, device)
            continue
        for case in OPERATORS[name].chosen(device, selection.quick, selection.cases):
            yield from rows(OPERATORS[name], case, device, selection.implementations, selection.modes)


def _steps(selection: Selection, device: torch.device) -> Iterator[Row]:
    try:
        from benchmarks import training  # needs what mica needs, which the operators do not
    except ModuleNotFoundError as error:
        reason = {"left_out": f"{error.name} is not installed"}
        yield {
            "operator": STEP,
            "case": "NTU",
            "implementation": "all",
            "mode": "step",
            **reason,
            **stamp(device),
        }
        return
    for row in training.rows(device, selection.quick):
        yield {**row, **stamp(device)}


def rows(
    operator: Operator,
    case: Any,
    device: torch.device,
    implementations: Sequence[str] = (),
    modes: Sequence[str] = MODES,
) -> Iterator[Row]:
    """The rows of a case, each as soon as it is measured; of these implementations, or of all."""
    try:
        slots = operator.slots(case, device)
        right = operator.exact(case, slots[0])
    except torch.OutOfMemoryError as error:  # the next case may fit
        yield _row(operator, case, "all", modes[0], device, {"failed": f"no memory for the inputs: {error}"})
        return
    if (
        operator.floor is not None
        and "forward" in modes
        and (not implementations or "copy" in implementations)
    ):
        times = measure.timed(operator.floor(slots), len(slots), device)
        yield _row(operator, case, "copy", "forward", device, {"times": asdict(times)})
    for name, make in operator.implementations(case, device).items():
        if implementations and name not in implementations:
            continue
        other = operator.other_exact.get(name)
        exact = right if other is None else other(case, slots[0])
        found = _outcome(operator, case, make, slots, exact, device)
        for mode in modes:
            yield _row(operator, case, name, mode, device, found[mode])
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _outcome(
    operator: Operator,
    case: Any,
    make: Make,
    slots: Sequence[Slot],
    right: dict[str, Tensor],
    device: torch.device,
) -> dict[str, Row]:
    """What was measured of an implementation, by mode, or why nothing was."""
    try:
        return _measured(operator, case, make(), slots, right, device)
    except LeftOutError as reason:
        reasons = {"left_out": str(reason)}
    except WrongResultError as wrong:
        reasons = {"failed": f"wrong, and so not timed: {wrong}"}
    except Exception as error:  # no memory, and what compilers raise, of many kinds
        reasons = {"failed": f"{type(error).__name__}: {error}"[:2000]}
    return {mode: reasons for mode in MODES}


def _measured(
    operator: Operator,
    case: Any,
    function: Function,
    slots: Sequence[Slot],
    right: dict[str, Tensor],
    device: torch.device,
) -> dict[str, Row]:
    """By mode. Raises WrongResultError before anything is timed."""
    started = time.perf_counter()
    with (
        torch.no_grad()
    ):  # with torch.compile, and with what keeps nothing, another program than with gradients
        alone = function(*slots[0].arguments, **slots[0].options)
    results = measure.differentiate(function, slots[0])
    measure.wait(device)
    first_calls = time.perf_counter() - started
    errors = operator.check(case, results, right)
    operator.check(case, {"y": alone}, right)
    del results, alone
    found = measure.measure(function, slots, device)
    # What is left of the first calls when ordinary ones are taken off: compiling, and all that happens once.
    ordinary = 1e-3 * (found["forward"].times.median + found["both"].times.median)
    once = {
        "errors": errors,
        "first_calls_s": first_calls,
        "compile_s": max(0.0, first_calls - ordinary),
    }
    return {
        mode: {**asdict(of_mode), **shares(operator, case, mode, of_mode, device), **once}
        for mode, of_mode in found.items()
    }


def shares(operator: Operator, case: Any, mode: str, of_mode: Measured, device: torch.device) -> Row:
    """What the mode cannot avoid, and which share of the device's measured rates that comes to in its time."""
    work, seconds = operator.work(case, mode), 1e-3 * of_mode.times.median
    return {
        "bytes": work.bytes,
        "flops": work.flops,
        "copy_rate": ceilings.copy_rate(device),
        "matrix_rate": ceilings.matrix_rate(case.dtype, device),
        "bandwidth_share": work.bytes / seconds / ceilings.copy_rate(device),
        "rate_share": work.flops / seconds / ceilings.matrix_rate(case.dtype, device),
    }


def _row(operator: Operator, case: Any, name: str, mode: str, device: torch.device, found: Row) -> Row:
    about = {"operator": operator.name, "case": case.name, "implementation": name, "mode": mode}
    return {**about, "size": asdict(case), **found, **stamp(device)}
