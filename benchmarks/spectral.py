"""The spectral gate on a GPU: fused kernel, plain copy, eager FFT, torch.compile and circulant matrices side by side.

    python -m benchmarks.spectral --out benchmarks/results/h200/spectral.json      under six minutes; --quick: one
    python -m benchmarks.spectral table benchmarks/results/h200/spectral.json      the results in Markdown

Every case is first checked against the reference in float64; what is wrong is not timed. Times are by CUDA events, of
many runs over random signals that together exceed the L2 cache; the GPU is kept busy before each run, so that a time
has no waiting for Python in it, which is given apart. Results are written after each case, the headline first.
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

from mica_kernels import spectral_gate
from mica_kernels.spectral import reference

ALL = ("joint", "none", "bin")
MODES = ("forward", "backward", "both")
GROUPS = 4
Gate = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Case:
    """Signals of one shape (N, C, T, V), and what is run on them; `compiled`: where torch.compile takes part."""

    name: str
    shape: tuple[int, int, int, int]
    dtype: str = "bfloat16"
    layout: str = "channels_last"
    sparsities: tuple[str, ...] = ("joint", "none")
    compiled: tuple[str, ...] = ("joint",)

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


HEADLINE = Case("headline", (512, 64, 64, 25), sparsities=ALL, compiled=ALL)
CASES = (
    HEADLINE,
    Case("T = 32", (512, 64, 32, 25)),
    Case("T = 128", (512, 64, 128, 25)),
    Case("contiguous", (512, 64, 64, 25), layout="contiguous"),
    Case("float32", (512, 64, 64, 25), dtype="float32"),
    Case("micro", (1, 64, 64, 25)),
    Case("2^22", (41, 64, 64, 25)),
    Case("small", (8, 64, 64, 25), compiled=()),
    Case("NTU, T = 50", (256, 64, 50, 25), compiled=()),
    Case("NTU, T = 100", (256, 64, 100, 25), compiled=()),
    Case("NTU, T = 300", (256, 64, 300, 25), compiled=()),
    Case("deep", (256, 256, 16, 25), compiled=()),
    Case("float16", (512, 64, 64, 25), dtype="float16", sparsities=("joint",), compiled=()),
    Case("float32, T = 128", (256, 64, 128, 25), dtype="float32", sparsities=("joint",), compiled=()),
    Case("float32, T = 300", (128, 64, 300, 25), dtype="float32", sparsities=("joint",), compiled=()),
    Case("contiguous, T = 300", (256, 64, 300, 25), layout="contiguous", sparsities=("joint",), compiled=()),
    Case("large", (2048, 64, 64, 25), sparsities=("joint",), compiled=()),
)
QUICK = tuple(
    Case(case.name, case.shape, sparsities=("joint",), compiled=("joint",) if case is HEADLINE else ())
    for case in CASES[:3]
)
TINY = (
    Case("tiny", (2, 8, 16, 5), dtype="float32", sparsities=ALL, compiled=()),
    Case("tiny, contiguous", (2, 8, 9, 5), layout="contiguous", compiled=()),
)
"""For a machine without a GPU: they show that this script runs, and nothing else."""

AIMS = {
    ("headline", "forward"): 1.25, ("headline", "backward"): 1.9,
    ("T = 32", "forward"): 1.5, ("T = 32", "backward"): 2.3,
    ("T = 128", "forward"): 1.5, ("T = 128", "backward"): 2.3,
}  # fmt: skip
"""The most that a mode may take, in times of a copy of its signals."""

SPEEDUP, SPEEDUP_FROM = 4.0, 1 << 22
"""How many times faster than the fastest alternative, forward and backward, from how many elements on."""

TOLERANCE = {"float32": 1e-4, "float16": 3e-3, "bfloat16": 1.5e-2}
"""Error over size, by norms."""

GATED = {"float32": 1e-2, "float16": 5e-2, "bfloat16": 0.15}
"""So for gradients through a gate: what lies at its threshold has one slope or another, as its rounding decides."""


@dataclass(frozen=True)
class Inputs:
    """Many pairs of signals and gradients to go round, and one set of parameters."""

    x: list[Tensor]
    dy: list[Tensor]
    weight: Tensor
    threshold: Tensor | None

    @property
    def wanted(self) -> list[Tensor]:
        return [self.weight] if self.threshold is None else [self.weight, self.threshold]


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


def make_inputs(case: Case, sparsity: str, device: torch.device) -> Inputs:
    """Random signals, as many as take several times the L2 cache, and a threshold near what the signals have."""
    channels, frames, joints = case.shape[1:]
    dtype = getattr(torch, case.dtype)
    pair = 2 * case.numel * dtype.itemsize
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0
    count = min(max(2, math.ceil(4 * cache / pair)), 1024)
    form = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
    random = torch.Generator(device).manual_seed(0)

    def signal() -> Tensor:
        drawn = torch.randn(case.shape, generator=random, device=device, dtype=torch.float32)
        return drawn.to(dtype).contiguous(memory_format=form)

    weight = 0.3 * torch.randn(GROUPS, frames // 2 + 1, joints, 2, generator=random, device=device)
    weight[..., 0] += 1
    bins = 2 * torch.arange(frames // 2 + 1, device=device) % frames == 0
    weight[:, bins, :, 1] = 0  # the circulant matrices want it so; it has no effect
    threshold = 0.4 + 0.8 * torch.rand(GROUPS, joints, generator=random, device=device)
    assert channels % GROUPS == 0
    return Inputs(
        x=[signal().requires_grad_() for _ in range(count)],
        dy=[signal() for _ in range(count)],
        weight=weight.requires_grad_(),
        threshold=None if sparsity == "none" else threshold.requires_grad_(),
    )


def implementations(case: Case, sparsity: str, device: torch.device) -> dict[str, Gate]:
    """By name, `fused` first."""
    kind = "joint" if sparsity == "none" else sparsity
    found: dict[str, Gate] = {
        "fused": partial(spectral_gate, sparsity=kind, impl="triton" if device.type == "cuda" else "auto"),
        "eager": eager(sparsity),
    }
    if sparsity in case.compiled:
        torch.compiler.reset()
        found["compiled"] = torch.compile(eager(sparsity), dynamic=False)
    if sparsity == "none":
        found["circulant"] = circulant
    return found


def eager(sparsity: str) -> Gate:
    """The reference."""
    kind = "joint" if sparsity == "none" else sparsity

    def gate(x: Tensor, weight: Tensor, threshold: Tensor | None) -> Tensor:
        return reference.spectral_gate(x, weight, threshold, kind)

    return gate


def circulant(x: Tensor, weight: Tensor, threshold: Tensor | None = None) -> Tensor:
    """The filter alone, as a circulant [frames x frames] matrix for each group and joint; y in any memory format."""
    frames = x.shape[2]
    taps = torch.fft.irfft(torch.view_as_complex(weight), n=frames, dim=1).flip(1)
    # Row t, column s holds the tap t - s: windows over the taps, backwards and twice, the last window first.
    windows = torch.cat([taps, taps[:, :-1]], dim=1).unfold(1, frames, 1)
    matrices = windows.to(x.dtype).flip(1)
    return torch.einsum("gtvs,ngcsv->ngctv", matrices, x.unflatten(1, (len(weight), -1))).flatten(1, 2)


def check(
    case: Case, sparsity: str, results: dict[str, Tensor], exact: dict[str, Tensor]
) -> dict[str, float]:
    """Errors over sizes of y and the gradients; raises where one is too large."""
    errors, wrong = {}, []
    for name, result in results.items():
        error = torch.linalg.vector_norm(result.double() - exact[name]) / torch.linalg.vector_norm(
            exact[name]
        )
        errors[name] = error.item()
        limit = (TOLERANCE if name == "y" or sparsity == "none" else GATED)[case.dtype]
        if not errors[name] <= limit:  # nor is a NaN
            wrong.append(f"{name} is off by {errors[name]:.2g} of its size, and may be by {limit:.2g}")
    if wrong:
        raise ArithmeticError("; ".join(wrong))
    return errors


def _differentiate(
    gate: Gate, x: Tensor, dy: Tensor, weight: Tensor, threshold: Tensor | None
) -> dict[str, Tensor]:
    leaves = {"dx": x, "dweight": weight} | ({} if threshold is None else {"dthreshold": threshold})
    y = gate(x, weight, threshold)
    gradients = torch.autograd.grad(y, list(leaves.values()), dy.detach())
    return {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}


class Run:
    """One call of an implementation on one pair of signals; `mark` is called between its parts.

    Results are kept until the pair comes round again, so that the allocator does not give out the same memory, which
    lies in the cache, again and again.
    """

    def __init__(self, gate: Gate, inputs: Inputs, kept: list[Any]) -> None:
        self.gate, self.inputs, self.kept = gate, inputs, kept

    def forward(self, slot: int, mark: Callable[[], None]) -> None:
        mark()
        with torch.no_grad():
            self.kept[slot] = self.gate(self.inputs.x[slot], self.inputs.weight, self.inputs.threshold)
        mark()

    def both(self, slot: int, mark: Callable[[], None]) -> None:
        x, inputs = self.inputs.x[slot], self.inputs
        mark()
        y = self.gate(x, inputs.weight, inputs.threshold)
        mark()
        gradients = torch.autograd.grad(y, [x, *inputs.wanted], inputs.dy[slot])
        mark()
        self.kept[slot] = (y.detach(), gradients)


class Copy:
    """The floor: y.copy_(x)."""

    def __init__(self, inputs: Inputs) -> None:
        self.x = [x.detach() for x in inputs.x]
        self.y = [torch.empty_like(x) for x in self.x]

    def forward(self, slot: int, mark: Callable[[], None]) -> None:
        mark()
        self.y[slot].copy_(self.x[slot])
        mark()


def measure(gate: Gate, inputs: Inputs, device: torch.device) -> Result:
    """Times, memory and Python's part of an implementation in every mode."""
    result = Result()
    kept: list[Any] = [None] * len(inputs.x)
    run = Run(gate, inputs, kept)
    run.forward(0, _nothing)  # for torch.compile another program than with a backward pass
    kept[0] = None
    if device.type == "cuda":
        result.extra_bytes = _extra_bytes(run, inputs)
    for part, modes in ((run.forward, ("forward",)), (run.both, ("forward, recorded", "backward", "both"))):
        python, looped = _by_the_clock(part, len(kept), device)
        spans = _spans(part, len(kept), looped, python, device)
        if len(modes) > 1:
            spans = [(*span, sum(span)) for span in spans]
        for mode, times in zip(modes, zip(*spans, strict=True), strict=True):
            result.times[mode] = _summary(times, 1e3 * looped if mode in ("forward", "both") else None)
        result.python[modes[-1]] = 1e6 * python
    return result


