"""Memory of a step on one card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch

from benchmarks.scaling.counting import Live, build, saved_bytes, traced, views_of
from benchmarks.scaling.plan import FLOAT, LAYOUT, PRESETS, Plan, gigabytes, table
from mica.models.method import Around
from mica.training.step import Pretraining
from mica.transforms.augment import VIEWS, augment
from mica.transforms.draws import Draws
from mica_kernels.contrastive.configs import BLOCK

FRAGMENTS, CONTEXT = 0.2, 2e9
"""Allowances on a card: what the allocator loses, and bytes of the CUDA context and of libraries' workspaces."""


@dataclass(frozen=True)
class Line:
    """Bytes that grow evenly with a number of clips."""

    fixed: float
    each: float

    @classmethod
    def through(cls, count: Callable[[int], int], few: int, many: int) -> Line:
        low, high = count(few), count(many)
        each = (high - low) / (many - few)
        return cls(low - few * each, each)

    def __call__(self, clips: int) -> float:
        return self.fixed + clips * self.each


@dataclass(frozen=True)
class Memory:
    """Bytes of a step, of a contrastive batch in micro-batches.

    Args:
        weights: parameters and buffers, their gradients, and the moments of AdamW.
        clips: the batch; each of its two views has as many.
        augmenting: at most, beyond the batch, while the views are made.
        features: of both views of the batch.
        losses: at most, beyond the features: heads and losses, forward and backward.
        saved: what autograd saves of a micro-batch in the encoder.
        encoding: at most, of a micro-batch in the encoder, forward and backward.
    """

    weights: float
    clips: float
    augmenting: float
    features: float
    losses: float
    saved: Line
    encoding: Line

    def step(self, micro_batch: int) -> float:
        """At most: as the views are made, in the losses above the last part's pass, or on the way back through it."""
        held = self.weights + 3 * self.clips
        return max(
            self.weights + self.clips + self.augmenting,
            held + self.features + self.saved(micro_batch) + self.losses,
            held + 2 * self.features + self.encoding(micro_batch),
        )

    def on_card(self, micro_batch: int) -> float:
        return self.step(micro_batch) * (1 + FRAGMENTS) + CONTEXT


@cache
def memory_of(preset: str, batch: int) -> Memory:
    """The parts of it, each counted by itself."""
    with traced():
        trained = build(preset)
        own = [*trained.parameters(), *trained.buffers()]
        learned = sum(FLOAT * parameter.numel() for parameter in trained.parameters())
        return Memory(
            weights=sum(tensor.nbytes for tensor in own) + 3 * learned,
            clips=views_of(batch)[0].nbytes,
            augmenting=_augmenting(batch),
            features=FLOAT * 2 * batch * trained.model.num_features,
            losses=_losses(trained, batch),
            saved=Line.through(lambda n: saved_bytes(lambda: trained.encode(views_of(n)), own), 64, 128),
            encoding=Line.through(partial(encoding, trained), 64, 128),
        )


def _augmenting(clips: int) -> int:
    """AimCLR's strong views: all that are drawn from, at once."""
    x, draws = views_of(clips)[0], Draws(0, 0, range(clips))
    with Live() as live:
        torch.stack([augment(x, VIEWS["strong"], LAYOUT, draws) for _ in range(2)])
    return live.most


def _losses(trained: Pretraining, clips: int) -> int:
    """The block of gradients within `info_nce` is not seen, and added."""
    features = torch.zeros(2, clips, trained.model.num_features, requires_grad=True)
    around = Around(torch.zeros(clips).long(), Draws(0, 0, range(clips)))
    with Live() as live:
        trained.losses(torch.cat(features.chunk(2, dim=1), dim=1), around)["loss"].backward()
    trained.zero_grad()
    return live.most + FLOAT * BLOCK


def encoding(trained: Pretraining, clips: int) -> int:
    views = views_of(clips)
    with Live() as live:
        trained.encode(views).sum().backward()
    trained.zero_grad()
    return live.most


def largest_micro_batch(memory: Memory, plan: Plan) -> int:
    """The largest divisor of the batch with which a step fits on a card; 0 where none does."""
    divisors = (n for n in range(1, plan.batch + 1) if plan.batch % n == 0)
    return max((n for n in divisors if memory.on_card(n) <= 1e9 * plan.card_gb), default=0)


def memory_table(plan: Plan) -> str:
    """A column a preset."""
    found = [memory_of(preset, plan.batch) for preset in PRESETS]
    largest = [largest_micro_batch(memory, plan) for memory in found]
    micro, batch = plan.micro_batch, plan.batch
    allowances = f"with allowances of {FRAGMENTS:.0%} and {CONTEXT / 1e9:.0f} GB"
    figures: dict[str, Callable[[Memory], float]] = {
        "parameters, buffers, gradients, moments": lambda of: of.weights,
        "the batch and its two views": lambda of: 3 * of.clips,
        "at most while views are made, beyond the batch": lambda of: of.augmenting,
        "features of both views": lambda of: of.features,
        "heads and losses at most, beyond the features": lambda of: of.losses,
        f"encoder, saved for backward, {micro} clips": lambda of: of.saved(micro),
        f"encoder at most, forward and backward, {micro} clips": lambda of: of.encoding(micro),
        f"**a step at most, micro-batch {micro}**": lambda of: of.step(micro),
        allowances: lambda of: of.on_card(micro),
        f"without micro-batches, {allowances}": lambda of: of.on_card(batch),
    }
    lines = [[what, *(gigabytes(figure(memory)) for memory in found)] for what, figure in figures.items()]
    best = [f"{n:,}: {gigabytes(m.on_card(n))}" if n else "none" for m, n in zip(found, largest, strict=True)]
    lines.append([f"**the largest micro-batch within {plan.card_gb:g} GB**, {allowances}", *best])
    return table((f"a batch of {batch:,} clips on one card", *(f"`{preset}`" for preset in PRESETS)), lines)
