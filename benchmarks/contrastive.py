"""The contrastive losses: kernels, the whole matrix in plain PyTorch, torch.compile, tiles in PyTorch, and peers.

`fused` is the kernel, `chunked` the package's reference, which computes tiles and computes them again for the
gradients; the others are in `alternatives.py`. What would not fit the device's memory is left out. Results are checked
against the definition in float64.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import alternatives, measure
from benchmarks.measure import Function, Slot
from benchmarks.operators import LeftOutError, Make, Operator, Work, compiled, fused, within
from benchmarks.results import Row, measured, pick
from mica_kernels import info_nce, similarity_kl

SCALE, TEACHER_SCALE = 20.0, 10.0
"""As temperatures of 0.05 and 0.1: so soft a teacher is far from the student, and gradients are large."""


@dataclass(frozen=True)
class Case:
    """Embeddings of one shape; with_compiled: whether torch.compile takes part.

    columns: as many as rows, where None. groups: how many labels there are; None: no labels. queue: how many extra
    keys; the loss is then of the rows alone. teacher_width: that of similarity_kl; None: info_nce.
    """

    name: str
    rows: int
    columns: int | None = None
    width: int = 512
    dtype: str = "bfloat16"
    groups: int | None = None
    queue: int | None = None
    teacher_width: int | None = None
    with_compiled: bool = False

    @property
    def loss(self) -> str:
        return "info_nce" if self.teacher_width is None else "similarity_kl"

    @property
    def keys(self) -> int:
        return self.rows if self.columns is None else self.columns

    @property
    def symmetric(self) -> bool:
        return self.teacher_width is None and self.queue is None

    @property
    def entries(self) -> int:
        return self.rows * (self.keys + (self.queue or 0))


SIDES = (256, 1024, 4096, 16_384, 65_536)
"""N = M of the plot of memory against N."""

_kl = partial(Case, teacher_width=512)
INFO_NCE = (
    Case("headline", 65_536, with_compiled=True),
    Case("n16384", 16_384, with_compiled=True),
    Case("n1024", 1024, with_compiled=True),
    Case("n4096", 4096),
    Case("n256", 256),
    Case("labels", 16_384, groups=1024),
    Case("queue", 512, queue=65_536),
    Case("d384", 16_384, width=384),
    Case("float32", 16_384, dtype="float32"),
    Case("float16", 16_384, dtype="float16"),
)
SIMILARITY_KL = (
    _kl("kl-n16384", 16_384, with_compiled=True),
    _kl("kl-n65536", 65_536),
    Case("kl-concepts", 512, columns=120, width=384, teacher_width=384),
    _kl("kl-n4096", 4096),
    _kl("kl-n1024", 1024),
)
_cpu = partial(Case, width=256, dtype="float32")
CPU_INFO_NCE = (
    _cpu("cpu-n4096", 4096, with_compiled=True),
    _cpu("cpu-n256", 256),
    _cpu("cpu-n1024", 1024),
    _cpu("cpu-n8192", 8192),
    _cpu("cpu-n16384", 16_384),
    _cpu("cpu-labels", 2048, groups=128),
    _cpu("cpu-queue", 256, queue=8192),
    Case("cpu-bfloat16", 1024, width=256),
)
CPU_SIMILARITY_KL = (
    _cpu("cpu-kl-n2048", 2048, teacher_width=384, with_compiled=True),
    _cpu("cpu-kl-concepts", 512, columns=120, width=384, teacher_width=384),
    _cpu("cpu-kl-n8192", 8192, teacher_width=384),
)
QUICK = frozenset(
    {"headline", "n16384", "kl-n16384", "cpu-n256", "cpu-n1024", "cpu-kl-concepts", "cpu-kl-n2048"}
)

RATE_SHARE, GOOD_RATE_SHARE, EXTRA_GB = 1 / 2.5, 1 / 1.6, 1.0
"""Of both passes of the headline: the least share of the device's matrix rate, what would be good, the most memory."""

SPEEDUP, LEANER = 1.0, 8.0
"""How many times as fast and as lean as eager both passes at 16,384 have to be."""

TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 3e-2}
"""Error over size, by norms: logits of 10 in bfloat16, as eager has them, are off by up to 0.03."""

BLOCK = 256
"""Rows of a gradient that are judged together, lest a wrong tile is lost among many right ones."""

AT_A_TIME = 1 << 25
"""Entries of the matrix that the check in float64 has at a time, several times 256 MB."""

LOSS_SCALE = 2.0**13
"""What gradients are scaled by in float16, as training in it does, lest they vanish."""

WHOLE = {
    "eager": {"info_nce": 16, "labels": 21, "similarity_kl": 28},
    "compiled": {"info_nce": 8, "labels": 8, "similarity_kl": 12},
    "open_clip": {"info_nce": 20},
    "lightly": {"info_nce": 16},
}
"""Bytes an entry of the matrix that forward and backward take: counted on a CPU for eager, which frees nothing early;
for compiled the least that it can do with, so that it is tried wherever it may fit."""


def slots(case: Case, device: torch.device) -> list[Slot]:
    """Random embeddings that take several times the L2 cache, where they are small; else two of each."""
    pairs = (case.rows + case.keys) * (case.width + (case.teacher_width or 0))
    numbers = pairs + (case.queue or 0) * case.width
    count = measure.slots_for(numbers * getattr(torch, case.dtype).itemsize, device)
    random = torch.Generator(device).manual_seed(0)
    return [_slot(case, random) for _ in range(count)]


def _slot(case: Case, random: torch.Generator) -> Slot:
    dtype, device = getattr(torch, case.dtype), random.device
    draw = partial(torch.randn, generator=random, device=device)
    groups = case.groups or case.keys
    labels = [torch.arange(count, device=device) % groups for count in (case.rows, case.keys)]
    # Then positives weigh about as much as all others together, and gradients are no differences of near equals.
    alike = min(0.9, math.log(groups * (1 + (case.queue or 0) / case.keys)) / SCALE)

    def pair(width: int) -> list[Tensor]:
        centres = draw(groups, width)
        drawn = [alike**0.5 * centres[of] + (1 - alike) ** 0.5 * draw(len(of), width) for of in labels]
        return [F.normalize(matrix, dim=1).to(dtype) for matrix in drawn]

    query, key = (matrix.requires_grad_() for matrix in pair(case.width))
    scale = torch.full((), SCALE, device=device, requires_grad=True)
    options: dict[str, Any] = {"scale": scale}
    if case.teacher_width is not None:
        teacher = pair(case.teacher_width)
        options |= {"teacher_query": teacher[0], "teacher_key": teacher[1], "teacher_scale": TEACHER_SCALE}
    else:
        options["symmetric"] = case.symmetric
    if case.groups is not None:
        options |= dict(zip(("query_labels", "key_labels"), labels, strict=True))
    if case.queue is not None:
        options["extra_keys"] = F.normalize(draw(case.queue, case.width), dim=1).to(dtype)
    return Slot(
        arguments=(query, key),
        leaves={"dquery": query, "dkey": key, "dscale": scale},
        above=torch.full((), LOSS_SCALE if case.dtype == "float16" else 1.0, device=device),
        options=options,
    )


LOSSES: dict[str, tuple[Function, Function]] = {
    "info_nce": (info_nce, alternatives.info_nce),
    "similarity_kl": (similarity_kl, alternatives.similarity_kl),
}
"""Ours and eager mode's."""


def implementations(case: Case, device: torch.device) -> dict[str, Make]:
    ours, eager = LOSSES[case.loss]
    found: dict[str, Make] = {
        "fused": fused(partial(ours, impl="triton"), device),
        "chunked": lambda: partial(ours, impl="reference"),
        "eager": lambda: eager,
    }
    if case.with_compiled:
        found["compiled"] = compiled(eager)
    if case.symmetric and case.groups is None:
        found["open_clip"] = alternatives.open_clip
    if case.queue is not None:
        found["lightly"] = alternatives.lightly
    return {name: _fitting(case, name, make, device) for name, make in found.items()}


