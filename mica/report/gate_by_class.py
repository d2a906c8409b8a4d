"""Which joints and frequencies of the gated signal set the classes apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from mica.report.spectra import Spectra

_LEAST_RATIO = 0.1  # log2: 7 % more is hardly worth a word


@dataclass(frozen=True)
class GateByClass:
    """What a FreST layer lets pass of each class; joints in the layout's order, frequency f in cycles a clip.

    labels: the classes that have clips. entering, passed: mean energy over a class's clips. kept: mean share of the
    channels in which the gate lets a joint pass.
    """

    labels: Int[np.ndarray, " K"]
    entering: Float[np.ndarray, "K F V"]
    passed: Float[np.ndarray, "K F V"]
    kept: Float[np.ndarray, "K V"]

    @property
    def shares(self) -> Float[np.ndarray, "K F V"]:
        """What passes, as shares of all that passes of the class, so that lively and calm classes compare."""
        total = self.passed.sum(axis=(1, 2), keepdims=True)
        return self.passed / np.maximum(total, np.finfo(np.float64).tiny)

    @property
    def beside_average(self) -> Float[np.ndarray, "K F V"]:
        """log2 of a class's shares over the mean of all classes': 1 is twice as much, -1 is half."""
        return log_ratio(self.shares, self.shares.mean(axis=0))

    @property
    def motion_beside_average(self) -> Float[np.ndarray, "K V"]:
        """The same by joint, without frequency 0, which is where a joint is rather than how it moves."""
        motion = self.shares[:, 1:].sum(axis=1)
        return log_ratio(motion, motion.mean(axis=0))

    @property
    def ratio(self) -> Float[np.ndarray, "F V"]:
        """Energy that passes over energy that enters, all classes together."""
        entering = self.entering.sum(axis=0)
        return np.divide(self.passed.sum(axis=0), entering, out=np.ones_like(entering), where=entering > 0)

    def place(self, label: int) -> int | None:
        """Where a class stands among `labels`, None if it has no clip."""
        found = np.flatnonzero(self.labels == label)
        return int(found[0]) if len(found) else None


def gate_by_class(spectra: Spectra, labels: Int[np.ndarray, " clips"]) -> GateByClass:
    """Average over the bodies of a clip, then over the clips of a class; clips that show nobody do not count."""
    clips, bodies = np.unique(spectra.clip, return_counts=True)
    row = np.searchsorted(clips, spectra.clip)
    classes, of_clip = np.unique(labels[clips], return_inverse=True)
    count = np.bincount(of_clip)
    weight = 1 / (bodies[row] * count[of_clip[row]])

    def mean(values: Shaped[np.ndarray, "bodies ..."]) -> Shaped[np.ndarray, "K ..."]:
        out = np.zeros((len(classes), *values.shape[1:]))
        np.add.at(out, of_clip[row], values * weight.reshape(-1, *[1] * (values.ndim - 1)))
        return out

    return GateByClass(classes, mean(spectra.entering), mean(spectra.passed), mean(spectra.kept))


def log_ratio(
    numerator: Float[np.ndarray, "*shape"], denominator: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """log2 of a ratio, with both raised a little so that what is nearly nothing on both sides counts as equal.

    >>> log_ratio(np.array([0.5, 0.0]), np.array([0.25, 0.0])).round(3).tolist()
    [1.0, 0.0]
    """
    least = 1e-6
    return np.log2((numerator + least) / (denominator + least))


def distances(shares: Float[np.ndarray, "K F V"]) -> Float[np.ndarray, "K K"]:
    """Jeffreys' divergence of each two classes, in bits: the sum of (a - b) log2(a / b) over joints and frequencies.

    It counts what differs both in ratio and in energy. Source: Jeffreys, Proc. R. Soc. A 186, 1946.

    >>> distances(np.array([[[0.5, 0.5]], [[0.25, 0.75]]])).round(3).tolist()
    [[0.0, 0.396], [0.396, 0.0]]
    """
    return np.stack([((shares - one) * log_ratio(shares, one)).sum(axis=(1, 2)) for one in shares])


def most_different(shares: Float[np.ndarray, "K F V"]) -> tuple[int, int]:
    """The two places whose shares lie farthest apart; the first such pair."""
    found = distances(shares)
    first, second = np.unravel_index(found.argmax(), found.shape)
    return int(min(first, second)), int(max(first, second))


def stands_out(
    one: Float[np.ndarray, "F V"], other: Float[np.ndarray, "F V"], count: int
) -> list[tuple[int, int, float]]:
    """The (frequency, joint, how many times as much) at which `one` has more and that add most to the distance.

    >>> stands_out(np.array([[0.6, 0.3, 0.1]]), np.array([[0.3, 0.3, 0.4]]), count=2)
    [(0, 0, 2.0)]
    """
    ratio = log_ratio(one, other)
    part = np.where(ratio > _LEAST_RATIO, (one - other) * ratio, 0)
    order = np.argsort(-part, axis=None, kind="stable")[:count]
    return [
        (int(frequency), int(joint), round(float(2 ** ratio[frequency, joint]), 1))
        for frequency, joint in zip(*np.unravel_index(order, ratio.shape), strict=True)
        if part[frequency, joint] > 0
    ]
