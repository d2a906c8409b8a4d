"""The contrastive losses of one batch that lies on many processes, through torch.distributed.

Every process has as many rows. It gathers the keys of all, sweeps its own rows against them, and the processes
exchange a few numbers a column; no process ever holds more of the similarity matrix than a tile::

    loss = mica_kernels.distributed.info_nce(skeletons, texts, scale=scale)  # on every rank, of its own clips
    loss.backward()

The loss is that of the joined batch, the same on every rank. Its gradient on a rank is as many times that of the joined
batch as there are ranks, because DistributedDataParallel takes the mean over ranks: parameters get exactly the gradient
of the joined batch. Without a process group, or in one of a single process, all is as in `mica_kernels` itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from mica_kernels.contrastive import op
from mica_kernels.contrastive.reference import summed_loss, with_extra_keys

if TYPE_CHECKING:  # shapes are for readers and type checkers; at run time PyTorch is enough
    from jaxtyping import Float, Int

Group = Any
"""A process group as torch.distributed.new_group gives it; None is all processes."""


def info_nce(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "N D"],
    *,
    scale: float | Float[Tensor, ""],
    query_labels: Int[Tensor, " N"] | None = None,
    key_labels: Int[Tensor, " N"] | None = None,
    extra_keys: Float[Tensor, "Q D"] | None = None,
    symmetric: bool = True,
    impl: str = "auto",
    group: Group = None,
) -> Float[Tensor, ""]:
    """`mica_kernels.info_nce` of the joined batch of all ranks.

    Labels are compared across ranks. extra_keys are those of each rank; for a loss of the joined batch they have to be
    the same on all. Every rank has to have as many rows, as samplers for distributed training see to; with
    TORCH_DISTRIBUTED_DEBUG=DETAIL, PyTorch says which has not, and without, it may wait for ever.

    Raises:
        TypeError, ValueError: as `mica_kernels.info_nce`, of the rank's own tensors, and before anything is sent; among
            several ranks ValueError, too, where query and key differ in rows, labels or not.
        RuntimeError: impl="triton" where no kernel serves; the message says why.

    >>> skeletons = texts = torch.eye(3)
    >>> info_nce(skeletons, texts, scale=100.0).item()  # no process group: as mica_kernels.info_nce
    0.0
    """
    options = {"query_labels": query_labels, "key_labels": key_labels, "extra_keys": extra_keys}
    if processes(group) == 1:
        return op.info_nce(query, key, scale=scale, symmetric=symmetric, impl=impl, **options)
    op.check_info_nce(query, key, scale, **options)
    if len(query) != len(key):
        counts = f"{len(query)} and {len(key)}"
        raise ValueError(f"query and key must have as many rows on every rank, got {counts}")
    keys = gather(key, group)
    statistics = op.statistics(query, keys, extra_keys, impl)
    all_query_labels, all_key_labels = (
        None if labels is None else gather(labels, group) for labels in (query_labels, key_labels)
    )
    first = dist.get_rank(group) * len(key)
    row_lse, row_positive, column_lse, column_positive = statistics(
        query, keys, scale, query_labels, all_key_labels, first, symmetric
    )
    if extra_keys is not None:
        row_lse = with_extra_keys(row_lse, query, extra_keys, scale, statistics)
    loss = _mean(*summed_loss(row_lse, row_positive, query_labels, all_key_labels), group)
    if not symmetric:
        return loss
    # Of the columns that are this rank's keys, every rank knows what its rows give.
    lse = _Exchange.apply(column_lse, group).unflatten(0, (-1, len(key))).logsumexp(0)
    if key_labels is None:
        positive = row_positive
    else:
        positive = _Exchange.apply(column_positive, group).unflatten(0, (-1, len(key))).sum(0)
    return (loss + _mean(*summed_loss(lse, positive, key_labels, all_query_labels), group)) / 2


def similarity_kl(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    teacher_query: Float[Tensor, "N E"],
    teacher_key: Float[Tensor, "M E"],
    *,
    scale: float | Float[Tensor, ""],
    teacher_scale: float | Float[Tensor, ""],
    impl: str = "auto",
    group: Group = None,
) -> Float[Tensor, ""]:
    """`mica_kernels.similarity_kl` of the joined batch: of all ranks' rows against all ranks' keys.

    Where the keys are the same on all ranks, as concepts are, `mica_kernels.similarity_kl` of each rank's rows is the
    loss to take: DistributedDataParallel's mean over ranks joins the batch. As many rows and keys on every rank.

    Raises:
        TypeError, ValueError: as `mica_kernels.similarity_kl`, of the rank's own tensors, and before anything is sent.
        RuntimeError: impl="triton" where no kernel serves; the message says why.

    >>> clips = torch.eye(3)
    >>> similarity_kl(clips, clips, clips, clips, scale=5.0, teacher_scale=5.0).item()
    0.0
    """
    op.check_similarity_kl(query, key, teacher_query, teacher_key, scale, teacher_scale)
    keys, teacher_keys = gather(key, group), gather(teacher_key, group)
    loss = op.similarity_kl(
        query, keys, teacher_query, teacher_keys, scale=scale, teacher_scale=teacher_scale, impl=impl
    )
    return _mean(loss * len(query), loss.new_full((), len(query)), group)


def gather(tensor: Tensor, group: Group = None) -> Tensor:
    """The tensors of all ranks, of equal shapes, one after the other along the first axis.

    Backward, a rank gets the sum over all ranks of the gradients of its part.

    >>> gather(torch.arange(3))  # no process group: one process
    tensor([0, 1, 2])
    """
    return tensor if processes(group) == 1 else _Gather.apply(tensor, group)


def mean(tensor: Tensor, group: Group = None) -> Tensor:
    """The mean over ranks of tensors of one shape, which every rank gets.

    Backward, a rank gets the mean over ranks of what all make of it: of a loss that all compute of it, its gradient.

    >>> mean(torch.ones(2))  # no process group: one process
    tensor([1., 1.])
    """
    return tensor if processes(group) == 1 else _Mean.apply(tensor, group)


def processes(group: Group = None) -> int:
    """How many share a batch; 1 without a process group."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def _mean(total: Tensor, count: Tensor, group: Group) -> Tensor:
    """The mean over the rows of all ranks."""
    return gather(total[None], group).sum() / gather(count.detach()[None], group).sum()


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        tensor = tensor.contiguous()
        size = dist.get_world_size(group)
        joined = tensor.new_empty(size * tensor.shape[0], *tensor.shape[1:])
        dist.all_gather(list(joined.chunk(size)), tensor, group=group)
        return joined

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None]:
        return _SumParts.apply(above, ctx.group), None


class _SumParts(Function):
    """The sum over ranks of what each has for this rank: the adjoint of `_Gather`."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor, group: Group) -> Tensor:
        ctx.group = group
        parts = list(joined.contiguous().chunk(dist.get_world_size(group)))
        part = torch.empty_like(parts[0])
        dist.reduce_scatter(part, parts, group=group)
        return part

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(above, ctx.group), None


class _Mean(Function):
    """Its own adjoint."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        ctx.group = group
        out = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(out, group=group)
        return out.div_(dist.get_world_size(group))

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None]:
        return _Mean.apply(above, ctx.group), None


class _Exchange(Function):
    """Every rank gives each of them a part, and gets one from each: its own adjoint."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: Group) -> Tensor:
        ctx.group = group
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts.contiguous(), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(above, ctx.group), None
