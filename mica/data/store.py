"""The one form in which clips lie on disk: an Arrow IPC file a data set, a row a clip, read by memory map."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Shaped
from tqdm import tqdm

from mica.data.clip import Clip, StoreInfo, check_clip, check_info
from mica.errors import InputError
from mica.files import atomic_path
from mica.skeleton import SkeletonLayout, get_layout

FORMAT_VERSION = 1
_VERSION_KEY, _INFO_KEY = b"mica.format_version", b"mica.info"
# A record batch is written once it holds this many coordinates: 16 MiB, long to read and little to hold.
_BATCH_COORDINATES = 4 << 20
_MAGIC = b"ARROW1"

_NUMBERS = ("frames", "persons", "label", "subject", "camera", "setup", "replication")
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("keypoints", pa.list_(pa.field("item", pa.float32(), nullable=False)), nullable=False),
        *(pa.field(number, pa.int32(), nullable=False) for number in _NUMBERS),
        pa.field("text", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class WriteSummary:
    """What `write` wrote; `str()` of it is fit to print.

    `frames` is the shortest and the longest clip, `persons` the most in a clip, `class_counts` the clips of
    each label, `splits` how the counts of each protocol compare with the published ones.
    """

    path: Path
    info: StoreInfo
    clips: int
    frames: tuple[int, int]
    persons: int
    class_counts: tuple[int, ...]
    splits: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        present = sum(count > 0 for count in self.class_counts)
        lines = [
            f"{self.path}: {self.clips:,} clips of {self.info.dataset}, layout {self.info.layout}",
            f"  frames {self.frames[0]} to {self.frames[1]}, persons up to {self.persons}, "
            f"classes {present} of {len(self.class_counts)}",
        ]
        lines += [f"  {protocol} (train / test): {note}" for protocol, note in self.splits.items()]
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
    >>> clip = Clip("first", np.ones((31, 1, 20, 3), np.float32), label=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summary = write(f"{folder}/a.arrow", [clip], StoreInfo("mine", "kinect-20", ("wave",), 30.0))
    ...     Store.open(summary.path).keypoints(0).shape
    (31, 1, 20, 3)
    """
    check_info(info)
    frames: list[int] = []
    persons = 0
    labels: Counter[int] = Counter()
    names: set[str] = set()
    metadata = {_VERSION_KEY: str(FORMAT_VERSION), _INFO_KEY: json.dumps(asdict(info))}
    with atomic_path(path, overwrite) as temporary:
        with _BatchWriter(temporary, _SCHEMA.with_metadata(metadata)) as writer:
            for clip in tqdm(
                clips, total=total, desc=f"prepare {info.dataset}", unit="clip", disable=not progress
            ):
                check_clip(clip, info)
                if clip.name in names:
                    raise InputError("a clip of this name came before", clip=clip.name, field="name")
                writer.add(clip)
                names.add(clip.name)
                labels[clip.label] += 1
                frames.append(clip.keypoints.shape[0])
                persons = max(persons, clip.keypoints.shape[1])
        if not names:
            raise InputError(f"no clips of {info.dataset} to write", file=path)
    class_counts = tuple(labels[label] for label in range(len(info.class_names)))
    return WriteSummary(Path(path), info, len(names), (min(frames), max(frames)), persons, class_counts)


