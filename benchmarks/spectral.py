"""The spectral gate: fused kernel, dense transforms, eager FFT (the reference), torch.compile and circulant matrices.

Results are checked against the reference in float64. `copy` is the floor: y.copy_(x) on the same signals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Mark, Part, Slot
from benchmarks.operators import LeftOutError, Make, Operator, Work, compiled, fused, within
from benchmarks.results import Row, median, pick, speedup
from mica_kernels import spectral_gate
from mica_kernels.spectral import configs, reference

GROUPS = 4
Gate = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Case:
    """Signals of one shape (N, C, T, V) and a gate: "joint", "bin", or "none" for the filter alone.

    with_compiled: whether torch.compile takes part, which needs some ten seconds a case.
    """

    name: str
    shape: tuple[int, int, int, int]
    sparsity: str = "joint"
    dtype: str = "bfloat16"
    layout: str = "channels_last"
    with_compiled: bool = False

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def item(self) -> int:
        return getattr(torch, self.dtype).itemsize


NTU = (512, 64, 64, 25)
LENGTHS = (13, 16, 32, 50, 64, 100, 128, 200, 300)
"""Of the plot of time against T."""

CASES = (
    *(
        Case(f"headline-{sparsity}", NTU, sparsity, with_compiled=True)
        for sparsity in ("joint", "none", "bin")
    ),
    Case("t32-joint", (512, 64, 32, 25)),
    Case("t128-joint", (512, 64, 128, 25)),
    Case("contiguous-joint", NTU, layout="contiguous", with_compiled=True),
    Case("float32-joint", NTU, dtype="float32", with_compiled=True),
    Case("micro-joint", (1, 64, 64, 25), with_compiled=True),
    Case("4m-joint", (41, 64, 64, 25), with_compiled=True),
    Case("float16-joint", NTU, dtype="float16"),
    Case("t32-none", (512, 64, 32, 25), "none"),
    Case("t128-none", (512, 64, 128, 25), "none"),
    *(Case(f"sweep-t{frames}", (256, 64, frames, 25)) for frames in LENGTHS),
    Case("deep-joint", (256, 256, 16, 25)),
    Case("coco-joint", (256, 128, 64, 17)),
    Case("small-joint", (8, 64, 64, 25)),
    Case("small-clips-joint", (128, 64, 64, 25)),
    Case("float32-t128-joint", (256, 64, 128, 25), dtype="float32"),
    Case("float32-t300-joint", (128, 64, 300, 25), dtype="float32"),
    Case("contiguous-t300-joint", (256, 64, 300, 25), layout="contiguous"),
    Case("large-joint", (2048, 64, 64, 25)),
)

_cpu = partial(Case, dtype="float32")
CPU_CASES = (
    _cpu("cpu-joint", (32, 64, 64, 25), with_compiled=True),
    _cpu("cpu-none", (32, 64, 64, 25), "none", with_compiled=True),
    _cpu("cpu-bin", (32, 64, 64, 25), "bin"),
    _cpu("cpu-micro-joint", (1, 64, 64, 25)),
    _cpu("cpu-contiguous-joint", (32, 64, 64, 25), layout="contiguous"),
    _cpu("cpu-deep-joint", (32, 256, 16, 25)),
    _cpu("cpu-coco-none", (32, 64, 64, 17), "none"),
    Case("cpu-bfloat16-joint", (32, 64, 64, 25)),
    *(_cpu(f"cpu-sweep-t{frames}", (16, 64, frames, 25)) for frames in LENGTHS),
)
QUICK = frozenset({"headline-joint", "t32-joint", "t128-joint", "cpu-joint", "cpu-none", "cpu-micro-joint"})

COPIES = {
    ("headline", "forward"): 1.25, ("headline", "backward"): 1.9,
    ("t32", "forward"): 1.5, ("t32", "backward"): 2.3,
    ("t128", "forward"): 1.5, ("t128", "backward"): 2.3,
}  # fmt: skip
"""The most that the kernel may take, in times of a copy of its signals."""

SPEEDUP, SPEEDUP_FROM = 4.0, 1 << 22
"""How many times faster than the fastest alternative, forward and backward, from how many elements on."""

TOLERANCE = {"float32": 1e-4, "float16": 3e-3, "bfloat16": 1.5e-2}
"""Error over size, by norms."""

GATED = {"float32": 1e-2, "float16": 5e-2, "bfloat16": 0.15}
"""So for gradients through a gate: what lies at its threshold has one slope or another, as its rounding decides."""


def slots(case: Case, device: torch.device) -> list[Slot]:
    """Random signals that take several times the last cache, and one threshold near what the signals have."""
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
    count = measure.slots_for(2 * case.numel * case.item, device)
    parameters = (
        {"dweight": weight} if case.sparsity == "none" else {"dweight": weight, "dthreshold": threshold}
    )
    return [_slot(signal(), signal(), **parameters) for _ in range(count)]


def _slot(x: Tensor, dy: Tensor, dweight: Tensor, dthreshold: Tensor | None = None) -> Slot:
    leaves = {"dx": x, "dweight": dweight} | ({} if dthreshold is None else {"dthreshold": dthreshold})
    for leaf in leaves.values():
        leaf.requires_grad_()
    return Slot(arguments=(x, dweight, dthreshold), leaves=leaves, above=dy)


def _kind(case: Case) -> Literal["joint", "bin"]:
    return "bin" if case.sparsity == "bin" else "joint"


def implementations(case: Case, device: torch.device) -> dict[str, Make]:
    found: dict[str, Make] = {
        "fused": fused(partial(spectral_gate, sparsity=_kind(case), impl="triton"), device),
        "dense": lambda: dense(case, device),
        "eager": lambda: eager(case),
    }
    if case.with_compiled:
        found["compiled"] = compiled(eager(case))
    if case.sparsity == "none":
        found["circulant"] = lambda: circulant
    return found


def dense(case: Case, device: torch.device) -> Gate:
    """By products of matrices, where our operator takes them."""
    if device.type != "cpu" or case.shape[2] > configs.DENSE_FRAMES:
        raise LeftOutError(f"for up to {configs.DENSE_FRAMES} frames on a CPU")
    return partial(spectral_gate, sparsity=_kind(case), impl="dense")


def eager(case: Case) -> Gate:
    """The reference."""

    def gate(x: Tensor, weight: Tensor, threshold: Tensor | None) -> Tensor:
        return reference.spectral_gate(x, weight, threshold, _kind(case))

    return gate


def circulant(x: Tensor, weight: Tensor, threshold: Tensor | None = None) -> Tensor:
    """The filter alone, as a circulant [frames x frames] matrix for each group and joint; y in any memory format."""
    frames = x.shape[2]
    taps = torch.fft.irfft(torch.view_as_complex(weight), n=frames, dim=1).flip(1)
    # Row t, column s holds the tap t - s: windows over the taps, backwards and twice, the last window first.
    windows = torch.cat([taps, taps[:, :-1]], dim=1).unfold(1, frames, 1)
    matrices = windows.to(x.dtype).flip(1)
    return torch.einsum("gtvs,ngcsv->ngctv", matrices, x.unflatten(1, (len(weight), -1))).flatten(1, 2)


def exact(case: Case, slot: Slot) -> dict[str, Tensor]:
    """By the reference in float64."""
    leaves = {name: leaf.detach().double() for name, leaf in slot.leaves.items()}
    return measure.differentiate(eager(case), _slot(leaves.pop("dx"), slot.above.double(), **leaves))


def check(case: Case, results: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, float]:
    """Errors over sizes of y and the gradients; raises WrongResultError where one is too large."""
    limits = {
        name: (TOLERANCE if name == "y" or case.sparsity == "none" else GATED)[case.dtype] for name in results
    }
    return within({name: _worst(result, right[name]) for name, result in results.items()}, limits)


def _worst(result: Tensor, exact: Tensor) -> float:
    """Of clips, or of a parameter's groups, lest a wrong one is lost among many right ones."""
    errors = torch.stack([(result.double() - exact).flatten(1).norm(dim=1), exact.flatten(1).norm(dim=1)])
    return (errors[0] / errors[1]).max().item()


