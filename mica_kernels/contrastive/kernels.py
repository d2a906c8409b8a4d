"""The contrastive losses in Triton: a sweep over tiles of the similarity matrix, which is never whole in memory.

`statistics` and `divergence` go over it in the forward pass and leave a few numbers a row and a column. `gradient` and
`divergence_gradient` compute a block of it again in the backward pass and leave the gradient of the block, from which
op.py makes the gradients of query and key by two products of matrices.

Query and key lie row after row, aligned to 16 bytes, WIDTH numbers wide or a multiple of it. A program computes a tile
of [ROWS x COLUMNS] products at a time, STEP of the width at a time. Exponentials are to base 2, which chips compute;
the first pass takes the positive logits out of the same products as the log-sum-exps, so none exceeds its own.

POSITIVES: "labels", columns of equal label; "diagonal", column `offset` + i for row i; "none".
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
LOWEST: tl.constexpr = tl.constexpr(-3.4028234663852886e38)  # of float32
WIDTH: tl.constexpr = tl.constexpr(16)  # ALIGNED in configs.py
NO_ROW: tl.constexpr = tl.constexpr(-(2**31))  # as labels: two that differ, and that op.py numbers nobody by
NO_COLUMN: tl.constexpr = tl.constexpr(-(2**31) + 1)


@triton.jit
def _products(query, key, row, column, rows, columns, width, STEP: tl.constexpr, PRECISION: tl.constexpr):
    """A tile of query key^T, [rows x columns] in float32; 0 where there is no such row or column."""
    width = width // WIDTH * WIDTH  # tells the compiler that a mask never splits 16 bytes
    query += row.to(tl.int64)[:, None] * width
    key += column.to(tl.int64)[:, None] * width
    products = tl.zeros([row.shape[0], column.shape[0]], tl.float32)
    for start in range(0, width, STEP):
        place = start + tl.arange(0, STEP)[None, :]
        left = tl.load(query + place, mask=(row < rows)[:, None] & (place < width), other=0.0)
        right = tl.load(key + place, mask=(column < columns)[:, None] & (place < width), other=0.0)
        products = tl.dot(left, tl.trans(right), products, input_precision=PRECISION)
    return products


@triton.jit
def _reference(largest):
    """What exponents are taken relative to: the largest; where that is infinite, 0, as torch.logsumexp has it."""
    return tl.where(tl.abs(largest) == float("inf"), 0.0, largest)


@triton.jit
def _online(largest, total, logits):
    """The largest logit of each row, and its sum of exponentials relative to that, with more columns."""
    before, largest = largest, tl.maximum(largest, tl.max(logits, axis=1))
    reference = _reference(largest)
    decay = tl.exp2(before - reference)
    return largest, total * decay + tl.sum(tl.exp2(logits - reference[:, None]), axis=1), decay


@triton.jit
def _log_sum_exp(largest, total):
    """To base e, out of what is to base 2."""
    return (_reference(largest) + tl.log2(total)) * LN2


@triton.jit
def _labels(labels, index, count, missing: tl.constexpr):
    return tl.load(labels + index, mask=index < count, other=missing)


@triton.jit
def _matches(query_labels, key_labels, row, column, rows, columns, offset, POSITIVES: tl.constexpr):
    """Which entries of a tile are positives."""
    if POSITIVES == "labels":
        row_label = _labels(query_labels, row, rows, NO_ROW)
        column_label = _labels(key_labels, column, columns, NO_COLUMN)
    else:
        row_label = tl.where(row < rows, row + offset, NO_ROW)
        column_label = tl.where(column < columns, column, NO_COLUMN)
    return row_label[:, None] == column_label[None, :]


@triton.jit(do_not_specialize=range(2, 15))
def statistics(
    query, key, scale, query_labels, key_labels, row_lse, row_positive, column_top, column_sum, column_positive,
    rows, columns, width, offset, tiles,
    POSITIVES: tl.constexpr, BOTH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Log-sum-exps and sums of positive logits of the rows and, where BOTH is set, of the columns.

    A program owns a stripe of rows and a part of the columns, `tiles` tiles wide. It leaves [part x row] and
    [stripe x column] results, for op.py to merge. Columns have as many positives as rows on a diagonal, which leaves
    out column_positive.
    """
    stripes = tl.cdiv(rows, ROWS)
    stripe, part = tl.program_id(0) % stripes, tl.program_id(0) // stripes
    row = stripe * ROWS + tl.arange(0, ROWS)
    factor = tl.load(scale) * LOG2E
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    positive = tl.zeros([ROWS], tl.float32)
    for tile in range(part * tiles, tl.minimum((part + 1) * tiles, tl.cdiv(columns, COLUMNS))):
        column = tile * COLUMNS + tl.arange(0, COLUMNS)
        logits = factor * _products(query, key, row, column, rows, columns, width, STEP, PRECISION)
        logits = tl.where((row < rows)[:, None] & (column < columns)[None, :], logits, float("-inf"))
        largest, total, _ = _online(largest, total, logits)
        slot = stripe.to(tl.int64) * columns + column
        if BOTH:
            top = tl.max(logits, axis=0)
            relative_to = _reference(top)
            column_total = tl.sum(tl.exp2(logits - relative_to[None, :]), axis=0)
            tl.store(column_top + slot, relative_to * LN2, mask=column < columns)
            tl.store(column_sum + slot, column_total, mask=column < columns)
        # Out of the logits, so that the products need not be kept beside them.
        if POSITIVES == "labels":
            matches = _matches(query_labels, key_labels, row, column, rows, columns, offset, POSITIVES)
            positives = tl.where(matches, logits, 0.0)
            positive += tl.sum(positives, axis=1)
            if BOTH:
                tl.store(column_positive + slot, tl.sum(positives, axis=0) * LN2, mask=column < columns)
        if POSITIVES == "diagonal":
            first = stripe * ROWS + offset
            if (tile * COLUMNS < first + ROWS) & (first < (tile + 1) * COLUMNS):
                matches = _matches(query_labels, key_labels, row, column, rows, columns, offset, POSITIVES)
                positive += tl.sum(tl.where(matches, logits, 0.0), axis=1)
    place = part.to(tl.int64) * rows + row
    tl.store(row_lse + place, _log_sum_exp(largest, total), mask=row < rows)
    tl.store(row_positive + place, positive * LN2, mask=row < rows)


