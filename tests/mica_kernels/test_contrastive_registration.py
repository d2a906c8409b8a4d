"""The contrastive losses' kernels as operators of PyTorch's: what they save, compilation, export, higher gradients.

On a machine without a GPU they run in Triton's interpreter; where that is off, in a process of its own, they fall back.
"""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from mica_kernels import backend, info_nce, similarity_kl
from mica_kernels.contrastive import configs, reference
from mica_kernels.launch import Launch
from mica_kernels.nn import InfoNCELoss, SimilarityKLLoss

pytest.importorskip("triton")

# Rows that do not exist have an empty sum, whose logarithm only NumPy speaks of.
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered in log2:RuntimeWarning")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STATISTICS = torch.ops.mica_kernels.similarity_statistics.default
STATISTICS_BACKWARD = torch.ops.mica_kernels.similarity_statistics_backward.default
DIVERGENCE = torch.ops.mica_kernels.similarity_divergence.default
DIVERGENCE_BACKWARD = torch.ops.mica_kernels.similarity_divergence_backward.default
KINDS = ("pairs", "labels", "queue", "one way", "divergence")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def embeddings(rows: int, width: int, number: int, dtype: torch.dtype = torch.float32) -> Tensor:
    random = torch.Generator().manual_seed(100 * rows + number)
    return F.normalize(torch.randn(rows, width, generator=random), dim=1).to(DEVICE, dtype)


