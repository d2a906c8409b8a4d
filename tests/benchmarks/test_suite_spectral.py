"""The spectral gate in the suite: circulant matrices, the check, work and aims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from benchmarks import spectral
from benchmarks.operators import WrongResultError
from benchmarks.results import MODES, Row
from mica_kernels.spectral import reference

CPU = torch.device("cpu")


@pytest.mark.parametrize("frames", [1, 2, 9, 16])
def test_circulant_matrices_do_what_the_filter_does(frames: int, quickly: None) -> None:
    case = spectral.Case("any", (2, 8, frames, 5), "none", dtype="float64")
    x, weight, threshold = spectral.slots(case, CPU)[0].arguments
    assert threshold is None
    weight = weight.double()
    torch.testing.assert_close(
        spectral.circulant(x, weight), reference.spectral_gate(x, weight, None, "joint")
    )


def test_the_headline_is_first() -> None:
    assert spectral.CASES[0].name == "headline-joint"
    assert spectral.CASES[0].with_compiled


@pytest.mark.parametrize(("sparsity", "leaves"), [("joint", 3), ("bin", 3), ("none", 2)])
def test_signals_and_a_gate(sparsity: str, leaves: int, quickly: None) -> None:
    case = spectral.Case("any", (2, 8, 16, 5), sparsity, dtype="float32")
    slot = spectral.slots(case, CPU)[0]
    assert list(slot.leaves) == ["dx", "dweight", "dthreshold"][:leaves]
    assert slot.arguments[0].is_contiguous(memory_format=torch.channels_last)
    contiguous = spectral.slots(replace(case, layout="contiguous"), CPU)[0]
    assert contiguous.arguments[0].is_contiguous()
    assert torch.equal(slot.arguments[0], contiguous.arguments[0])
    if sparsity != "none":
        kept = spectral.eager(case)(*slot.arguments).count_nonzero() / case.numel
        assert kept > 0, "the gate must not take off everything"
        opened = spectral.eager(case)(slot.arguments[0], slot.arguments[1], None)
        assert not torch.equal(spectral.eager(case)(*slot.arguments), opened), "nor nothing"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_clip_is_not_lost_among_right_ones(dtype: str) -> None:
    """One that was not written, the last of 512, of which the size of the whole gradient tells nothing."""
    case = spectral.Case("many", (512, 4, 4, 2), dtype=dtype)
    exact = {"dx": torch.ones(case.shape, dtype=torch.float64)}
    result = exact["dx"].clone()
    result[-1] = 0
    with pytest.raises(WrongResultError, match=r"^dx is off by"):
        spectral.check(case, {"dx": result}, exact)


@pytest.mark.parametrize("name", ["dweight", "dthreshold"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_joint_is_not_lost_among_right_ones(dtype: str, name: str) -> None:
    """One of a hundred that was not written: of a parameter's gradient, the part of one group's joint."""
    case = spectral.Case("many", (4, 4, 64, 25), dtype=dtype)
    shape = (4, 33, 25, 2) if name == "dweight" else (4, 25)
    exact = {name: torch.ones(shape, dtype=torch.float64)}
    result = exact[name].clone()
    result[(3, slice(None), 24) if name == "dweight" else (3, 24)] = 0
    with pytest.raises(WrongResultError, match=rf"^{name} is off by"):
        spectral.check(case, {name: result}, exact)


def test_work_by_hand() -> None:
    """Signals of two bytes; for every clip, channel and joint products with a T x T matrix that is folded once."""
    case = spectral.Case("any", (2, 3, 4, 5))
    assert [spectral.work(case, mode).bytes for mode in MODES] == [2 * 240, 3 * 240, 5 * 240]
    folded = 4 * 4 * (2 * 3 * 5)
    assert [spectral.work(case, mode).flops for mode in MODES] == [2 * folded, 3 * folded, 5 * folded]
    assert spectral.work(replace(case, dtype="float32"), "forward").bytes == 2 * 480


@pytest.fixture
def headline(make_row: Callable[..., Row]) -> Callable[[float, float], list[Row]]:
    """Rows of the headline beside a copy of 1 ms: the kernel's milliseconds in each pass, and eager's in both."""

    def make(forward: float, backward: float, eager: float = 100.0) -> list[Row]:
        return [
            make_row(implementation="copy", mode="forward", median=1.0),
            make_row(mode="forward", median=forward),
            make_row(mode="backward", median=backward),
            make_row(mode="both", median=forward + backward),
            make_row(implementation="eager", mode="both", median=eager),
            make_row(implementation="compiled", mode="both", median=None, failed="no compiler"),
        ]

    return make


def test_aims_that_are_met(headline: Callable[..., list[Row]]) -> None:
    assert spectral.aims(headline(1.25, 1.9)) == [
        "met    spectral_gate headline-joint: forward 1.25 copies, aim 1.25",
        "met    spectral_gate headline-joint: backward 1.90 copies, aim 1.9",
    ]


def test_aims_that_are_missed(headline: Callable[..., list[Row]]) -> None:
    """Too many copies forward; and three times as fast as eager, where four were aimed for."""
    assert spectral.aims(headline(1.26, 1.74, eager=9.0)) == [
        "MISSED spectral_gate headline-joint: forward 1.26 copies, aim 1.25",
        "met    spectral_gate headline-joint: backward 1.74 copies, aim 1.9",
        "MISSED spectral_gate headline-joint: 3.00 times the best other on the GPU, aim 4",
        "MISSED spectral_gate headline-joint: 3.00 times the best other in a loop of calls, aim 4",
    ]


def test_small_cases_are_to_be_no_slower(make_row: Callable[..., Row]) -> None:
    def rows(fused: float) -> list[Row]:
        names = {"fused": fused, "eager": 1.0}
        return [make_row(case="micro-joint", implementation=name, median=names[name]) for name in names]

    assert spectral.aims(rows(0.9)) == []
    assert [line[:6] for line in spectral.aims(rows(1.1))] == ["MISSED"] * 2


def test_no_aims_for_other_machines(make_row: Callable[..., Row]) -> None:
    assert spectral.aims([make_row(case="cpu-joint", implementation="eager")]) == []
    assert spectral.aims([]) == []
