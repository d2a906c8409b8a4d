"""The contrastive losses against double loops in float64: definitions, gradients, ugly cases, and tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mica_kernels import info_nce, similarity_kl
from mica_kernels.contrastive import reference


def log_sum_exp(values: list[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def dot_products(query: torch.Tensor, key: torch.Tensor, scale: float) -> list[list[float]]:
    rows, columns = query.double().tolist(), key.double().tolist()
    return [[scale * math.fsum(a * b for a, b in zip(q, k, strict=True)) for k in columns] for q in rows]


def naive_row_loss(
    logits: list[list[float]], labels: list[int], column_labels: list[int], extra: list[list[float]]
) -> float:
    losses = []
    for i, row in enumerate(logits):
        positives = [row[j] for j, label in enumerate(column_labels) if label == labels[i]]
        if positives:
            total = log_sum_exp(row + extra[i])
            losses.append(sum(total - positive for positive in positives) / len(positives))
    return sum(losses) / len(losses)


def naive_info_nce(
    query: torch.Tensor,
    key: torch.Tensor,
    scale: float,
    query_labels: torch.Tensor | None = None,
    key_labels: torch.Tensor | None = None,
    extra_keys: torch.Tensor | None = None,
    symmetric: bool = True,
) -> float:
    rows = list(range(len(query))) if query_labels is None else query_labels.tolist()
    columns = list(range(len(key))) if key_labels is None else key_labels.tolist()
    logits = dot_products(query, key, scale)
    extra = [[] for _ in rows] if extra_keys is None else dot_products(query, extra_keys, scale)
    loss = naive_row_loss(logits, rows, columns, extra)
    if not symmetric:
        return loss
    transposed = [list(column) for column in zip(*logits, strict=True)]
    return (loss + naive_row_loss(transposed, columns, rows, [[] for _ in columns])) / 2


def naive_similarity_kl(
    query: torch.Tensor,
    key: torch.Tensor,
    teacher_query: torch.Tensor,
    teacher_key: torch.Tensor,
    scale: float,
    teacher_scale: float,
) -> float:
    total = 0.0
    teacher_rows = dot_products(teacher_query, teacher_key, teacher_scale)
    for student, teacher in zip(dot_products(query, key, scale), teacher_rows, strict=True):
        student_total, teacher_total = log_sum_exp(student), log_sum_exp(teacher)
        for a, b in zip(student, teacher, strict=True):
            total += math.exp(b - teacher_total) * ((b - teacher_total) - (a - student_total))
    return total / len(query)


def embeddings(*shape: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)


@pytest.fixture
def labels() -> dict[str, torch.Tensor]:
    """Seven rows, five columns: several positives, row label 8 in no column, column label 9 in no row."""
    return {
        "query_labels": torch.tensor([0, 0, 1, 2, 8, 1, 0]),
        "key_labels": torch.tensor([1, 0, 0, 9, 2]),
    }


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("queue", [None, 0, 6])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_info_nce_of_pairs(size: int, queue: int | None, symmetric: bool) -> None:
    query, key = embeddings(size, 3), embeddings(size, 3, seed=1)
    extra = None if queue is None else embeddings(queue, 3, seed=2)
    loss = info_nce(query, key, scale=4.0, extra_keys=extra, symmetric=symmetric)
    expected = naive_info_nce(query, key, 4.0, extra_keys=extra, symmetric=symmetric)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert loss.shape == ()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("queue", [None, 6])
def test_info_nce_with_labels(labels: dict, queue: int | None, symmetric: bool) -> None:
    query, key = embeddings(7, 4), embeddings(5, 4, seed=1)
    extra = None if queue is None else embeddings(queue, 4, seed=2)
    loss = info_nce(query, key, scale=3.0, extra_keys=extra, symmetric=symmetric, **labels)
    expected = naive_info_nce(query, key, 3.0, extra_keys=extra, symmetric=symmetric, **labels)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_distinct_labels_are_pairs() -> None:
    query, key, order = embeddings(4, 3), embeddings(4, 3, seed=1), torch.tensor([3, 1, 0, 2])
    loss = info_nce(query, key[order], scale=5.0, query_labels=torch.arange(4), key_labels=order)
    assert loss.item() == pytest.approx(info_nce(query, key, scale=5.0).item())


def test_row_without_positive_is_left_out_but_pushes_columns(labels: dict) -> None:
    query, key = embeddings(7, 4).requires_grad_(), embeddings(5, 4, seed=1)
    rows_only = info_nce(query, key, scale=3.0, symmetric=False, **labels)
    (gradient,) = torch.autograd.grad(rows_only, query)
    assert not gradient[4].any()
    (gradient,) = torch.autograd.grad(info_nce(query, key, scale=3.0, **labels), query)
    assert gradient.any(dim=1).all()


def test_no_positives_at_all_is_zero() -> None:
    query, key = embeddings(3, 2).requires_grad_(), embeddings(2, 2).requires_grad_()
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    labels = {"query_labels": torch.zeros(3).long(), "key_labels": torch.ones(2).long()}
    loss = info_nce(query, key, scale=scale, **labels)
    loss.backward()
    assert loss.item() == 0
    assert not any(tensor.grad.any() for tensor in (query, key, scale))


def test_extra_keys_get_no_gradient() -> None:
    query, extra = embeddings(3, 2).requires_grad_(), embeddings(4, 2).requires_grad_()
    info_nce(query, embeddings(3, 2, seed=1), scale=2.0, extra_keys=extra).backward()
    assert query.grad.any()
    assert extra.grad is None


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_info_nce_gradients(labels: dict, labelled: bool, symmetric: bool) -> None:
    rows, columns = (7, 5) if labelled else (4, 4)
    inputs = (embeddings(rows, 3), embeddings(columns, 3, seed=1), torch.tensor(3.0, dtype=torch.float64))
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)
    options = {"extra_keys": embeddings(3, 3, seed=2), "symmetric": symmetric, **(labels if labelled else {})}

    def loss(query: torch.Tensor, key: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return info_nce(query, key, scale=scale, **options)

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@pytest.mark.parametrize(("rows", "columns", "teacher_width"), [(1, 1, 1), (3, 5, 2), (6, 4, 9), (4, 1, 3)])
def test_similarity_kl(rows: int, columns: int, teacher_width: int) -> None:
    student = embeddings(rows, 3), embeddings(columns, 3, seed=1)
    teacher = embeddings(rows, teacher_width, seed=2), embeddings(columns, teacher_width, seed=3)
    loss = similarity_kl(*student, *teacher, scale=4.0, teacher_scale=7.0)
    assert loss.item() == pytest.approx(naive_similarity_kl(*student, *teacher, 4.0, 7.0), abs=1e-12)
    assert loss.shape == ()


def test_similarity_kl_gradients_stop_at_the_teacher() -> None:
    teacher = embeddings(3, 2, seed=2).requires_grad_(), embeddings(4, 2, seed=3).requires_grad_()
    teacher_scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    inputs = (embeddings(3, 3), embeddings(4, 3, seed=1), torch.tensor(3.0, dtype=torch.float64))
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)

    def loss(query: torch.Tensor, key: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return similarity_kl(query, key, *teacher, scale=scale, teacher_scale=teacher_scale)

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)
    loss(*inputs).backward()
    assert all(tensor.grad is None for tensor in (*teacher, teacher_scale))


@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_large_scales_are_finite_and_right(scale: float) -> None:
    """The worst case: the positives are the least similar pairs."""
    query = embeddings(5, 4).requires_grad_()
    key = -query.detach() + 0.01 * embeddings(5, 4, seed=1)
    loss = info_nce(query.float(), key.float(), scale=scale)
    assert loss.item() == pytest.approx(naive_info_nce(query, key, scale), rel=1e-5)
    teacher = embeddings(5, 6, seed=2), embeddings(5, 6, seed=3)
    kl = similarity_kl(query.float(), key.float(), *teacher, scale=scale, teacher_scale=scale)
    assert kl.item() == pytest.approx(naive_similarity_kl(query, key, *teacher, scale, scale), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss + kl, query)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision(dtype: torch.dtype, autocast: bool) -> None:
    """Half inputs are exact in float32, so the loss is as good as from float32, under autocast too."""
    tensors = [embeddings(6, 32, seed=seed).to(dtype) for seed in range(4)]
    scale = torch.tensor(50.0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        nce = info_nce(*tensors[:2], scale=scale)
        kl = similarity_kl(*tensors, scale=scale, teacher_scale=50.0)
    assert nce.dtype == kl.dtype == torch.float32
    assert nce.item() == pytest.approx(naive_info_nce(*tensors[:2], 50.0), rel=1e-5)
    assert kl.item() == pytest.approx(naive_similarity_kl(*tensors, 50.0, 50.0), rel=1e-5)


def test_float64_stays_float64() -> None:
    a, b = embeddings(3, 2), embeddings(3, 2, seed=1)
    assert info_nce(a, b, scale=torch.tensor(2.0)).dtype == torch.float64
    teacher = a.float(), b.float()
    assert similarity_kl(a, b, *teacher, scale=2.0, teacher_scale=2.0).dtype == torch.float64


def test_mixed_precisions_and_strides() -> None:
    query, key = embeddings(4, 6).float(), embeddings(4, 6, seed=1).bfloat16()
    loss = info_nce(query.T.contiguous().T, key, scale=3)
    assert loss.item() == pytest.approx(naive_info_nce(query, key, 3.0), rel=1e-5)


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than 50 entries of a similarity matrix at a time: tiles of 7 x 7 or, where one side is short, longer."""
    monkeypatch.setattr(reference, "LIMIT", 50)