def example(
    rows: int = 6, columns: int = 4, width: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """query, key, scale; the shapes decide on the values."""
    scale = torch.tensor(5.0, device=DEVICE, dtype=dtype)
    return embeddings(rows, width, 0, dtype), embeddings(columns, width, 1, dtype), scale


def labels(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Three rows share a label; some have no positive."""
    return (torch.arange(rows) // 3).to(DEVICE), (torch.arange(columns) * 2 // 3).to(DEVICE)


def loss_of(kind: str, query: Tensor, key: Tensor, scale: Tensor, impl: str = "triton") -> Tensor:
    if kind == "divergence":
        teacher = query.detach().flip(1), key.detach().flip(0)
        return similarity_kl(query, key, *teacher, scale=scale, teacher_scale=3.0, impl=impl)
    options: dict[str, Any] = {"symmetric": kind != "one way"}
    if kind in ("labels", "one way"):
        found = labels(len(query), len(key))
        options |= dict(zip(("query_labels", "key_labels"), found, strict=True))
    else:
        key = key[: len(query)]
    if kind == "queue":
        options["extra_keys"] = query.detach().flip(0) * 0.5
    return info_nce(query, key, scale=scale, impl=impl, **options)


def sized(kind: str, rows: int = 6, width: int = 3, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    columns = rows if kind in ("pairs", "queue") else rows - 2
    return [tensor.requires_grad_() for tensor in example(rows, columns, width, dtype)]


def gradients(loss: Callable[..., Tensor], *tensors: Tensor, **options: str) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = loss(*leaves, **options)
    return y.detach(), *torch.autograd.grad(y.sin(), leaves)


def nodes(y: Tensor) -> Iterator[Any]:
    """The autograd graph behind y."""
    found, waiting = set(), [y.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting.extend(following for following, _ in node.next_functions)
            yield node


def is_fused(y: Tensor) -> bool:
    return any("mica_kernels_similarity" in node.name() for node in nodes(y))


def _bytes(tensors: list[Tensor]) -> int:
    """Of the memory behind tensors, once for all views of it."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _saved(kind: str, impl: str, rows: int, width: int) -> tuple[list[Tensor], Tensor]:
    """What is saved for the backward pass of a loss, in the graph and out of it, and the loss."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    query, key, scale = sized(kind, rows, width)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(kind, query, key, scale, impl)
    return kept, loss


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("impl", ["triton", "reference"])
def test_what_is_saved_grows_with_rows_and_columns_and_not_with_their_product(
    impl: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the kernels nor the reference, where the matrix is larger than its limit, keep anything of N x M."""
    monkeypatch.setattr(configs, "launch", lambda *key: Launch(64, 4, 1, 1, step=16, rows=64))
    monkeypatch.setattr(reference, "LIMIT", 64 * 64)
    sizes = {}
    width = 4
    for rows in (128, 256):
        kept, loss = _saved(kind, impl, rows, width)
        columns = rows if kind in ("pairs", "queue") else rows - 2
        # query, key, and as much again of a teacher or a queue; labels of 8 bytes, twice; some statistics of 4.
        linear = 4 * (2 * width + 24) * (rows + columns) + 4096
        sizes[rows] = _bytes(kept)
        assert 4 * width * (rows + columns) <= sizes[rows] <= linear
        assert max(tensor.numel() for tensor in kept) <= 8 * width * (rows + columns)
        assert is_fused(loss) == (impl == "triton")
        loss.backward()
    assert sizes[256] <= 3 * sizes[128]  # the reference's tiles leave some numbers a row each
    whole, _ = _saved(kind, "reference", 64, width)
    assert _bytes(whole) >= 4 * 64 * 62  # which fits, and so is kept


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_the_graph_is_larger_than_the_embeddings(kind: str) -> None:
    """Looked up in the nodes themselves."""
    rows, width = 150, 8
    _, loss = _saved(kind, "triton", rows, width)
    tensors = []
    for node in nodes(loss):
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        if "mica_kernels" in node.name():
            saved.extend(node.saved_tensors)
        tensors += [tensor for tensor in saved if isinstance(tensor, Tensor)]
    operators = [node.name() for node in nodes(loss) if "mica_kernels" in node.name()]
    assert len(operators) == (2 if kind == "queue" else 1)
    assert any(tensor.shape == (rows, width) for tensor in tensors)
    assert max(tensor.numel() for tensor in tensors) <= rows * width


@pytest.mark.parametrize("form", configs.FORMS)
def test_opcheck_of_statistics(form: tuple[str, bool]) -> None:
    positives, columns = form
    query, key, scale = (tensor.requires_grad_() for tensor in example(3, 5))
    given = labels(3, 5) if positives == "labels" else (None, None)
    arguments = query, key, scale, *given, {"none": None, "diagonal": 1, "labels": 0}[positives], columns
    torch.library.opcheck(STATISTICS, arguments)
    row_lse, _, column_lse, _ = (result.detach() for result in STATISTICS(*arguments))
    sizes = (3, 3, 5, 5) if columns else (3, 3, 0, 0)
    above = [torch.randn(size, device=DEVICE).requires_grad_() for size in sizes]
    torch.library.opcheck(STATISTICS_BACKWARD, (*above, *arguments, row_lse, column_lse, [True, True, True]))


def test_opcheck_of_divergence() -> None:
    query, key, scale = (tensor.requires_grad_() for tensor in example(3, 5))
    arguments = query, key, embeddings(3, 2, 2), embeddings(5, 2, 3), scale, torch.tensor(3.0, device=DEVICE)
    torch.library.opcheck(DIVERGENCE, arguments)
    _, lse, teacher_lse = (result.detach() for result in DIVERGENCE(*arguments))
    above = [
        torch.randn(3, device=DEVICE).requires_grad_(),
        torch.zeros(3, device=DEVICE),
        torch.zeros(3, device=DEVICE),
    ]
    torch.library.opcheck(DIVERGENCE_BACKWARD, (*above, *arguments, lse, teacher_lse, [True, True, True]))


@pytest.mark.parametrize("wanted", [[True, False, False], [False, True, True]])
@pytest.mark.parametrize("form", ["transposed", "sliced", "expanded", "float16"])
def test_fake_results_lie_as_real_ones(form: str, wanted: list[bool]) -> None:
    query, key, scale = example(6, 4, width=4)
    lay = {
        "transposed": lambda tensor: tensor.T.contiguous().T,
        "sliced": lambda tensor: tensor[::2, 1:3],
        "expanded": lambda tensor: tensor[:1].expand_as(tensor),
        "float16": lambda tensor: tensor.half(),
    }[form]
    query, key = lay(query), lay(key)
    check = partial(torch.library.opcheck, test_utils="test_faketensor")
    arguments = query, key, scale, None, None, None, False
    check(STATISTICS, arguments)
    results = STATISTICS(*arguments)
    check(STATISTICS_BACKWARD, (*results, *arguments, results[0], results[2], wanted))
    arguments = query, key, key[:1].expand_as(query), key, scale, scale
    check(DIVERGENCE, arguments)
    results = DIVERGENCE(*arguments)
    check(DIVERGENCE_BACKWARD, (*results, *arguments, *results[1:], wanted))


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_fake_tensors_need_no_such_device(device: str) -> None:
    with FakeTensorMode():
        query = torch.empty(6, 3, dtype=torch.bfloat16, device=device)
        key = torch.empty(3, 4, dtype=torch.float16, device=device).T
        scale = torch.empty((), device=device)
        arguments = query, key, scale, None, None, 0, True
        results = STATISTICS(*arguments)
        found = STATISTICS_BACKWARD(*results, *arguments, results[0], results[2], [True, True, True])
        divergences = DIVERGENCE(query, key, query, key, scale, scale)
    assert [tuple(result.shape) for result in results] == [(6,), (6,), (4,), (4,)]
    assert [tuple(result.shape) for result in divergences] == [(6,)] * 3
    assert {result.dtype for result in (*results, *divergences)} == {torch.float32}
    for result, like in zip(found, (query, key, scale), strict=True):
        assert (result.shape, result.stride(), result.dtype) == (like.shape, like.stride(), like.dtype)
        assert result.device == like.device


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_once_for_all_sizes(kind: str) -> None:
    """In one graph, forward and backward. Sizes that are equal in the first call would be taken for one."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(partial(loss_of, kind), fullgraph=True, dynamic=True, backend=counter)
    for rows, width in ((6, 3), (9, 3), (7, 5)):
        tensors = sized(kind, rows, width)
        torch.testing.assert_close(
            gradients(compiled, *tensors), gradients(partial(loss_of, kind), *tensors, impl="reference")
        )
    assert counter.frame_count == 1
    calls = [str(node.target) for node in counter.graphs[0].graph.nodes if node.op == "call_function"]
    assert sum("mica_kernels" in call for call in calls) == (2 if kind == "queue" else 1)


@pytest.mark.parametrize("kind", ["labels", "divergence"])
def test_compiled_auto_is_the_reference_where_it_is_small(kind: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(partial(loss_of, kind, impl="auto"), fullgraph=True, backend=counter)
    tensors = sized(kind)
    torch.testing.assert_close(
        gradients(compiled, *tensors), gradients(partial(loss_of, kind), *tensors, impl="reference")
    )
    calls = [str(node.target) for node in counter.graphs[0].graph.nodes if node.op == "call_function"]
    assert not any("mica_kernels" in call for call in calls)


@pytest.mark.skipif(
    DEVICE.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))),
    reason="inductor needs a C++ compiler",
)
def test_compiles_with_inductor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def step(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
        return loss_of("one way", query.relu() + query, key, scale).mul(2)

    compiled = torch.compile(step, fullgraph=True, dynamic=True)
    for rows in (6, 9):
        tensors = sized("one way", rows)
        torch.testing.assert_close(gradients(compiled, *tensors), gradients(step, *tensors))


def test_compile_says_why_there_is_no_kernel() -> None:
    compiled = torch.compile(partial(loss_of, "pairs"), backend="eager")
    with pytest.raises(
        RuntimeError, match=r'impl="triton" was asked for, but the kernel serves .*not float64'
    ):
        compiled(*sized("pairs", dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("impl", ["triton", "reference"])
@pytest.mark.parametrize("kind", ["labels", "divergence"])
def test_autocast_leaves_the_losses_alone(kind: str, impl: str, dtype: torch.dtype) -> None:
    loss, tensors = partial(loss_of, kind, impl=impl), sized(kind)
    expected = gradients(loss, *tensors)
    with torch.autocast(DEVICE.type, dtype=dtype):
        y = loss(*tensors)
        if (
            impl == "triton"
        ):  # eager mode's backward pass would round under autocast, which is for forward alone
            assert all(torch.equal(*pair) for pair in zip(gradients(loss, *tensors), expected, strict=True))
    results = y, *torch.autograd.grad(y.sin(), tensors)
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))
    assert {result.dtype for result in results} == {torch.float32}


class _Step(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        _, key, scale = sized(kind)
        self.key, self.scale = nn.Parameter(key), nn.Parameter(scale)

    def forward(self, query: Tensor) -> Tensor:
        return loss_of(self.kind, query, self.key, self.scale) + 1


@pytest.mark.parametrize("kind", ["one way", "divergence"])
def test_export(kind: str) -> None:
    """A program in which the sweep is one operator; it is the same when saved and loaded."""
    step, (query, *_) = _Step(kind), sized(kind)
    query = query.detach()
    program = torch.export.export(step, (query,))
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert (DIVERGENCE if kind == "divergence" else STATISTICS) in targets
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    for exported in (program.module(), loaded.module()):
        torch.testing.assert_close(exported(query), step(query), rtol=0, atol=0)


def second_gradients(loss: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    """Of a function of all first gradients, and of those."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = loss(*leaves)
    first = torch.autograd.grad(y.sin(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(each.cos().sum() for each in first), leaves, create_graph=True)
    third = torch.autograd.grad(sum(each.square().sum() for each in second), leaves)
    return [y, *first, *second, *third]


@pytest.mark.parametrize("kind", KINDS)
def test_second_and_third_gradients(kind: str) -> None:
    """Against the reference in float64, whose own were held against differences."""
    tensors = sized(kind)
    results = second_gradients(partial(loss_of, kind), *tensors)
    doubles = [tensor.double() for tensor in tensors]
    expected = second_gradients(partial(loss_of, kind, impl="reference"), *doubles)
    torch.testing.assert_close(results, [each.float() for each in expected], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("wanted", [0, 1, 2])
@pytest.mark.parametrize("kind", ["labels", "divergence"])
def test_second_gradient_of_one_argument_alone(kind: str, wanted: int) -> None:
    """As a gradient penalty takes it."""

    def penalty(impl: str) -> tuple[Tensor, ...]:
        tensors = [tensor.detach().requires_grad_(i == wanted) for i, tensor in enumerate(sized(kind))]
        y = loss_of(kind, *tensors, impl=impl)
        (first,) = torch.autograd.grad(y.square(), tensors[wanted], create_graph=True)
        return first, *torch.autograd.grad(first.square().sum(), tensors[wanted])

    torch.testing.assert_close(penalty("triton"), penalty("reference"), rtol=1e-3, atol=1e-4)


def test_second_gradient_by_the_gradients_above() -> None:
    """Rows' losses are weighted, and their weights differentiated, as in learning to weight."""

    def penalty(statistics: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        query, key, scale = (tensor.detach().requires_grad_() for tensor in example(6, 4))
        weight = torch.linspace(0.1, 1, 6, device=DEVICE).requires_grad_()
        row_lse, row_positive, column_lse, _ = statistics(query, key, scale, *labels(6, 4), 0, True)
        y = (weight * (row_lse - row_positive)).sum() + column_lse.sum()
        first = torch.autograd.grad(y, (query, key, scale), create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), (weight, query, key, scale))

    torch.testing.assert_close(
        penalty(STATISTICS), penalty(reference.similarity_statistics), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing(kind: str) -> None:
    again = partial(checkpoint, partial(loss_of, kind), use_reentrant=False)
    results, expected = (gradients(loss, *sized(kind)) for loss in (again, partial(loss_of, kind)))
    torch.testing.assert_close(results, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_mode(kind: str) -> None:
    tensors = sized(kind)
    with torch.inference_mode():
        y = loss_of(kind, *tensors)
    assert torch.equal(y, loss_of(kind, *tensors))


@pytest.mark.parametrize("kind", ["pairs", "one way", "divergence"])
def test_transforms_take_the_reference(kind: str) -> None:
    loss, tensors = partial(loss_of, kind, impl="auto"), sized(kind)
    query, key, scale = (tensor.detach() for tensor in tensors)
    several = torch.stack([query, 2 * query.flip(0)])
    losses = torch.func.vmap(loss, in_dims=(0, None, None))(several, key, scale)
    torch.testing.assert_close(losses, torch.stack([loss(each, key, scale) for each in several]))
    _, expected, *_ = gradients(partial(loss_of, kind), *tensors)
    gradient = torch.func.grad(lambda query: loss(query, key, scale).sin())(query)
    torch.testing.assert_close(gradient, expected)
    _, tangent = torch.func.jvp(loss, (query, key, scale), (query, key, scale))
    assert tangent.isfinite()


@pytest.mark.parametrize("kind", ["pairs", "divergence"])
@pytest.mark.parametrize(
    "transform",
    [
        lambda loss, *tensors: torch.func.vmap(loss, in_dims=(0, None, None))(tensors[0][None], *tensors[1:]),
        lambda loss, *tensors: torch.func.grad(loss)(*tensors),
        lambda loss, *tensors: torch.func.jvp(loss, tensors, tensors),
    ],
    ids=["vmap", "grad", "jvp"],
)
def test_transforms_of_the_kernel_are_refused(transform: Callable[..., Tensor], kind: str) -> None:
    tensors = [tensor.detach() for tensor in sized(kind)]
    with pytest.raises(RuntimeError, match=r'impl="triton" was asked for, but torch\.func and forward-mode'):
        transform(partial(loss_of, kind), *tensors)


def test_forward_mode_of_the_kernel_is_refused() -> None:
    query, key, scale = (tensor.detach() for tensor in sized("pairs"))
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="and forward-mode differentiation"):
        loss_of("pairs", forward_ad.make_dual(query, query), key, scale)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_kernel_does_not_serve(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "the kernel serves float32, bfloat16, float16, not float64"
    tensors = sized(kind, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=f'impl="triton" was asked for, but {reason}; ask for "auto"'):
        loss_of(kind, *tensors)
    assert torch.equal(loss_of(kind, *tensors, impl="auto"), loss_of(kind, *tensors, impl="reference"))
    monkeypatch.setenv(backend.VARIABLE, "triton")
    with pytest.raises(RuntimeError, match=f"MICA_KERNELS_IMPL=triton was asked for, but {reason}"):
        loss_of(kind, *tensors, impl="auto")


@pytest.mark.parametrize("place", ["query", "key", "extra_keys"])
def test_one_tensor_of_float64_is_enough(place: str) -> None:
    query, key, _ = example(6, 6)
    given = {"query": query, "key": key, "extra_keys": query}
    with pytest.raises(RuntimeError, match="not float64"):
        info_nce(**{**given, place: given[place].double()}, scale=1.0, impl="triton")
    with pytest.raises(RuntimeError, match="not float64"):
        similarity_kl(query, key, query, key.double(), scale=1.0, teacher_scale=1.0, impl="triton")


def test_the_operators_themselves_serve_all_that_the_reference_does() -> None:
    """A program that was exported with them may become one of float64, or meet a queue that is still empty."""
    query, key, scale = example(6, 4, dtype=torch.float64)
    given = (*labels(6, 4), 0, True)
    teacher = query.flip(1), key.flip(0), scale

    def statistics(function: Callable[..., tuple[Tensor, ...]], *leaves: Tensor) -> Tensor:
        return sum((result.sin() * (i + 1)).sum() for i, result in enumerate(function(*leaves, *given)))

    def divergence(function: Callable[..., tuple[Tensor, ...]], *leaves: Tensor) -> Tensor:
        return function(*leaves[:2], *teacher[:2], leaves[2], teacher[2])[0].square().sum()

    for loss, operator, definition in (
        (statistics, STATISTICS, reference.similarity_statistics),
        (divergence, DIVERGENCE, reference.similarity_divergence),
    ):
        for differentiate in (gradients, second_gradients):
            torch.testing.assert_close(
                differentiate(partial(loss, operator), query, key, scale),
                differentiate(partial(loss, definition), query, key, scale),
            )
    row_lse, row_positive, *_ = STATISTICS(query, key[:0], scale, None, None, None, False)
    assert (row_lse == -torch.inf).all()
    assert not row_positive.any()


def test_variable_chooses_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("pairs", "divergence"):
        tensors = sized(kind)
        monkeypatch.delenv(backend.VARIABLE, raising=False)
        assert not is_fused(loss_of(kind, *tensors, impl="auto"))
        monkeypatch.setenv(backend.VARIABLE, "triton")
        assert is_fused(loss_of(kind, *tensors, impl="auto"))
        assert not is_fused(loss_of(kind, *tensors, impl="reference"))
        monkeypatch.setenv(backend.VARIABLE, "reference")
        assert not is_fused(loss_of(kind, *tensors, impl="auto"))
        assert is_fused(loss_of(kind, *tensors))


@pytest.mark.parametrize("loss", [InfoNCELoss(), SimilarityKLLoss()])
def test_modules(loss: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their scale learns from the kernels as from the reference; copies do as the original does."""
    tensors = [embeddings(6, 3, number) for number in range(2 if isinstance(loss, InfoNCELoss) else 4)]
    results = {}
    for impl in ("reference", "triton"):
        monkeypatch.setenv(backend.VARIABLE, impl)
        for name, module in ((impl, loss), (f"copy of {impl}", copy.deepcopy(loss))):
            module = module.to(DEVICE)
            module.zero_grad()
            query = tensors[0].clone().requires_grad_()
            y = module(query, *tensors[1:])
            y.backward()
            assert is_fused(y) == (impl == "triton")
            results[name] = y.detach(), query.grad, module.logit_scale.grad.clone()
    torch.testing.assert_close(results["triton"], results["reference"])
    torch.testing.assert_close(results["copy of triton"], results["triton"], rtol=0, atol=0)


WITHOUT_INTERPRETER = """
import torch
from mica_kernels import info_nce, similarity_kl
from mica_kernels.contrastive import reference

statistics = torch.ops.mica_kernels.similarity_statistics.default
divergence = torch.ops.mica_kernels.similarity_divergence.default
random = torch.Generator().manual_seed(0)
leaves = [torch.randn(6, 3, generator=random), torch.randn(5, 3, generator=random), torch.tensor(2.0)]
leaves = [tensor.requires_grad_() for tensor in leaves]
query, key, scale = leaves
labels = torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([0, 1, 2, 2, 9])
for loss, more in ((info_nce, {}), (similarity_kl, dict(teacher_query=query, teacher_key=query, teacher_scale=1.0))):
    try:
        loss(query, query, scale=scale, impl="triton", **more)
    except RuntimeError as error:
        print(error)

def of_statistics(each, query, key, scale):
    return sum(result.sin().sum() for result in each(query, key, scale, *labels, 0, True))

def of_divergence(each, query, key, scale):
    return each(query, key, query.flip(1), key.flip(1), scale, scale)[0].sin().sum()

for loss, operator, definition in (
    (of_statistics, statistics, reference.similarity_statistics),
    (of_divergence, divergence, reference.similarity_divergence),
):
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    results = [[y, *torch.autograd.grad(y, leaves)]
               for y in (loss(operator, *leaves), loss(definition, *leaves), compiled(operator, *leaves))]
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[2], results[1])
"""


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU runs the kernel")
def test_on_a_cpu_without_the_interpreter(run: Callable[..., str]) -> None:
    """The kernel is refused, and the operators, as exported programs hold them, fall back to the reference."""
    lines = run(WITHOUT_INTERPRETER, TRITON_INTERPRET="0").splitlines()
    expected = 'impl="triton" was asked for, but the kernel needs a GPU, and this runs on the CPU; ask for'
    assert [line.startswith(expected) for line in lines] == [True, True]


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from mica_kernels import info_nce
from mica_kernels.backend import explain
from mica_kernels.contrastive import reference

query, key = torch.randn(4, 3), torch.randn(4, 3).requires_grad_()
for device in ("cpu", "cuda"):
    print(explain(device)["info_nce"].reason)
try:
    info_nce(query, key, scale=2.0, impl="triton")
except RuntimeError as error:
    print(error)
expected = info_nce(query, key, scale=2.0, impl="reference")
for loss in (info_nce, torch.compile(info_nce, backend="aot_eager", fullgraph=True)):
    torch.testing.assert_close(loss(query, key, scale=2.0), expected)
found = torch.ops.mica_kernels.similarity_statistics(query, key, torch.tensor(2.0), None, None, 0, True)
torch.testing.assert_close(found, reference.similarity_statistics(query, key, 2.0, None, None, 0, True))
"""


def test_without_triton(run: Callable[..., str]) -> None:
    lines = run(WITHOUT_TRITON).splitlines()
    missing = "Triton, which compiles the kernel, is not installed"
    assert lines[0] == lines[1] == f"{missing}, so the PyTorch reference runs"
    assert lines[2] == f'impl="triton" was asked for, but {missing}; ask for "auto" or "reference"'
