"""The public face of the contrastive losses: argument checks, the choice of an implementation, and the launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from mica_kernels import device, prebuilt, tune
from mica_kernels.backend import choose
from mica_kernels.checks import check_labels, check_same_device, check_scale, check_tensor, compute_dtype
from mica_kernels.contrastive import configs, reference
from mica_kernels.contrastive.reference import Statistics, blocks
from mica_kernels.launch import Launch, kernels
from mica_kernels.registration import gradient_like, register

if TYPE_CHECKING:  # shapes are for readers and type checkers; at run time PyTorch is enough
    from jaxtyping import Float, Int


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
        impl: "auto", "reference" or "triton", see `mica_kernels.backend`. The similarity matrix is never whole in
            memory, forward or backward, but for small ones that "auto" and "reference" take at once; saved for the
            backward pass are the arguments and a few numbers a row and a column.

    Returns:
        a scalar in float32 (float64 for float64 input), under autocast too. Differentiable, twice, in query, key
        and scale.

    Raises:
        TypeError, ValueError: an argument does not fit, an empty batch among them; the message names it.
        RuntimeError: impl="triton" where no kernel serves; the message says why.

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
    options = (query_labels, key_labels, extra_keys)
    check_info_nce(query, key, scale, *options)
    if query_labels is None and len(query) != len(key):
        counts = f"N = {len(query)} and M = {len(key)}"
        raise ValueError(f"query and key must have as many rows where no labels are given, got {counts}")
    return reference.info_nce(
        query, key, scale, *options, symmetric, statistics(query, key, extra_keys, impl)
    )


def check_info_nce(
    query: Tensor,
    key: Tensor,
    scale: float | Tensor,
    query_labels: Tensor | None,
    key_labels: Tensor | None,
    extra_keys: Tensor | None,
) -> None:
    """What holds for every batch, joined from several ranks or not."""
    _check_pairs("query", query, "key", key)
    check_scale("scale", scale)
    if (query_labels is None) != (key_labels is None):
        raise ValueError("query_labels and key_labels go together: give both or neither")
    for name, labels, rows in (("query_labels", query_labels, query), ("key_labels", key_labels, key)):
        if labels is not None:
            check_labels(name, labels, len(rows))
    if extra_keys is not None:
        check_tensor("extra_keys", extra_keys, "Q D")
        _check_same_width("query", query, "extra_keys", extra_keys)
    check_same_device("query", query, query_labels=query_labels, key_labels=key_labels, extra_keys=extra_keys)


def statistics(query: Tensor, key: Tensor, extra_keys: Tensor | None, impl: str) -> Callable[..., Statistics]:
    """`reference.similarity_statistics`, or the operator of the same name, whichever is to run on these."""
    given = (query, key) if extra_keys is None else (query, key, extra_keys)
    if choose("info_nce", *given, impl=impl).impl == "reference":
        return reference.similarity_statistics
    return _fused_statistics


def _fused_statistics(
    query: Tensor,
    key: Tensor,
    scale: float | Tensor,
    query_labels: Tensor | None,
    key_labels: Tensor | None,
    offset: int | None,
    columns: bool,
) -> Statistics:
    labels = _numbered(query_labels, key_labels)  # here, for forward and backward alike
    return torch.ops.mica_kernels.similarity_statistics(
        query, key, _as_tensor(scale, query), *labels, offset, columns
    )


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
        impl: "auto", "reference" or "triton", see `mica_kernels.backend`. As in `info_nce`, no large matrix is ever
            whole in memory.

    Returns:
        a scalar in float32 (float64 for float64 query or key), under autocast too. Differentiable, twice, in query,
        key and scale.

    Raises:
        TypeError, ValueError: an argument does not fit, an empty batch among them; the message names it.
        RuntimeError: impl="triton" where no kernel serves; the message says why.

    >>> import torch
    >>> clips, concepts = torch.eye(4)[:2], torch.eye(4)
    >>> similarity_kl(clips, concepts, clips, concepts, scale=5.0, teacher_scale=5.0).item()
    0.0
    >>> similarity_kl(clips, concepts, clips, concepts, scale=1.0, teacher_scale=5.0).item() > 0
    True
    """
    tensors = (query, key, teacher_query, teacher_key)
    check_similarity_kl(*tensors, scale, teacher_scale)
    if choose("similarity_kl", *tensors, impl=impl).impl == "reference":
        return reference.similarity_kl(*tensors, scale, teacher_scale)
    scales = (_as_tensor(scale, query), _as_tensor(teacher_scale, query))
    return torch.ops.mica_kernels.similarity_divergence(*tensors, *scales)[0].mean()


