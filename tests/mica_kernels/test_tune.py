"""Tuning: only where asked for, the fastest that runs, kept for later processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from mica_kernels import tune
from mica_kernels.launch import Launch

SHIPPED, FAST, BROKEN = Launch(64, 4, 2, 4), Launch(32, 4, 1, 2, 16, 16), Launch(128, 8, 3, 1)
TIMES = {SHIPPED: 2.0, FAST: 1.0}
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU that is called Card, and times from a table instead of a clock."""
    monkeypatch.setenv(tune.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(tune.VARIABLE, raising=False)
    monkeypatch.setattr(tune, "_name", lambda device: "Card")
    monkeypatch.setattr(tune, "_time", lambda run: run())
    tune.saved.cache_clear()
    yield
    tune.saved.cache_clear()


def run(launch: Launch) -> float:
    if launch == BROKEN:
        raise ValueError("out of resources")
    return TIMES[launch]


def pick(run: Callable[[Launch], float] = run, device: torch.device = GPU) -> Launch:
    return tune.pick(device, "gate float32", SHIPPED, lambda: [BROKEN, FAST], run)


def test_nothing_is_tuned_unasked() -> None:
    def refuse(launch: Launch) -> float:
        raise AssertionError("timed")

    assert pick(refuse) == SHIPPED
    assert not tune.file().exists()


@pytest.mark.parametrize("by_variable", [True, False])
def test_the_fastest_is_kept(by_variable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_variable:
        monkeypatch.setenv(tune.VARIABLE, "1")
        assert pick() == FAST
        monkeypatch.delenv(tune.VARIABLE)
    else:
        with tune.tuning():
            assert pick() == FAST
    tune.saved.cache_clear()  # as a new process would
    assert pick() == FAST
    assert json.loads(tune.file().read_text())["Card gate float32"]["columns"] == 32
    assert [file.name for file in tune.file().parent.iterdir()] == ["tuned.json"]


def test_a_second_kind_joins_the_first() -> None:
    with tune.tuning():
        pick()
        tune.pick(GPU, "gate float16", SHIPPED, list, run)
    assert set(tune.saved()) == {"Card gate float32", "Card gate float16"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"Card gate float32": 5}',
        '{"Card gate float32": {"columns": 64, "colour": "red"}}',
        b"\xff",
    ],
)
@pytest.mark.filterwarnings("ignore:.*tuned.json")
def test_a_file_that_cannot_be_read_stops_nothing(content: str | bytes) -> None:
    tune.file().parent.mkdir()
    tune.file().write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.warns(
        UserWarning, match=r"tuned\.json: cannot be read, so shipped configurations run"
    ) as caught:
        assert [pick(), pick()] == [SHIPPED] * 2
    assert len(caught) == 1
    with tune.tuning():
        assert pick() == FAST  # and a whole file takes its place
    tune.saved.cache_clear()
    assert pick() == FAST


def test_a_cpu_has_nothing_to_tune() -> None:
    with tune.tuning():
        assert pick(device=torch.device("cpu")) == SHIPPED


def test_where_nothing_runs_the_last_reason_is_given() -> None:
    with pytest.raises(RuntimeError, match="none of 1 launch configurations runs") as caught:
        tune.fastest([BROKEN], run)
    assert "out of resources" in str(caught.value.__cause__)
