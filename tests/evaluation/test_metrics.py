"""Figures of predictions are those of loops, also for classes that nobody asked for or nobody answered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator

from mica.evaluation.metrics import (
    MOST_CONFUSED,
    accuracy,
    class_accuracy,
    count_confusions,
    most_confused,
)

NAMES = ("a", "b", "c", "never asked", "never at all")


@pytest.fixture
def counts() -> np.ndarray:
    random = Generator().manual_seed(0)
    labels, predicted = torch.randint(3, (50,), generator=random), torch.randint(4, (50,), generator=random)
    return count_confusions(predicted, labels, len(NAMES))


def test_counts_are_those_of_a_loop(counts: np.ndarray) -> None:
    random = Generator().manual_seed(0)
    labels, predicted = torch.randint(3, (50,), generator=random), torch.randint(4, (50,), generator=random)
    expected = [[0] * len(NAMES) for _ in NAMES]
    for truth, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        expected[truth][guess] += 1
    assert counts.tolist() == expected
    assert counts.dtype == np.int64
    assert accuracy(predicted, labels) == pytest.approx(100 * sum(expected[i][i] for i in range(5)) / 50)


def test_accuracy_of_each_class(counts: np.ndarray) -> None:
    found = class_accuracy(counts, NAMES)
    for index, name in enumerate(NAMES[:3]):
        assert found[name] == pytest.approx(100 * counts[index, index] / counts[index].sum())
    assert found["never asked"] is found["never at all"] is None
    assert list(found) == list(NAMES)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=4, max_size=4))
def test_the_worst_confusions_come_first(rows: list[list[int]]) -> None:
    names = "wxyz"
    expected = [
        (names[true], names[guess], 100 * count / sum(row))
        for true, row in enumerate(rows)
        for guess, count in enumerate(row)
        if count and true != guess
    ]
    expected.sort(key=lambda pair: -pair[2])  # stable: ties in the order of classes
    found = [(pair.true, pair.predicted, pair.percent) for pair in most_confused(np.array(rows), names)]
    assert found == expected[:MOST_CONFUSED]


def test_nothing_confused() -> None:
    assert most_confused(np.diag([3, 0, 5]), "abc") == ()
    assert most_confused(np.zeros((3, 3), dtype=np.int64), "abc") == ()


@pytest.mark.filterwarnings("ignore:A single label was found")
def test_one_class() -> None:
    counts = count_confusions(torch.zeros(4).long(), torch.zeros(4).long(), 1)
    assert counts.tolist() == [[4]]
    assert class_accuracy(counts, ("only",)) == {"only": 100.0}
