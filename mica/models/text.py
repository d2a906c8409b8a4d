"""Texts as anchors: sentences in, a frozen encoder's unit vectors out, kept on disk and encoded only once.

The paper uses the text encoder of CLIP ViT-B/32 (`clip`, 512 dimensions). `minilm` (all-MiniLM-L6-v2, 384) is
our addition: an encoder trained on sentences, whose weights pip can install where the hub is out of reach.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mica.errors import InputError
from mica.files import atomic_path
from mica.models.text_encoders import ClipTextEncoder, FrozenTextEncoder, SentenceEncoder
from mica.models.text_weights import SOURCES, find_weights, has_model, read_json
from mica.prompts import prompts


class TextEncoder(Protocol):
    """What the rest of the package needs of a text encoder."""

    @property
    def name(self) -> str:
        """The short name, for reports and file names."""

    @property
    def width(self) -> int:
        """D, the width of an embedding."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the embeddings may change."""

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embed `texts`: float32 on the CPU, L2-normalised, without gradient."""


def load_text_encoder(name: str, path: str | os.PathLike[str] | None = None) -> FrozenTextEncoder:
    """Find a frozen text encoder; its weights are read when it first has to encode something.

    `name` is `clip`, `minilm` or a directory written by `save_pretrained`; `path` is where a named encoder
    lies. Without `path` we look among the installed packages, then in the hub's local cache, and only then
    ask the hub (never under `HF_HUB_OFFLINE=1`). Raises `InputError` if the files are nowhere, with the ways
    to get them.

    >>> load_text_encoder("word2vec")
    Traceback (most recent call last):
    mica.errors.InputError: no text encoder 'word2vec', and no such directory
      hint: known: clip, minilm
    """
    if path is not None:
        directory = Path(path)
        if not directory.is_dir():
            raise InputError("no such directory", file=directory, hint=_advice(name))
    elif name in SOURCES:
        directory = find_weights(name)
    else:
        directory = Path(name)
        if not directory.is_dir():
            known = ", ".join(SOURCES)
            raise InputError(f"no text encoder '{name}', and no such directory", hint=f"known: {known}")
    if not has_model(directory):
        raise InputError("no config.json or no weights in this directory", file=directory, hint=_advice(name))
    model_type = read_json(directory / "config.json").get("model_type", "")
    family = ClipTextEncoder if model_type.startswith("clip") else SentenceEncoder
    if name in SOURCES and (name == "clip") != (family is ClipTextEncoder):
        raise InputError(f"this directory holds a model of type '{model_type}', not {name}", file=directory)
    return family(name if name in SOURCES else directory.resolve().name, directory)


def _advice(name: str) -> str:
    return SOURCES[name].advice() if name in SOURCES else "write it with `save_pretrained`"


def embed_texts(
    encoder: TextEncoder, texts: Sequence[str], cache_dir: str | os.PathLike[str] | None = None
) -> Float[Tensor, "B D"]:
    """Embed `texts`, reading from the disk cache what `encoder` has embedded before.

    One safetensors file an encoder holds the embeddings and, in its metadata, their texts; it lies in
    `cache_dir` or else in `default_cache_dir()`. If it knows every text, the weights are not read. A damaged
    file is computed anew, with a warning.
    """
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    file = folder / f"{encoder.name}-{encoder.fingerprint[:16]}.safetensors"
    known = _read_cache(file)
    missing = [text for text in dict.fromkeys(texts) if text not in known]
    if missing:
        known.update(zip(missing, encoder.encode(missing), strict=True))
        _write_cache(file, known)
    return torch.stack([known[text] for text in texts]) if texts else torch.empty(0, encoder.width)


def class_embeddings(
    encoder: TextEncoder,
    dataset: str,
    class_names: Sequence[str],
    cache_dir: str | os.PathLike[str] | None = None,
) -> Float[Tensor, "classes wordings D"]:
    """Embed every wording of every class of `dataset`, each a unit vector, cached as by `embed_texts`."""
    wordings = prompts(dataset, class_names)
    flat = embed_texts(encoder, [text for of_class in wordings for text in of_class], cache_dir)
    return flat.view(len(wordings), -1, flat.shape[-1])


def concepts(texts: Float[Tensor, "K W D"]) -> Float[Tensor, "K D"]:
    """One unit vector a class: the direction of the mean of its wordings."""
    return F.normalize(texts.mean(1), dim=-1)


def default_cache_dir() -> Path:
    """Return `$MICA_CACHE/text`, or else `mica/text` in the user's cache directory."""
    if chosen := os.environ.get("MICA_CACHE"):
        return Path(chosen).expanduser() / "text"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mica" / "text"


def _read_cache(file: Path) -> dict[str, Tensor]:
    if not file.exists():
        return {}
    try:
        with safe_open(file, framework="pt") as stored:
            texts, embeddings = json.loads(stored.metadata()["texts"]), stored.get_tensor("embeddings")
        # The format has no checksum, but we know what every vector's length must be.
        if not torch.allclose(embeddings.norm(dim=-1), torch.ones(len(texts)), atol=1e-4):
            raise ValueError("embeddings that are no unit vectors")
        return dict(zip(texts, embeddings, strict=True))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        warnings.warn(f"{file}: damaged text cache, computed anew ({error})", stacklevel=3)
        return {}


def _write_cache(file: Path, known: dict[str, Tensor]) -> None:
    texts = sorted(known)
    try:
        with atomic_path(file, overwrite=True) as temporary:
            embeddings = torch.stack([known[text] for text in texts])
            save_file({"embeddings": embeddings}, temporary, metadata={"texts": json.dumps(texts)})
    except OSError as error:  # a full or read-only disk costs the next run some time, not this run its result
        warnings.warn(f"{file}: text cache not written ({error})", stacklevel=3)
