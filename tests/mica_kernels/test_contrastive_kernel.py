"""The contrastive losses' kernels against their definitions in float64: on a GPU if there is one, else interpreted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mica_kernels import info_nce, similarity_kl
from mica_kernels.contrastive import configs, op
from mica_kernels.launch import Variant
from tests.mica_kernels.contrastive_cases import (
    FORMS,
    LABELS,
    SMALL,
    Case,
    differentiate,
    labelled,
    numpy_speaks,
    shipped,
)
from tests.mica_kernels.lanes import DEVICE, Results, dtypes

pytest.importorskip("triton")

pytestmark = numpy_speaks

SHIPPED = shipped()


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
    check_loss: Callable[..., Results],
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
        check_loss(loss, case, dtype)


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
    check_loss: Callable[..., Results],
) -> None:
    check_loss(loss, case, dtype)
    forward, backward = (
        ("statistics", "gradient") if loss is info_nce else ("divergence", "divergence_gradient")
    )
    assert {variant.kernel for variant in launched} == {forward, backward}
    shipped = set(configs.variants(op.device.architecture(DEVICE)))
    assert shipped.issuperset(launched)


@pytest.mark.parametrize(("extra", "symmetric"), [(None, True), (20, False)])
@pytest.mark.parametrize("labels", LABELS)
def test_labels(
    labels: str | None,
    extra: int | None,
    symmetric: bool,
    small_tiles: None,
    check_loss: Callable[..., Results],
) -> None:
    columns = None if labels is None else 19
    check_loss(info_nce, Case(35, columns, labels=labels, extra=extra, symmetric=symmetric), torch.float32)


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
@pytest.mark.parametrize(
    ("query_dtype", "key_dtype"), [(torch.float32, torch.float16), (torch.bfloat16, torch.float16)]
)
def test_mixed_dtypes(
    query_dtype: torch.dtype,
    key_dtype: torch.dtype,
    loss: Callable[..., Tensor],
    launched: list[Variant],
    check_loss: Callable[..., Results],
) -> None:
    fused = check_loss(loss, Case(6, key_dtype=key_dtype), query_dtype)
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
    dtype: torch.dtype,
    scale: float,
    loss: Callable[..., Tensor],
    small_tiles: None,
    check_loss: Callable[..., Results],
) -> None:
    fused = check_loss(loss, Case(20, 37, labels="few", width=5, scale=scale), dtype)
    assert all(result.isfinite().all() for result in fused.values())


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
def test_repetition_gives_the_same_bits(loss: Callable[..., Tensor], small_tiles: None) -> None:
    query, key, options = getattr(Case(50, labels="some", extra=20), loss.__name__)(torch.float16)
    scale = torch.tensor(20.0, device=DEVICE)
    first, second = (
        differentiate(partial(loss, impl="triton"), query, key, scale, **options) for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("empty", ["query", "key"])
def test_nothing_is_a_clear_error(empty: str, loss: Callable[..., Tensor]) -> None:
    query, key, options = getattr(Case(), loss.__name__)(torch.float32)
    given = {"query": query, "key": key, empty: query[:0]}
    with pytest.raises(ValueError, match=rf"{empty} is empty, shape \(0, 3\): a mean over none"):
        loss(**given, scale=1.0, impl="triton", **options)


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
def test_products_are_as_exact_as_pytorch_is_told(
    loss: Callable[..., Tensor], told: str, launched: list[Variant]
) -> None:
    query, key, options = getattr(Case(), loss.__name__)(torch.float32)
    differentiate(partial(loss, impl="triton"), query, key, torch.tensor(20.0, device=DEVICE), **options)
    assert [dict(variant.constants)["PRECISION"] for variant in launched] == [told] * 2
