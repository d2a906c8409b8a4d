"""The public face of the contrastive losses: argument checks, then the implementation that serves."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from mica_kernels.backend import choose
from mica_kernels.checks import check_labels, check_same_device, check_scale, check_tensor
from mica_kernels.contrastive import reference


def info_nce(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    *,
    scale: float | Float[Tensor, ""],
    query_labels: Int[Tensor, " N"] | None = None,
    key_labels: Int[Tensor, " M"] | None = None,
    extra_keys: Float[Tensor, "Q D"] | None = None,
    symmetric: bool = True,
    impl: str = "auto",
) -> Float[Tensor, ""]:
    """InfoNCE between two sets of embeddings, with several positives a row where labels are given.

    With S = scale * query key^T, the loss of row i is the mean over its positives j of
    logsumexp_k(S_ik) - S_ij, and the result the mean over rows. Without labels the positive of row i is
    column i, and N = M (van den Oord et al., 2018; symmetric as in CLIP, Radford et al., 2021). With labels
    the positives are all columns of equal label (Khosla et al., 2020, their L_out). A row without a positive
    is left out of the mean, though it is still a negative to the columns; likewise a column. Where nothing
    has a positive the loss is 0 and so are its gradients: one such batch does no harm to a run.

    Args:
        query, key: any floating dtype, half precisions are computed in float32; not normalised here.
        scale: the inverse temperature; a 0-d tensor gets a gradient.
        query_labels, key_labels: integers; both or neither.
        extra_keys: more negatives, for the rows alone, without gradient (a MoCo queue, He et al., 2020).
        symmetric: take the mean of the row loss and of the same over columns.
        impl: "auto", "reference" or "triton", see `mica_kernels.backend`.

    Returns:
        a scalar in float32 (float64 for float64 input).

    Raises:
        TypeError, ValueError: an argument does not fit, an empty batch among them; the message names it.
        RuntimeError: impl="triton" where no such kernel exists.

    >>> import torch
    >>> skeletons, texts = torch.eye(3), torch.eye(3)
    >>> info_nce(skeletons, texts, scale=100.0).item()
    0.0

    The first two clips share a text, so each divides its mass between two positives and pays log 2:

    >>> labels, shared = torch.tensor([0, 0, 2]), torch.eye(3)[[0, 0, 2]]
    >>> loss = info_nce(shared, shared, scale=100.0, query_labels=labels, key_labels=labels)
    >>> round(loss.item(), 4), round(2 / 3 * 0.693147, 4)
    (0.4621, 0.4621)
    """
    _check_pairs("query", query, "key", key)
    check_scale("scale", scale)
    _check_labels(query, key, query_labels, key_labels)
    if extra_keys is not None:
        check_tensor("extra_keys", extra_keys, "Q D")
        _check_same_width("query", query, "extra_keys", extra_keys)
    check_same_device("query", query, query_labels=query_labels, key_labels=key_labels, extra_keys=extra_keys)
    choose("info_nce", query, impl=impl)
    return reference.info_nce(query, key, scale, query_labels, key_labels, extra_keys, symmetric)


def similarity_kl(
    query: Float[Tensor, "N D"],
    key: Float[Tensor, "M D"],
    teacher_query: Float[Tensor, "N E"],
    teacher_key: Float[Tensor, "M E"],
    *,
    scale: float | Float[Tensor, ""],
    teacher_scale: float | Float[Tensor, ""],
    impl: str = "auto",
) -> Float[Tensor, ""]:
    """Mean over rows of KL(teacher || student) between two distributions over the same columns.

    The student's rows are softmax(scale * query key^T), the teacher's
    softmax(teacher_scale * teacher_query teacher_key^T). The teacher gets no gradient; its width E may differ
    from D.

    Args:
        query, key: any floating dtype, half precisions are computed in float32; not normalised here.
        teacher_query, teacher_key: the teacher's embeddings of the same rows and columns.
        scale: the student's inverse temperature; a 0-d tensor gets a gradient.
        teacher_scale: the teacher's inverse temperature.
        impl: "auto", "reference" or "triton", see `mica_kernels.backend`.

    Returns:
        a scalar in float32 (float64 for float64 query or key).

    Raises:
        TypeError, ValueError: an argument does not fit, an empty batch among them; the message names it.
        RuntimeError: impl="triton" where no such kernel exists.

    >>> import torch
    >>> clips, concepts = torch.eye(4)[:2], torch.eye(4)
    >>> similarity_kl(clips, concepts, clips, concepts, scale=5.0, teacher_scale=5.0).item()
    0.0
    >>> similarity_kl(clips, concepts, clips, concepts, scale=1.0, teacher_scale=5.0).item() > 0
    True
    """
    _check_pairs("query", query, "key", key)
    _check_pairs("teacher_query", teacher_query, "teacher_key", teacher_key)
    for name, student, teacher in (("query", query, teacher_query), ("key", key, teacher_key)):
        if len(student) != len(teacher):
            counts = f"{len(student)} and {len(teacher)}"
            raise ValueError(f"{name} and teacher_{name} must have as many rows, got {counts}")
    check_same_device("query", query, teacher_query=teacher_query)
    check_scale("scale", scale)
    check_scale("teacher_scale", teacher_scale)
    choose("similarity_kl", query, impl=impl)
    return reference.similarity_kl(query, key, teacher_query, teacher_key, scale, teacher_scale)


def _check_pairs(query_name: str, query: Tensor, key_name: str, key: Tensor) -> None:
    check_tensor(query_name, query, "N D")
    check_tensor(key_name, key, "M D")
    for name, value in ((query_name, query), (key_name, key)):
        if value.numel() == 0:
            raise ValueError(f"{name} is empty, shape {tuple(value.shape)}: a mean over none is undefined")
    _check_same_width(query_name, query, key_name, key)
    check_same_device(query_name, query, **{key_name: key})


def _check_same_width(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    if first.shape[1] != second.shape[1]:
        shapes = f"{first_name} {tuple(first.shape)} and {second_name} {tuple(second.shape)}"
        raise ValueError(f"{shapes} differ in width D")


def _check_labels(query: Tensor, key: Tensor, query_labels: Tensor | None, key_labels: Tensor | None) -> None:
    if (query_labels is None) != (key_labels is None):
        raise ValueError("query_labels and key_labels go together: give both or neither")
    if query_labels is None or key_labels is None:
        if len(query) != len(key):
            counts = f"N = {len(query)} and M = {len(key)}"
            raise ValueError(f"query and key must have as many rows where no labels are given, got {counts}")
        return
    check_labels("query_labels", query_labels, len(query))
    check_labels("key_labels", key_labels, len(key))
