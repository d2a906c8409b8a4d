"""What readers of a folder with one file a clip have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mica.data.clip import Clip, StoreInfo, check_clip
from mica.errors import InputError


def list_files(root: str | os.PathLike[str], subfolder: str, suffix: str) -> list[Path]:
    """Return the sorted files that end in `suffix` of `root`/`subfolder`, or of `root` itself.

    Raises `InputError` if `root` is no directory or holds no such file at either place.
    """
    root = Path(root)
    if not root.is_dir():
        problem = "is a file, expected a directory" if root.exists() else "no such directory"
        raise InputError(problem, file=root, hint=f"give the directory that holds {subfolder}/*{suffix}")
    for folder in (root / subfolder, root):
        files = sorted(path for path in folder.glob(f"*{suffix}") if path.is_file())
        if files:
            return files
    hint = f"give the directory that holds {subfolder}/*{suffix}, or that folder itself"
    raise InputError(f"no {suffix} files in it", file=root, hint=hint)


def name_numbers(file: Path, pattern: re.Pattern[str], example: str) -> dict[str, int]:
    """Return the named groups of `pattern` in the file name as integers; `InputError` if it does not fit."""
    match = pattern.fullmatch(file.name)
    if match is None:
        problem = f"unexpected file name, expected one like {example}"
        raise InputError(problem, file=file, clip=file.stem, field="name")
    return {key: int(value) for key, value in match.groupdict().items()}


def read_clips(
    files: list[Path], read_one: Callable[[Path], Clip], info: StoreInfo, coordinates: str
) -> Iterator[Clip]:
    """Yield the clip of each file, checked while the file and the field `coordinates` to blame are known."""
    for file in files:
        yield check_clip(read_one(file), info, file=file, coordinates=coordinates)
