"""What only a GPU can show of the contrastive losses' kernels: matrix units, streams, graphs, memory, huge matrices.

Where there is a GPU, test_contrastive_kernel*.py and test_contrastive_registration.py run on it, too.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from mica_kernels import backend, device, info_nce, similarity_kl, tune
from mica_kernels.contrastive import configs, op
from mica_kernels.launch import Launch, Variant
from mica_kernels.nn import InfoNCELoss

pytest.importorskip("triton")

GPU = torch.cuda.is_available() and torch.version.hip is None

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(
        GPU and device.interpreted(), reason="TRITON_INTERPRET=1 keeps the kernels off the GPU"
    ),
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KINDS = ("pairs", "labels", "queue", "one way", "divergence")
UNITS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "tf32x3": 2.0**-21, "tf32": 2.0**-10}
"""Of the last place of what matrix units take; float32 is cut in two numbers of tf32, which leaves 21 bits."""

Step = Callable[[], tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """float32 as exact as can be unless a test asks for less; no memory is left behind."""
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.delenv(tune.VARIABLE, raising=False)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def embeddings(rows: int, width: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Tensor:
    random = torch.Generator("cuda").manual_seed(seed)
    return F.normalize(torch.randn(rows, width, device="cuda", generator=random), dim=1).to(dtype)


def case(
    kind: str, rows: int, width: int, dtype: torch.dtype = torch.bfloat16, where: str = "cuda", seed: int = 0
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A loss of query, key and scale, with impl left open, and these."""
    columns = rows if kind in ("pairs", "queue") else rows + 13
    draw = partial(embeddings, dtype=dtype)
    leaves = [draw(rows, width, seed=seed), draw(columns, width, seed=seed + 1)]
    leaves = [leaf.to(where).requires_grad_() for leaf in leaves]
    leaves.append(torch.tensor(30.0, device=where, requires_grad=True))
    options: dict[str, Any] = {}
    if kind == "divergence":
        names = "teacher_query", "teacher_key"
        options = {
            name: draw(len(leaf), 48, seed=seed + 2) for name, leaf in zip(names, leaves, strict=False)
        }
        options["teacher_scale"] = 20.0
    if kind in ("labels", "one way"):
        random = torch.Generator("cuda").manual_seed(seed)
        options = {
            name: torch.randint(rows // 2 + 1, (count,), device="cuda", generator=random)
            for name, count in (("query_labels", rows), ("key_labels", columns))
        }
        options["symmetric"] = kind == "labels"
    if kind == "queue":
        options["extra_keys"] = draw(777, width, seed=seed + 3)
    options = {
        name: value.to(where) if isinstance(value, Tensor) else value for name, value in options.items()
    }

    def loss(query: Tensor, key: Tensor, scale: Tensor, impl: str = "triton", **changes: Any) -> Tensor:
        function = similarity_kl if kind == "divergence" else info_nce
        return function(query, key, scale=scale, impl=impl, **{**options, **changes})

    return loss, leaves


def step(loss: Callable[..., Tensor], leaves: list[Tensor], **options: Any) -> tuple[Tensor, ...]:
    y = loss(*leaves, **options)
    return y.detach(), *torch.autograd.grad(y, leaves)


def equal(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def exactly(kind: str, rows: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The reference in float64; test_contrastive.py holds it against double loops."""
    loss, leaves = case(kind, rows, width, dtype)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    return step(loss, doubles, impl="reference")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32x3", "tf32"])
@pytest.mark.parametrize(("rows", "width"), [(1000, 384), (700, 17), (129, 128)])
def test_error_budgets(rows: int, width: int, precision: str, kind: str, within: Callable[..., None]) -> None:
    """|fused - exact| <= 2 |eager - exact| + unit * size, in norms; eager computes half precisions in float32.

    Half precisions are exact factors of the logits, so that only their gradients are rounded. tf32 rounds the factors,
    which moves a logit by about unit * scale, and so the loss, and shares in proportion.
    """
    dtype = getattr(torch, precision, torch.float32)
    unit = UNITS[precision]
    loss, leaves = case(kind, rows, width, dtype)
    eager = step(loss, leaves, impl="reference")
    exact = exactly(kind, rows, width, dtype)
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    fused = step(loss, leaves)
    scale = leaves[2].item()
    moved = UNITS["tf32x3"] * scale if dtype != torch.float32 else unit * scale
    names = ("loss", "dquery", "dkey", "dscale")
    # What gradients are made of: every row's pull towards its positives and push from the others, of size scale / N.
    sizes = [1.0, *(scale / count**0.5 for count in map(len, leaves[:2])), 1.0]
    slack = {
        name: (max(unit, moved) if name in ("dquery", "dkey") else moved) * size
        for name, size in zip(names, sizes, strict=True)
    }
    results = [dict(zip(names, values, strict=True)) for values in (fused, eager, exact)]
    within(*results, slack)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_every_shipped_configuration(dtype: torch.dtype, launched: list[Variant]) -> None:
    for kind in KINDS:
        for symmetric in (True, False):
            loss, leaves = case(kind, 300, 100, dtype)
            changes = {} if kind == "divergence" else {"symmetric": symmetric}
            results, expected = (step(loss, leaves, impl=impl, **changes) for impl in ("triton", "reference"))
            torch.testing.assert_close(results[0], expected[0], rtol=1e-5, atol=1e-5)
    arch = device.architecture(torch.device("cuda", torch.cuda.current_device()))
    name = str(dtype).removeprefix("torch.")
    assert set(launched) == {variant for variant in configs.variants(arch) if variant.dtype == name}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "inner", "width"), [(100, 3000, 48), (1, 1, 16), (17, 8000, 512)])
def test_products_of_halves_are_summed_in_float32(
    rows: int, inner: int, width: int, transposed: bool, dtype: torch.dtype
) -> None:
    """Added to what there is, in place; large sums of small terms, which half precision would lose."""
    random = torch.Generator("cuda").manual_seed(0)
    pitch = -(-inner // 16) * 16
    storage = torch.rand(rows, pitch, device="cuda", generator=random).to(dtype)
    left = storage[:, :inner]
    if transposed:
        left = torch.rand(inner, -(-rows // 16) * 16, device="cuda", generator=random).to(dtype)[:, :rows].T
    right = torch.rand(inner, width, device="cuda", generator=random).to(dtype)
    whole = torch.full((rows + 2, width), 100.0, device="cuda")
    total = whole[1:-1]
    op._add_product(total, left, right)
    exact = 100 + left.double() @ right.double()
    torch.testing.assert_close(total.double(), exact, rtol=1e-4, atol=1e-5)
    assert (whole[[0, -1]] == 100).all()


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_ten_times(kind: str) -> None:
    loss, leaves = case(kind, 5000, 128)
    first = step(loss, leaves)
    assert all(equal(step(loss, leaves), first) for _ in range(9))


@pytest.mark.parametrize("kind", ["labels", "divergence"])
def test_blocks_make_up_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, leaves = case(kind, 3000, 64, torch.float32)
    expected = step(loss, leaves)
    monkeypatch.setattr(configs, "ROWS_AT_A_TIME", 1000)
    monkeypatch.setattr(configs, "BLOCK", 1000 * 777)
    torch.testing.assert_close(step(loss, leaves), expected, rtol=1e-4, atol=1e-5)


def test_auto_runs_the_kernel_where_the_matrix_is_large() -> None:
    side = math.isqrt(configs.WORTHWHILE)
    for rows, fused in ((side, True), (side - 1, False)):
        query = embeddings(rows, 16).requires_grad_()
        loss = info_nce(query, query.detach(), scale=2.0)
        names, node = set(), [loss.grad_fn]
        while node:
            each = node.pop()
            names.add(each.name())
            node += [following for following, _ in each.next_functions if following is not None]
        assert any("similarity_statistics" in name for name in names) == fused


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("above", [1e-6, 1.0, 65536.0])
def test_scaled_losses(above: float, dtype: torch.dtype) -> None:
    """Gradients are in proportion to the one above, in which blocks of them would under- or overflow in float16."""
    loss, (query, key, scale) = case("labels", 2000, 64, dtype)
    one, many = (
        torch.autograd.grad(loss(query.float(), key.float(), scale) * factor, (query, key, scale))
        for factor in (1.0, above)
    )
    results = torch.autograd.grad(loss(query, key, scale) * above, (query, key, scale))
    torch.testing.assert_close(results[2], one[2] * above, rtol=2e-2, atol=0)
    for result, expected in zip(results[:2], many, strict=False):
        near = 2 * torch.finfo(dtype).eps
        least = near * (expected.abs().max() + torch.finfo(dtype).tiny)  # below it numbers are far apart
        torch.testing.assert_close(result, expected, rtol=near, atol=least.item())


def _free(gibibytes: float) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gibibytes * 2**30:
        pytest.skip(f"needs {gibibytes} GiB of free GPU memory, and there are {free / 2**30:.0f}")


def _check_sample(
    query: Tensor, key: Tensor, some: Tensor, labels: tuple[Tensor, Tensor] | None, offset: int
) -> None:
    """Statistics, and gradients of the query, of some rows against float64."""
    scale = torch.tensor(20.0, device="cuda")
    given = (None, None) if labels is None else labels
    query.requires_grad_()
    row_lse, row_positive, *_ = torch.ops.mica_kernels.similarity_statistics(
        query, key, scale, *given, offset, False
    )
    (gradient,) = torch.autograd.grad((row_lse[some] - row_positive[some]).sum(), query)
    few = query[some].detach().double()

    def parts() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Logits, positives and keys, so many columns at a time."""
        for start in range(0, len(key), 1 << 18):
            keys = key[start : start + (1 << 18)].double()
            columns = torch.arange(start, start + len(keys), device="cuda")
            matches = some[:, None] + offset == columns
            if labels is not None:
                matches = labels[0][some][:, None] == labels[1][columns]
            yield 20 * few @ keys.T, matches, keys

    lse = torch.stack([logits.logsumexp(1) for logits, *_ in parts()]).logsumexp(0)
    positive = sum(logits.where(matches, 0).sum(1) for logits, matches, _ in parts())
    shares = (((logits - lse[:, None]).exp() - 1.0 * matches, keys) for logits, matches, keys in parts())
    expected = 20 * sum(each @ keys for each, keys in shares)
    torch.testing.assert_close(row_lse[some].double(), lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(row_positive[some].double(), positive, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(gradient[some].double(), expected, rtol=2e-2, atol=2e-2)
    rest = torch.ones(len(query), dtype=torch.bool, device="cuda")
    rest[some] = False
    assert not gradient[rest].any()


@pytest.mark.parametrize("labelled", [False, True])
def test_more_entries_than_32_bits_count(labelled: bool) -> None:
    """2^16 x 2^16 of them: the first rows, the last, and those on either side of 2^31 entries."""
    _free(8)
    rows = 2**16 + 3
    query, key = embeddings(rows, 64), embeddings(rows, 64, seed=1)
    some = torch.tensor([0, 1, 2**15 - 1, 2**15, 2**15 + 1, rows - 2, rows - 1], device="cuda")
    place = torch.arange(rows, device="cuda")
    labels = (place // 2, place // 2) if labelled else None
    assert rows * rows > 2**32
    _check_sample(query, key, some, labels, 0)


def test_more_numbers_than_32_bits_count() -> None:
    """A queue of 2^22 embeddings of 640 numbers: those at its end are found, and pull at their rows."""
    _free(24)
    rows, width = 300, 640
    count = 2**22
    key = torch.empty(count, width, device="cuda", dtype=torch.bfloat16)
    assert key.numel() > 2**31
    for start in range(0, count, 2**19):
        key[start : start + 2**19] = embeddings(2**19, width, seed=start)
    query = embeddings(rows, width, seed=7)
    some = torch.tensor([0, 1, 128, rows - 2, rows - 1], device="cuda")
    _check_sample(query, key, some, None, count - rows)


def test_a_query_of_more_numbers_than_32_bits_count() -> None:
    _free(40)
    rows, width = 2**22, 640
    query = torch.empty(rows, width, device="cuda", dtype=torch.bfloat16)
    assert query.numel() > 2**31
    for start in range(0, rows, 2**19):
        query[start : start + 2**19] = embeddings(2**19, width, seed=start)
    key = embeddings(130, width, seed=7)
    place = torch.arange(rows, device="cuda")
    labels = place % 130, torch.arange(130, device="cuda")
    some = torch.tensor([0, 1, 2**21 - 1, 2**21, rows - 2, rows - 1], device="cuda")
    _check_sample(query, key, some, labels, 0)


def _peak(run: Callable[[], object]) -> int:
    """Bytes asked for while `run` runs, at the most, beyond those there were; what it returns included."""
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    results = run()
    peak = torch.cuda.memory_stats()["requested_bytes.all.peak"]
    del results
    return peak - before


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_an_eighth_of_what_eager_mode_takes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _free(12)
    loss, leaves = case(kind, 16384, 512)
    fused = _peak(lambda: step(loss, leaves))
    monkeypatch.setattr(op.reference, "LIMIT", 1 << 40)  # the whole matrix, as losses are written by hand
    gc.collect()
    torch.cuda.empty_cache()
    eager = _peak(lambda: step(loss, leaves, impl="reference"))
    assert fused < eager / 8


@pytest.mark.parametrize("kind", ["pairs", "labels", "divergence"])
def test_memory_of_an_enormous_batch(kind: str) -> None:
    """2^32 logits, which alone would take 16 GB: less than 1 GB, the gradients themselves included."""
    _free(4)
    loss, leaves = case(kind, 65536, 512)
    assert _peak(lambda: step(loss, leaves)) < 10**9


@pytest.mark.parametrize("kind", KINDS)
def test_memory_between_forward_and_backward(kind: str) -> None:
    """Some numbers a row and a column, beside the tensors that were there."""
    loss, leaves = case(kind, 4096, 256)
    loss(*leaves).backward()
    before = torch.cuda.memory_allocated()
    y = loss(*leaves)
    kept = torch.cuda.memory_allocated() - before
    y.backward()
    assert kept <= 64 * (len(leaves[0]) + len(leaves[1])) + 2**16


@pytest.mark.parametrize("kind", KINDS)
def test_calls_do_not_wait_for_the_gpu(kind: str) -> None:
    loss, leaves = case(kind, 500, 64)
    step(loss, leaves)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(loss, leaves)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", KINDS)
def test_cuda_graph(kind: str) -> None:
    """Forward and backward are captured once and replayed on other embeddings."""
    loss, leaves = case(kind, 500, 64)
    run = partial(step, loss, leaves)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    for seed in (5, 6):
        _, others = case(kind, 500, 64, seed=seed)
        with torch.no_grad():
            for leaf, other in zip(leaves, others, strict=True):
                leaf.copy_(other)
        graph.replay()
        assert equal(results, run())


@pytest.mark.parametrize("kind", ["labels", "divergence"])
def test_two_streams(kind: str) -> None:
    cases = [case(kind, 4000, 128, seed=seed) for seed in (0, 5)]
    expected = [step(*each) for each in cases]
    streams = [torch.cuda.Stream() for _ in cases]
    for _ in range(5):
        torch.cuda.synchronize()
        results = []
        for stream, each in zip(streams, cases, strict=True):
            with torch.cuda.stream(stream):
                results.append(step(*each))
        torch.cuda.synchronize()
        assert all(map(equal, results, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_that_is_not_the_current_one(kind: str) -> None:
    expected = step(*case(kind, 300, 64))
    results = step(*case(kind, 300, 64, where="cuda:1"))
    assert torch.cuda.current_device() == 0
    assert {result.device.index for result in results} == {1}
    torch.testing.assert_close([result.cuda(0) for result in results], list(expected))


@pytest.mark.parametrize("kind", ["labels", "divergence"])
def test_tuned_kernels_compute_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the candidates is the fastest; one that the GPU has no room for is passed over."""
    monkeypatch.setenv(tune.CACHE_VARIABLE, str(tmp_path))
    tune.saved.cache_clear()
    loss, leaves = case(kind, 700, 64)
    expected = step(loss, leaves)
    candidates = [
        Launch(64, 4, 3, 1, step=32, rows=64),
        Launch(128, 4, 2, 2, step=64, rows=64),
        Launch(256, 8, 4, 1, step=128, rows=256),  # more than any GPU has room for
    ]
    for candidate in candidates[:2]:
        tune.file().unlink(missing_ok=True)
        tune.saved.cache_clear()
        times = {candidate: 0.5}
        monkeypatch.setattr(configs, "candidates", lambda: candidates)
        monkeypatch.setattr(tune, "_time", lambda run, times=times: (run(), times.get(run.args[-1], 1.0))[1])
        with tune.tuning():
            results = step(loss, leaves)
        assert set(tune.saved().values()) == {candidate}
        assert len(tune.saved()) == 2
        torch.testing.assert_close(results, expected, rtol=2e-2, atol=1e-4)
        assert equal(step(loss, leaves), results)  # as later processes have it
    monkeypatch.undo()
    tune.saved.cache_clear()


def test_tuning_by_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the clock itself, among few candidates."""
    monkeypatch.setenv(tune.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv(tune.VARIABLE, "1")
    monkeypatch.setattr(configs, "candidates", lambda: [Launch(64, 4, 3, 1, step=32, rows=64)])
    tune.saved.cache_clear()
    loss, leaves = case("labels", 700, 64)
    results = step(loss, leaves)
    assert sorted(key.split()[-3] for key in tune.saved()) == ["gradient", "statistics"]
    monkeypatch.undo()
    tune.saved.cache_clear()
    torch.testing.assert_close(results, step(loss, leaves, impl="reference"), rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("kind", ["pairs", "labels", "divergence"])
def test_compiles_with_inductor(kind: str, mode: str) -> None:
    """Behind a projection and a normalisation; in one graph for all batch sizes."""
    project = nn.Linear(64, 64).cuda()

    def train(query: Tensor, key: Tensor, scale: Tensor, **labels: Tensor) -> Tensor:
        query = F.normalize(project(query), dim=1)
        if kind == "divergence":
            return similarity_kl(query, key, key, key, scale=scale, teacher_scale=5.0, impl="triton")
        return info_nce(query, key, scale=scale, impl="triton", **labels)

    counter = CompileCounterWithBackend("inductor")
    options = {"backend": counter} if mode == "default" else {"mode": mode}
    compiled = torch.compile(train, fullgraph=True, dynamic=mode == "default", **options)
    for rows in (65, 129, 200):
        query, key, scale = embeddings(rows, 64, torch.float32), embeddings(rows, 64, torch.float32), 20.0
        scale = torch.tensor(scale, device="cuda", requires_grad=True)
        labels = {}
        if kind == "labels":
            labels = dict.fromkeys(("query_labels", "key_labels"), torch.arange(rows, device="cuda") // 2)
        results = []
        for function in (compiled, train):
            for _ in range(3):  # to warm up and record what CUDA graphs replay
                project.zero_grad()
                scale.grad = None
                y = function(query, key, scale, **labels)
                y.backward()
            results.append([y.detach().clone(), scale.grad.clone(), project.weight.grad.clone()])
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
    if mode == "default":
        assert counter.frame_count == 1


def test_autocast() -> None:
    """What a projection gives in bfloat16 stays in it; the loss and the scale's gradient are float32."""
    project, loss = nn.Linear(64, 32).cuda(), InfoNCELoss().cuda()
    x, key = embeddings(1500, 64, torch.float32), embeddings(1500, 32, torch.bfloat16)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        query = project(x)
        y = loss(query, key)
        expected = info_nce(query, key, scale=loss.scale(), impl="reference")
    assert query.dtype == torch.bfloat16
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, expected)
    y.backward()
    assert {parameter.grad.dtype for parameter in (*project.parameters(), loss.logit_scale)} == {
        torch.float32
    }
