"""Ranges of the settings, checked before anything is read, built or removed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import attrgetter

from mica.errors import InputError
from mica.training.config import PretrainConfig

VIEWS = ("augment", "baseline.extreme")
"""The entries that say how a view is drawn."""


def _of_views(*names: str) -> tuple[str, ...]:
    return tuple(f"{view}.{name}" for view in VIEWS for name in names)


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
            "baseline.neighbours",
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
            "baseline.temperature",
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
            *_of_views("yaw", "rotate", "tilt", "shear", "corrupt_joints"),
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
            "baseline.mine_after",
            "baseline.drop_above",
            *_of_views("time_shift", "mirror", "flip", "noise", "blur", "axis_mask", "time_flip"),
        ),
    ),
    (
        "at least 0 and below 1",
        lambda value: 0 <= value < 1,
        ("encoder.dropout", "momentum.decay", *_of_views("scale")),
    ),
    ("above 0 and at most 1", lambda value: 0 < value <= 1, _of_views("shortest_crop")),
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
    steps = config.optimizer.schedule == "step"
    if steps != bool(config.optimizer.milestones):
        yield "optimizer.milestones", "for the schedule 'step', which needs them, and for no other"
    yield from _of_mica(config) if config.method == "mica" else _of_classics(config)


def _of_mica(config: PretrainConfig) -> Iterator[tuple[str, str]]:
    momentum = config.momentum
    if momentum.decay is None:
        needing = {
            "objectives.instance": config.objectives.instance > 0,
            "momentum.evaluated": momentum.evaluated,
        }
        for entry in (name for name, needs in needing.items() if needs):
            yield entry, "needs a momentum encoder: set momentum.decay, for example to 0.99"
    if momentum.queue > 0 and config.objectives.instance == 0:
        yield "momentum.queue", "is for the term 'instance': give objectives.instance a weight"


def _of_classics(config: PretrainConfig) -> Iterator[tuple[str, str]]:
    method, momentum = config.method, config.momentum
    if config.text != "none":
        yield "text", f"'{config.text}' is for MICA: the method {method} reads no text, set it to none"
    if config.optimizer.micro_batch is not None:
        yield "optimizer.micro_batch", f"is for MICA: the method {method} takes its batch as a whole"
    if momentum.evaluated:
        yield "momentum.evaluated", f"is for MICA: the method {method} leaves the model that gradients train"
    if method == "supervised":
        if momentum.decay is not None or momentum.queue > 0:
            yield "momentum", "the supervised method has no momentum encoder: leave both entries out"
        return
    if momentum.decay is None:
        yield "momentum.decay", f"the method {method} needs a momentum encoder: set it, for example to 0.99"
    if momentum.queue < 1:
        yield "momentum.queue", f"the method {method} needs a queue: set its size, for example to 512"
    if method == "crossclr" and config.preprocessing.stream != "joint":
        yield "preprocessing.stream", "crossclr makes its three streams of the joints: set it to joint"
