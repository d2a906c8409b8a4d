"""A trained model on disk: weights as safetensors, everything else as JSON. Nothing is pickled."""

from __future__ import annotations

import os
from pathlib import Path

from mica.models.description import DESCRIPTION
from mica.models.hub import WEIGHTS
from mica.models.mica import MICA, ModelCard

__all__ = ["DESCRIPTION", "WEIGHTS", "ModelCard", "load_card", "load_pretrained", "save_pretrained"]


def save_pretrained(folder: str | os.PathLike[str], model: MICA, card: ModelCard) -> None:
    """Write a model with `card`, see `MICA.save_pretrained`."""
    model.card = card
    model.save_pretrained(Path(folder))


def load_pretrained(folder: str | os.PathLike[str]) -> tuple[MICA, ModelCard]:
    """Read a model and its card, see `MICA.from_pretrained`; only from a directory."""
    model = MICA.from_pretrained(Path(folder))
    return model, model.card


def load_card(folder: str | os.PathLike[str]) -> ModelCard:
    """Read the description alone; raises InputError where it is missing, damaged or of another format."""
    return ModelCard.read(folder)
