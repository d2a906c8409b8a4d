"""Energies by class against loops, and which classes, joints and frequencies are said to differ."""

from __future__ import annotations

import numpy as np
import pytest

from mica.report.gate_by_class import GateByClass, distances, gate_by_class, most_different, stands_out
from mica.report.spectra import Spectra

LABELS = np.array([4, 0, 4, 2, 0, 3])  # class 1 has no clip, the clip of class 3 shows nobody
CLIP = np.array([0, 0, 1, 2, 3, 3, 4])  # bodies by clip


@pytest.fixture(scope="module")
def spectra() -> Spectra:
    random = np.random.default_rng(0)
    entering, passed = random.uniform(0.1, 2, size=(2, len(CLIP), 3, 5)).astype(np.float32)
    return Spectra(
        CLIP, entering, passed, random.uniform(size=(len(CLIP), 5)).astype(np.float32), num_frames=4
    )


@pytest.fixture(scope="module")
def found(spectra: Spectra) -> GateByClass:
    return gate_by_class(spectra, LABELS)


def mean_by_loops(values: np.ndarray, label: int) -> np.ndarray:
    """Of the bodies of a clip, then of the clips of a class."""
    clips = []
    for clip, of in enumerate(LABELS):
        rows = [values[body].astype(np.float64) for body in range(len(CLIP)) if CLIP[body] == clip]
        if of == label and rows:
            clips.append(sum(rows) / len(rows))
    return sum(clips) / len(clips)


def test_means_over_bodies_then_clips(found: GateByClass, spectra: Spectra) -> None:
    assert found.labels.tolist() == [0, 2, 4]
    for place, label in enumerate(found.labels):
        for name in ("entering", "passed", "kept"):
            expected = mean_by_loops(getattr(spectra, name), label)
            np.testing.assert_allclose(getattr(found, name)[place], expected, rtol=1e-12)
    assert [found.place(label) for label in range(5)] == [0, None, 1, None, 2]


def test_shares_beside_the_average_class(found: GateByClass) -> None:
    for k in range(3):
        total = found.passed[k].sum()
        for frequency in range(3):
            for joint in range(5):
                share = found.passed[k, frequency, joint] / total
                average = np.mean(
                    [found.passed[i, frequency, joint] / found.passed[i].sum() for i in range(3)]
                )
                assert found.shares[k, frequency, joint] == pytest.approx(share)
                expected = np.log2(share / average)
                assert found.beside_average[k, frequency, joint] == pytest.approx(expected, abs=1e-4)
        motion = [found.shares[i, 1:].sum(axis=0) for i in range(3)]
        expected = np.log2(motion[k] / np.mean(motion, axis=0))
        np.testing.assert_allclose(found.motion_beside_average[k], expected, atol=1e-4)
    np.testing.assert_allclose(found.ratio, found.passed.sum(0) / found.entering.sum(0))


def test_louder_classes_do_not_differ() -> None:
    """A class ten times as lively at the same joints and frequencies is the same to the eye."""
    random = np.random.default_rng(1)
    energy = random.uniform(0.1, 1, size=(1, 3, 5)) * np.array([1.0, 10.0])[:, None, None]
    found = GateByClass(np.array([0, 1]), energy, energy, np.ones((2, 5)))
    np.testing.assert_allclose(found.beside_average, 0, atol=1e-9)
    np.testing.assert_allclose(distances(found.shares), 0, atol=1e-9)


def test_finds_the_pair_and_the_places_that_differ() -> None:
    shares = np.full((4, 3, 5), 1 / 15)
    shares[1, 2, 3] += 0.2
    shares[3, 0, 1] += 0.3
    shares /= shares.sum(axis=(1, 2), keepdims=True)
    assert most_different(shares) == (1, 3)
    by_loops = [[sum((a - b) * np.log2(a / b) for a, b in zip(one.flat, other.flat, strict=True)) for other in shares]
                for one in shares]  # fmt: skip
    np.testing.assert_allclose(distances(shares), by_loops, atol=1e-4)
    (first, *rest), (back, *others) = stands_out(shares[1], shares[3], 2), stands_out(shares[3], shares[1], 3)
    assert first[:2] == (2, 3)
    assert first[2] == pytest.approx(shares[1, 2, 3] / shares[3, 2, 3], abs=0.05)
    assert back[:2] == (0, 1)
    assert all(times > 1 for _, _, times in (*rest, *others))
    assert stands_out(shares[0], shares[0], 3) == []
    slight, great = np.array([[0.002, 0.6, 0.398]]), np.array([[0.0001, 0.3, 0.6999]])
    assert stands_out(slight, great, 1) == [(0, 1, 2.0)]  # and not twenty times next to nothing


def test_a_silent_class_is_no_error() -> None:
    """A gate may switch off all that a class has."""
    passed = np.ones((2, 3, 5))
    passed[1] = 0
    found = GateByClass(np.array([0, 1]), np.zeros((2, 3, 5)), passed, np.ones((2, 5)))
    for values in (found.shares, found.beside_average, found.motion_beside_average, found.ratio):
        assert np.isfinite(values).all()
