"""The definitions of the contrastive losses in plain PyTorch, with the whole similarity matrix in memory."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mica_kernels.checks import compute_dtype


def info_nce(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    scale: float | Float[Tensor, ""],
    query_labels: Int[Tensor, " N"] | None,
    key_labels: Int[Tensor, " M"] | None,
    extra_keys: Float[Tensor, "Q D"] | None,
    symmetric: bool,
) -> Float[Tensor, ""]:
    """See `mica_kernels.info_nce`; half precisions are computed in float32."""
    dtype = compute_dtype(query, key)
    logits = _similarities(query, key, scale, dtype)
    row_logits = logits
    if extra_keys is not None:
        row_logits = torch.cat([logits, _similarities(query, extra_keys.detach(), scale, dtype)], dim=1)
    positives = _positives(logits, query_labels, key_labels)
    loss = _row_loss(logits, row_logits.logsumexp(dim=1), positives)
    if symmetric:
        loss = (loss + _row_loss(logits.T, logits.logsumexp(dim=0), positives.T)) / 2
    return loss


def similarity_kl(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    teacher_query: Float[Tensor, "N E"],
    teacher_key: Float[Tensor, "M E"],
    scale: float | Float[Tensor, ""],
    teacher_scale: float | Float[Tensor, ""],
) -> Float[Tensor, ""]:
    """See `mica_kernels.similarity_kl`; half precisions are computed in float32."""
    dtype = compute_dtype(query, key)
    student = _similarities(query, key, scale, dtype).log_softmax(dim=1)
    with torch.no_grad():
        teacher = _similarities(teacher_query, teacher_key, teacher_scale, dtype).log_softmax(dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _similarities(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    scale: float | Float[Tensor, ""],
    dtype: torch.dtype,
) -> Float[Tensor, "N M"]:
    # Autocast would round the logits to half precision; at a scale of 100 that is an error of several tenths.
    with torch.autocast(query.device.type, enabled=False):
        return (scale * query.to(dtype)) @ key.to(dtype).T


def _positives(
    logits: Float[Tensor, "N M"],
    query_labels: Int[Tensor, " N"] | None,
    key_labels: Int[Tensor, " M"] | None,
) -> Bool[Tensor, "N M"]:
    if query_labels is None or key_labels is None:
        return torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return query_labels[:, None] == key_labels


def _row_loss(
    logits: Float[Tensor, "N M"], log_sum_exp: Float[Tensor, " N"], positives: Bool[Tensor, "N M"]
) -> Float[Tensor, ""]:
    """Mean over the rows that have a positive of the mean over their positives; 0 where no row has one."""
    count = positives.sum(dim=1)
    positive_logit = logits.where(positives, 0).sum(dim=1) / count.clamp_min(1)
    loss = (log_sum_exp - positive_logit).where(count > 0, 0)
    return loss.sum() / (count > 0).sum().clamp_min(1)
