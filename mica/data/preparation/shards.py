"""Work in pieces that survive a kill: a shard is a few raw files, read into a small store of their own.

A shard lies in OUT.work/ under a name that tells what it was made from: files with their sizes and stamps,
the description of the data set, options and versions. Finding that name means that the work is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from mica.data.outcome import Found, Outcome, Unit
from mica.data.recordings import Source, Unreadable
from mica.data.schema import FORMAT_VERSION
from mica.data.writing import StoreWriter, store_writer
from mica.errors import InputError
from mica.files import atomic_path

# A shard ends at whichever comes first: some seconds of reading, so that little is lost and progress is seen.
_SHARD_BYTES = 64 << 20
_SHARD_UNITS = 128
# To be raised when a format reads the same files differently, so that older shards are not taken up.
_READING = 1


@dataclass(frozen=True)
class Shard:
    """A piece of work: its units, and the two files that it leaves, clips (.arrow) and their account (.json)."""

    units: tuple[Unit, ...]
    clips: Path
    account: Path

    @property
    def is_done(self) -> bool:
        """Its account, written after its clips, is there, and no file could not be read: that may have passed."""
        return self.account.exists() and not any(row.unread for row in rows_of(self))


@dataclass(frozen=True)
class Row:
    """A line of the account: what became of one clip, or of a file that is damaged or could not be read (`error`)."""

    name: str
    left_out: str = ""
    cleaned: tuple[str, ...] = ()
    error: dict[str, str | None] | None = None
    unread: bool = False


def plan(found: Found, work: Path) -> list[Shard]:
    """Divide the units of `found` into shards, in their order."""
    return [_shard(found, work, index, units) for index, units in enumerate(_divide(found.units))]


def _divide(units: list[Unit]) -> Iterator[tuple[Unit, ...]]:
    waiting: list[Unit] = []
    size = 0
    for unit in units:
        waiting.append(unit)
        size += sum(recording.size for recording in unit)
        if size >= _SHARD_BYTES or len(waiting) == _SHARD_UNITS:
            yield tuple(waiting)
            waiting, size = [], 0
    if waiting:
        yield tuple(waiting)


def _shard(found: Found, work: Path, index: int, units: tuple[Unit, ...]) -> Shard:
    made_from = (_READING, FORMAT_VERSION, asdict(found.info), found.options)
    files = [asdict(recording) for unit in units for recording in unit]
    digest = hashlib.sha256(json.dumps([made_from, files]).encode()).hexdigest()[:16]
    stem = work / f"{index:06d}-{digest}"
    return Shard(units, stem.with_suffix(".arrow"), stem.with_suffix(".json"))


def read_shard(found: Found, source: Source, shard: Shard) -> None:
    """Read the units of a shard and leave its two files; a damaged raw file is noted, and the next one read."""
    rows: list[Row] = []
    with store_writer(shard.clips, found.info, overwrite=True, may_be_empty=True) as writer:
        for unit in shard.units:
            try:
                outcomes = list(found.read(source, unit))
            except InputError as error:
                where = source.where(unit[0].path)
                rows.append(Row(where, error=_fields(error, where), unread=isinstance(error, Unreadable)))
                continue
            rows.extend(take(outcome, writer) for outcome in outcomes)
    with atomic_path(shard.account, overwrite=True) as temporary:
        temporary.write_text(json.dumps([asdict(row) for row in rows]))


def take(outcome: Outcome, writer: StoreWriter) -> Row:
    """Write the clip of an outcome, if it was kept, and return the line of the account."""
    if outcome.clip is not None:
        writer.add(outcome.clip)
    return Row(outcome.name, outcome.left_out, outcome.cleaned)


def _fields(error: InputError, where: str) -> dict[str, str | None]:
    file = where if error.file is None else str(error.file)
    return {
        "problem": error.problem,
        "file": file,
        "clip": error.clip,
        "field": error.field,
        "hint": error.hint,
    }


def rows_of(shard: Shard) -> list[Row]:
    """Return the account of a finished shard."""
    rows = json.loads(shard.account.read_text())
    return [Row(**{**row, "cleaned": tuple(row["cleaned"])}) for row in rows]


def batches_of(shard: Shard) -> Iterator[pa.RecordBatch]:
    """Yield the clips of a finished shard from a memory map."""
    reader = pa.ipc.open_file(pa.memory_map(str(shard.clips)))
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)
