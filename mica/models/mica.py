"""MICA: a skeleton encoder tied to the words for what it sees."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from mica.models.heads import HeadConfig, PartPool, Projector
from mica.models.stgcn import STGCN


class MICA(nn.Module):
    """The skeleton branch with its heads; the text branch is frozen and enters as embeddings.

    Args:
        encoder: (N, 3, T, V) -> (N, width, T', V).
        heads: pooling and projections.
        text_width: D of the text encoder, or None for a model without text.

    >>> import torch
    >>> from mica.skeleton import get_layout
    >>> model = MICA(STGCN(get_layout("ntu-25"), preset="stgcn-small"), HeadConfig(), text_width=384)
    >>> features = model.features(torch.randn(2, 3, 64, 25, 2))
    >>> features.shape, model.embed(features).shape, model.project(features).shape
    (torch.Size([2, 2560]), torch.Size([2, 384]), torch.Size([2, 256]))
    """

    def __init__(self, encoder: STGCN, heads: HeadConfig, text_width: int | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = PartPool(encoder.layout, heads.segments, heads.pooling)
        self.num_features = encoder.width * self.pool.cells
        self.projector = Projector(self.num_features, heads.hidden, heads.projection)
        self.semantic = None if text_width is None else Projector(self.num_features, heads.hidden, text_width)

    def features(self, x: Float[Tensor, "N C T V M"]) -> Float[Tensor, "N features"]:
        """Pooled features, the mean over the persons: what evaluations use."""
        persons = x.shape[-1]
        pooled = self.pool(self.encoder(rearrange(x, "n c t v m -> (n m) c t v")))
        return rearrange(pooled, "(n m) d -> n m d", m=persons).mean(1)

    def embed(self, features: Float[Tensor, "N features"]) -> Float[Tensor, "N D"]:
        """s: where skeletons meet text, L2-normalised. Raises RuntimeError in a model without text."""
        if self.semantic is None:
            raise RuntimeError("this model was trained without text: it has no text space to embed into")
        return F.normalize(self.semantic(features), dim=-1)

    def project(self, features: Float[Tensor, "N features"]) -> Float[Tensor, "N D"]:
        """z: where two views of a clip are compared; not normalised (`intra` standardises each feature)."""
        return self.projector(features)