def check_similarity_kl(
    query: Tensor,
    key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    scale: float | Tensor,
    teacher_scale: float | Tensor,
) -> None:
    """What holds for every batch, joined from several ranks or not."""
    _check_pairs("query", query, "key", key)
    _check_pairs("teacher_query", teacher_query, "teacher_key", teacher_key)
    for name, student, teacher in (("query", query, teacher_query), ("key", key, teacher_key)):
        if len(student) != len(teacher):
            counts = f"{len(student)} and {len(teacher)}"
            raise ValueError(f"{name} and teacher_{name} must have as many rows, got {counts}")
    check_same_device("query", query, teacher_query=teacher_query)
    check_scale("scale", scale)
    check_scale("teacher_scale", teacher_scale)


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


def _as_tensor(scale: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(scale, Tensor):
        return scale.to(like.device)
    return torch.full((), scale, dtype=torch.float32, device=like.device)


def _served(*tensors: Tensor) -> bool:
    """Whether a kernel takes these. An operator called by its own name, as an exported program does, may get any."""
    on_device = device.runs_kernels(tensors[0].device) and all(tensor.numel() for tensor in tensors)
    return on_device and configs.unserved(*(device.dtype_name(tensor.dtype) for tensor in tensors)) is None


@lru_cache
def _kernels() -> ModuleType:
    prebuilt.install()
    return kernels(__package__)


def _start(kernel: str, form: tuple[str | bool, ...], launch: Launch, programs: int, *arguments: Any) -> None:
    """Launch a kernel; the first argument is the query."""
    dtype = arguments[0].dtype
    variant = configs.variant(launch, device.dtype_name(dtype), kernel, device.precision(dtype), *form)
    with torch.cuda.device_of(arguments[0]):
        getattr(_kernels(), kernel)[(programs,)](*arguments, **variant.keywords)


def _best(kernel: str, query: Tensor, run: Callable[[Launch], object]) -> Launch:
    """The configuration to run with; `run` is what tuning times, where it was asked for."""
    dtype, width = device.dtype_name(query.dtype), query.shape[1]
    shipped = configs.launch(device.architecture(query.device), dtype, kernel)
    return tune.pick(query.device, f"{kernel} {dtype} {width}", shipped, configs.candidates, run)


def _split(launch: Launch, rows: int, columns: int, where: torch.device) -> tuple[int, int, int]:
    """Stripes of rows, parts of the columns, tiles a part."""
    stripes, tiles = -(-rows // launch.rows), -(-columns // launch.columns)
    wanted = configs.WAVES * launch.programs * device.multiprocessors(where)
    each = -(-tiles // min(tiles, -(-wanted // stripes)))
    return stripes, -(-tiles // each), each


def _laid_out(*matrices: Tensor) -> list[Tensor]:
    """Matrices as the kernels read them: of one type, row after row, filled up to whole 16 bytes, and aligned."""
    dtype = matrices[0].dtype
    for matrix in matrices[1:]:
        dtype = torch.promote_types(dtype, matrix.dtype)
    found = []
    for matrix in matrices:
        lacking = -matrix.shape[1] % configs.ALIGNED
        matrix = functional.pad(matrix.to(dtype), (0, lacking)) if lacking else matrix.to(dtype).contiguous()
        found.append(matrix if matrix.data_ptr() % 16 == 0 else matrix.clone())
    return found


def _numbered(query_labels: Tensor | None, key_labels: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Labels of 32 bits, the same for equal ones: small numbers, and -1 for a row that no column matches."""
    if query_labels is None or key_labels is None:
        return None, None
    rows, columns = query_labels.long().contiguous(), key_labels.long().contiguous()
    ordered = columns.sort().values
    number = torch.searchsorted(ordered, rows)
    found = torch.searchsorted(ordered, rows, right=True) > number
    return number.where(found, -1).int(), torch.searchsorted(ordered, columns).int()


def _as_numbered(
    query_labels: Tensor | None, key_labels: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """So are labels of 32 bits taken to be; an operator called by its own name may get others."""
    if (
        query_labels is None
        or key_labels is None
        or not query_labels.dtype == key_labels.dtype == torch.int32
    ):
        return _numbered(query_labels, key_labels)
    return query_labels.contiguous(), key_labels.contiguous()


def _form(query_labels: Tensor | None, offset: int | None, columns: bool) -> tuple[str, bool]:
    positives = "labels" if query_labels is not None else "none" if offset is None else "diagonal"
    return positives, columns


def _statistics(
    query: Tensor,
    key: Tensor,
    scale: Tensor,
    query_labels: Tensor | None,
    key_labels: Tensor | None,
    offset: int | None,
    columns: bool,
) -> Statistics:
    """`reference.similarity_statistics` by the kernel, where it serves."""
    if not _served(query, key):
        return reference.similarity_statistics(query, key, scale, query_labels, key_labels, offset, columns)
    form = _form(query_labels, offset, columns)
    query, key = _laid_out(query, key)
    labels = _as_numbered(query_labels, key_labels)
    sweep = partial(_sweep, query, key, scale.float(), *labels, offset or 0, form)
    row_lse, row_positive, column_lse, column_positive = sweep(_best("statistics", query, sweep))
    if columns and form[0] != "labels":
        column_positive = torch.zeros_like(column_lse)
        if offset is not None:  # a column's positive is a row's
            first, last = max(offset, 0), min(offset + len(query), len(key))
            column_positive[first : max(first, last)] = row_positive[
                first - offset : max(first, last) - offset
            ]
    return row_lse, row_positive, column_lse, column_positive


def _sweep(
    query: Tensor,
    key: Tensor,
    scale: Tensor,
    query_labels: Tensor | None,
    key_labels: Tensor | None,
    offset: int,
    form: tuple[str, bool],
    launch: Launch,
) -> Statistics:
    """All rows, so many at a time that what is left for the columns does not grow with them."""
    columns, width = key.shape
    new = partial(torch.empty, dtype=torch.float32, device=query.device)
    lines = []
    column_lse, column_positive = new(0), new(0)
    for rows in blocks(len(query), configs.ROWS_AT_A_TIME):
        part = query[rows]
        stripes, parts, tiles = _split(launch, len(part), columns, query.device)
        row_results = new(2, parts, len(part))
        column_results = new(3 if form[0] == "labels" else 2, stripes, columns) if form[1] else row_results
        _start(
            "statistics", form, launch, stripes * parts,
            part, key, scale, scale if query_labels is None else query_labels[rows],
            scale if key_labels is None else key_labels, *row_results, *column_results[:2], column_results[-1],
            len(part), columns, width, offset + rows.start, tiles,
        )  # fmt: skip
        lines.append((row_results[0].logsumexp(0), row_results[1].sum(0)))
        if form[1]:
            lse = column_results[0].add_(column_results[1].log_()).logsumexp(0)
            positive = column_results[-1].sum(0)
            column_lse = torch.logaddexp(column_lse, lse) if rows.start else lse
            column_positive = column_positive + positive if rows.start else positive
    row_lse, row_positive = (torch.cat(line) for line in zip(*lines, strict=True))
    return row_lse, row_positive, column_lse, column_positive


def _statistics_backward(
    above: Sequence[Tensor], inputs: Sequence[Any], results: Sequence[Tensor], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of query, key and scale by the kernel."""
    query, key, scale, query_labels, key_labels, offset, columns = inputs
    form = _form(query_labels, offset, columns)
    matrices = _laid_out(query, key)
    row_labels, column_labels = _as_numbered(query_labels, key_labels)
    unit, weights = _normalised(matrices[0].dtype, *above)
    by_row, by_column = (results[0], *weights[:2]), (results[1], *weights[2:])
    factor = scale.float()

    def fill(launch: Launch, rows: slice, cols: slice, block: Tensor, moments: Tensor) -> None:
        of_rows = [vector[rows] for vector in by_row]
        _start(
            "gradient", form, launch, len(moments),
            matrices[0][rows], matrices[1][cols], block, factor,
            factor if row_labels is None else row_labels[rows],
            factor if column_labels is None else column_labels[cols],
            *of_rows, *([vector[cols] for vector in by_column] if columns else of_rows), moments,
            *block.shape, matrices[0].shape[1], (offset or 0) + rows.start - cols.start, block.stride(0),
        )  # fmt: skip

    found = _by_blocks("gradient", matrices, wanted, fill)
    return _finished(found, unit, query, key, scale)


def _normalised(dtype: torch.dtype, *given: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Gradients scaled to fit the range of `dtype`, and what one of them is worth after that."""
    largest = torch.stack([gradient.abs().amax() for gradient in given if gradient.numel()]).amax()
    unit = largest.clamp_min(torch.finfo(torch.float32).tiny)
    if dtype == torch.float16:
        unit = unit / configs.LARGEST
    return unit, [(gradient / unit).float() for gradient in given]


def _by_blocks(
    kernel: str,
    matrices: Sequence[Tensor],
    wanted: Sequence[bool],
    fill: Callable[[Launch, slice, slice, Tensor, Tensor], None],
) -> list[Tensor | None]:
    """Gradients of query key^T, query and key first: of query and key but for their factors, and of a factor of it.

    `fill` leaves the gradient of a block of it, and parts of the sum that is the factor's.
    """
    query, key = matrices[:2]
    new = partial(torch.empty, dtype=torch.float32, device=query.device)
    height = min(len(query), configs.ROWS_AT_A_TIME)
    breadth = min(len(key), max(configs.ALIGNED, configs.BLOCK // height))
    pitch = -(-breadth // configs.ALIGNED) * configs.ALIGNED
    memory = torch.empty(height, pitch, dtype=query.dtype, device=query.device)
    dquery, dkey = (
        torch.zeros(matrix.shape, dtype=torch.float32, device=matrix.device) if wants else None
        for matrix, wants in zip((query, key), wanted, strict=False)
    )
    moment = torch.zeros((), dtype=torch.float32, device=query.device)

    def run(launch: Launch, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        block = memory[: rows.stop - rows.start, : columns.stop - columns.start]
        programs = -(-block.shape[0] // launch.rows) * -(-block.shape[1] // launch.columns)
        moments = new(programs, launch.rows)
        fill(launch, rows, columns, block, moments)
        return block, moments

    launch = _best(kernel, query, lambda launch: run(launch, slice(0, height), slice(0, breadth)))
    for rows in blocks(len(query), height):
        for columns in blocks(len(key), breadth):
            block, moments = run(launch, rows, columns)
            moment += moments.sum()
            if dquery is not None:
                _add_product(dquery[rows], block, key[columns])
            if dkey is not None:
                _add_product(dkey[columns], block.T, query[rows])
    return [dquery, dkey, moment if wanted[2] else None]


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, summed in float32 whatever the factors are."""
    if total.is_cuda and left.dtype != total.dtype:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))


def _finished(
    found: Sequence[Tensor | None], unit: Tensor, query: Tensor, key: Tensor, scale: Tensor
) -> list[Tensor | None]:
    """The gradients with their factors, as autograd expects them."""
    factor = scale.float() * unit
    dquery, dkey = (
        None if total is None else gradient_like(total.mul_(factor)[:, : like.shape[1]], like)
        for total, like in zip(found, (query, key), strict=False)
    )
    return [dquery, dkey, None if found[2] is None else gradient_like(found[2] * unit, scale)]


def _fake_statistics(query: Tensor, key: Tensor, *options: Any) -> Statistics:
    *_, columns = options
    new = partial(query.new_empty, dtype=compute_dtype(query, key))
    width = key.shape[0] if columns else 0  # len() would fix the size of a compiled graph
    return new(query.shape[0]), new(query.shape[0]), new(width), new(width)


def _divergence(
    query: Tensor,
    key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    scale: Tensor,
    teacher_scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.similarity_divergence` by the kernel, where it serves."""
    if not _served(query, key, teacher_query, teacher_key):
        return reference.similarity_divergence(query, key, teacher_query, teacher_key, scale, teacher_scale)
    matrices = _laid_out(query, key, teacher_query, teacher_key)
    scales = (scale.float(), teacher_scale.float())
    rows, columns = len(query), len(key)

    def sweep(launch: Launch) -> Tensor:
        stripes, parts, tiles = _split(launch, rows, columns, query.device)
        results = torch.empty(3, parts, rows, dtype=torch.float32, device=query.device)
        sizes = (rows, columns, matrices[0].shape[1], matrices[2].shape[1], tiles)
        _start("divergence", (), launch, stripes * parts, *matrices, *scales, *results, *sizes)
        return results

    distance, lse, teacher_lse = sweep(_best("divergence", matrices[0], sweep))
    distance = (distance * teacher_lse.softmax(0)).sum(0)
    lse, teacher_lse = lse.logsumexp(0), teacher_lse.logsumexp(0)
    return distance + (lse - teacher_lse), lse, teacher_lse


def _divergence_backward(
    above: Sequence[Tensor], inputs: Sequence[Any], results: Sequence[Tensor], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of query, key and scale by the kernel."""
    query, key, teacher_query, teacher_key, scale, teacher_scale = inputs
    lse, teacher_lse = results
    matrices = _laid_out(query, key, teacher_query, teacher_key)
    scales = (scale.float(), teacher_scale.float())
    unit, (weight,) = _normalised(matrices[0].dtype, above[0])

    def fill(launch: Launch, rows: slice, cols: slice, block: Tensor, moments: Tensor) -> None:
        of_block = [matrix[part] for matrix, part in zip(matrices, (rows, cols, rows, cols), strict=True)]
        _start(
            "divergence_gradient", (), launch, len(moments),
            *of_block, block, *scales, lse[rows], teacher_lse[rows], weight[rows], moments,
            *block.shape, matrices[0].shape[1], matrices[2].shape[1], block.stride(0),
        )  # fmt: skip

    found = _by_blocks("divergence_gradient", matrices, wanted, fill)
    return _finished(found, unit, query, key, scale)


def _fake_divergence(query: Tensor, key: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    new = partial(query.new_empty, dtype=compute_dtype(query, key))
    return new(query.shape[0]), new(query.shape[0]), new(query.shape[0])


register(
    "similarity_statistics(Tensor query, Tensor key, Tensor scale, Tensor? query_labels, Tensor? key_labels, "
    "SymInt? offset, bool columns) -> (Tensor, Tensor, Tensor, Tensor)",
    run=_statistics,
    backward=_statistics_backward,
    reference=reference.similarity_statistics,
    served=lambda query, key, *_: _served(query, key),
    fake=_fake_statistics,
    leaves=(0, 1, 2),
    kept=(0, 2),
)
register(
    "similarity_divergence(Tensor query, Tensor key, Tensor teacher_query, Tensor teacher_key, Tensor scale, "
    "Tensor teacher_scale) -> (Tensor, Tensor, Tensor)",
    run=_divergence,
    backward=_divergence_backward,
    reference=reference.similarity_divergence,
    served=lambda *tensors: _served(*tensors[:4]),
    fake=_fake_divergence,
    leaves=(0, 1, 4),
    kept=(1, 2),
)
