"""The words of the classes in the same plane as the clips, where the model has tied both together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mica.errors import InputError
from mica.models.mica import MICA, ModelCard
from mica.models.text import class_embeddings, load_text_encoder
from mica.report.probe import flatten


@dataclass(frozen=True)
class AnchoredMap:
    """Clips and class anchors laid out together; `gap` is the cosine between the mean clip and the mean anchor."""

    points: Float[np.ndarray, "clips 2"]
    anchors: Float[np.ndarray, "K 2"]
    gap: float


def anchored_map(
    model: MICA, card: ModelCard, features: Float[Tensor, "clips features"]
) -> AnchoredMap | str:
    """Lay out what the model makes of clips in its text space, and its classes' words; or say why that cannot be.

    `features` are as `MICA.features` gives them. The words of a class are the mean of its prompts, as in zero-shot.
    """
    if model.semantic is None:
        return "This model was pretrained without text: its clips and words have no space in common."
    try:
        encoder = load_text_encoder(card.text, card.text_path)
        texts = class_embeddings(encoder, card.dataset, card.class_names)
    except InputError as error:
        return f"The words are missing here, since the text encoder cannot be read: {error.problem}. {error.hint or ''}"
    if texts.shape[-1] != card.text_width:
        return f"The words are missing here: {card.text} is not the text encoder that pretraining saw."
    with torch.inference_mode():
        clips = model.embed(features.to(next(model.parameters()).device)).cpu()
    return lay_out(clips, F.normalize(texts.mean(1), dim=-1))


def lay_out(clips: Float[Tensor, "clips D"], anchors: Float[Tensor, "K D"]) -> AnchoredMap:
    """Lay out clips and anchors together, both unit vectors, each less their own mean.

    The contrast of clips with words decides about directions within each of the two, not about where the two lie: they
    gather in separate cones, whose distance would drown everything else (Liang et al., NeurIPS 2022).
    """
    means = clips.mean(0), anchors.mean(0)
    points = flatten(torch.cat([clips - means[0], anchors - means[1]]))
    gap = float(F.cosine_similarity(*means, dim=0))
    return AnchoredMap(points[: len(clips)], points[len(clips) :], gap)