def measure_copy(inputs: Inputs, device: torch.device) -> Times:
    copy = Copy(inputs)
    python, looped = _by_the_clock(copy.forward, len(copy.y), device)
    spans = _spans(copy.forward, len(copy.y), looped, python, device)
    return _summary([span[0] for span in spans], 1e3 * looped)


Part = Callable[[int, Callable[[], None]], None]


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
    # As long as the GPU spins, Python gets ahead: cycles of at most 2 GHz, twice what a call takes.
    spin = int(2e9 * (2 * python + 50e-6))
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


def _extra_bytes(run: Run, inputs: Inputs) -> dict[str, int]:
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


def run_case(case: Case, sparsity: str, device: torch.device) -> dict[str, Any]:
    """A row of results; what fails leaves its error there."""
    inputs = make_inputs(case, sparsity, device)
    row = {**asdict(case), "sparsity": sparsity, "numel": case.numel, "item": inputs.x[0].element_size()}
    for name in ("sparsities", "compiled"):
        del row[name]
    row |= {"slots": len(inputs.x), "copy": asdict(measure_copy(inputs, device)), "errors": {}, "results": {}}
    sample = (inputs.x[0], inputs.dy[0], inputs.weight, inputs.threshold)
    doubles = (None if tensor is None else tensor.detach().double().requires_grad_() for tensor in sample)
    exact = _differentiate(eager(sparsity), *doubles)
    for name, gate in implementations(case, sparsity, device).items():
        try:
            started = time.perf_counter()
            results = _differentiate(gate, *sample)
            _wait(device)
            first_call = time.perf_counter() - started
            row["errors"][name] = check(case, sparsity, results, exact)
            del results
            result = measure(gate, inputs, device)
            result.first_call = first_call
        except Exception as error:  # wrong results, no memory, and what compilers raise, of many kinds
            result = Result(error=f"{type(error).__name__}: {error}"[:2000])
        row["results"][name] = asdict(result)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return row


