"""What the benchmarks on a GPU share: times, memory, Python's part, the file of results and the command line.

Times are by CUDA events, of many runs that go round several sets of arguments; the GPU is kept busy before each run,
so that a time has no waiting for Python in it, which is given apart. What is wrong is not timed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

MODES = ("forward", "backward", "both")
LONG = 0.1
"""Seconds from which on a call is repeated a few times only."""

Function = Callable[..., Tensor]
Mark = Callable[[], None]
Part = Callable[[int, Mark], None]
"""Runs on the arguments of a slot, and calls the mark before, between and after what is to be timed."""


@dataclass(frozen=True)
class Slot:
    """The arguments of a call; which of them get gradients, by the names of these; and the gradient of the result."""

    arguments: tuple[Any, ...]
    leaves: dict[str, Tensor]
    above: Tensor
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Times:
    """Milliseconds: of the GPU (median, 20th and 80th percentile), and a call's share of a loop of calls."""

    median: float
    p20: float
    p80: float
    runs: int
    looped: float | None = None


@dataclass
class Result:
    """What was measured of one implementation: times by mode, extra bytes by mode, Python's microseconds by mode."""

    first_call: float = 0.0
    times: dict[str, Times] = field(default_factory=dict)
    extra_bytes: dict[str, int] = field(default_factory=dict)
    python: dict[str, float] = field(default_factory=dict)
    error: str = ""


def slots_for(slot_bytes: int, device: torch.device) -> int:
    """How many slots of so many bytes take several times the L2 cache; at least two."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
    return min(max(2, math.ceil(4 * cache / slot_bytes)), 1024)


def differentiate(function: Function, slot: Slot) -> dict[str, Tensor]:
    """The result, as y, and the gradients, by their names."""
    y = function(*slot.arguments, **slot.options)
    gradients = torch.autograd.grad(y, list(slot.leaves.values()), slot.above)
    return {"y": y.detach(), **dict(zip(slot.leaves, gradients, strict=True))}


def relative_error(result: Tensor, exact: Tensor) -> float:
    """Error over size, by norms."""
    return (torch.linalg.vector_norm(result.double() - exact) / torch.linalg.vector_norm(exact)).item()


def within(errors: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    """The errors over sizes; raises where one is too large."""
    wrong = [
        f"{name} is off by {error:.2g} of its size, and may be by {limits[name]:.2g}"
        for name, error in errors.items()
        if not error <= limits[name]  # nor is a NaN
    ]
    if wrong:
        raise ArithmeticError("; ".join(wrong))
    return errors


def attempt(
    row: dict[str, Any],
    name: str,
    function: Function,
    slots: Sequence[Slot],
    check: Callable[[dict[str, Tensor]], dict[str, float]],
    device: torch.device,
) -> None:
    """Check an implementation and measure it, into the row; what fails leaves its error there.

    `check` takes what `differentiate` gives; it returns errors, or raises where they are too large.
    """
    try:
        started = time.perf_counter()
        results = differentiate(function, slots[0])
        _wait(device)
        first_call = time.perf_counter() - started
        row["errors"][name] = check(results)
        del results
        result = measure(function, slots, device)
        result.first_call = first_call
    except Exception as error:  # wrong results, no memory, and what compilers raise, of many kinds
        result = Result(error=f"{type(error).__name__}: {error}"[:2000])
    row["results"][name] = asdict(result)
    if device.type == "cuda":
        torch.cuda.empty_cache()


class Run:
    """Calls of an implementation on slots of arguments; `mark` is called between its parts.

    Results are kept until the slot comes round again, so that the allocator does not give out the same memory, which
    lies in the cache, again and again.
    """

    def __init__(self, function: Function, slots: Sequence[Slot]) -> None:
        self.function, self.slots = function, slots
        self.kept: list[Any] = [None] * len(slots)

    def forward(self, slot: int, mark: Mark) -> None:
        given = self.slots[slot]
        mark()
        with torch.no_grad():
            self.kept[slot] = self.function(*given.arguments, **given.options)
        mark()

    def both(self, slot: int, mark: Mark) -> None:
        given = self.slots[slot]
        leaves = list(given.leaves.values())
        mark()
        y = self.function(*given.arguments, **given.options)
        mark()
        gradients = torch.autograd.grad(y, leaves, given.above)
        mark()
        self.kept[slot] = (y.detach(), gradients)


def measure(function: Function, slots: Sequence[Slot], device: torch.device) -> Result:
    """Times, memory and Python's part of an implementation in every mode."""
    result = Result()
    run = Run(function, slots)
    run.forward(0, _nothing)  # for torch.compile another program than with a backward pass
    run.kept[0] = None
    if device.type == "cuda":
        result.extra_bytes = _extra_bytes(run)
    for part, modes in ((run.forward, ("forward",)), (run.both, ("forward, recorded", "backward", "both"))):
        python, looped = _by_the_clock(part, len(slots), device)
        spans = _spans(part, len(slots), looped, python, device)
        if len(modes) > 1:
            spans = [(*span, sum(span)) for span in spans]
        for mode, times in zip(modes, zip(*spans, strict=True), strict=True):
            result.times[mode] = _summary(times, 1e3 * looped if mode in ("forward", "both") else None)
        result.python[modes[-1]] = 1e6 * python
    return result


