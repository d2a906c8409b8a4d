"""The compiler lane: what Triton and NVIDIA's assembler make of the shipped kernels, on any machine.

For every number of frames and direction the heaviest form on the flat layout is compiled for sm_90, in float32 and
bfloat16; float16 differs from the latter in the types of its instructions alone. For sm_80 and sm_100 some of these,
and of all other forms a fixed sample: more than that takes too long for every day.
`python -m benchmarks.static --check` asks the same of all of them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import product

import pytest

from benchmarks import static
from benchmarks.static import Build, faults
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
AMD = (static.AMD, static.variants(static.AMD)[0])


@pytest.fixture(scope="module")
def builds() -> dict[tuple[str, Variant], Build]:
    """All that these tests compile, in processes that the interpreter is not turned on in."""
    work = [*HEAVIEST, *OTHERS, ("sm_90", SPILLING), ("sm_90", NARROW), ("sm_90", BROKEN), AMD]
    jobs = min(2, len(os.sched_getaffinity(0)))
    return dict(zip(work, static.build_all(work, jobs, quiet=True), strict=True))


@pytest.mark.parametrize("item", [*HEAVIEST, *OTHERS], ids=lambda item: f"{item[0]} {item[1]}")
def test_shipped_form_is_sound(builds: dict[tuple[str, Variant], Build], item: tuple[str, Variant]) -> None:
    """No spills, no local memory, shared memory within the chip's, and on the flat layout all signals in 16 bytes."""
    assert not faults(builds[item])
    assert builds[item].registers > 0
    if item[1].kernel != "reduce":
        assert builds[item].matrix
        assert builds[item].signal_loads


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
    text = static.document(list(builds.values()))
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith(" |")
    for arch in (*ARCHITECTURES, static.AMD):
        section = text.split(f"## {arch}\n")[1].split("\n## ")[0].split("\n### ")[0]
        rows = [
            line for line in section.splitlines() if line.startswith(("| forward", "| backward", "| reduce"))
        ]
        assert len(rows) == sum(item[0] == arch and not build.error for item, build in builds.items())


def test_loop_is_measured_to_the_farthest_branch_back() -> None:
    listing = """
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/                   IADD3 R1, R1, 0x1, RZ ;
.L_x_0:
        /*0020*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/               @P0 BRA `(.L_x_0) ;
        /*0040*/              @!P1 BRA `(.L_x_1) ;
        /*0050*/                   EXIT ;
"""
    assert static._longest_loop(listing) == 4
    assert [instruction.name for instruction in static._instructions(listing)][2] == "LDG.E.128"


def test_account_of_the_headline() -> None:
    """T = 64 in bfloat16: two halves of T/2 by T/2 there and back make 2T flops an element, three of them 3T."""
    elements = 512 * 64 * 25 * 64
    forward = static.account("sm_90", "bfloat16", 32, "forward", "flat", "joint", 64)
    assert (forward.elements, forward.flops) == (elements, 128)
    assert forward.traffic == 4 * elements
    assert forward.intensity == 32
    backward = static.account("sm_90", "bfloat16", 32, "backward", "flat", "joint", 64)
    assert backward.flops == 192
    assert backward.traffic == 6 * elements + 2 * backward.partials


def test_account_counts_padding() -> None:
    """T = 33 takes a basis for 64; T = 257 two blocks and a bit of pairs and samples."""
    short = static.account("sm_90", "bfloat16", 32, "forward", "flat", "joint", 33)
    assert short.flops == pytest.approx(128 * 64 / 33)
    launch = configs.launch("sm_90", "bfloat16", 256, "forward", "flat")
    pairs = -(-129 // launch.pairs) * launch.pairs
    samples = -(-129 // launch.step) * launch.step
    long = static.account("sm_90", "bfloat16", 256, "forward", "flat", "joint", 257)
    assert long.flops == pytest.approx(4 * pairs * (samples + 256) / 257)