def copy(slots: Sequence[Slot]) -> Part:
    """The floor: y.copy_(x)."""
    sources = [slot.arguments[0].detach() for slot in slots]
    targets = [torch.empty_like(source) for source in sources]

    def part(slot: int, mark: Mark) -> None:
        mark()
        targets[slot].copy_(sources[slot])
        mark()

    return part


def work(case: Case, mode: str) -> Work:
    """Signals read and written once; transforms as folded products: 2T operations an element forward, 3T backward."""
    passes = {"forward": 2, "backward": 3, "both": 5}[mode]
    transforms = {"forward": 2, "backward": 3, "both": 5}[mode]
    return Work(bytes=passes * case.numel * case.item, flops=transforms * case.shape[2] * case.numel)


def aims(rows: Sequence[Row]) -> list[str]:
    """What was aimed for on a GPU, and whether it was reached; a line for each aim, of speedups where missed."""
    lines = []
    cases = {case.name: case for case in CASES}
    for name in dict.fromkeys(row["case"] for row in rows if row["case"] in cases):
        of_case = pick(rows, case=name)
        for mode in ("forward", "backward"):
            aim = COPIES.get((name.split("-")[0], mode))
            got = copies(of_case, mode)
            if aim is not None and got is not None:
                verdict = "met   " if got <= aim else "MISSED"
                lines.append(f"{verdict} spectral_gate {name}: {mode} {got:.2f} copies, aim {aim}")
        aim = SPEEDUP if cases[name].numel >= SPEEDUP_FROM else 1.0
        both = pick(of_case, mode="both")
        for kind, where in (("median", "on the GPU"), ("looped", "in a loop of calls")):
            got = speedup(both, "fused", kind)
            if got is not None and got < aim:
                lines.append(
                    f"MISSED spectral_gate {name}: {got:.2f} times the best other {where}, aim {aim:.0f}"
                )
    return lines


def copies(rows: Sequence[Row], mode: str) -> float | None:
    """The kernel's time over that of a copy of its signals, of the rows of one case."""
    kernel = median(rows, implementation="fused", mode=mode)
    copy = median(rows, implementation="copy", mode="forward")
    return None if kernel is None or copy is None else kernel / copy


OPERATOR = Operator(
    name="spectral_gate",
    cases=CASES,
    cpu_cases=CPU_CASES,
    quick=QUICK,
    slots=slots,
    exact=exact,
    check=check,
    implementations=implementations,
    work=work,
    aims=aims,
    fallback="eager",
    floor=copy,
)
