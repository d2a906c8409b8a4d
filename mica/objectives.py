"""The three objectives of MICA: modulation and inter between skeleton and text, intra between two views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mica.errors import InputError
from mica.models.text import concepts
from mica.transforms.draws import Draws
from mica_kernels import distributed
from mica_kernels.nn import InfoNCELoss, SimilarityKLLoss


@dataclass
class ObjectiveConfig:
    """Weights of the terms, 0 switches one off; without text only `intra` and `instance` remain.

    Args:
        modulation: a, weight of Feature Modulation.
        inter: b, weight of instance-wise cross-consistency.
        intra: c, weight of feature-wise self-similarity.
        instance: weight of MoCo's contrast of views with those of a momentum encoder; no part of MICA.
        teacher_temperature: tau_t, how sharply the text tells concepts apart.
        off_diagonal: weight of the decorrelation within `intra`.
        instance_temperature: of the softmax in `instance`.
    """

    modulation: float = 1.0
    inter: float = 1.0
    intra: float = 1.0
    instance: float = 0.0
    teacher_temperature: float = 0.05
    off_diagonal: float = 5e-3
    instance_temperature: float = 0.07


@dataclass
class Keys:
    """What a momentum encoder says of the second view, and of earlier batches (the same everywhere): unit vectors."""

    batch: Float[Tensor, "N P"]
    queue: Float[Tensor, "Q P"]


class Objectives(nn.Module):
    """total = a * modulation + b * inter + c * intra; the batch is that of all processes together.

    - modulation (Feature Modulation): KL(P || Q), the expected information gain. P = softmax(t C^T / tau_t), what the
      clip's text says of the concepts, is taken as the truth; Q = softmax(scale * s C^T) approximates it.
    - inter (instance-wise cross-consistency): symmetric InfoNCE of skeletons and texts; clips that share a text are
      positives of each other.
    - intra (feature-wise self-similarity): see `cross_correlation_loss`.
    - instance: InfoNCE of the first view with the momentum encoder's second, in the batch and in a queue of earlier
      ones, as in MoCo (He et al., CVPR 2020), which has the queue alone; weight 0 unless asked for.

    P, Q and the KL, and the two correlations, are the paper's; that the concepts C are the mean embeddings of each
    class's prompts, and the form of the two correlations, are our reading.

    Gradients on a process follow `mica_kernels.distributed`: their mean over processes is that of the joined batch.

    Args:
        config: weights and temperatures.
        class_texts: (classes, wordings, D) unit vectors, or None for pretraining without text.
        seen: labels of the classes that are concepts; None for all. The words of others teach nothing.

    Attributes:
        reads_text, reads_projections: whether any term does.

    Raises InputError where no term is left to learn from.

    >>> texts = F.normalize(torch.randn(5, 3, 8), dim=-1)
    >>> objectives = Objectives(ObjectiveConfig(), texts)
    >>> labels, z = torch.tensor([0, 4, 4, 1]), torch.randn(4, 6)
    >>> skeleton = F.normalize(torch.randn(4, 8), dim=-1)
    >>> sorted(objectives(z, z, skeleton, labels, Draws(seed=0, step=0, clips=range(4))))
    ['inter', 'intra', 'loss', 'modulation']
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        class_texts: Float[Tensor, "K W D"] | None,
        seen: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.reads_text = class_texts is not None and max(config.modulation, config.inter) > 0
        self.reads_projections = max(config.intra, config.instance) > 0
        if not (self.reads_text or self.reads_projections):
            hint = "give intra or instance a positive weight, or, with text, inter or modulation"
            raise InputError("no term is left to learn from", field="objectives", hint=hint)
        self.register_buffer("class_texts", class_texts, persistent=False)
        self.class_texts: Tensor | None
        self.modulation: SimilarityKLLoss | None = None
        self.inter: InfoNCELoss | None = None
        if class_texts is not None:
            known = class_texts if seen is None else class_texts[list(seen)]
            self.register_buffer("concepts", concepts(known), persistent=False)
            if config.modulation > 0:
                self.modulation = SimilarityKLLoss(teacher_scale=1 / config.teacher_temperature)
            if config.inter > 0:
                self.inter = InfoNCELoss(gather=True)

    def forward(
        self,
        view1: Float[Tensor, "N P"],
        view2: Float[Tensor, "N P"],
        skeleton: Float[Tensor, "B D"] | None,
        labels: Int[Tensor, " B"],
        draws: Draws,
        keys: Keys | None = None,
    ) -> dict[str, Tensor]:
        """Return "loss" and each active term unweighted.

        view1, view2: projections of two views of the same clips. skeleton: L2-normalised embeddings in the text's
        space, of either view or both; None without text. labels: the class whose prompts describe each of them.
        draws: of the clips; chooses a wording for each of their views. keys: for `instance`, which is left out without.

        Raises ValueError where that leaves no term, and where `cross_correlation_loss` does.
        """
        terms: dict[str, Tensor] = {}
        if self.config.intra > 0:
            terms["intra"] = cross_correlation_loss(view1, view2, off_diagonal=self.config.off_diagonal)
        if self.reads_text:
            text = self.draw_texts(labels, draws)
            if self.modulation is not None:
                # Concepts are the same on all processes: each has the mean of its own rows.
                divergence = self.modulation(skeleton, self.concepts, text, self.concepts)
                terms["modulation"] = distributed.mean(divergence)
            if self.inter is not None:
                terms["inter"] = self.inter(skeleton, text, query_labels=labels, key_labels=labels)
        if self.config.instance > 0 and keys is not None:
            terms["instance"] = distributed.info_nce(
                F.normalize(view1, dim=-1),
                keys.batch,
                scale=1 / self.config.instance_temperature,
                extra_keys=keys.queue if len(keys.queue) else None,
                symmetric=False,
            )
        if not terms:
            raise ValueError("instance is the only term, and needs keys: pass what a momentum encoder says")
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

    Barlow Twins (Zbontar et al., ICML 2021, eq. 1), divided by D so that widths compare. Computed in float32 or better,
    over the clips of all processes. Raises ValueError for fewer than two of them, which have no correlation.

    >>> view = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> round(cross_correlation_loss(view, view).item(), 4)
    0.0
    """
    if len(view1) * distributed.processes() < 2:
        raise ValueError("the cross-correlation of features needs at least two clips")
    dtype = torch.promote_types(view1.dtype, torch.float32)
    one, two = (_standardise(view.to(dtype)) for view in (view1, view2))
    correlation = distributed.mean(one.T @ two / len(one))
    on_diagonal = correlation.diagonal()
    pull = (on_diagonal - 1).square().sum()
    push = correlation.square().sum() - on_diagonal.square().sum()
    return (pull + off_diagonal * push) / len(on_diagonal)


def _standardise(x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    centred = x - distributed.mean(x.mean(0))
    return centred * torch.rsqrt(distributed.mean(centred.square().mean(0)) + 1e-6)
