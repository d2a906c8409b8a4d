"""What goes on around the steps: trackers, the profile, the momentum encoder and its queue, records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mica.data.store import Store
from mica.errors import InputError
from mica.models.mica import MICA
from mica.models.momentum import KeyQueue, MomentumEncoder
from mica.objectives import ObjectiveConfig, Objectives
from mica.training import phases
from mica.training.checks import check_config
from mica.training.config import EngineConfig, MomentumConfig, OptimizerConfig, PretrainConfig
from mica.training.loop import pretrain
from mica.training.phases import Phases
from mica.training.step import Pretraining
from mica.training.trainer import Trainer

MakeConfig = Callable[..., PretrainConfig]


def test_tensorboard_gets_what_the_metrics_say(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(
        tiny_config(epochs=2, engine=EngineConfig(trackers=["tensorboard"])), tiny_store, tmp_path / "run"
    )
    events = EventAccumulator(str(tmp_path / "run" / "tracking")).Reload()
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "intra", "lr", "gradient"):
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == [3, 6]
        assert [scalar.value for scalar in scalars] == pytest.approx([entry[name] for entry in metrics])


def test_a_tracker_that_is_not_there_is_named_before_anything_is_written(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"field 'engine.trackers': no tracker 'nosuch' of Accelerate is installed"
    ):
        pretrain(tiny_config(engine=EngineConfig(trackers=["nosuch"])), tiny_store, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_is_recorded_with_its_machine_and_number_format(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    pretrain(tiny_config(precision="bfloat16"), tiny_store, tmp_path / "run")
    (start,) = [json.loads(line) for line in (tmp_path / "run" / "starts.jsonl").read_text().splitlines()]
    assert (start["step"], start["precision"], start["why"]) == (0, "bfloat16", "as asked")
    assert start["device"]
    assert start["torch"] == torch.__version__
    assert start["kernels"].keys() == {"spectral_gate", "info_nce", "similarity_kl"}


def test_a_profile_says_where_the_time_goes_and_changes_nothing(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "WARMUP", 1)
    monkeypatch.setattr(phases, "MEASURED", 2)
    config = tiny_config(
        epochs=2,
        objectives=ObjectiveConfig(instance=1.0),
        momentum=MomentumConfig(decay=0.9),
        optimizer=OptimizerConfig(epochs=2, batch_size=16, micro_batch=8),
    )
    pretrain(config, tiny_store, tmp_path / "profiled", profile=True)
    pretrain(config, tiny_store, tmp_path / "plain")
    said = (tmp_path / "profiled" / "profile.txt").read_text()
    shares = {
        name: float(share)
        for name, share in re.findall(r"^(\w[\w ]*?) +[\d.]+ +([\d.]+)%$", said, re.MULTILINE)
    }
    ours = {"loader", "augmentation", "momentum", "first parts", "encoder", "losses", "backward", "optimiser"}
    assert set(shares) == ours | {"between"}
    assert sum(shares.values()) == pytest.approx(100, abs=1)
    assert shares["backward"] > shares["optimiser"]
    assert "aten::" in said
    trace = json.loads((tmp_path / "profiled" / "trace.json").read_text())
    assert {"mica: encoder", "mica: backward"} <= {
        event["name"] for event in trace["traceEvents"] if "name" in event
    }
    weights = [
        load_file(tmp_path / run / "checkpoint" / "model.safetensors") for run in ("profiled", "plain")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_phases_cost_nothing_unless_they_are_recorded() -> None:
    named = Phases(torch.device("cpu"))
    with named("encoder"):
        pass
    assert named.seconds() == {}
    named.recording = True
    for _ in range(2):
        with named("encoder"):
            pass
    assert list(named.seconds()) == ["encoder"]


def test_the_momentum_encoder_is_the_weighted_mean_of_what_it_followed(
    tiny_store: Store, tiny_config: MakeConfig
) -> None:
    online = Trainer(tiny_config(), tiny_store).model
    follower = MomentumEncoder(online, decay=0.75)
    expected = {name: value.double().clone() for name, value in online.state_dict().items()}
    for step in range(3):
        with torch.no_grad():
            for value in online.state_dict().values():
                value.add_(step + 1)
        follower.follow(online)
        for name, value in online.state_dict().items():
            moving = value.is_floating_point()
            expected[name] = 0.75 * expected[name] + 0.25 * value.double() if moving else value.double()
    for name, value in follower.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], msg=name)
    assert "encoder.input_norm.running_mean" in expected
    assert "encoder.input_norm.num_batches_tracked" in expected
    assert not any(parameter.requires_grad for parameter in follower.parameters())


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_run_leaves_the_model_it_is_for(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path, evaluated: bool
) -> None:
    config = tiny_config(momentum=MomentumConfig(decay=0.5, evaluated=evaluated))
    pretrain(config, tiny_store, tmp_path / "run")
    trainer = Trainer(config, tiny_store)
    for batch in trainer.batches():
        trainer.train_step(batch["x"], batch["label"])
    momentum = momentum_of(trainer)
    expected = (momentum if evaluated else trainer.model).state_dict()
    found = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in found)
    other = (trainer.model if evaluated else momentum).state_dict()
    assert any(not torch.equal(found[name], other[name]) for name in found)


def momentum_of(trainer: Trainer) -> MICA:
    """The momentum encoder's model of a run of MICA that has one."""
    assert isinstance(trainer.trained, Pretraining)
    assert trainer.trained.momentum is not None
    return trainer.trained.momentum.model


