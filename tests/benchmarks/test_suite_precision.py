"""Whether bfloat16 costs accuracy: that it can be measured, on little, and what the table says of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import mica.configs
from benchmarks import precision
from mica.data.store import Store
from mica.training import loop
from mica.training.config import PretrainConfig
from mica_kernels.backend import VARIABLE


def run(way: str, seed: int, top1: float) -> dict[str, Any]:
    return {"way": way, "seed": seed, "scores": {"linear: SGD": top1}}


FIGURES: dict[str, Any] = {
    "recipe": "a-recipe",
    "runs": [
        run("float32", 0, 80.0),
        run("bfloat16", 0, 81.0),
        run("float32", 1, 84.0),
        run("bfloat16", 1, 82.5),
    ],
}


def test_table(table_of: Callable[..., str]) -> None:
    text = table_of(precision, FIGURES)
    assert "Made by `python -m benchmarks.precision --data nw-ucla.arrow --config a-recipe --keep`." in text
    assert "| recipe `a-recipe`, top-1 % on the test part | 2 pretrainings each way: mean, each |" in text
    assert "| linear: SGD | float32 82.0 (80.0, 84.0); bfloat16 81.8 (81.0, 82.5); difference -0.2 |" in text


def test_it_can_be_measured_and_gone_on_with(
    tiny_store: Store,
    tiny_config: Callable[..., PretrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[tuple[str, int, str | None]] = []
    take = loop.pretrain

    def watched(config: PretrainConfig, store: Store, out: Path, *, resume: bool) -> object:
        trained.append((config.precision, config.seed, os.environ.get(VARIABLE)))
        return take(config, store, out, resume=resume)

    monkeypatch.setattr(loop, "pretrain", watched)
    monkeypatch.setattr(mica.configs, "load_config", lambda name: replace(tiny_config(), precision="auto"))
    monkeypatch.delenv(VARIABLE, raising=False)
    found = precision.measure(Path(tiny_store.path), tmp_path, recipe="tiny", seeds=2)
    assert trained == [
        ("float32", 0, "reference"),
        ("bfloat16", 0, "auto"),
        ("float32", 1, "reference"),
        ("bfloat16", 1, "auto"),
    ]
    assert VARIABLE not in os.environ
    weights = sorted(tmp_path.glob("*/checkpoint/model.safetensors"))
    assert len({file.read_bytes() for file in weights}) == 4
    assert {"linear: SGD", "linear: logistic regression", "knn: k = 1"} <= found["runs"][0]["scores"].keys()
    assert all(0 <= score <= 100 for one in found["runs"] for score in one["scores"].values())
    before = [file.stat().st_mtime_ns for file in weights]
    again = precision.measure(Path(tiny_store.path), tmp_path, recipe="tiny", seeds=2)
    assert [one["scores"] for one in again["runs"]] == [one["scores"] for one in found["runs"]]
    assert [file.stat().st_mtime_ns for file in weights] == before
