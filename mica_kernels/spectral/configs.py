"""Launch configurations of the spectral gate: for each architecture, width of the data type and number of frames.

Chosen so that nothing spills and shared memory fits, see benchmarks/results/static.md for the assembler's account of
each. None has been timed on a GPU yet; `mica_kernels.tune` does so on the GPU at hand. Pure Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

from mica_kernels.launch import DTYPES, Launch, Variant

MAX_FRAMES = 512
SIZES = (16, 32, 64, 128, 256)
"""Half the frames, rounded up to a power of two: what a configuration is for."""

DENSE_FRAMES = 128
"""Up to how many frames products of matrices take the place of the reference on a CPU, where `impl="auto"` chooses.

Timed on one core with AMX, 16 x 64 x T x 25, joint gate, contiguous and channels_last: forward and backward together
they are faster up to 160 frames in float32 and up to 300, the longest tried, in bfloat16. Forward alone, float32 breaks
even near 100 frames in channels_last and near 50 contiguous, where at the bound it is two thirds as fast.
"""

SPARSITIES = ("none", "joint", "bin")
LAYOUTS = ("flat", "near")
DIRECTIONS = ("forward", "backward")

RUN = 8
"""Channels whose parts of the filter's gradient a program adds where they lie on end, in groups of a multiple of it."""

REDUCED_PAIRS, REDUCED_ROWS = 64, 16
"""Pairs, and partial results at a time, that a program of the last sum takes."""


# By bytes an element and size: flat forward, near forward, flat backward, near backward.
_TABLE = {
    2: {
        16: (Launch(64, 4, 2, 7), Launch(64, 4, 2, 4), Launch(64, 4, 2, 4), Launch(64, 4, 2, 2)),
        32: (Launch(64, 4, 2, 4), Launch(64, 4, 2, 2), Launch(64, 4, 2, 2), Launch(16, 4, 1, 3)),
        64: (Launch(32, 4, 2, 3), Launch(32, 8, 2, 1), Launch(32, 8, 2, 1), Launch(16, 8, 1, 1)),
        128: (
            Launch(32, 8, 2, 1, 64, 64), Launch(16, 8, 2, 1, 32, 64),
            Launch(16, 4, 2, 2, 32, 64), Launch(16, 8, 2, 1, 32, 64),
        ),
        256: (
            Launch(16, 4, 2, 2, 32, 64), Launch(16, 8, 2, 1, 32, 64),
            Launch(16, 4, 2, 2, 32, 64), Launch(16, 8, 2, 1, 32, 64),
        ),
    },
    4: {
        16: (Launch(64, 4, 1, 5), Launch(64, 4, 1, 3), Launch(64, 4, 1, 2), Launch(64, 4, 1, 2)),
        32: (Launch(32, 4, 1, 2), Launch(16, 4, 1, 3), Launch(32, 8, 1, 1, 16, 32), Launch(16, 4, 1, 2)),
        64: (
            Launch(32, 8, 1, 1, 16, 32), Launch(16, 8, 1, 1, 16, 16),
            Launch(32, 8, 1, 1, 16, 32), Launch(16, 8, 1, 1, 16, 16),
        ),
        128: (
            Launch(32, 8, 1, 1, 16, 32), Launch(16, 8, 1, 1, 16, 16),
            Launch(16, 8, 1, 1, 16, 32), Launch(16, 8, 1, 1, 16, 16),
        ),
        256: (
            Launch(16, 8, 1, 1, 16, 32), Launch(16, 8, 1, 1, 16, 16),
            Launch(16, 8, 1, 1, 16, 16), Launch(16, 8, 1, 1, 16, 16),
        ),
    },
}  # fmt: skip

# Where an architecture differs.
_EXCEPTIONS = {
    ("sm_80", 2, 32, "backward", "near"): Launch(32, 4, 1, 2),
    ("sm_80", 2, 256, "backward", "flat"): Launch(16, 8, 1, 1, 32, 128),
    ("sm_80", 2, 256, "backward", "near"): Launch(16, 8, 1, 1, 32, 32),
    ("sm_80", 4, 32, "backward", "flat"): Launch(16, 4, 1, 3),
    ("sm_80", 4, 256, "forward", "flat"): Launch(16, 8, 1, 1, 16, 16),
    ("sm_100", 4, 32, "backward", "near"): Launch(16, 4, 2, 2),
    ("sm_100", 2, 32, "backward", "flat"): Launch(32, 4, 1, 2),
    ("sm_100", 4, 128, "forward", "flat"): Launch(32, 8, 1, 1, 16, 16),
}


