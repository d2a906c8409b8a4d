"""A run that is interrupted and gone on with is the run that never was: to the bit."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mica.data.store import Store, write
from mica.data.synthetic import generate
from mica.errors import InputError, Interrupted
from mica.models.stgcn import EncoderConfig
from mica.objectives import ObjectiveConfig
from mica.training import loop, state
from mica.training.config import EngineConfig, MomentumConfig, OptimizerConfig, PretrainConfig
from mica.training.interrupt import StopRequest
from mica.training.loop import pretrain
from mica.training.state import newest_state, states, write_state
from mica.training.trainer import Trainer

MakeConfig = Callable[..., PretrainConfig]
WEIGHTS = Path("checkpoint", "model.safetensors")


@pytest.fixture
def config(tiny_config: MakeConfig) -> PretrainConfig:
    """Three epochs of three steps with everything that has a state."""
    return replace(
        tiny_config(knn_every=2),
        encoder=EncoderConfig(preset="stgcn-small", dropout=0.2),
        objectives=ObjectiveConfig(instance=1.0),
        optimizer=OptimizerConfig(
            name="sgd", epochs=3, batch_size=16, micro_batch=8, lr=0.01, warmup_epochs=1
        ),
        momentum=MomentumConfig(decay=0.9, queue=40, evaluated=True),
        engine=EngineConfig(save_minutes=60),
    )


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have runs be asked to stop while they take a step."""

    def choose(step: int) -> None:
        take = Trainer.train_step

        def asked(self: Trainer, *batch: Tensor) -> dict[str, Tensor]:
            if self.step == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return take(self, *batch)

        monkeypatch.setattr(Trainer, "train_step", asked)

    return choose


