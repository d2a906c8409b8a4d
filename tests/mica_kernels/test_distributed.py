"""The contrastive losses over several processes against those of the joined batch in one: gloo, on the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import mica_kernels
from mica_kernels import distributed
from mica_kernels.nn import InfoNCELoss, SimilarityKLLoss

WORLDS = (2, 4)
ROWS, WIDTH, QUEUE = 5, 6, 7

Results = dict[str, Tensor]

INFO_NCE: dict[str, dict[str, Any]] = {
    "diagonal": {},
    "rows only": {"symmetric": False},
    "labels": {"labels": "some"},
    "labels, rows only": {"labels": "some", "symmetric": False},
    "labels without a partner": {"labels": "none"},
    "queue": {"queue": True},
    "labels and queue": {"labels": "some", "queue": True},
    "tiles": {"labels": "some", "limit": 16},
    "kernel": {"impl": "triton", "dtype": torch.float32},
    "kernel, labels and queue": {"impl": "triton", "dtype": torch.float32, "labels": "some", "queue": True},
}
KL: dict[str, dict[str, Any]] = {"reference": {}, "kernel": {"impl": "triton", "dtype": torch.float32}}


def batch(world: int, dtype: torch.dtype = torch.float64) -> Results:
    """What all ranks have between them, and a queue that each of them has."""
    random = torch.Generator().manual_seed(world)
    rows = world * ROWS

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype)

    return {
        "query": draw(rows, WIDTH),
        "key": draw(rows, WIDTH),
        "teacher_query": draw(rows, 3),
        "teacher_key": draw(rows, 3),
        "queue": draw(QUEUE, WIDTH),
        "some": torch.randint(4, (2, rows), generator=random),
        "none": torch.arange(rows) + torch.tensor([[0], [rows]]),
    }


def differentiate(loss: Callable[..., Tensor], *tensors: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """The loss, and the gradients of query, key and scale."""
    scale = torch.tensor(3.0, dtype=dtype, requires_grad=True)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    value = loss(*leaves, scale=scale)
    return [value.detach(), *torch.autograd.grad(value, [*leaves, scale])]


def info_nce(world: int, part: slice, module: Any, case: dict[str, Any]) -> list[Tensor]:
    """`module`.info_nce of a part of the batch."""
    case = dict(case)
    dtype = case.pop("dtype", torch.float64)
    tensors = batch(world, dtype)
    limit = case.pop("limit", None)
    if labels := case.pop("labels", None):
        case["query_labels"], case["key_labels"] = (line[part] for line in tensors[labels])
    if case.pop("queue", False):
        case["extra_keys"] = tensors["queue"]
    loss = partial(module.info_nce, **case)
    with pytest.MonkeyPatch.context() as patch:
        if limit is not None:
            patch.setattr("mica_kernels.contrastive.reference.LIMIT", limit)
        return differentiate(loss, tensors["query"][part], tensors["key"][part], dtype=dtype)


def similarity_kl(world: int, part: slice, module: Any, case: dict[str, Any]) -> list[Tensor]:
    case = dict(case)
    dtype = case.pop("dtype", torch.float64)
    tensors = batch(world, dtype)

    def loss(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
        teacher = tensors["teacher_query"][part], tensors["teacher_key"][part]
        return module.similarity_kl(query, key, *teacher, scale=scale, teacher_scale=2.0, **case)

    return differentiate(loss, tensors["query"][part], tensors["key"][part], dtype=dtype)


class Model(nn.Module):
    """Two encoders and a loss with a learned scale, as in a pretraining step."""

    def __init__(self, loss: type[nn.Module], gather: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)
        self.loss = loss(gather=gather)
        self.double()

    def forward(self, query: Tensor, key: Tensor, *others: Tensor) -> Tensor:
        return self.loss(self.query(query), self.key(key), *others)


def step(model: nn.Module, world: int, part: slice) -> Results:
    """The gradients of one step, by parameter."""
    tensors = batch(world)
    teacher = (
        () if "InfoNCE" in repr(model) else (tensors["teacher_query"][part], tensors["teacher_key"][part])
    )
    model(tensors["query"][part], tensors["key"][part], *teacher).backward()
    gradients = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


def work(rank: int, world: int, folder: Path) -> None:
    """All that one process computes, to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    found: dict[str, Any] = {}
    for name, case in INFO_NCE.items():
        found[f"info_nce {name}"] = info_nce(world, mine, distributed, case)
    for name, case in KL.items():
        found[f"similarity_kl {name}"] = similarity_kl(world, mine, distributed, case)
    for loss in (InfoNCELoss, SimilarityKLLoss):
        model = DistributedDataParallel(Model(loss, gather=True))
        found[loss.__name__] = step(model, world, mine)
    pairs = [dist.new_group([first, first + 1]) for first in range(0, world, 2)]
    tensors = batch(world)
    scale = 3.0
    found["pair"] = distributed.info_nce(
        tensors["query"][mine], tensors["key"][mine], scale=scale, group=pairs[rank // 2]
    )
    found["gathered"] = distributed.gather(torch.full((2, 1), rank))
    found["second"] = second(rank)
    queries, keys, teacher = tensors["query"][mine], tensors["key"][mine], tensors["teacher_query"][mine]
    try:
        distributed.info_nce(queries, keys[1:], scale=scale)
    except ValueError as error:
        found["error"] = str(error)
    try:
        distributed.similarity_kl(queries, keys[1:], teacher, teacher, scale=scale, teacher_scale=2.0)
    except ValueError as error:
        found["KL error"] = str(error)
    torch.save(found, folder / f"{rank}.part")
    (folder / f"{rank}.part").rename(folder / f"{rank}.pt")
    while not all((folder / f"{other}.pt").exists() for other in range(world)):
        time.sleep(0.02)
    # A tidy end can wait for ever: PyTorch takes gloo's groups down with Python's lock held, which their threads want.
    os._exit(0)


def second(rank: int) -> Tensor:
    """The gradient of a gradient through `gather`: of the sum over ranks of (rank + 1) x^3, by parts."""
    x = torch.tensor([2.0 + rank], dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad((distributed.gather(x) ** 3).sum() * (rank + 1), x, create_graph=True)
    return torch.autograd.grad(first, x)[0]


@pytest.fixture(scope="module", params=WORLDS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (request.param, folder), nprocs=request.param)
    return [torch.load(folder / f"{rank}.pt") for rank in range(request.param)]


def check_joined(found: list[list[Tensor]], expected: list[Tensor]) -> None:
    """Every rank has the joined loss; gradients are as DistributedDataParallel, which takes the mean, wants them."""
    value, dquery, dkey, dscale = expected
    tolerance = (
        {"rtol": 1e-4, "atol": 1e-5} if value.dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    )
    check = partial(torch.testing.assert_close, **tolerance)
    for rank in found:
        check(rank[0], value)
    check(torch.cat([rank[1] for rank in found]) / len(found), dquery)
    check(torch.cat([rank[2] for rank in found]) / len(found), dkey)
    check(torch.stack([rank[3] for rank in found]).mean(), dscale)


@pytest.mark.parametrize("name", INFO_NCE)
def test_info_nce_is_that_of_the_joined_batch(name: str, ranks: list[dict[str, Any]]) -> None:
    if "kernel" in name:
        pytest.importorskip("triton")
    expected = info_nce(len(ranks), slice(None), mica_kernels, {**INFO_NCE[name], "impl": "reference"})
    check_joined([rank[f"info_nce {name}"] for rank in ranks], expected)
    if name != "labels without a partner":
        assert all(gradient.abs().max() > 1e-3 for gradient in expected[1:])


@pytest.mark.parametrize("name", KL)
def test_similarity_kl_is_that_of_the_joined_batch(name: str, ranks: list[dict[str, Any]]) -> None:
    expected = similarity_kl(len(ranks), slice(None), mica_kernels, {**KL[name], "impl": "reference"})
    check_joined([rank[f"similarity_kl {name}"] for rank in ranks], expected)


@pytest.mark.parametrize("loss", [InfoNCELoss, SimilarityKLLoss])
def test_parameters_under_ddp_get_the_gradients_of_the_joined_batch(
    loss: type[nn.Module], ranks: list[dict[str, Any]]
) -> None:
    expected = step(Model(loss, gather=False), len(ranks), slice(None))
    assert "loss.logit_scale" in expected
    for rank in ranks:
        assert rank[loss.__name__].keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(rank[loss.__name__][name], gradient, rtol=1e-9, atol=1e-11)


def test_a_group_joins_its_own_ranks(ranks: list[dict[str, Any]]) -> None:
    tensors = batch(len(ranks))
    for rank, found in enumerate(ranks):
        pair = slice(rank // 2 * 2 * ROWS, (rank // 2 + 1) * 2 * ROWS)
        expected = mica_kernels.info_nce(tensors["query"][pair], tensors["key"][pair], scale=3.0)
        torch.testing.assert_close(found["pair"], expected)


def test_gather_keeps_the_order_of_ranks(ranks: list[dict[str, Any]]) -> None:
    expected = torch.arange(len(ranks)).repeat_interleave(2)[:, None]
    assert all(torch.equal(rank["gathered"], expected) for rank in ranks)


def test_gather_is_differentiable_twice(ranks: list[dict[str, Any]]) -> None:
    """Second gradients sum over ranks, first ones of which sum over ranks already."""
    world = len(ranks)
    weights = sum(rank + 1 for rank in range(world))
    for rank, found in enumerate(ranks):
        assert found["second"].item() == pytest.approx(6 * (2.0 + rank) * weights)


def test_as_many_keys_as_queries_on_a_rank(ranks: list[dict[str, Any]]) -> None:
    assert all("as many rows on every rank, got 5 and 4" in rank["error"] for rank in ranks)


def test_errors_are_of_what_a_rank_has_given(ranks: list[dict[str, Any]]) -> None:
    assert all(
        "key and teacher_key must have as many rows, got 4 and 5" in rank["KL error"] for rank in ranks
    )


def test_one_process_needs_no_group() -> None:
    tensors = batch(2)
    query, key = tensors["query"], tensors["key"]
    assert torch.equal(
        distributed.info_nce(query, key, scale=3.0), mica_kernels.info_nce(query, key, scale=3.0)
    )
    assert distributed.gather(query) is query
