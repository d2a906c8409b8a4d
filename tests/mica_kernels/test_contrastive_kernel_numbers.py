"""What the contrastive losses' kernels make of single rows, of NaN, and of numbers at the ends of their range."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mica_kernels import info_nce, similarity_kl
from mica_kernels.contrastive import configs
from tests.mica_kernels.contrastive_cases import (
    DIVERGENCE,
    STATISTICS,
    Case,
    definition,
    differentiate,
    labelled,
    numpy_speaks,
    weighted,
)
from tests.mica_kernels.lanes import DEVICE

pytest.importorskip("triton")

pytestmark = numpy_speaks


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("positives", [0, 1, 15, 27, 60, -5, None, "some"])
def test_every_result_of_every_row(
    positives: int | str | None, columns: bool, small_tiles: None, monkeypatch: pytest.MonkeyPatch
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


def test_rows_of_small_weight_in_half_precision(small_tiles: None) -> None:
    """Weights five orders of magnitude apart: together they fit into the range of float16, but only just."""
    query, key, _ = Case(35, 40, width=16).info_nce(torch.float16)
    weight = torch.logspace(0, -5, 35, device=DEVICE)
    query.requires_grad_()
    STATISTICS(query, key, torch.tensor(20.0, device=DEVICE), None, None, None, False)[0].backward(weight)
    exact = query.detach().double().requires_grad_()
    (20 * exact @ key.double().T).logsumexp(1).backward(weight)
    error = (query.grad.double() - exact.grad).norm(dim=1) / exact.grad.norm(dim=1)
    assert error.max() < 2e-3


def test_divergence_of_every_row(small_tiles: None, monkeypatch: pytest.MonkeyPatch) -> None:
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
    place: str, labels: str | None, symmetric: bool, small_tiles: None
) -> None:
    query, key, options = Case(35, labels=labels, symmetric=symmetric, width=4).info_nce(torch.float32)
    {"query": query, "key": key}[place][33, 2] = torch.nan
    _same_where_finite(info_nce, query, key, 20.0, options)


@pytest.mark.parametrize("place", ["query", "key", "teacher_query", "teacher_key"])
def test_nan_goes_as_far_as_in_the_divergence(place: str, small_tiles: None) -> None:
    query, key, options = Case(35, 20, width=4).similarity_kl(torch.float32)
    {"query": query, "key": key, **options}[place][18, 2] = torch.nan
    _same_where_finite(similarity_kl, query, key, 20.0, options)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("place", ["query", "key"])
def test_infinity_goes_as_far_as_in_the_definition(
    place: str, loss: Callable[..., Tensor], value: float, small_tiles: None
) -> None:
    query, key, options = getattr(Case(35, width=4), loss.__name__)(torch.float32)
    {"query": query, "key": key}[place][33, 2] = value
    _same_where_finite(loss, query, key, 20.0, options)


@pytest.mark.parametrize("name", ["loss", "dquery", "dkey", "dscale"])
def test_a_product_below_all_numbers_has_no_share(name: str, small_tiles: None) -> None:
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
@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_the_least_similar_as_positives(scale: float, loss: Callable[..., Tensor], small_tiles: None) -> None:
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
def test_no_positive_exceeds_its_log_sum_exp(labels: str | None, scale: float, small_tiles: None) -> None:
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
