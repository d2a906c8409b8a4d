"""The three objectives of MICA: modulation and inter between skeleton and text, intra between two views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mica.errors import InputError
from mica.transforms.draws import Draws
from mica_kernels.nn import InfoNCELoss, SimilarityKLLoss


@dataclass
class ObjectiveConfig:
    """Weights of the three terms, 0 switches one off; without text only `intra` remains.

    Args:
        modulation: a, weight of Feature Modulation.
        inter: b, weight of instance-wise cross-consistency.
        intra: c, weight of feature-wise self-similarity.
        teacher_temperature: tau_t, how sharply the text tells concepts apart.
        off_diagonal: weight of the decorrelation within `intra`.
    """

    modulation: float = 1.0
    inter: float = 1.0
    intra: float = 1.0
    teacher_temperature: float = 0.05
    off_diagonal: float = 5e-3


class Objectives(nn.Module):
    """total = a * modulation + b * inter + c * intra.

    - modulation (Feature Modulation): KL(P || Q), the expected information gain. P = softmax(t C^T / tau_t), what the
      clip's text says of the concepts, is taken as the truth; Q = softmax(scale * s C^T) approximates it.
    - inter (instance-wise cross-consistency): symmetric InfoNCE of skeletons and texts; clips that share a text are
      positives of each other.
    - intra (feature-wise self-similarity): see `cross_correlation_loss`.

    P, Q and the KL, and the two correlations, are the paper's; that the concepts C are the mean embeddings of each
    class's prompts, and the form of the two correlations, are our reading.

    Args:
        config: weights and temperatures.
        class_texts: (classes, wordings, D) unit vectors, or None for pretraining without text.

    Raises InputError where no term is left to learn from.

    >>> texts = F.normalize(torch.randn(5, 3, 8), dim=-1)
    >>> objectives = Objectives(ObjectiveConfig(), texts)
    >>> labels, z = torch.tensor([0, 4, 4, 1]), torch.randn(4, 6)
    >>> skeleton = F.normalize(torch.randn(4, 8), dim=-1)
    >>> sorted(objectives(z, z, skeleton, labels, Draws(seed=0, step=0, clips=range(4))))
    ['inter', 'intra', 'loss', 'modulation']
    """

    def __init__(self, config: ObjectiveConfig, class_texts: Float[Tensor, "K W D"] | None) -> None:
        super().__init__()
        if config.intra <= 0 and (class_texts is None or max(config.modulation, config.inter) <= 0):
            hint = "give intra a positive weight, or, with text, inter or modulation"
            raise InputError("no term is left to learn from", field="objectives", hint=hint)
        self.config = config
        self.register_buffer("class_texts", class_texts, persistent=False)
        self.class_texts: Tensor | None
        self.modulation: SimilarityKLLoss | None = None
        self.inter: InfoNCELoss | None = None
        if class_texts is not None:
            self.register_buffer("concepts", F.normalize(class_texts.mean(1), dim=-1), persistent=False)
            self.modulation = SimilarityKLLoss(teacher_scale=1 / config.teacher_temperature)
            self.inter = InfoNCELoss()

    def forward(
        self,
        view1: Float[Tensor, "N P"],
        view2: Float[Tensor, "N P"],
        skeleton: Float[Tensor, "B D"] | None,
        labels: Int[Tensor, " B"],
        draws: Draws,
    ) -> dict[str, Tensor]:
        """Return "loss" and each active term unweighted.

        view1, view2: projections of two views of the same clips. skeleton: L2-normalised embeddings in the text's
        space, of either view or both; None without text. labels: the class whose prompts describe each of them.
        draws: of the clips; chooses a wording for each of their views.
        """
        terms: dict[str, Tensor] = {}
        if self.config.intra > 0:
            terms["intra"] = cross_correlation_loss(view1, view2, off_diagonal=self.config.off_diagonal)
        if skeleton is not None and self.modulation is not None and self.inter is not None:
            text = self.draw_texts(labels, draws)
            if self.config.modulation > 0:
                terms["modulation"] = self.modulation(skeleton, self.concepts, text, self.concepts)
            if self.config.inter > 0:
                terms["inter"] = self.inter(skeleton, text, query_labels=labels, key_labels=labels)
        terms["loss"] = torch.stack([getattr(self.config, name) * term for name, term in terms.items()]).sum()
        return terms

    def draw_texts(self, labels: Int[Tensor, " B"], draws: Draws) -> Float[Tensor, "B D"]:
        """One random wording of its class for each view of each clip, view by view."""
        assert self.class_texts is not None
        views = len(labels) // len(draws.clips)
        wordings = draws.integers(0, self.class_texts.shape[1], views)
        return self.class_texts[labels, wordings.T.flatten()]


def cross_correlation_loss(
    view1: Float[Tensor, "N D"], view2: Float[Tensor, "N D"], *, off_diagonal: float = 5e-3
) -> Float[Tensor, ""]:
    """Draw the D x D cross-correlation of two views' features to the identity.

    Barlow Twins (Zbontar et al., ICML 2021, eq. 1), divided by D so that widths compare. Computed in float32. Raises
    ValueError for fewer than two clips, which have no correlation.

    >>> view = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(cross_correlation_loss(view, view).item(), 4)
    0.0
    """
    if len(view1) < 2:
        raise ValueError("the cross-correlation of features needs at least two clips")
    one, two = (_standardise(view.float()) for view in (view1, view2))
    correlation = one.T @ two / len(one)
    on_diagonal = correlation.diagonal()
    pull = (on_diagonal - 1).square().sum()
    push = correlation.square().sum() - on_diagonal.square().sum()
    return (pull + off_diagonal * push) / len(on_diagonal)


def _standardise(x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    return (x - x.mean(0)) * torch.rsqrt(x.var(0, unbiased=False) + 1e-6)
