"""The labels of the test clips change no choice and no prediction, by any protocol; those of validation clips may."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from mica.data.splits import Split, split
from mica.data.store import Store
from mica.evaluation import linear, semi
from mica.evaluation.ensemble import ensemble_scores
from mica.evaluation.features import SplitFeatures
from mica.evaluation.finetune import FineTuneConfig, finetune_scores
from mica.evaluation.knn import knn_scores
from mica.evaluation.linear import fit_sgd, linear_scores
from mica.evaluation.results import Score, score
from mica.evaluation.retrieval import retrieval_scores
from mica.evaluation.semi import semi_scores
from mica.evaluation.transfer import transfer_scores
from mica.evaluation.zero_shot import zero_shot_scores
from mica.models.heads import HeadConfig
from mica.models.mica import ModelCard
from mica.models.stgcn import EncoderConfig
from mica.skeleton import SkeletonLayout
from mica.transforms.sampling import Preprocessing

K = 4
NAMES = tuple(f"class {label}" for label in range(K))
TEST = 24
STREAMS = ("joint", "bone", "motion")
PROTOCOLS = ("linear", "knn", "retrieval", "finetune", "semi", "transfer", "zero_shot", "ensemble")


@dataclass
class Found:
    """What a protocol chose, by variant, and what it predicted for the test clips on the way there."""

    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    predicted: dict[str, list[list[int]]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, str]:
        return {name: chosen["setting"] for name, chosen in self.chosen.items() if chosen}


def found(protocol: Callable[[], Sequence[Score]]) -> Found:
    """Run a protocol and look over its shoulder as it has its predictions scored."""
    seen = Found()

    def spy(name: str, predictions: Sequence[Tensor], *rest: Any, **others: Any) -> Score:
        seen.predicted[name] = [predicted.tolist() for predicted in predictions]
        return score(name, predictions, *rest, **others)

    with pytest.MonkeyPatch.context() as patch:
        for name in PROTOCOLS:
            module = importlib.import_module(f"mica.evaluation.{name}")
            patch.setattr(module, "score", spy, raising=False)
        seen.chosen = {result.name: dict(result.chosen) for result in protocol()}
    assert seen.predicted, "the spy was passed by"
    return seen


# Protocols on features.


MakeFeatures = Callable[..., SplitFeatures]


def candidates(made_up: MakeFeatures, seed: int) -> dict[str, SplitFeatures]:
    """Three kinds of features of the same clips, whose classes are hard to tell apart."""
    return {name: made_up(seed + 1000 * place, spread=2.0) for place, name in enumerate(STREAMS)}


ON_FEATURES: dict[str, Callable[[dict[str, SplitFeatures]], Sequence[Score]]] = {
    "linear": lambda runs: linear_scores(runs["joint"], NAMES, seeds=(0, 1))[0],
    "knn": partial(knn_scores, class_names=NAMES),
    "retrieval": lambda runs: retrieval_scores(runs["joint"], NAMES),
    "ensemble": partial(ensemble_scores, class_names=NAMES),
}
CHOOSES = ("linear", "knn", "ensemble")


@contextmanager
def short_trainings() -> Iterator[None]:
    """SGD's rates differ after two epochs, too; of few labels there is less to go through."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "fit_sgd", partial(fit_sgd, epochs=2))
        patch.setattr(semi, "SHARES", (0.1,))
        patch.setattr(semi, "LEAST_STEPS", 2)
        yield


@pytest.mark.parametrize("protocol", ON_FEATURES)
@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 999),
    labels=st.lists(st.integers(0, K - 1), min_size=TEST, max_size=TEST),
)
def test_labels_of_test_clips_change_neither_choice_nor_prediction(
    made_up: MakeFeatures, protocol: str, seed: int, labels: list[int]
) -> None:
    runs = candidates(made_up, seed)
    others = {name: replace(run, test_labels=torch.tensor(labels)) for name, run in runs.items()}
    with short_trainings():
        assert found(lambda: ON_FEATURES[protocol](runs)) == found(lambda: ON_FEATURES[protocol](others))


@pytest.mark.parametrize("protocol", CHOOSES)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 999))
def test_other_test_clips_change_no_choice(made_up: MakeFeatures, protocol: str, seed: int) -> None:
    runs = candidates(made_up, seed)
    others = {name: replace(run, test=run.test.flip(0)[:7] * 7, test_labels=run.test_labels[:7])
              for name, run in runs.items()}  # fmt: skip
    with short_trainings():
        assert (
            found(lambda: ON_FEATURES[protocol](runs)).chosen
            == found(lambda: ON_FEATURES[protocol](others)).chosen
        )


