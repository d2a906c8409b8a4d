"""The evaluation protocols, from features to a result. Choices are made on validation, the test part is scored once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from sklearn.metrics import confusion_matrix
from torch import Tensor

from mica.evaluation.features import SplitFeatures, standardise
from mica.evaluation.knn import accuracy, knn_predict
from mica.evaluation.linear import INVERSE_PENALTIES, LEARNING_RATES, logistic_regression, sgd_probe

Classifier = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Prediction:
    """What a protocol predicts for the test clips, and what it chose on the validation part."""

    predicted: Int[Tensor, " test"]
    labels: Int[Tensor, " test"]
    chosen: dict[str, Any]

    @property
    def top1(self) -> float:
        return accuracy(self.predicted, self.labels)


def choose_and_test(candidates: dict[str, SplitFeatures], classifiers: dict[str, Classifier]) -> Prediction:
    """Take the features and the classifier that do best on validation, train anew on fit + validation, test once.

    Ties go to what comes first.
    """
    scores: dict[tuple[str, str], float] = {}
    for name, features in candidates.items():
        fit, fit_labels, validation, truth = features.for_choosing
        for setting, classify in classifiers.items():
            scores[name, setting] = accuracy(classify(fit, fit_labels, validation), truth)
    best = max(scores, key=scores.__getitem__)
    features, classify = candidates[best[0]], classifiers[best[1]]
    predicted = classify(features.train, features.train_labels, features.test)
    chosen = {"features": best[0], "setting": best[1], "validation_top1": scores[best]}
    return Prediction(predicted, features.test_labels, chosen)


def linear(features: SplitFeatures, num_classes: int, seed: int = 0) -> dict[str, Prediction]:
    """The linear probe twice: "sgd" (the peers' recipe) and "logistic_regression"."""
    rates: dict[str, Classifier] = {
        f"lr {lr:g}": partial(sgd_probe, num_classes=num_classes, lr=lr, seed=seed) for lr in LEARNING_RATES
    }
    penalties: dict[str, Classifier] = {
        f"C {c:g}": partial(logistic_regression, inverse_penalty=c) for c in INVERSE_PENALTIES
    }
    return {
        "sgd": choose_and_test({"pooled": features}, rates),
        "logistic_regression": choose_and_test({"pooled": features}, penalties),
    }


def knn(candidates: dict[str, SplitFeatures], k: int = 1) -> Prediction:
    """The nearest neighbours by cosine, on features as they are or standardised, whichever validates better."""

    def standardised(train: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        train, queries = standardise(train, queries)
        return knn_predict(train, labels, queries, k)

    return choose_and_test(
        candidates, {"as they are": partial(knn_predict, k=k), "standardised": standardised}
    )


def describe(prediction: Prediction, class_names: Sequence[str]) -> dict[str, Any]:
    """Top-1, accuracy of each class (null where it has no clip) and the confusion matrix, in percent and counts."""
    confusion = confusion_matrix(
        prediction.labels.numpy(), prediction.predicted.numpy(), labels=range(len(class_names))
    )
    per_class = {
        name: 100.0 * row[index] / row.sum() if row.sum() else None
        for index, (name, row) in enumerate(zip(class_names, confusion, strict=True))
    }
    return {
        "top1": prediction.top1,
        "clips": len(prediction.labels),
        "chosen": prediction.chosen,
        "per_class": per_class,
        "confusion": torch.from_numpy(confusion).tolist(),
    }
