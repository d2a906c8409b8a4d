"""The linear probe: the field's SGD recipe, and logistic regression as a check that needs no tuning by hand."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from mica.evaluation.choosing import Choice, Validated, best, validate
from mica.evaluation.features import ForChoosing, Scaling, SplitFeatures
from mica.evaluation.results import Score, score

SGD, LOGISTIC = "SGD", "logistic regression"
LEARNING_RATES = (0.003, 0.01, 0.03, 0.1)
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)
_RATES = {f"lr {lr:g}": lr for lr in LEARNING_RATES}
_PENALTIES = {f"C {c:g}": c for c in INVERSE_PENALTIES}


@dataclass(frozen=True)
class LinearClassifier:
    """Classes by a linear map of features as they are.

    Args:
        weight: (K, D).
        bias: (K), -inf for a class that training had no clip of: it is never predicted.

    >>> classifier = LinearClassifier(torch.eye(2), torch.tensor([0.0, 0.5]))
    >>> classifier.scores(torch.tensor([[1.0, 0.0]])).tolist(), classifier.predict(torch.eye(2)).tolist()
    ([[1.0, 0.5]], [0, 1])
    """

    weight: Float[Tensor, "K D"]
    bias: Float[Tensor, " K"]

    @classmethod
    def on_scaled(
        cls,
        weight: Float[Tensor, "K D"],
        bias: Float[Tensor, " K"],
        scaling: Scaling,
        seen: Int[Tensor, " seen"],
    ) -> LinearClassifier:
        """Fold the scaling that a classifier was fitted with into it, and leave it the classes that it has seen."""
        # In float64: what the means take away from the scores is summed up here over all features.
        folded = weight.double() * scaling.scale.double()
        shifted = bias.double() - folded @ scaling.mean.double()
        only_seen = torch.full_like(shifted, -torch.inf).index_copy(0, seen, shifted[seen])
        return cls(folded.float(), only_seen.float())

    def scores(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """Logits; their softmax is the probability of each class."""
        return F.linear(features, self.weight, self.bias)

    def predict(self, features: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
        """The class with the highest score."""
        return self.scores(features).argmax(1)


def fit_sgd(
    train: Float[Tensor, "clips features"],
    labels: Int[Tensor, " clips"],
    num_classes: int,
    *,
    lr: float,
    epochs: int = 100,
    batch_size: int = 128,
    seed: int = 0,
) -> LinearClassifier:
    """Train a linear classifier on frozen features by the peers' recipe.

    SGD with momentum 0.9, no weight decay, 100 epochs, the rate cut to a tenth at 80 % of them. The peers' rate of 3
    fits their feature scale alone; here features are standardised and the rate is chosen on validation.

    >>> x, y = torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3)
    >>> fit_sgd(x, y, 4, lr=0.1).predict(torch.eye(4)).tolist()
    [0, 1, 2, 3]
    """
    scaling, seen = Scaling.of(train), labels.unique()
    weight = torch.zeros(num_classes, train.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(0.8 * epochs)])
    generator = Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(train), generator=generator).split(batch_size):
            optimizer.zero_grad()
            # Scaled a batch at a time, so that no scaled copy of all features is held.
            F.cross_entropy(F.linear(scaling(train[batch]), weight, bias), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    return LinearClassifier.on_scaled(weight.detach(), bias.detach(), scaling, seen)


def fit_logistic(
    train: Float[Tensor, "clips features"],
    labels: Int[Tensor, " clips"],
    num_classes: int,
    *,
    inverse_penalty: float,
) -> LinearClassifier:
    """L2-regularised logistic regression on standardised features (scikit-learn's, C = `inverse_penalty`).

    >>> x, y = torch.eye(3).repeat(5, 1), torch.arange(3).repeat(5)
    >>> fit_logistic(x, y, 3, inverse_penalty=1.0).predict(torch.eye(3)).tolist()
    [0, 1, 2]
    """
    from sklearn.exceptions import ConvergenceWarning  # takes a second: only for who fits
    from sklearn.linear_model import LogisticRegression

    scaling, seen = Scaling.of(train), labels.unique()
    weight, bias = torch.zeros(num_classes, train.shape[1]), torch.zeros(num_classes)
    if len(seen) > 1:
        model = LogisticRegression(C=inverse_penalty, max_iter=500)
        with warnings.catch_warnings():
            # With weak penalties the last digits of the weights never settle; the predictions have long done so.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", "The number of unique classes")  # few clips of each are fine
            model.fit(scaling(train).numpy(), labels.numpy())
        # Of two classes scikit-learn has one row of weights, that of the second; the first one's scores are then 0.
        rows = seen[1:] if len(seen) == 2 else seen
        weight[rows] = torch.from_numpy(model.coef_).float()
        bias[rows] = torch.from_numpy(model.intercept_).float()
    return LinearClassifier.on_scaled(weight, bias, scaling, seen)


def linear_scores(
    features: SplitFeatures,
    class_names: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    validated: Validated | None = None,
) -> tuple[list[Score], LinearClassifier]:
    """Score the test clips by both probes; return "SGD" and "logistic regression", and the latter's classifier.

    Validation chooses the rate (with the first seed) and the penalty. Seeds order the clips that SGD goes through.
    validated: as of `validate_settings`, of another encoder, where this one has trained on the validation clips.
    """
    classes, train, labels = len(class_names), features.train, features.train_labels
    if validated is None:
        validated = validate_settings(features.for_choosing, classes, seeds[0])
    rate, penalty = best(validated[SGD]), best(validated[LOGISTIC])
    sgd = [fit_sgd(train, labels, classes, lr=_RATES[rate.name], seed=seed) for seed in seeds]
    logistic = fit_logistic(train, labels, classes, inverse_penalty=_PENALTIES[penalty.name])

    def of_test(
        name: str, probes: Sequence[LinearClassifier], choice: Choice, seeds: Sequence[int] = ()
    ) -> Score:
        predicted = [probe.predict(features.test) for probe in probes]
        return score(name, predicted, features.test_labels, class_names, seeds=seeds, chosen=choice.as_dict())

    return [of_test(SGD, sgd, rate, seeds), of_test(LOGISTIC, [logistic], penalty)], logistic


def validate_settings(clips: ForChoosing, num_classes: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """How each rate of SGD and each penalty of logistic regression does on the validation clips."""
    fit, labels = clips.fit, clips.fit_labels
    by_rate = {
        name: fit_sgd(fit, labels, num_classes, lr=lr, seed=seed).predict(clips.validation)
        for name, lr in _RATES.items()
    }
    by_penalty = {
        name: fit_logistic(fit, labels, num_classes, inverse_penalty=c).predict(clips.validation)
        for name, c in _PENALTIES.items()
    }
    return {SGD: validate(by_rate, clips), LOGISTIC: validate(by_penalty, clips)}
