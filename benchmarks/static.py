"""What the compiler makes of every shipped kernel, without a GPU: the tables in benchmarks/results/static.md.

    python -m benchmarks.static                     compiles every shipped form and writes the tables
    python -m benchmarks.static --arch sm_90        one architecture only; prints its tables instead
    python -m benchmarks.static --check             as well, and exits with 1 if a form spills, uses local memory, does
                                                    not fit the chip or moves signals in less than 16 bytes a thread

All comes from the machine code: registers and memory from cuobjdump, instructions from nvdisasm, and the line of
kernels.py that a load or store belongs to from the debug information. An AMD chip is reported, not checked.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mica_kernels.device import INTERPRETER
from mica_kernels.launch import Variant
from mica_kernels.spectral import configs

TABLES = Path(__file__).parent / "results" / "static.md"
AMD = "gfx942"
SIGNALS = {"x", "y", "dy", "dx"}


@dataclass(frozen=True)
class Chip:
    """What a multiprocessor offers; shared memory in bytes, for one program and for all of them."""

    program_shared: int
    shared: int
    multiprocessors: int
    registers: int = 65536
    warps: int = 64
    programs: int = 32


CHIPS = {
    "sm_80": Chip(163 << 10, 164 << 10, 108),
    "sm_90": Chip(227 << 10, 228 << 10, 132),
    "sm_100": Chip(227 << 10, 228 << 10, 148),
}
RESERVED_SHARED = 1 << 10  # of every program, by the driver


@dataclass(frozen=True)
class Build:
    """What the compiler made of a variant.

    wide is how many instructions move 16 bytes a thread; signal instructions are those that load x and dy or store
    y and dx. local counts the bytes of local memory and stack.
    """

    arch: str
    variant: Variant
    registers: int = 0
    local: int = 0
    spill_loads: int = 0
    spill_stores: int = 0
    shared: int = 0
    loads: int = 0
    wide_loads: int = 0
    signal_loads: int = 0
    wide_signal_loads: int = 0
    signal_stores: int = 0
    wide_signal_stores: int = 0
    matrix: dict[str, int] = field(default_factory=dict)
    loop: int = 0
    error: str = ""

    @property
    def programs(self) -> int:
        """How many programs a multiprocessor holds, by registers, warps and shared memory."""
        chip = CHIPS[self.arch]
        registers = ceil(self.registers / 8) * 8 * 32 * self.variant.warps
        shared = self.shared + RESERVED_SHARED
        return min(
            chip.registers // registers,
            chip.shared // shared,
            chip.warps // self.variant.warps,
            chip.programs,
        )


NARROW = {("forward_long", 128), ("backward_long", 128), ("forward_long", 256), ("backward_long", 256)}
"""Kernels for float32, and sizes, whose tiles of samples leave a thread less than 16 bytes to load, and so are let off:
their columns, 16 at a time, still lie in whole sectors of memory, and every larger tile that was tried spills."""


def faults(build: Build) -> list[str]:
    """What is wrong with a build, in words."""
    if build.error:
        return [f"does not compile: {build.error}"]
    found = []
    if build.spill_loads or build.spill_stores:
        found.append(f"spills: {build.spill_loads} loads, {build.spill_stores} stores")
    if build.local:
        found.append(f"{build.local} bytes of local memory")
    if build.shared > CHIPS[build.arch].program_shared:
        found.append(f"{build.shared} bytes of shared memory, of {CHIPS[build.arch].program_shared}")
    constants = dict(build.variant.constants)
    if constants.get("LAYOUT") == "flat":
        narrow = (
            dict(build.variant.pointers)["x"] == "float32"
            and (build.variant.kernel, constants.get("SPAN")) in NARROW
        )
        for what, wide, total in (
            ("loads", build.wide_signal_loads, build.signal_loads),
            ("stores", build.wide_signal_stores, build.signal_stores),
        ):
            if not 0 < wide == total and not (narrow and what == "loads"):
                found.append(f"{wide} of {total} {what} of signals have 128 bits")
    return found


def build(arch: str, variant: Variant) -> Build:
    """Compile a variant and read what came of it."""
    try:
        compiled = compile_variant(arch, variant)
    except Exception as error:  # Triton and LLVM raise errors of many kinds
        last = str(error).strip().split("\n")[-1]
        return Build(arch, variant, error=f"{type(error).__name__}: {last}")
    return _read_amd(variant, compiled) if arch == AMD else _read_nvidia(arch, variant, compiled)


def compile_variant(arch: str, variant: Variant) -> Any:
    """Compile as a launch would: specialised on nothing but the alignment of the basis."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = _kernel(variant)
    pointers, constants = dict(variant.pointers), dict(variant.constants)
    kinds = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
    signature, values = {}, {}
    for position, parameter in enumerate(kernel.params):
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            values[(position,)] = constants[parameter.name]
        elif parameter.name in pointers:
            signature[parameter.name] = kinds[pointers[parameter.name]]
        else:
            signature[parameter.name] = parameter.annotation_type or "i32"
    aligned = {(0,): [["tt.divisibility", 16]]} if "basis" in pointers else {}
    target = (
        GPUTarget("hip", arch, 64) if arch == AMD else GPUTarget("cuda", int(arch.removeprefix("sm_")), 32)
    )
    options = {"num_warps": variant.warps, "num_stages": variant.stages}
    return triton.compile(ASTSource(kernel, signature, values, aligned), target=target, options=options)