def test_a_queue_holds_the_latest_keys() -> None:
    queue, given = KeyQueue(5, 1), torch.arange(12.0)[:, None]
    assert queue.real.shape == (0, 1)
    for first in range(0, 12, 3):
        queue.push(given[first : first + 3])
        held = given[: first + 3][-5:]
        assert sorted(queue.real.flatten().tolist()) == held.flatten().tolist()
    queue.push(given[:8])
    assert sorted(queue.real.flatten().tolist()) == [3, 4, 5, 6, 7]
    queue.push(torch.full((3, 1), torch.nan), good=torch.tensor(False))
    assert sorted(queue.real.flatten().tolist()) == [3, 4, 5, 6, 7]
    other = KeyQueue(5, 1)
    other.load_state_dict(queue.state_dict())
    for one in (queue, other):
        one.push(torch.tensor([[20.0]]))
    assert torch.equal(queue.keys, other.keys)


def test_no_queue_takes_nothing() -> None:
    queue = KeyQueue(0, 4)
    queue.push(torch.ones(3, 4))
    assert queue.real.shape == (0, 4)


def test_heads_that_no_term_reads_are_not_trained(
    tiny_store: Store, tiny_config: MakeConfig, fake_text: None
) -> None:
    """Nor waited for: DistributedDataParallel would, for ever."""
    unread = {"projector": ObjectiveConfig(intra=0), "semantic": ObjectiveConfig(inter=0, modulation=0)}
    for frozen, objectives in unread.items():
        trainer = Trainer(tiny_config(text="minilm", objectives=objectives), tiny_store)
        batch = next(trainer.batches())
        trainer.train_step(batch["x"], batch["label"])
        without = {
            name for name, p in trainer.trained.named_parameters() if p.requires_grad and p.grad is None
        }
        assert without == set()
        head: nn.Module = getattr(trainer.model, frozen)
        assert not any(parameter.requires_grad for parameter in head.parameters())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"momentum": MomentumConfig(evaluated=True)}, "momentum.evaluated"),
        ({"objectives": ObjectiveConfig(instance=1.0)}, "objectives.instance"),
        ({"momentum": MomentumConfig(decay=0.9, queue=4)}, "momentum.queue"),
        ({"momentum": MomentumConfig(decay=1.0)}, "momentum.decay"),
        ({"optimizer": OptimizerConfig(schedule="step")}, "optimizer.milestones"),
        ({"optimizer": OptimizerConfig(milestones=[3])}, "optimizer.milestones"),
        ({"optimizer": OptimizerConfig(schedule="step", milestones=[0])}, "optimizer.milestones"),
        ({"optimizer": OptimizerConfig(micro_batch=0)}, "optimizer.micro_batch"),
        ({"engine": EngineConfig(workers=-1)}, "engine.workers"),
    ],
)
def test_settings_at_odds_are_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        check_config(replace(PretrainConfig(), **change))
    assert caught.value.field == field


def test_a_batch_that_parts_do_not_fill_is_refused(tiny_store: Store, tiny_config: MakeConfig) -> None:
    config = tiny_config(optimizer=OptimizerConfig(batch_size=16, micro_batch=5))
    with pytest.raises(InputError, match="16 clips on a process are no multiple of a micro-batch of 5"):
        Trainer(config, tiny_store)


def test_a_compiled_encoder_is_saved_as_any_other(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    """What the compiler makes of it is left to the benchmarks: here it runs as written."""
    config = tiny_config(engine=EngineConfig(compile=True), momentum=MomentumConfig(decay=0.9))
    with torch.compiler.set_stance("force_eager"):
        trainer = Trainer(config, tiny_store)
        for model in (trainer.model, momentum_of(trainer)):
            assert model.encoder._compiled_call_impl is not None
        pretrain(config, tiny_store, tmp_path / "compiled")
    pretrain(replace(config, engine=EngineConfig()), tiny_store, tmp_path / "plain")
    one, two = (
        load_file(tmp_path / run / "checkpoint" / "model.safetensors") for run in ("compiled", "plain")
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_instance_alone_is_a_term_to_learn_from() -> None:
    Objectives(ObjectiveConfig(intra=0, instance=1.0), None)
