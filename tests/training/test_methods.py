"""The classics in training: what each reads, what its momentum encoders and queues hold, and what a run leaves."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.evaluate import Evaluation
from mica.models.baseline_losses import contrast, nearest
from mica.models.baselines import AimCLR, BaselineConfig, CrosSCLR, SkeletonCLR
from mica.models.encoding import encode, statistics_kept
from mica.models.method import Around
from mica.models.mica import MICA
from mica.models.stgcn import EncoderConfig
from mica.objectives import ObjectiveConfig
from mica.training.checks import check_config
from mica.training.config import MomentumConfig, OptimizerConfig, PretrainConfig
from mica.training.loop import pretrain
from mica.training.step import Pretraining
from mica.training.trainer import Trainer
from mica.transforms.augment import AugmentConfig
from mica.transforms.draws import Draws
from mica.transforms.sampling import Preprocessing
from mica.transforms.streams import to_stream

MakeConfig = Callable[..., PretrainConfig]
CLASSICS = ("skeletonclr", "aimclr", "crossclr", "supervised")
CONTRASTIVE = CLASSICS[:-1]


def settings(method: str, **changes: Any) -> dict[str, Any]:
    momentum = MomentumConfig() if method == "supervised" else MomentumConfig(decay=0.9, queue=40)
    baseline = BaselineConfig(mine_after=0.5, neighbours=2, extreme=AugmentConfig(rotate=30, axis_mask=0.5))
    optimizer = OptimizerConfig(epochs=2, batch_size=16, warmup_epochs=0)
    return {"method": method, "momentum": momentum, "baseline": baseline, "optimizer": optimizer, **changes}


def steps(
    trainer: Trainer, count: int, relabel: Callable[[Tensor], Tensor] = lambda labels: labels
) -> list[Any]:
    found = []
    while len(found) < count:
        trainer.order.set_epoch(
            trainer.step // trainer.steps_per_epoch, first=trainer.step % trainer.steps_per_epoch
        )
        batch = next(trainer.batches())
        values = trainer.train_step(batch["x"], relabel(batch["label"]))
        found.append({name: value.item() for name, value in values.items()})
    return found


@pytest.mark.parametrize("method", CLASSICS)
def test_only_the_supervised_method_reads_labels(
    tiny_store: Store, tiny_config: MakeConfig, method: str
) -> None:
    config = tiny_config(**settings(method))
    found = steps(Trainer(config, tiny_store), 4)
    other = steps(Trainer(config, tiny_store), 4, relabel=lambda labels: labels.flip(0))
    assert (found == other) == (method != "supervised")
    assert all(torch.tensor(list(values.values())).isfinite().all() for values in found)


@pytest.mark.parametrize("method", CLASSICS)
def test_a_state_goes_on_to_the_bit(tiny_store: Store, tiny_config: MakeConfig, method: str) -> None:
    """What dropout draws follows from seed and step, in momentum encoders, too."""
    config = tiny_config(**settings(method, encoder=EncoderConfig("stgcn-small", dropout=0.3)))
    one, two = Trainer(config, tiny_store), Trainer(config, tiny_store)
    steps(one, 3)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    torch.manual_seed(99)
    assert steps(one, 2) == steps(two, 2)


@pytest.mark.parametrize("method", CLASSICS)
def test_a_run_can_be_evaluated_and_says_what_it_is(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path, method: str
) -> None:
    pretrain(tiny_config(**settings(method)), tiny_store, tmp_path / "run")
    card = MICA.from_pretrained(tmp_path / "run" / "checkpoint").card
    assert (card.method, card.supervision) == (method, "labels" if method == "supervised" else "none")
    result = Evaluation(tmp_path / "run", tiny_store).evaluate("knn")
    assert result.supervision == card.supervision
    readme = (tmp_path / "run" / "checkpoint" / "README.md").read_text()
    assert ("has seen no labels" in readme) == (method != "supervised")


def test_the_queue_holds_the_momentum_encoders_keys(tiny_store: Store, tiny_config: MakeConfig) -> None:
    trainer = Trainer(tiny_config(**settings("skeletonclr")), tiny_store)
    assert isinstance(trainer.trained, SkeletonCLR)
    first = steps(trainer, 1)[0]
    assert first["loss"] == 0, "with nothing in the queue there is nothing to tell a clip apart from"
    keys = trainer.trained.memory.queue.real
    assert keys.shape == (16, 8)
    assert torch.allclose(keys.norm(dim=1), torch.ones(16), atol=1e-5)
    assert steps(trainer, 1)[0]["loss"] > 0
    steps(trainer, 1)
    assert trainer.trained.memory.queue.real.shape == (40, 8)


@pytest.mark.parametrize("method", ["mica", *CONTRASTIVE])
def test_keys_are_what_momentum_encoders_say_of_the_other_view(
    tiny_store: Store, tiny_config: MakeConfig, method: Any
) -> None:
    changed = {"method": method, "objectives": ObjectiveConfig(instance=1.0)}
    trainer = Trainer(tiny_config(**{**settings("skeletonclr"), **changed}), tiny_store)
    steps(trainer, 1)
    trained, layout = trainer.trained, trainer.layout
    if isinstance(trained, Pretraining):
        assert trained.momentum is not None
        momentum = {"view2": trained.momentum.model}
    elif isinstance(trained, CrosSCLR):
        momentum = {stream: memory.encoder.model for stream, memory in trained.memories.items()}
    else:
        momentum = {"joint": trained.memory.encoder.model}
    views = torch.randn(len(trained.augmentations), 4, 3, 8, layout.num_joints, 1)
    around = Around(torch.zeros(4, dtype=torch.long), Draws(0, 0, range(4)))
    trained.begin([views], around)
    assert around.keys.keys() == momentum.keys()
    for name, model in momentum.items():
        view = to_stream(views[1], "joint" if name == "view2" else name, layout)[None]
        with torch.no_grad(), statistics_kept(model):
            expected = F.normalize(model.project(encode(model, view, torch.float32)[0]), dim=1)
        torch.testing.assert_close(around.keys[name], expected)


def test_momentum_encoders_follow_their_own_model(tiny_store: Store, tiny_config: MakeConfig) -> None:
    trainer = Trainer(tiny_config(**settings("crossclr")), tiny_store)
    assert isinstance(trainer.trained, CrosSCLR)
    weight = "encoder.blocks.0.graph.conv.weight"
    models = {stream: trainer.trained.model_of(stream) for stream in trainer.trained.memories}
    starts = [model.get_parameter(weight).clone() for model in models.values()]
    assert not any(torch.equal(starts[i], starts[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    steps(trainer, 2)
    before = {
        stream: memory.encoder.model.get_parameter(weight).clone()
        for stream, memory in trainer.trained.memories.items()
    }
    steps(trainer, 1)
    for stream, memory in trainer.trained.memories.items():
        expected = 0.9 * before[stream] + 0.1 * models[stream].get_parameter(weight)
        torch.testing.assert_close(memory.encoder.model.get_parameter(weight), expected)
        assert not any(parameter.requires_grad for parameter in memory.parameters())


def test_aimclr_mines_once_half_of_the_training_has_passed(
    tiny_store: Store, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps in all; the terms agree with the definition from the method's own queries, keys and queue."""
    trainer = Trainer(tiny_config(**settings("aimclr")), tiny_store)
    method = trainer.trained
    assert isinstance(method, AimCLR)
    seen: list[tuple[Tensor, ...]] = []
    original = method.memory.similarities

    def similarities(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        found = original(query, key)
        queue = method.memory.queue.real
        torch.testing.assert_close(found[1], torch.stack([queue @ row for row in query]).detach())
        seen.append(tuple(each.detach() for each in found))
        return found

    monkeypatch.setattr(method.memory, "similarities", similarities)
    for step in range(6):
        seen.clear()
        terms = steps(trainer, 1)[0]
        logits = torch.cat(seen[0], dim=1) / 0.07
        positives = nearest([others for _, others in seen], 2) if step >= 3 else None
        assert terms["instance"] == pytest.approx(contrast(logits, positives).item(), rel=1e-4, abs=1e-6)
        drawn = []
        for own, others in seen[1:]:
            logarithms = (torch.cat([own, others], dim=1).double() / 0.07).log_softmax(1)
            drawn.append(-(logits.double().softmax(1) * logarithms).sum(1).mean())
        assert terms["divergence"] == pytest.approx(sum(drawn).item() / 2, rel=1e-4, abs=1e-6)
        assert terms["loss"] == pytest.approx(terms["instance"] + terms["divergence"], rel=1e-5)


def test_crossclr_mines_in_the_other_stream(
    tiny_store: Store, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny_config(**settings("crossclr")), tiny_store)
    method = trainer.trained
    assert isinstance(method, CrosSCLR)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for stream, memory in method.memories.items():

        def similarities(
            query: Tensor, key: Tensor, stream: str = stream, of: Any = memory.similarities
        ) -> Any:
            found[stream] = tuple(each.detach() for each in of(query, key))
            return of(query, key)

        monkeypatch.setattr(memory, "similarities", similarities)
    for step in range(5):
        terms = steps(trainer, 1)[0]
        for stream, (own, others) in found.items():
            losses = [contrast(torch.cat([own, others], dim=1) / 0.07)]
            if step >= 3:
                losses = []
                for other in found.keys() - {stream}:
                    theirs = found[other][1]
                    logits = torch.cat([own, others, others * theirs], dim=1) / 0.07
                    mined = nearest([theirs], 2)
                    losses.append(contrast(logits, torch.cat([mined, mined], dim=1)))
            expected = torch.stack(losses).mean().item()
            assert terms[stream] == pytest.approx(expected, rel=1e-4, abs=1e-6), (step, stream)


def test_an_encoder_in_supervised_training_learns_the_classes(
    tiny_store: Store, tiny_config: MakeConfig
) -> None:
    optimizer = OptimizerConfig(epochs=20, batch_size=16, warmup_epochs=0, lr=0.01)
    trainer = Trainer(tiny_config(**settings("supervised", optimizer=optimizer)), tiny_store)
    found = steps(trainer, 40)
    assert found[-1]["classes"] < 0.5 * found[0]["classes"]
    assert trainer.model.projector[1].weight.grad is None


def test_views_are_encoded_apart(tiny_store: Store, tiny_config: MakeConfig) -> None:
    """A batch norm sees the ordinary view alone, and then the extreme one, as published."""
    trainer = Trainer(tiny_config(**settings("aimclr")), tiny_store)
    method = trainer.trained
    assert isinstance(method, AimCLR)
    views = torch.randn(3, 4, 3, 8, trainer.layout.num_joints, 1)
    method.train()
    features = method._extreme_features(views[2])
    torch.testing.assert_close(features[0], encode(method.model, views[2:], torch.float32)[0])
    assert not torch.equal(features[0], features[1])
    assert F.normalize(method.model.project(features[1]), dim=1).isfinite().all()


@pytest.mark.parametrize(
    ("method", "change", "field"),
    [
        ("aimclr", {"text": "minilm"}, "text"),
        ("aimclr", {"momentum": MomentumConfig(queue=8)}, "momentum.decay"),
        ("skeletonclr", {"momentum": MomentumConfig(decay=0.9)}, "momentum.queue"),
        ("crossclr", {"momentum": MomentumConfig(decay=0.9, queue=8, evaluated=True)}, "momentum.evaluated"),
        ("crossclr", {"preprocessing": Preprocessing(stream="bone")}, "preprocessing.stream"),
        ("supervised", {"momentum": MomentumConfig(decay=0.9)}, "momentum"),
        ("supervised", {"optimizer": OptimizerConfig(micro_batch=4)}, "optimizer.micro_batch"),
        ("aimclr", {"baseline": BaselineConfig(neighbours=0)}, "baseline.neighbours"),
        ("aimclr", {"baseline": BaselineConfig(extreme=AugmentConfig(flip=2))}, "baseline.extreme.flip"),
    ],
)
def test_settings_that_a_method_has_no_use_for_are_named(
    method: str, change: dict[str, Any], field: str
) -> None:
    config = replace(PretrainConfig(), **{"text": "none", **settings(method), **change})
    with pytest.raises(InputError) as caught:
        check_config(config)
    assert caught.value.field == field
