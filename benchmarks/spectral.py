"""The spectral gate on a GPU: fused kernel, plain copy, eager FFT, torch.compile and circulant matrices side by side.

    python -m benchmarks.spectral --out benchmarks/results/h200/spectral.json      under six minutes; --quick: one
    python -m benchmarks.spectral table benchmarks/results/h200/spectral.json      the results in Markdown

Every case is first checked against the reference in float64; what is wrong is not timed. Times are by CUDA events, of
many runs over random signals that together exceed the L2 cache; the GPU is kept busy before each run, so that a time
has no waiting for Python in it, which is given apart. Results are written after each case, the headline first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import MODES, Mark, Slot, Times, milliseconds, shown, speedup
from mica_kernels import spectral_gate
from mica_kernels.spectral import reference

ALL = ("joint", "none", "bin")
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


def make_slots(case: Case, sparsity: str, device: torch.device) -> list[Slot]:
    """Random signals that take several times the L2 cache, and one threshold near what the signals have."""
    channels, frames, joints = case.shape[1:]
    dtype = getattr(torch, case.dtype)
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
    count = measure.slots_for(2 * case.numel * dtype.itemsize, device)
    parameters = {"dweight": weight} if sparsity == "none" else {"dweight": weight, "dthreshold": threshold}
    return [_slot(signal(), signal(), **parameters) for _ in range(count)]


def _slot(x: Tensor, dy: Tensor, dweight: Tensor, dthreshold: Tensor | None = None) -> Slot:
    leaves = {"dx": x, "dweight": dweight} | ({} if dthreshold is None else {"dthreshold": dthreshold})
    for leaf in leaves.values():
        leaf.requires_grad_()
    return Slot(arguments=(x, dweight, dthreshold), leaves=leaves, above=dy)


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
    limits = {
        name: (TOLERANCE if name == "y" or sparsity == "none" else GATED)[case.dtype] for name in results
    }
    errors = {name: measure.relative_error(result, exact[name]) for name, result in results.items()}
    return measure.within(errors, limits)


class Copy:
    """The floor: y.copy_(x)."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.x = [slot.arguments[0].detach() for slot in slots]
        self.y = [torch.empty_like(x) for x in self.x]

    def forward(self, slot: int, mark: Mark) -> None:
        mark()
        self.y[slot].copy_(self.x[slot])
        mark()


def measure_copy(slots: Sequence[Slot], device: torch.device) -> Times:
    return measure.timed(Copy(slots).forward, len(slots), device)


def run_case(case: Case, sparsity: str, device: torch.device) -> dict[str, Any]:
    """A row of results; what fails leaves its error there."""
    slots = make_slots(case, sparsity, device)
    row = {**asdict(case), "sparsity": sparsity, "numel": case.numel, "item": slots[0].above.element_size()}
    for name in ("sparsities", "compiled"):
        del row[name]
    row |= {"slots": len(slots), "copy": asdict(measure_copy(slots, device)), "errors": {}, "results": {}}
    exact = measure.differentiate(eager(sparsity), _doubled(slots[0]))
    for name, gate in implementations(case, sparsity, device).items():
        measure.attempt(row, name, gate, slots, partial(check, case, sparsity, exact=exact), device)
    return row


def _doubled(slot: Slot) -> Slot:
    leaves = {name: leaf.detach().double() for name, leaf in slot.leaves.items()}
    return _slot(leaves.pop("dx"), slot.above.double(), **leaves)


def ratios(row: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """By mode: times of a copy, and how many times faster than the fastest other; None where not measured."""
    found = {}
    for mode in MODES:
        fused = measure.times_of(row, mode, "median").get("fused")
        found[mode] = {
            "copies": None if fused is None else fused / row["copy"]["median"],
            "speedup": speedup(row, mode, "median"),
        }
    found["both"]["looped"] = speedup(row, "both", "looped")
    return found


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was aimed for, and whether it was reached."""
    lines = []
    for row in rows:
        if row["name"].startswith("tiny"):
            continue
        of = ratios(row)
        where = _where(row)
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


def _where(row: dict[str, Any]) -> str:
    return f"{row['name']}, {row['sparsity']}"


def run(cases: Sequence[Case], out: Path, device: torch.device, minutes: float) -> dict[str, Any]:
    """Run all cases, as many as there is time for; returns what is in the file."""
    work = [
        ({"name": case.name, "sparsity": sparsity}, partial(run_case, case, sparsity, device))
        for case in cases
        for sparsity in case.sparsities
    ]
    return measure.run(work, out, device, minutes)


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
    lines += [line[:120] for line in measure.left_out(document, _where)]
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
        f"{measure.origin(document, 'spectral')}\n",
        "Medians of GPU time over random signals that together exceed the L2 cache.",
        "**copies**: fused over `y.copy_(x)`.",
        "**faster**: the fastest other over fused. **extra memory** beyond what a mode is given, in sizes of x.",
        "**errors** against float64, by norms. **Python**: what a call keeps the processor busy.\n",
        *measure.markdown(heads, [_cells(row, mode) for row in document["rows"] for mode in MODES]),
        "",
    ]
    notes = [
        *verdicts(document["rows"]),
        *measure.left_out(document, _where),
        *measure.failures(document, _where),
    ]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


def _cells(row: dict[str, Any], mode: str) -> list[str]:
    fused, of = row["results"]["fused"], ratios(row)[mode]
    extra = fused["extra_bytes"].get(mode)
    errors = row["errors"].get("fused", {})
    return [
        row["name"],
        "x".join(map(str, row["shape"])),
        row["dtype"],
        row["layout"],
        row["sparsity"],
        mode,
        milliseconds(row, "fused", mode, spread=True),
        f"{row['copy']['median']:.4f}",
        shown(of["copies"], ".2f"),
        *(milliseconds(row, name, mode) for name in OTHERS),
        shown(of["speedup"], ".1f"),
        shown(None if extra is None else extra / (row["numel"] * row["item"]), ".2f"),
        shown(fused["python"].get(mode), ".0f"),
        " ".join(f"{errors[name]:.1e}" for name in ("y", "dx", "dweight") if name in errors),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    measure.command_line(
        arguments,
        description=__doc__,
        minutes=5.2,
        cases={"all": CASES, "quick": QUICK, "cpu": TINY},
        run=run,
        short=short,
        table=table,
    )


if __name__ == "__main__":
    main()
