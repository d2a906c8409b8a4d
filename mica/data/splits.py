"""Who trains and who tests: published protocols, our validation part, and unseen classes for zero-shot."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from mica.data.store import Store
from mica.errors import InputError

VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Protocol:
    """A published division of a data set: clips whose `column` is in `train_values` train, all others test.

    `expected` are the published counts (train, test), None where there are none.
    """

    name: str
    dataset: str
    description: str
    column: Literal["subjects", "cameras", "setups"]
    train_values: Container[int]
    expected: tuple[int, int] | None

    def train_mask(self, store: Store) -> Bool[np.ndarray, " clips"]:
        """Return which clips of `store` train."""
        values = getattr(store, self.column)
        return np.fromiter(
            (value in self.train_values for value in values.tolist()), dtype=bool, count=len(values)
        )


_VIEWS_1_2, _VIEWS_2_3 = frozenset({1, 2}), frozenset({2, 3})
_ODD, _EVEN = range(1, 1_000_000, 2), range(2, 1_000_000, 2)
_NTU60 = frozenset({1, 2, 4, 5, 8, 9, *range(13, 20), 25, 27, 28, 31, 34, 35, 38})
_NTU120 = _NTU60 | frozenset(
    {45, 46, 47, 49, 50, *range(52, 60), 70, 74, 78, *range(80, 87), 89, *range(91, 96), 97, 98, 100, 103}
)

PROTOCOLS = (
    Protocol("cross-view", "nw-ucla", "views 1 and 2 train, 3 tests", "cameras", _VIEWS_1_2, (1020, 464)),
    Protocol("cross-subject", "utd-mhad", "odd subjects train, even test", "subjects", _ODD, (431, 430)),
    Protocol("cross-subject", "synthetic", "odd subjects train, even test", "subjects", _ODD, None),
    Protocol("cross-subject", "ntu60", "20 subjects of 40 train", "subjects", _NTU60, (40091, 16487)),
    Protocol("cross-view", "ntu60", "cameras 2 and 3 train, 1 tests", "cameras", _VIEWS_2_3, (37646, 18932)),
    Protocol("cross-subject", "ntu120", "53 subjects of 106 train", "subjects", _NTU120, (63026, 50919)),
    Protocol("cross-setup", "ntu120", "even setups train, odd test", "setups", _EVEN, (54468, 59477)),
)


def protocols_of(dataset: str) -> tuple[Protocol, ...]:
    """Return the protocols of `dataset`, the usual one first; one's own set has one: odd subjects train.

    >>> [protocol.name for protocol in protocols_of("ntu60")], protocols_of("my-set")[0].description
    (['cross-subject', 'cross-view'], 'odd subjects train, even ones test')
    """
    own = Protocol("cross-subject", dataset, "odd subjects train, even ones test", "subjects", _ODD, None)
    return tuple(protocol for protocol in PROTOCOLS if protocol.dataset == dataset) or (own,)


def get_protocol(dataset: str, name: str) -> Protocol:
    """Return the protocol `name` of `dataset`; `InputError` listing the known ones otherwise."""
    protocols = protocols_of(dataset)
    for protocol in protocols:
        if protocol.name == name:
            return protocol
    known = ", ".join(protocol.name for protocol in protocols)
    raise InputError(f"unknown protocol '{name}' for {dataset}", hint=f"known protocols: {known}")


@dataclass(frozen=True)
class Split:
    """Positions in a store: `train` and `test` as published, `fit` and `validation` make up `train`.

    Hyperparameters and epochs are chosen on `validation`; `test` is scored once. `note` compares the counts
    with the published ones.
    """

    protocol: Protocol
    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]
    fit: Int[np.ndarray, " fit"]
    validation: Int[np.ndarray, " validation"]
    note: str


def split(store: Store, protocol_name: str) -> Split:
    """Divide `store` by a protocol of its data set, and hold out whole subjects of the training part.

    Validation takes a fifth of the training subjects, rounded, at least one, evenly spaced over their sorted
    numbers, so that it depends on nothing but who is there. Raises `InputError` if a part would be empty.
    """
    protocol = get_protocol(store.info.dataset, protocol_name)
    mask = protocol.train_mask(store)
    train, test = np.flatnonzero(mask), np.flatnonzero(~mask)
    for part, clips in (("train", train), ("test", test)):
        if len(clips) == 0:
            problem = f"protocol {protocol.name} ({protocol.description}) leaves no clips to {part}"
            raise InputError(problem, file=store.path, field=protocol.column)
    subjects = store.subjects[train]
    held_out = np.isin(subjects, validation_subjects(np.unique(subjects)))
    if held_out.all():
        problem = f"all training clips are of subject {subjects[0]}; validation needs a second one"
        raise InputError(problem, file=store.path, field="subjects")
    return Split(protocol, train, test, train[~held_out], train[held_out], _note(protocol, mask))


def validation_subjects(subjects: Int[np.ndarray, " subjects"]) -> Int[np.ndarray, " held_out"]:
    """Return the fifth of the sorted `subjects` that validates: the middles of as many equal stretches.

    >>> validation_subjects(np.arange(1, 11))
    array([3, 8])
    """
    count = max(1, round(VALIDATION_SHARE * len(subjects)))
    return subjects[((np.arange(count) + 0.5) * len(subjects) / count).astype(np.int64)]


def describe(store: Store) -> dict[str, str]:
    """Return for each protocol of the store's data set how its counts compare with the published ones."""
    return {
        protocol.name: _note(protocol, protocol.train_mask(store))
        for protocol in protocols_of(store.info.dataset)
    }


def _note(protocol: Protocol, train_mask: Bool[np.ndarray, " clips"]) -> str:
    train, test = int(train_mask.sum()), int((~train_mask).sum())
    found = f"{train:,} / {test:,}"
    if protocol.expected is None:
        return found
    if (train, test) == protocol.expected:
        return f"{found} as published"
    return f"found {found}, published {protocol.expected[0]:,} / {protocol.expected[1]:,}"


@dataclass(frozen=True)
class ZeroShotSplit:
    """A published choice of classes that training never sees: `name` is seen/unseen, labels are 0-based."""

    dataset: str
    name: str
    unseen: tuple[int, ...]


ZERO_SHOT_SPLITS = (
    ZeroShotSplit("ntu60", "55/5", (10, 11, 19, 26, 56)),
    ZeroShotSplit("ntu60", "48/12", (3, 5, 9, 12, 15, 40, 42, 47, 51, 56, 58, 59)),
    ZeroShotSplit("ntu120", "110/10", (4, 13, 37, 43, 49, 65, 88, 95, 99, 106)),
    ZeroShotSplit(
        "ntu120",
        "96/24",
        (5, 9, 11, 16, 18, 20, 22, 29, 35, 39, 45, 49, 59, 68, 70, 81, 84, 87, 93, 94, 104, 113, 114, 119),
    ),
    ZeroShotSplit("utd-mhad", "22/5", (4, 14, 17, 23, 24)),
)


def zero_shot_split(dataset: str, name: str) -> ZeroShotSplit:
    """Return the zero-shot split `name`, as in "55/5"; `InputError` listing those known otherwise."""
    known = [found for found in ZERO_SHOT_SPLITS if found.dataset == dataset]
    for found in known:
        if found.name == name:
            return found
    hint = f"known splits: {', '.join(found.name for found in known) or 'none'}"
    raise InputError(f"unknown zero-shot split '{name}' for {dataset}", hint=hint)
