"""The one form in which clips lie on disk: an Arrow IPC file a data set, a row a clip, read by memory map."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, Shaped

from mica.data.clip import Clip, StoreInfo, check_info, layout_of
from mica.data.schema import FORMAT_VERSION, INFO_KEY, NUMBERS, SCHEMA, VERSION_KEY
from mica.data.writing import WriteSummary, write
from mica.errors import InputError
from mica.skeleton import SkeletonLayout

__all__ = ["Clip", "Store", "StoreInfo", "WriteSummary", "write"]

_MAGIC = b"ARROW1"


class Store:
    """A prepared data set, read only; coordinates stay on disk until looked at.

    `names`, `texts` and the integer arrays `labels`, `subjects`, `cameras`, `setups`, `replications`,
    `frames`, `persons` have an entry a clip. A store handed to another process reopens its file there.
    """

    def __init__(self, path: Path, info: StoreInfo, batches: list[pa.RecordBatch]) -> None:
        if not batches:
            raise _unusable(path, "holds no clips")
        self.path, self.info = path, info
        self.layout: SkeletonLayout = layout_of(info)
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
        ) = (table[number].to_numpy().astype(np.int64) for number in NUMBERS)
        self._parts = table["parts"]
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

    @property
    def protocols_with_parts(self) -> tuple[str, ...]:
        """The protocols by which the source itself says of clips whether they train or test."""
        return tuple(
            sorted({name for chunk in self._parts.chunks for name in chunk.keys.unique().to_pylist()})
        )

    def parts(self, protocol: str) -> Shaped[np.ndarray, " clips"]:
        """Return "train", "validation" or "test" for each clip as the source says, "" where it says nothing."""
        found = pc.fill_null(pc.map_lookup(self._parts, protocol, "first"), "")
        return np.array(found.to_pylist(), dtype=str)

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
            parts=dict(self._parts[i].as_py()),
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
    if VERSION_KEY not in metadata or INFO_KEY not in metadata:
        raise _unusable(path, "an Arrow file, but not one of ours", field=VERSION_KEY.decode())
    version = metadata[VERSION_KEY].decode()
    if version != str(FORMAT_VERSION):
        problem = f"format version {version}, this release reads {FORMAT_VERSION}"
        raise _unusable(path, problem, field=VERSION_KEY.decode())
    if missing := set(SCHEMA.names) - set(schema.names):
        raise _unusable(path, f"columns missing: {', '.join(sorted(missing))}", field=min(missing))
    for expected in SCHEMA:
        if schema.field(expected.name).type != expected.type:
            problem = f"column of type {schema.field(expected.name).type}, expected {expected.type}"
            raise _unusable(path, problem, field=expected.name)
    try:
        values = json.loads(metadata[INFO_KEY])
        info = StoreInfo(**{**values, "class_names": tuple(values["class_names"])})
        check_info(info)
    except (ValueError, TypeError, KeyError) as error:
        raise _unusable(path, str(error), field=INFO_KEY.decode()) from error
    return info


def _unusable(path: Path, problem: str, clip: str | None = None, field: str | None = None) -> InputError:
    return InputError(problem, file=path, clip=clip, field=field, hint="prepare it again with `mica prepare`")
