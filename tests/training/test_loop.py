"""Pretraining: the same every time, from the clips it may read, for the terms it was told, and never past a NaN."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from mica.configs import load_config
from mica.data.splits import split, zero_shot_split
from mica.data.store import Store, write
from mica.errors import InputError
from mica.evaluation.features import random_model
from mica.models.mica import MICA
from mica.models.stgcn import EncoderConfig
from mica.objectives import ObjectiveConfig, Objectives
from mica.skeleton import LAYOUTS, layout_from_dict, layout_to_dict
from mica.training import trainer as trainer_module
from mica.training.config import PretrainConfig, SplitConfig
from mica.training.loop import pretrain
from mica.training.step import Pretraining
from mica.training.trainer import Trainer
from mica.transforms.augment import AugmentConfig

RUN = [".lock", "checkpoint", "config.yaml", "metrics.jsonl", "starts.jsonl"]
MakeConfig = Callable[..., PretrainConfig]


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "checkpoint" / "model.safetensors")


def differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    assert one.keys() == two.keys()
    return [name for name in one if not torch.equal(one[name], two[name])]


@pytest.fixture
def clips_read(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The positions of all clips whose coordinates are looked at from now on."""
    read: set[int] = set()
    original = Store.keypoints

    def keypoints(self: Store, i: int) -> np.ndarray:
        read.add(int(i))
        return original(self, i)

    monkeypatch.setattr(Store, "keypoints", keypoints)
    return read


