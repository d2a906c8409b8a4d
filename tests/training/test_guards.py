"""What is not finite is left out or stops the run, by name; what does not come is reported; the host never waits."""

from __future__ import annotations

import copy
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from mica.data.store import Store
from mica.errors import InputError
from mica.objectives import ObjectiveConfig
from mica.training import step as step_module
from mica.training import trainer as trainer_module
from mica.training.config import EngineConfig, MomentumConfig, OptimizerConfig, PretrainConfig
from mica.training.loop import pretrain
from mica.training.monitor import DELAY, Monitor
from mica.training.trainer import Trainer
from mica.training.watchdog import Watchdog
from mica.transforms.augment import VIEWS

MakeConfig = Callable[..., PretrainConfig]


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Multiply views of some steps, two a step, by something."""

    def choose(*steps: int, by: float = math.nan) -> None:
        original, calls = trainer_module.augment, iter(range(1000))

        def spoiled(x: Tensor, *rest: object) -> Tensor:
            return original(x, *rest) * (by if next(calls) // 2 in steps else 1.0)

        monkeypatch.setattr(trainer_module, "augment", spoiled)

    return choose


def tensors_of(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict | list):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from tensors_of(value, f"{name}/{key}")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("broken", [0, 1])
def test_a_step_that_is_left_out_changes_nothing(
    tiny_store: Store, tiny_config: MakeConfig, spoil: Callable[..., None], optimizer: str, broken: int
) -> None:
    config = tiny_config(
        engine=EngineConfig(skip_broken=1),
        optimizer=OptimizerConfig(name=optimizer, lr=0.01, batch_size=16, epochs=1, warmup_epochs=0),
        objectives=ObjectiveConfig(instance=1.0),
        momentum=MomentumConfig(decay=0.9, queue=30),
    )
    trainer = Trainer(config, tiny_store)
    spoil(broken)
    batch = next(trainer.batches())
    for step in range(3):
        before = copy.deepcopy(trainer.state_dict())
        trainer.take(trainer.monitor.push(step, trainer.train_step(batch["x"], batch["label"])))
        after = trainer.state_dict()
        assert all(value.isfinite().all() for _, value in tensors_of(after)), step
        # The momentum encoder goes on towards weights that stay.
        changed = {
            name
            for (name, one), (_, two) in zip(
                tensors_of(before["trained"]), tensors_of(after["trained"]), strict=True
            )
            if "momentum." not in name and not torch.equal(one, two)
        }
        assert bool(changed) == (step != broken)
        if step == broken > 0:
            pairs = zip(tensors_of(before["optimizer"]), tensors_of(after["optimizer"]), strict=True)
            assert all(torch.equal(one, two) for (_, one), (_, two) in pairs)
    assert trainer.broken.count == 1
    assert len(trainer.log.terms) == 2


def test_up_to_n_steps_are_left_out_and_written_down(
    tiny_store: Store,
    tiny_config: MakeConfig,
    spoil: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(1, 4)
    config = tiny_config(epochs=2, engine=EngineConfig(skip_broken=2))
    pretrain(config, tiny_store, tmp_path / "run")
    entries = [json.loads(line) for line in (tmp_path / "run" / "broken.jsonl").read_text().splitlines()]
    assert [(entry["step"], entry["epoch"], entry["what"]) for entry in entries] == [
        (1, 0, "intra"),
        (4, 1, "intra"),
    ]
    assert [len(entry["clips"]) for entry in entries] == [16, 16]
    assert "left out: epoch 0, step 1 of 3: the term 'intra' is nan" in capsys.readouterr().err
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(map(math.isfinite, losses))

    spoil(1, 4)
    with pytest.raises(InputError, match=r"epoch 1, step 1 of 3: the term 'intra' is nan, with the clips "):
        pretrain(replace(config, engine=EngineConfig(skip_broken=1)), tiny_store, tmp_path / "other")


def test_an_epoch_without_a_good_step_stops_the_run(
    tiny_store: Store, tiny_config: MakeConfig, spoil: Callable[..., None]
) -> None:
    spoil(0, 1, 2)
    trainer = Trainer(tiny_config(engine=EngineConfig(skip_broken=9)), tiny_store)
    with pytest.raises(InputError, match="epoch 0: no step had a finite loss and gradient"):
        trainer.run_epoch(0, tqdm(disable=True))


def test_the_clips_of_the_step_are_named_and_those_at_fault(
    tiny_store: Store, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny_config(), tiny_store)
    read = Store.keypoints
    trainer.order.set_epoch(0)
    culprit = int(next(trainer.batches())["index"][3])

    def damaged(self: Store, i: int) -> np.ndarray:
        return read(self, i) * (np.nan if i == culprit else 1.0)

    monkeypatch.setattr(Store, "keypoints", damaged)
    with pytest.raises(InputError) as caught:
        trainer.run_epoch(0, tqdm(disable=True))
    assert "and 11 more; of these have coordinates that are not finite: " in str(caught.value)
    assert str(caught.value).splitlines()[0].endswith(str(tiny_store.names[culprit]))


def test_a_gradient_that_is_not_finite_is_told_from_a_loss(
    tiny_store: Store, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny_config(), tiny_store)
    trainer.model.projector[1].weight.register_hook(lambda gradient: gradient * math.inf)
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(InputError, match=r"epoch 0, step 0 of 3: the gradient's norm is (nan|inf)"):
        trainer.run_epoch(0, tqdm(disable=True))
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_parts_of_a_batch_give_the_gradients_of_the_whole(
    tiny_store: Store, tiny_config: MakeConfig, fake_text: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against an ordinary graph through encoders that are given the same parts."""
    config = tiny_config(
        text="minilm",
        objectives=ObjectiveConfig(instance=0.5),
        momentum=MomentumConfig(decay=0.9, queue=20),
        optimizer=OptimizerConfig(batch_size=12, micro_batch=4, clip_norm=1e9, warmup_epochs=0, epochs=1),
    )
    cached, whole = Trainer(config, tiny_store), Trainer(config, tiny_store)

    def by_parts(encode: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def encoded(*arguments: Any) -> Tensor:
            *model, views, precision = arguments
            return torch.cat([encode(*model, part, precision) for part in views.split(4, dim=1)], dim=1)

        return encoded

    whole.micro_batch = 12
    monkeypatch.setattr(step_module, "encode", by_parts(step_module.encode))
    for step in range(2):
        values = []
        for trainer in (cached, whole):
            trainer.order.set_epoch(0, first=step)
            batch = next(trainer.batches())
            found = trainer.train_step(batch["x"], batch["label"])
            values.append({name: value.item() for name, value in found.items()})
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    expected = dict(whole.trained.named_parameters())
    gradients = {name: p.grad for name, p in cached.trained.named_parameters() if p.grad is not None}
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        difference = (gradient - expected[name].grad).abs().max()
        assert difference <= 3e-3 * gradient.abs().max() + 1e-4 * largest, name
    buffers = dict(whole.trained.named_buffers())
    for name, buffer in cached.trained.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], rtol=1e-3, atol=1e-3, msg=name)


