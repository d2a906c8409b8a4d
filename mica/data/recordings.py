"""Where raw files lie: a folder, or zips that are read without unpacking."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

from mica.errors import InputError


class Unreadable(InputError):
    """A file could not be read at all: what it holds is not known, and another try may succeed."""


@dataclass(frozen=True)
class Recording:
    """One raw file: its path within the source, with forward slashes, its size in bytes, and a stamp that
    changes when its content does."""

    path: str
    size: int
    stamp: int

    @property
    def name(self) -> str:
        """The file's name without its folders."""
        return self.path.rpartition("/")[2]


class Source(Protocol):
    """Raw files by their paths. A source is handed to other processes, so it pickles without open files."""

    @property
    def root(self) -> Path: ...

    def list(self, *suffixes: str) -> list[Recording]:
        """Return the files anywhere below that end in one of `suffixes`, whatever their case, sorted by path.

        Raises `InputError` for a folder that cannot be looked into, and for a link to nowhere among the files.
        """
        ...

    def read(self, path: str) -> bytes:
        """Return the content of a file; `InputError` if it is damaged, `Unreadable` if it cannot be read."""
        ...

    def where(self, path: str) -> str:
        """Return how messages call a file."""
        ...


def open_source(root: str | os.PathLike[str]) -> Source:
    """Return the files under a folder and in zips in it, those in a zip, or a file by itself.

    Raises `InputError` if there is nothing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "b.txt").write_text("two"), Path(folder, "a.txt").write_text("one")
    ...     source = open_source(folder)
    ...     [(file.path, source.read(file.path)) for file in source.list(".txt")]
    [('a.txt', b'one'), ('b.txt', b'two')]
    """
    root = Path(root)
    if root.is_dir():
        return Folder(root)
    if not root.exists():
        hint = "give the folder of the raw files, or a zip of it"
        raise InputError("no such file or directory", file=root, hint=hint)
    if _is_zip(root):
        return Zip(root)
    return SingleFile(root)


@dataclass(frozen=True)
class Folder:
    """The files below a folder; a zip that lies in it counts as a folder of its own."""

    root: Path

    def list(self, *suffixes: str) -> list[Recording]:
        found = []
        for folder, _, names in os.walk(self.root, onerror=_refuse_folder, followlinks=True):
            for name in names:
                if name.lower().endswith(suffixes) and not name.startswith("."):
                    found.append(_recording(Path(folder, name), self.root))
        for archive in self._archives():
            found += [
                replace(recording, path=f"{archive}/{recording.path}")
                for recording in _zip(self.root / archive).list(*suffixes)
            ]
        return sorted(found, key=lambda recording: recording.path)

    def read(self, path: str) -> bytes:
        first, _, inside = path.partition("/")
        archive = self.root / first
        return _zip(archive).read(inside) if inside and _is_zip(archive) else _read_bytes(self.root / path)

    def _archives(self) -> Iterator[str]:
        for entry in self.root.iterdir():
            if _is_zip(entry):
                yield entry.name
            elif entry.suffix.lower() == ".zip" and entry.is_symlink():
                _recording(entry, self.root)  # refused where it leads nowhere

    def where(self, path: str) -> str:
        return str(self.root / path)


@dataclass(frozen=True)
class SingleFile:
    """One file, for sources that are only that."""

    root: Path

    def list(self, *suffixes: str) -> list[Recording]:
        return [_recording(self.root, self.root.parent)] if self.root.name.lower().endswith(suffixes) else []

    def read(self, path: str) -> bytes:
        return _read_bytes(self.root.parent / path)

    def where(self, path: str) -> str:
        return str(self.root.parent / path)


@dataclass(frozen=True)
class Zip:
    """The files in a zip, unpacked one by one in memory as they are read; folders inside do not matter."""

    root: Path

    def list(self, *suffixes: str) -> list[Recording]:
        found = [
            Recording(entry.filename, entry.file_size, entry.CRC)
            for entry in self._archive.infolist()
            if not entry.is_dir()
            and entry.filename.lower().endswith(suffixes)
            and not entry.filename.rpartition("/")[2].startswith(".")
        ]
        return sorted(found, key=lambda recording: recording.path)

    def read(self, path: str) -> bytes:
        try:
            return self._archive.read(path)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            hint = "fetch the archive again, or unpack it with another program and give the folder"
            raise InputError(f"cannot be unpacked: {error}", file=self.where(path), hint=hint) from error
        except OSError as error:
            raise _unreadable(error, self.where(path)) from error

    def where(self, path: str) -> str:
        return f"{self.root}/{path}"

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.root)
        except zipfile.BadZipFile as error:
            raise InputError(f"not a zip, or its end is missing ({error})", file=self.root) from error
        except OSError as error:
            raise _unreadable(error, self.root) from error

    def __reduce__(self) -> tuple[type[Zip], tuple[Path]]:
        return Zip, (self.root,)  # another process opens the archive for itself


def _is_zip(file: Path) -> bool:
    return file.suffix.lower() == ".zip" and not file.name.startswith(".") and file.is_file()


def _zip(file: Path) -> Zip:
    return _opened(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _opened(file: Path, stamp: int) -> Zip:
    """To open an archive takes as long as to read hundreds of files out of it; one written anew is opened anew."""
    return Zip(file)


def _recording(file: Path, root: Path) -> Recording:
    try:
        status = file.stat()
    except OSError as error:
        if file.is_symlink() and isinstance(error, FileNotFoundError):
            hint = "mend the link, or remove it if nothing is meant to be there"
            raise InputError(f"is a link to nowhere, {os.readlink(file)}", file=file, hint=hint) from error
        raise _unreadable(error, file) from error
    return Recording(file.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns)


def _read_bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(error, file) from error


def _refuse_folder(error: OSError) -> None:
    hint = "make it readable, or move it elsewhere if nothing in it is meant"
    raise InputError(f"folder cannot be read: {error.strerror}", file=error.filename, hint=hint) from error


def _unreadable(error: OSError, file: str | os.PathLike[str]) -> Unreadable:
    return Unreadable(f"cannot be read: {error.strerror or error}", file=file)
