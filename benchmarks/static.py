"""What the compiler makes of every shipped kernel, without a GPU: benchmarks/results/static*.md.

    python -m benchmarks.static                         compiles every shipped form and writes the documents
    python -m benchmarks.static --family contrastive    the contrastive losses only, of the spectral gate and these
    python -m benchmarks.static --arch sm_90            one architecture only; prints the tables instead
    python -m benchmarks.static --check                 as well, and exits with 1 if a form spills, uses local memory,
                                                        does not fit the chip, or moves signals or embeddings in less
                                                        than 16 bytes a thread

All comes from the machine code, see benchmarks/assembler.py, but for the accounts, which benchmarks/accounts.py
computes. An AMD chip is reported, not checked.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import accounts
from benchmarks.accounts import CLOCK, COPY_RATE, MATRIX_RATE
from benchmarks.assembler import AMD, CHIPS, Build, build_all, faults
from benchmarks.figures import markdown
from mica_kernels.contrastive import configs as contrastive
from mica_kernels.launch import ARCHITECTURES, Variant
from mica_kernels.spectral import configs as spectral

RESULTS = Path(__file__).parent / "results"
EVERYTHING = (*ARCHITECTURES, AMD)
Columns = dict[str, Callable[[Build], Any]]


@dataclass(frozen=True)
class Family:
    """What the document of a family of kernels has of its own.

    left_out: types of numbers that are not compiled; amd: constants of the forms that an AMD chip is given, and how
    these are called; heads, identity: what tells a form from the others; figures: what was made of it.
    """

    configs: ModuleType
    file: str
    left_out: tuple[str, ...]
    amd: tuple[dict[str, Any], str]
    head: Callable[[], str]
    heads: tuple[str, ...]
    identity: Callable[[Build], tuple[Any, ...]]
    figures: Columns
    account: Callable[[str, Sequence[Build]], list[str]]


def variants(family: str, arch: str) -> list[Variant]:
    """The forms that are compiled for an architecture; an AMD chip is given sm_80's, with products that it knows."""
    this = FAMILIES[family]
    if arch != AMD:
        found = this.configs.variants(arch)
        return [variant for variant in found if not set(this.left_out) & set(dict(variant.pointers).values())]
    return [
        replace(
            variant, constants=tuple((n, "ieee" if n == "PRECISION" else v) for n, v in variant.constants)
        )
        for variant in variants(family, "sm_80")
        if this.amd[0].items() <= dict(variant.constants).items()
    ]


def document(family: str, builds: Sequence[Build]) -> str:
    """The head and the tables in Markdown."""
    parts = [FAMILIES[family].head()]
    for arch in dict.fromkeys(build.arch for build in builds):
        mine = [build for build in builds if build.arch == arch]
        section = _amd_section if arch == AMD else _nvidia_section
        parts.append("\n".join([f"## {arch}\n", *section(FAMILIES[family], arch, mine), ""]))
    return "\n".join(parts)


def _nvidia_section(family: Family, arch: str, builds: list[Build]) -> list[str]:
    wrong = [build for build in builds if faults(build)]
    limit = CHIPS[arch].program_shared >> 10
    return [
        f"{len(builds)} forms, {len(wrong)} at fault; shared memory up to {limit} KiB a program.\n",
        *[f"- {build.variant}: {'; '.join(faults(build))}" for build in wrong],
        *([""] if wrong else []),
        *_forms(family, family.figures, builds),
        *family.account(arch, builds),
    ]


def _amd_section(family: Family, arch: str, builds: list[Build]) -> list[str]:
    broken = [f"- {build.variant}: {build.error}" for build in builds if build.error]
    return [
        f"Reported only: the launch configurations of sm_80, chosen for another chip, for {family.amd[1]}.\n"
        "AMD's backend has no tf32x3, so products are `ieee`. All loads and stores are counted.\n",
        *broken,
        *([""] if broken else []),
        *_forms(family, AMD_FIGURES, builds),
    ]


def _forms(family: Family, figures: Columns, builds: Iterable[Build]) -> list[str]:
    """A table of a row a form."""
    rows = [
        (*family.identity(build), *(figure(build) for figure in figures.values()))
        for build in builds
        if not build.error
    ]
    return markdown((*family.heads, *figures), rows)


USAGE: Columns = {
    "registers": lambda build: build.registers,
    "spills": lambda build: f"{build.spill_loads}/{build.spill_stores}",
    "local": lambda build: build.local,
    "shared": lambda build: build.shared,
}
DATA_LOADS: Columns = {"loads": lambda build: f"{build.wide_data_loads}/{build.data_loads}"}
DATA_STORES: Columns = {"stores": lambda build: f"{build.wide_data_stores}/{build.data_stores}"}
LOADS: Columns = {"128-bit loads": lambda build: f"{build.wide_loads}/{build.loads}"}
MATRIX: Columns = {
    "matrix instructions": lambda build: " ".join(f"{kind} {count}" for kind, count in build.matrix.items())
}
LOOP: Columns = {"loop": lambda build: build.loop, "programs": lambda build: build.programs}
AMD_FIGURES: Columns = {
    **{("scratch" if name == "local" else name): figure for name, figure in USAGE.items()},
    **LOADS,
    "128-bit stores": DATA_STORES["stores"],
    **MATRIX,
}

