"""The smallest cases of the suite for pytest-benchmark, forward and backward, checked before they are timed.

`python -m pytest tests/benchmarks/test_speed.py -n 0` prints the table. No time is judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks import measure
from benchmarks.registry import OPERATORS

pytest.importorskip("pytest_benchmark")

CPU = torch.device("cpu")
PAIRS = [
    (operator.name, implementation)
    for operator in OPERATORS.values()
    for implementation in dict.fromkeys((operator.fallback, "eager"))
]


@pytest.mark.parametrize(("name", "implementation"), PAIRS)
def test_speed(
    name: str, implementation: str, benchmark: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what our operator comes to without a GPU, and of eager mode."""
    monkeypatch.setattr(measure, "slots_for", lambda *_: 1)
    operator = OPERATORS[name]
    case = min(operator.cpu_cases, key=lambda case: operator.work(case, "both").flops)
    (slot,) = operator.slots(case, CPU)
    function = operator.implementations(case, CPU)[implementation]()
    operator.check(case, measure.differentiate(function, slot), operator.exact(case, slot))
    benchmark.group = f"{name}, {case.name}, forward and backward"
    benchmark.pedantic(measure.differentiate, (function, slot), rounds=5, warmup_rounds=1)
