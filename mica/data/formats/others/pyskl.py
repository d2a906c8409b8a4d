"""The pickle of pyskl and mmaction2, such as `ntu60_3danno.pkl` or `ntu60_hrnet.pkl`.

A dictionary of `split`, lists of clip names, and `annotations`, a dictionary a clip: `frame_dir` (its name),
`label` from 0, `keypoint` of shape (persons, frames, joints, 3) in metres or (persons, frames, joints, 2) in pixels
of an image of `img_shape` (height, width), and `keypoint_score` where there is one. Older files are the list of
annotations alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Num

from mica.data.clip import Clip, StoreInfo
from mica.data.formats.others.prepared import (
    LAYOUT_OF_JOINTS,
    as_label,
    describe,
    ntu_dataset,
    outcome_of,
    refuse_other_actions,
    refuse_repeated,
    split_parts,
    to_float32,
)
from mica.data.outcome import Outcome
from mica.data.unpickle import restricted_load
from mica.errors import InputError

# Of bodies in three dimensions and in two; 25 joints in two are no Kinect's.
_LAYOUTS = {3: {**LAYOUT_OF_JOINTS, 17: "coco-17"}, 2: {17: "coco-17"}}
_FARTHEST = 100.0  # metres; half of all coordinates beyond this are pixels or millimetres
_MISSING_JOINTS = "joints that are not numbers, set to zero"


def read(
    file: str | os.PathLike[str],
    *,
    dataset: str | None = None,
    layout: str | None = None,
    class_names: Sequence[str] = (),
) -> tuple[StoreInfo, Iterator[Outcome], int]:
    """Return the description, the clips one by one as they are asked for, and how many there are.

    The pickle is held in memory whole, and read by `restricted_load`. Bodies in two dimensions become
    x = (column - width / 2) / (height / 2), y = (height / 2 - row) / (height / 2), z = 0, so that y points up and
    a person as high as the image is 2 high. A joint that was not detected (score 0, or pixel 0, 0) or is not a
    number becomes zero. Persons whom no frame shows are cut; a clip that shows nobody is left out, as is one that
    a split lists and no annotation describes.

    Splits called xsub, xview and xset become the protocols "cross-subject", "cross-view" and "cross-setup", others keep
    their names; `val` is the test part unless there is a `test`. NTU names tell subject, camera, setup, replication
    and `dataset`; else that is the file's name. `layout` need be said where joints and dimensions do not tell it:
    17 joints are taken for coco-17. Raises `InputError` at once for a file that is not of this form, later at the
    first annotation that is damaged.

    >>> import pickle, tempfile
    >>> clip = {"frame_dir": "S001C001P003R001A007", "label": 6, "keypoint": np.ones((1, 80, 25, 3), np.float16)}
    >>> content = {"split": {"xsub_val": ["S001C001P003R001A007"]}, "annotations": [clip]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "ntu60_3danno.pkl").write_bytes(pickle.dumps(content))
    ...     info, outcomes, total = read(f"{folder}/ntu60_3danno.pkl")
    ...     info.layout, next(outcomes).clip.parts
    ('ntu-25', {'cross-subject': 'test'})
    """
    file = Path(file)
    split, annotations = _load(file)
    names = [_name(annotation, i, file) for i, annotation in enumerate(annotations)]
    refuse_repeated(names, file)
    labels = [_label(annotation, file) for annotation in annotations]
    parts = _parts(split, file)
    layout = layout or _layout_of(_array(annotations[0], "keypoint", names[0], file), names[0], file)
    dataset = dataset or ntu_dataset(names, labels) or file.stem.lower()
    info = describe(dataset, layout, 1 + max(labels), class_names, file, "pyskl or mmaction2")
    refuse_other_actions(dataset, names, labels, file)
    undescribed = sorted(set(parts) - set(names))

    def outcomes() -> Iterator[Outcome]:
        for annotation, name, label in zip(annotations, names, labels, strict=True):
            keypoints, cleaned = _keypoints(annotation, name, file)
            clip = Clip(name, keypoints, label, parts=parts.get(name, {}))
            yield outcome_of(clip, info, file=file, field="keypoint", cleaned=cleaned)
        for name in undescribed:
            yield Outcome(name, None, left_out="listed in a split, but without an annotation")

    return info, outcomes(), len(names) + len(undescribed)


def _load(file: Path) -> tuple[dict[str, list[str]], list[dict[str, Any]]]:
    content = restricted_load(file)
    if isinstance(content, list):
        content = {"split": {}, "annotations": content}
    if not isinstance(content, dict) or not {"split", "annotations"} <= content.keys():
        raise InputError("expected a dictionary of 'split' and 'annotations'", file=file)
    split, annotations = content["split"], content["annotations"]
    if not isinstance(split, dict) or not all(map(_is_list_of_names, [split, *split.values()])):
        raise InputError("expected lists of clip names", file=file, field="split")
    if not isinstance(annotations, list) or not all(isinstance(entry, dict) for entry in annotations):
        raise InputError("expected a list of dictionaries", file=file, field="annotations")
    if not annotations:
        raise InputError("no clips", file=file, field="annotations")
    return split, annotations


def _is_list_of_names(values: Any) -> bool:
    iterable = isinstance(values, list | tuple | set | dict) or (
        isinstance(values, np.ndarray) and values.ndim == 1
    )
    return iterable and all(isinstance(value, str) and value for value in values)


def _parts(split: dict[str, list[str]], file: Path) -> dict[str, dict[str, str]]:
    """Return for each clip name its part by protocol."""
    parts: dict[str, dict[str, str]] = {}
    for key, (protocol, part) in split_parts(split).items():
        for name in split[key]:
            if parts.setdefault(name, {}).setdefault(protocol, part) != part:
                problem = f"listed as {part} and as {parts[name][protocol]} of {protocol}"
                raise InputError(problem, file=file, clip=name, field="split")
    return parts


def _name(annotation: dict[str, Any], i: int, file: Path) -> str:
    name = annotation.get("frame_dir")
    if not isinstance(name, str) or not name:
        raise InputError(f"annotation {i}: no name", file=file, field="frame_dir")
    return str(name)


def _label(annotation: dict[str, Any], file: Path) -> int:
    name = annotation["frame_dir"]
    return as_label(_field(annotation, "label", name, file), file=file, clip=name)


def _field(annotation: dict[str, Any], key: str, clip: str, file: Path) -> Any:
    if key not in annotation:
        raise InputError("missing", file=file, clip=clip, field=key)
    return annotation[key]


def _array(annotation: dict[str, Any], key: str, clip: str, file: Path) -> np.ndarray:
    array = _field(annotation, key, clip, file)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise InputError("expected an array of numbers", file=file, clip=clip, field=key)
    if key == "keypoint" and (array.ndim != 4 or array.shape[3] not in (2, 3)):
        problem = f"shape {array.shape}, expected (persons, frames, joints, 2 or 3)"
        raise InputError(problem, file=file, clip=clip, field=key)
    return array


def _layout_of(keypoint: Num[np.ndarray, "M T V C"], clip: str, file: Path) -> str:
    joints, dimensions = keypoint.shape[2:]
    if joints not in _LAYOUTS[dimensions]:
        problem = f"{joints} joints in {dimensions} dimensions, which could be several layouts"
        raise InputError(problem, file=file, clip=clip, field="keypoint", hint="name the layout")
    return _LAYOUTS[dimensions][joints]


def _keypoints(
    annotation: dict[str, Any], clip: str, file: Path
) -> tuple[Float32[np.ndarray, "T M V 3"], tuple[str, ...]]:
    """Return the coordinates, and what was removed from them."""
    raw = to_float32(_array(annotation, "keypoint", clip, file))
    broken = np.isnan(raw).any(axis=-1)
    if raw.shape[3] == 2:
        missed = ~_detected(raw, annotation, clip, file)
        raw = _upright(raw, *_image_size(annotation, clip, file))
    else:
        missed = np.zeros_like(broken)
        _check_metres(raw, clip, file)
    raw = np.where((broken | missed)[..., None], np.float32(0), raw)
    return raw.transpose(1, 0, 2, 3), (_MISSING_JOINTS,) if broken.any() else ()


def _check_metres(raw: Float32[np.ndarray, "M T V 3"], clip: str, file: Path) -> None:
    sizes = np.abs(raw[np.isfinite(raw) & (raw != 0)])
    if len(sizes) and np.median(sizes) > _FARTHEST:
        problem = f"coordinates of around {np.median(sizes):.0f}, expected metres"
        raise InputError(problem, file=file, clip=clip, field="keypoint", hint="divide millimetres by 1000")


def _detected(
    raw: Float32[np.ndarray, "M T V 2"], annotation: dict[str, Any], clip: str, file: Path
) -> Bool[np.ndarray, "M T V"]:
    seen = np.asarray(raw.any(axis=-1))
    if "keypoint_score" not in annotation:
        return seen
    score = _array(annotation, "keypoint_score", clip, file)
    if score.shape != seen.shape:
        problem = f"shape {score.shape}, but keypoint has {raw.shape}"
        raise InputError(problem, file=file, clip=clip, field="keypoint_score")
    return seen & (score > 0)


def _image_size(annotation: dict[str, Any], clip: str, file: Path) -> tuple[int, int]:
    shape = _field(annotation, "img_shape", clip, file)
    if not isinstance(shape, list | tuple | np.ndarray) or len(shape) != 2:
        raise InputError("expected (height, width)", file=file, clip=clip, field="img_shape")
    for size in shape:
        if not isinstance(size, int | np.integer) or not 0 < size < 1 << 20:
            raise InputError("expected (height, width) in pixels", file=file, clip=clip, field="img_shape")
    return int(shape[0]), int(shape[1])


def _upright(raw: Float32[np.ndarray, "M T V 2"], height: int, width: int) -> Float32[np.ndarray, "M T V 3"]:
    column, row = raw[..., 0], raw[..., 1]
    x, y = (column - width / 2) / (height / 2), (height / 2 - row) / (height / 2)
    return np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.float32)
