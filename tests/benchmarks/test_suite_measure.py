"""How the suite measures: memory that is exact, percentiles, how often something is run; no times are judged here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import ceilings, measure
from benchmarks.measure import Mark, Slot

CPU = torch.device("cpu")
FLOATS = 1000
"""Numbers of a tensor, of four bytes each."""


def floats(count: int = FLOATS) -> Tensor:
    return torch.empty(count)


def freed() -> None:
    """Two, of which one goes; then another, which is smaller."""
    first = floats(3 * FLOATS)
    second = floats()
    del first
    third = floats()
    del second, third


def freed_and_larger() -> None:
    """What goes does not count when a larger one comes."""
    first = floats()
    del first
    second = floats(5 * FLOATS)
    del second


@pytest.mark.parametrize(
    ("work", "numbers"),
    [
        (lambda: None, 0),
        (floats, FLOATS),
        (lambda: torch.ones(FLOATS) + torch.ones(FLOATS), 3 * FLOATS),
        (freed, 4 * FLOATS),
        (freed_and_larger, 5 * FLOATS),
    ],
    ids=["nothing", "one", "a sum", "freed", "freed, then larger"],
)
def test_memory_is_exact(work: Callable[[], object], numbers: int) -> None:
    assert measure.allocated(work) == 4 * numbers


def plain(x: Tensor) -> Tensor:
    return x.neg()


def wasteful(x: Tensor) -> Tensor:
    """Two temporaries and their sum are there at a time, and go before the result comes, but for the sum."""
    return (x.neg() + x.exp()).neg()


def slot() -> Slot:
    x = torch.zeros(FLOATS, requires_grad=True)
    return Slot((x,), {"dx": x}, torch.ones(FLOATS))


def test_memory_of_a_function(quickly: None) -> None:
    """Beyond x and dy: y; y and dx; and what is gone before y is there."""
    slots = [slot(), slot()]
    found = measure.measure(plain, slots, CPU)
    assert found["forward"].extra_bytes == 4 * FLOATS
    assert found["both"].extra_bytes == 2 * 4 * FLOATS
    assert found["backward"].extra_bytes is None
    assert measure.measure(wasteful, slots, CPU)["forward"].extra_bytes == 3 * 4 * FLOATS


def test_modes_and_what_a_cpu_has_not() -> None:
    found = measure.measure(plain, [slot(), slot()], CPU)
    assert list(found) == ["forward", "backward", "both"]
    for mode, measured in found.items():
        assert measured.python_us is None
        assert measured.graph_ms is None
        times = measured.times
        assert 0 < times.p20 <= times.median <= times.p80
        assert times.runs >= 3
        assert (times.looped is None) == (mode == "backward")


def test_forward_alone_has_no_graph_of_autograd(quickly: None) -> None:
    """And both passes have, in a number of calls that goes round the slots."""
    seen: list[tuple[bool, int]] = []
    slots = [slot(), slot()]

    def function(x: Tensor) -> Tensor:
        seen.append((torch.is_grad_enabled(), [each.arguments[0] is x for each in slots].index(True)))
        return plain(x)

    measure.measure(function, slots, CPU)
    assert {enabled for enabled, _ in seen} == {True, False}
    assert set(seen) == {(enabled, place) for enabled in (True, False) for place in (0, 1)}


def test_results_are_kept_until_their_slot_comes_round() -> None:
    """Lest the allocator gives out the same memory, which lies in the cache, again and again."""
    run = measure.Run(plain, [slot(), slot()])
    run.forward(0, lambda: None)
    first = run.kept[0]
    run.forward(1, lambda: None)
    assert run.kept[0] is first
    run.both(0, lambda: None)
    y, (dx,) = run.kept[0]
    assert not y.requires_grad
    assert torch.equal(dx, -torch.ones(FLOATS))


def test_marks_lie_between_the_parts() -> None:
    marks: list[str] = []

    def function(x: Tensor) -> Tensor:
        marks.append("call")
        return plain(x)

    run = measure.Run(function, [slot()])
    run.forward(0, lambda: marks.append("|"))
    assert marks == ["|", "call", "|"]
    marks.clear()
    run.both(0, lambda: marks.append("|"))
    assert marks == ["|", "call", "|", "|"]


def test_percentiles() -> None:
    times = measure._summary([11.0, 1.0, 10.0, 2.0, 9.0, 3.0, 8.0, 4.0, 7.0, 5.0, 6.0], 0.5)
    assert (times.p20, times.median, times.p80) == (3.0, 6.0, 9.0)
    assert (times.runs, times.looped) == (11, 0.5)


@pytest.mark.parametrize("each", [0.0, 1e-6, 0.01, 0.09, 0.11, 60.0])
@pytest.mark.parametrize(("fewest", "most"), [(3, 20), (5, 30), (20, 200)])
def test_how_often_something_is_run(each: float, fewest: int, most: int) -> None:
    """What takes long is run three times all the same."""
    count = measure._count(0.05, each, fewest, most)
    assert 3 <= count <= most
    if each <= measure.LONG:
        assert count >= fewest
    if each == 0:
        assert count == most


def test_what_takes_long_is_timed_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "LONG", 0.001)

    def part(_: int, mark: Mark) -> None:
        mark()
        time.sleep(0.002)
        mark()

    times = measure.timed(part, 1, CPU)
    assert times.runs == 3
    assert times.looped is not None
    assert min(times.p20, times.looped) >= 2, "in milliseconds"


def test_slots_go_beyond_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "last_cache_bytes", lambda device: 1000)
    assert [measure.slots_for(size, CPU) for size in (4000, 2000, 1000, 999, 1)] == [2, 2, 4, 5, 1024]


def test_cache_of_this_machine() -> None:
    assert 1 << 16 <= measure.last_cache_bytes(CPU) <= 1 << 32


def test_errors_are_relative() -> None:
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert measure.relative_error(torch.tensor([3.0, 4.5]), exact) == pytest.approx(0.1)


def test_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes read and written, operations of a product, by the seconds that these take."""
    monkeypatch.setitem(ceilings.COPIED, "cpu", 1 << 16)
    monkeypatch.setitem(ceilings.SIDE, "cpu", 64)
    monkeypatch.setattr(measure, "timed", lambda *_: measure.Times(2.0, 1.0, 3.0, 3))
    assert ceilings.copy_rate.__wrapped__(CPU) == pytest.approx(2 * (1 << 16) / 2e-3)
    assert ceilings.matrix_rate.__wrapped__("bfloat16", CPU) == pytest.approx(2 * 64**3 / 2e-3)


def test_rates_of_this_machine_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ceilings.COPIED, "cpu", 1 << 16)
    monkeypatch.setitem(ceilings.SIDE, "cpu", 64)
    assert ceilings.copy_rate.__wrapped__(CPU) > 0
    assert ceilings.matrix_rate.__wrapped__("float32", CPU) > 0


def test_last_cache_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert measure.last_cache_bytes(CPU) == 1 << 25
