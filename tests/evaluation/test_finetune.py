"""Fine-tuning: the epoch is chosen on validation alone, the test part is scored once, the run stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mica.data.dataset import SkeletonDataset
from mica.data.splits import Split, split
from mica.data.store import Store
from mica.evaluation import finetune
from mica.evaluation.finetune import FineTuneConfig, Tuning, finetune_scores
from mica.evaluation.linear import fit_logistic
from mica.evaluation.results import Score
from mica.evaluation.tuning import Classifier
from mica.models.mica import MICA, ModelCard

CONFIG = FineTuneConfig(epochs=2, batch_size=24, lr=1e-3, head_lr=1e-3)
Tune = Callable[..., Score]


@pytest.fixture(scope="module")
def division(tiny_store: Store) -> Split:
    return split(tiny_store, "cross-subject")


@pytest.fixture(scope="module")
def tune(tiny_run: Path, tiny_store: Store, division: Split) -> Tune:
    """Fine-tune the run on a store, the tiny one unless told."""

    def tune(
        store: Store = tiny_store, seeds: tuple[int, ...] = (0,), config: FineTuneConfig = CONFIG
    ) -> Score:
        def model_maker() -> MICA:
            return MICA.from_pretrained(tiny_run / "checkpoint")

        card, names = ModelCard.read(tiny_run / "checkpoint"), store.info.class_names
        (found,) = finetune_scores(
            model_maker, card, store, division, names, config, seeds=seeds, progress=False
        )
        return found

    return tune


@pytest.fixture(scope="module")
def plain(tune: Tune) -> tuple[Score, list[Tensor]]:
    """The score of the tiny store with the first seed, and all that was predicted on the way."""
    predictions, original = [], Classifier.predict

    def predict(self: Classifier, clips: SkeletonDataset) -> Tensor:
        predictions.append(original(self, clips))
        return predictions[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "predict", predict)
        return tune(), predictions


@pytest.fixture
def validations(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the accuracies on validation be these."""

    def be(*reached: float) -> None:
        monkeypatch.setattr(finetune, "_validate", lambda *_: list(reached))

    return be


def with_labels(store: Store, where: np.ndarray, labels: np.ndarray) -> Store:
    other = copy.copy(store)
    other.labels = store.labels.copy()
    other.labels[where] = labels
    return other


def columns(found: Score) -> np.ndarray:
    """How often each class was predicted: what is left of the predictions where the truth is another."""
    return np.array(found.confusion).sum(0)


def test_score_says_what_was_chosen_and_drawn(tune: Tune) -> None:
    found = tune(seeds=(3, 5))
    assert (found.name, found.seeds, found.clips) == ("fine-tuned", (3, 5), 64)
    assert found.spread is not None
    assert np.sum(found.confusion) == 2 * 64
    assert found.chosen["setting"] in ("1 of 2 epochs", "2 of 2 epochs")
    assert (found.chosen["validation_top1"] * 16 / 100) % 1 == pytest.approx(0)


def test_test_labels_change_neither_choice_nor_predictions(
    tune: Tune, plain: tuple[Score, list[Tensor]], tiny_store: Store, division: Split
) -> None:
    permuted = with_labels(tiny_store, division.test, np.roll(tiny_store.labels[division.test], 7))
    before, after = plain[0], tune(permuted)
    assert before.chosen == after.chosen
    np.testing.assert_array_equal(columns(before), columns(after))
    assert before.confusion != after.confusion


@pytest.mark.parametrize("epoch", [1, 2])
def test_validation_labels_make_the_choice(
    tune: Tune, plain: tuple[Score, list[Tensor]], tiny_store: Store, division: Split, epoch: int
) -> None:
    """Were the truth what is predicted after some epoch, that epoch would be taken."""
    _, predictions = plain
    assert [len(predicted) for predicted in predictions] == [16, 16, 64]
    assert not torch.equal(predictions[0], predictions[1])
    assert not torch.equal(predictions[epoch - 1], predictions[epoch - 1].flip(0)), (
        "or the order would not matter"
    )
    other = with_labels(tiny_store, division.validation, predictions[epoch - 1].numpy())
    assert tune(other).chosen == {"setting": f"{epoch} of 2 epochs", "validation_top1": 100.0}


