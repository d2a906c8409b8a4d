"""What the tests of the contrastive losses' kernels share: arguments of every kind, and definitions in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mica_kernels.contrastive import configs, op
from mica_kernels.launch import Launch
from tests.mica_kernels.lanes import DEVICE, Results

# Rows that do not exist have an empty sum, whose logarithm only NumPy speaks of.
numpy_speaks = [
    pytest.mark.filterwarnings("ignore:divide by zero encountered in log2:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]

FORMS = ("contiguous", "transposed", "sliced", "shifted", "expanded")
LABELS = (None, "some", "few", "same", "disjoint", "ugly", "int32", "uint8")
ROUNDING = 2.0**-21
"""Of sums and exponents in float32; what remains on a GPU, which cuts float32 in two numbers of tf32."""

SMALL = Launch(columns=16, warps=4, stages=1, programs=1, step=16, rows=32)

STATISTICS = torch.ops.mica_kernels.similarity_statistics
DIVERGENCE = torch.ops.mica_kernels.similarity_divergence


def shipped() -> Launch:
    """How statistics of float32 are launched here."""
    return configs.launch(op.device.architecture(DEVICE), "float32", "statistics")


@dataclass(frozen=True)
class Case:
    """Everything that decides on the arguments of a call."""

    rows: int = 5
    columns: int | None = None
    width: int = 3
    labels: str | None = None
    extra: int | None = None
    symmetric: bool = True
    scale: float = 20.0
    form: str = "contiguous"
    key_dtype: torch.dtype | None = None
    teacher_width: int = 6
    above: float = 1.0
    seed: int = 0

    def embeddings(self, count: int, width: int, number: int, dtype: torch.dtype) -> Tensor:
        random = torch.Generator().manual_seed(10 * self.seed + number)
        return F.normalize(torch.randn(count, width, generator=random), dim=1).to(DEVICE, dtype)

    def pair(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        columns = self.rows if self.columns is None else self.columns
        query = laid_out(self.embeddings(self.rows, self.width, 0, dtype), self.form)
        key = self.embeddings(columns, self.width, 1, self.key_dtype or dtype)
        return query, laid_out(key, self.form)

    def info_nce(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Any]]:
        query, key = self.pair(dtype)
        options: dict[str, Any] = {"symmetric": self.symmetric}
        if self.labels is not None:
            labels = labelled(self.labels, len(query), len(key))
            options |= dict(zip(("query_labels", "key_labels"), labels, strict=True))
        if self.extra is not None:
            options["extra_keys"] = laid_out(self.embeddings(self.extra, self.width, 2, dtype), self.form)
        return query, key, options

    def similarity_kl(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, dict[str, Any]]:
        query, key = self.pair(dtype)
        teacher_query = laid_out(self.embeddings(len(query), self.teacher_width, 3, dtype), self.form)
        teacher_key = laid_out(self.embeddings(len(key), self.teacher_width, 4, dtype), self.form)
        return query, key, {
            "teacher_query": teacher_query, "teacher_key": teacher_key, "teacher_scale": 7.0
        }  # fmt: skip


def labelled(kind: str, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Labels of which some are shared, and some are only in rows or only in columns."""
    random = torch.Generator().manual_seed(rows + 100 * columns)
    many = 2 if kind == "few" else max(rows, columns)
    of_rows, of_columns = (torch.randint(many, (count,), generator=random) for count in (rows, columns))
    if kind == "same":
        of_rows[:], of_columns[:] = 3, 3
    if kind == "disjoint":
        of_columns += many
    if kind == "ugly":
        values = torch.tensor([-1, -2, 2**63 - 1, -(2**63), 0, 2**32, -(2**31)])
        of_rows, of_columns = values[of_rows % 7], values[of_columns % 7]
    if kind == "int32":
        values = torch.tensor([-1, -2, 2**31 - 1, -(2**31), 1 - 2**31, 0, 7])
        of_rows, of_columns = values[of_rows % 7], values[of_columns % 7]
    if kind in ("int32", "uint8"):
        of_rows, of_columns = (labels.to(getattr(torch, kind)) for labels in (of_rows, of_columns))
    return of_rows.to(DEVICE), of_columns.to(DEVICE)


def laid_out(base: Tensor, form: str) -> Tensor:
    """The values of `base` in memory of some form, among NaN; but "expanded" repeats the first row."""
    rows, width = base.shape
    if form == "transposed":
        return base.T.contiguous().T
    if form == "sliced":
        storage = base.new_full((2 * rows + 1, width + 2), torch.nan)
        storage[1::2, 1:-1] = base
        return storage[1::2, 1:-1]
    if form == "shifted":
        storage = base.new_full((rows * width + 2 * 16 + 1,), torch.nan)
        view = storage[17 : 17 + rows * width].view(rows, width)
        view.copy_(base)
        return view
    if form == "expanded":
        return base[:1].expand(rows, width)
    storage = base.new_full((rows + 2, width), torch.nan)
    storage[1:-1] = base
    return storage[1:-1]


