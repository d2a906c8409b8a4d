"""What a prepared store holds: clips, lengths, classes, missing values, coordinates, and what looks wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mica.data.clip import MOST_PERSONS, StoreInfo
from mica.data.splits import describe, split
from mica.data.store import Store
from mica.errors import InputError
from mica.report.survey import Survey, survey

# From the middle of the hips to the middle of the shoulders, in metres, of children and of tall adults.
_SHORTEST_TORSO, _LONGEST_TORSO = 0.3, 0.8
_UNITS = {"centimetres": 0.01, "millimetres": 0.001}  # in metres
# Torsos lean on average by less than 60 degrees, whatever the action.
_LEAST_UPRIGHT = 0.5
_MOST_CLASSES, _FEW_CLASSES = 30, 5
_BINS, _LONGEST_BAR = 8, 40
_WIDTH, _INDENT, _LONGEST_NAME = 99, 16, 60


@dataclass(frozen=True)
class Affected:
    """How much is missing: `count` of `total`, in `clips` clips, most of it in the clip called `worst`."""

    count: int
    total: int
    clips: int
    worst: str

    def __str__(self) -> str:
        if not self.count:
            return "none"
        share = f"{self.count:,} of {self.total:,} ({100 * self.count / self.total:.2g} %)"
        return f"{share} in {_clips(self.clips)}, most in {_short(self.worst)}"


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found; `str()` of it is fit to print on a terminal of 100 columns.

    `size` is in bytes; `frames` has the length of each clip; `bodies` counts clips by how many bodies are seen in them;
    `numbers` holds the subjects, cameras, setups and replications that occur, sorted, where 0 stands for unknown.
    `missing` says what is missing how often. `low` and `high` bound the x, y and z of all bodies and `torso` is the
    typical distance from hips to shoulders: metres if the units are right, not finite where no body is seen. `splits`
    compares each protocol with the published counts. `warnings` are sentences that say what to do.
    """

    path: Path
    info: StoreInfo
    joints: int
    size: int
    frames: Int[np.ndarray, " clips"]
    bodies: dict[int, int]
    numbers: dict[str, tuple[int, ...]]
    class_counts: tuple[int, ...]
    missing: dict[str, Affected]
    low: tuple[float, ...]
    high: tuple[float, ...]
    torso: float
    splits: dict[str, str]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        info, axes = self.info, zip("xyz", self.low, self.high, strict=True)
        bodies = (f"{number} in {_clips(clips)}" for number, clips in self.bodies.items())
        coordinates = [
            *(f"{axis} from {low:.3g} to {high:.3g} m" for axis, low, high in axes),
            f"{self.torso:.3g} m from hips to shoulders in the typical clip",
        ]
        entries = {
            "store": [f"{self.path}, {self.size / 1e6:,.1f} MB"],
            "data set": [f"{info.dataset}, {_clips(len(self.frames))}"],
            "source": [info.source or "not given"],
            "layout": [f"{info.layout}, {self.joints} joints"],
            "frame rate": [f"{info.frame_rate:g} frames a second"],
            "bodies": [", ".join(bodies)],
            "length": _lengths(self.frames, info.frame_rate),
            **{name: [_numbers(values)] for name, values in self.numbers.items()},
            "classes": _classes(self.class_counts, info.class_names),
            "missing": [f"{what}: {affected}" for what, affected in self.missing.items()],
            "coordinates": coordinates if np.isfinite(self.torso) else ["no whole body"],
            "train / test": [f"{protocol}: {note}" for protocol, note in self.splits.items()],
            "warnings": self.warnings or ["none"],
        }
        return "\n".join(line for label, texts in entries.items() for line in _entry(label, texts))


