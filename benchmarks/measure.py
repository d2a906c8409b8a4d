"""How a function is measured: time, Python's part, memory, and the replay of a CUDA graph, in every mode.

On a GPU times are by CUDA events, of many runs that go round several sets of arguments; the GPU is kept busy before
each run, so that a time has no waiting for Python in it, which is given apart.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

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
    """Milliseconds (median, 20th and 80th percentile), and a call's share of a loop of calls."""

    median: float
    p20: float
    p80: float
    runs: int
    looped: float | None = None


@dataclass
class Measured:
    """What was measured of one function in one mode.

    python_us: what a call keeps the processor busy. extra_bytes: the most held beyond what the mode is given. graph_ms:
    a call's share of the replay of a CUDA graph. Each is None where there is none: the first and last on a CPU and for
    the backward pass alone.
    """

    times: Times
    python_us: float | None = None
    extra_bytes: int | None = None
    graph_ms: float | None = None


def slots_for(slot_bytes: int, device: torch.device) -> int:
    """How many slots of so many bytes take several times the last cache; at least two."""
    return min(max(2, math.ceil(4 * last_cache_bytes(device) / slot_bytes)), 1024)


def last_cache_bytes(device: torch.device) -> int:
    """The L2 cache of a GPU; the L3 cache of a CPU, or 32 MiB where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    told = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    return 1024 * int(told.read_text().strip().removesuffix("K")) if told.exists() else 1 << 25


def differentiate(function: Function, slot: Slot) -> dict[str, Tensor]:
    """The result, as y, and the gradients, by their names."""
    y = function(*slot.arguments, **slot.options)
    gradients = torch.autograd.grad(y, list(slot.leaves.values()), slot.above)
    return {"y": y.detach(), **dict(zip(slot.leaves, gradients, strict=True))}


def relative_error(result: Tensor, exact: Tensor) -> float:
    """Error over size, by norms."""
    return (torch.linalg.vector_norm(result.double() - exact) / torch.linalg.vector_norm(exact)).item()


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


def measure(function: Function, slots: Sequence[Slot], device: torch.device) -> dict[str, Measured]:
    """Everything, by mode: forward (without a graph for autograd), backward and both."""
    run = Run(function, slots)
    run.forward(0, _nothing)  # for torch.compile another program than with a backward pass
    run.kept[0] = None
    extra_bytes = _extra_bytes(run, device)
    found: dict[str, Measured] = {}
    for part, modes in ((run.forward, ("forward",)), (run.both, ("forward, recorded", "backward", "both"))):
        python, looped = _by_the_clock(part, len(slots), device)
        spans = _spans(part, len(slots), looped, python, device)
        if len(modes) > 1:
            spans = [(*span, sum(span)) for span in spans]
        for mode, times in zip(modes, zip(*spans, strict=True), strict=True):
            whole = mode == modes[-1]
            found[mode] = Measured(
                times=_summary(times, 1e3 * looped if whole else None),
                python_us=1e6 * python if whole and device.type == "cuda" else None,
                extra_bytes=extra_bytes.get(mode),
                graph_ms=_replayed(part, len(slots), looped, device) if whole else None,
            )
    del found["forward, recorded"]
    return found


def timed(part: Part, slots: int, device: torch.device) -> Times:
    """Times of something that has two marks."""
    python, looped = _by_the_clock(part, slots, device)
    spans = _spans(part, slots, looped, python, device)
    return _summary([span[0] for span in spans], 1e3 * looped)


def _nothing() -> None:
    pass


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _by_the_clock(part: Part, slots: int, device: torch.device) -> tuple[float, float]:
    """Seconds that a call keeps Python busy, and that it takes in a loop of calls."""
    part(0, _nothing)
    wait(device)
    once = _loop(part, [1 % slots], device)
    if once[1] > LONG:
        return once
    calls = _count(0.05, once[1], 5, 30 if device.type == "cuda" else 5)
    turns = [call % slots for call in range(calls)]  # so few that the queue of the GPU takes them all
    loops = [_loop(part, turns, device) for _ in range(4)][1:]  # the first still warms up
    return min(python for python, _ in loops), loops[-1][1]


def _loop(part: Part, turns: Sequence[int], device: torch.device) -> tuple[float, float]:
    """A call's share of the seconds in which Python is busy with calls, and until they are done."""
    started = time.perf_counter()
    for slot in turns:
        part(slot, _nothing)
    python = time.perf_counter() - started
    wait(device)
    return python / len(turns), (time.perf_counter() - started) / len(turns)


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
        return max(3, fewest // 4)
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


LAUNCHES_MATTER = 0.01
"""Seconds of a call up to which a graph is worth its memory."""

MOST_CAPTURED = 8
"""Calls that a CUDA graph holds at most; each goes to a slot of its own."""


def _replayed(part: Part, slots: int, looped: float, device: torch.device) -> float | None:
    """Milliseconds of a call in a CUDA graph that is replayed; None without one, or where it gains nothing."""
    if device.type != "cuda" or looped > LAUNCHES_MATTER:
        return None
    calls, graph = min(slots, MOST_CAPTURED), torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):  # all has been warmed up by being timed
            for slot in range(calls):
                part(slot, _nothing)
    except Exception:  # what cannot be captured raises errors of many kinds, and leaves the stream usable
        torch.cuda.synchronize(device)
        return None

    def replay(_: int, mark: Mark) -> None:
        mark()
        graph.replay()
        mark()

    return timed(replay, 1, device).median / calls


def _extra_bytes(run: Run, device: torch.device) -> dict[str, int]:
    """The most memory held at a time beyond what a mode is given; backward is given y and what forward saved."""
    modes = (("forward", run.forward), ("both", run.both))
    if device.type != "cuda":
        found = {}
        for mode, part in modes:
            found[mode] = allocated(partial(part, 0, _nothing))
            run.kept[0] = None
        return found
    found, marks = {}, []

    def mark() -> None:
        torch.cuda.synchronize()
        marks.append((torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()))
        torch.cuda.reset_peak_memory_stats()

    for mode, part in modes:
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


def allocated(work: Callable[[], object]) -> int:
    """The most bytes that PyTorch's allocator for the CPU has given out at a time during the work.

    >>> allocated(lambda: torch.ones(1000) + torch.ones(1000))
    12000
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        work()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
