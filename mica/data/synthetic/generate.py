"""The synthetic data set: every subject performs every action several times before the sensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from mica.data.clip import Clip, StoreInfo
from mica.data.synthetic.actions import ACTIONS, CLASS_NAMES
from mica.data.synthetic.body import forward_kinematics
from mica.data.synthetic.sensor import CAMERA_YAW, SETUPS, degrade, observe
from mica.data.synthetic.subject import Subject, perform
from mica.errors import InputError
from mica.skeleton import get_layout

FRAME_RATE = 30.0
_SHORTEST = 8  # frames; fewer do not tell one action from another
_OTHER_HAND = 0.25  # share of the clips in which a person uses the other hand


def generate(
    clips_per_class: int = 72, subjects: int = 12, seed: int = 0, num_frames: tuple[int, int] = (30, 90)
) -> tuple[StoreInfo, Iterator[Clip], int]:
    """Return the description of the set, its clips one by one, and how many they are.

    Sixteen everyday actions on the 25 joints of NTU RGB+D, in metres, (T, 1, 25, 3) float32, T between the
    two `num_frames`. A clip depends on the seed and on its own subject, action and replication alone: a
    larger set with the same seed holds the same clips.

    Raises:
        InputError: a setting that leaves no clip.

    >>> info, clips, total = generate(clips_per_class=1, subjects=1)
    >>> total, next(clips).name, info.class_names[0]
    (16, 'S002P001R001A001', 'drink water')
    """
    if clips_per_class < 1 or subjects < 1:
        problem = f"{clips_per_class} clips a class by {subjects} subjects"
        raise InputError(problem, hint="ask for at least one of each")
    if not _SHORTEST <= num_frames[0] <= num_frames[1]:
        problem = f"clips of {num_frames[0]} to {num_frames[1]} frames"
        raise InputError(problem, hint=f"give the shortest, at least {_SHORTEST}, then the longest")
    info = StoreInfo(
        dataset="synthetic",
        layout="ntu-25",
        class_names=CLASS_NAMES,
        frame_rate=FRAME_RATE,
        source=f"generated from seed {seed}",
    )
    clips = (
        make_clip(1 + index % subjects, label, 1 + index // subjects, seed, num_frames)
        for index in range(clips_per_class)
        for label in range(len(ACTIONS))
    )
    return info, clips, clips_per_class * len(ACTIONS)


def make_clip(
    subject: int, label: int, replication: int, seed: int = 0, num_frames: tuple[int, int] = (30, 90)
) -> Clip:
    """One clip of subject and replication (both from 1) performing action `label` (from 0)."""
    person = Subject.draw(subject, np.random.default_rng([seed, 0, subject]))
    rng = np.random.default_rng([seed, 1, subject, label, replication])
    frames = int(rng.integers(num_frames[0], num_frames[1] + 1))
    setup, camera = 1 + int(rng.integers(len(SETUPS))), 1 + int(rng.integers(len(CAMERA_YAW)))
    joints = act(person, label, frames, rng)
    keypoints = degrade(observe(joints, camera, setup, rng), rng)
    return Clip(
        name=f"S{setup:03d}P{subject:03d}R{replication:03d}A{label + 1:03d}",
        keypoints=keypoints[:, None].astype(np.float32),
        label=label,
        subject=subject,
        camera=camera,
        setup=setup,
        replication=replication,
        text=CLASS_NAMES[label],
    )


def act(person: Subject, label: int, frames: int, rng: np.random.Generator) -> Float[np.ndarray, "T 25 3"]:
    """Joints in the body frame, exact, executed with the hand that this person happens to use."""
    left_hand = person.left_handed != (rng.random() < _OTHER_HAND)
    joints = forward_kinematics(person.body, perform(person, ACTIONS[label], frames, FRAME_RATE, rng))
    return mirrored(joints) if left_hand else joints


def mirrored(joints: Float[np.ndarray, "T 25 3"]) -> Float[np.ndarray, "T 25 3"]:
    """The same movement with left and right exchanged."""
    return joints[:, list(get_layout("ntu-25").mirror)] * np.array([-1.0, 1.0, 1.0])
