"""A loader that gives nothing for long is reported, while it is waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType


class Watchdog:
    """Says that something takes long: every `seconds` for as long as a `waiting` block lasts; a context manager.

    Args:
        seconds: after which to report.
        report: what to do with the words.

    >>> with Watchdog(60.0, print) as watchdog, watchdog.waiting(lambda: "the first batch"):
    ...     pass
    """

    def __init__(self, seconds: float, report: Callable[[str], object]) -> None:
        self._seconds, self._report = seconds, report
        self._since: tuple[float, Callable[[], str]] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mica watchdog", daemon=True)

    @contextmanager
    def waiting(self, describe: Callable[[], str]) -> Iterator[None]:
        """Watch what is done inside; `describe` says for what it waits, and is only called if it must be said."""
        self._since = (time.monotonic(), describe)
        try:
            yield
        finally:
            self._since = None

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        reported = 0.0
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            since, now = self._since, time.monotonic()
            if since is not None and now - max(since[0], reported) >= self._seconds:
                reported = now
                self._report(f"waiting for {now - since[0]:.0f} s: {since[1]()}")