@triton.jit
def _keep(gradient, products, block, moments, row, column, rows, columns, pitch):
    """Leave the gradient of a tile, and the sum of what it gives to the gradient of the scale."""
    gradient = tl.where((row < rows)[:, None] & (column < columns)[None, :], gradient, 0.0)
    # A product of -inf has no share in the sum; 0 times -inf would be NaN.
    shares = gradient * tl.maximum(products, LOWEST)
    # A sum of sums, to one number, is what Triton 3.7.1 cannot compile for sm_100.
    slot = tl.program_id(0) * row.shape[0] + tl.arange(0, row.shape[0])
    tl.store(moments + slot, tl.sum(shares, axis=1))
    # Up to a whole number of WIDTHs, which every row of the block has room for: no mask splits 16 bytes.
    pitch = pitch // WIDTH * WIDTH
    stored = (row < rows)[:, None] & (column < tl.cdiv(columns, WIDTH) * WIDTH)[None, :]
    tl.store(block + row[:, None] * pitch + column[None, :], gradient.to(block.dtype.element_ty), mask=stored)


@triton.jit
def _vector(pointer, index, count):
    return tl.load(pointer + index, mask=index < count, other=0.0)


@triton.jit(do_not_specialize=range(3, 18))
def gradient(
    query, key, block, scale, query_labels, key_labels, row_lse, row_weight, row_pull,
    column_lse, column_weight, column_pull, moments,
    rows, columns, width, offset, pitch,
    POSITIVES: tl.constexpr, BOTH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of the gradient of the logits, out of the gradients of the results of `statistics`.

    weight: the gradient of a log-sum-exp, which is shared out by softmax; pull: that of a sum of positives. Rows of the
    block are `pitch` entries apart.
    """
    stripes = tl.cdiv(rows, ROWS)
    row = tl.program_id(0) % stripes * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) // stripes * COLUMNS + tl.arange(0, COLUMNS)
    products = _products(query, key, row, column, rows, columns, width, STEP, PRECISION)
    logits = products * (tl.load(scale) * LOG2E)
    lse = _vector(row_lse, row, rows) * LOG2E
    gradient = _vector(row_weight, row, rows)[:, None] * tl.exp2(logits - lse[:, None])
    pull = _vector(row_pull, row, rows)[:, None]
    if BOTH:
        lse = _vector(column_lse, column, columns) * LOG2E
        gradient += _vector(column_weight, column, columns)[None, :] * tl.exp2(logits - lse[None, :])
        pull += _vector(column_pull, column, columns)[None, :]
    if POSITIVES != "none":
        matches = _matches(query_labels, key_labels, row, column, rows, columns, offset, POSITIVES)
        gradient += tl.where(matches, pull, 0.0)
    _keep(gradient, products, block, moments, row, column, rows, columns, pitch)


@triton.jit(do_not_specialize=range(4, 14))
def divergence(
    query, key, teacher_query, teacher_key, scale, teacher_scale, distance, row_lse, teacher_lse,
    rows, columns, width, teacher_width, tiles,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The mean of teacher minus student logits under the teacher, and the log-sum-exps of both, [part x row] each.

    A program owns a stripe of rows and a part of the columns, `tiles` tiles wide.
    """
    stripes = tl.cdiv(rows, ROWS)
    part = tl.program_id(0) // stripes
    row = tl.program_id(0) % stripes * ROWS + tl.arange(0, ROWS)
    factor, teacher_factor = tl.load(scale) * LOG2E, tl.load(teacher_scale) * LOG2E
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    teacher_largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    teacher_total = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS], tl.float32)
    for tile in range(part * tiles, tl.minimum((part + 1) * tiles, tl.cdiv(columns, COLUMNS))):
        column = tile * COLUMNS + tl.arange(0, COLUMNS)
        exists = (column < columns)[None, :]
        logits = factor * _products(query, key, row, column, rows, columns, width, STEP, PRECISION)
        teacher = teacher_factor * _products(
            teacher_query, teacher_key, row, column, rows, columns, teacher_width, STEP, PRECISION
        )
        difference = tl.where(exists, teacher - logits, 0.0)
        largest, total, _ = _online(largest, total, tl.where(exists, logits, float("-inf")))
        teacher = tl.where(exists, teacher, float("-inf"))
        teacher_largest, teacher_total, decay = _online(teacher_largest, teacher_total, teacher)
        shares = tl.exp2(teacher - _reference(teacher_largest)[:, None])
        weighted = weighted * decay + tl.sum(shares * difference, axis=1)
    place = part.to(tl.int64) * rows + row
    tl.store(distance + place, weighted / teacher_total * LN2, mask=row < rows)
    tl.store(row_lse + place, _log_sum_exp(largest, total), mask=row < rows)
    tl.store(teacher_lse + place, _log_sum_exp(teacher_largest, teacher_total), mask=row < rows)


@triton.jit(do_not_specialize=range(5, 16))
def divergence_gradient(
    query, key, teacher_query, teacher_key, block, scale, teacher_scale, row_lse, teacher_lse, row_weight, moments,
    rows, columns, width, teacher_width, pitch,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of the gradient of the student's logits: the student's softmax minus the teacher's, times row_weight."""
    stripes = tl.cdiv(rows, ROWS)
    row = tl.program_id(0) % stripes * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) // stripes * COLUMNS + tl.arange(0, COLUMNS)
    teacher = _products(
        teacher_query, teacher_key, row, column, rows, columns, teacher_width, STEP, PRECISION
    ) * (tl.load(teacher_scale) * LOG2E)
    shares = tl.exp2(teacher - (_vector(teacher_lse, row, rows) * LOG2E)[:, None])
    products = _products(query, key, row, column, rows, columns, width, STEP, PRECISION)
    logits = products * (tl.load(scale) * LOG2E)
    gradient = tl.exp2(logits - (_vector(row_lse, row, rows) * LOG2E)[:, None]) - shares
    gradient *= _vector(row_weight, row, rows)[:, None]
    _keep(gradient, products, block, moments, row, column, rows, columns, pitch)
