"""Training with labels: the head starts as the probe, each step is what it says, and all of it follows from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mica.data.dataset import SkeletonDataset
from mica.data.splits import split
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation import tuning
from mica.evaluation.features import Scaling
from mica.evaluation.linear import LinearClassifier
from mica.evaluation.tuning import Classifier, FineTuneConfig, Head, fine_tune
from mica.models.frest import FreST
from mica.models.mica import MICA, ModelCard
from mica.models.stgcn import GraphConv
from mica.transforms.augment import VIEWS, AugmentConfig
from mica.transforms.streams import to_stream

CLASSES = 16
QUICK = FineTuneConfig(epochs=2, batch_size=16, lr=1e-3, head_lr=3e-3, augment=VIEWS["basic"])
Make = Callable[..., Classifier]


@pytest.fixture
def card(tiny_run: Path) -> ModelCard:
    return ModelCard.read(tiny_run / "checkpoint")


@pytest.fixture
def clips(tiny_store: Store, card: ModelCard) -> SkeletonDataset:
    return SkeletonDataset(tiny_store, split(tiny_store, "cross-subject").fit, card.preprocessing)


@pytest.fixture
def make(tiny_run: Path) -> Make:
    """Make a classifier from the run, whose head the same seed makes the same."""

    def make(seed: int = 0, **of_card: object) -> Classifier:
        model = MICA.from_pretrained(tiny_run / "checkpoint")
        card = model.card
        draw = torch.Generator().manual_seed(seed)
        weight = 0.1 * torch.randn(CLASSES, model.num_features, generator=draw)
        probe = LinearClassifier(weight, torch.zeros(CLASSES))
        scaling = Scaling(torch.zeros(model.num_features), torch.ones(model.num_features))
        return Classifier(model, replace(card, **of_card), Head(probe, scaling)).eval()

    return make


def weights(classifier: Classifier) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def train(
    classifier: Classifier, clips: SkeletonDataset, config: FineTuneConfig = QUICK, seed: int = 0
) -> dict:
    assert list(fine_tune(classifier, clips, config, seed)) == list(range(1, config.epochs + 1))
    return weights(classifier)


def differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    assert one.keys() == two.keys()
    return [name for name in one if not torch.equal(one[name], two[name])]


def test_head_starts_as_its_probe() -> None:
    """Features four orders of magnitude apart and far from zero, one that never varied, a class without a clip."""
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(50, 8, generator=draw) * torch.logspace(-2, 2, 8) + 1000
    features[:, 3] = 5
    probe = LinearClassifier(torch.randn(4, 8, generator=draw), torch.tensor([0.5, -torch.inf, 1.0, -2.0]))
    head = Head(probe, Scaling.of(features))
    assert head.classes.tolist() == [0, 2, 3]
    expected = features.double() @ probe.weight.double().T + probe.bias.double()
    torch.testing.assert_close(head(features).double(), expected[:, [0, 2, 3]], rtol=1e-3, atol=0.05)
    assert head.scale[3] == 1
    assert (head.weight[:, 0] / probe.weight[[0, 2, 3], 0]).std() < 1e-6
    assert {name for name, _ in head.named_parameters()} == {"weight", "bias"}


def test_predictions_are_classes_in_the_order_of_the_clips(make: Make, clips: SkeletonDataset) -> None:
    classifier = make()
    classifier.head.classes = torch.arange(CLASSES) * 3
    logits = torch.stack([classifier(clips[i]["x"][None])[0] for i in range(len(clips))])
    assert classifier.predict(clips).tolist() == (logits.argmax(1) * 3).tolist()


@pytest.mark.parametrize("stream", ["joint", "bone", "motion"])
def test_streams_are_made_of_what_comes_in(
    make: Make, clips: SkeletonDataset, card: ModelCard, stream: str
) -> None:
    how = replace(card.preprocessing, stream=stream)
    classifier, x = make(preprocessing=how), clips[0]["x"][None]
    features = classifier.model.features(to_stream(x, how.stream, clips.store.layout))
    assert torch.equal(classifier(x), classifier.head(features))


def reference(
    classifier: Classifier, clips: SkeletonDataset, config: FineTuneConfig, order: list[list[int]]
) -> dict[str, Tensor]:
    """AdamW by hand: Loshchilov and Hutter, ICLR 2019, algorithm 2; without an augmentation.

    Returns where a gradient was above what float32 rounds to: elsewhere the steps, of full length, are of noise.
    """
    names = {
        name: parameter
        for name, parameter in classifier.named_parameters()
        if name.startswith(("model.enc", "head"))
    }
    first = {name: torch.zeros_like(parameter) for name, parameter in names.items()}
    second = {name: torch.zeros_like(parameter) for name, parameter in names.items()}
    classifier.train()
    for step, batch in enumerate(order):
        x = torch.stack([clips[i]["x"] for i in batch])
        labels = torch.tensor([clips[i]["label"] for i in batch])
        log = classifier.head(classifier.model.features(x)).log_softmax(1)
        gradients = torch.autograd.grad(
            -log[range(len(batch)), labels].mean(), list(names.values()), allow_unused=True
        )
        share = (
            min(1, (step + 1) / (config.warmup * len(order)))
            * (1 + math.cos(math.pi * step / len(order)))
            / 2
        )
        for (name, parameter), gradient in zip(names.items(), gradients, strict=True):
            rate = share * (config.head_lr if name.startswith("head") else config.lr)
            decays = name == "head.weight" or (parameter.ndim == 4 and "gate" not in name)
            assert gradient is not None, name
            with torch.no_grad():
                parameter *= 1 - rate * config.weight_decay * decays
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
                parameter -= rate * mean / (square.sqrt() + 1e-8)
    return {name: square.sqrt() > 1e-5 for name, square in second.items()}


def test_steps_are_those_of_the_definition(
    make: Make, clips: SkeletonDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(QUICK, weight_decay=20.0, warmup=0.4, augment=AugmentConfig())
    seen: list[list[int]] = []
    original = SkeletonDataset.__getitems__

    def getitems(self: SkeletonDataset, chosen: list[int]) -> object:
        seen.append(list(chosen))
        return original(self, chosen)

    one, two = make(), make()
    with monkeypatch.context() as patch:
        patch.setattr(tuning, "multiplies_bfloat16", lambda device: False)
        patch.setattr(SkeletonDataset, "__getitems__", getitems)
        train(one, clips, config)
    assert [len(batch) for batch in seen] == [16] * 6
    assert sorted(chain(*seen[:3])) == sorted(chain(*seen[3:])) == list(range(48))
    assert seen[0] != seen[3]
    certain = reference(two, clips, config, seen)
    before, after, expected = make().state_dict(), one.state_dict(), two.state_dict()
    assert sum(map(torch.sum, certain.values())) > 0.5 * sum(map(torch.numel, certain.values()))
    for name, where in certain.items():
        apart, moved = (
            (after[name] - expected[name])[where].norm(),
            (before[name] - expected[name])[where].norm(),
        )
        assert apart <= 0.1 * moved, name
        assert not torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("able", [True, False])
def test_training_and_nothing_else_is_in_bfloat16_where_the_hardware_multiplies_it(
    able: bool, make: Make, clips: SkeletonDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "multiplies_bfloat16", lambda device: able)
    classifier, kinds = make(), []
    conv = next(module for module in classifier.modules() if isinstance(module, GraphConv))
    conv.register_forward_hook(lambda module, given, result: kinds.append(result.dtype))
    before = weights(classifier)
    after = train(classifier, clips, replace(QUICK, epochs=1))
    classifier.predict(clips)
    assert kinds == [torch.bfloat16 if able else torch.float32] * 3 + [torch.float32]
    assert {name: value.dtype for name, value in after.items()} == {
        name: value.dtype for name, value in before.items()
    }
    assert all(value.isfinite().all() for value in after.values())


def test_all_of_the_encoder_learns_and_nothing_else(make: Make, clips: SkeletonDataset) -> None:
    classifier = make()
    before = weights(classifier)
    changed = set(differing(before, train(classifier, clips)))
    learned = {name for name, _ in classifier.named_parameters()}
    assert learned & changed == {name for name in learned if name.startswith(("model.encoder.", "head."))}
    assert "model.encoder.input_norm.running_mean" in changed
    assert not {"head.mean", "head.scale", "head.classes"} & changed
    assert not classifier.training


def test_filters_and_norms_are_spared_from_decay(make: Make) -> None:
    classifier = make()
    groups = tuning._make_optimizer(classifier, replace(QUICK, weight_decay=0.5)).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    encoder = classifier.model.encoder
    assert sum(len(group["params"]) for group in groups) == len(decay) == len(list(encoder.parameters())) + 2
    for layer in encoder.modules():
        if isinstance(layer, FreST):
            assert not any(decay[id(parameter)] for parameter in layer.gate.parameters())
            assert decay[id(layer.spatial_response)] == 0
        if isinstance(layer, torch.nn.Conv2d):
            assert decay[id(layer.weight)] == 0.5
    assert {decay[id(parameter)] for parameter in encoder.parameters() if parameter.ndim < 2} == {0}
    assert {rates[id(parameter)] for parameter in encoder.parameters()} == {QUICK.lr}
    assert {rates[id(parameter)] for parameter in classifier.head.parameters()} == {QUICK.head_lr}


def test_loss_falls(make: Make, clips: SkeletonDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = []
    cross_entropy = F.cross_entropy

    def spy(*arguments: Tensor) -> Tensor:
        losses.append(cross_entropy(*arguments))
        return losses[-1]

    monkeypatch.setattr(F, "cross_entropy", spy)
    train(make(), clips, replace(QUICK, epochs=4, augment=AugmentConfig()))
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_seed_determines_everything(make: Make, clips: SkeletonDataset, dropout: float) -> None:
    def trained(seed: int, noise: int) -> dict[str, Tensor]:
        classifier = make()
        for module in classifier.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        found = train(classifier, clips, replace(QUICK, epochs=1), seed)
        assert torch.equal(state, torch.get_rng_state()), "what others draw must not change"
        return found

    first = trained(seed=1, noise=1)
    assert differing(first, trained(seed=1, noise=2)) == []
    assert "model.encoder.blocks.0.graph.conv.weight" in differing(first, trained(seed=2, noise=1))


def test_stopping_is_the_beginning_of_the_whole(make: Make, clips: SkeletonDataset) -> None:
    whole, stopped = make(), make()
    for epoch in fine_tune(whole, clips, replace(QUICK, epochs=3), 0):
        assert not whole.training
        if epoch == 2:
            halfway = weights(whole)
    assert list(islice(fine_tune(stopped, clips, replace(QUICK, epochs=3), 0), 2)) == [1, 2]
    assert differing(weights(stopped), halfway) == []
    assert differing(weights(stopped), weights(whole)) != []


def test_few_steps_are_enough_for_the_norms(make: Make, clips: SkeletonDataset) -> None:
    """What a norm takes for the mean in evaluation is soon that of the clips, wherever it began."""
    classifier, still = (
        make(),
        replace(QUICK, epochs=4, batch_size=48, lr=0, head_lr=0, augment=AugmentConfig()),
    )
    norm = classifier.model.encoder.input_norm
    norm.running_mean.fill_(100)
    train(classifier, clips, still)
    x = torch.stack([clips[i]["x"] for i in range(48)])
    mean = x.mean((0, 2, 4)).T.flatten()
    torch.testing.assert_close(norm.running_mean, mean + (100 - mean) / 4**4, rtol=1e-3, atol=1e-3)
    tuning._hurry_statistics(classifier, 1000)
    assert norm.momentum == 0.1


def test_views_are_drawn_as_configured(
    make: Make, clips: SkeletonDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another view at every step, of clips of a class or two too: few clips are one batch."""
    views, original = [], tuning.augment

    def spy(x: Tensor, config: AugmentConfig, *rest: object) -> Tensor:
        assert config is QUICK.augment
        views.append(original(x, config, *rest))
        return views[-1]

    monkeypatch.setattr(tuning, "augment", spy)
    few = SkeletonDataset(clips.store, clips.indices[:1], clips.how)
    train(make(), few)
    assert [len(view) for view in views] == [1, 1]
    assert not torch.equal(*views)
    assert not torch.equal(views[0][0], few[0]["x"])