def size(frames: int) -> int:
    """Half the frames, rounded up to a power of two that matrix units take.

    >>> size(1), size(50), size(64), size(300)
    (16, 32, 32, 256)
    """
    return max(SIZES[0], 1 << ((frames + 1) // 2 - 1).bit_length())


def unserved(frames: int, dtype: str) -> str | None:
    """Why no kernel serves such signals; None where one does.

    >>> unserved(64, "bfloat16"), unserved(600, "float32")
    (None, 'the kernel serves up to 512 frames, not 600')
    """
    if frames > MAX_FRAMES:
        return f"the kernel serves up to {MAX_FRAMES} frames, not {frames}"
    if dtype not in DTYPES:
        return f"the kernel serves {', '.join(DTYPES)}, not {dtype}"
    return None


def launch(arch: str, dtype: str, size: int, direction: str, layout: str) -> Launch:
    """The shipped configuration.

    >>> launch("sm_90", "bfloat16", 32, "forward", "flat").columns
    64
    """
    layout = "flat" if layout == "flat" else "near"
    width = 4 if dtype == "float32" else 2
    place = 2 * DIRECTIONS.index(direction) + LAYOUTS.index(layout)
    return _EXCEPTIONS.get((arch, width, size, direction, layout), _TABLE[width][size][place])


def candidates(size: int) -> list[Launch]:
    """What `mica_kernels.tune` tries beside the shipped configuration; what does not compile is passed over."""
    whole = product((16, 32, 64, 128), (4, 8), (1, 2, 3), (1, 2, 4)) if size <= 64 else ()
    blocks = product((16, 32), (4, 8), (1, 2), (1, 2), (16, 32, 64), (16, 32, 64)) if size >= 32 else ()
    return [Launch(*fields) for fields in (*whole, *blocks)]


@lru_cache(maxsize=1024)
def variant(
    launch: Launch,
    dtype: str,
    size: int,
    direction: str,
    sparsity: str,
    layout: str,
    run: int,
    precision: str,
) -> Variant:
    """The form of a kernel that a launch needs.

    >>> variant(Launch(64, 4, 2, 4), "float16", 32, "forward", "joint", "flat", 8, "tf32x3").kernel
    'forward'
    """
    signals = ("x", "y") if direction == "forward" else ("x", "dy", "dx")
    floats = ("weight", "threshold") if direction == "forward" else (
        "weight", "threshold", "partials", "threshold_partials",
    )  # fmt: skip
    pointers = {**dict.fromkeys(("basis", *signals), dtype), **dict.fromkeys(floats, "float32")}
    constants = {"SPARSITY": sparsity, "LAYOUT": layout, "COLUMNS": launch.columns}
    if launch.step is None:
        constants |= {"PAIRS": size, "STAGES": launch.stages}
        if direction == "backward":
            constants["RUN"] = run
    else:
        constants |= {"SPAN": size, "PAIRS": launch.pairs, "STEP": launch.step}
    constants["PRECISION"] = precision
    return Variant(
        family="mica_kernels.spectral",
        kernel=direction if launch.step is None else f"{direction}_long",
        pointers=tuple(pointers.items()),
        constants=tuple(constants.items()),
        warps=launch.warps,
        stages=launch.stages,
    )


@lru_cache
def reduction(size: int) -> Variant:
    """The sum of what the programs of the backward kernel leave."""
    names = ("partials", "threshold_partials", "dweight", "dthreshold")
    return Variant(
        family="mica_kernels.spectral",
        kernel="reduce",
        pointers=tuple((name, "float32") for name in names),
        constants=(("SIZE", size), ("PAIRS", min(size, REDUCED_PAIRS)), ("ROWS", REDUCED_ROWS)),
        warps=4,
        stages=1,
    )


def variants(arch: str) -> Iterator[Variant]:
    """Every form that is built ahead for an architecture: neither tf32 nor, of the layouts, "far", which few need."""
    for dtype, size, direction, layout in product(DTYPES, SIZES, DIRECTIONS, LAYOUTS):
        shipped = launch(arch, dtype, size, direction, layout)
        runs = (RUN, 1) if direction == "backward" and layout == "flat" and shipped.step is None else (1,)
        for sparsity, run in product(SPARSITIES, runs):
            yield variant(shipped, dtype, size, direction, sparsity, layout, run, "tf32x3")
    yield from (reduction(size) for size in SIZES)
