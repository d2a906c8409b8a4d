"""Who trains and who tests: published protocols, our validation part, and unseen classes for zero-shot."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped

from mica.data.store import Store
from mica.errors import InputError

VALIDATION_SHARE = 0.2
_SAY_WHO_VALIDATES = (
    "prepare the store with more clips, or say of some that they validate: `part` in clips.csv, `Clip.parts`"
)


@dataclass(frozen=True)
class Protocol:
    """A published division of a data set: clips whose `column` is in `train_values` train, all others test.

    A clip whose `column` is 0, unknown, does neither.
    Where the source itself says of clips who trains and who tests under this name (`Store.parts`), that decides
    instead; a protocol without a `column` has nothing else. `expected` are the published counts (train, test),
    None where there are none.
    """

    name: str
    dataset: str
    description: str
    column: Literal["subjects", "cameras", "setups"] | None
    train_values: Container[int]
    expected: tuple[int, int] | None

    def divide(self, store: Store) -> Shaped[np.ndarray, " clips"]:
        """Return "train", "validation" or "test" for each clip of `store`, "" for one that takes no part."""
        given = store.parts(self.name)
        if self.column is None or (given != "").any():
            return given
        values = getattr(store, self.column)
        trains = np.fromiter(
            (value in self.train_values for value in values.tolist()), dtype=bool, count=len(values)
        )
        return np.where(values == 0, "", np.where(trains, "train", "test"))


_VIEWS_1_2, _VIEWS_2_3 = frozenset({1, 2}), frozenset({2, 3})
_ODD, _EVEN = range(1, 2**31, 2), range(2, 2**31, 2)  # whatever a store may hold
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
    *(
        Protocol(name, dataset, "as the owners' list of videos says", None, (), None)
        for dataset in ("pku-mmd-1", "pku-mmd-2")
        for name in ("cross-subject", "cross-view")
    ),
)


def published_protocols(dataset: str) -> tuple[Protocol, ...]:
    """Return the published protocols of `dataset`, the usual one first; none for one's own set.

    >>> [protocol.name for protocol in published_protocols("ntu60")]
    ['cross-subject', 'cross-view']
    """
    return tuple(protocol for protocol in PROTOCOLS if protocol.dataset == dataset)


def protocols_of(store: Store) -> tuple[Protocol, ...]:
    """Return the protocols of a store: the published ones, then what its source divides by other names.

    One's own set that comes with no division has one: odd subjects train, even ones test.
    """
    dataset = store.info.dataset
    published = published_protocols(dataset)
    names = {protocol.name for protocol in published}
    given = tuple(
        Protocol(name, dataset, "as the source says", None, (), None)
        for name in store.protocols_with_parts
        if name not in names
    )
    own = Protocol("cross-subject", dataset, "odd subjects train, even ones test", "subjects", _ODD, None)
    return published + given or (own,)


def get_protocol(store: Store, name: str) -> Protocol:
    """Return the protocol `name` of a store; `InputError` listing the known ones otherwise."""
    protocols = protocols_of(store)
    for protocol in protocols:
        if protocol.name == name:
            return protocol
    known = ", ".join(protocol.name for protocol in protocols)
    raise InputError(f"unknown protocol '{name}' for {store.info.dataset}", hint=f"known protocols: {known}")


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
    """Divide `store` by one of its protocols, and hold out a fifth of the training part as validation.

    Where the source names a validation part, that is it. Otherwise whole subjects are held out, evenly spaced
    over their sorted numbers, so that it depends on nothing but who is there; where the subjects are unknown,
    whole setups (of PKU-MMD: videos); where those are, too, or all the same, every fifth clip of a class (if no class
    has five, the last of each that has two), and then the validation part may show persons that train. Raises
    `InputError` if a part would be empty.
    """
    protocol = get_protocol(store, protocol_name)
    parts = protocol.divide(store)
    for part in ("train", "test"):
        if not (parts == part).any():
            others = ", ".join(other.name for other in protocols_of(store))
            problem = f"protocol {protocol.name} ({protocol.description}) leaves no clips to {part}"
            hint = f"protocols of this store: {others}"
            raise InputError(problem, file=store.path, field=protocol.column or "parts", hint=hint)
    train, test = np.flatnonzero(np.isin(parts, ("train", "validation"))), np.flatnonzero(parts == "test")
    held_out = parts[train] == "validation"
    if not held_out.any():
        held_out = _hold_out(store, train)
    return Split(protocol, train, test, train[~held_out], train[held_out], _note(protocol, parts))


def _hold_out(store: Store, train: Int[np.ndarray, " train"]) -> Bool[np.ndarray, " train"]:
    subjects, setups, labels = store.subjects[train], store.setups[train], store.labels[train]
    if subjects[0] and (subjects == subjects[0]).all():
        problem = f"all training clips are of subject {subjects[0]}; validation needs a second one"
        raise InputError(problem, file=store.path, field="subjects", hint=_SAY_WHO_VALIDATES)
    for groups in (subjects, setups):
        if (groups != groups[0]).any():
            return np.isin(groups, validation_subjects(np.unique(groups)))
    order = np.lexsort((np.arange(len(train)), labels))
    position = np.empty_like(order)
    position[order] = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    held_out = position % 5 == 4
    if not held_out.any():
        held_out = (position > 0) & (position == np.bincount(labels)[labels] - 1)
    if not held_out.any():
        problem = "no class has two clips that train, so that none can be held out to validate"
        raise InputError(problem, file=store.path, field="label", hint=_SAY_WHO_VALIDATES)
    return held_out


def validation_subjects(subjects: Int[np.ndarray, " subjects"]) -> Int[np.ndarray, " held_out"]:
    """Return the fifth of the sorted `subjects` that validates: the middles of as many equal stretches.

    >>> validation_subjects(np.arange(1, 11))
    array([3, 8])
    """
    count = max(1, round(VALIDATION_SHARE * len(subjects)))
    return subjects[((np.arange(count) + 0.5) * len(subjects) / count).astype(np.int64)]


def describe(store: Store) -> dict[str, str]:
    """Return for each protocol of the store how its counts compare with the published ones."""
    return {protocol.name: _note(protocol, protocol.divide(store)) for protocol in protocols_of(store)}


def _note(protocol: Protocol, parts: Shaped[np.ndarray, " clips"]) -> str:
    test, neither = int((parts == "test").sum()), int((parts == "").sum())
    train = len(parts) - test - neither
    if neither == len(parts):
        missing = "list of videos" if protocol.column is None else protocol.column
        return f"unknown: the files did not say their {missing}"
    found = f"{train:,} / {test:,}" + (f", in neither {neither:,}" if neither else "")
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