def inspect(store: Store) -> Inspection:
    """Look at every coordinate of a store once; memory does not grow with their number.

    >>> import tempfile
    >>> from mica.data.store import write
    >>> from mica.data.synthetic import generate
    >>> info, clips, _ = generate(clips_per_class=4, subjects=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = inspect(Store.open(write(f"{folder}/a.arrow", clips, info).path))
    >>> found.bodies, found.numbers["subjects"], f"{found.torso:.1f}", found.warnings
    ({1: 64}, (1, 2, 3, 4), '0.5', ())
    """
    found = survey(store)
    splits, unusable = _splits(store)
    bodies, clips = np.unique(found.bodies, return_counts=True)
    return Inspection(
        path=store.path,
        info=store.info,
        joints=store.layout.num_joints,
        size=store.path.stat().st_size,
        frames=store.frames,
        bodies=dict(zip(bodies.tolist(), clips.tolist(), strict=True)),
        numbers={
            name: tuple(np.unique(getattr(store, name)).tolist())
            for name in ("subjects", "cameras", "setups", "replications")
        },
        class_counts=tuple(np.bincount(store.labels, minlength=len(store.info.class_names)).tolist()),
        missing=_missing(store, found),
        low=tuple(found.low.min(axis=0).tolist()),
        high=tuple(found.high.max(axis=0).tolist()),
        torso=_typical(found.length),
        splits=splits,
        warnings=(*_doubts(store, found), *unusable),
    )


def _missing(store: Store, found: Survey) -> dict[str, Affected]:
    def affected(counts: Int[np.ndarray, " clips"], total: int) -> Affected:
        worst = str(store.names[counts.argmax()])
        return Affected(int(counts.sum()), total, int(np.count_nonzero(counts)), worst)

    frames = int(store.frames.sum())
    joints = max(1, int(found.seen.sum()) * store.layout.num_joints)
    return {
        "frames that show no body": affected(found.lost, frames),
        "bodies lost in part of their clip": affected(found.partly, max(1, int(found.bodies.sum()))),
        "bodies never seen in their clip": affected(store.persons - found.bodies, int(store.persons.sum())),
        "joints at the origin in bodies seen": affected(found.unplaced, joints),
        "frames that repeat the one before": affected(found.frozen, frames),
        "frames with values that are not finite": affected(found.broken, frames),
    }


