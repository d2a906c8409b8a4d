"""What every way to pretrain has in common: how many views it wants, its losses, and what follows a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mica.models.encoding import Features, Views
from mica.models.mica import MICA
from mica.transforms.augment import AugmentConfig
from mica.transforms.draws import Draws


@dataclass
class Around:
    """What the losses of a batch need beside its views.

    Args:
        labels: of the clips; only a method that says so reads them.
        draws: of the clips.
        progress: share of the training that has passed, from 0 up to 1.
        keys: what momentum encoders said of the batch, by name, as `Method.begin` left it.
        fix_dropout: makes what dropout draws next that of a numbered part of the batch.
    """

    labels: Int[Tensor, " N"]
    draws: Draws
    progress: float = 0.0
    keys: dict[str, Float[Tensor, "N P"]] = field(default_factory=dict)
    fix_dropout: Callable[[int], None] = lambda part: None


class Method(nn.Module, ABC):
    """A way to pretrain a model, with the losses of a batch as its output: what DistributedDataParallel wraps.

    Args:
        model: what gradients train.
        augmentations: how each view of a clip is drawn, in order.

    Attributes:
        phase: names what the time goes to, `with self.phase("encoder"): ...`; the trainer sets it.
    """

    def __init__(self, model: MICA, augmentations: Sequence[AugmentConfig]) -> None:
        super().__init__()
        self.model, self.augmentations = model, tuple(augmentations)
        self.phase: Callable[[str], AbstractContextManager] = lambda name: nullcontext()

    @property
    def evaluated(self) -> MICA:
        """The model that the run is for."""
        return self.model

    def begin(self, parts: Sequence[Views], around: Around) -> None:
        """Before the step, without gradients: whatever momentum encoders say of the views goes into `around.keys`."""

    @abstractmethod
    def forward(self, views: Views, earlier: Sequence[Features], around: Around) -> dict[str, Tensor]:
        """Return "loss" and each of its terms unweighted.

        Of a batch that goes through the encoder in parts, `views` are the last, `earlier` the features of the others.
        """

    def follow(self, around: Around, good: Bool[Tensor, ""]) -> None:
        """After the optimiser's step, which `good`, on the device, says was taken."""
