"""The compiler lane: what Triton and NVIDIA's assembler make of the shipped kernels, on any machine.

For every number of frames and direction the heaviest form on the flat layout is compiled for sm_90, in float32 and
bfloat16; float16 differs from the latter in the types of its instructions alone. For sm_80 and sm_100 some of these,
and of all other forms a fixed sample: more than that takes too long for every day. Of the contrastive losses those that
need the most registers are compiled for every architecture.
`python -m benchmarks.static --check` asks the same of all of them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from benchmarks import accounts, assembler, static
from benchmarks.assembler import Build, faults
from mica_kernels.contrastive import configs as contrastive
from mica_kernels.device import triton_installed
from mica_kernels.launch import ARCHITECTURES, Launch, Variant
from mica_kernels.spectral import configs

pytestmark = pytest.mark.skipif(
    not triton_installed(), reason="Triton, which compiles the kernels, is not installed"
)

SOME = {"bfloat16": (32, 64), "float32": (32, 256)}
"""What is compiled for architectures but sm_90."""

SAMPLED = 100
"""Of the forms that are not the heaviest, one in so many is compiled."""


def heaviest(arch: str, dtype: str, size: int, direction: str) -> Variant:
    """Bins take the most registers; but kernels for long clips go through the pairs twice for the gate of a joint."""
    launch = configs.launch(arch, dtype, size, direction, "flat")
    sparsity = "bin" if launch.step is None else "joint"
    return configs.variant(launch, dtype, size, direction, sparsity, "flat", configs.RUN, "tf32x3")


HEAVIEST = [
    (arch, heaviest(arch, dtype, size, direction))
    for arch, dtype in product(ARCHITECTURES, ("bfloat16", "float32"))
    for size in (configs.SIZES if arch == "sm_90" else SOME[dtype])
    for direction in configs.DIRECTIONS
]
OTHERS = [
    item
    for item in ((arch, variant) for arch in ARCHITECTURES for variant in configs.variants(arch))
    if item not in HEAVIEST
][::SAMPLED]
SPILLING = configs.variant(
    Launch(128, 4, 1, 1), "float32", 32, "backward", "bin", "flat", configs.RUN, "tf32x3"
)
NARROW = configs.variant(Launch(16, 8, 1, 1), "float32", 16, "forward", "none", "flat", configs.RUN, "tf32x3")
BROKEN = replace(NARROW, kernel="sideways")
AMD = (static.AMD, static.variants("spectral", static.AMD)[0])


def embedding_form(arch: str, dtype: str, kernel: str, *form: str | bool) -> tuple[str, Variant]:
    launch = contrastive.launch(arch, dtype, kernel)
    return arch, contrastive.variant(launch, dtype, kernel, "tf32x3", *form)


CONTRASTIVE = [
    *(
        embedding_form(arch, dtype, "statistics", "diagonal", True)
        for arch, dtype in product(ARCHITECTURES, ("bfloat16", "float32"))
    ),
    embedding_form("sm_90", "float32", "divergence"),
    embedding_form("sm_80", "bfloat16", "divergence_gradient"),
]


@pytest.fixture(scope="module")
def builds() -> dict[tuple[str, Variant], Build]:
    """All that these tests compile, in processes that the interpreter is not turned on in."""
    work = [*HEAVIEST, *OTHERS, *CONTRASTIVE, ("sm_90", SPILLING), ("sm_90", NARROW), ("sm_90", BROKEN), AMD]
    jobs = min(2, len(os.sched_getaffinity(0)))
    return dict(zip(work, assembler.build_all(work, jobs, quiet=True), strict=True))


@pytest.mark.parametrize("item", [*HEAVIEST, *OTHERS, *CONTRASTIVE], ids=lambda item: f"{item[0]} {item[1]}")
def test_shipped_form_is_sound(builds: dict[tuple[str, Variant], Build], item: tuple[str, Variant]) -> None:
    """No spills, no local memory, shared memory within the chip's; embeddings, and flat signals, in 16 bytes each."""
    assert not faults(builds[item])
    assert builds[item].registers > 0
    if item[1].kernel != "reduce":
        assert builds[item].matrix
        assert builds[item].data_loads


def test_spills_are_seen(builds: dict[tuple[str, Variant], Build]) -> None:
    found = faults(builds["sm_90", SPILLING])
    assert any("spills" in fault for fault in found)
    assert any("local memory" in fault for fault in found)


def test_narrow_loads_are_seen(builds: dict[tuple[str, Variant], Build]) -> None:
    """A tile so small that a thread is left with less than 16 bytes of it."""
    assert any("loads of signals" in fault for fault in faults(builds["sm_90", NARROW]))


