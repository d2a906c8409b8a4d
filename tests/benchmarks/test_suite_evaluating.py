"""What is measured of evaluations: that it can be measured, on little, and what the table says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import accuracy, evaluating

FIGURES = {
    "protocols": {
        "nw-ucla": {"seconds": {"linear": 20.0, "semi": 100.4}, "total": 120.4, "peak_megabytes": 900.0},
        "utd-mhad": {"seconds": {"linear": 30.0}, "total": 30.0, "peak_megabytes": 800.0},
    },
    "large": {
        "AimCLR's encoder": {
            "width": 256,
            "megabytes": 100.0,
            "grown_megabytes": 150.0,
            "seconds": {"retrieval": 61.2},
        }
    },
}


def test_table(table_of: Callable[..., str]) -> None:
    text = table_of(evaluating, FIGURES)
    assert "| nw-ucla, all protocols | 2.0 minutes, at most 900 MB |" in text
    assert "| nw-ucla, seconds of each | linear 20, semi 100 |" in text
    assert "| both | 2.5 minutes |" in text
    assert "113,945 clips x 256 (AimCLR's encoder): 100 MB in float32" in text
    assert "150 MB more at most (1.5 times)" in text
    assert "| seconds at 256 | retrieval 61 |" in text


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_large_features_can_be_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "NTU120", (600, 240))
    found = evaluating.large(width=8)
    assert set(found["seconds"]) == {
        "retrieval",
        "knn, one k",
        "SGD probe, one fit",
        "logistic regression, one fit",
    }
    assert found["megabytes"] == pytest.approx(840 * 8 * 4 / 1e6)


def test_commands_of_the_results_come_in_an_order_that_works() -> None:
    """Stores before trainings before evaluations; what an evaluation reads was made by a command before it."""
    commands = [command for command, _ in accuracy.all_commands(Path("raw"), Path("out"))]
    made: set[str] = set()
    for command in commands:
        inputs = {
            command[place + 1]
            for place, word in enumerate(command)
            if word in ("--run", "--data", "--transfer-to", "--with")
        }
        assert inputs <= made, command
        made |= {command[command.index("--out") + 1]} if "--out" in command else set()
    assert len({json.dumps(command) for command in commands}) == len(commands)
