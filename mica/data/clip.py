"""One recorded action, what is known of a whole data set, and what both must fulfil."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float32

from mica.errors import InputError
from mica.skeleton import LAYOUTS, SkeletonLayout, get_layout, layout_from_dict


@dataclass
class Clip:
    """One action of one or more persons, by the camera that saw it.

    keypoints: float32, metres, (frames, persons, joints, xyz); a body that the sensor lost is all zero there.
    label: 0-based. The other numbers are the owners' (1-based as a rule), 0 where the data set has none.
    parts: where the source itself says who trains and who tests: "train", "validation" or "test" by protocol.
    """

    name: str
    keypoints: Float32[np.ndarray, "T M V 3"]
    label: int
    subject: int = 0
    camera: int = 0
    setup: int = 0
    replication: int = 0
    text: str = ""
    parts: dict[str, str] = field(default_factory=dict)


PARTS = ("train", "validation", "test")
MOST_PERSONS = 2
"""How many persons of a clip are used, the first ones; a store may hold more."""


@dataclass(frozen=True)
class StoreInfo:
    """What all clips of a data set share.

    `layout` is the name of a `SkeletonLayout`; one that is not among the registered is described in `own_layout`,
    as `layout_to_dict` has it.
    """

    dataset: str
    layout: str
    class_names: tuple[str, ...]
    frame_rate: float
    source: str = ""
    own_layout: dict[str, Any] | None = field(default=None, hash=False)


@lru_cache
def layout_of(info: StoreInfo) -> SkeletonLayout:
    """Return the layout of a data set; `InputError` if there is none of that name, or its description is wrong."""
    if info.own_layout is None:
        return get_layout(info.layout)
    own = layout_from_dict(info.own_layout)
    if own.name != info.layout:
        raise InputError(f"describes '{own.name}', expected '{info.layout}'", field="own_layout")
    if LAYOUTS.get(own.name, own) != own:
        raise InputError(f"another skeleton layout is called '{own.name}'", hint="choose another name")
    return own


def check_info(info: StoreInfo) -> None:
    """Raise `InputError` unless the layout is known, class names differ, the frame rate is positive and the name fits.

    A data set's name becomes a part of file names.
    """
    layout_of(info)
    if not info.dataset or set(info.dataset) & set("/\\\0"):
        raise InputError(
            f"a data set called {info.dataset!r}", field="dataset", hint="give it a name without / and \\"
        )
    if not info.class_names or len(set(info.class_names)) < len(info.class_names):
        raise InputError(f"{info.dataset}: class names must be given and differ", field="class_names")
    if not (math.isfinite(info.frame_rate) and info.frame_rate > 0):
        raise InputError(
            f"{info.dataset}: frame rate {info.frame_rate}, expected above 0", field="frame_rate"
        )


def check_clip(
    clip: Clip, info: StoreInfo, *, file: str | os.PathLike[str] | None = None, coordinates: str = "keypoints"
) -> Clip:
    """Return `clip` if a store may hold it, else raise `InputError` that names `file`, clip and field
    (`coordinates` is what the file calls the keypoints).

    Coordinates must be float32 of shape (T >= 1, M >= 1, V of the layout, 3), finite, and the first person not all
    zero. Single frames of zeros are legal: the sensor lost the body.
    """

    def refuse(field: str, problem: str) -> InputError:
        return InputError(problem, file=file, clip=clip.name, field=field)

    if not clip.name:
        raise refuse("name", "a clip needs a name")
    for protocol, part in clip.parts.items():
        if not protocol or part not in PARTS:
            problem = f"part '{part}' of protocol '{protocol}', expected {', '.join(PARTS)}"
            raise refuse("parts", problem)
    if not 0 <= clip.label < len(info.class_names):
        problem = f"label {clip.label} of {len(info.class_names)} classes (labels count from 0)"
        raise refuse("label", problem)
    keypoints = clip.keypoints
    if keypoints.dtype != np.float32:
        raise refuse(coordinates, f"{keypoints.dtype}, expected float32")
    if keypoints.ndim != 4 or keypoints.shape[3] != 3:
        raise refuse(coordinates, f"shape {keypoints.shape}, expected (frames, persons, joints, 3)")
    frames, persons, joints, _ = keypoints.shape
    expected = layout_of(info).num_joints
    if joints != expected:
        raise refuse(coordinates, f"{joints} joints, layout {info.layout} has {expected}")
    if frames == 0 or persons == 0:
        raise refuse(coordinates, "no frames" if frames == 0 else "no persons")
    broken = ~np.isfinite(keypoints).all(axis=(1, 2, 3))
    if broken.any():
        first = int(np.flatnonzero(broken)[0])
        problem = (
            f"{broken.sum()} of {frames} frames hold values that are not finite, the first is frame {first}"
        )
        raise refuse(coordinates, problem)
    if not keypoints.any():
        raise refuse(coordinates, "zero in every frame: the sensor saw nobody")
    if not keypoints[:, 0].any():  # it is the one by whom a clip is centred and turned
        raise refuse(coordinates, "the first person is zero in every frame, another is not")
    return clip
