"""Ranges of the settings, checked before anything is read, built or removed."""

from __future__ import annotations

import math
from operator import attrgetter

from mica.errors import InputError
from mica.training.config import PretrainConfig

# Words for the range, the range, and the entries that must lie in it.
_RANGES = (
    (
        "at least 1",
        lambda value: value >= 1,
        (
            "preprocessing.num_frames",
            "encoder.groups",
            "heads.segments",
            "heads.hidden",
            "heads.projection",
            "optimizer.epochs",
        ),
    ),
    # Batch norms and the correlation of features need a second clip.
    ("at least 2", lambda value: value >= 2, ("optimizer.batch_size",)),
    (
        "above 0",
        lambda value: value > 0,
        ("optimizer.lr", "optimizer.clip_norm", "objectives.teacher_temperature"),
    ),
    (
        "at least 0",
        lambda value: value >= 0,
        (
            "optimizer.weight_decay",
            "optimizer.warmup_epochs",
            "objectives.modulation",
            "objectives.inter",
            "objectives.intra",
            "objectives.off_diagonal",
            "augment.yaw",
            "augment.rotate",
            "augment.tilt",
            "augment.shear",
            "augment.corrupt_joints",
            "knn_every",
        ),
    ),
    (
        "between 0 and 1",
        lambda value: 0 <= value <= 1,
        (
            "augment.time_shift",
            "augment.mirror",
            "augment.flip",
            "augment.noise",
            "augment.blur",
            "augment.axis_mask",
            "augment.time_flip",
        ),
    ),
    ("at least 0 and below 1", lambda value: 0 <= value < 1, ("encoder.dropout", "augment.scale")),
    ("above 0 and at most 1", lambda value: 0 < value <= 1, ("augment.shortest_crop",)),
    ("at least 0 and below 2^63", lambda value: 0 <= value < 2**63, ("seed",)),
)


def check_config(config: PretrainConfig) -> None:
    """Raise InputError naming the first entry that is not a finite number of its range.

    >>> check_config(PretrainConfig(seed=-1))
    Traceback (most recent call last):
    mica.errors.InputError: field 'seed': -1, expected at least 0 and below 2^63
    """
    for words, holds, entries in _RANGES:
        for entry in entries:
            value = attrgetter(entry)(config)
            if not (math.isfinite(value) and holds(value)):
                raise InputError(f"{value}, expected {words}", field=entry)