def _fitting(case: Case, name: str, make: Make, device: torch.device) -> Make:
    """Leaves out what would not fit the device's memory."""
    needed, there = estimated_bytes(case, name), memory(device)

    def made() -> Function:
        if needed > there:
            raise LeftOutError(f"would take some {needed / 1e9:.0f} GB of {there / 1e9:.0f}")
        return make()

    return made


def estimated_bytes(case: Case, name: str) -> int:
    """What an implementation takes for the matrix; nothing where it goes by tiles."""
    kind = case.loss if case.groups is None else "labels"
    return WHOLE.get(name, {}).get(kind, 0) * case.entries


def memory(device: torch.device) -> float:
    """Bytes that a device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def exact(case: Case, slot: Slot) -> dict[str, Tensor]:
    """The loss and its gradients in float64 and by definition, some rows at a time.

    Both losses are cross entropies of softmax(S) with targets T, but for what is constant in T: the positives of a row,
    or the teacher's distribution. The gradient of one in S is softmax(S) - T.
    """
    query, key = (matrix.detach().double() for matrix in slot.arguments)
    scale, extra = slot.options["scale"].detach().double(), slot.options.get("extra_keys")
    columns = key if extra is None else torch.cat([key, extra.double()])
    blocks = list(_blocks(len(query), max(1, AT_A_TIME // len(columns))))
    dquery, dcolumns = torch.zeros_like(query), torch.zeros_like(columns)
    loss, dscale = query.new_zeros(()), query.new_zeros(())
    targets = _teacher(slot) if case.loss == "similarity_kl" else _positives(slot, len(columns))

    def logits(rows: slice) -> Tensor:
        return scale * query[rows] @ columns.T

    lse = query.new_full((len(columns),), -math.inf)
    for rows in blocks if case.symmetric else ():
        lse = torch.logaddexp(lse, logits(rows).logsumexp(0))
    for rows in blocks:
        of_rows = logits(rows)
        by_row, by_column = targets(rows)
        parts = [(by_row, of_rows.log_softmax(1), len(query))]
        if case.symmetric:
            parts.append((by_column, of_rows - lse, len(key)))
        gradient = torch.zeros_like(of_rows)
        for target, log_softmax, count in parts:
            share = 1 / (count * len(parts))
            loss -= share * (target * log_softmax).sum()
            gradient += share * (log_softmax.exp() - target)
        if case.loss == "similarity_kl":
            loss += torch.xlogy(by_row, by_row).sum() / len(query)
        dquery[rows] = scale * gradient @ columns
        dcolumns += scale * gradient.T @ query[rows]
        dscale += (gradient * of_rows).sum() / scale
    found = {"dquery": dquery, "dkey": dcolumns[: len(key)], "dscale": dscale}
    return {"y": loss, **{name: gradient * slot.above for name, gradient in found.items()}}


Targets = Callable[[slice], tuple[Tensor, Tensor]]
"""Of some rows: how the mass of each row is to lie, and that of each column."""


def _positives(slot: Slot, columns: int) -> Targets:
    query, key = slot.arguments
    of_query = slot.options.get("query_labels", torch.arange(len(query), device=query.device))
    of_key = slot.options.get("key_labels", torch.arange(len(key), device=key.device))
    by_column = of_query.bincount()[of_key]
    of_key, by_column = (F.pad(numbers, (0, columns - len(key)), value=-1) for numbers in (of_key, by_column))

    def targets(rows: slice) -> tuple[Tensor, Tensor]:
        positive = (of_query[rows, None] == of_key).double()
        return positive / positive.sum(1, keepdim=True), positive / by_column

    return targets


def _teacher(slot: Slot) -> Targets:
    query, key = (slot.options[name].double() for name in ("teacher_query", "teacher_key"))

    def targets(rows: slice) -> tuple[Tensor, Tensor]:
        found = (slot.options["teacher_scale"] * query[rows] @ key.T).softmax(1)
        return found, found

    return targets


def _blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))


def check(case: Case, results: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, float]:
    """Errors over sizes of the loss and the gradients, of these in the worst block of rows; raises where too large."""
    errors = {name: _worst(result, right[name]) for name, result in results.items()}
    return within(errors, dict.fromkeys(errors, TOLERANCE[case.dtype]))


def _worst(result: Tensor, exact: Tensor) -> float:
    if not result.ndim:
        return measure.relative_error(result, exact)
    pairs = zip(result.split(BLOCK), exact.split(BLOCK), strict=True)
    errors = [measure.relative_error(*pair) for pair in pairs]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def work(case: Case, mode: str) -> Work:
    """The products that a mode cannot avoid where the matrix is not kept, and the embeddings read and written.

    With N rows, M columns and widths D and E of student and teacher, in operations::

        info_nce         forward 2NMD        backward 6NMD                both 8NMD
        similarity_kl    forward 2NM(D + E)  backward 2NM(D + E) + 4NMD   both the sum

    Q extra keys, which get no gradient, add 2NQD forward and 4NQD backward.
    """
    if mode == "both":
        parts = [work(case, part) for part in ("forward", "backward")]
        return Work(sum(part.bytes for part in parts), sum(part.flops for part in parts))
    product = 2 * case.rows * case.keys * case.width
    teacher = 2 * case.rows * case.keys * (case.teacher_width or 0)
    extra = 2 * case.rows * (case.queue or 0) * case.width
    item = getattr(torch, case.dtype).itemsize
    embeddings = item * (case.rows + case.keys) * case.width
    read = embeddings + item * (
        (case.rows + case.keys) * (case.teacher_width or 0) + (case.queue or 0) * case.width
    )
    if mode == "forward":
        return Work(bytes=read, flops=product + teacher + extra)
    return Work(bytes=read + embeddings, flops=3 * product + teacher + 2 * extra)


def aims(rows: Sequence[Row]) -> list[str]:
    """What was aimed for on a GPU, and whether it was reached; a line for each aim."""
    both = [row for row in rows if row["mode"] == "both"]
    headline = {row["implementation"]: row for row in measured(pick(both, case="headline"))}
    middle = {row["implementation"]: row for row in measured(pick(both, case="n16384"))}
    lines = []
    if pick(both, case="headline", implementation="fused"):
        kernel = headline.get("fused", {})
        share = kernel.get("rate_share")
        reached = "" if share is not None and share >= GOOD_RATE_SHARE else "not "
        lines.append(
            _verdict("headline", "of the matrix rate", share, RATE_SHARE) + f"; 0.625 {reached}reached"
        )
        held = _over(kernel.get("extra_bytes"), 1e9)
        lines.append(_verdict("headline", "GB of extra memory", held, EXTRA_GB, at_most=True))
    if pick(both, case="n16384", implementation="fused"):
        kernel, eager = (middle.get(name, {}) for name in ("fused", "eager"))
        faster = _over(_median(eager), _median(kernel))
        leaner = _over(eager.get("extra_bytes"), kernel.get("extra_bytes"))
        lines.append(_verdict("n16384", "times as fast as eager", faster, SPEEDUP))
        lines.append(_verdict("n16384", "times as lean as eager", leaner, LEANER))
    return lines


def _median(row: Row) -> float | None:
    return row["times"]["median"] if row else None


def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _verdict(case: str, what: str, got: float | None, aim: float, at_most: bool = False) -> str:
    met = got is not None and (got <= aim if at_most else got >= aim)
    found = f"{what} not measured" if got is None else f"{got:.2f} {what}"
    return f"{'met   ' if met else 'MISSED'} info_nce {case}, both: {found}, aim {aim:g}"


INFO_NCE_OPERATOR = Operator(
    name="info_nce",
    cases=INFO_NCE,
    cpu_cases=CPU_INFO_NCE,
    quick=QUICK,
    slots=slots,
    exact=exact,
    check=check,
    implementations=implementations,
    work=work,
    aims=aims,
    fallback="chunked",
    other_exact={"lightly": alternatives.exact_bank},
)
SIMILARITY_KL_OPERATOR = replace(
    INFO_NCE_OPERATOR,
    name="similarity_kl",
    cases=SIMILARITY_KL,
    cpu_cases=CPU_SIMILARITY_KL,
    aims=lambda rows: [],
    other_exact={},
)
