"""The classics' parts against their definitions, written out in plain loops and float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mica.models.baseline_losses import contrast, divergence, energy_drop, nearest


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("queue", [0, 1, 7])
@pytest.mark.parametrize("mined", [False, True])
def test_contrast_is_the_mean_over_positives(queue: int, mined: bool) -> None:
    logits = 5 * random(4, 1 + queue)
    positives = random(4, queue, seed=1) > 0 if mined else None
    expected = 0.0
    for row in range(4):
        total = sum(math.exp(logit) for logit in logits[row].tolist())
        columns = [
            0,
            *(1 + place for place in range(queue) if positives is not None and positives[row, place]),
        ]
        expected += sum(math.log(total) - logits[row, column].item() for column in columns) / len(columns) / 4
    assert contrast(logits, positives).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_divergence_is_a_cross_entropy_whose_truth_takes_no_gradient() -> None:
    logits, others = 3 * random(5, 6), [random(5, 6, seed=seed) for seed in (1, 2)]
    truth = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    expected = 0.0
    for other in others:
        softmax = np.exp(other.numpy()) / np.exp(other.numpy()).sum(1, keepdims=True)
        expected -= (truth * np.log(softmax)).sum(1).mean() / 2
    leaves = [tensor.requires_grad_() for tensor in (logits, *others)]
    found = divergence(leaves[0], leaves[1:])
    found.backward()
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert leaves[0].grad is None
    assert all(leaf.grad is not None for leaf in leaves[1:])


@pytest.mark.parametrize("count", [1, 3, 9])
def test_nearest_are_those_that_a_sort_finds(count: int) -> None:
    measures = [random(4, 6, seed=seed) for seed in range(3)]
    chosen = nearest(measures, count)
    for row in range(4):
        wanted: set[int] = set()
        for measure in measures:
            wanted |= set(sorted(range(6), key=lambda place: -measure[row, place].item())[:count])
        assert set(chosen[row].nonzero()[:, 0].tolist()) == wanted


@pytest.mark.parametrize(
    ("shape", "above"), [((3, 4, 6, 5), 0.7), ((2, 3, 1, 5), 0.66), ((1, 2, 7, 1), 0.7), ((2, 2, 1, 1), 0.7)]
)
def test_energy_drop_is_what_its_definition_says(shape: tuple[int, ...], above: float) -> None:
    x = random(*shape).requires_grad_()
    clips, channels, frames, joints = shape
    attention = np.zeros(shape)
    for n in range(clips):
        for c in range(channels):
            cells = x[n, c].detach().numpy()
            squares = (cells - cells.mean()) ** 2
            variance = squares.sum() / max(frames * joints - 1, 1)
            attention[n, c] = 1 / (1 + np.exp(-(squares / (4 * (variance + 1e-4)) + 0.5)))
    by_joint = attention.mean((1, 2)) < above  # clips, joints
    by_cell = attention < above
    expected = x.detach().numpy() * by_joint[:, None, None] * by_cell
    expected = expected * by_joint.size / max(by_joint.sum(), 1) * by_cell.size / max(by_cell.sum(), 1)
    found = energy_drop(x, above)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12)
    found.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, found != 0)


def test_energy_drop_leaves_a_flat_map_alone() -> None:
    x = torch.full((2, 3, 4, 5), 2.0)
    assert torch.equal(energy_drop(x), x)