def exact_info_nce(
    logits: Tensor, more: Tensor, query_labels: Tensor | None, key_labels: Tensor | None, symmetric: bool
) -> Tensor:
    positives = torch.eye(*logits.shape, dtype=torch.bool, device=logits.device)
    if query_labels is not None:
        positives = query_labels[:, None] == key_labels
    loss = cross_entropy(torch.cat([logits, more], dim=1), positives)
    return (loss + cross_entropy(logits.T, positives.T)) / 2 if symmetric else loss


def cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    kept = positives.any(dim=1)
    if not kept.any():
        return 0 * logits.sum()
    targets = positives[kept].double()
    targets = F.pad(targets / targets.sum(dim=1, keepdim=True), (0, logits.shape[1] - targets.shape[1]))
    return F.cross_entropy(logits[kept], targets)


def exact_similarity_kl(logits: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = logits.log_softmax(dim=1), teacher.log_softmax(dim=1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def differentiate(
    loss: Callable[..., Tensor], query: Tensor, key: Tensor, scale: Tensor, above: float = 1.0, **options: Any
) -> Results:
    leaves = {"dquery": query, "dkey": key, "dscale": scale}
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in leaves.items()}
    y = loss(leaves["dquery"], leaves["dkey"], scale=leaves["dscale"], **options)
    gradients = torch.autograd.grad(y, list(leaves.values()), torch.full_like(y, above))
    return {"loss": y.detach(), **dict(zip(leaves, gradients, strict=True))}


def definition(
    query: Tensor, key: Tensor, *, scale: Tensor, unit: float, above: float, **options: Any
) -> tuple[Results, dict[str, float]]:
    """Loss and gradients in float64 by their definitions, and the slack that tensors in half precision are due.

    Matrix units take the logits' gradient rounded to the last place of the dtype, `unit`: errors that add up as
    independent ones do. All else is float32, whose errors of logits are in proportion to |query| |key|.
    """
    extra = options.pop("extra_keys", None)
    extra = key[:0] if extra is None else extra
    leaves = query, key, factor = [
        tensor.detach().double().requires_grad_() for tensor in (query, key, scale)
    ]
    extra = extra.detach().double()
    logits, more = factor * query @ key.T, factor * query @ extra.T
    logits.retain_grad()
    more.retain_grad()
    if "teacher_query" in options:
        teacher = options["teacher_query"].double() @ options["teacher_key"].double().T
        teacher = options["teacher_scale"] * teacher
        loss = exact_similarity_kl(logits, teacher)
        shares = (logits.softmax(dim=1) + teacher.softmax(dim=1)) / len(query)
        teacher_size = options["teacher_scale"] * (
            options["teacher_query"].double().norm(dim=1, keepdim=True)
            * options["teacher_key"].double().norm(dim=1)
        )
    else:
        loss = exact_info_nce(
            logits, more, options.get("query_labels"), options.get("key_labels"), options["symmetric"]
        )
        shares = torch.cat([logits, more], dim=1).softmax(dim=1) / len(query)
        shares = shares + F.pad(logits.softmax(dim=0) / len(key), (0, len(extra)))
        teacher_size = torch.zeros_like(shares)
    loss.backward(torch.full_like(loss, above))
    with torch.no_grad():
        keys, sharp = torch.cat([key, extra]).abs(), abs(factor)
        gradient = torch.cat([logits.grad, torch.zeros_like(more) if more.grad is None else more.grad], dim=1)
        products = query.abs() @ keys.T
        size = 1 + sharp * products + teacher_size
        parts = ROUNDING * (above * shares + gradient.abs()) * size
        slack = {
            "loss": ROUNDING * size.mean(),
            "dquery": unit * sharp * (gradient.square() @ keys.square()).sum().sqrt()
            + sharp * (parts @ keys).norm(),
            "dkey": unit * sharp * (gradient.T.square() @ query.square()).sum().sqrt()
            + sharp * (parts.T @ query.abs()).norm(),
            "dscale": (parts * products).sum(),
        }
    results = [loss.detach(), *(leaf.grad for leaf in leaves)]
    return dict(zip(slack, results, strict=True)), {name: value.item() for name, value in slack.items()}


def weighted(
    function: Callable[..., tuple[Tensor, ...]], leaves: tuple[Tensor, ...], above: list[Tensor]
) -> list[Tensor]:
    """The results of a function, and the gradients of leaves, given those of the results."""
    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    results = function(*leaves)
    total = sum((result * each).sum() for result, each in zip(results, above, strict=False))
    return [*(result.detach() for result in results), *torch.autograd.grad(total, leaves)]
