"""The .npz of CTR-GCN and of those who build on it, such as `NTU60_CS.npz` or `NTU120_CSub.npz`.

`x_train` and `x_test` are (clips, frames, persons x joints x 3) in metres, filled up with zeros to 300 frames;
`y_train` and `y_test` are one-hot, or whole numbers from 0. Names and subjects are not in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Num

from mica.data.clip import Clip, StoreInfo
from mica.data.formats.others.prepared import LAYOUT_OF_JOINTS, cut_padding, describe, outcome_of, to_float32
from mica.data.npy import StoredArray, open_array
from mica.data.outcome import Outcome
from mica.skeleton import get_layout

PARTS = ("train", "test")
_DATASET_OF_CLASSES = {60: "ntu60", 120: "ntu120"}
_PROTOCOL_IN_NAME = re.compile(r"_(CS|CSub|CV|CSet)(?![a-z])", re.IGNORECASE)
_PROTOCOLS = {"cs": "cross-subject", "csub": "cross-subject", "cv": "cross-view", "cset": "cross-setup"}


def read(
    file: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    layout: str | None = None,
    protocol: str | None = None,
    class_names: Sequence[str] = (),
) -> tuple[StoreInfo, Iterator[Outcome], int]:
    """Return the description, the clips one by one as they are asked for, and how many there are.

    One clip is in memory at a time, however large the file. Frames of padding are cut, as are persons whom no
    frame shows; a clip that shows nobody is left out. Clips are called "train_000000" and so on, and keep their
    part in `protocol`, which by default is told from the end of the file's name, else "as-given". `dataset` is
    by default told from the number of classes, else the file's name; `layout` from the width, that of two
    persons or one. Raises `InputError` at once for a file that is not of this form, later for one that is
    damaged in the middle.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     x, y = np.ones((1, 300, 150), np.float32), np.eye(60)[:1]
    ...     np.savez(f"{folder}/NTU60_CS.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    ...     info, outcomes, total = read(f"{folder}/NTU60_CS.npz")
    ...     info.dataset, total, next(outcomes).clip.parts
    ('ntu60', 2, {'cross-subject': 'train'})
    """
    file = Path(file)
    arrays = {part: (open_array(file, f"x_{part}"), open_array(file, f"y_{part}")) for part in PARTS}
    layout = layout or _layout_of(arrays["train"][0])
    joints = get_layout(layout).num_joints
    for x, y in arrays.values():
        _check(x, y, layout)
    one_class = all(_only_ones(y) for _, y in arrays.values())
    num_classes = 1 if one_class else max(_num_classes(y) for _, y in arrays.values())
    dataset = dataset or _DATASET_OF_CLASSES.get(num_classes, file.stem.lower())
    info = describe(dataset, layout, num_classes, class_names, file, "CTR-GCN")
    protocol = protocol or _protocol_of(file)

    def outcomes() -> Iterator[Outcome]:
        for part, (x, y) in arrays.items():
            for i, (frames, answer) in enumerate(zip(x.rows(), y.rows(), strict=True)):
                name = f"{part}_{i:06d}"
                label = 0 if one_class else _label(answer, y, name)
                clip = Clip(name, _keypoints(frames, joints), label, parts={protocol: part})
                yield outcome_of(clip, info, file=file, field=x.member)

    return info, outcomes(), sum(x.shape[0] for x, _ in arrays.values())


def _layout_of(x: StoredArray) -> str:
    """Return the layout of which a row of `x` holds two bodies, or one."""
    for persons in (2, 1):
        joints, rest = divmod(x.shape[-1], persons * 3)
        if rest == 0 and joints in LAYOUT_OF_JOINTS:
            return LAYOUT_OF_JOINTS[joints]
    raise x.refuse(f"{x.shape[-1]} numbers a frame, which could be several layouts", hint="name the layout")


def _check(x: StoredArray, y: StoredArray, layout: str) -> None:
    body = get_layout(layout).num_joints * 3
    if x.dtype.kind != "f" or len(x.shape) != 3 or x.shape[2] % body:
        expected = f"numbers of shape (clips, frames, persons x {body}) for {layout}"
        hint = f"name another layout than {layout} if its bodies have other joints"
        raise x.refuse(f"{x.dtype} of shape {x.shape}, expected {expected}", hint=hint)
    if len(y.shape) > 2 or y.shape[0] != x.shape[0]:
        expected = f"a label for each of the {x.shape[0]} clips, one-hot or a number"
        raise y.refuse(f"shape {y.shape}, expected {expected}")


def _only_ones(y: StoredArray) -> bool:
    """Whether labels are marks of the only class that there is: a column of ones, which would be 1 as numbers."""
    return y.shape[1:] == (1,) and all(answer.item() == 1 for answer in y.rows())


def _one_hot(y: StoredArray) -> bool:
    return len(y.shape) == 2 and y.shape[1] > 1


def _num_classes(y: StoredArray) -> int:
    if _one_hot(y):
        return y.shape[1]
    return 1 + max(_label(answer, y, f"{i}") for i, answer in enumerate(y.rows()))


def _label(answer: Num[np.ndarray, "*classes"], y: StoredArray, clip: str) -> int:
    if _one_hot(y):
        chosen = np.flatnonzero(answer)
        if len(chosen) != 1:
            raise y.refuse(f"{len(chosen)} classes are marked, expected one", clip=clip)
        return int(chosen[0])
    number = answer.item()
    if not 0 <= number < np.inf or number != int(number):
        raise y.refuse(f"label {number}, expected a whole number from 0", clip=clip)
    return int(number)


def _keypoints(
    frames: Num[np.ndarray, "T persons_joints_3"], joints: int
) -> Float32[np.ndarray, "T_seen M V 3"]:
    return cut_padding(to_float32(frames).reshape(len(frames), -1, joints, 3))


def _protocol_of(file: Path) -> str:
    found = _PROTOCOL_IN_NAME.search(file.stem)
    return _PROTOCOLS[found[1].lower()] if found else "as-given"