SPECTRAL_HEAD = """# What the compiler makes of the kernels

Generated by `python -m benchmarks.static` with Triton {triton} and the assembler that comes with it, without a GPU:
nothing here is a measured time. Every form of a kernel that `mica_kernels/spectral/configs.py` ships for float32 and
bfloat16 is compiled for the architecture and its machine code read. float16 compiles to the same instructions in
another number format, and is left out.

- **run**: channels whose parts of the filter's gradient a program adds. **pairs/step**: the blocks of kernels for long
  clips.
- **registers** a thread. **spills**: loads/stores of spilled registers. **local**: bytes of local memory and stack a
  thread. **shared**: bytes a program.
- **128-bit signal loads**: of the instructions that load x and dy, those that move 16 bytes a thread/all of them; so
  for the stores of y and dx, and for all loads. On the flat layout all must be so, but for the loads of kernels for
  long clips in float32 that the script names, with the reason; near gives no promise.
- **loop**: instructions in the longest loop, which is the one over clips, each inner loop counted once.
- **programs** that a multiprocessor holds, by registers, warps and shared memory.

**The accounts are computed, not measured**: for {clips} clips, {channels} channels in groups of a multiple of {run},
{joints} joints, the most frames of each row and `sparsity="joint"`. float16 is as bfloat16.

- **flop/element**: the products as executed, padding included, for the most and for the fewest frames of the row. With
  tf32x3 every one is three on the chip.
- **reread/element**: bytes of the basis, of the filter and, in the long backward kernel, of the growing partial sums
  that programs fetch again and again, from the caches. The long kernels fetch the basis anew for every clip.
- **partial sums**: what the backward kernel leaves for the second pass. **flop/byte**: of memory traffic alone.
- **floors on an H200**, for sm_90. *Memory*: two or three signals and the partial sums at the {copy:.1f} TB/s of a
  copy. *Matrix*: the products at {matrix:.0f} TFLOP/s in bfloat16, at half of it each of the three of tf32x3. *Issue*:
  the instructions of the loop at one a cycle on each of a multiprocessor's four schedulers, {clock:.2f} GHz, where all
  pairs stay on the chip. A kernel takes at least the largest of them.
"""


def _spectral_head() -> str:
    numbers = {"clips": accounts.CLIPS, "channels": accounts.CHANNELS, "joints": accounts.JOINTS}
    return SPECTRAL_HEAD.format(run=spectral.RUN, **numbers, **_rates())


def _rates() -> dict[str, Any]:
    import triton

    rates = {"copy": COPY_RATE / 1e12, "matrix": MATRIX_RATE / 1e12, "clock": CLOCK / 1e9}
    return {"triton": triton.__version__, **rates}


def frames_of(size: int) -> tuple[int, int]:
    """The fewest and the most frames of a clip that a size is for."""
    place = spectral.SIZES.index(size)
    return (2 * spectral.SIZES[place - 1] + 1 if place else 1), 2 * size


def _spectral_identity(build: Build) -> tuple[Any, ...]:
    variant, constants = build.variant, dict(build.variant.constants)
    if variant.kernel == "reduce":
        fewest, most = frames_of(constants["SIZE"])
        return "reduce", "", f"{fewest}-{most}", "", "", "", f"-/{variant.warps}/{variant.stages}", ""
    long = "STEP" in constants
    fewest, most = frames_of(constants["SPAN" if long else "PAIRS"])
    return (
        variant.kernel,
        variant.dtype,
        f"{fewest}-{most}",
        constants["SPARSITY"],
        constants["LAYOUT"],
        constants.get("RUN", ""),
        f"{constants['COLUMNS']}/{variant.warps}/{variant.stages}",
        f"{constants['PAIRS']}/{constants['STEP']}" if long else "",
    )


def _spectral_account(arch: str, builds: Sequence[Build]) -> list[str]:
    rows = [
        _spectral_row(arch, dtype, size, direction, layout, builds)
        for dtype in ("bfloat16", "float32")
        for size in spectral.SIZES
        for direction in spectral.DIRECTIONS
        for layout in spectral.LAYOUTS
    ]
    heads = (
        "direction", "dtype", "frames", "layout", "flop/element", "reread/element",
        "partial sums, MB", "flop/byte", "memory, µs", "matrix, µs", "issue, µs",
    )  # fmt: skip
    return [f"\n### The account of {arch}\n", *markdown(heads, rows)]