class _BatchWriter:
    """Gathers clips and writes them a record batch at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._file = pa.ipc.new_file(path, schema)
        self._waiting: list[Clip] = []
        self._coordinates = 0

    def __enter__(self) -> _BatchWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if exception[0] is None:
                self._flush()
        finally:
            self._file.close()

    def add(self, clip: Clip) -> None:
        self._waiting.append(clip)
        self._coordinates += clip.keypoints.size
        if self._coordinates >= _BATCH_COORDINATES:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        flat = [np.asarray(clip.keypoints, dtype=np.float32).reshape(-1) for clip in self._waiting]
        offsets = np.cumsum([0, *map(len, flat)], dtype=np.int32)
        columns = {
            "name": [clip.name for clip in self._waiting],
            "frames": [clip.keypoints.shape[0] for clip in self._waiting],
            "persons": [clip.keypoints.shape[1] for clip in self._waiting],
            **{key: [getattr(clip, key) for clip in self._waiting] for key in (*_NUMBERS[2:], "text")},
        }
        arrays = {key: pa.array(column, type=self._schema.field(key).type) for key, column in columns.items()}
        arrays["keypoints"] = pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(np.concatenate(flat)), type=self._schema.field("keypoints").type
        )
        self._file.write_batch(
            pa.record_batch([arrays[key] for key in self._schema.names], schema=self._schema)
        )
        self._waiting, self._coordinates = [], 0


class Store:
    """A prepared data set, read only; coordinates stay on disk until looked at.

    `names`, `texts` and the integer arrays `labels`, `subjects`, `cameras`, `setups`, `replications`,
    `frames`, `persons` have an entry a clip. A store handed to another process reopens its file there.
    """

    def __init__(self, path: Path, info: StoreInfo, batches: list[pa.RecordBatch]) -> None:
        if not batches:
            raise _unusable(path, "holds no clips")
        self.path, self.info = path, info
        self.layout: SkeletonLayout = get_layout(info.layout)
        table = pa.Table.from_batches([batch.drop_columns(["keypoints"]) for batch in batches])
        self.names: Shaped[np.ndarray, " clips"] = np.array(table["name"].to_pylist(), dtype=str)
        self.texts: Shaped[np.ndarray, " clips"] = np.array(table["text"].to_pylist(), dtype=str)
        (
            self.frames,
            self.persons,
            self.labels,
            self.subjects,
            self.cameras,
            self.setups,
            self.replications,
        ) = (table[number].to_numpy().astype(np.int64) for number in _NUMBERS)
        coordinates = [batch["keypoints"] for batch in batches]
        self._values = [column.values.to_numpy(zero_copy_only=True) for column in coordinates]
        self._batch_of = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
        self._starts = np.concatenate([column.offsets.to_numpy()[:-1] for column in coordinates])
        self._check_columns(np.concatenate([column.offsets.to_numpy()[1:] for column in coordinates]))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Open the store at `path`; `InputError` if missing, damaged, foreign or of another version."""
        path = Path(path)
        _check_ends(path)
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            info = _read_info(path, reader.schema)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            for batch in batches:
                batch.validate()  # the last extent of each ends within its buffer
            return cls(path, info, batches)
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unusable(path, f"damaged Arrow file ({error})") from error

    def _check_columns(self, ends: Shaped[np.ndarray, " clips"]) -> None:
        """Refuse labels without a class, and extents at odds with what the clips should hold."""
        needed = self.frames * self.persons * self.layout.num_joints * 3
        wrong = (ends - self._starts != needed) | (self._starts < 0)
        wrong |= np.minimum(self.frames, self.persons) < 1
        no_class = (self.labels < 0) | (self.labels >= len(self.info.class_names))
        for column, rows, problem in (
            ("keypoints", wrong, "does not hold frames x persons x joints x 3 coordinates"),
            ("label", no_class, f"outside the {len(self.info.class_names)} classes"),
        ):
            if rows.any():
                clip = str(self.names[np.flatnonzero(rows)[0]])
                raise _unusable(self.path, problem, clip=clip, field=column)

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Store.open, (self.path,)

    def __len__(self) -> int:
        return len(self.names)

    def keypoints(self, i: int) -> Float32[np.ndarray, "T M V 3"]:
        """Return the coordinates of clip `i` in metres, a read-only view of the mapped file."""
        frames, persons, start = int(self.frames[i]), int(self.persons[i]), int(self._starts[i])
        shape = (frames, persons, self.layout.num_joints, 3)
        size = shape[0] * shape[1] * shape[2] * 3
        return self._values[self._batch_of[i]][start : start + size].reshape(shape)

    def clip(self, i: int) -> Clip:
        """Return clip `i` with all its fields."""
        return Clip(
            name=str(self.names[i]),
            keypoints=self.keypoints(i),
            label=int(self.labels[i]),
            subject=int(self.subjects[i]),
            camera=int(self.cameras[i]),
            setup=int(self.setups[i]),
            replication=int(self.replications[i]),
            text=str(self.texts[i]),
        )


def _check_ends(path: Path) -> None:
    """Tell what pyarrow cannot: a missing file, a foreign one, one whose end is lost."""
    if not path.is_file():
        raise InputError("no such file", file=path, hint="`mica prepare` makes a store from the raw data")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
        file.seek(max(0, size - len(_MAGIC)))
        tail = file.read()
    if head != _MAGIC:
        raise _unusable(path, "not an Arrow file")
    if tail != _MAGIC:
        raise _unusable(path, "truncated: the end of the Arrow file is missing")


def _read_info(path: Path, schema: pa.Schema) -> StoreInfo:
    metadata = schema.metadata or {}
    if _VERSION_KEY not in metadata or _INFO_KEY not in metadata:
        raise _unusable(path, "an Arrow file, but not one of ours", field=_VERSION_KEY.decode())
    version = metadata[_VERSION_KEY].decode()
    if version != str(FORMAT_VERSION):
        problem = f"format version {version}, this release reads {FORMAT_VERSION}"
        raise _unusable(path, problem, field=_VERSION_KEY.decode())
    if missing := set(_SCHEMA.names) - set(schema.names):
        raise _unusable(path, f"columns missing: {', '.join(sorted(missing))}", field=min(missing))
    for expected in _SCHEMA:
        if schema.field(expected.name).type != expected.type:
            problem = f"column of type {schema.field(expected.name).type}, expected {expected.type}"
            raise _unusable(path, problem, field=expected.name)
    try:
        values = json.loads(metadata[_INFO_KEY])
        info = StoreInfo(**{**values, "class_names": tuple(values["class_names"])})
        check_info(info)
    except (ValueError, TypeError, KeyError) as error:
        raise _unusable(path, str(error), field=_INFO_KEY.decode()) from error
    return info


def _unusable(path: Path, problem: str, clip: str | None = None, field: str | None = None) -> InputError:
    return InputError(problem, file=path, clip=clip, field=field, hint="prepare it again with `mica prepare`")
