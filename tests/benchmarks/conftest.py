"""What the tests of the suite share: tiny cases, measuring that takes no time, and rows made up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import ceilings, figures, measure, run
from benchmarks.contrastive import Case as Losses
from benchmarks.figures import Figures
from benchmarks.measure import Times
from benchmarks.operators import Operator
from benchmarks.registry import OPERATORS
from benchmarks.results import Row
from benchmarks.spectral import Case as Gate

TINY: dict[str, tuple[Any, ...]] = {
    "spectral_gate": (
        Gate("tiny-joint", (2, 8, 16, 5), dtype="float32"),
        Gate("tiny-none", (2, 8, 9, 5), "none", dtype="float32", layout="contiguous"),
        Gate("tiny-bin", (2, 8, 16, 5), "bin", dtype="float32"),
    ),
    "info_nce": (
        Losses("tiny", 40, width=16, dtype="float32"),
        Losses("tiny-labels", 40, width=16, dtype="float32", groups=10),
        Losses("tiny-queue", 24, width=16, dtype="float32", queue=50),
        Losses("tiny-bfloat16", 40, width=24),
        Losses("tiny-float16", 40, width=24, dtype="float16"),
    ),
    "similarity_kl": (Losses("tiny-kl", 40, columns=7, width=16, dtype="float32", teacher_width=12),),
}

ABSENT = (
    "jaxtyping", "einops", "tqdm", "matplotlib", "transformers", "pyarrow", "scipy", "sklearn", "yaml",
    "jsonargparse", "safetensors", "jinja2", "hypothesis", "xdist", "pytest_benchmark",
)  # fmt: skip

BARE = f"""
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {ABSENT!r}
        return None if absent else super().find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture(scope="session")
def bare() -> str:
    """The start of a program that finds none of the project's dependencies but torch, triton, numpy and pytest."""
    return BARE


@pytest.fixture(scope="session")
def tiny() -> dict[str, tuple[Any, ...]]:
    """Cases by operator that take no time."""
    return TINY


@pytest.fixture
def quickly() -> Iterator[None]:
    """Three runs of a function, on two sets of arguments, beside rates that nobody has measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_count", lambda *_: 3)
        patch.setattr(measure, "slots_for", lambda *_: 2)
        patch.setattr(ceilings, "copy_rate", lambda device: 1e10)
        patch.setattr(ceilings, "matrix_rate", lambda dtype, device: 1e11)
        yield


@pytest.fixture
def tiny_suite(quickly: None, tiny: dict[str, tuple[Any, ...]]) -> Iterator[dict[str, Operator]]:
    """The suite has the tiny cases and no others, on any device; the first of each is that of a quick run.

    The training step, which has none, is left out, as where something that it needs is not installed.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("benchmarks.training", raising=False)
        patch.setitem(sys.modules, "benchmarks.training", None)
        for name, cases in tiny.items():
            quick = frozenset({cases[0].name})
            operator = replace(OPERATORS[name], cases=cases, cpu_cases=cases, quick=quick)
            patch.setitem(OPERATORS, name, operator)
        patch.setattr(run, "CASES", {case.name for cases in tiny.values() for case in cases})
        yield OPERATORS


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    """Make a row as a run writes it: of a case of the suite, or of the one given; milliseconds in `median`."""
    return _make_row


def _make_row(
    operator: str = "spectral_gate",
    case: str = "headline-joint",
    implementation: str = "fused",
    mode: str = "both",
    median: float | None = 1.0,
    **changes: Any,
) -> Row:
    made = OPERATORS[operator]
    size = next((each for each in (*made.cases, *made.cpu_cases) if each.name == case), made.cases[0])
    work = made.work(size, mode)
    row: Row = {
        "operator": operator,
        "case": case,
        "implementation": implementation,
        "mode": mode,
        "size": asdict(size),
        "device": "NVIDIA H200",
        "python": "3.12.0",
        "torch": torch.__version__,
        "triton": "3.7.1",
        "commit": "0123456789ab",
        "date": "2026-01-02T03:04:05+00:00",
    }
    if median is not None:
        row |= {
            "times": asdict(Times(median, 0.9 * median, 1.1 * median, runs=20, looped=median)),
            "python_us": 30.0,
            "extra_bytes": 10_000_000,
            "graph_ms": 0.9 * median,
            "bytes": work.bytes,
            "flops": work.flops,
            "copy_rate": 4.3e12,
            "matrix_rate": 7.9e14,
            "bandwidth_share": 0.5,
            "rate_share": 0.25,
            "errors": {"y": 1e-3, "dx": 2e-3},
            "first_calls_s": 2.0,
            "compile_s": 1.9,
        }
    return {**row, **changes}


STAMP = {
    "device": "A CPU",
    "threads": 2,
    "torch": "2.13.0",
    "commit": "abc",
    "date": "2026-01-02T03:04:05+00:00",
}


@pytest.fixture
def table_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType, Figures], str]:
    """What a module's table says of figures that are kept, made on a machine that is not this one."""
    monkeypatch.setattr(figures, "RESULTS", tmp_path)

    def made(module: ModuleType, found: Figures) -> str:
        assert module.table(tmp_path) == "Not yet measured."
        figures.keep(module.FILE, {**STAMP, **found})
        assert (tmp_path / "a-cpu" / module.FILE).exists()
        text = module.table(tmp_path)
        assert text.startswith(
            "**A CPU**, 2 threads, PyTorch 2.13.0, commit abc, 2026-01-02. Made by `python"
        )
        return text

    return made
