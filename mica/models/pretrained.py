"""A trained model on disk: weights as safetensors, everything else as JSON. Nothing is pickled."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mica.errors import InputError
from mica.files import atomic_path
from mica.models.heads import HeadConfig
from mica.models.mica import MICA
from mica.models.stgcn import STGCN, EncoderConfig
from mica.skeleton import get_layout, layout_from_dict
from mica.transforms.sampling import Preprocessing

FORMAT = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


@dataclass
class ModelCard:
    """What it takes to rebuild a model, to feed it, and to know what it has seen.

    Args:
        layout: name of the skeleton layout.
        preprocessing: how clips become the encoder's input.
        encoder, heads: their configurations.
        text: name of the text encoder, "none" for a model that saw no text.
        text_path: local directory of the text encoder's weights, where one was given.
        text_width: D of the text encoder.
        dataset, protocol, part: whose training part, and which part of it, it was pretrained on.
        class_names: of the dataset, in label order.
        seen_classes: labels it was pretrained on; the rest are unseen, for zero-shot.
        seed: of the pretraining.
        own_layout: describes the layout where it is not one of ours.
    """

    layout: str
    preprocessing: Preprocessing
    encoder: EncoderConfig
    heads: HeadConfig
    text: str
    text_path: str | None
    text_width: int | None
    dataset: str
    protocol: str
    part: str
    class_names: tuple[str, ...]
    seen_classes: tuple[int, ...]
    seed: int
    own_layout: dict[str, Any] | None = None

    def build(self) -> MICA:
        """Return the model with fresh weights."""
        num_frames = self.preprocessing.num_frames
        own = self.own_layout
        layout = get_layout(self.layout) if own is None else layout_from_dict(own)
        encoder = STGCN(layout, num_frames=num_frames, **asdict(self.encoder))
        return MICA(encoder, self.heads, self.text_width)


def save_pretrained(folder: str | os.PathLike[str], model: MICA, card: ModelCard) -> None:
    """Write weights and description into `folder`, each whole or not at all."""
    folder = Path(folder)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(folder / WEIGHTS, overwrite=True) as temporary:
        save_file(weights, temporary)
    with atomic_path(folder / DESCRIPTION, overwrite=True) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, **asdict(card)}, indent=2) + "\n")


def load_pretrained(folder: str | os.PathLike[str]) -> tuple[MICA, ModelCard]:
    """Rebuild a model in evaluation mode; every weight must be there and none too many.

    Raises InputError for a missing, damaged or foreign checkpoint, and for one whose weights do not fit.
    """
    folder = Path(folder)
    card = load_card(folder)
    file = folder / WEIGHTS
    if not file.is_file():
        raise InputError(
            "no such file", file=file, hint="the run has not been trained, or it was stopped early"
        )
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"damaged weights ({error})", file=file, hint="train again, or copy it anew"
        ) from error
    try:
        model = card.build()
    except (TypeError, ValueError) as error:
        raise InputError(f"describes no model: {error}", file=folder / DESCRIPTION) from error
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"the weights do not fit {DESCRIPTION}: {error}", file=file) from error
    return model.eval(), card


def load_card(folder: str | os.PathLike[str]) -> ModelCard:
    """Read the description alone; raises InputError where it is missing, damaged or of another format."""
    file = Path(folder) / DESCRIPTION
    if not file.is_file():
        raise InputError("no such file", file=file, hint="give a directory that `mica pretrain` wrote")
    try:
        entries: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"not JSON ({error})", file=file) from error
    if not isinstance(entries, dict) or entries.pop("format", None) != FORMAT:
        raise InputError(f"not a model description of format {FORMAT}", file=file, field="format")
    try:
        for name, kind in (
            ("preprocessing", Preprocessing),
            ("encoder", EncoderConfig),
            ("heads", HeadConfig),
        ):
            entries[name] = kind(**entries[name])
        for name in ("class_names", "seen_classes"):
            entries[name] = tuple(entries[name])
        return ModelCard(**entries)
    except (KeyError, TypeError) as error:
        raise InputError(f"an entry is missing or unknown: {error}", file=file) from error
