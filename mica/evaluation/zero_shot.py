"""Classes by their words alone: a clip goes to the class whose prompts lie nearest in the text's space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mica.models.mica import MICA


@torch.inference_mode()
def zero_shot_predict(
    model: MICA,
    features: Float[Tensor, "clips features"],
    class_texts: Float[Tensor, "K W D"],
    candidates: Int[Tensor, " candidates"],
) -> Int[Tensor, " clips"]:
    """Return for each clip the candidate class whose mean prompt is most similar (cosine).

    features: as `MICA.features` gives them; class_texts: unit vectors of all classes' wordings. Raises RuntimeError
    for a model without text.
    """
    device = next(model.parameters()).device
    concepts = F.normalize(class_texts.mean(1), dim=-1)[candidates]
    similarity = model.eval().embed(features.to(device)).cpu() @ concepts.T
    return candidates[similarity.argmax(1)]
