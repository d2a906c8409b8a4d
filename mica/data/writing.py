"""Writing a store: clips as they come, a record batch at a time, under a temporary name until it is whole."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from mica.data.clip import Clip, StoreInfo, check_clip, check_info
from mica.data.schema import NUMBERS, SCHEMA, described
from mica.errors import InputError
from mica.files import atomic_path

# A record batch is written once it holds this many coordinates: 16 MiB, long to read and little to hold.
_BATCH_COORDINATES = 4 << 20


@dataclass(frozen=True)
class WriteSummary:
    """What was written; `str()` of it is fit to print.

    `frames` is the shortest and the longest clip, `persons` the most in a clip, `class_counts` the clips of
    each label. A preparation adds the rest: `left_out` and `cleaned` count clips by reason, `report` is the file
    that names them, and `splits` says how the counts of each protocol compare with the published ones.
    """

    path: Path
    info: StoreInfo
    clips: int
    frames: tuple[int, int]
    persons: int
    class_counts: tuple[int, ...]
    left_out: Counter[str] = field(default_factory=Counter)
    cleaned: Counter[str] = field(default_factory=Counter)
    report: Path | None = None
    splits: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        present = sum(count > 0 for count in self.class_counts)
        lines = [
            f"{self.path}: {self.clips:,} clips of {self.info.dataset}, layout {self.info.layout}",
            f"  frames {self.frames[0]} to {self.frames[1]}, persons up to {self.persons}, "
            f"classes {present} of {len(self.class_counts)}",
        ]
        lines += [f"  left out {count:,}: {reason}" for reason, count in self.left_out.most_common()]
        lines += [f"  cleaned {count:,}: {what}" for what, count in self.cleaned.most_common()]
        lines += [f"  {protocol} (train / test): {note}" for protocol, note in self.splits.items()]
        lines += [f"  clip by clip: {self.report}"] if self.report else []
        return "\n".join(lines)


def write(
    path: str | os.PathLike[str],
    clips: Iterable[Clip],
    info: StoreInfo,
    *,
    overwrite: bool = False,
    progress: bool = False,
    total: int | None = None,
) -> WriteSummary:
    """Write `clips` to `path` as they come, holding one record batch in memory.

    `total` is their number for the progress bar, where known. Raises `InputError` if `path` exists and
    `overwrite` is not given, if there is no clip, or at the first clip that `check_clip` refuses or whose
    name came before. What was at `path` then stays as it was.

    >>> import tempfile
    >>> from mica.data.store import Store
    >>> clip = Clip("first", np.ones((31, 1, 20, 3), np.float32), label=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = write(f"{folder}/a.arrow", [clip], StoreInfo("mine", "kinect-20", ("wave",), 30.0))
    ...     Store.open(summary.path).keypoints(0).shape
    (31, 1, 20, 3)
    """
    with store_writer(path, info, overwrite=overwrite) as writer:
        for clip in tqdm(
            clips, total=total, desc=f"prepare {info.dataset}", unit="clip", disable=not progress
        ):
            writer.add(clip)
    return writer.summary


@contextmanager
def store_writer(
    path: str | os.PathLike[str], info: StoreInfo, *, overwrite: bool = False, may_be_empty: bool = False
) -> Iterator[StoreWriter]:
    """Give a `StoreWriter`; what it wrote becomes `path` at the end, or nothing does.

    Raises `InputError` as `write` says; `may_be_empty` allows a store without clips.
    """
    check_info(info)
    with atomic_path(path, overwrite) as temporary:
        with pa.ipc.new_file(temporary, described(info)) as file:
            writer = StoreWriter(Path(path), info, file)
            yield writer
            writer.flush()
        if not may_be_empty and writer.is_empty:
            raise InputError(f"no clips of {info.dataset} to write", file=path)


class StoreWriter:
    """Gathers clips, writes them a record batch at a time, and counts what it wrote."""

    def __init__(self, path: Path, info: StoreInfo, file: pa.ipc.RecordBatchFileWriter) -> None:
        self._path, self._info, self._file = path, info, file
        self._waiting: list[Clip] = []
        self._coordinates = 0
        self._names: set[str] = set()
        self._labels: Counter[int] = Counter()
        self._frames: list[int] = []
        self._persons = 0

    @property
    def is_empty(self) -> bool:
        return not self._names

    @property
    def summary(self) -> WriteSummary:
        counts = tuple(self._labels[label] for label in range(len(self._info.class_names)))
        frames = (min(self._frames), max(self._frames))
        return WriteSummary(self._path, self._info, len(self._names), frames, self._persons, counts)

    def add(self, clip: Clip) -> None:
        """Take a clip, which must be one that a store may hold and have a name of its own."""
        check_clip(clip, self._info)
        self._count(clip.name, clip.label, *clip.keypoints.shape[:2])
        self._waiting.append(clip)
        self._coordinates += clip.keypoints.size
        if self._coordinates >= _BATCH_COORDINATES:
            self.flush()

    def copy(self, batch: pa.RecordBatch) -> None:
        """Take the clips of a batch that another `StoreWriter` wrote."""
        columns = (batch[key].to_pylist() for key in ("name", "label", "frames", "persons"))
        for name, label, frames, persons in zip(*columns, strict=True):
            self._count(name, label, frames, persons)
        self.flush()
        self._file.write_batch(batch)

    def flush(self) -> None:
        """Write the clips that wait."""
        if self._waiting:
            self._file.write_batch(_to_batch(self._waiting))
        self._waiting, self._coordinates = [], 0

    def _count(self, name: str, label: int, frames: int, persons: int) -> None:
        if name in self._names:
            raise InputError("a clip of this name came before", clip=name, field="name")
        self._names.add(name)
        self._labels[label] += 1
        self._frames.append(frames)
        self._persons = max(self._persons, persons)


def _to_batch(clips: list[Clip]) -> pa.RecordBatch:
    flat = [np.asarray(clip.keypoints, dtype=np.float32).reshape(-1) for clip in clips]
    offsets = np.cumsum([0, *map(len, flat)], dtype=np.int32)
    columns = {
        "name": [clip.name for clip in clips],
        "frames": [clip.keypoints.shape[0] for clip in clips],
        "persons": [clip.keypoints.shape[1] for clip in clips],
        "parts": [list(clip.parts.items()) for clip in clips],
        **{key: [getattr(clip, key) for clip in clips] for key in (*NUMBERS[2:], "text")},
    }
    arrays = {key: pa.array(column, type=SCHEMA.field(key).type) for key, column in columns.items()}
    arrays["keypoints"] = pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(np.concatenate(flat)), type=SCHEMA.field("keypoints").type
    )
    return pa.record_batch([arrays[key] for key in SCHEMA.names], schema=SCHEMA)
