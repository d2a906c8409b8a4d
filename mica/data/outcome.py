"""What a format says of a raw data set: what is there, how to read a piece of it, and what became of each clip."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mica.data.clip import Clip, StoreInfo
from mica.data.recordings import Recording, Source

Unit = tuple[Recording, ...]
"""The files that one or more clips are read from; the first is the one that messages are about."""


@dataclass(frozen=True)
class Outcome:
    """What became of one recorded clip.

    `clip` is None where it was left out, and `left_out` says why; `cleaned` says what was removed from a
    clip that was kept. Summaries count alike texts, so these name the kind of fault, not the place.
    """

    name: str
    clip: Clip | None
    left_out: str = ""
    cleaned: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A raw data set that was looked through but not read.

    `read` turns one unit into outcomes, each clip checked by `check_clip`; it raises `InputError` for a damaged
    file. It runs in other processes, so it is a function of a module, or a partial of one. `options` is all that
    decides over the outcomes besides the files: its text is part of what tells whether work can be taken up.
    """

    info: StoreInfo
    units: list[Unit]
    read: Callable[[Source, Unit], Iterable[Outcome]]
    options: str = ""
