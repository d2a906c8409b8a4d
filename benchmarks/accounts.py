"""What the kernels have to do, computed from their configurations: the accounts in benchmarks/static.py's documents.

Nothing here is measured but the rates of an H200 that work is divided by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from benchmarks.assembler import CHIPS, Build
from mica_kernels.contrastive import configs as contrastive
from mica_kernels.launch import Launch
from mica_kernels.spectral import configs as spectral

COPY_RATE, MATRIX_RATE, CLOCK = 4.3e12, 790e12, 1.98e9
"""Of an H200: bytes read and written a second by a copy and bfloat16 operations a second of a large matrix product, as
measured for design/frest.md; the boost clock by its data sheet. Products of float32 are counted at half the rate."""

H200 = CHIPS["sm_90"]
ISSUE_RATE = 4 * H200.multiprocessors * CLOCK
"""Instructions of warps a second: one a cycle of each of a multiprocessor's four schedulers."""

CLIPS, CHANNELS, JOINTS = 512, 64, 25
"""The signals of the spectral gate's account."""


@dataclass(frozen=True)
class Account:
    """What a configuration of the spectral gate has to do for the signals of the account.

    flops: of the products, padding included, for one element; rereads: bytes of basis, filter and growing partial sums
    that a program fetches again and again, from the caches, for one element; traffic: bytes to and from memory for
    all; partials: bytes of partial sums.
    """

    elements: int
    flops: float
    rereads: float
    traffic: int
    partials: int
    tiles: int

    @property
    def intensity(self) -> float:
        return self.flops * self.elements / self.traffic


