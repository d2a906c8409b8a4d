"""What training by the recipes of the large sets comes to on one H200, at least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.accounts import COPY_RATE, MATRIX_RATE
from benchmarks.scaling.counting import traced
from benchmarks.scaling.plan import CLASSES, LAYOUT, TEXT_WIDTH, WORDINGS, Plan, table
from mica.configs import load_config, methods
from mica.data.dataset import MOST_PERSONS
from mica.data.splits import published_protocols
from mica.models.method import Around
from mica.models.mica import ModelCard
from mica.models.momentum import KeyQueue
from mica.training.config import PretrainConfig
from mica.training.methods import make_method
from mica.training.optimizer import make_optimizer
from mica.transforms.augment import augment
from mica.transforms.draws import Draws

LAUNCH = 5e-6
"""Seconds that a call of an operator takes at least; an assumption."""

_ALLOCATIONS = frozenset(
    getattr(torch.ops.aten, name)
    for name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
)
_OVERWRITES = frozenset(getattr(torch.ops.aten, name) for name in ("copy_", "fill_", "zero_"))
"""Operators that touch no memory, and those that do not read what they write to."""

CLIPS = {
    **{name: published_protocols(name)[0].expected[0] for name in ("ntu60", "ntu120")},  # type: ignore[index]
    "pku-mmd-1": 18_800,
    "pku-mmd-2": 5_300,
}
"""That train, cross-subject; of PKU-MMD, whose counts its owners do not publish, about."""


class Time(TorchDispatchMode):
    """Seconds that the operators take at least, one after the other: `seconds`; and their number, `calls`.

    Each has its bytes to read and write at the rate of a copy, and its products to make at that of a matrix product.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self.calls = 0.0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view or func.overloadpacket in _ALLOCATIONS:
            return out
        read, written = _tensors((args, kwargs)), _tensors(out) or _changed(func, args)
        if written:
            read = read[1:] if func.overloadpacket in _OVERWRITES else read
            count = flop_registry.get(func.overloadpacket)
            flops = 0 if count is None else count(*args, **(kwargs or {}), out_val=out)
            half = any(tensor.dtype == torch.bfloat16 for tensor in read)
            products = flops / (MATRIX_RATE if half else MATRIX_RATE / 2)
            self.seconds += max(sum(map(_size, read + written)) / COPY_RATE, products, LAUNCH)
            self.calls += 1
        return out


def _changed(func: Any, args: Any) -> list[Tensor]:
    """What an operator without a result changes, such as the optimiser's."""
    schema = zip(func._schema.arguments, args, strict=False)
    return _tensors([value for about, value in schema if about.alias_info and about.alias_info.is_write])


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    """Bytes that are there: what is broadcast is read once."""
    spread = math.prod(n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0)
    return spread * tensor.itemsize


def card_of(config: PretrainConfig) -> ModelCard:
    """The model of a configuration."""
    text = ("none", None, None) if config.text == "none" else (config.text, None, TEXT_WIDTH)
    classes = range(CLASSES)
    data = ("ntu60", "cross-subject", "train", tuple(map(str, classes)), tuple(classes))
    return ModelCard("ntu-25", config.preprocessing, config.encoder, config.heads, *text, *data, seed=0)


def step_time(config: PretrainConfig) -> Time:
    """What a step of the configured method takes at least, on tensors without memory."""
    card = card_of(config)
    # They cannot be copied deeply.
    with traced(), patch("mica.models.momentum.deepcopy", lambda _: card.build()):
        return timed_step(config, card)


def timed_step(config: PretrainConfig, card: ModelCard) -> Time:
    """A whole step: views, keys, losses, backward pass, optimiser."""
    batch, texts = config.optimizer.batch_size, None
    if card.text_width is not None:
        texts = torch.zeros(CLASSES, WORDINGS, TEXT_WIDTH)
    method = make_method(config, lambda _: card.build(), texts, torch.bfloat16)
    for module in method.modules():
        if isinstance(module, KeyQueue):  # full, as it is but for the first steps
            module.filled = config.momentum.queue
    optimizer = make_optimizer(method, config.optimizer)
    clips = torch.zeros(batch, 3, config.preprocessing.num_frames, LAYOUT.num_joints, MOST_PERSONS)
    draws = Draws(0, 0, range(batch))
    around = Around(torch.zeros(batch).long(), draws, progress=1.0)
    with Time() as time:
        views = torch.stack([augment(clips, how, LAYOUT, draws) for how in method.augmentations])
        method.begin([views], around)
        method(views, [], around)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(method.parameters(), config.optimizer.clip_norm, foreach=True)
        optimizer.step()
        method.follow(around, torch.tensor(True))
    return time


def minutes(seconds: float, clips: int, config: PretrainConfig) -> float:
    """Of a training by the recipe whose steps take that long."""
    steps = clips // config.optimizer.batch_size * config.optimizer.epochs
    return steps * seconds / 60


def training_table(_: Plan) -> str:
    """A line a method, a column a data set; all of them have the step of the first."""
    lines: list[Sequence[str]] = []
    for method in methods():
        recipes = {dataset: load_config(f"{method}/{dataset}") for dataset in CLIPS}
        time = step_time(recipes["ntu60"])
        times = (f"{minutes(time.seconds, CLIPS[dataset], of):.0f} min" for dataset, of in recipes.items())
        lines.append((f"`{method}`", f"{time.calls:,}", f"{1e3 * time.seconds:.0f} ms", *times))
    sets = (f"`{dataset}`, {clips:,} clips" for dataset, clips in CLIPS.items())
    return table(("at least", "calls a step", "a step", *sets), lines)
