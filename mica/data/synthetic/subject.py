"""Virtual subjects and the way in which each performs an action."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mica.data.synthetic.actions import REST, SEATED, Action, arm, interpolate, leg, vector
from mica.data.synthetic.body import COLUMN, Body

_AT_REST = vector(REST)
_ON_A_CHAIR = vector({name: angle for name, angle in SEATED.items() if "hip" in name or "knee" in name})
# How far each channel wanders while someone just stands, in the channel's unit.
_SWAY = np.array([
    *(2.5, 2.0, 4.0, 4.0, 8.0), *(4.0, 10.0, 0.03), *(4.0, 10.0, 0.03), *(2.0, 1.5, 3.0), *(2.0, 1.5, 3.0),
    *(0.0, 0.02, 0.02, 4.0),
])  # fmt: skip
_IS_ANGLE = _SWAY >= 1
_CARELESSNESS = 12.0  # degrees by which a key pose is missed
_SEATED_SHARE = 0.5  # of the clips of actions that are done seated too


@dataclass(frozen=True)
class Subject:
    """Build and habits of one person.

    `haste` above 1 hurries through the beginning of a movement. `posture` is added to every pose.

    >>> Subject.draw(3, np.random.default_rng(0)).left_handed
    True
    """

    body: Body
    left_handed: bool
    speed: float
    amplitude: float
    haste: float
    restlessness: float
    posture: Float[np.ndarray, " D"]

    @classmethod
    def draw(cls, number: int, rng: np.random.Generator) -> Subject:
        """A random person; every third is left-handed."""
        body = Body.of_height(
            rng.uniform(1.52, 1.95),
            arms=rng.uniform(0.92, 1.08),
            legs=rng.uniform(0.95, 1.05),
            width=rng.uniform(0.88, 1.15),
        )
        habits = {"lean": rng.normal(3, 6), "nod": rng.normal(2, 7)}
        habits |= {"side": rng.normal(0, 3), "twist": rng.normal(0, 6)}
        arms_out, feet_apart = rng.uniform(-3, 14), rng.uniform(-2, 8)
        for side in ("left", "right"):
            habits |= {f"{side} elevation": arms_out, f"{side} abduct": feet_apart}
        return cls(
            body=body,
            left_handed=number % 3 == 0,
            speed=float(np.exp(rng.normal(0, 0.25))),
            amplitude=rng.uniform(0.65, 1.15),
            haste=float(np.exp(rng.normal(0, 0.25))),
            restlessness=rng.uniform(0.6, 1.6),
            posture=vector(habits, base={}),
        )


def perform(
    subject: Subject, action: Action, frames: int, rate: float, rng: np.random.Generator
) -> Float[np.ndarray, "T D"]:
    """The pose sequence of one performance by the right hand, at `rate` frames a second."""
    length = action.seconds / subject.speed * np.exp(rng.normal(0, 0.2)) * rate
    times, poses = (_cycles if action.repeated else _once)(subject, action, frames, length, rng)
    poses = poses + _CARELESSNESS * _IS_ANGLE * rng.standard_normal(poses.shape) * (poses != _AT_REST)
    movement = interpolate(np.arange(frames, dtype=float), times, poses) - _AT_REST
    amplitude = subject.amplitude * np.exp(rng.normal(0, 0.1))
    seated = action.seated and rng.random() < _SEATED_SHARE
    pose = (_ON_A_CHAIR if seated else _AT_REST) + subject.posture + amplitude * movement
    pose += subject.restlessness * _SWAY * _wander(frames, rate, rng)
    pose += _distraction(frames, rng, idle_arm=not action.uses_left_arm, may_step=not seated)
    return pose


def _once(
    subject: Subject, action: Action, frames: int, length: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Key frames of one performance, placed at random in the clip; idle before and after."""
    length = np.clip(length, 0.4 * frames, 0.95 * frames)
    start = rng.uniform(0, frames - length)
    return start + length * action.times**subject.haste, action.poses


def _cycles(
    subject: Subject, action: Action, frames: int, length: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Key frames of as many cycles as fit, under way at a random phase or begun after an idle moment."""
    before, after = rng.uniform(-0.4, 0.3, 2) * frames
    period = min(length, 0.4 * frames)
    count = max(2, round((frames - before - after) / period))
    once = action.times[:-1] ** subject.haste
    cycles = (np.arange(count)[:, None] + once).ravel()
    times = np.array([-0.6, *cycles, count, count + 0.6])  # in periods, with the ways from and to rest
    poses = np.concatenate([[_AT_REST], np.tile(action.poses[:-1], (count, 1)), action.poses[:1], [_AT_REST]])
    return before + period * times, poses


def _wander(frames: int, rate: float, rng: np.random.Generator) -> Float[np.ndarray, "T D"]:
    """Slow movement of unit variance in every channel: three sines of 0.1 to 0.8 Hz."""
    channels = len(COLUMN)
    frequency, phase = rng.uniform(0.1, 0.8, (3, channels)), rng.uniform(0, 2 * np.pi, (3, channels))
    time = np.arange(frames)[:, None, None] / rate
    return np.sin(2 * np.pi * frequency * time + phase).sum(axis=1) / np.sqrt(1.5)


def _distraction(
    frames: int, rng: np.random.Generator, idle_arm: bool, may_step: bool
) -> Float[np.ndarray, "T D"]:
    """What the person does besides: moves the idle arm, looks around, turns, takes a step."""
    extra = np.zeros((frames, len(COLUMN)))
    if idle_arm and rng.random() < 0.7:
        place = arm("left", rng.uniform(-0.3, 0.5), rng.uniform(-0.7, 0.4), rng.uniform(0.1, 0.7))
        extra += _bump(frames, rng)[:, None] * (vector(place) - _AT_REST)
    if rng.random() < 0.6:
        glance = {"nod": rng.normal(0, 12), "turn": rng.normal(0, 30)}
        glance |= {"lean": rng.normal(0, 8), "twist": rng.normal(0, 15)}
        extra += _bump(frames, rng)[:, None] * vector(glance, base={})
    if may_step and rng.random() < 0.4:
        swing = _bump(frames, rng)
        progress = np.cumsum(swing) / np.sum(swing)
        step = leg(("left", "right")[rng.integers(2)], 28, 46)
        shift = {"travel left": rng.normal(0, 0.2), "travel forward": rng.normal(0, 0.2)}
        shift |= {"heading": rng.normal(0, 25)}
        extra += swing[:, None] * (vector(step) - _AT_REST) + progress[:, None] * vector(shift, base={})
    return extra


def _bump(frames: int, rng: np.random.Generator) -> Float[np.ndarray, " T"]:
    """A raised cosine somewhere in the clip."""
    width = rng.uniform(0.25, 0.6) * frames
    centre = rng.uniform(0.1, 0.9) * frames
    phase = np.clip((np.arange(frames) - centre) / width, -0.5, 0.5)
    return 0.5 + 0.5 * np.cos(2 * np.pi * phase)
