"""Compiles forms of kernels without a GPU and reads the machine code: what benchmarks/static.py makes its tables of.

Registers and memory are told by cuobjdump, instructions by nvdisasm, and the line of kernels.py that a load or store
belongs to by the debug information.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from math import ceil
from multiprocessing import get_context
from typing import Any

import networkx as nx

from mica_kernels.device import INTERPRETER
from mica_kernels.launch import Variant

AMD = "gfx942"


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
MATRIX = re.compile(r"(HMMA|HGMMA|UTC\w*MMA)\b")
RESERVED_SHARED = 1 << 10  # of every program, by the driver

SPECTRAL, CONTRASTIVE = "mica_kernels.spectral", "mica_kernels.contrastive"
DATA = {SPECTRAL: ("signals", "_fold", "_unfold"), CONTRASTIVE: ("embeddings", "_products", "_keep")}
"""What a family's kernels read in bulk, and the functions of its kernels.py that load it and that store in bulk."""


@dataclass(frozen=True)
class Build:
    """What the compiler made of a variant.

    wide is how many instructions move 16 bytes a thread; data instructions are those in the functions of `DATA`. local
    counts the bytes of local memory and stack. length, loop and products are numbers of instructions, each counted
    once: of all, of the longest loop, and of the innermost loops that hold matrix instructions.
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
    data_loads: int = 0
    wide_data_loads: int = 0
    data_stores: int = 0
    wide_data_stores: int = 0
    matrix: dict[str, int] = field(default_factory=dict)
    length: int = 0
    loop: int = 0
    products: int = 0
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
    moved = {"loads": (build.wide_data_loads, build.data_loads)}
    moved["stores"] = (build.wide_data_stores, build.data_stores)
    what = DATA[build.variant.family][0]
    for kind in _wide_kinds(build.variant):
        wide, total = moved[kind]
        if not 0 < wide == total:
            found.append(f"{wide} of {total} {kind} of {what} have 128 bits")
    return found


def _wide_kinds(variant: Variant) -> tuple[str, ...]:
    """What a form has to move 16 bytes a thread at a time."""
    constants = dict(variant.constants)
    if variant.family == CONTRASTIVE:
        return ("loads",)
    if constants.get("LAYOUT") != "flat":
        return ()
    narrow = variant.dtype == "float32" and (variant.kernel, constants.get("SPAN")) in NARROW
    return ("stores",) if narrow else ("loads", "stores")


def build(arch: str, variant: Variant) -> Build:
    """Compile a variant and read what came of it."""
    try:
        compiled = compile_variant(arch, variant)
    except Exception as error:  # Triton and LLVM raise errors of many kinds
        last = str(error).strip().split("\n")[-1]
        return Build(arch, variant, error=f"{type(error).__name__}: {last}")
    return _read_amd(variant, compiled) if arch == AMD else _read_nvidia(arch, variant, compiled)


KINDS = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16", "int32": "*i32"}


def compile_variant(arch: str, variant: Variant) -> Any:
    """Compile as a launch would: specialised on nothing but the alignment of the pointers that it looks at."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = _kernel(variant)
    pointers, constants = dict(variant.pointers), dict(variant.constants)
    signature, values, aligned = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        if parameter.is_constexpr:
            signature[parameter.name] = "constexpr"
            values[(position,)] = constants[parameter.name]
        elif parameter.name in pointers:
            signature[parameter.name] = KINDS[pointers[parameter.name]]
            if not parameter.do_not_specialize:
                aligned[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = parameter.annotation_type or "i32"
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
    flow = _flow(listing)
    loops = list(_loops(flow))
    loads = [i for i in instructions if i.name.startswith(("LDG.", "LDGSTS."))]
    stores = [i for i in instructions if i.name.startswith("STG.")]
    _, load, store = DATA[variant.family]
    data_loads = _within(loads, variant, load)
    data_stores = _within(stores, variant, store)
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
        data_loads=len(data_loads),
        wide_data_loads=_wide(data_loads),
        data_stores=len(data_stores),
        wide_data_stores=_wide(data_stores),
        matrix={kind: kinds[kind] for kind in sorted(kinds) if MATRIX.fullmatch(kind)},
        length=1 + len(nx.descendants(flow, 0)),
        loop=max((len(loop) for loop in loops), default=0),
        products=sum(len(loop) for loop in _innermost(loops, names)),
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


def _flow(listing: str) -> nx.DiGraph:
    """Which instruction may follow which, by their places."""
    labels: dict[str, int] = {}
    jumps: dict[int, str] = {}
    count = 0
    flow = nx.DiGraph()
    for text in listing.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", text):
            labels[label[1]] = count
        elif re.match(r"\s*/\*[0-9a-f]{4,}\*/", text):
            flow.add_node(count)
            # A call of a label within the kernel is a jump: nothing returns to it.
            if target := re.search(r"\b(?:BRA|CALL)\b.*`\((\.L_\w+)\)", text):
                jumps[count] = target[1]
            if not re.search(r"\*/\s+(EXIT|RET|BRA\S*\s+`)", text):
                flow.add_edge(count, count + 1)
            count += 1
    flow.add_edges_from((place, labels[label]) for place, label in jumps.items() if label in labels)
    flow.remove_nodes_from([place for place in flow if place >= count])
    return flow


def _loops(flow: nx.DiGraph, inside: nx.DiGraph | None = None) -> Iterator[set[int]]:
    """The loops and those inside them, as the places of their instructions, wherever the assembler put these."""
    for loop in nx.strongly_connected_components(flow if inside is None else inside):
        if len(loop) > 1:
            yield loop
            entries = [
                place for place in loop if any(before not in loop for before in flow.predecessors(place))
            ]
            rest = loop - {min(entries, default=min(loop))}
            yield from _loops(flow, flow.subgraph(rest).copy())


def _innermost(loops: Sequence[set[int]], names: Sequence[str]) -> list[set[int]]:
    """The loops that hold matrix instructions, and no other loop that does."""
    busy = [loop for loop in loops if any(MATRIX.match(names[place]) for place in loop)]
    return [loop for loop in busy if not any(other < loop for other in busy)]


def _read_amd(variant: Variant, compiled: Any) -> Build:
    """AMD's compiler leaves its account in the assembly; all loads and stores are counted."""
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
        data_stores=count("(global|buffer)_store_.*"),
        wide_data_stores=count("(global|buffer)_store_dwordx4"),
        matrix={"MFMA": mfma} if (mfma := count("v_mfma_.*")) else {},
    )


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


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
