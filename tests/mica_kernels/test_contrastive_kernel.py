"""The contrastive losses' kernels against their definitions in float64: on a GPU if there is one, else interpreted."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mica_kernels import info_nce, similarity_kl
from mica_kernels.contrastive import configs, op
from mica_kernels.launch import Launch, Variant

interpreter = pytest.importorskip("triton.runtime.interpreter")

# Rows that do not exist have an empty sum, whose logarithm only NumPy speaks of.
pytestmark = [
    pytest.mark.filterwarnings("ignore:divide by zero encountered in log2:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FORMS = ("contiguous", "transposed", "sliced", "shifted", "expanded")
LABELS = (None, "some", "few", "same", "disjoint", "ugly", "int32", "uint8")
ROUNDING = 2.0**-21
"""Of sums and exponents in float32; what remains on a GPU, which cuts float32 in two numbers of tf32."""

SMALL = Launch(columns=16, warps=4, stages=1, programs=1, step=16, rows=32)

STATISTICS = torch.ops.mica_kernels.similarity_statistics
DIVERGENCE = torch.ops.mica_kernels.similarity_divergence

Results = dict[str, Tensor]
Poisoned = Callable[[], AbstractContextManager[None]]

dtypes = pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(DEVICE.type == "cpu", reason="the interpreter multiplies no bfloat16"),
        ),
    ],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 32 rows and 16 columns: a few rows make several."""
    monkeypatch.setattr(configs, "launch", lambda *key: SMALL)


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


@pytest.fixture(scope="session")
def check(
    within: Callable[..., None], poisoned: Poisoned
) -> Callable[[Callable[..., Tensor], Case, torch.dtype], Results]:
    """Compute a loss and its gradients with the kernels and hold them against the budget."""

    def check(loss: Callable[..., Tensor], case: Case, dtype: torch.dtype) -> Results:
        query, key, options = getattr(case, loss.__name__)(dtype)
        scale = torch.tensor(case.scale, device=DEVICE)
        with poisoned():
            fused = differentiate(partial(loss, impl="triton"), query, key, scale, case.above, **options)
        eager = differentiate(partial(loss, impl="reference"), query, key, scale, case.above, **options)
        unit = torch.finfo(torch.promote_types(query.dtype, key.dtype)).eps
        exact, slack = definition(query, key, scale=scale, unit=unit, above=case.above, **options)
        within(fused, eager, exact, slack)
        return fused

    return check


@st.composite
def cases(draw: st.DrawFn) -> Case:
    counts = st.sampled_from([1, 3, 15, 16, 17, 31, 32, 33, 40, 40])
    labels = draw(st.sampled_from(LABELS))
    return Case(
        rows=draw(counts),
        columns=None if labels is None else draw(counts),
        width=draw(st.sampled_from([1, 3, 15, 16, 17, 40])),
        labels=labels,
        extra=draw(st.sampled_from([None, 0, 1, 7, 40])),
        symmetric=draw(st.booleans()),
        scale=draw(st.sampled_from([1.0, 20.0, 20.0, 100.0, 1000.0, 0.0, -3.0])),
        form=draw(st.sampled_from(FORMS)),
        key_dtype=draw(st.sampled_from([None, None, torch.float32])),
        teacher_width=draw(st.sampled_from([1, 16, 33])),
        above=draw(st.sampled_from([1.0, 1.0, 0.0, 128.0])),
        seed=draw(st.integers(0, 99)),
    )