def _typical(values: Float[np.ndarray, " clips"]) -> float:
    """The median of the finite values, NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _doubts(store: Store, found: Survey) -> Iterator[str]:
    """What looks wrong in the coordinates, in sentences."""
    for clips, problem in (
        (found.broken > 0, "values that are not finite"),
        (found.bodies == 0, "no body in any frame"),
    ):
        if clips.any():
            first = _short(str(store.names[clips.argmax()]))
            yield (
                f"{_clips(clips.sum())} with {problem}, the first is {first}: look at the raw files, and prepare "
                "the store again with the clips repaired or left out."
            )
    if (crowded := store.persons > MOST_PERSONS).any():
        first = _short(str(store.names[crowded.argmax()]))
        yield (
            f"{_clips(crowded.sum())} with more than {MOST_PERSONS} persons, the first is {first}: only the first "
            f"{MOST_PERSONS} of each are trained on and evaluated. If others act, put those first in the raw files, "
            "and prepare the store again."
        )
    torso = _typical(found.length)
    if torso < _SHORTEST_TORSO or torso > _LONGEST_TORSO:
        yield _wrong_unit(torso)
    with np.errstate(invalid="ignore"):  # hips and shoulders in one place: neither up nor down
        up = (found.torso / found.length[:, None]).T
    if (y := _typical(up[1])) < _LEAST_UPRIGHT:
        yield _wrong_axis({"x": _typical(up[0]), "y": y, "z": _typical(up[2])})


def _wrong_unit(torso: float) -> str:
    fits = [unit for unit, metres in _UNITS.items() if _SHORTEST_TORSO <= torso * metres <= _LONGEST_TORSO]
    guess = f"the numbers look like {fits[0]}" if fits else "the unit is likely wrong"
    return (
        f"Hips and shoulders are {torso:.3g} m apart in the typical clip, expected {_SHORTEST_TORSO:g} to "
        f"{_LONGEST_TORSO:g} m; {guess}. Prepare the store again with the right unit."
    )


def _wrong_axis(up: dict[str, float]) -> str:
    axis = max(up, key=lambda name: abs(up[name]))
    sign = "-" if up[axis] < 0 else ""
    guess = f"{sign}{axis} seems to point up" if abs(up[axis]) >= _LEAST_UPRIGHT else "no axis points up"
    return (
        f"Shoulders are not above hips along y in the typical clip; {guess}. "
        "Prepare the store again with y pointing up."
    )


def _splits(store: Store) -> tuple[dict[str, str], list[str]]:
    """Counts by protocol, and what is wrong with them in sentences."""
    notes, wrong = describe(store), []
    for name in notes:
        try:
            parts = split(store, name)
        except InputError as error:
            wrong.append(f"Protocol {name} cannot be used here: {error.problem}.")
            continue
        notes[name] += f"; {len(parts.validation):,} of those that train validate"
        if parts.protocol.expected not in (None, (len(parts.train), len(parts.test))):
            wrong.append(
                f"Protocol {name} has other counts than published, so results do not compare: see whether raw files "
                "are missing, and prepare the store again."
            )
    return notes, wrong


def _lengths(frames: Int[np.ndarray, " clips"], frame_rate: float) -> list[str]:
    """Shortest, median and longest clip, and a histogram whose bins grow with the length."""
    marks = frames.min(), np.median(frames), frames.max()
    in_frames, in_seconds = (
        " / ".join(f"{mark * scale:.{digits}f}" for mark in marks)
        for scale, digits in ((1, 0), (1 / frame_rate, 1))
    )
    lines = [f"{in_frames} frames, {in_seconds} s (shortest / median / longest)"]
    edges = np.unique(np.rint(np.geomspace(marks[0], marks[2] + 1, _BINS + 1)).astype(np.int64))
    counts, _ = np.histogram(frames, edges)
    digits = len(str(marks[2]))
    for low, high, count in zip(edges[:-1], edges[1:] - 1, counts.tolist(), strict=True):
        bar = "#" * int(np.ceil(_LONGEST_BAR * count / counts.max()))
        lines.append(f"{low:>{digits}} to {high:>{digits}}  {bar:<{_LONGEST_BAR}}  {count:,}".rstrip())
    return lines


def _classes(counts: Sequence[int], names: Sequence[str]) -> list[str]:
    """All classes with their clips in the order of the labels; of many, the smallest and the largest."""
    by_size = sorted((label for label, count in enumerate(counts) if count), key=counts.__getitem__)
    empty = len(counts) - len(by_size)
    head = f"{len(counts)}, of which {empty} without clips" if empty else f"{len(counts)}, all with clips"

    def lines(labels: Iterable[int]) -> list[str]:
        return [f"{counts[label]:>7,}  {_short(names[label])}" for label in labels]

    if len(counts) <= _MOST_CLASSES:
        return [head, *lines(range(len(counts)))]
    few = min(_FEW_CLASSES, max(1, len(by_size) // 2))
    smallest, largest = by_size[:few], by_size[: -few - 1 : -1]
    return [head, "the smallest:", *lines(smallest), "the largest:", *lines(largest)]


def _numbers(values: tuple[int, ...]) -> str:
    """How many numbers there are and which, neighbours as ranges.

    >>> _numbers((1, 2, 3, 7, 9, 10))
    '6: 1 to 3, 7, 9 to 10'
    """
    if values == (0,):
        return "not given"
    stretches = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    texts = (f"{some[0]} to {some[-1]}" if len(some) > 1 else f"{some[0]}" for some in stretches)
    return f"{len(values)}: {', '.join(texts)}"


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 4]} ..."


def _clips(count: int) -> str:
    return f"{count:,} {'clip' if count == 1 else 'clips'}"


def _entry(label: str, texts: Iterable[str]) -> Iterator[str]:
    """Lines of a label and its texts, those too long broken; letters that would command the terminal are replaced."""
    for text in texts:
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
        if len(text) <= _WIDTH - _INDENT:  # a histogram keeps its spaces
            broken = [text]
        else:
            broken = textwrap.wrap(text, _WIDTH - _INDENT, break_on_hyphens=False)
        for line in broken:
            yield f"{label:<{_INDENT}}{line}"
            label = ""