def timed(part: Part, slots: int, device: torch.device) -> Times:
    """Times of something that has two marks."""
    python, looped = _by_the_clock(part, slots, device)
    spans = _spans(part, slots, looped, python, device)
    return _summary([span[0] for span in spans], 1e3 * looped)


def _nothing() -> None:
    pass


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _by_the_clock(part: Part, slots: int, device: torch.device) -> tuple[float, float]:
    """Seconds that a call keeps Python busy, and that it takes in a loop of calls."""
    for slot in range(3):
        part(slot % slots, _nothing)
    _wait(device)
    started = time.perf_counter()
    part(0, _nothing)
    _wait(device)
    calls = _count(0.05, time.perf_counter() - started, 5, 30 if device.type == "cuda" else 5)
    python = []
    for _ in range(3):
        started = time.perf_counter()
        for call in range(calls):  # so few that the queue of the GPU takes them all
            part(call % slots, _nothing)
        python.append(time.perf_counter() - started)
        _wait(device)
        looped = time.perf_counter() - started
    return min(python) / calls, looped / calls


def _spans(
    part: Part, slots: int, estimate: float, python: float, device: torch.device
) -> list[tuple[float, ...]]:
    """Milliseconds between marks, of many runs."""
    if device.type != "cuda":
        spans = []
        for turn in range(_count(0.05, estimate, 3, 20)):
            ticks: list[float] = []
            part(turn % slots, lambda ticks=ticks: ticks.append(1e3 * time.perf_counter()))
            spans.append(_differences(ticks))
        return spans
    # As long as the GPU spins, Python gets ahead: cycles of at most 2 GHz, twice what a call takes; where that is
    # long, Python was waiting for the GPU, whose queue was full.
    spin = int(2e9 * min(2 * python + 50e-6, 0.02))
    runs: list[list[torch.cuda.Event]] = []
    for turn in range(_count(0.15, estimate, 20, 200)):
        events: list[torch.cuda.Event] = []
        torch.cuda._sleep(spin)
        part(turn % slots, partial(_record, events))
        runs.append(events)
        if turn % 10 == 9:  # the queue holds about a thousand launches
            torch.cuda.synchronize(device)
    torch.cuda.synchronize(device)
    return [tuple(first.elapsed_time(second) for first, second in pairwise(events)) for events in runs]


def _record(events: list[torch.cuda.Event]) -> None:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    events.append(event)


def _differences(ticks: Sequence[float]) -> tuple[float, ...]:
    return tuple(second - first for first, second in pairwise(ticks))


