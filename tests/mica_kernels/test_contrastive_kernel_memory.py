"""Which memory the contrastive losses' kernels touch, what is launched, and what is left out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mica_kernels import info_nce, similarity_kl
from mica_kernels.contrastive import configs, op
from mica_kernels.launch import Launch, Variant
from tests.mica_kernels.contrastive_cases import FORMS, SMALL, Case, differentiate, numpy_speaks, shipped
from tests.mica_kernels.lanes import DEVICE, Poisoned

interpreter = pytest.importorskip("triton.runtime.interpreter")

pytestmark = numpy_speaks


@pytest.mark.parametrize("loss", [info_nce, similarity_kl])
@pytest.mark.parametrize("form", FORMS)
def test_kernels_get_rows_that_start_at_16_bytes(
    form: str, loss: Callable[..., Tensor], small_tiles: None, monkeypatch: pytest.MonkeyPatch
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
    ("rows_at_a_time", "block", "launches"), [(8192, 1 << 26, 1), (32, 1 << 26, 2), (32, 32 * 32, 4)]
)
def test_blocks_make_up_the_whole(
    rows_at_a_time: int,
    block: int,
    launches: int,
    loss: Callable[..., Tensor],
    small_tiles: None,
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


def test_what_a_block_is_filled_up_with_is_not_read(
    small_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    loss: Callable[..., Tensor], small_tiles: None, monkeypatch: pytest.MonkeyPatch
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


def test_input_is_not_changed() -> None:
    query, key, options = Case(35, 20, width=16, labels="some", extra=5).info_nce(torch.float32)
    tensors = [query, key, *(value for value in options.values() if isinstance(value, Tensor))]
    before = [tensor.clone() for tensor in tensors]
    differentiate(partial(info_nce, impl="triton"), query, key, torch.tensor(20.0, device=DEVICE), **options)
    assert all(torch.equal(*pair) for pair in zip(before, tensors, strict=True))


@pytest.mark.parametrize("multiprocessors", [1, 3, 1000])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (33, 15), (100, 1000), (5000, 17), (3, 4096)])
def test_every_tile_belongs_to_one_program(
    rows: int, columns: int, multiprocessors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op.device, "multiprocessors", lambda device: multiprocessors)
    for launch in (SMALL, shipped()):
        stripes, parts, each = op._split(launch, rows, columns, DEVICE)
        tiles = math.ceil(columns / launch.columns)
        assert stripes == math.ceil(rows / launch.rows)
        assert (parts - 1) * each < tiles <= parts * each
        assert stripes * parts <= max(stripes, 2 * configs.WAVES * launch.programs * multiprocessors)