def test_test_clips_are_not_read_before_all_is_chosen(
    tune: Tune, division: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the training part; validation after each epoch on the fit clips; test clips once a seed, at the end."""
    order: list[str] = []
    part_of = {int(i): part for part in ("fit", "validation", "test") for i in getattr(division, part)}
    original, train = Store.keypoints, Tuning.train

    def keypoints(self: Store, i: int) -> np.ndarray:
        order.append(part_of[int(i)])
        return original(self, i)

    def spy(self: Tuning, *arguments: object, **options: object) -> object:
        order.append("train")
        found = train(self, *arguments, **options)
        order.append("trained")
        return found

    monkeypatch.setattr(Store, "keypoints", keypoints)
    monkeypatch.setattr(Tuning, "train", spy)
    tune(seeds=(0, 1))
    stages = [part for i, part in enumerate(order) if i == 0 or part != order[i - 1]]
    first = stages.index("train")
    assert "test" not in stages[:first]
    assert order[: order.index("train")].count("validation") == 3 * 16
    second = stages.index("train", first + 1)
    for stage in (stages[first:second], stages[second:]):
        assert stage[0] == "train"
        assert stage[-2:] == ["trained", "test"]
        assert stage.count("test") == 1
        assert {"fit", "validation"} <= set(stage)


@pytest.mark.parametrize(("reached", "best"), [((50, 60, 60), 2), ((70, 60, 60), 1), ((1, 2, 3), 3)])
def test_the_best_epoch_is_taken_and_the_first_of_equals(
    tune: Tune,
    validations: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    reached: tuple[float, ...],
    best: int,
) -> None:
    validations(*reached)
    epochs: list[int] = []
    original = finetune.fine_tune

    def spy(*arguments: object) -> Iterator[int]:
        for epoch in original(*arguments):
            epochs.append(epoch)
            yield epoch

    monkeypatch.setattr(finetune, "fine_tune", spy)
    found = tune(config=FineTuneConfig(epochs=3, batch_size=64))
    assert epochs == list(range(1, best + 1))
    assert found.chosen == {"setting": f"{best} of 3 epochs", "validation_top1": max(reached)}


def test_seeds_are_repeatable_and_differ(tune: Tune, validations: Callable[..., None]) -> None:
    validations(50.0)
    torch.manual_seed(1)
    one = tune(seeds=(1,))
    torch.manual_seed(2)
    assert tune(seeds=(1,)) == one
    assert tune(seeds=(2,)).confusion != one.confusion


def test_every_training_begins_with_a_model_of_its_own(
    tiny_run: Path, tiny_store: Store, division: Split
) -> None:
    made: list[MICA] = []

    def model_maker() -> MICA:
        made.append(MICA.from_pretrained(tiny_run / "checkpoint"))
        return made[-1]

    card, names = ModelCard.read(tiny_run / "checkpoint"), tiny_store.info.class_names
    finetune_scores(model_maker, card, tiny_store, division, names, CONFIG, seeds=(0, 1), progress=False)
    pretrained, *tuned = (model.encoder.blocks[0].graph.conv.weight for model in made)
    assert len(tuned) == 3
    assert torch.equal(pretrained, model_maker().encoder.blocks[0].graph.conv.weight)
    assert not any(torch.equal(pretrained, weight) for weight in tuned)
    assert not torch.equal(tuned[1], tuned[2])
    assert not any(model.training for model in made)


def test_head_starts_from_the_probe_of_the_clips_that_train(
    tiny_run: Path, tiny_store: Store, division: Split
) -> None:
    model = MICA.from_pretrained(tiny_run / "checkpoint")
    card = model.card
    tuning = Tuning(lambda: model, card, tiny_store, division, 16)
    places = np.flatnonzero(tiny_store.labels[division.train] % 4 != 1)
    assert tuning.clips(places).indices.tolist() == division.train[places].tolist()
    features, labels = tuning.features[places], torch.from_numpy(tiny_store.labels[division.train[places]])
    probe = fit_logistic(features, labels, 16, inverse_penalty=CONFIG.inverse_penalty)
    head = tuning.head(places, CONFIG)
    known = labels.unique()
    assert torch.equal(head.classes, known)
    torch.testing.assert_close(
        head(tuning.features), probe.scores(tuning.features)[:, known], rtol=1e-3, atol=1e-3
    )
    classifier = tuning.classifier(head)
    test = tuning.clips(np.arange(len(division.train)))
    assert torch.equal(classifier.predict(test), probe.predict(tuning.features))
    assert classifier.head is not head


def test_progress_ends_where_the_work_does(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    bars, original = [], finetune._bar

    def bar(what: str, steps: int, progress: bool) -> object:
        assert not progress
        bars.append(original(what, steps, True))
        return bars[-1]

    monkeypatch.setattr(finetune, "_bar", bar)
    epochs = int(tune(seeds=(0, 1)).chosen["setting"].split()[0])
    assert [(bar.n, bar.total) for bar in bars] == [(4, 4), (2 * epochs * 2, 2 * epochs * 2)]
