"""The operators as modules that own their parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mica_kernels import distributed
from mica_kernels.contrastive.op import info_nce, similarity_kl
from mica_kernels.spectral.op import SPARSITIES, spectral_gate

if TYPE_CHECKING:  # shapes are for readers and type checkers; at run time PyTorch is enough
    from jaxtyping import Float, Int

INITIAL_THRESHOLD = 0.01
"""Where the gate starts, in units of its input: of signals with unit variance it takes a hundredth."""

INITIAL_SCALE = 1 / 0.07
"""The inverse temperature that CLIP starts from."""


class SpectralGate(nn.Module):
    """`mica_kernels.spectral_gate` with a learned filter and a learned threshold per channel group and joint.

    The filter `weight` (G, F, V, 2) starts as the identity, the `threshold` (G, V) at `INITIAL_THRESHOLD`.
    The threshold is a softplus of the parameter `threshold_offset`: never negative and never without a
    gradient, whereas a clamped parameter that once reaches zero stays there. The offset counts from the
    start, so weight decay draws the threshold back to where it started and not to softplus(0) = 0.69.
    With sparsity=None nothing is switched off: there is no such parameter and `threshold` is None.

    Raises ValueError where `groups` does not divide `channels`, for another `sparsity`, and for less than one frame.

    >>> gate = SpectralGate(channels=16, num_frames=50, num_joints=25, groups=4)
    >>> gate(torch.randn(2, 16, 50, 25)).shape
    torch.Size([2, 16, 50, 25])
    >>> gate.weight.shape, gate.threshold.shape
    (torch.Size([4, 26, 25, 2]), torch.Size([4, 25]))
    """

    def __init__(
        self,
        channels: int,
        num_frames: int,
        num_joints: int,
        groups: int = 8,
        sparsity: Literal["joint", "bin"] | None = "joint",
    ) -> None:
        super().__init__()
        if groups < 1 or channels % groups:
            raise ValueError(f"groups must divide channels, got {groups} groups for {channels} channels")
        if sparsity not in (*SPARSITIES, None):
            raise ValueError(f"sparsity must be one of {', '.join(SPARSITIES)}, or None; got {sparsity!r}")
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}")
        self.sparsity = sparsity
        identity = torch.tensor([1.0, 0.0])
        self.weight = nn.Parameter(identity.repeat(groups, num_frames // 2 + 1, num_joints, 1))
        self.threshold_offset = None if sparsity is None else nn.Parameter(torch.zeros(groups, num_joints))

    @property
    def threshold(self) -> Float[Tensor, "G V"] | None:
        """The threshold in force, in units of the input."""
        if self.threshold_offset is None:
            return None
        return functional.softplus(self.threshold_offset + math.log(math.expm1(INITIAL_THRESHOLD)))

    def forward(self, x: Float[Tensor, "N C T V"]) -> Float[Tensor, "N C T V"]:
        return spectral_gate(x, self.weight, self.threshold, sparsity=self.sparsity or "joint")

    def extra_repr(self) -> str:
        groups, bins, num_joints, _ = self.weight.shape
        return f"groups={groups}, frequencies={bins}, joints={num_joints}, sparsity={self.sparsity!r}"


class _LearnedScale(nn.Module):
    """A learned inverse temperature in [1, max_scale]; `logit_scale` is its logarithm, as in CLIP."""

    def __init__(self, initial_scale: float, max_scale: float) -> None:
        super().__init__()
        if not 1 <= initial_scale <= max_scale:
            raise ValueError(f"initial_scale must lie in [1, max_scale = {max_scale}], got {initial_scale}")
        self.max_scale = max_scale
        self.logit_scale = nn.Parameter(torch.tensor(math.log(initial_scale)))

    def scale(self) -> Float[Tensor, ""]:
        """The inverse temperature in force.

        The parameter itself is clamped, as CLIP does after a step: a clamp in the graph would cut the
        gradient that has to bring an overshooting scale back.
        """
        with torch.no_grad():
            self.logit_scale.clamp_(0, math.log(self.max_scale))
        return self.logit_scale.exp()

    def extra_repr(self) -> str:
        return f"max_scale={self.max_scale}"


class InfoNCELoss(_LearnedScale):
    """`mica_kernels.info_nce` with a learned inverse temperature.

    Args:
        symmetric: take the mean of the row loss and of the same over columns.
        initial_scale: the inverse temperature at the start, in [1, max_scale].
        max_scale: what it may not exceed.
        gather: take the batches of all processes as one, see `mica_kernels.distributed.info_nce`.

    Raises ValueError for an `initial_scale` out of bounds; `forward`, where `mica_kernels.info_nce` does.

    >>> loss = InfoNCELoss()
    >>> loss(torch.eye(4), torch.eye(4)).item() < 1e-4
    True
    """

    def __init__(
        self,
        symmetric: bool = True,
        initial_scale: float = INITIAL_SCALE,
        max_scale: float = 100.0,
        gather: bool = False,
    ) -> None:
        super().__init__(initial_scale, max_scale)
        self.symmetric = symmetric
        self.gather = gather

    def forward(
        self,
        query: Float[Tensor, "N D"],
        key: Float[Tensor, "M D"],
        query_labels: Int[Tensor, " N"] | None = None,
        key_labels: Int[Tensor, " M"] | None = None,
        extra_keys: Float[Tensor, "Q D"] | None = None,
    ) -> Float[Tensor, ""]:
        loss = distributed.info_nce if self.gather else info_nce
        return loss(
            query,
            key,
            scale=self.scale(),
            query_labels=query_labels,
            key_labels=key_labels,
            extra_keys=extra_keys,
            symmetric=self.symmetric,
        )


class SimilarityKLLoss(_LearnedScale):
    """`mica_kernels.similarity_kl` with the student's inverse temperature learned, the teacher's fixed.

    Args:
        teacher_scale: the teacher's inverse temperature.
        initial_scale: the student's at the start, in [1, max_scale].
        max_scale: what the student's may not exceed.
        gather: take the batches and the keys of all processes as one, see `mica_kernels.distributed.similarity_kl`; not
            for keys that are the same on all.

    Raises ValueError for an `initial_scale` out of bounds; `forward`, where `mica_kernels.similarity_kl` does.

    >>> loss = SimilarityKLLoss(teacher_scale=20.0, initial_scale=20.0)
    >>> round(loss(torch.eye(4), torch.eye(4), torch.eye(4), torch.eye(4)).item(), 6)
    0.0
    """

    def __init__(
        self,
        teacher_scale: float = INITIAL_SCALE,
        initial_scale: float = INITIAL_SCALE,
        max_scale: float = 100.0,
        gather: bool = False,
    ) -> None:
        super().__init__(initial_scale, max_scale)
        self.teacher_scale = teacher_scale
        self.gather = gather

    def forward(
        self,
        query: Float[Tensor, "N D"],
        key: Float[Tensor, "M D"],
        teacher_query: Float[Tensor, "N E"],
        teacher_key: Float[Tensor, "M E"],
    ) -> Float[Tensor, ""]:
        loss = distributed.similarity_kl if self.gather else similarity_kl
        return loss(
            query, key, teacher_query, teacher_key, scale=self.scale(), teacher_scale=self.teacher_scale
        )
