"""Which of the bodies that a Kinect reports are persons: the cleaning of NTU RGB+D that is usual in the field.

The sensor takes chairs, bags and reflections for bodies. The rules and their numbers are those published with
CTR-GCN (Chen et al., 2021), which go back to VA-LSTM (Zhang et al., 2017).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32

from mica.data.formats.ntu_text import Track

SHORT = "track of 11 frames or fewer"
WIDE = "track wider than high"
CROWD = "more than two bodies"

_SHORTEST = 11
_WIDE_SPREAD = 0.8
_WIDE_SHARE = 0.69754


def choose_bodies(tracks: Sequence[Track]) -> tuple[list[Track], tuple[str, ...]]:
    """Return the one or two bodies that are persons, the more moving first, and what kinds of others were dropped.

    A body alone is kept. Of several, those seen in 11 frames or fewer are dropped; then those that in more than
    0.69754 of their frames spread over x by more than 0.8 of their spread over y; then all but the two that move
    most. A rule that would drop every body keeps the one that moves most.

    >>> standing = np.linspace([0, 0, 3], [0.5, 1.7, 3], 25, dtype=np.float32)
    >>> person = Track(1, np.arange(20), np.linspace(standing, standing + 1, 20, dtype=np.float32))
    >>> shadow = Track(2, np.arange(9), np.tile(standing, (9, 1, 1)))
    >>> kept, dropped = choose_bodies([shadow, person])
    >>> [track.body for track in kept], dropped
    ([1], ('track of 11 frames or fewer',))
    """
    kept, dropped = list(tracks), []
    for kind, is_noise in ((SHORT, _is_short), (WIDE, _is_wide)):
        others = [track for track in kept if not is_noise(track)] or [max(kept, key=motion)]
        if len(others) < len(kept):
            dropped.append(kind)
        kept = others
    if len(kept) > 2:
        dropped.append(CROWD)
    return sorted(kept, key=motion, reverse=True)[:2], tuple(dropped)


def motion(track: Track) -> float:
    """Return how much a body moves: the variances of x, y and z over all joints and frames, summed, in m².

    Frames in which the body is too wide are noise: where leaving them out makes the sum smaller, they are.
    """
    everything, steady = track.joints, track.joints[~_wide_frames(track)]
    return min(_variance(part) for part in (everything, steady) if len(part))


def arrange(num_frames: int, tracks: Sequence[Track]) -> Float32[np.ndarray, "T M 25 3"]:
    """Return the bodies side by side, zero in the frames that do not show them."""
    keypoints = np.zeros((num_frames, len(tracks), *tracks[0].joints.shape[1:]), np.float32)
    for person, track in enumerate(tracks):
        keypoints[track.frames, person] = track.joints
    return keypoints


def _is_short(track: Track) -> bool:
    return len(track.frames) <= _SHORTEST


def _is_wide(track: Track) -> bool:
    return bool(_wide_frames(track).mean() > _WIDE_SHARE)


def _wide_frames(track: Track) -> Bool[np.ndarray, " F"]:
    spread = np.ptp(track.joints.astype(np.float64), axis=1)
    return spread[:, 0] > _WIDE_SPREAD * spread[:, 1]


def _variance(joints: Float32[np.ndarray, "F 25 3"]) -> float:
    return float(joints.reshape(-1, 3).var(axis=0, dtype=np.float64).sum())
