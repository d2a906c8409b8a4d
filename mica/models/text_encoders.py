"""The pretrained text models of `transformers` that we can run, frozen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from mica.errors import InputError
from mica.models.text_weights import MODULES, fingerprint, read_json, read_modules

BATCH_SIZE = 64

_SUPPORTED = ("Transformer", "Pooling", "Normalize")
"""Modules of sentence-transformers that `SentenceEncoder` does the work of."""

_MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode": "mean"}
"""Settings of a pooling that takes the mean and nothing else, whose other modes are false."""


class FrozenTextEncoder(ABC):
    """A text model in a directory as `save_pretrained` writes it, read on first use and never trained."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name, self.directory = name, directory

    @property
    @abstractmethod
    def width(self) -> int:
        """D, the width of an embedding."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Longer texts are cut here."""

    @abstractmethod
    def _load_model(self) -> torch.nn.Module: ...

    @abstractmethod
    def _pool(self, tokens: dict[str, Tensor]) -> Float[Tensor, "B D"]: ...

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any file that shapes an embedding."""
        return fingerprint(self.directory)

    def encode(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        """Embed `texts` in batches: float32 on the CPU, L2-normalised, cut at `max_tokens`.

        The last bits (about 1e-7) depend on which texts share a batch; `mica.models.text.embed_texts` keeps
        the first result.
        """
        starts = range(0, len(texts), BATCH_SIZE)
        batches = [self._encode_batch(list(texts[start : start + BATCH_SIZE])) for start in starts]
        # Joined outside inference mode, since a loss may not save inference tensors for its backward pass.
        return torch.cat(batches) if batches else torch.empty(0, self.width)

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> Float[Tensor, "B D"]:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        return normalize(self._pool(tokens), dim=-1)

    @cached_property
    def _tokenizer(self) -> Any:
        return _from_pretrained(_transformers().AutoTokenizer, self.directory)

    @cached_property
    def _model(self) -> torch.nn.Module:
        return self._load_model().float().eval().requires_grad_(False)


class ClipTextEncoder(FrozenTextEncoder):
    """The text tower of CLIP with its projection into the space that it shares with images."""

    @property
    def width(self) -> int:
        return self._config.projection_dim

    @property
    def max_tokens(self) -> int:
        return self._config.max_position_embeddings

    @cached_property
    def _config(self) -> Any:
        # Also takes the text half of a whole CLIP's config.
        return _from_pretrained(_transformers().CLIPTextConfig, self.directory)

    def _load_model(self) -> torch.nn.Module:
        return _load_complete(_transformers().CLIPTextModelWithProjection, self.directory)

    def _pool(self, tokens: dict[str, Tensor]) -> Float[Tensor, "B D"]:
        return self._model(**tokens).text_embeds


class SentenceEncoder(FrozenTextEncoder):
    """A sentence-transformers model with mean pooling, run without that library.

    Raises InputError for another pooling, alone or beside the mean, and for further modules, such as `Dense`.
    """

    def __init__(self, name: str, directory: Path) -> None:
        super().__init__(name, directory)
        poolings = ["1_Pooling"]
        if (listed := directory / MODULES).exists():
            modules = read_modules(listed)
            for kind, _ in modules:
                if kind not in _SUPPORTED:
                    raise InputError(f"only {', '.join(_SUPPORTED)} are supported, not {kind}", file=listed)
            poolings = [folder for kind, folder in modules if kind == "Pooling"]
        for folder in poolings:
            _refuse_other_pooling(directory / folder / "config.json")

    @property
    def width(self) -> int:
        return self._config.hidden_size

    @property
    def max_tokens(self) -> int:
        settings = self.directory / "sentence_bert_config.json"
        trained_with = read_json(settings).get("max_seq_length") if settings.exists() else None
        return trained_with or min(self._config.max_position_embeddings, self._tokenizer.model_max_length)

    @cached_property
    def _config(self) -> Any:
        return _from_pretrained(_transformers().AutoConfig, self.directory)

    def _load_model(self) -> torch.nn.Module:
        return _load_complete(_transformers().AutoModel, self.directory)

    def _pool(self, tokens: dict[str, Tensor]) -> Float[Tensor, "B D"]:
        hidden = self._model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)


def _refuse_other_pooling(file: Path) -> None:
    """Of several poolings at once, sentence-transformers puts the results side by side."""
    for name, value in (read_json(file) if file.exists() else {}).items():
        if name.startswith("pooling_mode") and value != _MEAN.get(name, False):
            raise InputError("only mean pooling is supported, with nothing beside it", file=file, field=name)


def _transformers() -> Any:
    try:
        import transformers  # takes seconds, so only once a text has to be encoded
    except ImportError as error:
        raise InputError("text encoders need transformers", hint="pip install transformers") from error
    return transformers


def _load_complete(model_class: Any, directory: Path) -> torch.nn.Module:
    """Read a model and refuse one that lacks weights, since these would silently be random."""
    with _quiet():
        model, report = _from_pretrained(model_class, directory, weights_only=True, output_loading_info=True)
    # BERT's pooler is not part of mean pooling, and some checkpoints lack it.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(f"the weights lack {len(missing)} tensors, first '{missing[0]}'", file=directory)
    return model


def _from_pretrained(kind: Any, directory: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(str(directory), local_files_only=True, **options)
    except UnpicklingError as error:  # whose own message recommends to run the code in it
        problem = "the weights hold more than tensors, possibly code"
        raise InputError(problem, file=directory, hint="get them as safetensors") from error
    except (OSError, EOFError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"cannot be read as {kind.__name__}: {error}", file=directory) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `transformers` from listing CLIP's image tower as unused weights."""
    logging = _transformers().utils.logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
