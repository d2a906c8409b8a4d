"""Vectors of clips, computed block after block, and written so: `.npz` for NumPy, `.parquet` for tables."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Shaped

from mica.data.npy import NewArray, write_npz
from mica.errors import InputError
from mica.files import atomic_path, output_file

Block = Float32[np.ndarray, "clips D"]

SUFFIXES = (".npz", ".parquet")
KEY = "mica.embeddings"
"""Under which the metadata of a Parquet file has `about` and `class_names`, as JSON."""

_GROUP_ROWS = 1024


@dataclass(frozen=True)
class Embeddings:
    """Vectors of clips, and what is known of the clips.

    Args:
        columns: an entry for each clip: "name" and, of a store, "label", "class_name", "subject", "camera", "setup"
            and "replication", where 0 is unknown.
        width: D of a vector.
        blocks: the vectors, some clips at a time in the order of the columns; computed as they are taken, once.
        about: of the model, the vectors and the clips.
        class_names: of the store, in label order; empty where the clips have no labels.
    """

    columns: Mapping[str, Shaped[np.ndarray, " clips"]]
    width: int
    blocks: Iterator[Block]
    about: Mapping[str, str]
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["name"])


def write_embeddings(out: str | os.PathLike[str], embeddings: Embeddings, *, overwrite: bool = False) -> Path:
    """Write the vectors as float32 under "features" and the columns under their names, and return `out`.

    An `.npz` has besides the arrays `class_names` and `about`, the latter JSON in one string; a `.parquet` has them in
    its metadata. No more than a thousand vectors are held in memory. Raises InputError for another ending, and for an
    `out` that exists unless `overwrite`; what was there stays as it was unless all is written.

    >>> import tempfile
    >>> columns = {"name": np.array(["a", "b"])}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = Embeddings(columns, 3, iter([np.ones((2, 3), np.float32)]), {"layout": "ntu-25"})
    ...     with np.load(write_embeddings(f"{folder}/a.npz", made)) as content:
    ...         content["name"].tolist(), content["features"].shape, json.loads(str(content["about"][0]))
    (['a', 'b'], (2, 3), {'layout': 'ntu-25'})
    """
    out = check_output(out, overwrite)
    with atomic_path(out, overwrite) as temporary:
        write = _write_npz if out.suffix.lower() == ".npz" else _write_parquet
        write(temporary, embeddings)
    return out


def check_output(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return `out` as a path; raise InputError for an ending that we do not write, or a file that exists."""
    path = Path(out)
    if path.suffix.lower() not in SUFFIXES:
        hint = f"try {path.stem or 'features'}.npz or {path.stem or 'features'}.parquet"
        raise InputError("features are written as .npz or .parquet", file=path, hint=hint)
    return output_file(path, overwrite)


def _write_npz(file: Path, embeddings: Embeddings) -> None:
    texts = {"class_names": embeddings.class_names, "about": [json.dumps(dict(embeddings.about))]}
    columns = {**embeddings.columns, **{name: np.array(values, dtype="U") for name, values in texts.items()}}
    arrays = {name: NewArray(values.shape, values.dtype.str, values) for name, values in columns.items()}
    rows = chain.from_iterable(embeddings.blocks)
    arrays["features"] = NewArray((len(embeddings), embeddings.width), "<f4", rows)
    write_npz(file, arrays)


def _write_parquet(file: Path, embeddings: Embeddings) -> None:
    columns = {name: pa.array(values) for name, values in embeddings.columns.items()}
    described = {"about": dict(embeddings.about), "class_names": embeddings.class_names}
    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), embeddings.width)
    schema = pa.schema(
        [*((name, column.type) for name, column in columns.items()), ("features", vector)],
        metadata={KEY: json.dumps(described)},
    )
    start = 0
    # Vectors hardly repeat a number: a dictionary of them would cost time and save nothing.
    with pq.ParquetWriter(file, schema, use_dictionary=list(columns)) as writer:
        for group in _groups(embeddings.blocks):
            of_clips = [column.slice(start, len(group)) for column in columns.values()]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(group.reshape(-1)), type=vector)
            writer.write_batch(pa.record_batch([*of_clips, vectors], schema=schema))
            start += len(group)
    if start != len(embeddings):
        raise ValueError(f"{start} vectors for {len(embeddings)} clips")


def _groups(blocks: Iterator[Block]) -> Iterator[Float32[np.ndarray, "rows D"]]:
    """Join blocks to some thousand rows, which is what readers of Parquet expect of a row group."""
    waiting: list[Shaped[np.ndarray, "n D"]] = []
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= _GROUP_ROWS:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)
