"""Training an encoder and a linear head with labels: the model, its optimiser, and one epoch after another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from mica.data.dataset import SkeletonDataset, SkeletonLoader, in_order
from mica.data.sampler import GlobalBatchSampler
from mica.errors import InputError
from mica.evaluation.features import Scaling, Source
from mica.evaluation.linear import LinearClassifier
from mica.models.mica import MICA, ModelCard
from mica.models.precision import multiplies_bfloat16
from mica.transforms.augment import AugmentConfig, augment
from mica.transforms.draws import Draws, fix_generators
from mica.transforms.streams import to_stream

CROP = AugmentConfig(time_shift=1 / 6)
"""AimCLR's basic view without its shear, which costs accuracy here."""


@dataclass(frozen=True)
class FineTuneConfig:
    """AdamW with a short linear warm-up and a cosine to zero, the head started from a linear probe.

    Args:
        epochs: passes over the clips that the schedule is made for; validation may choose to stop earlier.
        batch_size: clips a step; where there are fewer, all of them.
        lr: peak learning rate of the encoder.
        head_lr: peak learning rate of the head.
        weight_decay: for the weights of convolutions and the head; filters, thresholds, biases and norms are spared.
        warmup: share of all steps over which the rates rise from zero.
        inverse_penalty: C of the logistic regression on frozen features that the head starts from.
        augment: how the view of a clip is drawn that a step sees.

    The defaults were chosen among a dozen on the validation parts of NW-UCLA and UTD-MHAD, for encoders that had been
    pretrained there. One that has learned nothing yet wants `FROM_SCRATCH`.
    """

    epochs: int = 5
    batch_size: int = 32
    lr: float = 1e-4
    head_lr: float = 1e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    inverse_penalty: float = 1e-2
    augment: AugmentConfig = CROP

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size"):
            if getattr(self, field) < 1:
                raise InputError(f"{getattr(self, field)}, expected at least 1", field=field)
        for field in ("lr", "head_lr"):
            if not 0 <= getattr(self, field) < math.inf:
                raise InputError(f"{getattr(self, field)}, expected a finite rate, at least 0", field=field)

    def steps_per_epoch(self, clips: int) -> int:
        """Whole batches in an epoch; clips that fill none are left out, other ones each time."""
        return clips // min(self.batch_size, clips)


FROM_SCRATCH = FineTuneConfig(epochs=40, lr=1e-2, head_lr=1e-2)
"""For an untrained encoder, which hardly learns with the recipe above.

Of four that were tried on both sets, the one with the largest sum of validation accuracies: the best on UTD-MHAD, where
six more were tried, but only the third on NW-UCLA.
"""


def recipe(source: Source) -> FineTuneConfig:
    """How an encoder from `source` is trained on unless somebody says otherwise."""
    return FROM_SCRATCH if source == "random" else FineTuneConfig()


class Head(nn.Module):
    """A linear classifier on scaled features that starts as a probe which was fitted on them frozen.

    A head that starts at random distorts a good encoder before it fits (Kumar et al., ICLR 2022, arXiv 2202.10054). The
    scale is that of the features before the training, so that one rate fits all. Classes without a clip have no logit.

    Shape: (N, features) -> (N, known), the logits of `classes`.

    >>> probe = LinearClassifier(torch.eye(3), torch.tensor([0.0, -torch.inf, 0.5]))
    >>> head = Head(probe, Scaling(torch.ones(3), torch.full((3,), 0.1)))
    >>> head.classes.tolist(), head(torch.eye(3)).round(decimals=3).tolist()
    ([0, 2], [[1.0, 0.5], [0.0, 0.5], [0.0, 1.5]])
    """

    def __init__(self, probe: LinearClassifier, scaling: Scaling) -> None:
        super().__init__()
        known, mean = probe.bias.isfinite(), scaling.mean
        scale = torch.where(scaling.scale > 0, scaling.scale, 1)
        # In float64: over all features what the means add to the scores is large, and nearly cancels.
        bias = probe.bias[known].double() + probe.weight[known].double() @ mean.double()
        self.weight = nn.Parameter(probe.weight[known] / scale)
        self.bias = nn.Parameter(bias.float())
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.register_buffer("classes", known.nonzero()[:, 0])
        self.mean: Tensor
        self.scale: Tensor
        self.classes: Tensor

    def forward(self, features: Float[Tensor, "N features"]) -> Float[Tensor, "N known"]:
        return F.linear((features - self.mean) * self.scale, self.weight, self.bias)


