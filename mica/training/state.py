"""All that a run needs to go on, as files: whole or not there, and known to be whole when read.

RUN/state/step-00001200/tensors.safetensors    the tensors
RUN/state/step-00001200/tree.json              numbers, and which tensor is what
RUN/state/step-00001200/SHA256SUMS             of both, as `sha256sum --check` reads it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mica.errors import InputError
from mica.files import sync
from mica.models.hub import save_tensors

FOLDER = "state"
TENSORS, TREE, SUMS = "tensors.safetensors", "tree.json", "SHA256SUMS"
KEPT = 2
"""States that stay: should the last one turn out torn, there is one before it."""


def write_state(run: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps into a run directory, then drop all but the last states.

    Raises OSError where it cannot be written, as on a full disk; what was begun is then removed.
    """
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    final = folder / f"step-{step:08}"
    if final.exists():  # of a run that was resumed from before it
        shutil.rmtree(final)
    temporary = folder / f".{final.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        tensors: dict[str, Tensor] = {}
        (temporary / TREE).write_text(json.dumps(_unload(state, tensors, "")))
        save_tensors(tensors, temporary / TENSORS)
        (temporary / SUMS).write_text(_sums(temporary))
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        os.rename(temporary, final)
        sync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for old in states(run)[:-KEPT]:
        shutil.rmtree(old)
    for leftover in folder.glob(".step-*.part"):  # of processes that were killed
        shutil.rmtree(leftover, ignore_errors=True)
    return final


def drop_states(run: Path, after: int) -> None:
    """Remove the states after so many steps: torn ones, which would count among those that stay."""
    for folder in states(run):
        if folder.name > f"step-{after:08}":
            shutil.rmtree(folder)


def states(run: Path) -> list[Path]:
    """The states of a run, oldest first, whole or not."""
    return sorted((run / FOLDER).glob("step-*"))


def newest_state(run: Path) -> dict[str, Any] | None:
    """Read the newest whole state, with a warning for each that is torn; None where a run has not saved any.

    Raises InputError where none of several is whole.
    """
    found = states(run)
    for folder in reversed(found):
        try:
            if (folder / SUMS).read_text() != _sums(folder):
                raise ValueError("its checksums differ")
            return _load(json.loads((folder / TREE).read_text()), load_file(folder / TENSORS))
        except (OSError, ValueError, SafetensorError) as error:
            warnings.warn(f"{folder}: torn ({error}); taking the one before it", stacklevel=2)
    if found:
        raise InputError(
            "no state is whole", file=run / FOLDER, hint="--overwrite starts the run anew, from nothing"
        )
    return None


def _sums(folder: Path) -> str:
    return "".join(f"{_digest(folder / name)}  {name}\n" for name in (TENSORS, TREE))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unload(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Put the tensors in `value` aside under names, and return the rest as JSON holds it: mappings as pairs."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"pairs": [[key, _unload(inner, tensors, f"{name}/{key}")] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        return [_unload(inner, tensors, f"{name}/{place}") for place, inner in enumerate(value)]
    return value


def _load(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_load(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _load(inner, tensors) for key, inner in value["pairs"]}
