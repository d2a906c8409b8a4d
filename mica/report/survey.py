"""One look at all coordinates of a store: what is seen, what is missing, how large the bodies are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from tqdm import tqdm

from mica.data.store import Store
from mica.skeleton import SkeletonLayout

# Coordinates looked at in one go: 16 MiB of them, so that a store of any size needs the same memory.
_BLOCK_COORDINATES = 4 << 20
_SECONDS_WITHOUT_BAR = 3


@dataclass(frozen=True)
class Survey:
    """What is known of each clip once its coordinates were looked at.

    A body is seen in a frame where it is not all zero, and whole where its values are finite too. `bodies` are those
    seen in at least one frame, `partly` those of them that are not seen in all. `seen` counts bodies frame by frame,
    `unplaced` the single joints of those that lie at the origin. Of the frames, `lost` show no body,
    `frozen` show one and repeat the frame before, `broken` hold values that are not finite. `torso` is the mean vector
    from the middle of the hips to the middle of the shoulders, `length` its mean length, both NaN if no body is whole.
    `low` and `high` bound the x, y and z of whole bodies, infinite if there is none.
    """

    bodies: Int[np.ndarray, " clips"]
    partly: Int[np.ndarray, " clips"]
    seen: Int[np.ndarray, " clips"]
    unplaced: Int[np.ndarray, " clips"]
    lost: Int[np.ndarray, " clips"]
    frozen: Int[np.ndarray, " clips"]
    broken: Int[np.ndarray, " clips"]
    torso: Float[np.ndarray, "clips 3"]
    length: Float[np.ndarray, " clips"]
    low: Float[np.ndarray, "clips 3"]
    high: Float[np.ndarray, "clips 3"]


def survey(store: Store) -> Survey:
    """Measure every clip of a store, a block at a time; on a terminal a bar shows if that takes a while."""
    order, parts = [], []
    with tqdm(
        total=len(store), desc="inspect", unit="clip", delay=_SECONDS_WITHOUT_BAR, disable=None, leave=False
    ) as bar:
        for clips in _blocks(store):
            keypoints = np.concatenate([store.keypoints(i) for i in clips])
            parts.append(measure(keypoints, store.frames[clips], store.layout))
            order.append(clips)
            bar.update(len(clips))
    back = np.argsort(np.concatenate(order))
    names = [column.name for column in fields(Survey)]
    return Survey(*(np.concatenate([getattr(part, name) for part in parts])[back] for name in names))


def _blocks(store: Store) -> Iterator[Int[np.ndarray, " clips"]]:
    """Positions of clips with equally many persons, as many as make up a block."""
    for persons in np.unique(store.persons):
        clips = np.flatnonzero(store.persons == persons)
        coordinates = np.cumsum(store.frames[clips]) * persons * store.layout.num_joints * 3
        yield from np.split(clips, np.flatnonzero(np.diff(coordinates // _BLOCK_COORDINATES)) + 1)


def measure(
    keypoints: Float32[np.ndarray, "T M V 3"], frames: Int[np.ndarray, " clips"], layout: SkeletonLayout
) -> Survey:
    """Measure clips that lie one behind the other in `keypoints`, `frames` of them each.

    >>> from mica.skeleton import get_layout
    >>> two_clips = np.ones((7, 1, 25, 3), np.float32)
    >>> two_clips[5] = 0
    >>> found = measure(two_clips, np.array([4, 3]), get_layout("ntu-25"))
    >>> found.lost.tolist(), found.frozen.tolist()
    ([0, 1], [3, 0])
    """
    starts = np.cumsum(frames) - frames
    placed = (keypoints[..., 0] != 0) | (keypoints[..., 1] != 0) | (keypoints[..., 2] != 0)
    seen = placed.any(axis=2)
    finite = np.isfinite(keypoints).all(axis=(2, 3))
    whole = seen & finite
    seen_frames = _totals(seen, starts)
    torso, length = _torsos(keypoints, whole, starts, layout)
    low, high = _bounds(keypoints, whole, starts)
    return Survey(
        bodies=(seen_frames > 0).sum(axis=1),
        partly=((seen_frames > 0) & (seen_frames < frames[:, None])).sum(axis=1),
        seen=seen_frames.sum(axis=1),
        unplaced=_totals((~placed & seen[:, :, None]).sum(axis=(1, 2)), starts),
        lost=_totals(~seen.any(axis=1), starts),
        frozen=_totals(_repeats(keypoints, starts) & seen.any(axis=1), starts),
        broken=_totals(~finite.all(axis=1), starts),
        torso=torso,
        length=length,
        low=low,
        high=high,
    )


def _totals(values: np.ndarray, starts: Int[np.ndarray, " clips"]) -> np.ndarray:
    """Sum the frames of each clip."""
    kind = np.float64 if values.dtype == np.float64 else np.int64
    return np.add.reduceat(values, starts, axis=0, dtype=kind)


def _repeats(
    keypoints: Float32[np.ndarray, "T M V 3"], starts: Int[np.ndarray, " clips"]
) -> Bool[np.ndarray, " T"]:
    """Which frames equal the one before in the same clip."""
    repeats = np.zeros(len(keypoints), dtype=bool)
    repeats[1:] = (keypoints[1:] == keypoints[:-1]).all(axis=(1, 2, 3))
    repeats[starts] = False
    return repeats


def _torsos(
    keypoints: Float32[np.ndarray, "T M V 3"],
    whole: Bool[np.ndarray, "T M"],
    starts: Int[np.ndarray, " clips"],
    layout: SkeletonLayout,
) -> tuple[Float[np.ndarray, "clips 3"], Float[np.ndarray, " clips"]]:
    """The mean torso of each clip and the mean of its length."""

    def middle(pair: str) -> Float[np.ndarray, "T M 3"]:
        left, right = (keypoints[:, :, layout.landmarks[f"{side} {pair}"]] for side in ("left", "right"))
        return (left.astype(np.float64) + right) / 2

    with np.errstate(invalid="ignore"):  # what is not finite goes out in the next line
        torsos = middle("shoulder") - middle("hip")
    torsos[~whole] = 0
    bodies = _totals(whole, starts).sum(axis=1)
    count = np.where(bodies > 0, bodies, np.nan)
    length = np.linalg.norm(torsos, axis=2)
    return _totals(torsos, starts).sum(axis=1) / count[:, None], _totals(length, starts).sum(axis=1) / count


def _bounds(
    keypoints: Float32[np.ndarray, "T M V 3"],
    whole: Bool[np.ndarray, "T M"],
    starts: Int[np.ndarray, " clips"],
) -> tuple[Float[np.ndarray, "clips 3"], Float[np.ndarray, "clips 3"]]:
    """The least and the greatest x, y and z of each clip."""

    def bound(extreme: np.ufunc, neutral: float) -> Float[np.ndarray, "clips 3"]:
        known = np.where(whole[:, :, None, None], keypoints, np.float32(neutral))
        return extreme.reduce(extreme.reduceat(known, starts, axis=0), axis=(1, 2))

    return bound(np.minimum, np.inf), bound(np.maximum, -np.inf)
