"""Launch configurations of the contrastive losses: for each kernel, architecture and width of the data type.

Chosen so that nothing spills and shared memory fits, see benchmarks/results/static_contrastive.md for the assembler's
account of each. None has been timed on a GPU yet; `mica_kernels.tune` does so on the GPU at hand. Pure Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

from mica_kernels.launch import DTYPES, Launch, Variant

ALIGNED = 16
"""What rows of embeddings are filled up to, in numbers, so that every one starts at a multiple of 16 bytes."""

WORTHWHILE = 1 << 22
"""How many entries a similarity matrix has where `impl="auto"` takes the kernel. Below, a copy of it takes less than
16 MB, so there is no memory to save, and launching the kernels keeps the processor longer than eager mode does. Where
the kernel begins to be faster on a GPU has not been measured yet."""

ROWS_AT_A_TIME = 8192
"""Rows that one launch of `statistics` sweeps: it leaves a result a column and stripe of rows."""

BLOCK = 1 << 26
"""Entries of the block of gradients that is in memory at a time: 128 MB in half precision."""

WAVES = 4
"""How many programs there are for each that runs at a time, so that none ends long after the others."""

LARGEST = 2.0**13
"""What gradients are scaled to in float16, whose range they would leave otherwise: up to four of them are added."""

FORMS = (("none", False), ("diagonal", False), ("diagonal", True), ("labels", False), ("labels", True))
"""(POSITIVES, BOTH) of `statistics` and `gradient`: for extra keys, and for one direction and both of `info_nce`."""


def _tile(rows: int, columns: int, step: int, warps: int, stages: int) -> Launch:
    return Launch(columns, warps, stages, programs=1, step=step, rows=rows)


# By bytes an element.
_TABLE = {
    2: {
        "statistics": _tile(128, 128, 64, 8, 3),
        "gradient": _tile(128, 128, 64, 8, 3),
        "divergence": _tile(128, 64, 64, 8, 3),
        "divergence_gradient": _tile(128, 128, 64, 8, 3),
    },
    4: {
        "statistics": _tile(128, 128, 32, 8, 2),
        "gradient": _tile(128, 128, 32, 8, 2),
        "divergence": _tile(128, 64, 32, 8, 3),
        "divergence_gradient": _tile(128, 64, 32, 8, 3),
    },
}

# Where an architecture differs.
_EXCEPTIONS = {
    ("sm_80", 4, "statistics"): _tile(128, 64, 32, 8, 3),
    ("sm_80", 4, "gradient"): _tile(128, 64, 32, 8, 2),
    ("sm_80", 4, "divergence"): _tile(128, 32, 32, 8, 2),
    ("sm_100", 2, "statistics"): _tile(128, 64, 64, 8, 3),
    ("sm_100", 4, "statistics"): _tile(128, 64, 32, 8, 2),
}
KERNELS = tuple(_TABLE[2])


def unserved(*dtypes: str) -> str | None:
    """Why no kernel serves embeddings of these types; None where one does.

    >>> unserved("bfloat16", "float32"), unserved("float64")
    (None, 'the kernel serves float32, bfloat16, float16, not float64')
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            return f"the kernel serves {', '.join(DTYPES)}, not {dtype}"
    return None


def launch(arch: str, dtype: str, kernel: str) -> Launch:
    """The shipped configuration.

    >>> launch("sm_90", "float16", "statistics") == launch("sm_90", "bfloat16", "statistics")
    True
    """
    width = 4 if dtype == "float32" else 2
    return _EXCEPTIONS.get((arch, width, kernel), _TABLE[width][kernel])


def candidates() -> list[Launch]:
    """What `mica_kernels.tune` tries beside the shipped configuration; what does not compile is passed over."""
    tiles = ((64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128))
    return [_tile(*tile, *others) for tile, *others in product(tiles, (32, 64), (4, 8), (2, 3, 4))]


@lru_cache(maxsize=1024)
def variant(launch: Launch, dtype: str, kernel: str, precision: str, *form: str | bool) -> Variant:
    """The form of a kernel that a launch needs; `form` is one of `FORMS` for `statistics` and `gradient`.

    >>> variant(launch("sm_90", "float16", "divergence"), "float16", "divergence", "tf32x3").kernel
    'divergence'
    """
    matrices = ("query", "key", "teacher_query", "teacher_key", "block")
    vectors = (
        "scale", "teacher_scale", "distance", "row_lse", "row_positive", "row_weight", "row_pull", "teacher_lse",
        "column_lse", "column_top", "column_sum", "column_positive", "column_weight", "column_pull", "moments",
    )  # fmt: skip
    pointers = {
        **dict.fromkeys(matrices, dtype),
        **dict.fromkeys(vectors, "float32"),
        # Without labels, launches pass the scale in their place.
        **dict.fromkeys(("query_labels", "key_labels"), "int32" if "labels" in form else "float32"),
    }
    constants = dict(zip(("POSITIVES", "BOTH"), form, strict=False))
    sizes = {"ROWS": launch.rows, "COLUMNS": launch.columns, "STEP": launch.step, "PRECISION": precision}
    return Variant(
        family="mica_kernels.contrastive",
        kernel=kernel,
        pointers=tuple(pointers.items()),
        constants=tuple({**constants, **sizes}.items()),
        warps=launch.warps,
        stages=launch.stages,
    )


def variants(arch: str) -> Iterator[Variant]:
    """Every form that is built ahead for an architecture: not tf32, which few ask for."""
    for dtype, kernel in product(DTYPES, KERNELS):
        for form in FORMS if kernel in ("statistics", "gradient") else ((),):
            yield variant(launch(arch, dtype, kernel), dtype, kernel, "tf32x3", *form)