@pytest.mark.parametrize("protocol", CHOOSES)
def test_labels_of_validation_clips_do_change_choices(made_up: MakeFeatures, protocol: str) -> None:
    """The properties above can fail. Ensembles choose penalties, and weights among what these lead to."""
    runs = candidates(made_up, 3)
    mixed = torch.where(runs["joint"].fit, runs["joint"].train_labels, runs["joint"].train_labels.roll(1))
    others = {name: replace(run, train_labels=mixed) for name, run in runs.items()}
    with short_trainings():
        before, after = (found(lambda r=r: ON_FEATURES[protocol](r)).settings for r in (runs, others))
    assert before.keys() == after.keys()
    changed = [name for name, setting in before.items() if after[name] != setting]
    assert changed
    assert protocol != "ensemble" or "weights chosen on validation" in changed


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), shifts=st.tuples(st.integers(0, 1), st.integers(0, 1)))
def test_labels_of_test_clips_change_no_answer_by_words(seed: int, shifts: tuple[int, int]) -> None:
    """Which clips are asked about is a matter of their labels, so these change within seen and unseen classes."""
    random = Generator().manual_seed(seed)
    skeletons, labels = torch.randn(TEST, 5, generator=random), torch.arange(TEST) % K
    texts = torch.randn(K, 3, 5, generator=random)
    groups = {label: group for group in ((0, 2), (1, 3)) for label in group}
    shifted = torch.tensor(
        [groups[label][(groups[label].index(label) + shifts[label % 2]) % 2] for label in labels.tolist()]
    )
    before, after = (
        found(lambda truth=truth: zero_shot_scores(skeletons, truth, texts, (1, 3), NAMES))
        for truth in (labels, shifted)
    )
    assert before == after
    assert before.settings == {}, "words leave nothing to choose"


# Protocols that train: on a tiny store, and from the least of a model that they can train.


class Small(nn.Module):
    """One convolution of every joint and frame, then means over two stretches of time."""

    def __init__(self, layout: SkeletonLayout) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 1)
        self.encoder.layout = layout  # type: ignore[assignment]
        self.num_features = 4 * 2 * layout.num_joints
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))

    def feature_map(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.encoder(x.mean(-1)))

    def pooled(self, feature_map: Tensor, clips: int, persons: int) -> Tensor:
        return F.adaptive_avg_pool2d(feature_map.float(), (2, feature_map.shape[3])).flatten(1)

    def features(self, x: Tensor) -> Tensor:
        return self.pooled(self.feature_map(x), len(x), 1)


@pytest.fixture(scope="module")
def card(tiny_store: Store) -> ModelCard:
    return ModelCard(
        layout=tiny_store.info.layout,
        preprocessing=Preprocessing(num_frames=8),
        encoder=EncoderConfig(preset="stgcn-small"),
        heads=HeadConfig(segments=1, hidden=16, projection=8),
        text="none",
        text_path=None,
        text_width=None,
        dataset=tiny_store.info.dataset,
        protocol="cross-subject",
        part="fit",
        class_names=tiny_store.info.class_names,
        seen_classes=tuple(range(len(tiny_store.info.class_names))),
        seed=0,
    )


def relabelled(store: Store, clips: np.ndarray) -> Store:
    """The same store with the labels of some clips dealt out anew among them."""
    other = Store.open(store.path)
    other.labels[clips] = np.random.default_rng(1).permutation(other.labels[clips])
    assert (other.labels != store.labels).any()
    return other


def tuned(protocol: str, card: ModelCard, store: Store, division: Split) -> Found:
    """What fine-tuning, semi-supervised evaluation or transfer finds, with one seed."""
    maker = partial(Small, store.layout)
    config = FineTuneConfig(epochs=6, batch_size=16, lr=0.1, head_lr=0.1)
    more: dict[str, Any] = {"seeds": (0,), "progress": False}
    names = store.info.class_names
    runs: dict[str, Callable[[], Sequence[Score]]] = {
        "finetune": lambda: finetune_scores(maker, card, store, division, names, config, **more),
        "semi": lambda: semi_scores(maker, card, store, division, names, config, **more),
        "transfer": lambda: transfer_scores(maker, card, store, "cross-subject", config, **more),
    }
    with short_trainings():
        return found(runs[protocol])


@pytest.fixture(scope="module")
def original(card: ModelCard, tiny_store: Store) -> Callable[[str], Found]:
    """What each of them finds on the store as it is."""
    return cache(lambda protocol: tuned(protocol, card, tiny_store, split(tiny_store, "cross-subject")))


@pytest.mark.parametrize("protocol", ["finetune", "semi", "transfer"])
def test_labels_of_test_clips_change_nothing_that_trains(
    protocol: str, original: Callable[[str], Found], card: ModelCard, tiny_store: Store
) -> None:
    division = split(tiny_store, "cross-subject")
    other = relabelled(tiny_store, division.test)
    assert original(protocol) == tuned(protocol, card, other, division)
    for predictions in original(protocol).predicted.values():
        assert all(len(set(predicted)) > 2 for predicted in predictions), "the training teaches nothing"


def test_other_test_clips_change_no_number_of_epochs(
    original: Callable[[str], Found], card: ModelCard, tiny_store: Store
) -> None:
    division = split(tiny_store, "cross-subject")
    after = tuned("finetune", card, tiny_store, replace(division, test=division.test[:5]))
    assert original("finetune").chosen == after.chosen
    assert [predicted[:5] for predicted in original("finetune").predicted["fine-tuned"]] == after.predicted[
        "fine-tuned"
    ]


@pytest.mark.parametrize("protocol", ["finetune", "transfer"])
def test_labels_of_validation_clips_change_what_trains(
    protocol: str, original: Callable[[str], Found], card: ModelCard, tiny_store: Store
) -> None:
    division = split(tiny_store, "cross-subject")
    after = tuned(protocol, card, relabelled(tiny_store, division.validation), division)
    before = original(protocol)
    changed = [name for name, setting in before.settings.items() if after.settings[name] != setting]
    assert "fine-tuned" in changed


def test_nothing_is_chosen_where_no_label_is_left_to_choose_with(original: Callable[[str], Found]) -> None:
    assert original("semi").settings == {}
