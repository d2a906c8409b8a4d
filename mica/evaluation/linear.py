"""The linear probe: the field's SGD recipe, and logistic regression as a check that needs no tuning by hand."""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Generator, Tensor, nn

from mica.evaluation.features import standardise

LEARNING_RATES = (0.003, 0.01, 0.03, 0.1)
INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)


def sgd_probe(
    train: Float[Tensor, "clips features"],
    labels: Int[Tensor, " clips"],
    queries: Float[Tensor, "queries features"],
    num_classes: int,
    *,
    lr: float,
    epochs: int = 100,
    batch_size: int = 128,
    seed: int = 0,
) -> Int[Tensor, " queries"]:
    """Train a linear classifier on frozen features by the peers' recipe; return its predictions.

    SGD with momentum 0.9, no weight decay, 100 epochs, the rate cut to a tenth at 80 % of them. The peers' rate of 3
    fits their feature scale alone; here features are standardised and the rate is chosen on validation.

    >>> x, y = torch.eye(4).repeat(3, 1), torch.arange(4).repeat(3)
    >>> sgd_probe(x, y, torch.eye(4), 4, lr=0.1).tolist()
    [0, 1, 2, 3]
    """
    train, queries = standardise(train, queries)
    probe = nn.Linear(train.shape[1], num_classes)
    nn.init.zeros_(probe.weight)
    nn.init.zeros_(probe.bias)
    optimizer = torch.optim.SGD(probe.parameters(), lr=lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [int(0.8 * epochs)])
    generator = Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(train), generator=generator).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(probe(train[batch]), labels[batch]).backward()
            optimizer.step()
        schedule.step()
    with torch.inference_mode():
        return probe(queries).argmax(1)


def logistic_regression(
    train: Float[Tensor, "clips features"],
    labels: Int[Tensor, " clips"],
    queries: Float[Tensor, "queries features"],
    *,
    inverse_penalty: float,
) -> Int[Tensor, " queries"]:
    """L2-regularised logistic regression on standardised features (scikit-learn's, C = `inverse_penalty`).

    >>> x, y = torch.eye(3).repeat(5, 1), torch.arange(3).repeat(5)
    >>> logistic_regression(x, y, torch.eye(3), inverse_penalty=1.0).tolist()
    [0, 1, 2]
    """
    train, queries = standardise(train, queries)
    model = LogisticRegression(C=inverse_penalty, max_iter=500)
    with warnings.catch_warnings():
        # With weak penalties the last digits of the weights never settle; the predictions have long done so.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train.double().numpy(), labels.numpy())
    return torch.from_numpy(model.predict(queries.double().numpy()))
