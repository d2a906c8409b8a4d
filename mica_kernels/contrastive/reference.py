"""The definitions of the contrastive losses in plain PyTorch, for every device.

A similarity matrix of more than `LIMIT` entries is computed tile by tile, and again in the backward pass, so that
memory grows with N + M. The losses themselves need a few numbers a row and a column; `info_nce` and `similarity_kl`
make them of these, whether `similarity_statistics` and `similarity_divergence` or the kernels compute them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mica_kernels.checks import compute_dtype

if TYPE_CHECKING:  # shapes are for readers and type checkers; at run time PyTorch is enough
    from jaxtyping import Float, Int

LIMIT = 1 << 24
"""The most entries of a similarity matrix that are in memory at a time: 64 MB a copy in float32, of which a backward
pass makes several. Smaller tiles take more on Linux: the C library keeps what is freed in pieces below 32 MB."""

Statistics = tuple[Tensor, Tensor, Tensor, Tensor]


def info_nce(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    scale: float | Float[Tensor, ""],
    query_labels: Int[Tensor, " N"] | None,
    key_labels: Int[Tensor, " M"] | None,
    extra_keys: Float[Tensor, "Q D"] | None,
    symmetric: bool,
    statistics: Callable[..., Statistics],
) -> Float[Tensor, ""]:
    """See `mica_kernels.info_nce`; `statistics` is `similarity_statistics` or computes the same."""
    row_lse, row_positive, column_lse, column_positive = statistics(
        query, key, scale, query_labels, key_labels, 0, symmetric
    )
    if extra_keys is not None:
        row_lse = with_extra_keys(row_lse, query, extra_keys, scale, statistics)
    total, rows = summed_loss(row_lse, row_positive, query_labels, key_labels)
    loss = total / rows
    if symmetric:
        total, columns = summed_loss(column_lse, column_positive, key_labels, query_labels)
        loss = (loss + total / columns) / 2
    return loss


def with_extra_keys(
    row_lse: Float[Tensor, " N"],
    query: Float[Tensor, "N D"],
    extra_keys: Float[Tensor, "Q D"],
    scale: float | Float[Tensor, ""],
    statistics: Callable[..., Statistics],
) -> Float[Tensor, " N"]:
    """The log-sum-exps of rows with more columns, which get no gradient."""
    extra_lse, *_ = statistics(query, extra_keys.detach(), scale, None, None, None, False)
    return torch.logaddexp(row_lse, extra_lse)


def summed_loss(
    log_sum_exp: Float[Tensor, " N"],
    positive: Float[Tensor, " N"],
    labels: Int[Tensor, " N"] | None,
    others: Int[Tensor, " M"] | None,
) -> tuple[Float[Tensor, ""], Tensor]:
    """The sum of the losses of rows, given the sums of their positive logits, and how many rows it is of, at least 1.

    A row has a positive for each of `others` that has its label; where there are no labels, one.
    """
    if labels is None or others is None:
        return (log_sum_exp - positive).sum(), log_sum_exp.new_full((), len(log_sum_exp))
    ordered, labels = others.long().sort().values, labels.long().contiguous()
    count = torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)
    loss = (log_sum_exp - positive / count.clamp_min(1)).where(count > 0, 0)
    return loss.sum(), (count > 0).sum().clamp_min(1)


def similarity_statistics(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    scale: float | Float[Tensor, ""],
    query_labels: Int[Tensor, " N"] | None,
    key_labels: Int[Tensor, " M"] | None,
    offset: int | None,
    columns: bool,
) -> Statistics:
    """What `info_nce` has to know of S = scale * query key^T: log-sum-exps and sums of positive logits.

    The positives of a row are the columns of equal label; without labels, row i has column offset + i, or none where
    offset is None. The same for columns where `columns` is set; else the last two results have no elements.

    Returns (row_lse (N,), row_positive (N,), column_lse (M,), column_positive (M,)), float32 or float64.
    """
    query, key, scale = _in_one_precision(query, key, scale)

    def tile(rows: slice, cols: slice) -> Statistics:
        return _run(
            _tile_statistics,
            query[rows],
            key[cols],
            scale,
            None if query_labels is None else query_labels[rows],
            None if key_labels is None else key_labels[cols],
            None if offset is None else offset + rows.start - cols.start,
            columns,
            whole=len(row_blocks) == len(column_blocks) == 1,
        )

    side = math.isqrt(LIMIT)
    row_blocks = list(blocks(len(query), max(side, LIMIT // max(len(key), 1))))
    column_blocks = list(blocks(len(key), max(side, LIMIT // max(len(query), 1))))
    grid = [[tile(rows, cols) for cols in column_blocks] for rows in row_blocks]
    across = [_merged(row) for row in grid]
    row_lse, row_positive = (torch.cat([line[part] for line in across]) for part in (0, 1))
    if not columns:
        return row_lse, row_positive, row_lse.new_empty(0), row_lse.new_empty(0)
    down = [
        _merged([(lse, positive) for _, _, lse, positive in column]) for column in zip(*grid, strict=True)
    ]
    column_lse, column_positive = (torch.cat([line[part] for line in down]) for part in (0, 1))
    return row_lse, row_positive, column_lse, column_positive


def similarity_kl(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    teacher_query: Float[Tensor, "N E"],
    teacher_key: Float[Tensor, "M E"],
    scale: float | Float[Tensor, ""],
    teacher_scale: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """See `mica_kernels.similarity_kl`."""
    tensors = (query, key, teacher_query, teacher_key)
    return similarity_divergence(*tensors, scale, teacher_scale)[0].mean()


def similarity_divergence(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    teacher_query: Float[Tensor, "N E"],
    teacher_key: Float[Tensor, "M E"],
    scale: float | Float[Tensor, ""],
    teacher_scale: float | Float[Tensor, ""],
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    """KL(teacher || student) of every row, and, without gradient, the log-sum-exps of student and teacher."""
    query, key, scale, teacher_query, teacher_key = _in_one_precision(
        query, key, scale, teacher_query, teacher_key
    )
    rows_at_a_time = max(1, LIMIT // len(key))
    row_blocks = list(blocks(len(query), rows_at_a_time))
    parts = [
        _run(
            _block_divergence,
            query[rows], key, teacher_query[rows], teacher_key, scale, teacher_scale,
            whole=len(row_blocks) == 1,
        )
        for rows in row_blocks
    ]  # fmt: skip
    divergence, lse, teacher_lse = (torch.cat(part) for part in zip(*parts, strict=True))
    return divergence, lse, teacher_lse


def blocks(length: int, size: int) -> Iterator[slice]:
    """The slices that `length` entries fall into, `size` at a time; none make one empty slice."""
    for start in range(0, max(length, 1), size):
        yield slice(start, min(length, start + size))


def _in_one_precision(query: Tensor, key: Tensor, *others: Any) -> list[Any]:
    """In that of the results. Before tiles are cut, so that gradients of tiles are not added up in half precision."""
    dtype = compute_dtype(query, key)
    return [value.to(dtype) if isinstance(value, Tensor) else value for value in (query, key, *others)]


def _run(function: Callable[..., Any], *arguments: Any, whole: bool) -> Any:
    """Call a function; where it is not of the whole matrix, backward computes it again instead of keeping its parts.

    torch.func cannot hook into what is kept, and keeps it all.
    """
    if whole or torch._C._are_functorch_transforms_active():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


def _merged(parts: list[Any]) -> tuple[Tensor, Tensor]:
    """The log-sum-exp and the sum of positives of lines whose parts are given."""
    if len(parts) == 1:
        return parts[0][0], parts[0][1]
    return torch.stack([part[0] for part in parts]).logsumexp(0), sum(part[1] for part in parts)


def _tile_statistics(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    scale: float | Float[Tensor, ""],
    query_labels: Int[Tensor, " N"] | None,
    key_labels: Int[Tensor, " M"] | None,
    offset: int | None,
    columns: bool,
) -> Statistics:
    logits = _similarities(query, key, scale)
    if query_labels is None or key_labels is None:
        of_rows, of_columns = _diagonal(logits, offset)
    else:
        positives = logits.where(query_labels[:, None] == key_labels, 0)
        of_rows, of_columns = positives.sum(1), positives.sum(0)
    if not columns:
        return logits.logsumexp(1), of_rows, logits.new_empty(0), logits.new_empty(0)
    return logits.logsumexp(1), of_rows, logits.logsumexp(0), of_columns


def _diagonal(
    logits: Float[Tensor, "N M"], offset: int | None
) -> tuple[Float[Tensor, " N"], Float[Tensor, " M"]]:
    """The entries at (i, offset + i), where they stand among the rows and among the columns, and 0 elsewhere."""
    rows, columns = logits.shape
    if offset is None:
        return logits.new_zeros(rows), logits.new_zeros(columns)
    found = logits.diagonal(offset)

    def among(count: int, first: int) -> Tensor:
        first = min(max(0, first), count)
        return functional.pad(found, (first, count - first - found.shape[0]))

    return among(rows, -offset), among(columns, offset)


def _block_divergence(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    teacher_query: Float[Tensor, "N E"],
    teacher_key: Float[Tensor, "M E"],
    scale: float | Float[Tensor, ""],
    teacher_scale: float | Float[Tensor, ""],
) -> tuple[Tensor, Tensor, Tensor]:
    logits = _similarities(query, key, scale)
    lse = logits.logsumexp(1)
    with torch.no_grad():
        teacher_logits = _similarities(teacher_query, teacher_key, teacher_scale)
        teacher_lse = teacher_logits.logsumexp(1)
        teacher = teacher_logits - teacher_lse[:, None]
    divergence = (teacher.exp() * (teacher - (logits - lse[:, None]))).sum(1)
    return divergence, lse.detach(), teacher_lse


def _similarities(
    query: Float[Tensor, "N D"], key: Float[Tensor, "M D"], scale: float | Float[Tensor, ""]
) -> Float[Tensor, "N M"]:
    # Autocast would round the logits to half precision; at a scale of 100 that is an error of several tenths.
    with torch.autocast(query.device.type, enabled=False):
        return (scale * query) @ key.T
