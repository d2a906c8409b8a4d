"""What a clip shows: classes ranked by a trained head, or by how near their words are in the text's space."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mica.errors import InputError
from mica.evaluation.head import Head
from mica.models.mica import MICA, ModelCard
from mica.models.text import class_embeddings, concepts, embed_texts, load_text_encoder


class Ranked(NamedTuple):
    """A class, or a text, and how well it fits: a probability by a head, a cosine by words."""

    name: str
    score: float


def predict_by_head(head: Head, features: Float[Tensor, "N features"], top: int = 5) -> list[list[Ranked]]:
    """Rank the classes of a head for each clip, the most probable first (softmax of its scores).

    Classes that its training had no clip of are left out.

    >>> from mica.evaluation.linear import LinearClassifier
    >>> classifier = LinearClassifier(torch.eye(3), torch.tensor([0.0, 0.0, -torch.inf]))
    >>> head = Head(classifier, ("wave", "bow", "squat"), "mine", "as-given", persons=1)
    >>> [(name, round(score, 2)) for name, score in predict_by_head(head, torch.tensor([[0.0, 1.0, 9.0]]))[0]]
    [('bow', 0.73), ('wave', 0.27)]
    """
    trained = torch.isfinite(head.classifier.bias)
    names = [name for name, known in zip(head.class_names, trained.tolist(), strict=True) if known]
    return _ranked(head.classifier.scores(features).double()[:, trained].softmax(1), names, top)


@torch.inference_mode()
def predict_by_text(
    model: MICA,
    features: Float[Tensor, "N features"],
    texts: Float[Tensor, "K W D"],
    class_names: Sequence[str],
    top: int = 5,
) -> list[list[Ranked]]:
    """Rank classes for each clip by the cosine of its embedding and the mean of each class's W wordings.

    features: as `MICA.features` gives them. texts: unit vectors. A cosine is no probability: how sharply to tell
    classes apart is not said by a model. Raises RuntimeError for a model without text.
    """
    device = next(model.parameters()).device
    embeddings = model.eval().embed(features.to(device)).cpu()
    # A product of matrices rounds equal columns differently: in float64, so that rounding again makes them equal.
    return _ranked((embeddings.double() @ concepts(texts).double().T).float(), class_names, top)


def class_words(
    card: ModelCard, texts: Sequence[str] = (), text_path: str | os.PathLike[str] | None = None
) -> tuple[Float[Tensor, "K W D"], tuple[str, ...]]:
    """Return the embedded wordings of what may be shown, and its names: `texts`, else the classes that the card names.

    text_path: where the text encoder's weights lie, if not where the card says. Raises InputError for a model without
    text, an encoder that is not there or is another, and a text that is empty or given twice.
    """
    if card.text_width is None:
        hint = "pretrain with --text minilm, or predict by a head"
        raise InputError("the model was pretrained without text: words mean nothing to it", hint=hint)
    texts = [text.strip() for text in texts]
    if "" in texts or len(set(texts)) < len(texts):
        raise InputError("a text is empty" if "" in texts else "a text is given twice", field="texts")
    encoder = load_text_encoder(card.text, text_path or card.text_path)
    if encoder.width != card.text_width:
        problem = f"{encoder.width} numbers a text, the model was trained with {card.text_width}"
        raise InputError(f"another text encoder: {problem}", field="text_path")
    if texts:
        return embed_texts(encoder, texts)[:, None], tuple(texts)
    return class_embeddings(encoder, card.dataset, card.class_names), card.class_names


def predictions_table(clips: Sequence[str], predictions: Sequence[Sequence[Ranked]], measure: str) -> str:
    """Return a table fit to print, a block a clip; `measure` is "probability" or "cosine".

    >>> print(predictions_table(["a.npy"], [[Ranked("wave", 0.731), Ranked("bow", 0.269)]], "probability"))
    a.npy                probability
      1  wave                  0.731
      2  bow                   0.269
    """
    lines = []
    width = max([14, *(len(one.name) for ranked in predictions for one in ranked)]) + 5
    for clip, ranked in zip(clips, predictions, strict=True):
        lines.append(f"{clip:<{width}}  {measure:>11}")
        lines += [
            f"{place:>3}  {name:<{width - 5}}  {score:>11.3f}"
            for place, (name, score) in enumerate(ranked, start=1)
        ]
    return "\n".join(lines)


def _ranked(scores: Float[Tensor, "N K"], names: Sequence[str], top: int) -> list[list[Ranked]]:
    """The `top` best of each row, the first of those that are equal first."""
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :top].tolist()
    return [[Ranked(names[k], float(row[k])) for k in best] for best, row in zip(order, scores, strict=True)]
