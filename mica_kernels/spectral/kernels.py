"""The spectral gate in Triton: one pass forward; one pass and a small sum backward.

Every (clip, channel, joint) is a column of T samples. A program owns COLUMNS columns and walks over clips; a tile is
[columns x samples] or [columns x pairs].

The transform is a dense product, halved by the symmetry of cosines and sines. Taken about the middle of the clip,
at t + 1/2, the sums u + v of the mirrored samples u = x[t], v = x[T-1-t] meet only the cosines, the differences
u - v only the sines, so two (T/2 x T/2) products do the work of one (T x T). The shift by half a sample turns every
bin by a phase, which the inverse turns back and to which filter and gate are blind. Pair k of coefficients holds
half the amplitudes of cosine and sine of k cycles a clip (the basis is of twice the waves); pair 0 holds frequency 0
and, in the sine's empty place, T/2. An amplitude is at most 4/pi times the largest sample, so half of it does not
overflow in half precision where x does not.

`forward` and `backward` keep all pairs, the filter and the basis on the chip. For clips too long for that,
`forward_long` and `backward_long` go through the pairs in blocks: PAIRS pairs at a time, STEP samples at a time, so
that T is padded to multiples of those. SPAN, a power of two, holds half the samples of a column.

LAYOUT "flat": the columns of a clip lie one after another, and every row of them starts at a multiple of 16 bytes;
"near": any strides, but a clip spans less than 2^31 elements; "far": any strides. Clips may always be far apart.
The adjoint needs half the gradients of the amplitudes, da and db: these are the raw sums of dy.
"""

from __future__ import annotations

import triton
import triton.language as tl

EPS: tl.constexpr = tl.constexpr(1e-12)  # as in reference.py


@triton.jit
def _share(clips, chunk, channels, joints, COLUMNS: tl.constexpr):
    """What this program owns: a block of columns, and the clips from first to last."""
    blocks = tl.cdiv(channels * joints, COLUMNS)
    first = tl.program_id(0) // blocks * chunk
    return tl.program_id(0) % blocks, first, tl.minimum(clips, first + chunk)


