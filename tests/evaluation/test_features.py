"""Features are the model's own, of the clips of the split; scaling is exact without the memory of float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mica.data.dataset import SkeletonDataset
from mica.data.splits import Split, split
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.features import (
    Scaling,
    encoder_features,
    extract_features,
    random_model,
    raw_features,
)
from mica.models.mica import MICA


@pytest.fixture
def model(tiny_run: Path) -> MICA:
    return MICA.from_pretrained(tiny_run / "checkpoint")


@pytest.fixture
def division(model: MICA, tiny_store: Store) -> Split:
    return split(tiny_store, model.card.protocol)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 128])
def test_features_are_the_models_own_and_leave_it_alone(
    model: MICA, tiny_store: Store, batch_size: int
) -> None:
    card = model.card
    dataset = SkeletonDataset(tiny_store, [3, 1, 2], card.preprocessing)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    features, labels = extract_features(model, dataset, "joint", tiny_store.layout, batch_size)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert labels.tolist() == tiny_store.labels[[3, 1, 2]].tolist()
    assert (features.dtype, labels.dtype) == (torch.float32, torch.int64)
    with torch.inference_mode():
        expected = model.eval().features(torch.stack([dataset[i]["x"] for i in range(3)]))
    torch.testing.assert_close(features, expected)


def test_no_clips_have_no_features(model: MICA, tiny_store: Store) -> None:
    card = model.card
    dataset = SkeletonDataset(tiny_store, [], card.preprocessing)
    features, labels = extract_features(model, dataset, "joint", tiny_store.layout)
    assert (features.shape, labels.shape) == ((0, model.num_features), (0,))


def test_streams_have_features_of_their_own(model: MICA, tiny_store: Store, division: Split) -> None:
    card = model.card
    how = replace(card.preprocessing, stream="bone")
    joint, bone = (
        encoder_features(model, card, tiny_store, division).test
        for card in (card, replace(card, preprocessing=how))
    )
    assert not torch.allclose(joint, bone)


def test_a_bar_is_shown_only_where_it_is_asked_for(
    model: MICA,
    tiny_store: Store,
    division: Split,
    capsys: pytest.CaptureFixture[str],
) -> None:
    card = model.card
    silent = encoder_features(model, card, tiny_store, division)
    raw_features(card, tiny_store, division, align_view=False)
    assert capsys.readouterr() == ("", "")
    shown = encoder_features(model, card, tiny_store, division, progress="extract")
    assert torch.equal(silent.test, shown.test)
    assert "extract: 100%" in capsys.readouterr().err


def test_random_features_differ_from_trained(model: MICA, tiny_store: Store, division: Split) -> None:
    card = model.card
    trained, random = (
        encoder_features(model, card, tiny_store, division) for model in (model, random_model(card))
    )
    assert torch.equal(trained.test_labels, random.test_labels)
    assert not torch.allclose(trained.test, random.test)
    assert (F.cosine_similarity(trained.test, random.test) < 1 - 1e-4).all()


def test_a_random_model_neither_heeds_nor_moves_the_global_seed(
    model: MICA,
) -> None:
    card = model.card
    weights = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        weights.append(torch.cat([p.flatten() for p in random_model(card).parameters()]))
        assert torch.equal(torch.get_rng_state(), Generator().manual_seed(noise).get_state())
    assert torch.equal(*weights)
    torch.manual_seed(card.seed)
    assert torch.equal(weights[0], torch.cat([p.flatten() for p in card.build().parameters()]))


@pytest.mark.parametrize("turned", [False, True])
def test_parts_are_those_of_the_split(model: MICA, tiny_store: Store, division: Split, turned: bool) -> None:
    card = model.card
    features = raw_features(card, tiny_store, division, align_view=turned)
    assert features.train_labels.tolist() == tiny_store.labels[division.train].tolist()
    assert features.test_labels.tolist() == tiny_store.labels[division.test].tolist()
    assert division.train[features.fit.numpy()].tolist() == division.fit.tolist()
    assert features.test.shape == (64, 3 * 8 * 25)
    how = replace(card.preprocessing, align_view=turned)
    expected = SkeletonDataset(tiny_store, division.test, how)[5]["x"].flatten()
    torch.testing.assert_close(features.test[5], expected)
    clips = features.for_choosing
    assert (len(clips.fit), len(clips.validation)) == (48, 16)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_are_refused_with_the_clip(
    model: MICA, tiny_store: Store, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    card = model.card
    features = model.features

    def broken(x: Tensor) -> Tensor:
        found = features(x)
        found[-1, 7] = value
        return found

    monkeypatch.setattr(model, "features", broken)
    dataset = SkeletonDataset(tiny_store, [4, 2, 9], card.preprocessing)
    model.train()
    with pytest.raises(InputError, match="features that are not finite, of 1 of 3 clips") as caught:
        extract_features(model, dataset, "joint", tiny_store.layout)
    assert (caught.value.file, caught.value.clip) == (tiny_store.path, tiny_store.names[9])
    assert model.training


def in_float64(x: Tensor) -> tuple[Tensor, Tensor]:
    wide = x.double()
    return wide.mean(0), wide.std(0, unbiased=False)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_scaling_of_many_clips_is_that_of_float64(offset: float) -> None:
    x = torch.randn(100_003, 4, generator=Generator().manual_seed(0)) * torch.tensor([0.01, 1.0, 3.0, 50.0])
    x += offset
    mean, spread = in_float64(x)
    scaling = Scaling.of(x)
    assert scaling.mean.dtype == scaling.scale.dtype == torch.float32
    torch.testing.assert_close(scaling.mean.double(), mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(scaling.scale.double(), 1 / spread, rtol=2e-7, atol=0)


def test_scaled_clips_have_mean_0_and_spread_1_and_are_a_copy() -> None:
    x = torch.randn(5000, 3, generator=Generator().manual_seed(0)) * 7 + 2
    before = x.clone()
    mean, spread = in_float64(Scaling.of(x)(x))
    torch.testing.assert_close(mean, torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(spread, torch.ones(3).double(), atol=1e-6, rtol=0)
    assert torch.equal(x, before)


def test_what_never_varies_becomes_0() -> None:
    """Constants of any size, and rounding around one; but small features count where all are small."""
    x = torch.randn(3000, 4, generator=Generator().manual_seed(0))
    x[:, 1], x[:, 2] = 12345.678, 0.0
    x[:, 3] *= 1e-8
    scaled = Scaling.of(x)(x)
    assert (scaled.abs().amax(0) > 0).tolist() == [True, False, False, False]
    small = x[:, [0, 3]] * torch.tensor([1e-8, 1.0])
    assert (Scaling.of(small)(small).abs().amax(0) > 1).all()
    assert Scaling.of(torch.ones(4, 2))(torch.randn(3, 2)).abs().max() == 0
    assert Scaling.of(torch.randn(1, 2))(torch.randn(3, 2)).abs().max() == 0


def test_scaling_keeps_nan_visible() -> None:
    x = torch.randn(6, 2)
    x[2, 1] = torch.nan
    assert Scaling.of(x)(x)[:, 1].isnan().all()


def test_a_head_can_be_trained_on_them(tiny_run: Path, tiny_store: Store) -> None:
    model = MICA.from_pretrained(tiny_run / "checkpoint")
    dataset = SkeletonDataset(tiny_store, [0, 1], model.card.preprocessing)
    features, labels = extract_features(model, dataset, "joint", tiny_store.layout)
    head = torch.nn.Linear(features.shape[1], 16)
    F.cross_entropy(head(features), labels).backward()
    assert head.weight.grad is not None
    assert head.weight.grad.any()
