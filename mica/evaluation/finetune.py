"""Fine-tuning: encoder and a linear head trained with labels, the number of epochs chosen on validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import islice

import numpy as np
import torch
from jaxtyping import Int
from tqdm import tqdm

from mica.data.dataset import SkeletonDataset
from mica.data.splits import Split
from mica.data.store import Store
from mica.evaluation.choosing import Choice
from mica.evaluation.features import Scaling, extract_features
from mica.evaluation.linear import fit_logistic
from mica.evaluation.metrics import accuracy
from mica.evaluation.results import Score, score
from mica.evaluation.tuning import Classifier, FineTuneConfig, Head, fine_tune
from mica.models.mica import MICA, ModelCard

__all__ = ["FineTuneConfig", "Tuning", "finetune_scores"]


def finetune_scores(
    model_maker: Callable[[], MICA],
    card: ModelCard,
    store: Store,
    division: Split,
    class_names: Sequence[str],
    config: FineTuneConfig,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    progress: bool = True,
) -> list[Score]:
    """Train encoder and head with the labels of the training part, once for each seed; score the test part.

    How many epochs is chosen on validation: one training on the fit clips, with the first seed, is asked after each;
    ties go to the fewest. Then the same schedule is stopped after so many epochs on all training clips.

    model_maker: gives the model to start from, on the device to train on, another copy at each call. Raises InputError
    where a loss is not finite.
    """
    tuning = Tuning(model_maker, card, store, division, len(class_names))
    reached = _validate(tuning, config, seeds[0], progress)
    epochs = int(np.argmax(reached)) + 1
    everything, test = (
        np.arange(len(division.train)),
        SkeletonDataset(store, division.test, card.preprocessing),
    )
    head, predictions = tuning.head(everything, config), []
    with _bar("fine-tune", len(seeds) * epochs * config.steps_per_epoch(len(everything)), progress) as bar:
        for seed in seeds:
            classifier = tuning.train(everything, head, config, seed, epochs=epochs, bar=bar)
            predictions.append(classifier.predict(test))
    choice = Choice(f"{epochs} of {config.epochs} epochs", reached[epochs - 1])
    truth = torch.from_numpy(store.labels[division.test])
    return [score("fine-tuned", predictions, truth, class_names, seeds=seeds, chosen=choice.as_dict())]


def _validate(tuning: Tuning, config: FineTuneConfig, seed: int, progress: bool) -> list[float]:
    """Accuracy on validation after each epoch of a training on the fit clips."""
    fit, validation = np.flatnonzero(tuning.fit), tuning.clips(np.flatnonzero(~tuning.fit))
    truth, reached = tuning.labels[~tuning.fit], []
    classifier = tuning.classifier(tuning.head(fit, config))
    with _bar("choose epochs", config.epochs * config.steps_per_epoch(len(fit)), progress) as bar:
        for _ in fine_tune(classifier, tuning.clips(fit), config, seed, bar):
            reached.append(accuracy(classifier.predict(validation), truth))
            bar.set_postfix(validation=f"{reached[-1]:.1f} %")
    return reached


def _bar(what: str, steps: int, progress: bool) -> tqdm:
    return tqdm(total=steps, unit="step", desc=what, disable=not progress)


class Tuning:
    """What several trainings on parts of the same training clips share: the clips, and the frozen features' probes.

    Places count the clips of the training part of `division`. Shapes: `features` (train, features), `labels` (train,),
    `fit` (train,), which marks the clips without validation.
    """

    def __init__(
        self,
        model_maker: Callable[[], MICA],
        card: ModelCard,
        store: Store,
        division: Split,
        num_classes: int,
    ) -> None:
        self.model_maker, self.card, self.store, self.num_classes = model_maker, card, store, num_classes
        self.indices, self.fit = division.train, np.isin(division.train, division.fit)
        stream, everything = card.preprocessing.stream, self.clips(np.arange(len(division.train)))
        self.features, self.labels = extract_features(model_maker(), everything, stream, store.layout)
        self.scaling = Scaling.of(self.features[self.fit])

    def clips(self, places: Int[np.ndarray, " part"]) -> SkeletonDataset:
        """The clips at some places."""
        return SkeletonDataset(self.store, self.indices[places], self.card.preprocessing)

    def head(self, places: Int[np.ndarray, " part"], config: FineTuneConfig) -> Head:
        """The head that a probe makes which is fitted on the frozen features of some clips."""
        features, labels = self.features[places], self.labels[places]
        probe = fit_logistic(features, labels, self.num_classes, inverse_penalty=config.inverse_penalty)
        return Head(probe, self.scaling)

    def classifier(self, head: Head) -> Classifier:
        """A fresh model with a copy of `head`, ready to train."""
        model = self.model_maker()
        device = next(model.parameters()).device
        return Classifier(model, self.card, deepcopy(head)).to(device).eval()

    def train(
        self,
        places: Int[np.ndarray, " part"],
        head: Head,
        config: FineTuneConfig,
        seed: int,
        *,
        epochs: int | None = None,
        bar: tqdm | None = None,
    ) -> Classifier:
        """Train on some clips; stop after so many of the epochs that `config` makes the schedule for."""
        classifier = self.classifier(head)
        for _ in islice(fine_tune(classifier, self.clips(places), config, seed, bar), epochs):
            pass
        return classifier
