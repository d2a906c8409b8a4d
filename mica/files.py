"""Writing files so that a crash or a bad input never costs what was there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mica.errors import InputError


def refuse_existing(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Return `path`; raise `InputError` if it exists and may not be overwritten."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(
            "exists already", file=path, hint="pass --overwrite to replace it, or name another output"
        )
    return path


def output_file(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """As `refuse_existing`, of what becomes a file: a folder of that name is refused even if `overwrite`."""
    path = Path(path)
    if path.is_dir():
        raise InputError(
            "is a folder, expected a file to write", file=path, hint="name a file, in it or elsewhere"
        )
    return refuse_existing(path, overwrite)


@contextmanager
def atomic_path(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes that name, on failure it vanishes.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(f"{folder}/a.txt") as temporary:
    ...         _ = temporary.write_text("whole or not at all")
    ...     Path(folder, "a.txt").read_text()
    'whole or not at all'
    """
    path = output_file(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk: a power cut cannot tear them any more."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