def test_same_seed_same_weights_to_the_bit(
    tiny_run: Path, tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    torch.rand(7)  # whatever was drawn before must not matter
    pretrain(tiny_config(knn_every=1), tiny_store, tmp_path / "again")
    assert differing(weights(tiny_run), weights(tmp_path / "again")) == []
    pretrain(tiny_config(knn_every=1, seed=1), tiny_store, tmp_path / "other")
    assert "encoder.blocks.0.graph.conv.weight" in differing(weights(tiny_run), weights(tmp_path / "other"))


def test_measuring_the_knn_changes_nothing(
    tiny_run: Path, tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    pretrain(tiny_config(knn_every=0), tiny_store, tmp_path / "run")
    assert differing(weights(tiny_run), weights(tmp_path / "run")) == []


def test_the_random_encoder_is_the_one_before_training(tiny_store: Store, tiny_config: MakeConfig) -> None:
    torch.rand(3)
    trainer = Trainer(tiny_config(seed=5), tiny_store)
    fresh = random_model(trainer.card)
    assert differing(dict(fresh.named_parameters()), dict(trainer.model.named_parameters())) == []


def test_loss_falls(tiny_store: Store, tiny_config: MakeConfig, fake_text: None) -> None:
    trainer = Trainer(tiny_config(text="minilm", epochs=4, batch_size=8), tiny_store)
    batch = next(iter(trainer.loader))
    losses = [trainer.train_step(batch["x"], batch["label"])["loss"].item() for _ in range(12)]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), losses


@pytest.mark.parametrize(
    ("text", "objectives", "terms"),
    [
        ("none", ObjectiveConfig(), {"intra"}),
        ("minilm", ObjectiveConfig(), {"intra", "modulation", "inter"}),
        ("minilm", ObjectiveConfig(intra=0), {"modulation", "inter"}),
        ("minilm", ObjectiveConfig(inter=0, intra=0), {"modulation"}),
        ("minilm", ObjectiveConfig(modulation=0, intra=0), {"inter"}),
        ("minilm", ObjectiveConfig(modulation=0, inter=0), {"intra"}),
    ],
    ids=["no text", "all", "text alone", "modulation", "inter", "intra"],
)
def test_objectives_can_be_switched(
    tiny_store: Store,
    tiny_config: MakeConfig,
    fake_text: None,
    text: str,
    objectives: ObjectiveConfig,
    terms: set[str],
) -> None:
    trainer = Trainer(tiny_config(text=text, objectives=objectives, batch_size=4), tiny_store)
    batch = next(iter(trainer.loader))
    before = trainer.model.encoder.blocks[0].graph.conv.weight.detach().clone()
    values = trainer.train_step(batch["x"], batch["label"])
    assert set(values) == terms | {"loss", "gradient", "stop"}
    assert values["loss"].item() == pytest.approx(sum(values[name].item() for name in terms), rel=1e-5)
    assert not any(value.requires_grad for value in values.values())
    assert not torch.equal(before, trainer.model.encoder.blocks[0].graph.conv.weight)


def test_text_none_never_loads_a_text_encoder(
    tiny_store: Store, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trainer_module, "load_text_encoder", lambda *_: pytest.fail("a text encoder was loaded")
    )
    trainer = Trainer(tiny_config(text="none"), tiny_store)
    assert trainer.model.semantic is None
    assert trainer.card.text_width is None


def test_metrics_have_a_line_an_epoch(tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path) -> None:
    pretrain(tiny_config(epochs=3, knn_every=2, batch_size=24), tiny_store, tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    fields = ["epoch", "step", "intra", "loss", "gradient", "clips_per_second", "seconds", "waited", "lr"]
    fields.append("knn_validation")
    assert [list(record) for record in records] == [fields] * 3
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert [record["step"] for record in records] == [2, 4, 6]
    assert [record["knn_validation"] is None for record in records] == [True, False, False]
    assert all(record["clips_per_second"] > 0 and record["seconds"] > 0 for record in records)
    assert records[0]["lr"] > records[1]["lr"] > records[2]["lr"] > 0


def test_metrics_with_text_name_every_term(text_run: Path) -> None:
    record = json.loads((text_run / "metrics.jsonl").read_text())
    assert {"modulation", "inter", "intra", "loss"} <= set(record)


def test_config_reloads_as_it_was(text_run: Path, tiny_config: MakeConfig) -> None:
    assert load_config(str(text_run / "config.yaml")) == tiny_config(text="minilm")


def test_config_of_a_zero_shot_run_reloads_as_it_was(zero_shot_run: Path, tiny_config: MakeConfig) -> None:
    config = tiny_config(batch_size=11, text="minilm", split=SplitConfig(zero_shot="22/5", part="train"))
    assert load_config(str(zero_shot_run / "config.yaml")) == config


def test_fit_reads_only_fit(tiny_store: Store, tiny_config: MakeConfig, clips_read: set[int]) -> None:
    trainer = Trainer(tiny_config(), tiny_store)
    trainer.run_epoch(0, tqdm(disable=True))
    assert clips_read == set(split(tiny_store, "cross-subject").fit.tolist())


def test_running_knn_reads_validation_and_never_the_test_part(
    tiny_store: Store, tiny_config: MakeConfig, clips_read: set[int]
) -> None:
    trainer = Trainer(tiny_config(knn_every=1), tiny_store)
    trainer.knn_accuracy()
    assert clips_read == set(split(tiny_store, "cross-subject").train.tolist())


def test_train_reads_the_whole_training_part(
    tiny_store: Store, tiny_config: MakeConfig, clips_read: set[int]
) -> None:
    trainer = Trainer(tiny_config(split=SplitConfig(part="train")), tiny_store)
    trainer.run_epoch(0, tqdm(disable=True))
    assert clips_read == set(split(tiny_store, "cross-subject").train.tolist())


def test_unseen_classes_are_never_read(
    zero_shot_store: Store, tiny_config: MakeConfig, clips_read: set[int]
) -> None:
    how = SplitConfig(zero_shot="22/5", part="train")
    trainer = Trainer(tiny_config(batch_size=11, split=how, knn_every=1), zero_shot_store)
    trainer.run_epoch(0, tqdm(disable=True))
    unseen = zero_shot_split("utd-mhad", "22/5").unseen
    labels = zero_shot_store.labels[sorted(clips_read)]
    assert len(clips_read) == 44
    assert not np.isin(labels, unseen).any()
    assert set(trainer.card.seen_classes) == set(range(27)) - set(unseen)


@pytest.mark.parametrize(("mirror", "warned"), [(0.0, 1), (0.5, 0)])
def test_views_that_are_the_same_are_told(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path, mirror: float, warned: int
) -> None:
    config = replace(tiny_config(epochs=1), augment=AugmentConfig(mirror=mirror))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pretrain(config, tiny_store, tmp_path / "run")
    assert sum("both views of a clip are the same" in str(one.message) for one in caught) == warned


def test_words_of_unseen_classes_are_no_concepts(
    zero_shot_store: Store, tiny_config: MakeConfig, fake_text: None
) -> None:
    how = SplitConfig(zero_shot="22/5", part="train")
    trainer = Trainer(tiny_config(batch_size=11, split=how, text="minilm"), zero_shot_store)
    assert isinstance(trainer.trained, Pretraining)
    assert len(trainer.trained.objectives.concepts) == 22


def test_a_loss_that_is_not_finite_stops_training(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = trainer_module.augment
    calls = iter(range(100))

    def spoiled(x: Tensor, *rest: object) -> Tensor:
        return original(x, *rest) * (math.nan if next(calls) == 3 else 1.0)  # two views a step

    monkeypatch.setattr(trainer_module, "augment", spoiled)
    with pytest.raises(InputError, match=r"epoch 0, step 1 of 3: the term 'intra' is nan"):
        pretrain(tiny_config(), tiny_store, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every view, and the wordings of every step, from now on."""
    found: list[Tensor] = []
    view, texts = trainer_module.augment, Objectives.draw_texts

    def recorded_view(*arguments: object) -> Tensor:
        found.append(view(*arguments))
        return found[-1]

    def recorded_texts(*arguments: object) -> Tensor:
        found.append(texts(*arguments))
        return found[-1]

    monkeypatch.setattr(trainer_module, "augment", recorded_view)
    monkeypatch.setattr(Objectives, "draw_texts", recorded_texts)
    return found


def test_a_later_epoch_needs_nothing_of_those_before(
    tiny_store: Store, tiny_config: MakeConfig, fake_text: None, drawn: list[Tensor]
) -> None:
    """Order, views and wordings follow from seed, epoch and step."""
    config = tiny_config(epochs=2, text="minilm")
    whole, late = (Trainer(config, tiny_store) for _ in range(2))
    for epoch in range(2):
        whole.run_epoch(epoch, tqdm(disable=True))
    size = len(drawn) // 2
    first, second = drawn[:size], drawn[size:]
    drawn.clear()
    late.step = len(late.loader)
    late.run_epoch(1, tqdm(disable=True))
    assert len(drawn) == size == 3 * len(late.loader)
    assert all(torch.equal(one, two) for one, two in zip(drawn, second, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_each_step_and_view_draws_for_itself(
    tiny_store: Store, tiny_config: MakeConfig, fake_text: None, drawn: list[Tensor]
) -> None:
    config = tiny_config(epochs=2, text="minilm")
    trainer, other = Trainer(config, tiny_store), Trainer(replace(config, seed=1), tiny_store)
    batch = next(iter(trainer.loader))
    for _ in range(2):
        trainer.train_step(batch["x"], batch["label"])
    other.train_step(batch["x"], batch["label"])
    views, texts = [drawn[i] for i in (0, 1, 3, 4, 6, 7)], drawn[2::3]
    for several in (views, texts):
        assert not any(torch.equal(one, two) for i, one in enumerate(several) for two in several[:i])


def test_clips_come_in_another_order_each_epoch(
    tiny_store: Store, tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, labels = Trainer(tiny_config(epochs=2), tiny_store), []
    step = trainer.train_step
    monkeypatch.setattr(trainer, "train_step", lambda x, label: (labels.append(label), step(x, label))[1])
    for epoch in range(2):
        trainer.run_epoch(epoch, tqdm(disable=True))
    first, second = torch.cat(labels).chunk(2)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


def test_overwrite_keeps_the_old_run_until_the_settings_are_good(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("encoder: {}\noptimizer: {}\n")
    (run / "kept").touch()
    bad = [
        tiny_config(encoder=EncoderConfig("stgcn-small", groups=7)),
        tiny_config(batch_size=4000),
        tiny_config(split=SplitConfig(protocol="cross-view")),
        tiny_config(epochs=0),
        tiny_config(objectives=ObjectiveConfig(intra=0)),
    ]
    for config in bad:
        with pytest.raises(InputError):
            pretrain(config, tiny_store, run, overwrite=True)
        assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "kept"]
    pretrain(tiny_config(batch_size=48), tiny_store, run, overwrite=True)
    assert sorted(path.name for path in run.iterdir()) == RUN


def test_settings_from_python_are_checked_too(tiny_store: Store, tiny_config: MakeConfig) -> None:
    config = tiny_config()
    for field, broken in (
        ("optimizer.lr", replace(config, optimizer=replace(config.optimizer, lr=math.nan))),
        ("augment.mirror", replace(config, augment=replace(config.augment, mirror=2.0))),
        ("seed", replace(config, seed=2**63)),
    ):
        with pytest.raises(InputError) as caught:
            Trainer(broken, tiny_store)
        assert caught.value.field == field


def test_a_layout_of_ones_own_travels_with_the_model(
    tiny_store: Store, tiny_config: MakeConfig, tmp_path: Path
) -> None:
    described = {**layout_to_dict(tiny_store.layout), "name": "my sensor"}
    info = replace(tiny_store.info, layout="my sensor", own_layout=described)
    clips = (tiny_store.clip(i) for i in range(len(tiny_store)))
    store = Store.open(write(tmp_path / "own.arrow", clips, info).path)
    assert store.layout == layout_from_dict(described)
    pretrain(tiny_config(), store, tmp_path / "run")
    model = MICA.from_pretrained(tmp_path / "run" / "checkpoint")
    card = model.card
    assert card.own_layout == described
    assert card.layout == "my sensor" not in LAYOUTS
    x = torch.randn(2, 3, 8, store.layout.num_joints, 1)
    assert model.features(x).isfinite().all()
