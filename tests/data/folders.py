"""Folders of one's own recordings, and what is found in them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mica.data.clip import Clip
from mica.data.formats.own.folder import find
from mica.data.outcome import Found, Outcome
from mica.data.recordings import open_source
from mica.errors import InputError
from mica.skeleton import get_layout, standing_pose

KINECT, COCO = get_layout("kinect-20"), get_layout("coco-17")


def body(layout: Any = KINECT, frames: int = 4, persons: int = 1, seed: int = 0) -> np.ndarray:
    """People who stand and tremble, (T, M, V, 3) in metres."""
    rng = np.random.default_rng(seed)
    pose = np.pad(standing_pose(layout), ((0, 0), (0, 1)))
    return pose + rng.normal(size=(frames, persons, layout.num_joints, 3)) * 0.02 + [0.3, 0.1, 2.0]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def find_in(root: Path, **options: Any) -> Found:
    return find(open_source(root), **{"layout": "kinect-20", "frame_rate": 30, **options})


def outcomes(root: Path, **options: Any) -> list[Outcome]:
    found = find_in(root, **options)
    source = open_source(root)
    return [outcome for unit in found.units for outcome in found.read(source, unit)]


def one(root: Path, **options: Any) -> Clip:
    (outcome,) = outcomes(root, **options)
    assert outcome.clip is not None
    return outcome.clip


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        outcomes(root, **options)
    return str(caught.value)


def hanging_bvh(frames: int = 3, offset: float = 0.0, names: str = "Hips Spine LeftArm RightArm LeftUpLeg RightUpLeg",
                frame_time: float = 0.04) -> str:  # fmt: skip
    """A body of six joints in centimetres that walks along z."""
    hips, spine, *others = names.split()
    places = ["20 0 0", "-20 0 0", "10 -5 0", "-10 -5 0"]
    blocks = [
        f"JOINT {name}\n{{\nOFFSET {place}\nCHANNELS 0\n}}"
        for name, place in zip(others, places, strict=True)
    ]
    head = f"HIERARCHY\nROOT {hips}\n{{\nOFFSET 0 0 0\nCHANNELS 3 Xposition Yposition Zposition\n"
    tree = f"JOINT {spine}\n{{\nOFFSET 0 50 0\nCHANNELS 1 Yrotation\n"
    tree += f"{blocks[0]}\n{blocks[1]}\n}}\n{blocks[2]}\n{blocks[3]}\n}}\n"
    rows = "".join(f"{offset} 90 {frame} 0\n" for frame in range(frames))
    return f"{head}{tree}MOTION\nFrames: {frames}\nFrame Time: {frame_time}\n{rows}"
