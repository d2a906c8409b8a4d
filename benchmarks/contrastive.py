"""The contrastive losses on a GPU: the kernels, the whole matrix in plain PyTorch, torch.compile, and tiles in PyTorch.

    python -m benchmarks.contrastive --out benchmarks/results/h200/contrastive.json    some seven minutes; --quick: two
    python -m benchmarks.contrastive table benchmarks/results/h200/contrastive.json    the results in Markdown

`fused` is the kernel, `eager` the loss as it is commonly written, `compiled` that by torch.compile, and `chunked` the
package's reference, which computes tiles and computes them again for the gradients. What would not fit the device's
memory is left out. Every case is first checked against float64; what is wrong is not timed. Times are by CUDA events.

**Floors** are times over what a large torch.matmul of the same type takes for the products that cannot be avoided
where the matrix is not kept, measured in the same run. With N rows, M columns and widths D and E of student and
teacher, in operations:

    info_nce         forward 2NMD        backward 6NMD                both 8NMD
    similarity_kl    forward 2NM(D + E)  backward 2NM(D + E) + 4NMD   both the sum

Q extra keys, which get no gradient, add 2NQD forward and 4NQD backward. Products of float32 are without tf32 by
default, as torch.matmul has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import MODES, Function, Mark, Slot, milliseconds, shown, speedup
from mica_kernels import info_nce, similarity_kl

SCALE, TEACHER_SCALE = 20.0, 10.0
"""As temperatures of 0.05 and 0.1: so soft a teacher is far from the student, and gradients are large."""


@dataclass(frozen=True)
class Case:
    """Embeddings of one shape; `compiled`: whether torch.compile takes part.

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
    compiled: bool = False

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


HEADLINE = Case("headline", 65_536, compiled=True)
MIDDLE = Case("16,384", 16_384, compiled=True)
DISTILLED = Case("similarity_kl, 16,384", 16_384, teacher_width=512, compiled=True)
CASES = (
    HEADLINE,
    MIDDLE,
    Case("4,096", 4096),
    Case("1,024", 1024, compiled=True),
    Case("256", 256),
    Case("D = 384", 16_384, width=384),
    Case("float32", 16_384, dtype="float32"),
    Case("float16", 16_384, dtype="float16"),
    Case("labels", 16_384, groups=1024),
    Case("queue", 512, queue=65_536),
    DISTILLED,
    Case("similarity_kl, concepts", 512, columns=120, width=384, teacher_width=384),
    Case("similarity_kl, 65,536", 65_536, teacher_width=512),
)
QUICK = tuple(replace(case, compiled=False) for case in (HEADLINE, MIDDLE, DISTILLED))
TINY = (
    Case("tiny", 40, width=16, dtype="float32"),
    Case("tiny, bfloat16", 40, width=24),
    Case("tiny, float16", 40, width=24, dtype="float16"),
    Case("tiny, labels", 40, width=16, dtype="float32", groups=10),
    Case("tiny, queue", 24, width=16, dtype="float32", queue=50),
    Case("tiny, similarity_kl", 40, columns=7, width=16, dtype="float32", teacher_width=12),
)
"""For a machine without a GPU: they show that this script runs, and nothing else."""

FLOORS, GOOD_FLOORS, EXTRA_GB = 2.5, 1.6, 1.0
"""The most that both passes of the headline may take; the second is what would be good."""

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
}
"""Bytes an entry of the matrix that forward and backward take: counted on a CPU for eager, which frees nothing early;
for compiled the least that it can do with, so that it is tried wherever it may fit."""


def make_slots(case: Case, device: torch.device) -> list[Slot]:
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


def implementations(case: Case, device: torch.device) -> dict[str, Function]:
    """By name, `fused` first."""
    loss, eager = LOSSES[case.loss]
    found: dict[str, Function] = {
        "fused": partial(loss, impl="triton" if device.type == "cuda" else "auto"),
        "eager": eager,
    }
    if case.compiled:
        torch.compiler.reset()
        found["compiled"] = torch.compile(eager, dynamic=False)
    found["chunked"] = partial(loss, impl="reference")
    return found


