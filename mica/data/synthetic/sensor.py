"""A Kinect-like sensor: where it stands, and what it gets wrong."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

CAMERA_YAW = (-45.0, 0.0, 45.0)
"""Degrees by which cameras 1 to 3 stand to the side of the person; a clip deviates by up to 15 degrees."""

SETUPS = ((2.4, 0.9), (3.0, 1.2), (3.6, 1.6))
"""Distance and height of the sensor, in metres, in setups 1 to 3."""

# The joints that a depth sensor loses together.
_LIMBS = ((5, 6, 7, 21, 22), (9, 10, 11, 23, 24), (13, 14, 15), (17, 18, 19), (7, 21, 22), (11, 23, 24))
_UNSTEADY = np.ones(25)
_UNSTEADY[[7, 11, 15, 19]] = 1.5
_UNSTEADY[[21, 22, 23, 24]] = 2.0


def observe(
    joints: Float[np.ndarray, "T V 3"], camera: int, setup: int, rng: np.random.Generator
) -> Float[np.ndarray, "T V 3"]:
    """From the body frame to the coordinates of a sensor that the person roughly faces.

    As Kinect has it: x to the sensor's left, y up, z the distance.
    """
    yaw = np.radians(CAMERA_YAW[camera - 1] + rng.uniform(-15, 15))
    pitch = np.radians(rng.uniform(-8, 8))
    distance, height = SETUPS[setup - 1]
    place = np.array([0, -height, distance]) + rng.uniform(-1, 1, 3) * (0.5, 0.2, 0.3)
    facing = np.array([[-np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, -np.cos(yaw)]])
    tilt = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return (joints @ facing.T + place) @ tilt.T


def degrade(
    joints: Float[np.ndarray, "T V 3"], rng: np.random.Generator, jitter: float = 0.02
) -> Float[np.ndarray, "T V 3"]:
    """Add correlated jitter of `jitter` metres and, now and then, drop-outs.

    A limb freezes for some frames, or jumps aside; rarely the whole body is lost and the frames are zero.
    """
    frames = len(joints)
    observed = joints + jitter * _UNSTEADY[:, None] * _autoregressive(rng.standard_normal(joints.shape))
    for _ in range(rng.poisson(frames / 20)):
        limb = list(_LIMBS[rng.integers(len(_LIMBS))])
        start, stop = _interval(frames, 3, 12, rng)
        if rng.random() < 0.5:
            observed[start:stop, limb] = observed[start, limb]
        else:
            observed[start:stop, limb] += rng.normal(0, 0.15, 3)
    if rng.random() < 0.06:
        start, stop = _interval(frames, 1, 4, rng)
        observed[start:stop] = 0
    return observed


def _autoregressive(white: np.ndarray, memory: float = 0.8) -> np.ndarray:
    """Unit variance, correlated over the first axis."""
    noise = white.copy()
    for frame in range(1, len(noise)):
        noise[frame] = memory * noise[frame - 1] + np.sqrt(1 - memory**2) * white[frame]
    return noise


def _interval(frames: int, shortest: int, longest: int, rng: np.random.Generator) -> tuple[int, int]:
    """Start and stop of `shortest` to `longest` - 1 frames; not the first, so that no clip is lost whole."""
    start = int(rng.integers(1, frames))
    return start, min(start + int(rng.integers(shortest, longest)), frames)