def account(
    arch: str, dtype: str, size: int, direction: str, layout: str, sparsity: str, frames: int
) -> Account:
    """The byte-and-flop account of a shipped configuration of the spectral gate."""
    launch = spectral.launch(arch, dtype, size, direction, layout)
    item, backward = 4 if dtype == "float32" else 2, direction == "backward"
    half, columns = (frames + 1) // 2, CHANNELS * JOINTS
    elements = CLIPS * columns * frames
    # As op.py splits the work.
    blocks = ceil(columns / launch.columns)
    wanted = max(1, CHIPS[arch].multiprocessors * launch.programs // blocks)
    chunk = ceil(CLIPS / min(CLIPS, wanted))
    parts = ceil(CLIPS / chunk)
    tiles = CLIPS * blocks
    if launch.step is None:
        # Two products of [columns x size] and [size x size], there and back.
        analysis = synthesis = 2 * 2 * launch.columns * size * size
        analyses, run = (2 if backward else 1), (spectral.RUN if layout == "flat" else 1)
        fixed = 2 * size * size * item + launch.columns * size * 2 * 4
        rereads = blocks * parts * fixed
        passes = 2  # over the partial sums: written, read
    else:
        pair_blocks, steps = ceil(half / launch.pairs), ceil(half / launch.step)
        pairs, samples = pair_blocks * launch.pairs, steps * launch.step
        analysis = 2 * 2 * launch.columns * pairs * samples
        synthesis = 2 * 2 * launch.columns * pairs * size
        rounds = 2 if backward and sparsity == "joint" else 1  # over the pairs
        analyses, run = rounds * (2 if backward else 1), 1
        basis = (analyses * pairs * samples + pairs * size) * 2 * item
        filters = rounds * launch.columns * pairs * 2 * 4
        growing = 2 * launch.columns * pairs * 2 * 4 if backward else 0
        rereads = tiles * (basis + filters + growing)
        passes = 3  # zeroed, written at last, read
    partials = parts * blocks * launch.columns // run * (2 * size + 1) * 4 if backward else 0
    return Account(
        elements=elements,
        flops=tiles * (analyses * analysis + synthesis) / elements,
        rereads=rereads / elements,
        traffic=(3 if backward else 2) * elements * item + passes * partials,
        partials=partials,
        tiles=tiles,
    )


SIDES, WIDTH = (65536, 16384), 512
"""N = M and D of the contrastive losses' account, in bfloat16 on an H200; the teacher is as wide as the student."""

ITEM, FLOAT = 2, 4
"""Bytes of a number of the embeddings and the block, and of all sums."""

MERGED = 13
"""Passes over one number a column and stripe of rows: two of them are written, then op.py's `log_` makes two, `add_`
three and `logsumexp` six."""


@dataclass(frozen=True)
class Loss:
    """A loss, whose kernels are `forward` and `gradient`; matrices: products a tile, of a student and a teacher."""

    forward: str
    gradient: str
    form: tuple[str | bool, ...]
    matrices: int

    def floor(self, side: int) -> float:
        """Operations that the loss and its gradients take: each product twice, and the gradients of one."""
        return (4 * self.matrices + 4) * side * side * WIDTH


LOSSES = {
    "info_nce": Loss("statistics", "gradient", ("diagonal", True), 1),
    "similarity_kl": Loss("divergence", "divergence_gradient", (), 2),
}


@dataclass(frozen=True)
class Part:
    """What one part of a loss has to do; the parts follow one another.

    flops: of the products; memory: bytes to and from memory; cached: bytes of embeddings that programs fetch, through
    L2; issued: instructions of warps. None: not known.
    """

    name: str
    flops: float
    memory: float
    cached: float | None = None
    issued: float | None = None

    @property
    def seconds(self) -> list[float]:
        """By the matrix units, by memory and, where it is known, by issue."""
        found = [self.flops / MATRIX_RATE, self.memory / COPY_RATE]
        return found if self.issued is None else [*found, self.issued / ISSUE_RATE]


def outside(build: Build) -> int:
    """Instructions of a warp for a tile outside the loops over the width, inside that over tiles where there is one."""
    sweeps = build.variant.kernel in {loss.forward for loss in LOSSES.values()}
    return (build.loop if sweeps else build.length) - build.products


def parts(loss: Loss, side: int, builds: Sequence[Build] = ()) -> list[Part]:
    """Forward pass, tiles of the gradient, and the library's two products with the blocks of it."""
    launches = ceil(side / contrastive.ROWS_AT_A_TIME)
    embeddings = side * WIDTH * ITEM
    if loss.matrices == 1:
        # Keys are read again by every launch, and column results merged.
        stripes = ceil(side / _launch(loss.forward).rows)
        forward = (1 + launches) * embeddings + MERGED * stripes * side * FLOAT
    else:
        forward = 4 * embeddings
    height, breadth = _block(side)
    blocks = ceil(side / height) * ceil(side / breadth)
    of_blocks = blocks * (height + breadth) * WIDTH
    # Zeroed; grown by every block; read and written for the factors, and for the type of the embeddings.
    sums = of_blocks * 2 * FLOAT + 2 * side * WIDTH * (FLOAT + 2 * FLOAT + FLOAT + ITEM)
    gradient = loss.matrices * of_blocks * ITEM + block_bytes(side)
    return [
        _kernel_part("forward", loss.forward, loss, side, forward, builds),
        _kernel_part("gradient tiles", loss.gradient, loss, side, gradient, builds),
        Part("two products", 4 * side * side * WIDTH, 2 * block_bytes(side) + of_blocks * ITEM + sums),
    ]


def _kernel_part(
    name: str, kernel: str, loss: Loss, side: int, memory: float, builds: Sequence[Build]
) -> Part:
    launch = _launch(kernel)
    tiles = ceil(side / launch.rows) * ceil(side / launch.columns)
    ours = (build for build in builds if _is(build, kernel, loss.form))
    return Part(
        name,
        flops=loss.matrices * 2 * side * side * WIDTH,
        memory=memory,
        cached=tiles * loss.matrices * (launch.rows + launch.columns) * WIDTH * ITEM,
        issued=next((tiles * launch.warps * _per_tile(build) for build in ours), None),
    )


def _launch(kernel: str) -> Launch:
    return contrastive.launch("sm_90", "bfloat16", kernel)


def _is(build: Build, kernel: str, form: tuple[str | bool, ...]) -> bool:
    """Whether it is of a kernel of the account, and compiles."""
    constants = dict(build.variant.constants)
    found = tuple(constants[name] for name in ("POSITIVES", "BOTH") if name in constants)
    of = (build.arch, build.variant.kernel, build.variant.dtype, found)
    return not build.error and of == ("sm_90", kernel, "bfloat16", form)


def _per_tile(build: Build) -> int:
    """Instructions of a warp for a tile."""
    return outside(build) + ceil(WIDTH / dict(build.variant.constants)["STEP"]) * build.products


def _block(side: int) -> tuple[int, int]:
    """Rows and columns of the block of gradients that op.py keeps."""
    height = min(side, contrastive.ROWS_AT_A_TIME)
    return height, min(side, contrastive.BLOCK // height)


def block_bytes(side: int) -> int:
    """Of all the blocks of gradients together: as many as the similarity matrix itself would take."""
    return side * side * ITEM


def extra_memory(loss: Loss, side: int) -> tuple[int, int]:
    """Bytes that the forward and the backward pass take at most beyond their inputs, but for vectors."""
    forward = 0
    if loss.matrices == 1:
        stripes = ceil(min(side, contrastive.ROWS_AT_A_TIME) / _launch(loss.forward).rows)
        forward = 3 * stripes * side * FLOAT  # two column results, and a copy as they are merged
    height, breadth = _block(side)
    tile = _launch(loss.gradient)
    moments = ceil(height / tile.rows) * ceil(breadth / tile.columns) * tile.rows * FLOAT
    sums, gradients = (2 * side * WIDTH * size for size in (FLOAT, ITEM))
    return forward, sums + max(height * breadth * ITEM + moments, gradients)


def together(found: Sequence[Part]) -> tuple[float, float]:
    """Seconds of all parts with nothing overlapped, and with everything inside a part overlapped."""
    return sum(sum(part.seconds) for part in found), sum(max(part.seconds) for part in found)
