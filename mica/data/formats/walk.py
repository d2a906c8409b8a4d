"""What formats with one file a clip have in common."""

from __future__ import annotations

import re

from mica.data.outcome import Unit
from mica.data.recordings import Source
from mica.errors import InputError


def files_in(source: Source, subfolder: str, suffix: str) -> list[Unit]:
    """Return a unit for each file that ends in `suffix` of the folder `subfolder`, or else of the source itself.

    Raises `InputError` if there is no such file at either place.
    """
    recordings = source.list(suffix)
    inside = [recording for recording in recordings if subfolder in recording.path.split("/")[:-1]]
    top = [recording for recording in recordings if "/" not in recording.path]
    if not (inside or top):
        hint = f"give the folder that holds {subfolder}/*{suffix}, or that folder itself"
        raise InputError(f"no {suffix} files in it", file=source.root, hint=hint)
    return [(recording,) for recording in inside or top]


def name_numbers(name: str, file: str, pattern: re.Pattern[str], example: str) -> dict[str, int]:
    """Return the named groups of `pattern` in a file name as integers; `InputError` if it does not fit."""
    match = pattern.fullmatch(name)
    if match is None:
        problem = f"unexpected file name, expected one like {example}"
        raise InputError(problem, file=file, clip=name.rpartition(".")[0], field="name")
    return {key: int(value) for key, value in match.groupdict().items()}