class Classifier(nn.Module):
    """An encoder with a head, fed as the model's card says.

    Shape: prepared clips (N, 3, T, V, M) -> logits (N, known).
    """

    def __init__(self, model: MICA, card: ModelCard, head: Head) -> None:
        super().__init__()
        self.model, self.stream, self.head = model, card.preprocessing.stream, head

    def forward(self, x: Float[Tensor, "N C T V M"]) -> Float[Tensor, "N known"]:
        view = to_stream(x, self.stream, self.model.encoder.layout)
        in_half = self.training and multiplies_bfloat16(view.device)
        with torch.autocast(view.device.type, torch.bfloat16, enabled=in_half):
            maps = self.model.feature_map(view)
        # Outside: autocast would average in half precision.
        return self.head(self.model.pooled(maps, len(view), view.shape[4]).float())

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @torch.inference_mode()
    def predict(self, clips: SkeletonDataset) -> Int[Tensor, " clips"]:
        """The class of each clip, on the CPU."""
        loader = SkeletonLoader(clips, in_order(len(clips), 128), self.device)
        return torch.cat([self.head.classes[self(batch["x"]).argmax(1)].cpu() for batch in loader])


def fine_tune(
    classifier: Classifier,
    clips: SkeletonDataset,
    config: FineTuneConfig,
    seed: int,
    bar: tqdm | None = None,
) -> Iterator[int]:
    """Train `classifier`; yields after each epoch, in evaluation mode, how many there have been.

    Whoever stops asking stops the training. What is drawn follows from `seed` alone. Raises InputError where the loss
    is not finite.
    """
    device, layout, known = classifier.device, clips.store.layout, classifier.head.classes
    order = GlobalBatchSampler(len(clips), min(config.batch_size, len(clips)), seed)
    loader = SkeletonLoader(clips, order, device)
    optimizer = _make_optimizer(classifier, config)
    total = config.epochs * len(loader)
    schedule = LambdaLR(optimizer, lambda step: _rate(step, total, config.warmup))
    _hurry_statistics(classifier, total)
    for epoch in range(config.epochs):
        order.set_epoch(epoch)
        classifier.train()
        losses = []
        with _dropout_seeded(seed, epoch, device):
            for step, batch in enumerate(loader, start=epoch * len(loader)):
                draws = Draws(seed, step, order.positions, device)
                view = augment(batch["x"], config.augment, layout, draws)
                loss = F.cross_entropy(classifier(view), torch.searchsorted(known, batch["label"]))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.detach())
                if bar is not None:
                    bar.update()
        _check_finite(torch.stack(losses), epoch)
        classifier.eval()
        yield epoch + 1


def _hurry_statistics(classifier: Classifier, steps: int) -> None:
    """Have the running means of norms leave those of before behind, however few steps there are.

    They decide in evaluation mode. An encoder without pretraining has none that mean anything, and at the usual 0.1
    fifteen steps would leave a fifth of those.
    """
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = min(1.0, max(0.1, 3 / steps))


@contextmanager
def _dropout_seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from PyTorch's own generators: they follow from the seed meanwhile, and are then as before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        fix_generators(seed, epoch)
        yield


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: half a cosine from one to zero, times a linear rise from zero.

    >>> [round(_rate(step, 100, 0.1), 2) for step in (0, 4, 9, 50, 100)]
    [0.1, 0.5, 0.98, 0.5, 0.0]
    """
    rise = min(1.0, (step + 1) / max(1.0, warmup * steps))
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def _make_optimizer(classifier: Classifier, config: FineTuneConfig) -> AdamW:
    encoder = classifier.model.encoder
    decayed = [module.weight for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    chosen = {id(weight) for weight in decayed}
    spared = [parameter for parameter in encoder.parameters() if id(parameter) not in chosen]
    return AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": spared, "weight_decay": 0.0},
            {"params": [classifier.head.weight], "weight_decay": config.weight_decay, "lr": config.head_lr},
            {"params": [classifier.head.bias], "weight_decay": 0.0, "lr": config.head_lr},
        ],
        lr=config.lr,
    )


def _check_finite(losses: Float[Tensor, " steps"], epoch: int) -> None:
    """Looked at once an epoch: to look at every step would have a GPU wait for the host each time."""
    broken = (~losses.isfinite()).nonzero()
    if len(broken):
        step = int(broken[0])
        raise InputError(
            f"fine-tuning, epoch {epoch}, step {step} of {len(losses)}: the loss is {losses[step].item()}",
            hint="look for huge coordinates in the store, and whether the pretraining went well",
        )
