"""A store in the forms that the peers' programs read, so that they can be run on the same clips and divisions."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from mica.data.npy import NewArray, write_npz
from mica.data.splits import Split, protocols_of, split
from mica.data.store import Store
from mica.errors import InputError
from mica.files import atomic_path

FORMS = ("ctr-gcn", "pyskl")
"""What can be written."""

PERSONS = 2
"""How many persons the peers' programs expect in a clip, at most."""

_PYSKL_PREFIXES = {"cross-subject": "xsub", "cross-view": "xview", "cross-setup": "xset"}


def export(
    store: Store,
    form: str,
    out: str | os.PathLike[str],
    protocol: str | None = None,
    *,
    frames: int = 300,
    overwrite: bool = False,
) -> Path:
    """Write the clips of `store` to `out`, divided by `protocol` (None: the usual one), and return `out`.

    `form` is "ctr-gcn" for the .npz of CTR-GCN, or "pyskl" for the pickle of pyskl and mmaction2. Coordinates are
    float32 and as stored; CTR-GCN's own files also have the first person's spine, in the first frame, at the origin.
    Training and validation clips go to the peers' training part, clips that take no part are left out. The .npz
    fills clips up with zeros to `frames`; it has no names, and on the way back loses frames at the end that show
    nobody. Its writing holds one clip in memory, that of the pickle no more; loading the pickle takes all of it.

    Raises `InputError` for an unknown form or protocol, an `out` that exists unless `overwrite`, a clip of more
    than two persons, and for the .npz a clip of more than `frames` frames.

    >>> import tempfile
    >>> from mica.data.clip import Clip, StoreInfo
    >>> from mica.data.store import write
    >>> clips = [Clip(f"{i}", np.ones((9, 1, 20, 3), np.float32), label=0, subject=i) for i in (1, 2, 3)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = write(f"{folder}/a.arrow", clips, StoreInfo("mine", "kinect-20", ("wave",), 30.0))
    ...     out = export(Store.open(summary.path), "ctr-gcn", f"{folder}/a.npz", "cross-subject")
    ...     with np.load(out) as content:
    ...         content["x_train"].shape, content["y_test"].shape
    ((2, 300, 120), (1, 1))
    """
    if form not in FORMS:
        raise InputError(f"unknown form '{form}'", field="form", hint=f"known forms: {', '.join(FORMS)}")
    division = split(store, protocol or protocols_of(store)[0].name)
    _refuse(store, division, store.persons > PERSONS, f"more than the {PERSONS} persons that the form holds")
    with atomic_path(out, overwrite) as temporary:
        if form == "ctr-gcn":
            _write_ctr_gcn(store, division, temporary, frames)
        else:
            _write_pyskl(store, division, temporary)
    return Path(out)


def _write_ctr_gcn(store: Store, division: Split, file: Path, frames: int) -> None:
    if frames < 1:
        raise InputError(f"{frames} frames a clip, expected at least 1", field="frames")
    longest = store.frames[np.concatenate([division.train, division.test])].max()
    hint = f"--frames {longest} is enough for all clips; the peers' window has to grow with it"
    _refuse(store, division, store.frames > frames, f"more than {frames} frames", hint)
    width, classes = PERSONS * store.layout.num_joints * 3, len(store.info.class_names)
    arrays = {}
    for part, clips in (("train", division.train), ("test", division.test)):
        x, y = _padded(store, clips, frames, width), _one_hot(store, clips)
        arrays[f"x_{part}"] = NewArray((len(clips), frames, width), "<f4", x)
        arrays[f"y_{part}"] = NewArray((len(clips), classes), "<f8", y)
    write_npz(file, arrays)


def _padded(
    store: Store, clips: Int[np.ndarray, " clips"], frames: int, width: int
) -> Iterator[Float32[np.ndarray, "frames persons_joints_3"]]:
    for i in clips:
        keypoints = store.keypoints(i)
        row = np.zeros((frames, width), np.float32)
        flat = keypoints.reshape(len(keypoints), -1)
        row[: len(flat), : flat.shape[1]] = flat
        yield row


def _one_hot(store: Store, clips: Int[np.ndarray, " clips"]) -> Iterator[np.ndarray]:
    return (np.eye(1, len(store.info.class_names), label)[0] for label in store.labels[clips])


def _write_pyskl(store: Store, division: Split, file: Path) -> None:
    prefix = _PYSKL_PREFIXES.get(division.protocol.name, division.protocol.name)
    parts = {f"{prefix}_train": division.train, f"{prefix}_val": division.test}
    content = {
        "split": {key: store.names[clips].tolist() for key, clips in parts.items()},
        "annotations": [_annotation(store, i) for clips in parts.values() for i in clips.tolist()],
    }
    with file.open("wb") as stream:
        pickler = pickle.Pickler(stream, protocol=4)
        pickler.fast = True  # no memory of what was written, which would hold a copy of every clip
        pickler.dump(content)


def _annotation(store: Store, i: int) -> dict[str, Any]:
    """Describe a clip; its coordinates stay on disk until they are written."""
    return {
        "frame_dir": str(store.names[i]),
        "label": int(store.labels[i]),
        "total_frames": int(store.frames[i]),
        "keypoint": store.keypoints(i).transpose(1, 0, 2, 3),
    }


def _refuse(store: Store, division: Split, wrong: np.ndarray, problem: str, hint: str | None = None) -> None:
    clips = np.concatenate([division.train, division.test])
    for i in clips[wrong[clips]]:
        raise InputError(problem, file=store.path, clip=str(store.names[i]), field="keypoints", hint=hint)