@triton.jit
def _columns(
    block,
    channels,
    joints,
    channels_fastest,
    LAYOUT: tl.constexpr,
    ALIGN: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Index, channel and joint of the columns of a block, and whether there is such a column."""
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    count = channels * joints
    if LAYOUT == "flat":  # tells the compiler that a mask never splits 16 bytes
        count = count // ALIGN * ALIGN
    fast = tl.where(channels_fastest != 0, channels, joints)
    channel = tl.where(channels_fastest != 0, columns % fast, columns // fast)
    joint = tl.where(channels_fastest != 0, columns // fast, columns % fast)
    return columns, channel, joint, columns < count


@triton.jit
def _offsets(columns, channel, joint, channel_stride, joint_stride, LAYOUT: tl.constexpr):
    """Where each column starts within a clip."""
    if LAYOUT == "flat":
        offsets = columns
    elif LAYOUT == "near":
        offsets = channel * channel_stride.to(tl.int32) + joint * joint_stride.to(tl.int32)
    else:
        offsets = channel * channel_stride + joint * joint_stride
    return offsets


@triton.jit
def _clip(tensor, clip, clip_stride, LAYOUT: tl.constexpr):
    """Where a clip starts."""
    start = tensor + clip * clip_stride
    return tl.multiple_of(start, 16) if LAYOUT == "flat" else start


@triton.jit
def _scale(pair, frames):
    """Raw sums times this are half amplitudes."""
    return tl.where(pair == 0, 0.5, 1.0) / frames


@triton.jit
def _filter(weight, group, joint, inside, first_pair, frames, joints, PAIRS: tl.constexpr):
    """Real and imaginary parts of the filter, scaled so that they take raw sums to half amplitudes."""
    pair = (first_pair + tl.arange(0, PAIRS))[None, :]
    column = weight + ((group * (frames // 2 + 1)) * joints + joint)[:, None] * 2
    exists = inside[:, None] & (pair < (frames + 1) // 2)
    # Pair 0 has T/2 in its second place, if T is even.
    second = tl.where(pair == 0, frames // 2 * joints * 2, pair * joints * 2 + 1)
    has_second = exists & ((pair > 0) | (frames % 2 == 0))
    real = tl.load(column + pair * joints * 2, mask=exists, other=0.0)
    imag = tl.load(column + second, mask=has_second, other=0.0)
    return real * _scale(pair, frames), imag * _scale(pair, frames)


@triton.jit
def _basis(basis, first_pair, start, SIZE: tl.constexpr, PAIRS: tl.constexpr, STEP: tl.constexpr):
    """Cosines and sines, [pairs x samples], out of two matrices [SIZE x SIZE]."""
    corner = basis + first_pair * SIZE + start
    place = tl.arange(0, PAIRS)[:, None] * SIZE + tl.arange(0, STEP)[None, :]
    return tl.load(corner + place), tl.load(corner + SIZE * SIZE + place)


@triton.jit
def _mirrored(clip, offsets, inside, start, frames, frame_stride, LAYOUT: tl.constexpr, STEP: tl.constexpr):
    """Pointers to the samples t and T - 1 - t, [samples x columns], and which of them exist."""
    if LAYOUT == "flat":
        ALIGN: tl.constexpr = 128 // clip.dtype.element_ty.primitive_bitwidth
        frame_stride = frame_stride // ALIGN * ALIGN
    if LAYOUT == "near":
        frame_stride = frame_stride.to(tl.int32)
    time = start + tl.arange(0, STEP)[:, None]
    early = clip + (time * frame_stride + offsets[None, :])
    late = clip + ((frames - 1 - time) * frame_stride + offsets[None, :])
    return early, late, (time < (frames + 1) // 2) & inside[None, :], (time < frames // 2) & inside[None, :]


@triton.jit
def _fold(clip, offsets, inside, start, frames, frame_stride, LAYOUT: tl.constexpr, STEP: tl.constexpr):
    """Half sums and half differences of mirrored samples, [columns x samples]."""
    early, late, has_early, has_late = _mirrored(
        clip, offsets, inside, start, frames, frame_stride, LAYOUT, STEP
    )
    u = tl.load(early, mask=has_early, other=0.0)
    v = tl.load(late, mask=has_late, other=0.0)
    half = tl.full([], 0.5, u.dtype)
    # The middle of an odd T has no mirror: half of it counts, and the sines, 0 there, take no notice.
    return tl.trans(half * u + half * v), tl.trans(half * u - half * v)


@triton.jit
def _unfold(clip, offsets, inside, frames, frame_stride, even, odd, LAYOUT: tl.constexpr, STEP: tl.constexpr):
    """Store the samples whose cosine part is `even` and whose sine part is `odd`."""
    early, late, has_early, has_late = _mirrored(clip, offsets, inside, 0, frames, frame_stride, LAYOUT, STEP)
    tl.store(early, tl.trans((even + odd).to(clip.dtype.element_ty)), mask=has_early)
    tl.store(late, tl.trans((even - odd).to(clip.dtype.element_ty)), mask=has_late)


@triton.jit
def _analyse(total, difference, cosines, sines, a, b, PRECISION: tl.constexpr):
    """Raw sums of samples with the cosines and with the sines, added to a and b."""
    return (
        tl.dot(total, tl.trans(cosines), a, input_precision=PRECISION),
        tl.dot(difference, tl.trans(sines), b, input_precision=PRECISION),
    )


@triton.jit
def _synthesise(a, b, cosines, sines, even, odd, PRECISION: tl.constexpr):
    """The cosine and the sine part of samples from half amplitudes, added to even and odd."""
    return (
        tl.dot(a.to(cosines.dtype), cosines, even, input_precision=PRECISION),
        tl.dot(b.to(sines.dtype), sines, odd, input_precision=PRECISION),
    )


@triton.jit
def _filtered(a, b, real, imag, at_zero):
    """The filter applied: a complex product for each pair, but for pair 0, which holds two real bins."""
    # Selecting after the products and not before keeps two tiles of the filter in registers and not three.
    return (
        tl.where(at_zero, real * a, real * a + imag * b),
        tl.where(at_zero, imag * b, real * b - imag * a),
    )


@triton.jit
def _filtered_back(da, db, real, imag, at_zero):
    """The adjoint of the filter."""
    return (
        tl.where(at_zero, real * da, real * da - imag * db),
        tl.where(at_zero, imag * db, imag * da + real * db),
    )


@triton.jit
def _filter_gradient(dreal, dimag, a, b, da, db, at_zero):
    """What a clip adds to the gradients of the filter's parts, but for their scale."""
    dreal += a * da
    dimag += b * tl.where(at_zero, db, da)
    return tl.where(at_zero, dreal, dreal + b * db), tl.where(at_zero, dimag, dimag - a * db)


@triton.jit
def _power(a, b, at_zero):
    """What these half amplitudes give to the mean square over the frames, by Parseval's theorem."""
    squares = a * a + b * b
    return 2 * tl.sum(tl.where(at_zero, squares + squares, squares), axis=1)


@triton.jit
def _shrinkage(limit, inverse_size):
    """The soft threshold as a factor; a NaN stays one."""
    return tl.maximum(1.0 - limit * inverse_size, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _joint_gate_back(limit, power, inner):
    """Factor of the gradient, factor of the signal, and the threshold's gradient, a column each."""
    inverse = tl.rsqrt(power + EPS)
    kept = _shrinkage(limit, inverse)
    inner = tl.where(kept == 0, 0.0, inner) * inverse
    return kept, 2 * inner * limit * inverse * inverse, -2 * inner


@triton.jit
def _joint_gated_back(da, db, a, b, kept, pull, at_zero):
    """The half gradients before the gate, from those after it."""
    return (
        kept[:, None] * da + pull[:, None] * tl.where(at_zero, a + a, a),
        kept[:, None] * db + pull[:, None] * tl.where(at_zero, b + b, b),
    )


@triton.jit
def _bin_powers(a, b, at_zero, frames):
    """|Y|^2 of the bins that the two places of a pair belong to: one bin, but for pair 0, which has two."""
    power = frames * (a * a + b * b)
    return (
        tl.maximum(
            tl.where(at_zero, 4 * frames * (a * a), power), EPS * EPS, propagate_nan=tl.PropagateNan.ALL
        ),
        tl.maximum(
            tl.where(at_zero, 4 * frames * (b * b), power), EPS * EPS, propagate_nan=tl.PropagateNan.ALL
        ),
    )


@triton.jit
def _bin_gated(a, b, limit, at_zero, frames):
    """Every bin shrunk by its magnitude."""
    power_a, power_b = _bin_powers(a, b, at_zero, frames)
    return (
        a * _shrinkage(limit[:, None], tl.rsqrt(power_a)),
        b * _shrinkage(limit[:, None], tl.rsqrt(power_b)),
    )


@triton.jit
def _bin_gated_back(da, db, a, b, limit, at_zero, frames):
    """The half gradients before the gate from those after it, and the threshold's gradient."""
    limit = limit[:, None]
    power_a, power_b = _bin_powers(a, b, at_zero, frames)
    kept_a = _shrinkage(limit, tl.rsqrt(power_a))
    kept_b = _shrinkage(limit, tl.rsqrt(power_b))
    both = da * a + db * b
    inner_a = tl.where(kept_a == 0, 0.0, tl.where(at_zero, da * a, both)) * tl.rsqrt(power_a)
    inner_b = tl.where(kept_b == 0, 0.0, tl.where(at_zero, db * b, both)) * tl.rsqrt(power_b)
    pull_a = frames * limit * inner_a / power_a
    pull_b = frames * limit * inner_b / power_b
    return (
        kept_a * da + tl.where(at_zero, 4 * pull_a, pull_a) * a,
        kept_b * db + tl.where(at_zero, 4 * pull_b, pull_b) * b,
        -2 * tl.sum(tl.where(at_zero, inner_a + inner_b, inner_a), axis=1),
    )


@triton.jit(do_not_specialize=range(1, 22))
def forward(
    basis, x, y, weight, threshold,
    clips, frames, channels, joints, group_size, channels_fastest, chunk,
    x_clip: tl.int64, x_channel: tl.int64, x_frame: tl.int64, x_joint: tl.int64,
    y_clip: tl.int64, y_channel: tl.int64, y_frame: tl.int64, y_joint: tl.int64,
    threshold_group, threshold_joint,
    SPARSITY: tl.constexpr, LAYOUT: tl.constexpr, COLUMNS: tl.constexpr, PAIRS: tl.constexpr, STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """y for a block of columns and a share of the clips."""
    ALIGN: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    block, first, last = _share(clips, chunk, channels, joints, COLUMNS)
    columns, channel, joint, inside = _columns(
        block, channels, joints, channels_fastest, LAYOUT, ALIGN, COLUMNS
    )
    x_offsets = _offsets(columns, channel, joint, x_channel, x_joint, LAYOUT)
    y_offsets = _offsets(columns, channel, joint, y_channel, y_joint, LAYOUT)
    group = channel // group_size
    limit = tl.load(threshold + group * threshold_group + joint * threshold_joint, mask=inside, other=0.0)
    real, imag = _filter(weight, group, joint, inside, 0, frames, joints, PAIRS)
    cosines, sines = _basis(basis, 0, 0, PAIRS, PAIRS, PAIRS)
    at_zero = (tl.arange(0, PAIRS) == 0)[None, :]
    for clip in tl.range(first, last, num_stages=STAGES):
        source = _clip(x, clip, x_clip, LAYOUT)
        total, difference = _fold(source, x_offsets, inside, 0, frames, x_frame, LAYOUT, PAIRS)
        a, b = _analyse(total, difference, cosines, sines, None, None, PRECISION)
        a, b = _filtered(a, b, real, imag, at_zero)
        if SPARSITY == "bin":
            a, b = _bin_gated(a, b, limit, at_zero, frames)
        even, odd = _synthesise(a, b, cosines, sines, None, None, PRECISION)
        if SPARSITY == "joint":
            kept = _shrinkage(limit, tl.rsqrt(_power(a, b, at_zero) + EPS))[:, None]
            even *= kept
            odd *= kept
        target = _clip(y, clip, y_clip, LAYOUT)
        _unfold(target, y_offsets, inside, frames, y_frame, even, odd, LAYOUT, PAIRS)


@triton.jit(do_not_specialize=range(1, 29))
def backward(
    basis, x, dy, dx, weight, threshold, partials, threshold_partials,
    clips, frames, channels, joints, group_size, channels_fastest, chunk,
    x_clip: tl.int64, x_channel: tl.int64, x_frame: tl.int64, x_joint: tl.int64,
    dy_clip: tl.int64, dy_channel: tl.int64, dy_frame: tl.int64, dy_joint: tl.int64,
    dx_clip: tl.int64, dx_channel: tl.int64, dx_frame: tl.int64, dx_joint: tl.int64,
    threshold_group, threshold_joint,
    SPARSITY: tl.constexpr, LAYOUT: tl.constexpr, RUN: tl.constexpr, COLUMNS: tl.constexpr, PAIRS: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx for a block of columns and a share of the clips, and its part of the parameters' gradients.

    Every RUN columns on end belong to one group and joint; their parts are added here.
    """
    ALIGN: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    block, first, last = _share(clips, chunk, channels, joints, COLUMNS)
    columns, channel, joint, inside = _columns(
        block, channels, joints, channels_fastest, LAYOUT, ALIGN, COLUMNS
    )
    x_offsets = _offsets(columns, channel, joint, x_channel, x_joint, LAYOUT)
    dy_offsets = _offsets(columns, channel, joint, dy_channel, dy_joint, LAYOUT)
    dx_offsets = _offsets(columns, channel, joint, dx_channel, dx_joint, LAYOUT)
    group = channel // group_size
    limit = tl.load(threshold + group * threshold_group + joint * threshold_joint, mask=inside, other=0.0)
    real, imag = _filter(weight, group, joint, inside, 0, frames, joints, PAIRS)
    cosines, sines = _basis(basis, 0, 0, PAIRS, PAIRS, PAIRS)
    at_zero = (tl.arange(0, PAIRS) == 0)[None, :]
    dlimit = tl.zeros([COLUMNS], tl.float32)
    dreal = tl.zeros([COLUMNS, PAIRS], tl.float32)
    dimag = tl.zeros([COLUMNS, PAIRS], tl.float32)
    for clip in tl.range(first, last, num_stages=STAGES):
        source = _clip(x, clip, x_clip, LAYOUT)
        total, difference = _fold(source, x_offsets, inside, 0, frames, x_frame, LAYOUT, PAIRS)
        a, b = _analyse(total, difference, cosines, sines, None, None, PRECISION)
        above = _clip(dy, clip, dy_clip, LAYOUT)
        total, difference = _fold(above, dy_offsets, inside, 0, frames, dy_frame, LAYOUT, PAIRS)
        da, db = _analyse(total, difference, cosines, sines, None, None, PRECISION)
        if SPARSITY != "none":
            filtered_a, filtered_b = _filtered(a, b, real, imag, at_zero)
        if SPARSITY == "joint":
            inner = tl.sum(da * filtered_a + db * filtered_b, axis=1)
            kept, pull, more = _joint_gate_back(limit, _power(filtered_a, filtered_b, at_zero), inner)
            da, db = _joint_gated_back(da, db, filtered_a, filtered_b, kept, pull, at_zero)
            dlimit += more
        if SPARSITY == "bin":
            da, db, more = _bin_gated_back(da, db, filtered_a, filtered_b, limit, at_zero, frames)
            dlimit += more
        dreal, dimag = _filter_gradient(dreal, dimag, a, b, da, db, at_zero)
        a, b = _filtered_back(da, db, real, imag, at_zero)
        even, odd = _synthesise(a, b, cosines, sines, None, None, PRECISION)
        target = _clip(dx, clip, dx_clip, LAYOUT)
        _unfold(target, dx_offsets, inside, frames, dx_frame, even, odd, LAYOUT, PAIRS)
    SLOTS: tl.constexpr = COLUMNS // RUN
    slot = tl.program_id(0) * SLOTS + tl.arange(0, SLOTS)
    place = partials + slot[:, None].to(tl.int64) * (2 * PAIRS) + tl.arange(0, PAIRS)[None, :]
    if RUN > 1:
        dreal = tl.sum(tl.reshape(dreal, [SLOTS, RUN, PAIRS]), axis=1)
        dimag = tl.sum(tl.reshape(dimag, [SLOTS, RUN, PAIRS]), axis=1)
        dlimit = tl.sum(tl.reshape(dlimit, [SLOTS, RUN]), axis=1)
    tl.store(place, dreal)
    tl.store(place + PAIRS, dimag)
    tl.store(threshold_partials + slot, dlimit)


@triton.jit
def _analyse_long(
    clip, offsets, inside, first_pair, frames, frame_stride, basis,
    LAYOUT: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr, PAIRS: tl.constexpr, STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Raw sums of a whole clip for one block of pairs."""
    a = tl.zeros([COLUMNS, PAIRS], tl.float32)
    b = tl.zeros([COLUMNS, PAIRS], tl.float32)
    for start in range(0, (frames + 1) // 2, STEP):
        total, difference = _fold(clip, offsets, inside, start, frames, frame_stride, LAYOUT, STEP)
        cosines, sines = _basis(basis, first_pair, start, SPAN, PAIRS, STEP)
        a, b = _analyse(total, difference, cosines, sines, a, b, PRECISION)
    return a, b


@triton.jit(do_not_specialize=range(1, 22))
def forward_long(
    basis, x, y, weight, threshold,
    clips, frames, channels, joints, group_size, channels_fastest, chunk,
    x_clip: tl.int64, x_channel: tl.int64, x_frame: tl.int64, x_joint: tl.int64,
    y_clip: tl.int64, y_channel: tl.int64, y_frame: tl.int64, y_joint: tl.int64,
    threshold_group, threshold_joint,
    SPARSITY: tl.constexpr, LAYOUT: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr, PAIRS: tl.constexpr,
    STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `forward`, a block of pairs after the other: the gate of a joint scales what they add up to."""
    ALIGN: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    block, first, last = _share(clips, chunk, channels, joints, COLUMNS)
    columns, channel, joint, inside = _columns(
        block, channels, joints, channels_fastest, LAYOUT, ALIGN, COLUMNS
    )
    x_offsets = _offsets(columns, channel, joint, x_channel, x_joint, LAYOUT)
    y_offsets = _offsets(columns, channel, joint, y_channel, y_joint, LAYOUT)
    group = channel // group_size
    limit = tl.load(threshold + group * threshold_group + joint * threshold_joint, mask=inside, other=0.0)
    for clip in range(first, last):
        source = _clip(x, clip, x_clip, LAYOUT)
        power = tl.zeros([COLUMNS], tl.float32)
        even = tl.zeros([COLUMNS, SPAN], tl.float32)
        odd = tl.zeros([COLUMNS, SPAN], tl.float32)
        for first_pair in range(0, (frames + 1) // 2, PAIRS):
            at_zero = (first_pair + tl.arange(0, PAIRS) == 0)[None, :]
            real, imag = _filter(weight, group, joint, inside, first_pair, frames, joints, PAIRS)
            a, b = _analyse_long(
                source, x_offsets, inside, first_pair, frames, x_frame, basis,
                LAYOUT, COLUMNS, SPAN, PAIRS, STEP, PRECISION,
            )  # fmt: skip
            a, b = _filtered(a, b, real, imag, at_zero)
            if SPARSITY == "joint":
                power += _power(a, b, at_zero)
            if SPARSITY == "bin":
                a, b = _bin_gated(a, b, limit, at_zero, frames)
            cosines, sines = _basis(basis, first_pair, 0, SPAN, PAIRS, SPAN)
            even, odd = _synthesise(a, b, cosines, sines, even, odd, PRECISION)
        if SPARSITY == "joint":
            kept = _shrinkage(limit, tl.rsqrt(power + EPS))[:, None]
            even *= kept
            odd *= kept
        target = _clip(y, clip, y_clip, LAYOUT)
        _unfold(target, y_offsets, inside, frames, y_frame, even, odd, LAYOUT, SPAN)


@triton.jit(do_not_specialize=range(1, 29))
def backward_long(
    basis, x, dy, dx, weight, threshold, partials, threshold_partials,
    clips, frames, channels, joints, group_size, channels_fastest, chunk,
    x_clip: tl.int64, x_channel: tl.int64, x_frame: tl.int64, x_joint: tl.int64,
    dy_clip: tl.int64, dy_channel: tl.int64, dy_frame: tl.int64, dy_joint: tl.int64,
    dx_clip: tl.int64, dx_channel: tl.int64, dx_frame: tl.int64, dx_joint: tl.int64,
    threshold_group, threshold_joint,
    SPARSITY: tl.constexpr, LAYOUT: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr, PAIRS: tl.constexpr,
    STEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `backward`, a block of pairs after the other, twice for the gate of a joint, which all of them decide.

    The filter's gradient does not fit on the chip: it grows in `partials`, in which each program has its own place.
    """
    ALIGN: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    block, first, last = _share(clips, chunk, channels, joints, COLUMNS)
    columns, channel, joint, inside = _columns(
        block, channels, joints, channels_fastest, LAYOUT, ALIGN, COLUMNS
    )
    x_offsets = _offsets(columns, channel, joint, x_channel, x_joint, LAYOUT)
    dy_offsets = _offsets(columns, channel, joint, dy_channel, dy_joint, LAYOUT)
    dx_offsets = _offsets(columns, channel, joint, dx_channel, dx_joint, LAYOUT)
    group = channel // group_size
    limit = tl.load(threshold + group * threshold_group + joint * threshold_joint, mask=inside, other=0.0)
    dlimit = tl.zeros([COLUMNS], tl.float32)
    slot = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    for clip in range(first, last):
        source = _clip(x, clip, x_clip, LAYOUT)
        above = _clip(dy, clip, dy_clip, LAYOUT)
        if SPARSITY == "joint":
            power = tl.zeros([COLUMNS], tl.float32)
            inner = tl.zeros([COLUMNS], tl.float32)
            for first_pair in range(0, (frames + 1) // 2, PAIRS):
                at_zero = (first_pair + tl.arange(0, PAIRS) == 0)[None, :]
                real, imag = _filter(weight, group, joint, inside, first_pair, frames, joints, PAIRS)
                a, b = _analyse_long(
                    source, x_offsets, inside, first_pair, frames, x_frame, basis,
                    LAYOUT, COLUMNS, SPAN, PAIRS, STEP, PRECISION,
                )  # fmt: skip
                da, db = _analyse_long(
                    above, dy_offsets, inside, first_pair, frames, dy_frame, basis,
                    LAYOUT, COLUMNS, SPAN, PAIRS, STEP, PRECISION,
                )  # fmt: skip
                a, b = _filtered(a, b, real, imag, at_zero)
                power += _power(a, b, at_zero)
                inner += tl.sum(da * a + db * b, axis=1)
            kept, pull, more = _joint_gate_back(limit, power, inner)
            dlimit += more
        even = tl.zeros([COLUMNS, SPAN], tl.float32)
        odd = tl.zeros([COLUMNS, SPAN], tl.float32)
        for first_pair in range(0, (frames + 1) // 2, PAIRS):
            at_zero = (first_pair + tl.arange(0, PAIRS) == 0)[None, :]
            real, imag = _filter(weight, group, joint, inside, first_pair, frames, joints, PAIRS)
            a, b = _analyse_long(
                source, x_offsets, inside, first_pair, frames, x_frame, basis,
                LAYOUT, COLUMNS, SPAN, PAIRS, STEP, PRECISION,
            )  # fmt: skip
            da, db = _analyse_long(
                above, dy_offsets, inside, first_pair, frames, dy_frame, basis,
                LAYOUT, COLUMNS, SPAN, PAIRS, STEP, PRECISION,
            )  # fmt: skip
            if SPARSITY != "none":
                filtered_a, filtered_b = _filtered(a, b, real, imag, at_zero)
            if SPARSITY == "joint":
                da, db = _joint_gated_back(da, db, filtered_a, filtered_b, kept, pull, at_zero)
            if SPARSITY == "bin":
                da, db, more = _bin_gated_back(da, db, filtered_a, filtered_b, limit, at_zero, frames)
                dlimit += more
            place = slot[:, None].to(tl.int64) * (2 * SPAN) + (first_pair + tl.arange(0, PAIRS))[None, :]
            dreal = tl.load(partials + place)
            dimag = tl.load(partials + SPAN + place)
            dreal, dimag = _filter_gradient(dreal, dimag, a, b, da, db, at_zero)
            tl.store(partials + place, dreal)
            tl.store(partials + SPAN + place, dimag)
            a, b = _filtered_back(da, db, real, imag, at_zero)
            cosines, sines = _basis(basis, first_pair, 0, SPAN, PAIRS, SPAN)
            even, odd = _synthesise(a, b, cosines, sines, even, odd, PRECISION)
        target = _clip(dx, clip, dx_clip, LAYOUT)
        _unfold(target, dx_offsets, inside, frames, dx_frame, even, odd, LAYOUT, SPAN)
        tl.debug_barrier()  # the partial sums of this clip are written before the next clip reads them
    tl.store(threshold_partials + slot, dlimit)


@triton.jit(do_not_specialize=range(12))
def reduce(
    partials, threshold_partials, dweight, dthreshold,
    parts, slots, frames, joints, terms, group_step, joint_step, term_step,
    SIZE: tl.constexpr, PAIRS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Add the parts of one group and joint for one block of pairs, always in the same order."""
    group = tl.program_id(0) // joints
    joint = tl.program_id(0) % joints
    pair = tl.program_id(1) * PAIRS + tl.arange(0, PAIRS)
    real = tl.zeros([ROWS, PAIRS], tl.float32)
    imag = tl.zeros([ROWS, PAIRS], tl.float32)
    limit = tl.zeros([ROWS], tl.float32)
    for first in range(0, parts * terms, ROWS):
        row = first + tl.arange(0, ROWS)
        exists = row < parts * terms
        slot = row // terms * slots + group * group_step + joint * joint_step + row % terms * term_step
        place = partials + slot[:, None].to(tl.int64) * (2 * SIZE) + pair[None, :]
        real += tl.load(place, mask=exists[:, None], other=0.0)
        imag += tl.load(place + SIZE, mask=exists[:, None], other=0.0)
        limit += tl.load(threshold_partials + slot, mask=exists, other=0.0)
    scale = 2 * _scale(pair, frames)
    sum_real = tl.sum(real, axis=0) * scale
    sum_imag = tl.sum(imag, axis=0) * scale
    target = dweight + ((group * (frames // 2 + 1) + pair) * joints + joint) * 2
    exists = pair < (frames + 1) // 2
    tl.store(target, sum_real, mask=exists)
    tl.store(target + 1, tl.where(pair == 0, 0.0, sum_imag), mask=exists)
    # Pair 0 has T/2 in its second place, if T is even.
    last = target + frames // 2 * joints * 2
    has_last = (pair == 0) & (frames % 2 == 0)
    tl.store(last, sum_imag, mask=has_last)
    tl.store(last + 1, tl.zeros_like(sum_imag), mask=has_last)
    tl.store(dthreshold + group * joints + joint, tl.sum(limit, axis=0), mask=tl.program_id(1) == 0)