def _spectral_row(
    arch: str, dtype: str, size: int, direction: str, layout: str, builds: Sequence[Build]
) -> tuple[Any, ...]:
    fewest, most = frames_of(size)
    full, short = (
        accounts.account(arch, dtype, size, direction, layout, "joint", frames) for frames in (most, fewest)
    )
    times = ("", "", "")
    if arch == "sm_90":
        rate = MATRIX_RATE / (6 if dtype == "float32" else 1)  # three products at half the rate
        seconds = [full.traffic / COPY_RATE, full.flops * full.elements / rate]
        launch = spectral.launch(arch, dtype, size, direction, layout)
        loop = _loop_of(direction, dtype, size, layout, builds)
        if launch.step is None and loop:
            seconds.append(full.tiles * launch.warps * loop / accounts.ISSUE_RATE)
        times = (*(f"{1e6 * value:.0f}" for value in seconds), "")[:3]
    return (
        direction, dtype, f"{fewest}-{most}", layout, f"{full.flops:.0f} to {short.flops:.0f}", f"{full.rereads:.2f}",
        f"{full.partials / 1e6:.1f}", f"{full.intensity:.0f}", *times,
    )  # fmt: skip


def _loop_of(direction: str, dtype: str, size: int, layout: str, builds: Sequence[Build]) -> int:
    """The length of the loop over clips of a kernel that keeps all pairs on the chip, gate of joints; 0 if unknown."""
    for build in builds:
        constants = dict(build.variant.constants)
        if (build.variant.kernel, build.variant.dtype) != (direction, dtype):
            continue
        if (constants["PAIRS"], constants["LAYOUT"], constants["SPARSITY"]) == (size, layout, "joint"):
            return build.loop
    return 0


CONTRASTIVE_HEAD = """# What the compiler makes of the contrastive kernels

Generated by `python -m benchmarks.static` with Triton {triton} and the assembler that comes with it, without a GPU:
**nothing here is measured**. Every form of a kernel that `mica_kernels/contrastive/configs.py` ships is compiled for
the architecture and its machine code read.

- **positives**, **both**: the form, see `mica_kernels/contrastive/kernels.py`. **tile**: rows x columns x step of the
  width.
- **registers** a thread. **spills**: loads/stores of spilled registers. **local**: bytes of local memory and stack a
  thread. **shared**: bytes a program.
- **128-bit loads**: of the instructions that load embeddings, those that move 16 bytes a thread/all of them; all must
  be so. **128-bit stores**: so for the stores of the block of gradients and one more, of a tile's share in the gradient
  of the scale, which never has 16 bytes. Of stores nothing is promised.
- **outside**: instructions of a warp for a tile outside the loops over the width, each counted once, also those that
  few tiles run, of the positives on a diagonal. In half precision on sm_100 the first step of the width is among them.
- **loop**: instructions in the longest loop: over tiles in `statistics` and `divergence`, each inner loop counted once,
  over the width in the others.
- **programs** that a multiprocessor holds, by registers, warps and shared memory.

**The account of an H200 is computed, not measured**, under sm_90: bfloat16, N = M, D = {width}; `info_nce` symmetric
with its positives on the diagonal, `similarity_kl` with a teacher as wide. Its parts follow one another.

- **Tflop**, **matrix**: the products, at {matrix:.0f} TFLOP/s, the rate of a large product. **issue**: the instructions
  of all warps at one a cycle on each of a multiprocessor's four schedulers, {clock:.2f} GHz; not known of the library.
- **memory**: embeddings once a launch, block and sums, and what is merged, at the {copy:.1f} TB/s of a copy. A block is
  larger than L2, so each product is taken to read it from memory. Stores count by their bytes, however narrow.
- **through L2**: bytes of embeddings that programs fetch, and the rate at which they would have to come to keep up with
  the matrix units; bytes a cycle are of one multiprocessor. What rate L2 gives is not known here, so there is no time.
- **block**: bytes of gradients written and read. **memory beyond the inputs**: at most, forward and backward, but for
  vectors; the gradients of the embeddings are among it.
- **nothing overlapped**: the sum of all times; **all overlapped**: the sum of each part's longest. Both also as a
  multiple of the floor, which is the products at the rate above: 8NMD operations for `info_nce`, 12NMD for
  `similarity_kl`, whose teacher takes another product in either pass. Where a multiprocessor holds one program, few of
  a tile's exponentials can overlap its products. Latencies, the tails of launches and L2 come on top.
"""