def _kernel(variant: Variant) -> Any:
    return getattr(import_module(f"{variant.family}.kernels"), variant.kernel)


def _read_nvidia(arch: str, variant: Variant, compiled: Any) -> Build:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run(knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        listing = _run(knobs.nvidia.nvdisasm.path, "-g", "-c", file.name)
    used = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = list(_instructions(listing))
    names = [instruction.name for instruction in instructions]
    loads = [i for i in instructions if i.name.startswith(("LDG.", "LDGSTS."))]
    stores = [i for i in instructions if i.name.startswith("STG.")]
    signal_loads = _within(loads, variant, "_fold")
    signal_stores = _within(stores, variant, "_unfold")
    kinds = Counter(name.split(".")[0] for name in names)
    return Build(
        arch,
        variant,
        registers=used["REG"],
        local=used["STACK"] + used["LOCAL"],
        spill_loads=kinds["LDL"],
        spill_stores=kinds["STL"],
        shared=compiled.metadata.shared,
        loads=len(loads),
        wide_loads=_wide(loads),
        signal_loads=len(signal_loads),
        wide_signal_loads=_wide(signal_loads),
        signal_stores=len(signal_stores),
        wide_signal_stores=_wide(signal_stores),
        matrix={kind: kinds[kind] for kind in sorted(kinds) if re.fullmatch(r"HMMA|HGMMA|UTC\w*MMA", kind)},
        loop=_longest_loop(listing),
    )


@dataclass(frozen=True)
class _Instruction:
    name: str
    line: int  # of kernels.py; 0 where it is of another file


def _instructions(listing: str) -> Iterator[_Instruction]:
    """The instructions of a listing of nvdisasm, without predicates and operands."""
    line = 0
    for text in listing.splitlines():
        if found := re.match(r'\s*//## File "(.*)", line (\d+)', text):
            line = int(found[2]) if found[1].endswith("kernels.py") else 0
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([\w.]+)", text):
            yield _Instruction(found[1], line)


def _within(instructions: Iterable[_Instruction], variant: Variant, function: str) -> list[_Instruction]:
    """Those that come from a function of kernels.py."""
    helper = getattr(import_module(f"{variant.family}.kernels"), function)
    first = helper.starting_line_number
    return [i for i in instructions if first <= i.line < first + len(helper.raw_src)]


def _wide(instructions: Iterable[_Instruction]) -> int:
    return sum(".128" in instruction.name for instruction in instructions)


def _longest_loop(listing: str) -> int:
    """How many instructions lie between a label and the farthest branch back to it."""
    labels: dict[str, int] = {}
    count = longest = 0
    for text in listing.splitlines():
        if found := re.match(r"\s*(\.L_\w+):", text):
            labels[found[1]] = count
        elif re.match(r"\s*/\*[0-9a-f]{4,}\*/", text):
            count += 1
            if (found := re.search(r"\bBRA\b.*`\((\.L_\w+)\)", text)) and found[1] in labels:
                longest = max(longest, count - labels[found[1]])
    return longest


def _read_amd(variant: Variant, compiled: Any) -> Build:
    """AMD's compiler leaves its account in the assembly; loads and stores are counted, signal or not."""
    text = compiled.asm["amdgcn"]

    def value(name: str) -> int:
        return int(re.search(rf"\.{name}:?\s+(\d+)", text)[1])

    kinds = Counter(re.findall(r"^\s+([a-z]\w+)", text, re.MULTILINE))

    def count(pattern: str) -> int:
        return sum(number for name, number in kinds.items() if re.fullmatch(pattern, name))

    return Build(
        AMD,
        variant,
        registers=value("vgpr_count"),
        local=value("private_segment_fixed_size"),
        spill_loads=count("scratch_load_.*"),
        spill_stores=count("scratch_store_.*"),
        shared=compiled.metadata.shared,
        loads=count("(global|buffer)_load_.*"),
        wide_loads=count("(global|buffer)_load_dwordx4"),
        signal_stores=count("(global|buffer)_store_.*"),
        wide_signal_stores=count("(global|buffer)_store_dwordx4"),
        matrix={"MFMA": mfma} if (mfma := count("v_mfma_.*")) else {},
    )


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def variants(arch: str) -> list[Variant]:
    """The shipped forms but for float16, which compiles to those of bfloat16 in another number format.

    An AMD chip is given those of sm_80 for the gate of joints on flat signals, with products that it knows.
    """
    if arch != AMD:
        return [
            variant for variant in configs.variants(arch) if "float16" not in dict(variant.pointers).values()
        ]
    some = {"SPARSITY": "joint", "LAYOUT": "flat"}
    return [
        replace(
            variant, constants=tuple((n, "ieee" if n == "PRECISION" else v) for n, v in variant.constants)
        )
        for variant in variants("sm_80")
        if some.items() <= dict(variant.constants).items()
    ]


def build_all(work: Sequence[tuple[str, Variant]], jobs: int, quiet: bool = False) -> list[Build]:
    """Compile many variants in processes of their own, results in the order of `work`."""
    from tqdm import tqdm

    results: dict[int, Build] = {}
    with _compiler(), ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(build, *item): place for place, item in enumerate(work)}
        for future in tqdm(as_completed(futures), total=len(work), desc="compiling", disable=quiet):
            results[futures[future]] = future.result()
    return [results[place] for place in range(len(work))]