class Synchronisations(TorchDispatchMode):
    """Collects what would have the host wait for a GPU: operators whose result it has to look at."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.overloadpacket.__name__
        indexed = name in ("index", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name.strip("_") in {waiting.strip("_") for waiting in self.WAITING} or indexed:
            self.found.append(name)
        return operator(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(tiny_store: Store, tiny_config: MakeConfig, fake_text: None) -> None:
    """On a CPU: no operator whose result the host looks at. The test on a GPU asks CUDA itself."""
    config = tiny_config(
        text="minilm",
        augment=replace(VIEWS["strong"], shortest_crop=0.5, corrupt_joints=3, time_flip=0.5, mirror=0.5),
        objectives=ObjectiveConfig(instance=0.5),
        momentum=MomentumConfig(decay=0.9, queue=20),
        optimizer=OptimizerConfig(batch_size=12, micro_batch=4),
        engine=EngineConfig(skip_broken=1),
    )
    trainer = Trainer(config, tiny_store)
    fetched = next(iter(trainer.loader._fetcher))
    with Synchronisations() as watched:
        batch = trainer.loader.dataset.prepared(fetched)
        trainer.train_step(batch["x"], batch["label"])
    assert watched.found == []
    with Synchronisations() as watched:
        batch["x"].sum().item()
        batch["x"].nonzero()
    assert watched.found == ["_local_scalar_dense", "nonzero"], "the check itself"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_no_step_waits_for_the_gpu(tiny_store: Store, tiny_config: MakeConfig) -> None:
    trainer = Trainer(tiny_config(epochs=2, batch_size=4), tiny_store)
    batch = next(trainer.batches())
    for step in range(3):
        list(trainer.monitor.push(step, trainer.train_step(batch["x"], batch["label"])))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(3, 6):
            list(trainer.monitor.push(step, trainer.train_step(batch["x"], batch["label"])))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(list(trainer.monitor.drain())) == min(6, DELAY)


def test_a_monitor_gives_every_step_once_and_in_order() -> None:
    monitor = Monitor(torch.device("cpu"))
    monitor.delay = 3
    given = [
        [found.step for found in monitor.push(step, {"loss": torch.tensor(float(step))})] for step in range(5)
    ]
    assert given == [[], [], [], [0], [1]]
    assert [(found.step, found.values) for found in monitor.drain()] == [
        (s, {"loss": float(s)}) for s in (2, 3, 4)
    ]


def test_who_looks_ahead_leaves_with_the_others(tiny_store: Store, tiny_config: MakeConfig) -> None:
    """A process that saves knows of a request to stop before the others do, which read values late."""
    saving, other = (Trainer(tiny_config(batch_size=6), tiny_store) for _ in range(2))
    left = []
    for trainer in (saving, other):
        trainer.monitor.delay = 3
        batch = next(trainer.batches())
        for step in range(7):
            trainer.stop = lambda step=step: step == 1
            trainer.take(trainer.monitor.push(step, trainer.train_step(batch["x"], batch["label"])))
            if trainer is saving and step in (2, 3):
                trainer.state_dict()
            left.append((step, trainer.stop_agreed))
    assert left[:7] == left[7:] == [(step, step >= 4) for step in range(7)]


def test_a_loader_that_is_stuck_is_reported_while_it_is() -> None:
    words: list[str] = []
    with Watchdog(0.2, words.append) as watchdog:
        with watchdog.waiting(lambda: pytest.fail("nothing was to be said")):
            pass
        time.sleep(0.4)
        assert words == []
        with watchdog.waiting(lambda: "step 7"):
            deadline = time.monotonic() + 20
            while len(words) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
    assert len(words) >= 2
    assert all(line.startswith("waiting for ") and line.endswith(": step 7") for line in words)
    assert not any(thread.name == "mica watchdog" for thread in threading.enumerate())


def test_a_run_with_a_stuck_loader_says_for_which_clips(
    tiny_store: Store,
    tiny_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read, waits = Store.keypoints, iter([0.0] * 20 + [1.5])

    def slow(self: Store, i: int) -> np.ndarray:
        time.sleep(next(waits, 0.0))
        return read(self, i)

    monkeypatch.setattr(Store, "keypoints", slow)
    pretrain(tiny_config(engine=EngineConfig(stuck_seconds=0.3)), tiny_store, tmp_path / "run")
    said = capsys.readouterr().err
    assert "step 1 has no clips yet of" in said
    assert str(tiny_store.path) in said


def test_workers_read_what_the_step_would_have_read(tiny_store: Store, tiny_config: MakeConfig) -> None:
    alone, helped = (
        Trainer(tiny_config(engine=EngineConfig(workers=workers)), tiny_store) for workers in (0, 2)
    )
    for epoch in range(2):
        for trainer in (alone, helped):
            trainer.order.set_epoch(epoch, first=epoch)
        for one, two in zip(alone.batches(), helped.batches(), strict=True):
            assert torch.equal(one["x"], two["x"])
            assert torch.equal(one["index"], two["index"])