def eager_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    scale: Tensor,
    query_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    extra_keys: Tensor | None = None,
    symmetric: bool = True,
) -> Tensor:
    """The loss by cross_entropy, or for several positives by a mask; extra keys go with no labels."""
    logits = (scale * query @ key.T).float()
    if query_labels is not None and key_labels is not None:
        positives = query_labels[:, None] == key_labels
        loss = _supervised(logits, positives)
        return (loss + _supervised(logits.T, positives.T)) / 2 if symmetric else loss
    rows = torch.arange(len(query), device=query.device)
    if extra_keys is not None:
        logits = torch.cat([logits, (scale * query @ extra_keys.T).float()], dim=1)
    loss = F.cross_entropy(logits, rows)
    return (loss + F.cross_entropy(logits.T, rows)) / 2 if symmetric else loss


def _supervised(logits: Tensor, positives: Tensor) -> Tensor:
    return (logits.logsumexp(1) - (logits * positives).sum(1) / positives.sum(1)).mean()


def eager_similarity_kl(
    query: Tensor,
    key: Tensor,
    *,
    teacher_query: Tensor,
    teacher_key: Tensor,
    scale: Tensor,
    teacher_scale: float,
) -> Tensor:
    """The loss by log_softmax and kl_div."""
    student = (scale * query @ key.T).float().log_softmax(1)
    teacher = (teacher_scale * teacher_query @ teacher_key.T).float().log_softmax(1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


LOSSES: dict[str, tuple[Function, Function]] = {
    "info_nce": (info_nce, eager_info_nce),
    "similarity_kl": (similarity_kl, eager_similarity_kl),
}


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


def check(case: Case, results: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Errors over sizes of the loss and the gradients, of these in the worst block of rows; raises where too large."""
    errors = {name: _worst(result, exact[name]) for name, result in results.items()}
    return measure.within(errors, dict.fromkeys(errors, TOLERANCE[case.dtype]))


def _worst(result: Tensor, exact: Tensor) -> float:
    if not result.ndim:
        return measure.relative_error(result, exact)
    pairs = zip(result.split(BLOCK), exact.split(BLOCK), strict=True)
    errors = [measure.relative_error(*pair) for pair in pairs]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def operations(case: Case) -> dict[str, int]:
    """Of the products that a mode cannot avoid; see the head of this file."""
    product = 2 * case.rows * case.keys * case.width
    extra = 2 * case.rows * (case.queue or 0) * case.width
    teacher = 2 * case.rows * case.keys * (case.teacher_width or 0)
    forward, backward = product + teacher + extra, 3 * product + teacher + 2 * extra
    return {"forward": forward, "backward": backward, "both": forward + backward}


@cache
def matrix_rate(dtype: str, device: torch.device) -> float:
    """Operations a second of a large torch.matmul."""
    size = 8192 if device.type == "cuda" else 256
    left, right = torch.randn(2, size, size, device=device).to(getattr(torch, dtype))
    product = torch.empty_like(left)

    def part(_: int, mark: Mark) -> None:
        mark()
        torch.matmul(left, right, out=product)
        mark()

    return 2 * size**3 / (1e-3 * measure.timed(part, 1, device).median)


def memory(device: torch.device) -> float:
    """Bytes that a device has; there is no limit to a CPU's tiny cases."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else math.inf


def estimated_bytes(case: Case, name: str) -> int:
    """What an implementation takes for the matrix; nothing where it goes by tiles."""
    kind = case.loss if case.groups is None else "labels"
    return WHOLE.get(name, {}).get(kind, 0) * case.entries


def run_case(case: Case, device: torch.device) -> dict[str, Any]:
    """A row of results; what fails leaves its error there, and what does not fit the reason."""
    rate = matrix_rate(case.dtype, device)
    slots = make_slots(case, device)
    row = {**asdict(case), "loss": case.loss, "columns": case.keys, "slots": len(slots), "rate": rate}
    row |= {"floors": {mode: 1e3 * count / rate for mode, count in operations(case).items()}}
    row |= {"left_out": {}, "errors": {}, "results": {}}
    del row["compiled"]
    results = exact(case, slots[0])
    for name, loss in implementations(case, device).items():
        needed, there = estimated_bytes(case, name), memory(device)
        if needed > there:
            row["left_out"][name] = f"would take some {needed / 1e9:.0f} GB of {there / 1e9:.0f}"
            continue
        measure.attempt(row, name, loss, slots, partial(check, case, exact=results), device)
    return row


def ratios(row: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """By mode; None where not measured.

    floors: times of the products; speedup: over the fastest other; eager_time, eager_memory: eager's over fused's.
    """
    found = {}
    for mode in MODES:
        times = measure.times_of(row, mode, "median")
        extra = {name: result["extra_bytes"].get(mode) for name, result in row["results"].items()}
        found[mode] = {
            "floors": _over(times.get("fused"), row["floors"][mode]),
            "speedup": speedup(row, mode, "median"),
            "eager_time": _over(times.get("eager"), times.get("fused")),
            "eager_memory": _over(extra.get("eager"), extra.get("fused")),
        }
    return found


def _over(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was aimed for, and whether it was reached."""
    lines = []
    for row in rows:
        of = ratios(row)["both"]
        if row["name"] == HEADLINE.name:
            floors = of["floors"]
            reached = "" if floors is not None and floors <= GOOD_FLOORS else "not "
            extra = _over(row["results"]["fused"]["extra_bytes"].get("both"), 1e9)
            lines += [
                _verdict(row, "floors", floors, FLOORS, at_most=True) + f"; {GOOD_FLOORS} {reached}reached",
                _verdict(row, "GB of extra memory", extra, EXTRA_GB, at_most=True),
            ]
        elif row["name"] == MIDDLE.name:
            lines += [
                _verdict(row, "times as fast as eager", of["eager_time"], SPEEDUP, at_most=False),
                _verdict(row, "times as lean as eager", of["eager_memory"], LEANER, at_most=False),
            ]
    return lines


def _verdict(row: dict[str, Any], what: str, got: float | None, aim: float, at_most: bool) -> str:
    met = got is not None and (got <= aim if at_most else got >= aim)
    found = f"{what} not measured" if got is None else f"{got:.2f} {what}"
    return f"{'met   ' if met else 'MISSED'} {row['name']}, both: {found}, aim {aim}"


def _where(row: dict[str, Any]) -> str:
    return row["name"]


def run(cases: Sequence[Case], out: Path, device: torch.device, minutes: float) -> dict[str, Any]:
    """Run all cases, as many as there is time for; returns what is in the file."""
    work = [({"name": case.name}, partial(run_case, case, device)) for case in cases]
    return measure.run(work, out, device, minutes)


def short(document: dict[str, Any]) -> str:
    """A line a case, and the aims."""
    lines = [
        f"{document['device']}: milliseconds (floors), times faster than the best other, "
        "MB of extra memory (times leaner than eager), Python's microseconds",
        f"{'case':24} {'forward':>17} {'backward':>17} {'both':>17} {'faster':>7} {'extra':>15} {'µs':>7}",
    ]
    for row in document["rows"]:
        fused, of = row["results"]["fused"], ratios(row)
        if fused["error"]:
            lines.append(f"{row['name']:24} {fused['error'][:100]}")
            continue
        modes = [f"{fused['times'][mode]['median']:9.4f} ({of[mode]['floors']:5.2f})" for mode in MODES]
        extra, leaner = _over(fused["extra_bytes"].get("both"), 1e6), of["both"]["eager_memory"]
        held = shown(extra, ",.0f") + (f" ({leaner:.1f})" if leaner else "")
        faster = shown(of["both"]["speedup"], ".1f")
        lines.append(
            f"{row['name']:24} {' '.join(modes)} {faster:>7} {held:>15} {fused['python']['both']:7.0f}"
        )
    lines += [line[:120] for line in _left_out(document)]
    return "\n".join([*lines, *verdicts(document["rows"])])


def _left_out(document: dict[str, Any]) -> list[str]:
    """A line for each case, and for each implementation of a case, that was not run."""
    parts = [
        f"left out: {_where(row)}, {name}: {reason}"
        for row in document["rows"]
        for name, reason in row["left_out"].items()
    ]
    return measure.left_out(document, _where) + parts


OTHERS = ("eager", "compiled", "chunked")


def table(document: dict[str, Any]) -> str:
    """All results in Markdown."""
    heads = (
        "case", "loss", "N x M", "D", "dtype", "mode", "fused (20-80 %), ms", "floor, ms", "floors",
        *(f"{name}, ms" for name in OTHERS), "faster", "extra memory, MB", *(f"{name}, MB" for name in OTHERS),
        "leaner", "Python, µs", "error of loss, dquery, dkey, dscale",
    )  # fmt: skip
    rates = {row["dtype"]: row["rate"] for row in document["rows"]}
    lines = [
        "# The contrastive losses on a GPU\n",
        f"{measure.origin(document, 'contrastive')}\n",
        "Medians of GPU time. **floors**: fused over what torch.matmul takes for the products that cannot be avoided, "
        f"at {', '.join(f'{1e-12 * rate:.4g} TFLOP/s in {dtype}' for dtype, rate in rates.items())}.",
        "**faster**: the fastest other over fused. **extra memory** beyond what a mode is given, of fused and others;",
        "**leaner**: eager's over fused's. **Python**: what a call keeps the processor busy.",
        f"**errors** against float64, by norms, in the worst {BLOCK} rows.\n",
        *measure.markdown(heads, [_cells(row, mode) for row in document["rows"] for mode in MODES]),
        "",
    ]
    notes = [*verdicts(document["rows"]), *_left_out(document), *measure.failures(document, _where)]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


def _cells(row: dict[str, Any], mode: str) -> list[str]:
    fused, of = row["results"]["fused"], ratios(row)[mode]
    errors = row["errors"].get("fused", {})
    queue, teacher = row["queue"], row["teacher_width"]
    return [
        row["name"],
        row["loss"],
        f"{row['rows']:,} x {row['columns']:,}" + (f" + {queue:,}" if queue else ""),
        f"{row['width']}" + (f", E = {teacher}" if teacher else ""),
        row["dtype"],
        mode,
        milliseconds(row, "fused", mode, spread=True),
        f"{row['floors'][mode]:.4f}",
        shown(of["floors"], ".2f"),
        *(milliseconds(row, name, mode) for name in OTHERS),
        shown(of["speedup"], ".1f"),
        *(_megabytes(row, name, mode) for name in ("fused", *OTHERS)),
        shown(of["eager_memory"], ".1f"),
        shown(fused["python"].get(mode), ".0f"),
        " ".join(f"{error:.1e}" for error in errors.values()),
    ]


def _megabytes(row: dict[str, Any], name: str, mode: str) -> str:
    extra = row["results"].get(name, {}).get("extra_bytes", {}).get(mode)
    return shown(_over(extra, 1e6), ",.1f")


def main(arguments: Sequence[str] | None = None) -> None:
    measure.command_line(
        arguments,
        description=__doc__,
        minutes=6.0,
        cases={"all": CASES, "quick": QUICK, "cpu": TINY},
        run=run,
        short=short,
        table=table,
    )


if __name__ == "__main__":
    main()
