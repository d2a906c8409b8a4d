"""The contrastive losses in the suite: what is exact, the check, memory, work and aims; and the losses of others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import contrastive, measure
from benchmarks.operators import LeftOutError, Operator, WrongResultError
from benchmarks.results import MODES, Row
from benchmarks.run import rows

CPU = torch.device("cpu")
NAMES = ("info_nce", "similarity_kl")
CASE = contrastive.Case("any", 40, width=16, dtype="float32")
BY_NAME = {case.name: case for case in (*contrastive.INFO_NCE, *contrastive.SIMILARITY_KL)}


def doubled(slot: measure.Slot) -> measure.Slot:
    """The same in float64."""
    leaves = {name: leaf.detach().double().requires_grad_() for name, leaf in slot.leaves.items()}
    options = {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in slot.options.items()
    }
    return measure.Slot(
        arguments=(leaves["dquery"], leaves["dkey"]),
        leaves=leaves,
        above=slot.above,
        options={**options, "scale": leaves["dscale"]},
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_checked_against_is_exact(
    name: str, tiny: dict[str, tuple[Any, ...]], quickly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By some rows at a time, without autograd, it gives what autograd makes of the whole matrix in float64."""
    monkeypatch.setattr(contrastive, "AT_A_TIME", 1000)
    for case in tiny[name]:
        slot = contrastive.slots(case, CPU)[0]
        make = contrastive.implementations(case, CPU)["chunked"]
        expected = measure.differentiate(make(), doubled(slot))
        exact = contrastive.exact(case, slot)
        assert exact.keys() == expected.keys()
        for what, value in exact.items():
            torch.testing.assert_close(value, expected[what], rtol=1e-9, atol=1e-12, check_dtype=False)


def test_a_wrong_block_is_not_lost_among_right_ones() -> None:
    exact = {"dkey": torch.ones(100 * contrastive.BLOCK, 2, dtype=torch.float64)}
    result = exact["dkey"].clone()
    result[-1] = 0
    with pytest.raises(WrongResultError, match=r"^dkey is off by 0\.06"):
        contrastive.check(CASE, {"dkey": result}, exact)
    result[0] = torch.nan
    with pytest.raises(WrongResultError, match=r"^dkey is off by nan"):
        contrastive.check(CASE, {"dkey": result}, exact)


