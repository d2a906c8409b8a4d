"""What is wrong is refused before it is timed: every operator, every implementation, every kind of wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import contrastive, measure, spectral
from benchmarks.__main__ import main
from benchmarks.measure import Function, Measured, Times
from benchmarks.operators import Operator
from benchmarks.registry import OPERATORS
from benchmarks.results import MODES, Row
from benchmarks.run import rows
from mica_kernels import device

CPU = torch.device("cpu")
Wrong = Callable[[Function], Function]


def flipped(function: Function) -> Function:
    """The sign of the result, and so of all gradients."""
    return lambda *arguments, **options: -function(*arguments, **options)


def one_row(function: Function) -> Function:
    """Nothing but the gradient of the first argument's fourth row is wrong, or of its second clip."""

    def wrong(first: Tensor, *others: Any, **options: Any) -> Tensor:
        factor = torch.ones_like(first)
        factor[3 if first.ndim == 2 else 1] = 1.3
        first = factor * first - ((factor - 1) * first).detach()
        return function(first, *others, **options)

    return wrong


def one_joint(function: Function) -> Function:
    """Nothing but the gradient of one number of the second argument, a key or a weight, is wrong, by far."""

    def wrong(first: Tensor, second: Tensor, *others: Any, **options: Any) -> Tensor:
        factor = torch.ones_like(second)
        factor.view(-1)[0] = 30.0
        second = factor * second - ((factor - 1) * second).detach()
        return function(first, second, *others, **options)

    return wrong


def one_nan(function: Function) -> Function:
    """Of one gradient, a number; the result is right."""

    def wrong(first: Tensor, *others: Any, **options: Any) -> Tensor:
        first = first * 1.0
        if first.requires_grad:
            first.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), math.nan))
        return function(first, *others, **options)

    return wrong


def spoiled(operator: Operator, name: str, wrong: Wrong) -> Operator:
    """The operator with one implementation that is wrong."""

    def implementations(case: Any, where: torch.device) -> dict[str, Callable[[], Function]]:
        made = operator.implementations(case, where)
        right = made[name]
        return {**made, name: lambda: wrong(right())}

    return replace(operator, implementations=implementations)


def by_name(found: list[Row]) -> dict[str, list[Row]]:
    return {
        name: [row for row in found if row["implementation"] == name]
        for name in dict.fromkeys(row["implementation"] for row in found)
    }


@pytest.mark.parametrize("wrong", [flipped, one_row, one_joint, one_nan])
@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_wrong_is_not_timed(
    name: str, wrong: Wrong, tiny_suite: dict[str, Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once, in no mode; what is right is measured all the same."""
    timed: list[Function] = []
    take = measure.measure

    def recorded(function: Function, *others: Any) -> Any:
        timed.append(function)
        return take(function, *others)

    monkeypatch.setattr(measure, "measure", recorded)
    operator, made = tiny_suite[name], []

    def keep(function: Function) -> Function:
        made.append(wrong(function))
        return made[-1]

    # The last implementation of the case that has the most of them.
    case = max(operator.cpu_cases, key=lambda case: len(operator.implementations(case, CPU)))
    names = [each for each in operator.implementations(case, CPU) if each not in ("fused", "open_clip")]
    found = by_name(list(rows(spoiled(operator, names[-1], keep), case, CPU)))
    broken = found.pop(names[-1])
    assert [row["mode"] for row in broken] == list(MODES)
    for row in broken:
        assert row["failed"].startswith("wrong, and so not timed: ")
        assert "times" not in row
        assert "errors" not in row
    for other in set(names) - {names[-1]}:
        assert all(row["times"]["median"] > 0 for row in found[other])
    assert len(timed) == len(names) - 1
    assert not set(timed) & set(made)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_implementation_is_checked(name: str, tiny_suite: dict[str, Operator]) -> None:
    operator = tiny_suite[name]
    for case in operator.cpu_cases:
        for implementation, make in operator.implementations(case, CPU).items():
            if implementation in ("fused", "open_clip", "lightly"):
                continue
            assert callable(make())
            (row,) = rows(spoiled(operator, implementation, flipped), case, CPU, (implementation,), ("both",))
            assert row["failed"].startswith("wrong, and so not timed: y is off by 2 of its size"), row


def test_what_raises_leaves_the_others(tiny_suite: dict[str, Operator]) -> None:
    def raising(_: Function) -> Function:
        def none(*_: Any, **__: Any) -> Tensor:
            raise torch.OutOfMemoryError("no memory | at all")

        return none

    operator = spoiled(tiny_suite["info_nce"], "chunked", raising)
    found = by_name(list(rows(operator, operator.cpu_cases[0], CPU)))
    assert {row["failed"] for row in found["chunked"]} == {"OutOfMemoryError: no memory | at all"}
    assert all("times" in row for row in found["eager"])


def test_the_command_refuses(
    tiny_suite: dict[str, Operator],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It says what failed, returns 1, and keeps the rows, of which the broken one has no times."""
    broken = spoiled(tiny_suite["spectral_gate"], "circulant", flipped)
    monkeypatch.setitem(OPERATORS, "spectral_gate", broken)
    arguments = ["run", "spectral_gate", "--case", "tiny-none", "--device", "cpu", "--out", str(tmp_path)]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAILED: wrong, and so not timed: y is off by 2 of its size") == 1
    assert "FAILED spectral_gate tiny-none circulant: wrong, and so not timed: " in printed
    kept = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["implementation"] for row in kept if row.get("failed")} == {"circulant"}
    assert {row["implementation"] for row in kept if row.get("times")} == {"copy", "dense", "eager"}
    assert main([*arguments, "--implementation", "eager"]) == 0


interpreted = pytest.mark.skipif(
    torch.cuda.is_available() or not device.runs_kernels(CPU), reason="needs Triton's interpreter"
)


@interpreted
@pytest.mark.parametrize("name", OPERATORS)
def test_a_broken_kernel_is_refused(
    name: str, tiny_suite: dict[str, Operator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself, run on a CPU by Triton's interpreter, is right, and would be timed; its negative is not."""
    times = Measured(Times(1.0, 0.9, 1.1, 3))
    monkeypatch.setattr(measure, "measure", lambda *_: dict.fromkeys(MODES, times))
    operator = tiny_suite[name]
    for module in (spectral, contrastive):
        monkeypatch.setattr(module, "fused", lambda function, where: lambda: function)
    (right,) = rows(operator, operator.cpu_cases[0], CPU, ("fused",), ("both",))
    assert right["times"]["median"] == 1, right
    assert 0 < max(right["errors"].values()) < 1e-4
    (wrong,) = rows(spoiled(operator, "fused", flipped), operator.cpu_cases[0], CPU, ("fused",), ("both",))
    assert wrong["failed"].startswith("wrong, and so not timed: y is off by 2 of its size")
    assert "times" not in wrong
