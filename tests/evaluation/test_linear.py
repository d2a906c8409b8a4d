"""The probes: scaling folded in is scaling done before, float32 finds what float64 does, validation chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Generator, Tensor, nn

from mica.evaluation import linear
from mica.evaluation.choosing import choose
from mica.evaluation.features import Scaling, SplitFeatures
from mica.evaluation.linear import (
    INVERSE_PENALTIES,
    LEARNING_RATES,
    LinearClassifier,
    fit_logistic,
    fit_sgd,
    linear_scores,
)
from mica.evaluation.metrics import accuracy

NAMES = ("a", "b", "c", "d")
CLASSES = len(NAMES)

Fit = Callable[[Tensor, Tensor, int], LinearClassifier]
FITS = [partial(fit_sgd, lr=0.1, epochs=30), partial(fit_logistic, inverse_penalty=0.1)]
both = pytest.mark.parametrize("fit", FITS, ids=["sgd", "logistic regression"])


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_folding_is_scaling_in_float64(offset: float) -> None:
    random = Generator().manual_seed(3)
    x = (torch.randn(200, 9, generator=random) + offset) * torch.logspace(-2, 2, 9)
    x[:, 4] = 7.25  # never varies
    weight, bias = torch.randn(5, 9, generator=random), torch.randn(5, generator=random)
    found = LinearClassifier.on_scaled(weight, bias, Scaling.of(x), torch.arange(5)).scores(x)
    wide = x.double()
    scaled = (wide - wide.mean(0)) / wide.std(0, unbiased=False).clamp_min(1e-9)
    scaled[:, 4] = 0
    expected = scaled @ weight.double().T + bias.double()
    torch.testing.assert_close(found.double(), expected, atol=1e-6 * (10 + 10 * offset), rtol=0)


def sgd_by_modules(f: SplitFeatures, lr: float, epochs: int, batch_size: int, seed: int) -> Tensor:
    """The recipe on features scaled at once, with modules; returns the scores of the test clips."""
    mean, spread = f.train.double().mean(0), f.train.double().std(0, unbiased=False)
    train, test = (((part - mean) / spread).float() for part in (f.train, f.test))
    probe = nn.Linear(train.shape[1], CLASSES)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.SGD(probe.parameters(), lr=lr, momentum=0.9)
    random = Generator().manual_seed(seed)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = lr if epoch < int(0.8 * epochs) else lr / 10
        for batch in torch.randperm(len(train), generator=random).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(probe(train[batch]), f.train_labels[batch]).backward()
            optimizer.step()
    return probe(test).detach()


@pytest.mark.parametrize(("lr", "epochs", "batch_size", "seed"), [(0.1, 20, 16, 0), (0.03, 7, 20, 3)])
def test_sgd_is_the_recipe(
    made_up: Callable[..., SplitFeatures], lr: float, epochs: int, batch_size: int, seed: int
) -> None:
    f = made_up(spread=2.0)
    found = fit_sgd(f.train, f.train_labels, CLASSES, lr=lr, epochs=epochs, batch_size=batch_size, seed=seed)
    expected = sgd_by_modules(f, lr, epochs, batch_size, seed)
    torch.testing.assert_close(found.scores(f.test), expected, atol=1e-4, rtol=1e-4)


def test_sgd_follows_its_seed_and_no_other(made_up: Callable[..., SplitFeatures]) -> None:
    f = made_up(spread=4.0)
    probe = partial(fit_sgd, f.train, f.train_labels, CLASSES, lr=0.1, epochs=3, batch_size=8)
    torch.manual_seed(1)
    first, state = probe(seed=0), torch.get_rng_state()
    assert torch.equal(state, torch.Generator().manual_seed(1).get_state())
    torch.manual_seed(2)
    assert torch.equal(first.weight, probe(seed=0).weight)
    assert not torch.equal(first.weight, probe(seed=1).weight)


@pytest.mark.parametrize("inverse_penalty", INVERSE_PENALTIES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_is_one_in_float64(
    made_up: Callable[..., SplitFeatures], inverse_penalty: float, seed: int, classes: int
) -> None:
    f = made_up(seed, spread=1.5)
    kept, asked = f.train_labels < classes, f.test
    train, labels = f.train[kept], f.train_labels[kept]
    found = fit_logistic(train, labels, CLASSES, inverse_penalty=inverse_penalty)
    scaler = StandardScaler().fit(train.double().numpy())
    model = LogisticRegression(C=inverse_penalty, max_iter=500)
    model.fit(scaler.transform(train.double().numpy()), labels.numpy())
    expected = model.predict_proba(scaler.transform(asked.double().numpy()))
    probabilities = found.scores(asked).softmax(1)[:, :classes].numpy()
    # How far the strongest of answers is from no answer at all, a hundredth of it: strong penalties leave little.
    tolerance = 0.01 * np.abs(expected - 1 / classes).max()
    np.testing.assert_allclose(probabilities, expected, atol=tolerance)
    predicted = expected[np.arange(len(asked)), found.predict(asked).numpy()]
    assert (predicted > expected.max(1) - tolerance).all(), "the same answers, but for near ties"


@both
def test_what_is_separable_is_separated(made_up: Callable[..., SplitFeatures], fit: Fit) -> None:
    """Features four orders of magnitude apart: it takes the scaling."""
    f = made_up(spread=0.05)
    classifier = fit(f.train, f.train_labels, CLASSES)
    assert torch.equal(classifier.predict(f.test), f.test_labels)
    again = fit(f.train, f.train_labels, CLASSES)
    assert torch.equal(classifier.weight, again.weight)
    assert torch.equal(classifier.bias, again.bias)


@both
@pytest.mark.parametrize("seen", [[0, 1, 3], [1, 3], [2]])
def test_a_class_that_training_lacks_is_never_predicted(
    made_up: Callable[..., SplitFeatures], fit: Fit, seen: list[int]
) -> None:
    f = made_up(spread=0.05)
    kept = torch.isin(f.train_labels, torch.tensor(seen))
    classifier = fit(f.train[kept], f.train_labels[kept], CLASSES)
    assert classifier.bias.isneginf().nonzero().squeeze(1).tolist() == [c for c in range(4) if c not in seen]
    predicted = classifier.predict(f.test)
    assert set(predicted.tolist()) == set(seen)
    asked = torch.isin(f.test_labels, torch.tensor(seen))
    assert torch.equal(predicted[asked], f.test_labels[asked])
    assert not classifier.scores(f.test).isnan().any()


@both
def test_features_that_never_vary_say_nothing(made_up: Callable[..., SplitFeatures], fit: Fit) -> None:
    f = made_up(spread=0.05)
    train, test = (torch.cat([part, torch.full((len(part), 1), 0.1)], 1) for part in (f.train, f.test))
    classifier = fit(train, f.train_labels, CLASSES)
    test[:, -1] = 1e6
    assert torch.equal(classifier.predict(test), f.test_labels)
    alike = fit(torch.ones(8, 3), torch.arange(8) % CLASSES, CLASSES)
    assert alike.weight.abs().max() == 0
    assert alike.scores(torch.randn(2, 3)).isfinite().all()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "fit_sgd", partial(fit_sgd, epochs=5, batch_size=16))


@pytest.mark.parametrize("seed", range(3))
def test_validation_chooses_and_the_test_part_is_asked_by_probes_of_the_whole_training_part(
    made_up: Callable[..., SplitFeatures], quick: None, seed: int
) -> None:
    f = made_up(seed, spread=3.0)
    (sgd, logistic), classifier = linear_scores(f, NAMES, seeds=(0, 6, 7))
    assert (sgd.name, logistic.name) == ("SGD", "logistic regression")

    fit, labels, validation, _ = clips = f.for_choosing
    rates = {
        f"lr {lr:g}": linear.fit_sgd(fit, labels, CLASSES, lr=lr, seed=0).predict(validation)
        for lr in LEARNING_RATES
    }
    assert sgd.chosen == choose(rates, clips).as_dict()
    lr = float(str(sgd.chosen["setting"]).removeprefix("lr "))
    reached = [
        accuracy(
            linear.fit_sgd(f.train, f.train_labels, CLASSES, lr=lr, seed=s).predict(f.test), f.test_labels
        )
        for s in (0, 6, 7)
    ]
    assert (sgd.seeds, sgd.top1) == ((0, 6, 7), pytest.approx(np.mean(reached)))
    assert sgd.spread == pytest.approx(np.std(reached, ddof=1))

    penalties = {
        f"C {c:g}": fit_logistic(fit, labels, CLASSES, inverse_penalty=c).predict(validation)
        for c in INVERSE_PENALTIES
    }
    assert logistic.chosen == choose(penalties, clips).as_dict()
    c = float(str(logistic.chosen["setting"]).removeprefix("C "))
    whole = fit_logistic(f.train, f.train_labels, CLASSES, inverse_penalty=c)
    assert torch.equal(classifier.weight, whole.weight)
    assert torch.equal(classifier.bias, whole.bias)
    assert logistic.top1 == accuracy(whole.predict(f.test), f.test_labels)
    assert (logistic.seeds, logistic.spread) == ((), None)


def test_choices_are_not_always_the_same(made_up: Callable[..., SplitFeatures], quick: None) -> None:
    """Else the test above could not tell one choice from another."""
    scores = [linear_scores(made_up(seed, spread=3.0), NAMES, seeds=(0,))[0] for seed in range(3)]
    for chosen in zip(*scores, strict=True):
        assert len({score.chosen["setting"] for score in chosen}) > 1


def test_one_class_is_legal_throughout(made_up: Callable[..., SplitFeatures], quick: None) -> None:
    f = made_up()
    f = replace(f, train_labels=torch.full_like(f.train_labels, 2))
    scores, classifier = linear_scores(f, NAMES, seeds=(0, 1))
    assert [score.top1 for score in scores] == [25.0, 25.0]
    assert set(classifier.predict(f.test).tolist()) == {2}
