"""Ranges of the settings, checked before anything is read, built or removed."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
            "optimizer.micro_batch",
            "optimizer.milestones",
        ),
    ),
    # Batch norms and the correlation of features need a second clip.
    ("at least 2", lambda value: value >= 2, ("optimizer.batch_size",)),
    (
        "above 0",
        lambda value: value > 0,
        (
            "optimizer.lr",
            "optimizer.clip_norm",
            "objectives.teacher_temperature",
            "objectives.instance_temperature",
            "engine.stuck_seconds",
        ),
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
            "objectives.instance",
            "objectives.off_diagonal",
            "augment.yaw",
            "augment.rotate",
            "augment.tilt",
            "augment.shear",
            "augment.corrupt_joints",
            "engine.skip_broken",
            "momentum.queue",
            "engine.workers",
            "engine.save_minutes",
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
    (
        "at least 0 and below 1",
        lambda value: 0 <= value < 1,
        ("encoder.dropout", "augment.scale", "momentum.decay"),
    ),
    ("above 0 and at most 1", lambda value: 0 < value <= 1, ("augment.shortest_crop",)),
    ("at least 0 and below 2^63", lambda value: 0 <= value < 2**63, ("seed",)),
)


def check_config(config: PretrainConfig) -> None:
    """Raise InputError naming the first entry that is not a finite number of its range, or at odds with another.

    >>> check_config(PretrainConfig(seed=-1))
    Traceback (most recent call last):
    mica.errors.InputError: field 'seed': -1, expected at least 0 and below 2^63
    """
    for words, holds, entries in _RANGES:
        for entry in entries:
            value = attrgetter(entry)(config)
            for number in value if isinstance(value, list) else [] if value is None else [value]:
                if not (math.isfinite(number) and holds(number)):
                    raise InputError(f"{number}, expected {words}", field=entry)
    for entry, problem in _contradictions(config):
        raise InputError(problem, field=entry)


def _contradictions(config: PretrainConfig) -> Iterator[tuple[str, str]]:
    """Entries that make no sense beside others, and why."""
    steps, momentum = config.optimizer.schedule == "step", config.momentum
    if steps != bool(config.optimizer.milestones):
        yield "optimizer.milestones", "for the schedule 'step', which needs them, and for no other"
    if momentum.decay is None:
        needing = {
            "objectives.instance": config.objectives.instance > 0,
            "momentum.evaluated": momentum.evaluated,
        }
        for entry in (name for name, needs in needing.items() if needs):
            yield entry, "needs a momentum encoder: set momentum.decay, for example to 0.99"
    if momentum.queue > 0 and config.objectives.instance == 0:
        yield "momentum.queue", "is for the term 'instance': give objectives.instance a weight"