def _contrastive_identity(build: Build) -> tuple[Any, ...]:
    variant, constants = build.variant, dict(build.variant.constants)
    return (
        variant.kernel,
        variant.dtype,
        constants.get("POSITIVES", ""),
        {True: "yes", False: "no"}.get(constants.get("BOTH"), ""),
        f"{constants['ROWS']} x {constants['COLUMNS']} x {constants['STEP']}",
        f"{variant.warps}/{variant.stages}",
    )


def _contrastive_account(arch: str, builds: Sequence[Build]) -> list[str]:
    if arch != "sm_90":
        return []
    parts, totals = [], []
    for name, loss in accounts.LOSSES.items():
        for side in accounts.SIDES:
            found = accounts.parts(loss, side, builds)
            parts += [(name, f"{side:,}", *_part_row(part)) for part in found]
            floor = loss.floor(side) / MATRIX_RATE
            forward, backward = accounts.extra_memory(loss, side)
            block = accounts.block_bytes(side)
            totals.append(
                (name, f"{side:,}", f"{block / 1e9:.2f}", f"{2 * block / 1e9:.2f}",
                 f"{forward / 1e6:.0f}", f"{backward / 1e6:.0f}", f"{1e3 * floor:.2f}",
                 *(f"{1e3 * total:.2f} ({total / floor:.2f})" for total in accounts.together(found)))
            )  # fmt: skip
    part_heads = (
        "loss", "N = M", "part", "Tflop", "matrix, ms", "issue, ms", "memory, GB", "memory, ms",
        "through L2, GB", "to keep up, TB/s", "bytes a cycle",
    )  # fmt: skip
    total_heads = (
        "loss", "N = M", "block written, GB", "read, GB", "beyond the inputs forward, MB", "backward, MB",
        "floor, ms", "nothing overlapped, ms (x floor)", "all overlapped, ms (x floor)",
    )  # fmt: skip
    lines = ["\n### The account of an H200: computed, not measured\n", *markdown(part_heads, parts), ""]
    return [*lines, *markdown(total_heads, totals)]


def _part_row(part: accounts.Part) -> tuple[str, ...]:
    matrix, memory, *issue = (f"{1e3 * seconds:.2f}" for seconds in part.seconds)
    cached = ("", "", "")
    if part.cached is not None:
        rate = part.cached / (part.flops / MATRIX_RATE)
        a_cycle = rate / CLOCK / accounts.H200.multiprocessors
        cached = (f"{part.cached / 1e9:.1f}", f"{rate / 1e12:.1f}", f"{a_cycle:.0f}")
    return (
        part.name, f"{part.flops / 1e12:.2f}", matrix, *(issue or [""]), f"{part.memory / 1e9:.2f}", memory, *cached,
    )  # fmt: skip


FAMILIES = {
    "spectral": Family(
        configs=spectral,
        file="static.md",
        left_out=("float16",),
        amd=({"SPARSITY": "joint", "LAYOUT": "flat"}, "the gate of joints on flat signals"),
        head=_spectral_head,
        heads=(
            "kernel", "dtype", "frames", "sparsity", "layout", "run", "columns/warps/stages", "pairs/step",
        ),
        identity=_spectral_identity,
        figures={
            **USAGE,
            "128-bit signal loads": DATA_LOADS["loads"],
            "128-bit signal stores": DATA_STORES["stores"],
            **LOADS,
            **MATRIX,
            **LOOP,
        },
        account=_spectral_account,
    ),
    "contrastive": Family(
        configs=contrastive,
        file="static_contrastive.md",
        left_out=(),
        amd=({}, "all forms"),
        head=lambda: CONTRASTIVE_HEAD.format(width=accounts.WIDTH, **_rates()),
        heads=("kernel", "dtype", "positives", "both", "tile", "warps/stages"),
        identity=_contrastive_identity,
        figures={
            **USAGE,
            "128-bit loads": DATA_LOADS["loads"],
            "128-bit stores": DATA_STORES["stores"],
            **MATRIX,
            "outside": accounts.outside,
            **LOOP,
        },
        account=_contrastive_account,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", action="append", choices=FAMILIES, help="may be repeated; default: all")
    parser.add_argument("--arch", action="append", choices=EVERYTHING, help="may be repeated; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compiling processes")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a form is at fault")
    arguments = parser.parse_args()
    wrong = False
    for family in arguments.family or FAMILIES:
        work = [(a, v) for a in arguments.arch or EVERYTHING for v in variants(family, a)]
        builds = build_all(work, arguments.jobs)
        if arguments.arch:
            print(document(family, builds))
        else:
            RESULTS.mkdir(exist_ok=True)
            path = RESULTS / FAMILIES[family].file
            path.write_text(document(family, builds))
            print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
        for build in builds:
            if build.arch != AMD and faults(build):
                wrong = True
                print(f"{build.arch} {build.variant}: {'; '.join(faults(build))}", file=sys.stderr)
    if arguments.check and wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
