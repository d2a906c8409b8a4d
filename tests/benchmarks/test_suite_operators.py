"""What every operator of the suite has to say of itself: cases, implementations, errors, work."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.operators import LeftOutError, Operator, WrongResultError, compiled, fused, within
from benchmarks.registry import OPERATORS
from benchmarks.results import MODES

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ALL = pytest.mark.parametrize("operator", OPERATORS.values(), ids=lambda operator: operator.name)


def test_a_name_is_that_of_one_case() -> None:
    """Over all operators, as --case goes by the name alone."""
    names = Counter(
        case.name for operator in OPERATORS.values() for case in (*operator.cases, *operator.cpu_cases)
    )
    assert [name for name, count in names.items() if count > 1] == []


@ALL
def test_cases_of_a_device(operator: Operator) -> None:
    for device, cases in ((CUDA, operator.cases), (CPU, operator.cpu_cases)):
        assert operator.chosen(device, quick=False, names=()) == list(cases)
        quick = operator.chosen(device, quick=True, names=())
        assert quick
        assert {case.name for case in quick} <= operator.quick
        assert cases[0] in quick or device is CPU, "the most telling case comes first"


def test_quick_cases_exist() -> None:
    """A set of names may be shared by operators."""
    there = {case.name for operator in OPERATORS.values() for case in (*operator.cases, *operator.cpu_cases)}
    assert set().union(*(operator.quick for operator in OPERATORS.values())) <= there


@ALL
def test_cases_by_name_are_found_on_any_device(operator: Operator) -> None:
    names = [operator.cases[-1].name, operator.cpu_cases[-1].name, "of another operator"]
    for device in (CPU, CUDA):
        chosen = operator.chosen(device, quick=True, names=names)
        assert [case.name for case in chosen] == names[:2]


@ALL
def test_ours_comes_first_and_the_fallback_is_there(operator: Operator) -> None:
    for case in (*operator.cases, *operator.cpu_cases):
        names = list(operator.implementations(case, CPU))
        assert names[0] == "fused"
        assert {operator.fallback, "eager"} <= set(names)


@ALL
def test_work_of_both_passes_is_that_of_each(operator: Operator) -> None:
    for case in operator.cases:
        forward, backward, both = (operator.work(case, mode) for mode in MODES)
        assert both.bytes == forward.bytes + backward.bytes
        assert both.flops == forward.flops + backward.flops
        assert 0 < forward.flops < backward.flops


@pytest.mark.parametrize("name", OPERATORS)
def test_slots_are_random_but_the_same_every_time(
    name: str, tiny: dict[str, tuple[Any, ...]], quickly: None
) -> None:
    for case in tiny[name]:
        first, second = OPERATORS[name].slots(case, CPU)
        again = OPERATORS[name].slots(case, CPU)[0]
        for argument in range(2):
            assert torch.equal(first.arguments[argument], again.arguments[argument])
        assert not torch.equal(first.arguments[0], second.arguments[0])
        assert first.arguments[0].dtype == getattr(torch, case.dtype)
        assert all(leaf.requires_grad for leaf in first.leaves.values())


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_exact_is_in_float64_and_passes_its_own_check(
    name: str, tiny: dict[str, tuple[Any, ...]], quickly: None
) -> None:
    operator = OPERATORS[name]
    for case in tiny[name]:
        exact = operator.exact(case, operator.slots(case, CPU)[0])
        assert {value.dtype for value in exact.values()} == {torch.float64}
        assert set(operator.check(case, exact, exact).values()) == {0.0}


@pytest.mark.parametrize("name", OPERATORS)
def test_nan_is_wrong(name: str, tiny: dict[str, tuple[Any, ...]], quickly: None) -> None:
    operator, case = OPERATORS[name], tiny[name][0]
    exact = operator.exact(case, operator.slots(case, CPU)[0])
    for wrong in exact:
        results = {what: value.clone() for what, value in exact.items()}
        results[wrong][(-1,) * results[wrong].ndim] = torch.nan
        with pytest.raises(WrongResultError, match=rf"^{wrong} is off by nan of its size"):
            operator.check(case, results, exact)


def test_errors_within_limits_come_back() -> None:
    assert within({"y": 0.5, "dx": 0.0}, {"y": 0.5, "dx": 0.1}) == {"y": 0.5, "dx": 0.0}
    with pytest.raises(WrongResultError) as raised:
        within({"y": 0.6, "dx": 0.0, "dw": 1.0}, {"y": 0.5, "dx": 0.1, "dw": 0.5})
    assert str(raised.value) == (
        "y is off by 0.6 of its size, and may be by 0.5; dw is off by 1 of its size, and may be by 0.5"
    )


def test_a_kernel_needs_a_gpu() -> None:
    assert fused(torch.relu, CUDA)() is torch.relu
    with pytest.raises(LeftOutError, match="needs a GPU"):
        fused(torch.relu, CPU)()


def test_compiling_waits_until_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def compile_(function: object, *, dynamic: bool) -> object:
        made.append((function, dynamic))
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    make = compiled(torch.relu)
    assert not made
    assert make() is torch.relu
    assert made == [(torch.relu, False)]


def test_differentiate_names_what_it_gives() -> None:
    x, factor = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(3.0, requires_grad=True)

    def scaled(x: Tensor, *, factor: Tensor) -> Tensor:
        return factor * x

    slot = measure.Slot((x,), {"dx": x, "dfactor": factor}, torch.tensor([1.0, 10.0]), {"factor": factor})
    found = measure.differentiate(scaled, slot)
    assert {name: value.tolist() for name, value in found.items()} == {
        "y": [3.0, 6.0],
        "dx": [3.0, 30.0],
        "dfactor": 21.0,
    }
    assert not found["y"].requires_grad
