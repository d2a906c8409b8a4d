"""A file that one process at a time holds; the system takes it from a process that ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mica.errors import InputError


@contextmanager
def held(lock: Path, refusal: InputError, patience: float = 0.0) -> Iterator[None]:
    """Hold the file `lock`; raise `refusal` where another process still does after `patience` seconds.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "lock")
    ...     with held(file, InputError("in use")), held(file, InputError("in use")):
    ...         pass
    Traceback (most recent call last):
    mica.errors.InputError: in use
    """
    handle = FileLock(lock)
    try:
        handle.acquire(timeout=patience)
    except Timeout as error:
        raise refusal from error
    try:
        yield
    finally:
        handle.release()
