"""The folder of a model, here or on the Hugging Face Hub, and its weights as safetensors. Nothing is pickled."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import torch
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mica.errors import InputError
from mica.files import atomic_path
from mica.models.description import DESCRIPTION

WEIGHTS, README = "model.safetensors", "README.md"


def find_folder(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Where a model's files lie: a directory as it is, a name on the Hub after its files were fetched into the cache.

    Nothing is asked of the network for a directory that exists, nor for a path that can be no name on the Hub. Raises
    InputError where files are missing or the Hub does not give them.
    """
    folder = Path(name)
    if not folder.exists() and isinstance(name, str) and _may_be_on_hub(name):
        try:
            found = snapshot_download(
                name,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                # Told to be offline, release 1.33 still asks for a commit's list of files.
                local_files_only=local_files_only or constants.HF_HUB_OFFLINE,
                force_download=force_download,
                allow_patterns=[DESCRIPTION, WEIGHTS, README],
            )
        except Exception as error:  # of many kinds, which differ between releases and share no base
            raise _out_of_reach(name, error) from error
        folder = Path(found)
    if missing := [file for file in (DESCRIPTION, WEIGHTS) if not (folder / file).is_file()]:
        where, what = (folder / missing[0], "") if len(missing) == 1 else (folder, f"s: {', '.join(missing)}")
        hint = (
            "give RUN/checkpoint of a run that `mica pretrain` finished, a folder of `save_pretrained`, "
            "or a model's name on the Hub"
        )
        raise InputError(f"no such file{what}", file=where, hint=hint)
    return folder


def _may_be_on_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _out_of_reach(name: str, error: Exception) -> InputError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return InputError(
        f"no such directory, and the Hugging Face Hub does not give it: {reason}",
        file=name,
        hint="check the name, the revision and the connection; a private model needs token= or `hf auth login`; "
        "local_files_only=True takes what was fetched before; or give the directory of a model that lies here",
    )


def write_weights(folder: Path, model: nn.Module) -> None:
    """Write model.safetensors, whole or not at all, over an earlier one."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(folder / WEIGHTS, overwrite=True) as temporary:
        save_tensors(weights, temporary)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file; raises OSError where the system does not let it, which safetensors hides in its own."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def load_weights(folder: Path, model: nn.Module) -> None:
    """Give `model` the weights of a folder: every one must be there, of its shape, and none too many.

    Raises InputError for a damaged file, and for one that does not fit, with everything that does not.
    """
    file = folder / WEIGHTS
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        hint = "train again, or copy it anew"
        raise InputError(f"damaged weights ({error})", file=file, hint=hint) from error
    if problems := unfit(model.state_dict(), weights):
        raise InputError(
            "\n  ".join([f"the weights do not fit {DESCRIPTION}", *problems]),
            file=file,
            hint=f"{DESCRIPTION} and {WEIGHTS} must be of one model, and of this release's format: copy both anew",
        )
    model.load_state_dict(weights)


def unfit(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """What keeps `found` from being the weights of a model, a line a kind; empty where nothing does.

    >>> unfit({"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(3), "c": torch.ones(1)})
    ['missing: b', 'unexpected: c', 'of another shape: a (3,), expected (2,)']
    """
    reshaped = [
        f"{name} {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "of another shape": reshaped,
    }
    return [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]


def fingerprint(model: nn.Module) -> str:
    """Changes whenever a weight does.

    >>> layer = nn.Linear(2, 2)
    >>> before = fingerprint(layer)
    >>> with torch.no_grad():
    ...     _ = layer.bias.add_(1)
    >>> fingerprint(layer) == before
    False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
