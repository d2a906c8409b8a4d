"""The contrastive losses as others have them: in plain PyTorch, of open_clip and of lightly, where installed."""

from __future__ import annotations

import importlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Function, Slot
from benchmarks.operators import LeftOutError


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    scale: Tensor,
    query_labels: Tensor | None = None,
    key_labels: Tensor | None = None,
    extra_keys: Tensor | None = None,
    symmetric: bool = True,
) -> Tensor:
    """The loss by cross_entropy, or for several positives by a mask; extra keys go with no labels."""
    logits = (scale * query @ key.T).float()
    if query_labels is not None and key_labels is not None:
        positives = query_labels[:, None] == key_labels
        loss = _supervised(logits, positives)
        return (loss + _supervised(logits.T, positives.T)) / 2 if symmetric else loss
    rows = torch.arange(len(query), device=query.device)
    if extra_keys is not None:
        logits = torch.cat([logits, (scale * query @ extra_keys.T).float()], dim=1)
    loss = F.cross_entropy(logits, rows)
    return (loss + F.cross_entropy(logits.T, rows)) / 2 if symmetric else loss


def _supervised(logits: Tensor, positives: Tensor) -> Tensor:
    return (logits.logsumexp(1) - (logits * positives).sum(1) / positives.sum(1)).mean()


def similarity_kl(
    query: Tensor,
    key: Tensor,
    *,
    teacher_query: Tensor,
    teacher_key: Tensor,
    scale: Tensor,
    teacher_scale: float,
) -> Tensor:
    """The loss by log_softmax and kl_div."""
    student = (scale * query @ key.T).float().log_softmax(1)
    teacher = (teacher_scale * teacher_query @ teacher_key.T).float().log_softmax(1)
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def open_clip() -> Function:
    """Symmetric InfoNCE by open_clip's ClipLoss, under autocast, as it is trained with."""
    loss = _installed("open_clip", "open_clip_torch").ClipLoss()

    def call(query: Tensor, key: Tensor, *, scale: Tensor, symmetric: bool = True) -> Tensor:
        with _autocast(query):
            return loss(query, key, scale)

    return call


def lightly() -> Function:
    """MoCo's loss by lightly's NTXentLoss with a memory bank, which takes in every batch as a step does.

    It differs from ours in one thing: a row's negatives are the bank alone, without the other keys of the batch.
    """
    losses = _installed("lightly.loss", "lightly")
    made: list[Any] = []  # with the first call's keys in the bank

    def call(
        query: Tensor, key: Tensor, *, scale: Tensor, extra_keys: Tensor, symmetric: bool = False
    ) -> Tensor:
        if not made:
            made.append(losses.NTXentLoss(memory_bank_size=tuple(extra_keys.shape)))
            made[0].memory_bank.bank = extra_keys.clone()
        made[0].temperature = 1 / scale
        with _autocast(query):
            return made[0](query, key)

    return call


def exact_bank(_: Any, slot: Slot) -> dict[str, Tensor]:
    """What lightly's loss is, in float64."""
    leaves = {name: leaf.detach().double().requires_grad_() for name, leaf in slot.leaves.items()}
    extra = slot.options["extra_keys"].double()

    def loss(query: Tensor, key: Tensor, *, scale: Tensor) -> Tensor:
        query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
        positive = (query * key).sum(1, keepdim=True)
        logits = scale * torch.cat([positive, query @ extra.T], dim=1)
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))

    doubled = Slot(
        arguments=(leaves["dquery"], leaves["dkey"]),
        leaves=leaves,
        above=slot.above.double(),
        options={"scale": leaves["dscale"]},
    )
    return measure.differentiate(loss, doubled)


def _installed(module: str, package: str) -> Any:
    """An imported module; raises LeftOutError where the package is not there, or is broken."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = f"{package} is not installed: pip install '.[peers]'"
        raise LeftOutError(reason) from error
    except Exception as error:  # compiled for another PyTorch, say
        raise LeftOutError(f"{package} cannot be imported: {error}") from error


def _autocast(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, like.dtype, enabled=like.dtype != torch.float32)