def _count(budget: float, each: float, fewest: int, most: int) -> int:
    if each > LONG:
        return max(1, fewest // 4)
    return max(fewest, min(most, int(budget / max(each, 1e-9))))


def _summary(times: Sequence[float], looped: float | None) -> Times:
    ordered = sorted(times)
    last = len(ordered) - 1
    return Times(
        median=statistics.median(ordered),
        p20=ordered[round(0.2 * last)],
        p80=ordered[round(0.8 * last)],
        runs=len(ordered),
        looped=looped,
    )


def _extra_bytes(run: Run) -> dict[str, int]:
    """The most memory held at a time beyond what a mode is given; backward is given y and what forward saved."""
    found, marks = {}, []

    def mark() -> None:
        torch.cuda.synchronize()
        marks.append((torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()))
        torch.cuda.reset_peak_memory_stats()

    for mode, part in (("forward", run.forward), ("both", run.both)):
        marks.clear()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        part(0, mark)
        start = marks[0][0]
        found[mode] = max(peak for _, peak in marks[1:]) - start
        if mode == "both":
            found["backward"] = marks[2][1] - marks[1][0]
        run.kept[0] = None
    return found


def times_of(row: dict[str, Any], mode: str, kind: str) -> dict[str, float]:
    """Of every implementation that was measured."""
    results = row["results"].items()
    return {name: result["times"][mode][kind] for name, result in results if mode in result["times"]}


def speedup(row: dict[str, Any], mode: str, kind: str) -> float | None:
    """How many times faster than the fastest other; None where not measured."""
    times = times_of(row, mode, kind)
    fused = times.pop("fused", None)
    return None if fused is None or not times else min(times.values()) / fused


@contextmanager
def recorded(path: Path, about: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Gives a function that adds a row to the file; the file is whole at any time."""
    document: dict[str, Any] = {**about, "left_out": [], "rows": []}

    def add(row: dict[str, Any]) -> None:
        document["left_out" if "reason" in row else "rows"].append(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(document, indent=1))
        temporary.replace(path)

    yield add


def about(device: torch.device) -> dict[str, Any]:
    """Where and with what the results were made."""
    from mica_kernels.prebuilt import triton_version

    found: dict[str, Any] = {"device": "cpu", "torch": torch.__version__, "triton": triton_version()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        }
    return {**found, "commit": _commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


Work = Sequence[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]
"""What names a row, and what makes it."""


def run(work: Work, out: Path, device: torch.device, minutes: float) -> dict[str, Any]:
    """Make all rows, as many as there is time for; returns what is in the file."""
    deadline = time.monotonic() + 60 * minutes
    with recorded(out, about(device)) as add:
        for title, make in tqdm(work, desc="cases"):
            if time.monotonic() > deadline:
                add({**title, "reason": f"more than {minutes} minutes had gone"})
                continue
            try:
                add(make())
            except Exception as error:  # no memory for the arguments, say: the next case may have it
                add({**title, "reason": str(error)[:2000]})
    return json.loads(out.read_text())


def origin(document: dict[str, Any], script: str) -> str:
    """Where a table in Markdown comes from."""
    return (
        f"Generated by `python -m benchmarks.{script} table`. {document['device']}, PyTorch {document['torch']}, "
        f"Triton {document['triton']}, commit {document['commit']}, {document['date']}."
    )


def left_out(document: dict[str, Any], where: Callable[[dict[str, Any]], str]) -> list[str]:
    """A line for each case that was not run."""
    return [f"left out: {where(row)}: {row['reason']}" for row in document["left_out"]]


def failures(document: dict[str, Any], where: Callable[[dict[str, Any]], str]) -> list[str]:
    """A line for each implementation that failed."""
    return [
        f"failed: {where(row)}, {name}: {result['error']}"
        for row in document["rows"]
        for name, result in row["results"].items()
        if result["error"]
    ]


def milliseconds(row: dict[str, Any], name: str, mode: str, spread: bool = False) -> str:
    """The median of an implementation, and its percentiles, for a table."""
    times = row["results"].get(name, {}).get("times", {}).get(mode)
    if not times:
        return ""
    return f"{times['median']:.4f}" + (f" ({times['p20']:.4f}-{times['p80']:.4f})" if spread else "")


def shown(value: float | None, form: str) -> str:
    """A number, or nothing, for a table."""
    return "" if value is None else format(value, form)


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A table."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]


def command_line(
    arguments: Sequence[str] | None,
    *,
    description: str | None,
    minutes: float,
    cases: dict[str, Sequence[Any]],
    run: Callable[[Sequence[Any], Path, torch.device, float], dict[str, Any]],
    short: Callable[[dict[str, Any]], str],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """Run the cases, "all", "quick" or "cpu", and print `short`; or print a file's `table`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("file", nargs="?", type=Path, help="of results, for `table`")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help=f"{len(cases['quick'])} cases only")
    parser.add_argument("--minutes", type=float, default=minutes, help="start no further case after these")
    parser.add_argument(
        "--device", default="cuda", help="cpu: a few tiny cases by the reference, to try the script"
    )
    parsed = parser.parse_args(arguments)
    if parsed.action == "table":
        if parsed.file is None:
            parser.error("table needs the file of results")
        print(table(json.loads(parsed.file.read_text())), end="")
        return
    if parsed.out is None:
        parser.error("--out is needed: the JSON file to write")
    device = torch.device(parsed.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU; --device cpu tries the script, and measures nothing of worth")
    kind = "cpu" if device.type == "cpu" else "quick" if parsed.quick else "all"
    print(short(run(cases[kind], parsed.out, device, parsed.minutes)))