@contextmanager
def _compiler() -> Iterator[None]:
    """Processes started meanwhile have Triton's compiler; the interpreter, which tests turn on, knows no other."""
    before = os.environ.get(INTERPRETER)
    os.environ[INTERPRETER] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[INTERPRETER]
        else:
            os.environ[INTERPRETER] = before


def frames_of(size: int) -> tuple[int, int]:
    """The fewest and the most frames of a clip that a size is for."""
    place = configs.SIZES.index(size)
    return (2 * configs.SIZES[place - 1] + 1 if place else 1), 2 * size


CLIPS, CHANNELS, JOINTS = 512, 64, 25
"""The signals of the account."""

COPY_RATE, MATRIX_RATE, CLOCK = 4.3e12, 790e12, 1.98e9
"""Of an H200: bytes read and written a second by a copy and bfloat16 operations a second of a large matrix product, as
measured for design/frest.md; the boost clock by its data sheet. Products of float32 are counted at half the rate."""


@dataclass(frozen=True)
class Account:
    """What a configuration has to do for the signals of the account, computed from its formulas.

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
    """The byte-and-flop account of a shipped configuration."""
    launch = configs.launch(arch, dtype, size, direction, layout)
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
        analyses, run = (2 if backward else 1), (configs.RUN if layout == "flat" else 1)
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


def document(builds: Sequence[Build]) -> str:
    """The tables in Markdown."""
    import triton

    head = HEAD.format(
        triton=triton.__version__,
        clips=CLIPS,
        channels=CHANNELS,
        joints=JOINTS,
        run=configs.RUN,
        copy=COPY_RATE / 1e12,
        matrix=MATRIX_RATE / 1e12,
        clock=CLOCK / 1e9,
    )
    parts = [head]
    for arch in dict.fromkeys(build.arch for build in builds):
        mine = [build for build in builds if build.arch == arch]
        parts.append(_amd_section(mine) if arch == AMD else _nvidia_section(arch, mine))
    return "\n".join(parts)


def _nvidia_section(arch: str, builds: list[Build]) -> str:
    wrong = [build for build in builds if faults(build)]
    rows = [
        (
            *_identity(build),
            build.registers,
            f"{build.spill_loads}/{build.spill_stores}",
            build.local,
            build.shared,
            f"{build.wide_signal_loads}/{build.signal_loads}",
            f"{build.wide_signal_stores}/{build.signal_stores}",
            f"{build.wide_loads}/{build.loads}",
            _matrix(build),
            build.loop,
            build.programs,
        )
        for build in builds
        if not build.error
    ]
    heads = (
        "registers", "spills", "local", "shared", "128-bit signal loads", "128-bit signal stores",
        "128-bit loads", "matrix instructions", "loop", "programs",
    )  # fmt: skip
    limit = CHIPS[arch].program_shared >> 10
    lines = [
        f"## {arch}\n",
        f"{len(builds)} forms, {len(wrong)} at fault; shared memory up to {limit} KiB a program.\n",
        *[f"- {build.variant}: {'; '.join(faults(build))}" for build in wrong],
        *([""] if wrong else []),
        *_table((*IDENTITY, *heads), rows),
        f"\n### The account of {arch}\n",
        *_account_table(arch, builds),
        "",
    ]
    return "\n".join(lines)


def _amd_section(builds: list[Build]) -> str:
    rows = [
        (
            *_identity(build),
            build.registers,
            f"{build.spill_loads}/{build.spill_stores}",
            build.local,
            build.shared,
            f"{build.wide_loads}/{build.loads}",
            f"{build.wide_signal_stores}/{build.signal_stores}",
            _matrix(build),
        )
        for build in builds
        if not build.error
    ]
    broken = [f"- {build.variant}: {build.error}" for build in builds if build.error]
    heads = (
        "registers", "spills", "scratch", "shared", "128-bit loads", "128-bit stores", "matrix instructions",
    )  # fmt: skip
    lines = [
        f"## {AMD}\n",
        "Reported only: the launch configurations of sm_80, chosen for another chip. AMD's backend has no tf32x3, so "
        "products are `ieee`. All loads and stores are counted, those of signals and others.\n",
        *broken,
        *([""] if broken else []),
        *_table((*IDENTITY, *heads), rows),
        "",
    ]
    return "\n".join(lines)


IDENTITY = ("kernel", "dtype", "frames", "sparsity", "layout", "run", "columns/warps/stages", "pairs/step")


def _identity(build: Build) -> tuple[Any, ...]:
    """What tells a variant from the others."""
    variant, constants = build.variant, dict(build.variant.constants)
    if variant.kernel == "reduce":
        fewest, most = frames_of(constants["SIZE"])
        return "reduce", "", f"{fewest}-{most}", "", "", "", f"-/{variant.warps}/{variant.stages}", ""
    long = "STEP" in constants
    fewest, most = frames_of(constants["SPAN" if long else "PAIRS"])
    return (
        variant.kernel,
        dict(variant.pointers)["x"],
        f"{fewest}-{most}",
        constants["SPARSITY"],
        constants["LAYOUT"],
        constants.get("RUN", ""),
        f"{constants['COLUMNS']}/{variant.warps}/{variant.stages}",
        f"{constants['PAIRS']}/{constants['STEP']}" if long else "",
    )


def _matrix(build: Build) -> str:
    return " ".join(f"{kind} {count}" for kind, count in build.matrix.items())


def _account_table(arch: str, builds: list[Build]) -> list[str]:
    rows = []
    for dtype in ("bfloat16", "float32"):
        for size in configs.SIZES:
            for direction in configs.DIRECTIONS:
                for layout in configs.LAYOUTS:
                    rows.append(_account_row(arch, dtype, size, direction, layout, builds))
    heads = (
        "direction", "dtype", "frames", "layout", "flop/element", "reread/element",
        "partial sums, MB", "flop/byte", "memory, µs", "matrix, µs", "issue, µs",
    )  # fmt: skip
    return _table(heads, rows)


def _account_row(
    arch: str, dtype: str, size: int, direction: str, layout: str, builds: list[Build]
) -> tuple[Any, ...]:
    fewest, most = frames_of(size)
    full, short = (
        account(arch, dtype, size, direction, layout, "joint", frames) for frames in (most, fewest)
    )
    times = ("", "", "")
    if arch == "sm_90":
        rate = MATRIX_RATE / (6 if dtype == "float32" else 1)  # three products at half the rate
        seconds = [full.traffic / COPY_RATE, full.flops * full.elements / rate]
        launch = configs.launch(arch, dtype, size, direction, layout)
        loop = _loop_of(direction, dtype, size, layout, builds)
        if launch.step is None and loop:
            issued = full.tiles * launch.warps * loop
            seconds.append(issued / (4 * CHIPS[arch].multiprocessors * CLOCK))
        times = (*(f"{1e6 * value:.0f}" for value in seconds), "")[:3]
    return (
        direction, dtype, f"{fewest}-{most}", layout, f"{full.flops:.0f} to {short.flops:.0f}", f"{full.rereads:.2f}",
        f"{full.partials / 1e6:.1f}", f"{full.intensity:.0f}", *times,
    )  # fmt: skip


def _loop_of(direction: str, dtype: str, size: int, layout: str, builds: list[Build]) -> int:
    """The length of the loop over clips of a kernel that keeps all pairs on the chip, gate of joints; 0 if unknown."""
    for build in builds:
        constants = dict(build.variant.constants)
        if (build.variant.kernel, dict(build.variant.pointers).get("x")) != (direction, dtype):
            continue
        if (constants["PAIRS"], constants["LAYOUT"], constants["SPARSITY"]) == (size, layout, "joint"):
            return build.loop
    return 0


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows),
    ]


HEAD = """# What the compiler makes of the kernels

Generated by `python -m benchmarks.static` with Triton {triton} and the assembler that comes with it, without a GPU:
nothing here is a measured time. Every form of a kernel that `mica_kernels/spectral/configs.py` ships is compiled for
the architecture and its machine code read.

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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = (*configs.ARCHITECTURES, AMD)
    parser.add_argument("--arch", action="append", choices=everything, help="may be repeated; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compiling processes")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a form is at fault")
    arguments = parser.parse_args()
    archs = arguments.arch or everything
    builds = build_all([(arch, variant) for arch in archs for variant in variants(arch)], arguments.jobs)
    if arguments.arch:
        print(document(builds))
    else:
        TABLES.parent.mkdir(exist_ok=True)
        TABLES.write_text(document(builds))
        print(f"wrote {TABLES.relative_to(Path.cwd()) if TABLES.is_relative_to(Path.cwd()) else TABLES}")
    wrong = [build for build in builds if build.arch != AMD and faults(build)]
    for build in wrong:
        print(f"{build.arch} {build.variant}: {'; '.join(faults(build))}", file=sys.stderr)
    if arguments.check and wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