def test_what_does_not_fit_is_left_out(quickly: None, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = contrastive.estimated_bytes(CASE, "eager")
    assert needed == 16 * CASE.rows**2
    monkeypatch.setattr(contrastive, "memory", lambda device: needed)
    assert callable(contrastive.implementations(CASE, CPU)["eager"]())
    monkeypatch.setattr(contrastive, "memory", lambda device: needed - 1)
    for name, make in contrastive.implementations(CASE, CPU).items():
        if name in ("eager", "open_clip"):
            with pytest.raises(LeftOutError, match="would take some 0 GB of 0"):
                make()
        elif name == "chunked":
            assert callable(make())


def test_an_h200_holds_the_headline_whole_and_nothing_larger() -> None:
    """With 150 GB; tiles fit anywhere."""
    headline, h200 = contrastive.INFO_NCE[0], 150e9
    assert headline.name == "headline"
    for name in ("eager", "compiled"):
        assert contrastive.estimated_bytes(headline, name) < h200
    assert contrastive.estimated_bytes(replace(headline, rows=131_072), "eager") > h200
    for name in ("fused", "chunked"):
        assert contrastive.estimated_bytes(headline, name) == 0


def test_memory_that_a_device_has() -> None:
    assert 1e8 < contrastive.memory(CPU) < 1e15


def test_work_by_hand() -> None:
    """8NMD for both directions of info_nce; extra keys get no gradient, nor does a teacher."""
    product = 2 * 16_384**2 * 512

    def flops(case: contrastive.Case) -> list[int]:
        return [contrastive.work(case, mode).flops for mode in MODES]

    assert flops(BY_NAME["n16384"]) == [product, 3 * product, 4 * product]
    assert flops(BY_NAME["kl-n16384"]) == [2 * product, 4 * product, 6 * product]
    queue = contrastive.Case("queue", 2, queue=3, width=1)
    assert flops(queue) == [8 + 12, 24 + 24, 68]
    # Query and key of two rows and the queue of three read, two gradients written, of two bytes each.
    assert [contrastive.work(queue, mode).bytes for mode in MODES] == [2 * 7, 2 * 7 + 2 * 4, 36]
    kl = contrastive.Case("kl", 3, columns=2, width=5, teacher_width=7, dtype="float32")
    assert [contrastive.work(kl, mode).bytes for mode in MODES] == [4 * 60, 4 * 60 + 4 * 25, 580]


def test_what_is_symmetric() -> None:
    assert contrastive.Case("plain", 4).symmetric
    assert contrastive.Case("labels", 4, groups=2).symmetric
    assert not contrastive.Case("queue", 4, queue=2).symmetric
    assert not contrastive.Case("kl", 4, teacher_width=2).symmetric
    assert contrastive.Case("queue", 4, queue=2).entries == 24


@pytest.fixture
def both(make_row: Callable[..., Row]) -> Callable[..., list[Row]]:
    """Rows of both passes of a case, by implementation: milliseconds and what else is told, or None if it failed."""

    def make(case: str, **found: tuple[float, dict[str, Any]] | None) -> list[Row]:
        made = []
        for name, told in found.items():
            median, changes = told or (None, {"failed": "no memory"})
            made.append(make_row("info_nce", case, name, median=median, **changes))
        return made

    return make


@pytest.mark.parametrize(
    ("share", "gigabytes", "verdicts", "reached"),
    [
        (0.7, 0.9, ["met   ", "met   "], "reached"),
        (0.41, 1.0, ["met   ", "met   "], "not reached"),
        (0.39, 1.1, ["MISSED", "MISSED"], "not reached"),
    ],
)
def test_aims_of_the_headline(
    both: Callable[..., list[Row]], share: float, gigabytes: float, verdicts: list[str], reached: str
) -> None:
    told = {"rate_share": share, "extra_bytes": 1e9 * gigabytes}
    lines = contrastive.aims(both("headline", fused=(1.0, told), eager=None))
    assert [line[:6] for line in lines] == verdicts
    assert lines[0].endswith(f"{share:.2f} of the matrix rate, aim 0.4; 0.625 {reached}")
    assert lines[1].endswith(f"{gigabytes:.2f} GB of extra memory, aim 1")


@pytest.mark.parametrize(("median", "extra", "missed"), [(3.9, 1.0, 0), (4.1, 1.0, 1), (4.1, 2.0, 2)])
def test_aims_beside_eager(both: Callable[..., list[Row]], median: float, extra: float, missed: int) -> None:
    """Not slower than eager, which takes 4 ms, and with an eighth of its memory at most; others do not count."""
    eager, others = (4.0, {"extra_bytes": 9.0}), (1.0, {"extra_bytes": 1.0})
    found = both("n16384", fused=(median, {"extra_bytes": extra}), eager=eager, compiled=others)
    assert sum(line.startswith("MISSED") for line in contrastive.aims(found)) == missed


def test_what_was_not_measured_has_missed_its_aims(both: Callable[..., list[Row]]) -> None:
    failed = [row for name in ("headline", "n16384") for row in both(name, fused=None, eager=None)]
    lines = contrastive.aims(failed)
    assert len(lines) == 4
    assert all(line.startswith("MISSED") and "not measured" in line for line in lines)
    assert contrastive.aims(both("n4096", fused=(1.0, {}))) == []


class Clip:
    """As open_clip's loss is called."""

    def __call__(self, query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
        logits, rows = scale * query @ key.T, torch.arange(len(query))
        return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2


def bank_loss(query: Tensor, key: Tensor, *, scale: Tensor, extra_keys: Tensor, symmetric: bool) -> Tensor:
    """As lightly's with a memory bank: another loss than ours, whose negatives are the extra keys alone."""
    assert not symmetric
    query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    logits = scale * torch.cat([(query * key).sum(1, keepdim=True), query @ extra_keys.T], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long))


def test_losses_of_others_are_called_as_they_want_to_be(
    tiny_suite: dict[str, Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ModuleType("open_clip")
    made.ClipLoss = Clip
    monkeypatch.setitem(sys.modules, "open_clip", made)
    operator = tiny_suite["info_nce"]
    (row,) = rows(operator, operator.cases[0], CPU, ("open_clip",), ("forward",))
    assert row.get("times"), row


def test_another_loss_is_checked_against_what_it_is(tiny_suite: dict[str, Operator]) -> None:
    """It is not refused for being another, and would be, were it taken for ours."""
    operator = replace(tiny_suite["info_nce"], implementations=lambda *_: {"lightly": lambda: bank_loss})
    queue = next(case for case in operator.cases if case.queue)
    (row,) = rows(operator, queue, CPU, modes=("both",))
    assert row.get("times"), row
    (refused,) = rows(replace(operator, other_exact={}), queue, CPU, modes=("both",))
    assert refused["failed"].startswith("wrong, and so not timed: y is off by")


def test_losses_of_others_that_are_not_here_are_left_out(
    tiny_suite: dict[str, Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open_clip", "lightly.loss"):
        monkeypatch.setitem(sys.modules, name, None)
    operator = tiny_suite["info_nce"]
    plain, _, queue, *_ = operator.cases
    for case, name, package in ((plain, "open_clip", "open_clip_torch"), (queue, "lightly", "lightly")):
        for row in rows(operator, case, CPU, (name,)):
            assert row["left_out"] == f"{package} is not installed: pip install '.[peers]'"
            assert "times" not in row