def ratios(row: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """By mode: times of a copy, and how many times faster than the fastest other; None where not measured."""
    found = {}
    for mode in MODES:
        times = _times(row, mode, "median")
        fused = times.pop("fused", None)
        found[mode] = {
            "copies": None if fused is None else fused / row["copy"]["median"],
            "speedup": None if fused is None or not times else min(times.values()) / fused,
        }
    times = _times(row, "both", "looped")
    fused = times.pop("fused", None)
    found["both"]["looped"] = None if fused is None or not times else min(times.values()) / fused
    return found


def _times(row: dict[str, Any], mode: str, kind: str) -> dict[str, float]:
    results = row["results"].items()
    return {name: result["times"][mode][kind] for name, result in results if mode in result["times"]}


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was aimed for, and whether it was reached."""
    lines = []
    for row in rows:
        if row["name"].startswith("tiny"):
            continue
        of = ratios(row)
        where = f"{row['name']}, {row['sparsity']}"
        for mode in ("forward", "backward"):
            aim, got = AIMS.get((row["name"], mode)), of[mode]["copies"]
            if aim is not None and got is not None:
                lines.append(
                    f"{'met   ' if got <= aim else 'MISSED'} {where}: {mode} {got:.2f} copies, aim {aim}"
                )
        aim = SPEEDUP if row["numel"] >= SPEEDUP_FROM else 1.0
        for got, what in (
            (of["both"]["speedup"], "on the GPU"),
            (of["both"]["looped"], "in a loop of calls"),
        ):
            if got is not None and got < aim:
                lines.append(
                    f"MISSED {where}: {got:.2f} times as fast as the best other {what}, aim {aim:.0f}"
                )
    return lines


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


def run(cases: Sequence[Case], out: Path, device: torch.device, minutes: float) -> dict[str, Any]:
    """Run all cases, as many as there is time for; returns what is in the file."""
    deadline = time.monotonic() + 60 * minutes
    work = [(case, sparsity) for case in cases for sparsity in case.sparsities]
    with recorded(out, about(device)) as add:
        for case, sparsity in tqdm(work, desc="cases"):
            if time.monotonic() > deadline:
                add(
                    {
                        "name": case.name,
                        "sparsity": sparsity,
                        "reason": f"more than {minutes} minutes had gone",
                    }
                )
                continue
            try:
                add(run_case(case, sparsity, device))
            except Exception as error:  # no memory for the signals, say: the next case may have it
                add({"name": case.name, "sparsity": sparsity, "reason": str(error)[:2000]})
    return json.loads(out.read_text())


def short(document: dict[str, Any]) -> str:
    """A line a case, and the aims."""
    head = f"{'case':20} {'gate':5} {'copy':>7} {'forward':>15} {'backward':>15} {'both':>7} {'faster':>7} {'µs':>7}"
    lines = [
        f"{document['device']}: milliseconds (copies), times faster than the best other, Python's microseconds",
        head,
    ]
    for row in document["rows"]:
        fused, of = row["results"]["fused"], ratios(row)
        start = f"{row['name']:20} {row['sparsity']:5} {row['copy']['median']:7.4f}"
        if fused["error"]:
            lines.append(f"{start} {fused['error'][:100]}")
            continue
        modes = [
            f"{fused['times'][m]['median']:7.4f} ({of[m]['copies']:5.2f})" for m in ("forward", "backward")
        ]
        speedup = f"{of['both']['speedup']:.1f}" if of["both"]["speedup"] else ""
        both = fused["times"]["both"]["median"]
        lines.append(f"{start} {modes[0]} {modes[1]} {both:7.4f} {speedup:>7} {fused['python']['both']:7.0f}")
    lines += [
        f"left out: {row['name']}, {row['sparsity']}: {row['reason'][:80]}" for row in document["left_out"]
    ]
    return "\n".join([*lines, *verdicts(document["rows"])])


OTHERS = ("eager", "compiled", "circulant")


def table(document: dict[str, Any]) -> str:
    """All results in Markdown."""
    heads = (
        "case", "shape", "dtype", "layout", "gate", "mode", "fused (20-80 %), ms", "copy, ms", "copies",
        *(f"{name}, ms" for name in OTHERS), "faster", "extra memory, signals", "Python, µs", "error of y, dx, dweight",
    )  # fmt: skip
    lines = [
        "# The spectral gate on a GPU\n",
        f"Generated by `python -m benchmarks.spectral table`. {document['device']}, PyTorch {document['torch']}, "
        f"Triton {document['triton']}, commit {document['commit']}, {document['date']}.\n",
        "Medians of GPU time over random signals that together exceed the L2 cache.",
        "**copies**: fused over `y.copy_(x)`.",
        "**faster**: the fastest other over fused. **extra memory** beyond what a mode is given, in sizes of x.",
        "**errors** against float64, by norms. **Python**: what a call keeps the processor busy.\n",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
    ]
    for row in document["rows"]:
        lines += [_line(row, mode) for mode in MODES]
    lines += ["", *(f"- {verdict}" for verdict in verdicts(document["rows"]))]
    lines += [
        f"- left out: {row['name']}, {row['sparsity']}: {row['reason']}" for row in document["left_out"]
    ]
    for row in document["rows"]:
        for name, result in row["results"].items():
            if result["error"]:
                lines.append(f"- failed: {row['name']}, {row['sparsity']}, {name}: {result['error']}")
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any], mode: str) -> str:
    fused, of = row["results"]["fused"], ratios(row)[mode]

    def median(name: str) -> str:
        times = row["results"].get(name, {}).get("times", {}).get(mode)
        return f"{times['median']:.4f}" if times else ""

    times = fused["times"].get(mode)
    spread = f" ({times['p20']:.4f}-{times['p80']:.4f})" if times else ""
    extra = fused["extra_bytes"].get(mode)
    python = fused["python"].get(mode)
    errors = row["errors"].get("fused", {})
    cells = [
        row["name"],
        "x".join(map(str, row["shape"])),
        row["dtype"],
        row["layout"],
        row["sparsity"],
        mode,
        median("fused") + spread,
        f"{row['copy']['median']:.4f}",
        "" if of["copies"] is None else f"{of['copies']:.2f}",
        *map(median, OTHERS),
        "" if of["speedup"] is None else f"{of['speedup']:.1f}",
        "" if extra is None else f"{extra / (row['numel'] * row['item']):.2f}",
        "" if python is None else f"{python:.0f}",
        " ".join(f"{errors[name]:.1e}" for name in ("y", "dx", "dweight") if name in errors),
    ]
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("file", nargs="?", type=Path, help="of results, for `table`")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--quick", action="store_true", help="three sizes only")
    parser.add_argument("--minutes", type=float, default=5.2, help="start no further case after these")
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
    cases = TINY if device.type == "cpu" else QUICK if parsed.quick else CASES
    print(short(run(cases, parsed.out, device, parsed.minutes)))


if __name__ == "__main__":
    main()