def chunked_case(kind: str, rows: int, columns: int) -> tuple[Callable[..., torch.Tensor], tuple]:
    """A loss of query, key and scale, and these."""
    query, key = embeddings(rows, 3), embeddings(columns, 3, seed=1)
    teacher = embeddings(rows, 4, seed=2), embeddings(columns, 4, seed=3)
    random = torch.Generator().manual_seed(rows)
    shared = {
        "query_labels": torch.randint(8, (rows,), generator=random),
        "key_labels": torch.randint(8, (columns,), generator=random),
    }
    options = {
        "pairs": {},
        "labels": shared,
        "one way": {"symmetric": False, **shared},
        "queue": {"extra_keys": embeddings(23, 3, seed=4), **shared},
        "no positives": {**shared, "key_labels": shared["key_labels"] + 8},
    }

    def loss(query: torch.Tensor, key: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
        if kind == "divergence":
            return similarity_kl(query, key, *teacher, scale=scale, teacher_scale=5.0)
        return info_nce(query, key, scale=scale, **options[kind])

    scale = torch.tensor(3.0, dtype=torch.float64)
    return loss, tuple(tensor.requires_grad_() for tensor in (query, key, scale))


def derivatives(loss: Callable[..., torch.Tensor], inputs: tuple) -> list[torch.Tensor]:
    """Value, gradients, and gradients of a function of those."""
    value = loss(*inputs)
    first = torch.autograd.grad(value.exp(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(gradient.cos().sum() for gradient in first), inputs)
    return [value, *first, *second]


@pytest.mark.parametrize(
    ("kind", "rows", "columns"),
    [
        ("pairs", 1, 1),
        ("pairs", 15, 15),
        ("labels", 16, 11),
        ("labels", 60, 1),
        ("labels", 1, 60),
        ("labels", 3, 40),
        ("one way", 16, 11),
        ("queue", 16, 11),
        ("no positives", 16, 11),
        ("divergence", 16, 11),
        ("divergence", 1, 60),
        ("divergence", 60, 1),
    ],
)
def test_tiles_make_up_the_whole(kind: str, rows: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, inputs = chunked_case(kind, rows, columns)
    expected = derivatives(loss, inputs)
    monkeypatch.setattr(reference, "LIMIT", 50)
    results = derivatives(loss, inputs)
    torch.testing.assert_close(results, expected, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert loss(*inputs).item() == pytest.approx(expected[0].item(), abs=1e-12)


@pytest.mark.parametrize("kind", ["pairs", "labels", "queue", "divergence"])
def test_gradients_of_tiles(kind: str, tiles: None) -> None:
    rows, columns = (11, 11) if kind == "pairs" else (11, 9)
    loss, inputs = chunked_case(kind, rows, columns)
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


@pytest.mark.parametrize("kind", ["labels", "divergence"])
def test_transforms_of_tiles(kind: str, tiles: None) -> None:
    loss, inputs = chunked_case(kind, 16, 11)
    expected = torch.autograd.grad(loss(*inputs), inputs)
    query, key, scale = (tensor.detach() for tensor in inputs)
    gradients = torch.func.grad(loss, argnums=(0, 1, 2))(query, key, scale)
    torch.testing.assert_close(gradients, expected)
    several = torch.stack([query, query.flip(0)])
    losses = torch.func.vmap(loss, in_dims=(0, None, None))(several, key, scale)
    torch.testing.assert_close(losses, torch.stack([loss(each, key, scale) for each in several]))
    _, tangent = torch.func.jvp(loss, (query, key, scale), (query, key, scale))
    assert tangent.item() == pytest.approx(
        sum((gradient * tensor).sum().item() for gradient, tensor in zip(gradients, inputs, strict=True))
    )


class _Largest(TorchDispatchMode):
    """How many numbers the largest result of any operation has."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        results = operation(*arguments, **(keywords or {}))
        for result in pytree.tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self.size = max(self.size, result.numel())
        return results


@pytest.mark.parametrize("kind", ["pairs", "labels", "queue", "one way", "divergence"])
def test_no_more_than_a_tile_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward; but for the statistics of tiles before they are merged, and query and key."""
    monkeypatch.setattr(reference, "LIMIT", 400)
    loss, inputs = chunked_case(kind, 60, 60)
    with _Largest() as largest:
        loss(*inputs).backward()
    assert 200 <= largest.size <= 400
    monkeypatch.undo()
    with _Largest() as largest:
        loss(*inputs).backward()
    assert largest.size == 3600


def test_tiles_under_autocast(tiles: None) -> None:
    """What is computed again is computed as it was."""
    loss, inputs = chunked_case("labels", 16, 11)
    inputs = tuple(tensor.detach().float().requires_grad_() for tensor in inputs)
    expected = torch.autograd.grad(loss(*inputs), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*inputs)
    gradients = torch.autograd.grad(value, inputs)
    assert all(torch.equal(*pair) for pair in zip(gradients, expected, strict=True))


def test_tiles_compile(tiles: None) -> None:
    loss, inputs = chunked_case("labels", 16, 11)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    results, expected = ([y, *torch.autograd.grad(y, inputs)] for y in (compiled(*inputs), loss(*inputs)))
    torch.testing.assert_close(results, expected)


@pytest.mark.parametrize(
    ("length", "size", "expected"),
    [(0, 3, [(0, 0)]), (1, 3, [(0, 1)]), (3, 3, [(0, 3)]), (7, 3, [(0, 3), (3, 6), (6, 7)])],
)
def test_blocks(length: int, size: int, expected: list[tuple[int, int]]) -> None:
    assert [(block.start, block.stop) for block in reference.blocks(length, size)] == expected


PAIR = {"query": torch.zeros(3, 2), "key": torch.zeros(3, 2), "scale": 1.0}
TEACHER = {"teacher_query": torch.zeros(3, 5), "teacher_key": torch.zeros(3, 5), "teacher_scale": 1.0}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"query": None}, TypeError, r"query must be a tensor of shape \(N, D\), got NoneType"),
        ({"key": torch.zeros(3, 2).long()}, TypeError, "key must be a real floating-point.*int64"),
        ({"key": torch.zeros(3)}, ValueError, r"key must have shape \(M, D\), got \(3,\)"),
        ({"query": torch.zeros(0, 2)}, ValueError, r"query is empty, shape \(0, 2\)"),
        ({"key": torch.zeros(3, 4)}, ValueError, r"query \(3, 2\) and key \(3, 4\) differ in width"),
        ({"key": torch.zeros(4, 2)}, ValueError, "as many rows where no labels.*N = 3 and M = 4"),
        ({"key": torch.zeros(3, 2, device="meta")}, ValueError, "key is on meta, query on cpu"),
        ({"scale": "1"}, TypeError, "scale must be a number or a 0-d tensor, got str"),
        ({"scale": torch.ones(1)}, ValueError, r"scale must be a number or a 0-d.*shape \(1,\)"),
        ({"query_labels": torch.arange(3)}, ValueError, "query_labels and key_labels go together"),
        ({"query_labels": [0], "key_labels": torch.arange(3)}, TypeError, "query_labels must be.*got list"),
        (
            {"query_labels": torch.arange(3), "key_labels": torch.zeros(3)},
            TypeError,
            "key_labels must be an integer tensor, got torch.float32",
        ),
        (
            {"query_labels": torch.arange(2), "key_labels": torch.arange(3)},
            ValueError,
            r"query_labels must have shape \(3,\), one label a row, got \(2,\)",
        ),
        ({"extra_keys": torch.zeros(4, 3)}, ValueError, r"query \(3, 2\) and extra_keys \(4, 3\) differ"),
        (
            {"impl": "fast"},
            ValueError,
            'impl="fast": the implementation must be one of auto, reference, dense, triton',
        ),
    ],
)
def test_info_nce_errors_name_the_argument(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        info_nce(**{**PAIR, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": torch.zeros(0, 2)}, ValueError, r"key is empty, shape \(0, 2\)"),
        ({"teacher_key": torch.zeros(3, 4)}, ValueError, "teacher_query.*and teacher_key.*differ in width"),
        ({"teacher_query": torch.zeros(2, 5)}, ValueError, "query and teacher_query must have.*got 3 and 2"),
        ({"teacher_key": torch.zeros(2, 5)}, ValueError, "key and teacher_key must have.*got 3 and 2"),
        ({"teacher_scale": None}, TypeError, "teacher_scale must be a number or a 0-d tensor, got NoneType"),
        (
            {"impl": "fast"},
            ValueError,
            'impl="fast": the implementation must be one of auto, reference, dense, triton',
        ),
    ],
)
def test_similarity_kl_errors_name_the_argument(changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        similarity_kl(**{**PAIR, **TEACHER, **changes})