def test_shared_memory_beyond_the_chip_is_seen(builds: dict[tuple[str, Variant], Build]) -> None:
    sound = next(build for item, build in builds.items() if item[0] == "sm_80" and not faults(build))
    assert faults(replace(sound, shared=(163 << 10) + 1)) == ["166913 bytes of shared memory, of 166912"]
    assert not faults(replace(sound, shared=163 << 10))


def test_what_does_not_compile_is_seen(builds: dict[tuple[str, Variant], Build]) -> None:
    assert faults(builds["sm_90", BROKEN]) == [
        "does not compile: AttributeError: module 'mica_kernels.spectral.kernels' has no attribute 'sideways'"
    ]


def test_amd_is_reported(builds: dict[tuple[str, Variant], Build]) -> None:
    assert not builds[AMD].error
    assert builds[AMD].matrix["MFMA"] > 0


def test_every_build_has_its_row(builds: dict[tuple[str, Variant], Build]) -> None:
    ours = [build for item, build in builds.items() if item[1].family == "mica_kernels.spectral"]
    text = static.document("spectral", ours)
    for arch in (*ARCHITECTURES, static.AMD):
        sound = [build for build in ours if build.arch == arch and not build.error]
        assert len(rows_of(text, arch)) == len(sound)


def rows_of(text: str, arch: str) -> list[list[str]]:
    """The rows of the forms of an architecture, all of them as wide as their head."""
    section = text.split(f"## {arch}\n")[1].split("\n## ")[0].split("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [line.strip("|").split("|") for line in lines]
    assert {len(row) for row in cells} == {len(cells[0])}
    return [[cell.strip() for cell in row] for row in cells[2:]]


def made(item: tuple[str, Variant], **figures: Any) -> Build:
    """A build without fault that no compiler made."""
    sound = {
        "registers": 200, "shared": 98304, "loads": 30, "wide_loads": 24, "data_loads": 24, "wide_data_loads": 24,
        "data_stores": 65, "matrix": {"HGMMA": 4}, "length": 2000, "loop": 1500, "products": 100,
    }  # fmt: skip
    return Build(*item, **{**sound, **figures})


SWEEP = embedding_form("sm_90", "bfloat16", "statistics", "diagonal", True)
TILES = embedding_form("sm_90", "bfloat16", "gradient", "diagonal", True)


def test_faults_of_contrastive_forms_are_named() -> None:
    assert not faults(made(SWEEP))
    assert not faults(made(TILES, data_stores=65, wide_data_stores=0)), "nothing is promised of stores"
    assert faults(made(SWEEP, wide_data_loads=23)) == ["23 of 24 loads of embeddings have 128 bits"]
    assert faults(made(SWEEP, data_loads=0, wide_data_loads=0)) == [
        "0 of 0 loads of embeddings have 128 bits"
    ]
    assert faults(made(SWEEP, spill_loads=3, spill_stores=2, local=8, shared=1 << 20)) == [
        "spills: 3 loads, 2 stores",
        "8 bytes of local memory",
        "1048576 bytes of shared memory, of 232448",
    ]


def test_contrastive_tables() -> None:
    """Of hand-made builds: a row each, faults above the rows, and an account for sm_90 alone."""
    broken = Build(*embedding_form("sm_80", "float16", "divergence"), error="ValueError: no")
    spilling = made(embedding_form("sm_80", "float32", "divergence"), spill_loads=1)
    amd = made((static.AMD, SWEEP[1]))
    text = static.document("contrastive", [made(SWEEP), made(TILES), spilling, broken, amd])
    sweep, tiles = rows_of(text, "sm_90")
    assert sweep == [
        "statistics", "bfloat16", "diagonal", "yes", "128 x 128 x 64", "8/3", "200", "0/0", "0", "98304",
        "24/24", "0/65", "HGMMA 4", "1400", "1500", "1",
    ]  # fmt: skip
    assert tiles[-3] == "1900"
    assert len(rows_of(text, "sm_80")) == 1
    assert "2 forms, 2 at fault" in text
    assert f"- {spilling.variant}: spills: 1 loads, 0 stores\n" in text
    assert f"- {broken.variant}: does not compile: ValueError: no\n" in text
    assert len(rows_of(text, static.AMD)) == 1
    assert text.count("### The account") == 1
    # 512 x 512 tiles of eight warps, of 1400 instructions and eight steps of a hundred; for similarity_kl not known.
    assert (
        f"| info_nce | 65,536 | forward | 4.40 | 5.57 | {1e3 * 2**21 * 2200 / accounts.ISSUE_RATE:.2f} |"
        in text
    )
    assert "| similarity_kl | 65,536 | forward | 8.80 | 11.13 |  |" in text


def test_every_shipped_form_is_compiled() -> None:
    """But float16 of the spectral gate, whose forms are those of bfloat16."""
    for arch in ARCHITECTURES:
        assert static.variants("contrastive", arch) == list(contrastive.variants(arch))
        assert {variant.dtype for variant in static.variants("spectral", arch)} == {
            "float32",
            "bfloat16",
            None,
        }
    assert all(dict(v.constants)["PRECISION"] == "ieee" for v in static.variants("contrastive", static.AMD))


LISTING = """
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/                   IADD3 R1, R1, 0x1, RZ ;
.L_x_0:
        /*0020*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   HMMA.16816.F32 R8, R4, R6, R8 ;
        /*0040*/               @P0 BRA `(.L_x_0) ;
        /*0050*/                   BRA.U UP1, `(.L_x_3) ;
.L_x_4:
        /*0060*/              @!P1 CALL.REL.NOINC `(.L_x_2) ;
        /*0070*/                   BRA `(.L_x_1) ;
.L_x_2:
        /*0080*/                   EXIT ;
.L_x_3:
        /*0090*/                   NOP ;
        /*00a0*/                   BRA `(.L_x_4) ;
.L_x_5:
        /*00b0*/                   BRA `(.L_x_5) ;
"""


def test_loops_are_found() -> None:
    """One inside another, with a piece that lies beyond the end, and an exit that looks like a call."""
    flow = assembler._flow(LISTING)
    names = [instruction.name for instruction in assembler._instructions(LISTING)]
    assert names[2] == "LDG.E.128"
    loops = sorted(assembler._loops(flow), key=len)
    assert loops == [{2, 3, 4}, {1, 2, 3, 4, 5, 6, 7, 9, 10}]
    assert assembler._innermost(loops, names) == [{2, 3, 4}]


def test_account_of_the_headline() -> None:
    """T = 64 in bfloat16: two halves of T/2 by T/2 there and back make 2T flops an element, three of them 3T."""
    elements = 512 * 64 * 25 * 64
    forward = accounts.account("sm_90", "bfloat16", 32, "forward", "flat", "joint", 64)
    assert (forward.elements, forward.flops) == (elements, 128)
    assert forward.traffic == 4 * elements
    assert forward.intensity == 32
    backward = accounts.account("sm_90", "bfloat16", 32, "backward", "flat", "joint", 64)
    assert backward.flops == 192
    assert backward.traffic == 6 * elements + 2 * backward.partials


def test_account_counts_padding() -> None:
    """T = 33 takes a basis for 64; T = 257 two blocks and a bit of pairs and samples."""
    short = accounts.account("sm_90", "bfloat16", 32, "forward", "flat", "joint", 33)
    assert short.flops == pytest.approx(128 * 64 / 33)
    launch = configs.launch("sm_90", "bfloat16", 256, "forward", "flat")
    pairs = -(-129 // launch.pairs) * launch.pairs
    samples = -(-129 // launch.step) * launch.step
    long = accounts.account("sm_90", "bfloat16", 256, "forward", "flat", "joint", 257)
    assert long.flops == pytest.approx(4 * pairs * (samples + 256) / 257)


def test_account_of_the_contrastive_losses() -> None:
    """Two products of N x M x D and two gradients; a teacher adds one each way."""
    side, width = 65536, 512
    for name, products in (("info_nce", 8), ("similarity_kl", 12)):
        loss = accounts.LOSSES[name]
        found = accounts.parts(loss, side)
        assert sum(part.flops for part in found) == products * side * side * width == loss.floor(side)
        apart, overlapped = accounts.together(found)
        assert overlapped == pytest.approx(loss.floor(side) / accounts.MATRIX_RATE), (
            "the products take longest"
        )
        assert apart > overlapped
    forward, tiles, products = accounts.parts(accounts.LOSSES["info_nce"], side)
    assert forward.cached == tiles.cached == 512 * 512 * 256 * width * 2
    assert tiles.memory > accounts.block_bytes(side) == 2 * side * side
    assert products.memory > 2 * accounts.block_bytes(side)
    assert forward.issued is None


def test_memory_of_the_contrastive_losses() -> None:
    """A block of 128 MB and the gradients in float32, whatever N is; two results a column and stripe, and a copy."""
    forward, backward = accounts.extra_memory(accounts.LOSSES["info_nce"], 16384)
    assert forward == 3 * 64 * 16384 * 4
    assert backward == 2**27 + 64 * 64 * 128 * 4 + 2 * 16384 * 512 * 4
