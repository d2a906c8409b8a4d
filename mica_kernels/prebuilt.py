"""Kernels that were compiled ahead of time, see `mica_kernels.build`: the record of them, the way to Triton's cache.

A package that was installed with MICA_KERNELS_BUILD carries its kernels in `FOLDER`; Triton looks for them in its
cache alone, so they are copied there before the first launch. Nothing here imports torch: a build has none.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).with_name("prebuilt_kernels")
_GROUP = "__grp__"  # Triton's name for the file that lists the files of a kernel


@dataclass(frozen=True)
class Manifest:
    """What was built for one architecture: with which Triton, from which source, and which variants, by family."""

    architecture: str
    triton: str
    sources: dict[str, str]
    variants: dict[str, list[str]]

    @staticmethod
    def file(folder: Path, architecture: str) -> Path:
        return folder / f"mica_kernels-{architecture}.json"

    @classmethod
    def read(cls, folder: Path, architecture: str) -> Manifest | None:
        """The record in `folder`; None where there is none that can be read."""
        try:
            return cls(**json.loads(cls.file(folder, architecture).read_text()))
        except (OSError, TypeError, ValueError):
            return None

    def write(self, folder: Path) -> None:
        """Write to `folder`, whole or not at all, together with what an earlier build of the same source left there."""
        sources = dict(self.sources)
        variants = {family: set(names) for family, names in self.variants.items()}
        earlier = Manifest.read(folder, self.architecture)
        if earlier is not None and earlier.triton == self.triton:
            for family, names in earlier.variants.items():
                if sources.setdefault(family, earlier.sources[family]) == earlier.sources[family]:
                    variants.setdefault(family, set()).update(names)
        listed = {family: sorted(names) for family, names in sorted(variants.items())}
        target = Manifest.file(folder, self.architecture)
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**asdict(self), "sources": sources, "variants": listed}, indent=1))
        temporary.replace(target)


def architectures(folder: Path) -> list[str]:
    """For which architectures `folder` has a record."""
    return sorted(file.stem.removeprefix("mica_kernels-") for file in folder.glob("mica_kernels-*.json"))


def triton_version() -> str | None:
    """The version of Triton; None where it is not installed."""
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__


def cache() -> Path:
    """Where Triton looks for compiled kernels."""
    import triton

    return Path(triton.knobs.cache.dir)


@lru_cache
def install() -> None:
    """Bring the kernels that the package carries, if any, to Triton's cache; once a process, and never an error.

    Where that fails, as it does with a cache that cannot be written, kernels compile at their first launch as ever.
    """
    if FOLDER.is_dir():
        with suppress(Exception):
            _copy(FOLDER)


def _copy(folder: Path) -> None:
    records = [Manifest.read(folder, architecture) for architecture in architectures(folder)]
    if triton_version() not in {record.triton for record in records if record is not None}:
        return  # another Triton would not find them
    target = cache()
    target.mkdir(parents=True, exist_ok=True)
    present = set(os.listdir(target))
    missing = [entry for entry in folder.iterdir() if entry.is_dir() and entry.name not in present]
    if not missing:
        return
    with tempfile.TemporaryDirectory(prefix=".mica_kernels-", dir=target) as staging:
        for entry in missing:
            staged = Path(staging, entry.name)
            _stage(entry, staged, target / entry.name)
            with suppress(OSError):  # another process was faster
                staged.rename(target / entry.name)


def _stage(entry: Path, staged: Path, final: Path) -> None:
    """Copy a kernel's files to `staged`; their list names them by where they will lie."""
    staged.mkdir()
    for file in entry.iterdir():
        if file.name.startswith(_GROUP):
            children = {child: str(final / child) for child in json.loads(file.read_text())["child_paths"]}
            (staged / file.name).write_text(json.dumps({"child_paths": children}))
        else:
            shutil.copyfile(file, staged / file.name)


def pack(folder: Path) -> None:
    """Make what was built in `folder` fit to travel: without paths, and the source text, which no launch reads."""
    for entry in folder.iterdir():
        if not entry.is_dir():
            continue
        for file in entry.glob("*.source"):
            file.unlink()
        for file in entry.glob(f"{_GROUP}*"):
            children = sorted(child.name for child in entry.iterdir() if child != file)
            file.write_text(json.dumps({"child_paths": {child: child for child in children}}))
