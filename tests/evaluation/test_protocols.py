"""Protocols on made-up features: choices see no test clip, classifiers agree with independent ones."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from mica.evaluation import protocols
from mica.evaluation.features import SplitFeatures, standardise
from mica.evaluation.knn import accuracy, knn_predict
from mica.evaluation.linear import logistic_regression, sgd_probe
from mica.evaluation.protocols import Prediction, choose_and_test, describe, knn, linear
from mica.evaluation.table import results_table

CLASSES = 4


def blobs(clips: int, spread: float, seed: int, width: int = 6) -> tuple[Tensor, Tensor]:
    """Clips of `CLASSES` classes around centres that all seeds share, features of very different scales."""
    centres = torch.randn(CLASSES, width, generator=Generator().manual_seed(99))
    random = Generator().manual_seed(seed)
    labels = torch.arange(clips) % CLASSES
    x = centres[labels] + spread * torch.randn(clips, width, generator=random)
    return x * torch.logspace(-2, 2, width), labels


def features(seed: int = 0, spread: float = 1.0) -> SplitFeatures:
    train, test = blobs(48, spread, seed), blobs(24, spread, seed + 1)
    return SplitFeatures(*train, torch.arange(48) % 16 < 12, *test)


def brute_force(train: Tensor, labels: Tensor, queries: Tensor, k: int) -> list[int]:
    """In float64 and with a loop: most votes among the k nearest, ties to the class whose nearest is nearest."""
    gallery, asked = train.double().numpy(), queries.double().numpy()
    out = []
    for query in asked:
        cosine = gallery @ query / np.linalg.norm(gallery, axis=1) / np.linalg.norm(query)
        nearest = labels.numpy()[np.argsort(-cosine, kind="stable")[:k]].tolist()
        out.append(max(nearest, key=lambda label: (nearest.count(label), -nearest.index(label))))
    return out


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 48])
@pytest.mark.parametrize("chunk", [1, 5, 1024])
def test_knn_is_brute_force(k: int, chunk: int) -> None:
    f = features(spread=3.0)
    found = knn_predict(f.train, f.train_labels, f.test, k, chunk)
    assert found.tolist() == brute_force(f.train, f.train_labels, f.test, k)


def test_knn_ties_go_to_the_nearest() -> None:
    angles = torch.tensor([0.1, 0.2, 0.3, 0.4])
    train = torch.stack([angles.cos(), angles.sin()], 1)
    query = torch.tensor([[1.0, 0.0]])
    assert knn_predict(train, torch.tensor([5, 2, 2, 5]), query, k=4).item() == 5
    assert knn_predict(train, torch.tensor([2, 5, 5, 2]), query, k=4).item() == 2
    assert knn_predict(train, torch.tensor([9, 5, 5, 2]), query, k=3).item() == 5
    assert knn_predict(train, torch.tensor([9, 8, 7, 6]), query, k=4).item() == 9


def test_knn_ignores_length() -> None:
    f = features()
    longer = f.train * torch.linspace(0.01, 100, len(f.train))[:, None]
    assert torch.equal(
        knn_predict(f.train, f.train_labels, f.test), knn_predict(longer, f.train_labels, f.test)
    )


@pytest.mark.parametrize("k", [0, -1, 49])
def test_knn_refuses_other_k(k: int) -> None:
    f = features()
    with pytest.raises(ValueError, match="k must be between 1 and the 48"):
        knn_predict(f.train, f.train_labels, f.test, k)


def test_accuracy() -> None:
    assert accuracy(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 0])) == 50.0


@pytest.mark.parametrize(
    "classify",
    [
        partial(sgd_probe, num_classes=CLASSES, lr=0.1, epochs=30),
        partial(logistic_regression, inverse_penalty=0.1),
    ],
    ids=["sgd", "logistic regression"],
)
def test_classifiers_solve_what_is_separable(classify: protocols.Classifier) -> None:
    """Features four orders of magnitude apart: it takes the standardisation."""
    f = features(spread=0.05)
    assert torch.equal(classify(f.train, f.train_labels, f.test), f.test_labels)
    assert torch.equal(classify(f.train, f.train_labels, f.test), classify(f.train, f.train_labels, f.test))


def test_sgd_probe_follows_its_seed() -> None:
    f = features(spread=4.0)
    probe = partial(sgd_probe, f.train, f.train_labels, f.test, CLASSES, lr=1.0, epochs=3, batch_size=8)
    torch.manual_seed(1)
    first = probe(seed=0)
    torch.manual_seed(2)
    assert torch.equal(first, probe(seed=0)), "the global seed has no say"


def test_standardise_uses_the_training_part_alone() -> None:
    f = features()
    train, test = standardise(f.train, f.test)
    torch.testing.assert_close(train.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(0, unbiased=False), torch.ones(6))
    alone = standardise(f.train, f.test[:1])[1]
    torch.testing.assert_close(test[:1], alone)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "sgd_probe", partial(sgd_probe, epochs=2))


def choices(candidates: dict[str, SplitFeatures]) -> list[dict[str, object]]:
    both = linear(candidates["one"], CLASSES)
    return [both["sgd"].chosen, both["logistic_regression"].chosen, knn(candidates).chosen]


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), labels=st.lists(st.integers(0, CLASSES - 1), min_size=24, max_size=24))
def test_test_clips_change_no_choice(seed: int, labels: list[int]) -> None:
    """Whatever the test part holds, labels or features: the same rate, C and features are chosen."""
    candidates = {"one": features(seed, spread=2.0), "two": features(seed + 5, spread=2.0)}
    other = {
        name: SplitFeatures(f.train, f.train_labels, f.fit, f.test.flip(0) * 7, torch.tensor(labels))
        for name, f in candidates.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols, "sgd_probe", partial(sgd_probe, epochs=2))
        assert choices(candidates) == choices(other)


def test_choices_do_depend_on_validation(quick: None) -> None:
    """The property above can fail: other validation labels lead to other choices."""
    candidates = {"one": features(3, spread=2.0), "two": features(8, spread=2.0)}
    before = choices(candidates)
    for f in candidates.values():
        f.train_labels = torch.where(f.fit, f.train_labels, f.train_labels.roll(1))
    assert choices(candidates) != before


def test_classifiers_are_fitted_on_fit_then_on_all_then_asked_once() -> None:
    f, calls = features(), []

    def spy(train: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        calls.append((len(train), len(queries), queries is f.test))
        return torch.zeros(len(queries), dtype=torch.long)

    prediction = choose_and_test({"only": f}, {"a": spy, "b": spy})
    assert calls == [(36, 12, False), (36, 12, False), (48, 24, True)]
    assert prediction.chosen == {"features": "only", "setting": "a", "validation_top1": 25.0}


def test_the_better_on_validation_is_chosen_and_ties_go_to_the_first() -> None:
    good, bad = features(spread=0.01), features(spread=50.0)
    nearest = {"nearest": knn_predict}
    assert choose_and_test({"bad": bad, "good": good}, nearest).chosen["features"] == "good"
    assert choose_and_test({"a": good, "b": good}, nearest).chosen["features"] == "a"


def test_describe_counts_as_a_loop_does() -> None:
    names = ["a", "b", "c", "never asked", "never at all"]
    random = Generator().manual_seed(0)
    labels = torch.randint(3, (50,), generator=random)
    predicted = torch.randint(4, (50,), generator=random)
    described = describe(Prediction(predicted, labels, {"setting": "x"}), names)
    confusion = [[0] * 5 for _ in names]
    for truth, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        confusion[truth][guess] += 1
    assert described["confusion"] == confusion
    assert described["top1"] == pytest.approx(100 * sum(confusion[i][i] for i in range(5)) / 50)
    for index, name in enumerate(names[:3]):
        assert described["per_class"][name] == pytest.approx(
            100 * confusion[index][index] / sum(confusion[index])
        )
    assert described["per_class"]["never asked"] is described["per_class"]["never at all"] is None
    assert (described["clips"], described["chosen"]) == (50, {"setting": "x"})


def test_table_has_a_line_a_score() -> None:
    linear_result = {"protocol": "linear", "source": "trained", "top1": 50.0, "clips": 8}
    linear_result["logistic_regression"] = {"top1": 62.5}
    seen = {"protocol": "zero-shot", "source": "trained", "top1": 10.0, "clips": 8, "unseen_classes": []}
    lines = results_table([linear_result, seen, {**seen, "unseen_classes": ["wave"]}]).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "features protocol top-1 % clips",
        "pretrained encoder linear (SGD) 50.0 8",
        "pretrained encoder linear (logistic regression) 62.5 8",
        "pretrained encoder prompts of seen classes 10.0 8",
        "pretrained encoder zero-shot 10.0 8",
    ]