def test_classes_without_a_clip_need_no_place(make: Make, clips: SkeletonDataset) -> None:
    """Labels are counted among those that the head knows."""
    labels = clips.store.labels[clips.indices]
    some = SkeletonDataset(clips.store, clips.indices[np.isin(labels, (2, 5, 11))], clips.how)
    classifier = make()
    head = classifier.head
    head.classes = torch.tensor([2, 5, 11])
    head.weight, head.bias = (torch.nn.Parameter(value.detach()[:3]) for value in (head.weight, head.bias))
    train(classifier, some, replace(QUICK, epochs=8))
    logits = classifier.train()(torch.stack([some[i]["x"] for i in range(len(some))]))
    assert head.classes[logits.argmax(1)].tolist() == some.store.labels[some.indices].tolist()


@pytest.mark.parametrize(("call", "epoch", "step"), [(0, 0, 0), (4, 1, 1)])
def test_a_loss_that_is_not_finite_is_refused(
    make: Make, clips: SkeletonDataset, monkeypatch: pytest.MonkeyPatch, call: int, epoch: int, step: int
) -> None:
    calls = iter(range(100))
    monkeypatch.setattr(tuning, "augment", lambda x, *_: x * torch.nan if next(calls) == call else x)
    with pytest.raises(InputError, match=f"epoch {epoch}, step {step} of 3: the loss is nan"):
        train(make(), clips)


@pytest.mark.parametrize("field", ["epochs", "batch_size"])
def test_no_epochs_and_no_clips_are_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"'{field}': 0, expected at least 1"):
        replace(QUICK, **{field: 0})


@pytest.mark.parametrize("field", ["lr", "head_lr"])
@pytest.mark.parametrize("rate", [-1.0, math.inf, math.nan])
def test_rates_that_lead_nowhere_are_refused(field: str, rate: float) -> None:
    with pytest.raises(InputError, match="expected a finite rate, at least 0") as caught:
        FineTuneConfig(**{field: rate})
    assert caught.value.field == field


@pytest.mark.parametrize(("batch_size", "count", "steps"), [(16, 48, 3), (16, 47, 2), (16, 7, 1), (1, 7, 7)])
def test_steps_of_an_epoch(batch_size: int, count: int, steps: int) -> None:
    assert replace(QUICK, batch_size=batch_size).steps_per_epoch(count) == steps