def metrics(run: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timings = ("seconds", "waited", "clips_per_second")
    return [{name: value for name, value in entry.items() if name not in timings} for entry in entries]


def test_an_interrupted_run_ends_as_one_that_was_not(
    config: PretrainConfig, tiny_store: Store, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    pretrain(config, tiny_store, tmp_path / "spared")
    for step in (1, 2, 3, 7):  # within an epoch and at its end, twice in one epoch
        stop_at(step)
        with pytest.raises(Interrupted, match=rf"SIGTERM: saved after step {step + 1} of 9") as caught:
            pretrain(config, tiny_store, tmp_path / "stopped", resume=True)
        assert caught.value.status == 143
        torch.rand(5)  # whatever is drawn in between
    pretrain(config, tiny_store, tmp_path / "stopped", resume=True)
    spared, stopped = (load_file(tmp_path / run / WEIGHTS) for run in ("spared", "stopped"))
    assert spared.keys() == stopped.keys()
    assert [name for name in spared if not torch.equal(spared[name], stopped[name])] == []
    assert metrics(tmp_path / "spared") == metrics(tmp_path / "stopped")
    assert not states(tmp_path / "stopped"), "only a run that is not finished keeps its states"
    starts = [json.loads(line) for line in (tmp_path / "stopped" / "starts.jsonl").read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 2, 3, 4, 8]
    assert {"device", "precision", "torch"} <= starts[0].keys()


def test_a_finished_run_is_left_as_it_is(config: PretrainConfig, tiny_store: Store, tmp_path: Path) -> None:
    card = pretrain(config, tiny_store, tmp_path / "run")
    before = (tmp_path / "run" / WEIGHTS).stat().st_mtime_ns
    assert pretrain(config, tiny_store, tmp_path / "run", resume=True) == card
    assert (tmp_path / "run" / WEIGHTS).stat().st_mtime_ns == before


def test_a_run_killed_while_it_was_finishing_is_finished(
    config: PretrainConfig, tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = replace(config, engine=EngineConfig(save_minutes=0))
    monkeypatch.setattr(loop.Session, "_finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pretrain(saved, tiny_store, tmp_path / "run")
    monkeypatch.undo()
    pretrain(saved, tiny_store, tmp_path / "run", resume=True)
    pretrain(config, tiny_store, tmp_path / "spared")
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tmp_path / "spared" / WEIGHTS).read_bytes()


def test_other_clips_are_refused(
    config: PretrainConfig, tiny_store: Store, tmp_path: Path, stop_at: Callable[[int], None]
) -> None:
    stop_at(1)
    with pytest.raises(Interrupted):
        pretrain(config, tiny_store, tmp_path / "run")
    info, clips, _ = generate(clips_per_class=8, subjects=8, num_frames=(9, 12))
    other = Store.open(write(tmp_path / "other.arrow", clips, info).path)
    with pytest.raises(InputError, match="began with other clips, labels or parts"):
        pretrain(config, other, tmp_path / "run", resume=True)


@pytest.mark.parametrize("damage", ["cut", "flipped", "no sums", "empty"])
def test_a_torn_state_is_skipped_with_a_warning(tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        write_state(
            tmp_path, step, {"step": step, "x": torch.full((4,), step), "pair": (1.5, None), 3: {"a": True}}
        )
    tensors, sums = (states(tmp_path)[-1] / name for name in (state.TENSORS, state.SUMS))
    content = tensors.read_bytes()
    if damage == "cut":
        tensors.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no sums":
        sums.unlink()
    else:
        tensors.write_bytes(b"")
    with pytest.warns(UserWarning, match=r"step-00000002: torn .*taking the one before"):
        found = newest_state(tmp_path)
    assert found is not None
    assert found.pop("x").tolist() == [1] * 4
    assert found == {"step": 1, "pair": [1.5, None], 3: {"a": True}}
    (states(tmp_path)[0] / state.TREE).write_text("{")
    with pytest.warns(UserWarning, match="torn"), pytest.raises(InputError, match="no state is whole"):
        newest_state(tmp_path)


def test_the_last_states_are_kept_and_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "state" / ".step-00000001.part").mkdir(parents=True)
    for step in (1, 2, 3, 3):
        write_state(tmp_path, step, {"step": step})
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["step-00000002", "step-00000003"]


def test_sums_are_as_sha256sum_checks_them(tmp_path: Path) -> None:
    folder = write_state(tmp_path, 1, {"step": 1, "x": torch.ones(2)})
    subprocess.run(
        ["sha256sum", "--check", "--strict", state.SUMS], cwd=folder, check=True, capture_output=True
    )


def test_a_full_disk_keeps_the_last_good_state(
    config: PretrainConfig, tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file, calls = state.save_tensors, iter(range(100))

    def full(tensors: dict[str, Tensor], file: Path) -> None:
        if next(calls) == 2:
            Path(file).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        write_file(tensors, file)

    monkeypatch.setattr(state, "save_tensors", full)
    saving = replace(config, engine=EngineConfig(save_minutes=0))
    with pytest.raises(InputError, match=r"no space left, at step 3\n  hint: make room, .*--resume"):
        pretrain(saving, tiny_store, tmp_path / "run")
    assert [path.name for path in sorted((tmp_path / "run" / "state").iterdir())] == [
        "step-00000001",
        "step-00000002",
    ]
    pretrain(saving, tiny_store, tmp_path / "run", resume=True)
    pretrain(config, tiny_store, tmp_path / "spared")
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (tmp_path / "spared" / WEIGHTS).read_bytes()


def test_saves_are_as_far_apart_as_asked(
    config: PretrainConfig, tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(loop.RunDirectory, "save", lambda self, step, state: saved.append(step))
    pretrain(config, tiny_store, tmp_path / "seldom")
    assert saved == []
    clock = iter(range(0, 10_000, 70))
    monkeypatch.setattr(loop, "time", type("Clock", (), {"monotonic": staticmethod(lambda: next(clock))}))
    pretrain(replace(config, engine=EngineConfig(save_minutes=2)), tiny_store, tmp_path / "often")
    assert len(saved) in (3, 4), saved


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_second_interrupt_is_heard_at_once(handlers: None) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_are_left_alone_outside_of_the_main_thread(handlers: None) -> None:
    def visit() -> None:
        with StopRequest():
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[Any] = []
    thread = threading.Thread(target=visit)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_kill_9_at_thirty_random_moments(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.soak",
        "--kills",
        "30",
        "--json",
        str(tmp_path / "found.json"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["kills"] == 30
    assert found["went_on"] > 5, "lives that are killed before their first step show nothing"
    assert found["same_weights"]
    assert found["same_metrics"]
