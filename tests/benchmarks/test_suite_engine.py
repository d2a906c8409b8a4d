"""What is measured of the engine: that it can be measured, on little, and what the table says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import engine

PHASES = {"loader": 0.1, "augmentation": 0.2, "first parts": 0.0, "encoder": 3.0, "backward": 6.7}
FIGURES: dict[str, Any] = {
    "precision": "bfloat16",
    "batch": 128,
    "steps": 2,
    "seconds": {"as by default": [4.0, 5.0, 6.0], "in four parts": [6.0, 6.5, 7.0]},
    "phases": {"as by default": PHASES, "in four parts": PHASES},
    "memory": {"part": 4, "parts": 16, "alone": 2_000_000_000, "of_all": 2_500_000_000},
    "saving": {"seconds": [1.0, 3.0, 9.0], "megabytes": 93.4, "interval_minutes": 5.0},
}


def test_table(table_of: Callable[..., str]) -> None:
    text = table_of(engine, FIGURES)
    assert "ST-GCN with FreST, bfloat16 | 5.00 s, 25.6 clips/s |" in text
    assert "| of it: loader | 50 ms, 1.0% |" in text
    assert "| **loader and augmentation** | **3.0% of the step** (to be under 5 %) |" in text
    assert "first parts" not in text
    assert "| a step in four parts | 1.30 times that |" in text
    assert "| the most that a step of 4 clips holds | 2.00 GB |" in text
    assert "| one of 64 clips, 4 at a time | 2.50 GB, 1.25 times that |" in text
    assert (
        "| **saving**, at the default interval | **1.00% of the time** (to be under 2 %): every 5 minutes |"
        in text
    )


def test_the_engine_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SAVES", 1)
    found = engine.measure(batch=4, clips=60, steps=1, part=2, parts=4)
    assert found["seconds"].keys() == found["phases"].keys() == engine.cases().keys()
    assert found["phases"]["in four parts"]["first parts"] > 0
    assert found["phases"]["with momentum encoder and queue"]["momentum"] > 0
    assert found["saving"]["megabytes"] > 10
    assert 0 < found["memory"]["alone"] < found["memory"]["of_all"] < 4 * found["memory"]["alone"]
    json.dumps(found)