# Several blocks of rows and of columns, and a row's columns among several programs.
@settings(max_examples=16, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(
    case=cases(),
    rows_at_a_time=st.sampled_from([20, 8192]),
    block=st.sampled_from([400, 1 << 26]),
    multiprocessors=st.sampled_from([1, 1, 2, 100]),
)
@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@dtypes
def test_values_and_gradients(
    dtype: torch.dtype,
    loss: Callable[..., Tensor],
    check: Callable[..., Results],
    case: Case,
    rows_at_a_time: int,
    block: int,
    multiprocessors: int,
) -> None:
    if loss is similarity_kl and case.columns is None:
        case = replace(case, columns=case.rows // 2 + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configs, "launch", lambda *key: SMALL)
        patch.setattr(configs, "ROWS_AT_A_TIME", rows_at_a_time)
        patch.setattr(configs, "BLOCK", block)
        patch.setattr(configs, "WAVES", 1)
        patch.setattr(op.device, "multiprocessors", lambda device: multiprocessors)
        check(loss, case, dtype)


SHIPPED = configs.launch(op.device.architecture(DEVICE), "float32", "statistics")


@pytest.mark.parametrize(
    ("loss", "case"),
    [
        (info_nce, Case(SHIPPED.rows, width=17)),
        (info_nce, Case(SHIPPED.rows + 1, SHIPPED.columns - 1, width=3, labels="some")),
        (info_nce, Case(SHIPPED.rows - 1, SHIPPED.columns + 1, width=16, labels="few", symmetric=False)),
        (info_nce, Case(9, width=384, extra=20)),
        (info_nce, Case(33, 48, labels="some")),
        (similarity_kl, Case(SHIPPED.rows + 1, 65, width=1, teacher_width=40)),
        (similarity_kl, Case(4, 33, width=384, teacher_width=3)),
    ],
)
@dtypes
def test_shipped_configurations(
    dtype: torch.dtype,
    loss: Callable[..., Tensor],
    case: Case,
    launched: list[Variant],
    check: Callable[..., Results],
) -> None:
    check(loss, case, dtype)
    forward, backward = (
        ("statistics", "gradient") if loss is info_nce else ("divergence", "divergence_gradient")
    )
    assert {variant.kernel for variant in launched} == {forward, backward}
    shipped = set(configs.variants(op.device.architecture(DEVICE)))
    assert shipped.issuperset(launched)


@pytest.mark.parametrize(("extra", "symmetric"), [(None, True), (20, False)])
@pytest.mark.parametrize("labels", LABELS)
def test_labels(
    labels: str | None, extra: int | None, symmetric: bool, small: None, check: Callable[..., Results]
) -> None:
    columns = None if labels is None else 19
    check(info_nce, Case(35, columns, labels=labels, extra=extra, symmetric=symmetric), torch.float32)


def test_labels_are_as_ugly_as_they_are_meant_to_be() -> None:
    for labels in LABELS[1:]:
        matches = torch.eq(*torch.meshgrid(*labelled(labels, 35, 19), indexing="ij"))
        with_positive = matches.any(1).sum(), matches.any(0).sum()
        if labels == "disjoint":
            assert not matches.any()
        elif labels in ("same", "few"):
            assert with_positive == (35, 19)
        else:
            assert 0 < with_positive[0] < 35
            assert matches.sum() > with_positive[0]


@pytest.mark.parametrize("extra", [None, 4])
def test_without_positives_all_is_zero(extra: int | None) -> None:
    query, key, options = Case(5, 4, labels="disjoint", extra=extra).info_nce(torch.float16)
    scale = torch.tensor(20.0, device=DEVICE)
    results = differentiate(partial(info_nce, impl="triton"), query, key, scale, **options)
    assert not any(result.any() for result in results.values())


@pytest.mark.parametrize("queue", ["empty", "strided", "float16", "requires_grad"])
def test_extra_keys(queue: str) -> None:
    query, key, _ = Case(6, width=4).info_nce(torch.float32)
    scale = torch.tensor(20.0, device=DEVICE)
    extra = Case().embeddings(7, 4, 2, torch.float16 if queue == "float16" else torch.float32)
    extra = {"empty": extra[:0], "strided": extra.repeat(2, 1)[::2]}.get(queue, extra)
    extra.requires_grad_(queue == "requires_grad")
    fused, eager = (
        differentiate(partial(info_nce, impl=impl), query, key, scale, extra_keys=extra)
        for impl in ("triton", "reference")
    )
    torch.testing.assert_close(fused, eager, rtol=1e-5, atol=1e-5)
    assert extra.grad is None
    plain = differentiate(partial(info_nce, impl="triton"), query, key, scale)
    if queue == "empty":
        torch.testing.assert_close(fused, plain)
    else:
        assert fused["loss"] > plain["loss"]


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("width", [16, 5])
@pytest.mark.parametrize("form", ["transposed", "sliced", "shifted"])
def test_strides_change_nothing(form: str, width: int, loss: Callable[..., Tensor]) -> None:
    """Gradients lie as PyTorch has it: as what they belong to where that is dense, else row after row."""
    case, scale = Case(6, width=width, extra=4, teacher_width=width), torch.tensor(20.0, device=DEVICE)
    results = []
    for form_of_case in ("contiguous", form):
        query, key, options = getattr(replace(case, form=form_of_case), loss.__name__)(torch.float16)
        results.append(differentiate(partial(loss, impl="triton"), query, key, scale, **options))
        assert results[-1]["dquery"].stride() == torch.empty_like(query).stride()
        assert results[-1]["dkey"].stride() == torch.empty_like(key).stride()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("form", FORMS)
def test_kernels_get_rows_that_start_at_16_bytes(
    form: str, loss: Callable[..., Tensor], small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are compiled for, in blocks of any size; a GPU refuses to load from elsewhere."""
    seen = []

    def note(kernel: str, form: Any, launch: Launch, programs: int, *arguments: Any) -> None:
        matrices = [each for each in arguments if isinstance(each, Tensor) and each.ndim == 2]
        seen.extend(each for each in matrices if each.dtype == torch.float16)
        start(kernel, form, launch, programs, *arguments)

    start = op._start
    monkeypatch.setattr(op, "_start", note)
    monkeypatch.setattr(configs, "ROWS_AT_A_TIME", 5)
    monkeypatch.setattr(configs, "BLOCK", 5 * 17)
    for width in (16, 5):
        query, key, options = getattr(Case(12, width=width, form=form), loss.__name__)(torch.float16)
        differentiate(partial(loss, impl="triton"), query, key, torch.tensor(20.0, device=DEVICE), **options)
    assert len(seen) > 20
    assert all(each.stride(1) == 1 and each.stride(0) % 8 == 0 for each in seen)
    assert all(each.data_ptr() % 16 == 0 for each in seen)


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize(
    ("query_dtype", "key_dtype"), [(torch.float32, torch.float16), (torch.bfloat16, torch.float16)]
)
def test_mixed_dtypes(
    query_dtype: torch.dtype,
    key_dtype: torch.dtype,
    loss: Callable[..., Tensor],
    launched: list[Variant],
    check: Callable[..., Results],
) -> None:
    fused = check(loss, Case(6, key_dtype=key_dtype), query_dtype)
    assert (fused["dquery"].dtype, fused["dkey"].dtype) == (query_dtype, key_dtype)
    assert {variant.dtype for variant in launched} == {"float32"}


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("scale", [20, 20.0, torch.tensor(20.0).double(), torch.tensor(20.0).half()])
def test_types_of_scale(scale: float | Tensor, loss: Callable[..., Tensor]) -> None:
    query, key, options = getattr(Case(), loss.__name__)(torch.float32)
    expected = differentiate(
        partial(loss, impl="triton"), query, key, torch.tensor(20.0, device=DEVICE), **options
    )
    if not isinstance(scale, Tensor):
        assert loss(query, key, scale=scale, impl="triton", **options) == expected["loss"]
        return
    results = differentiate(partial(loss, impl="triton"), query, key, scale.to(DEVICE), **options)
    for name in ("loss", "dquery", "dkey"):
        assert torch.equal(results[name], expected[name])
    assert torch.equal(results["dscale"], expected["dscale"].to(scale.dtype))


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("scale", [0.0, -5.0, 100.0, 1000.0, 3e4])
@dtypes
def test_scales(
    dtype: torch.dtype, scale: float, loss: Callable[..., Tensor], small: None, check: Callable[..., Results]
) -> None:
    fused = check(loss, Case(20, 37, labels="few", width=5, scale=scale), dtype)
    assert all(result.isfinite().all() for result in fused.values())


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_the_least_similar_as_positives(scale: float, loss: Callable[..., Tensor], small: None) -> None:
    """Temperature 0.01 and below, at its worst; differences of logits of 2e4 stay finite."""
    query, key, options = getattr(Case(40, width=4, teacher_width=4), loss.__name__)(torch.float32)
    key = -query
    if loss is similarity_kl:
        options = {"teacher_query": query, "teacher_key": query, "teacher_scale": scale}
    factor = torch.tensor(scale, device=DEVICE)
    results = differentiate(partial(loss, impl="triton"), query, key, factor, **options)
    assert all(result.isfinite().all() for result in results.values())
    exact, _ = definition(query, key, scale=factor, unit=0, above=1.0, **{"symmetric": True, **options})
    assert results["loss"].item() == pytest.approx(exact["loss"].item(), rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0, 1000.0])
@pytest.mark.parametrize("labels", [None, "pairs"])
def test_no_positive_exceeds_its_log_sum_exp(labels: str | None, scale: float, small: None) -> None:
    """So that no loss is negative, and a perfect one is 0."""
    query = Case(40, width=17).embeddings(40, 17, 0, torch.float32)
    places = torch.arange(40, device=DEVICE) if labels else None
    factor = torch.tensor(scale, device=DEVICE)
    for rows in (slice(0, 40), *(slice(row, row + 1) for row in range(5))):
        given = None if places is None else places[rows]
        row_lse, row_positive, column_lse, column_positive = STATISTICS(
            query[rows], query[rows], factor, given, given, 0, True
        )
        assert (row_positive <= row_lse).all()
        assert (column_positive <= column_lse).all()


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("positives", [0, 1, 15, 27, 60, -5, None, "some"])
def test_every_result_of_every_row(
    positives: int | str | None, columns: bool, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of each result differs by row, as a weighted loss or a share of a distributed batch has it.

    An offset may leave some rows without a column.
    """
    monkeypatch.setattr(configs, "ROWS_AT_A_TIME", 32)
    monkeypatch.setattr(configs, "BLOCK", 32 * 20)
    rows, count, width = 35, 52, 5
    case = Case(rows, count, width=width, labels="some" if positives == "some" else None)
    query, key, _ = case.info_nce(torch.float32)
    labels = labelled("some", rows, count) if positives == "some" else (None, None)
    offset = 0 if positives == "some" else positives
    scale = torch.tensor(20.0, device=DEVICE)
    random = torch.Generator().manual_seed(0)
    above = [torch.randn(size, generator=random).to(DEVICE) for size in (rows, rows, count, count)]

    def by_definition(query: Tensor, key: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        logits = scale * query @ key.T
        if positives == "some":
            matches = labels[0][:, None] == labels[1]
        else:
            matches = torch.zeros_like(logits, dtype=torch.bool)
            for row in range(rows):
                if offset is not None and 0 <= row + offset < count:
                    matches[row, row + offset] = True
        sums = logits.masked_fill(~matches, 0)
        lines = logits.exp().sum(1).log(), sums.sum(1), logits.exp().sum(0).log(), sums.sum(0)
        return lines if columns else lines[:2]

    def fused(query: Tensor, key: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        return STATISTICS(query, key, scale, *labels, offset, columns)[: None if columns else 2]

    leaves = query, key, scale
    results = weighted(fused, leaves, above)
    expected = weighted(by_definition, tuple(leaf.double() for leaf in leaves), above)
    torch.testing.assert_close(results, [x.float() for x in expected], rtol=1e-4, atol=2e-4)


def weighted(
    function: Callable[..., tuple[Tensor, ...]], leaves: tuple[Tensor, ...], above: list[Tensor]
) -> list[Tensor]:
    """The results of a function, and the gradients of leaves, given those of the results."""
    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    results = function(*leaves)
    total = sum((result * each).sum() for result, each in zip(results, above, strict=False))
    return [*(result.detach() for result in results), *torch.autograd.grad(total, leaves)]


def test_rows_of_small_weight_in_half_precision(small: None) -> None:
    """Weights five orders of magnitude apart: together they fit into the range of float16, but only just."""
    query, key, _ = Case(35, 40, width=16).info_nce(torch.float16)
    weight = torch.logspace(0, -5, 35, device=DEVICE)
    query.requires_grad_()
    STATISTICS(query, key, torch.tensor(20.0, device=DEVICE), None, None, None, False)[0].backward(weight)
    exact = query.detach().double().requires_grad_()
    (20 * exact @ key.double().T).logsumexp(1).backward(weight)
    error = (query.grad.double() - exact.grad).norm(dim=1) / exact.grad.norm(dim=1)
    assert error.max() < 2e-3


def test_divergence_of_every_row(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "ROWS_AT_A_TIME", 20)
    monkeypatch.setattr(configs, "BLOCK", 20 * 32)
    query, key, options = Case(35, 40, width=5).similarity_kl(torch.float32)
    teacher = options["teacher_query"], options["teacher_key"]
    scale = torch.tensor(20.0, device=DEVICE)
    above = [torch.randn(35, generator=torch.Generator().manual_seed(0)).to(DEVICE)]

    def by_definition(query: Tensor, key: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        student = (scale * query @ key.T).log_softmax(1)
        shares = (7.0 * teacher[0].double() @ teacher[1].double().T).softmax(1)
        return ((shares * (shares.log() - student)).sum(1),)

    def fused(query: Tensor, key: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        return DIVERGENCE(query, key, *teacher, scale, torch.tensor(7.0, device=DEVICE))[:1]

    leaves = query, key, scale
    results = weighted(fused, leaves, above)
    expected = weighted(by_definition, tuple(leaf.double() for leaf in leaves), above)
    torch.testing.assert_close(results, [x.float() for x in expected], rtol=1e-4, atol=2e-4)
    _, lse, teacher_lse = DIVERGENCE(query, key, *teacher, scale, torch.tensor(7.0, device=DEVICE))
    torch.testing.assert_close(lse, (20 * query @ key.T).logsumexp(1))
    torch.testing.assert_close(teacher_lse, (7 * teacher[0] @ teacher[1].T).logsumexp(1))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("labels", [None, "few"])
@pytest.mark.parametrize("place", ["query", "key"])
def test_nan_goes_as_far_as_in_the_definition(
    place: str, labels: str | None, symmetric: bool, small: None
) -> None:
    query, key, options = Case(35, labels=labels, symmetric=symmetric, width=4).info_nce(torch.float32)
    {"query": query, "key": key}[place][33, 2] = torch.nan
    _same_where_finite(info_nce, query, key, 20.0, options)


@pytest.mark.parametrize("place", ["query", "key", "teacher_query", "teacher_key"])
def test_nan_goes_as_far_as_in_the_divergence(place: str, small: None) -> None:
    query, key, options = Case(35, 20, width=4).similarity_kl(torch.float32)
    {"query": query, "key": key, **options}[place][18, 2] = torch.nan
    _same_where_finite(similarity_kl, query, key, 20.0, options)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("place", ["query", "key"])
def test_infinity_goes_as_far_as_in_the_definition(
    place: str, loss: Callable[..., Tensor], value: float, small: None
) -> None:
    query, key, options = getattr(Case(35, width=4), loss.__name__)(torch.float32)
    {"query": query, "key": key}[place][33, 2] = value
    _same_where_finite(loss, query, key, 20.0, options)


@pytest.mark.parametrize("name", ["loss", "dquery", "dkey", "dscale"])
def test_a_product_below_all_numbers_has_no_share(name: str, small: None) -> None:
    """-1e40 is -inf in float32: a logit like any other that is far below the largest."""
    query, key, options = Case(35, width=4).info_nce(torch.float32)
    query[:, 2], key[:, 2] = 0, 0
    query[33, 2], key[5, 2] = 1e30, -1e10
    scale = torch.tensor(20.0, device=DEVICE)
    fused, eager = (
        differentiate(partial(info_nce, impl=impl), query, key, scale, **options)[name]
        for impl in ("triton", "reference")
    )
    assert eager.isfinite().all()
    torch.testing.assert_close(fused, eager, rtol=1e-5, atol=1e-5)


def _same_where_finite(
    loss: Callable[..., Tensor], query: Tensor, key: Tensor, scale: float, options: dict[str, Any]
) -> None:
    """What eager mode computes, and the kernels compute it too: nothing finite becomes infinite, or NaN."""
    factor = torch.tensor(scale, device=DEVICE)
    fused, eager = (
        differentiate(partial(loss, impl=impl), query, key, factor, **options)
        for impl in ("triton", "reference")
    )
    for name, expected in eager.items():
        finite = expected.isfinite()
        torch.testing.assert_close(fused[name][finite], expected[finite], rtol=1e-4, atol=1e-5)
        assert not fused[name][expected.isnan()].isfinite().any(), name


def test_nan_of_a_row_stays_in_it() -> None:
    """Of the gradients that a row's losses alone have, those of other rows are as ever."""
    query, key, options = Case(6, width=4, symmetric=False).info_nce(torch.float32)
    scale = torch.tensor(20.0, device=DEVICE)
    expected = differentiate(partial(info_nce, impl="triton"), query, key, scale, **options)["dquery"]
    query[3, 0] = torch.nan
    results = differentiate(partial(info_nce, impl="triton"), query, key, scale, **options)
    assert results["loss"].isnan()
    assert results["dquery"][3].isnan().all()
    assert torch.equal(results["dquery"][[0, 1, 2, 4, 5]], expected[[0, 1, 2, 4, 5]])


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
def test_repetition_gives_the_same_bits(loss: Callable[..., Tensor], small: None) -> None:
    query, key, options = getattr(Case(50, labels="some", extra=20), loss.__name__)(torch.float16)
    scale = torch.tensor(20.0, device=DEVICE)
    first, second = (
        differentiate(partial(loss, impl="triton"), query, key, scale, **options) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize(
    ("rows_at_a_time", "block", "launches"), [(8192, 1 << 26, 1), (32, 1 << 26, 2), (32, 32 * 32, 4)]
)
def test_blocks_make_up_the_whole(
    rows_at_a_time: int,
    block: int,
    launches: int,
    loss: Callable[..., Tensor],
    small: None,
    launched: list[Variant],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query, key, options = getattr(Case(50, labels="some", width=16), loss.__name__)(torch.float32)
    scale = torch.tensor(20.0, device=DEVICE)
    expected = differentiate(partial(loss, impl="triton"), query, key, scale, **options)
    launched.clear()
    monkeypatch.setattr(configs, "ROWS_AT_A_TIME", rows_at_a_time)
    monkeypatch.setattr(configs, "BLOCK", block)
    results = differentiate(partial(loss, impl="triton"), query, key, scale, **options)
    torch.testing.assert_close(results, expected, rtol=1e-5, atol=1e-6)
    assert sum("gradient" in variant.kernel for variant in launched) == launches
    sweeps = 2 if loss is info_nce and rows_at_a_time == 32 else 1
    assert sum("gradient" not in variant.kernel for variant in launched) == sweeps


def test_what_a_block_is_filled_up_with_is_not_read(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the block are filled up to whole 16 bytes, with whatever there is."""
    shapes = []

    def add(total: Tensor, left: Tensor, right: Tensor) -> None:
        shapes.append((left.shape, left.stride()))
        if len(shapes) == 1:
            left.as_strided((33, 32), (32, 1))[:, 18:] = torch.nan
        add_product(total, left, right)

    add_product = op._add_product
    monkeypatch.setattr(op, "_add_product", add)
    query, key, options = Case(33, 18, labels="same").info_nce(torch.float32)
    scale = torch.tensor(20.0, device=DEVICE)
    results = differentiate(partial(info_nce, impl="triton"), query, key, scale, **options)
    assert shapes == [((33, 18), (32, 1)), ((18, 33), (1, 32))]
    assert all(result.isfinite().all() for result in results.values())


@pytest.mark.skipif(DEVICE.type == "cuda", reason="looks into the interpreter")
@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
def test_nothing_is_touched_beside_the_arguments(
    loss: Callable[..., Tensor], small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even read, and masked later: there may be no memory."""
    builder = interpreter.InterpreterBuilder
    start, load, store = op._start, builder.create_masked_load, builder.create_masked_store
    extents: list[tuple[int, int]] = []
    beside = []

    def note_extents(kernel: str, form: Any, launch: Launch, programs: int, *arguments: Any) -> None:
        extents.clear()
        for tensor in arguments:
            if isinstance(tensor, Tensor):  # the rows of a block end with what they are filled up with
                last = tensor.stride(0) * len(tensor) - 1 if tensor.ndim else 0
                first = tensor.data_ptr()
                extents.append((first, first + last * tensor.element_size()))
        start(kernel, form, launch, programs, *arguments)

    def check(pointers: Any, mask: Any) -> None:
        places = pointers.data[mask.data].astype(int)
        inside = np.zeros(places.shape, dtype=bool)
        for first, last in extents:
            inside |= (first <= places) & (places <= last)
        beside.append(np.count_nonzero(~inside))

    def checked_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return load(self, pointers, mask, *rest)

    def checked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    monkeypatch.setattr(op, "_start", note_extents)
    monkeypatch.setattr(builder, "create_masked_load", checked_load)
    monkeypatch.setattr(builder, "create_masked_store", checked_store)
    for labels, width in ((None, 16), ("some", 5)):
        query, key, options = getattr(Case(35, labels=labels, width=width, extra=5), loss.__name__)(
            torch.float32
        )
        differentiate(partial(loss, impl="triton"), query, key, torch.tensor(20.0, device=DEVICE), **options)
    assert len(beside) > 100
    assert not any(beside)


def test_unwritten_results_would_show(poisoned: Poisoned, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the tests: without a kernel the losses are NaN."""
    monkeypatch.setattr(op, "_start", lambda *arguments: None)
    with poisoned():
        for loss in (info_nce, similarity_kl):
            query, key, options = getattr(Case(), loss.__name__)(torch.float32)
            assert loss(query, key, scale=20.0, impl="triton", **options).isnan()


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_gradients_that_are_not_wanted_are_not_computed(
    wanted: tuple[int, ...], loss: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    query, key, options = getattr(Case(), loss.__name__)(torch.float32)
    leaves = query, key, torch.tensor(20.0, device=DEVICE)
    expected = differentiate(partial(loss, impl="triton"), *leaves, **options)
    products = []

    def add(total: Tensor, left: Tensor, right: Tensor) -> None:
        products.append(total.shape)
        add_product(total, left, right)

    add_product = op._add_product
    monkeypatch.setattr(op, "_add_product", add)
    leaves = [leaf.detach().requires_grad_(place in wanted) for place, leaf in enumerate(leaves)]
    loss(leaves[0], leaves[1], scale=leaves[2], impl="triton", **options).backward()
    for place, (leaf, name) in enumerate(zip(leaves, ("dquery", "dkey", "dscale"), strict=True)):
        assert (leaf.grad is not None) == (place in wanted)
        if leaf.grad is not None:
            assert torch.equal(leaf.grad, expected[name])
    assert len(products) == sum(place < 2 for place in wanted)


def test_without_gradients_nothing_is_swept_twice(launched: list[Variant]) -> None:
    query, key, options = Case().info_nce(torch.float32)
    query.requires_grad_()
    with torch.no_grad():
        loss = info_nce(query, key, scale=20.0, impl="triton", **options)
    assert not loss.requires_grad
    assert [variant.kernel for variant in launched] == ["statistics"]


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("above", [0.0, 1e-6, 1e-3, 1024.0, 65536.0, 1e30])
def test_gradients_are_in_proportion_to_the_one_above(above: float, loss: Callable[..., Tensor]) -> None:
    """In float16 too, as far as it reaches, and for scale, in float32, beyond: as loss scaling has it."""
    query, key, options = getattr(Case(33, labels="few", scale=2.0), loss.__name__)(torch.float16)
    scale = torch.tensor(2.0, device=DEVICE)
    one = differentiate(partial(loss, impl="triton"), query.float(), key.float(), scale, **options)
    results = differentiate(partial(loss, impl="triton"), query, key, scale, above, **options)
    eager = differentiate(partial(loss, impl="reference"), query, key, scale, above, **options)
    torch.testing.assert_close(results["dscale"], one["dscale"] * above, rtol=1e-3, atol=0)
    for name in ("dquery", "dkey"):
        torch.testing.assert_close(results[name], eager[name], rtol=2e-3, atol=2e-7 + 1e-4 * above)
        assert results[name].isfinite().all() == eager[name].isfinite().all()
    if above == 0:
        assert not any(results[name].any() for name in ("dquery", "dkey", "dscale"))


def test_input_is_not_changed() -> None:
    query, key, options = Case(35, 20, width=16, labels="some", extra=5).info_nce(torch.float32)
    tensors = [query, key, *(value for value in options.values() if isinstance(value, Tensor))]
    before = [tensor.clone() for tensor in tensors]
    differentiate(partial(info_nce, impl="triton"), query, key, torch.tensor(20.0, device=DEVICE), **options)
    assert all(torch.equal(*pair) for pair in zip(before, tensors, strict=True))


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("empty", ["query", "key"])
def test_nothing_is_a_clear_error(empty: str, loss: Callable[..., Tensor]) -> None:
    query, key, options = getattr(Case(), loss.__name__)(torch.float32)
    given = {"query": query, "key": key, empty: query[:0]}
    with pytest.raises(ValueError, match=rf"{empty} is empty, shape \(0, 3\): a mean over none"):
        loss(**given, scale=1.0, impl="triton", **options)


@pytest.mark.parametrize(
    ("asked", "precision"), [("highest", "tf32x3"), ("high", "tf32"), ("medium", "tf32")]
)
@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
def test_products_are_as_exact_as_pytorch_is_told(
    loss: Callable[..., Tensor], asked: str, precision: str, launched: list[Variant]
) -> None:
    query, key, options = getattr(Case(), loss.__name__)(torch.float32)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(asked)
    try:
        differentiate(partial(loss, impl="triton"), query, key, torch.tensor(20.0, device=DEVICE), **options)
    finally:
        torch.set_float32_matmul_precision(before)
    assert [dict(variant.constants)["PRECISION"] for variant in launched] == [precision] * 2


@pytest.mark.parametrize("multiprocessors", [1, 3, 1000])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (33, 15), (100, 1000), (5000, 17), (3, 4096)])
def test_every_tile_belongs_to_one_program(
    rows: int, columns: int, multiprocessors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op.device, "multiprocessors", lambda device: multiprocessors)
    for launch in (SMALL, SHIPPED):
        stripes, parts, each = op._split(launch, rows, columns, DEVICE)
        tiles = math.ceil(columns / launch.columns)
        assert stripes == math.ceil(rows / launch.rows)
        assert (parts - 1) * each < tiles <= parts * each
        assert stripes * parts <= max(stripes, 2 * configs.WAVES * launch.programs * multiprocessors)
