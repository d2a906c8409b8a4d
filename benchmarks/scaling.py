"""What a step, a card, a store and a save come to at many GPUs and many clips: the tables of docs/scaling.md.

    python -m benchmarks.scaling                                  all tables, for 64 GPUs and 10 million clips
    python -m benchmarks.scaling --table thresholds --step-ms 35 --link-gbit 200 --latency-us 8
    python -m benchmarks.scaling --table memory --batch 32768 --micro-batch 512 --card-gb 141
    python -m benchmarks.scaling --write                          into the document; half a minute on one core

Sizes are not typed in. The code of the training step itself runs, forward and backward, on tensors that have a shape
and no memory; what it would hold, save and send is counted on the way. Times follow from these by a model of the
network and by assumptions that are arguments. Nothing here is measured but the table `host`, on this machine's CPU.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
import time
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.memory import peak
from benchmarks.results import HERE, device_name
from benchmarks.table import markdown
from mica.data.dataset import MOST_PERSONS
from mica.data.sampler import GlobalBatchSampler
from mica.data.splits import VALIDATION_SHARE
from mica.data.store import Clip, Store, StoreInfo, write
from mica.evaluation.neighbours import nearest
from mica.models.heads import HeadConfig
from mica.models.mica import MICA
from mica.models.stgcn import STGCN, EncoderConfig
from mica.objectives import ObjectiveConfig, Objectives
from mica.skeleton import get_layout
from mica.training.config import EngineConfig, OptimizerConfig, PretrainConfig
from mica.training.momentum import KeyQueue, MomentumEncoder
from mica.training.optimizer import make_optimizer
from mica.training.parts import choose_parts
from mica.training.phases import Phases
from mica.training.state import KEPT
from mica.training.step import Around, Pretraining
from mica.transforms.augment import VIEWS, augment
from mica.transforms.draws import Draws
from mica.transforms.sampling import Preprocessing
from mica_kernels import distributed
from mica_kernels.backend import Choice
from mica_kernels.contrastive.configs import BLOCK

DOCUMENT = HERE.parent / "docs" / "scaling.md"
MARKED = re.compile(r"(<!-- scaling: (?P<name>[\w-]+) -->\n).*?(<!-- end of scaling -->)", re.DOTALL)

LAYOUT, FRAMES = get_layout("ntu-25"), Preprocessing().num_frames
CLASSES, WORDINGS, TEXT_WIDTH = 60, 8, 384  # NTU RGB+D 60; the text encoder "minilm"
PRESETS = ("stgcn", "stgcn-64")
FLOAT = 4
WORLDS = tuple(2**i for i in range(11))

FRAGMENTS, CONTEXT = 0.2, 2e9
"""Allowances on a card: the allocator's lost share, and bytes of the CUDA context and of libraries' workspaces."""


def _option(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Plan:
    """What is assumed; each entry is an option of the command."""

    gpus: int = _option(64, "GPUs, a process each")
    machine: int = _option(8, "GPUs of one machine, which share its memory and its disk")
    clips: int = _option(10_000_000, "clips of the store")
    batch: int = _option(16_384, "clips a step, of all GPUs together")
    micro_batch: int = _option(256, "clips that go through the encoder at a time on one GPU")
    step_ms: tuple[float, ...] = _option(
        (20.0, 50.0, 100.0),
        "milliseconds that a GPU is busy with one micro-batch, all its passes; an assumption: none was measured",
    )
    link_gbit: tuple[float, ...] = _option(
        (400.0, 100.0), "what a GPU sends to another machine, Gbit/s; an assumption"
    )
    latency_us: float = _option(
        5.0, "microseconds from one GPU to the next, however little is sent; an assumption"
    )
    card_gb: float = _option(80.0, "memory of a card, 10^9 bytes")
    host_gb: float = _option(1000.0, "memory of a machine, 10^9 bytes; an assumption")
    process_gflops: float = _option(
        1000.0, "what the cores of one process multiply, 10^9 operations a second; an assumption"
    )
    frames: float = _option(80.0, "mean frames of a clip in the store")
    persons: float = _option(1.2, "mean persons of a clip in the store")
    shard_gb: float = _option(4.0, "size of a file, were the store in shards, 10^9 bytes")
    disk_mb: float = _option(200.0, "what the disk of the run directory takes, 10^6 bytes a second")


# Counting: the real code on tensors without memory.


@contextmanager
def traced() -> Iterator[None]:
    """Tensors made inside have no memory, and code takes the ways that it takes on a GPU with Triton."""
    kernel = Choice("triton", "as on a GPU")
    with ExitStack() as stack:
        for operators in ("contrastive", "spectral"):
            stack.enter_context(patch(f"mica_kernels.{operators}.op.choose", lambda *_, **__: kernel))
        stack.enter_context(patch("mica.models.stgcn.WIDE", math.inf))  # a layout for CPUs
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


class Live(TorchDispatchMode):
    """Bytes of the tensors that were made since, of those still in use (`now`) and at most at a time (`most`).

    What an operator needs only while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._sizes:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._sizes[storage._cdata] = storage.nbytes()
        weakref.finalize(storage, self._forget, storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)

    def _forget(self, storage: int) -> None:
        self.now -= self._sizes.pop(storage)


def saved_bytes(work: Callable[[], Any], own: Sequence[Tensor] = ()) -> int:
    """Bytes that autograd saves for the backward pass of the work, those of `own` tensors left out."""
    storages = {tensor.untyped_storage()._cdata: 0 for tensor in own}
    kept = []  # so that no storage takes the place of another

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        storages.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _result = work()
    return sum(storages.values())


def build(preset: str) -> Pretraining:
    """Encoder, heads and losses as a run of default settings has them."""
    encoder = STGCN(LAYOUT, num_frames=FRAMES, **asdict(EncoderConfig(preset)))
    model = MICA(encoder, HeadConfig(), TEXT_WIDTH)
    return Pretraining(
        model, make_objectives(ObjectiveConfig()), torch.bfloat16, Phases(torch.device("cpu"))
    )


def make_objectives(config: ObjectiveConfig) -> Objectives:
    return Objectives(config, torch.zeros(CLASSES, WORDINGS, TEXT_WIDTH))


def views_of(clips: int) -> Tensor:
    return torch.zeros(2, clips, 3, FRAMES, LAYOUT.num_joints, MOST_PERSONS)


# Memory of a step on one card.


@dataclass(frozen=True)
class Line:
    """Bytes that grow evenly with a number of clips."""

    fixed: float
    each: float

    @classmethod
    def through(cls, measure: Callable[[int], int], few: int, many: int) -> Line:
        low, high = measure(few), measure(many)
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
        """At most: while views are made, in the losses on top of the last part's pass, or on the way back through it."""
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
    """The parts of it, each counted on its own."""
    with traced():
        trained = build(preset)
        own = [*trained.parameters(), *trained.buffers()]
        learned = sum(FLOAT * parameter.numel() for parameter in trained.parameters())
        return Memory(
            weights=sum(tensor.untyped_storage().nbytes() for tensor in own) + 3 * learned,
            clips=views_of(batch)[0].numel() * FLOAT,
            augmenting=_augmenting(batch),
            features=FLOAT * 2 * batch * trained.model.num_features,
            losses=_losses(trained, batch),
            saved=Line.through(lambda n: saved_bytes(lambda: trained.encode(views_of(n)), own), 64, 128),
            encoding=Line.through(lambda n: _encoding(trained, n), 64, 128),
        )


def _augmenting(clips: int) -> int:
    """Of AimCLR's strong views, beyond the batch."""
    x, draws = views_of(clips)[0], Draws(0, 0, range(clips))
    with Live() as live:
        torch.stack([augment(x, VIEWS["strong"], LAYOUT, draws) for _ in range(2)])
    return live.most


def _losses(trained: Pretraining, clips: int) -> int:
    """Beyond the features of the last part's batch; the block of gradients in `info_nce` is not seen, and added."""
    features = torch.zeros(2, clips, trained.model.num_features, requires_grad=True)
    around = Around(torch.zeros(clips).long(), Draws(0, 0, range(clips)))
    trained.zero_grad()
    with Live() as live:
        joined = torch.cat([features[:, : clips // 2], features[:, clips // 2 :]], dim=1)
        trained.losses(joined, around)["loss"].backward()
        del joined
    trained.zero_grad()
    return live.most + FLOAT * BLOCK


def _encoding(trained: Pretraining, clips: int) -> int:
    views = views_of(clips)
    trained.zero_grad()
    with Live() as live:
        trained.encode(views).sum().backward()
    trained.zero_grad()
    return live.most


def largest_micro_batch(memory: Memory, plan: Plan) -> int:
    """The largest divisor of the batch with which a step fits on a card; 0 where none does."""
    divisors = [n for n in range(1, plan.batch + 1) if plan.batch % n == 0]
    return max((n for n in divisors if memory.on_card(n) <= 1e9 * plan.card_gb), default=0)


def memory_table(plan: Plan) -> str:
    """A column a preset."""
    found = [memory_of(preset, plan.batch) for preset in PRESETS]
    largest = [largest_micro_batch(memory, plan) for memory in found]
    micro, batch = plan.micro_batch, plan.batch

    def each(figure: Callable[[Memory], float]) -> list[str]:
        return [_gigabytes(figure(memory)) for memory in found]

    lines = [
        ["parameters, buffers, gradients, moments", *each(lambda of: of.weights)],
        ["the batch and its two views", *each(lambda of: 3 * of.clips)],
        ["most while views are made, beyond the batch", *each(lambda of: of.augmenting)],
        ["features of both views", *each(lambda of: of.features)],
        ["heads and losses at most, beyond the features", *each(lambda of: of.losses)],
        [f"encoder, saved for backward, {micro} clips", *each(lambda of: of.saved(micro))],
        [f"encoder at most, forward and backward, {micro} clips", *each(lambda of: of.encoding(micro))],
        [f"**a step at most, micro-batch {micro}**", *each(lambda of: of.step(micro))],
        [f"with {FRAGMENTS:.0%} and {CONTEXT / 1e9:.0f} GB of allowances", *each(lambda of: of.on_card(micro))],
        [f"**the largest micro-batch within {plan.card_gb:.0f} GB**", *(f"{n:,}" if n else "none" for n in largest)],
        ["with it and the allowances", *(_gigabytes(m.on_card(n)) for m, n in zip(found, largest, strict=True))],
        ["without micro-batches, and the allowances", *each(lambda of: of.on_card(batch))],
    ]  # fmt: skip
    return _table((f"a batch of {batch:,} clips on one card", *(f"`{preset}`" for preset in PRESETS)), lines)


# What a step sends.


@dataclass(frozen=True)
class Collective:
    """A call of torch.distributed: "all_reduce", "all_gather", "reduce_scatter" or "all_to_all", and its bytes.

    size: of the tensor that is reduced, or of all parts together.
    """

    kind: str
    size: int

    def sent(self, world: int) -> float:
        """Bytes that a rank sends, by a ring."""
        return (2 if self.kind == "all_reduce" else 1) * (world - 1) / world * self.size

    def seconds(self, world: int, gbit: float, latency: float, tree: bool = False) -> float:
        """Messages that wait for each other cost a latency each: of all ranks in turn, or by doubling."""
        hops = math.ceil(math.log2(world)) if tree else world - 1
        return (2 if self.kind == "all_reduce" else 1) * hops * latency + self.sent(world) * 8 / (gbit * 1e9)


class Recorder:
    """Stands in for torch.distributed: a rank of `world` whose calls are written down and go nowhere."""

    def __init__(self, world: int) -> None:
        self.world, self.found = world, Counter[Collective]()

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def get_world_size(self, group: Any = None) -> int:
        return self.world

    def get_rank(self, group: Any = None) -> int:
        return 0

    def all_reduce(self, tensor: Tensor, group: Any = None) -> None:
        self._note("all_reduce", tensor.nbytes)

    def all_gather(self, parts: Sequence[Tensor], tensor: Tensor, group: Any = None) -> None:
        self._note("all_gather", tensor.nbytes * self.world)

    def reduce_scatter(self, part: Tensor, parts: Sequence[Tensor], group: Any = None) -> None:
        self._note("reduce_scatter", part.nbytes * self.world)

    def all_to_all_single(self, received: Tensor, parts: Tensor, group: Any = None) -> None:
        self._note("all_to_all", parts.nbytes)

    def _note(self, kind: str, size: int) -> None:
        self.found[Collective(kind, size)] += 1


TERMS = {
    "modulation": "mean of `modulation`",
    "inter": "texts, labels and column statistics of `inter`",
    "intra": "moments and correlations of `intra`",
}


@cache
def of_losses(term: str, share: int, world: int) -> Counter[Collective]:
    """What one forward and backward pass of a term sends, with `share` clips on each of `world` ranks."""
    weights = {name: float(name == term) for name in TERMS}
    width = HeadConfig().projection
    recorder = Recorder(world)
    with traced(), patch.object(distributed, "dist", recorder):
        objectives = make_objectives(ObjectiveConfig(**weights))
        views = torch.zeros(2, share, width, requires_grad=True)
        skeleton = torch.zeros(2 * share, TEXT_WIDTH, requires_grad=True)
        labels = torch.zeros(2 * share).long()
        objectives(*views, skeleton, labels, Draws(0, 0, range(share)))["loss"].backward()
    return recorder.found


@cache
def norms_of(preset: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels of the batch norms of the encoder, and of the heads."""
    model = build(preset).model
    inside = tuple(m.num_features for m in model.encoder.modules() if isinstance(m, _BatchNorm))
    heads = tuple(m.num_features for m in (*model.projector, *model.semantic) if isinstance(m, _BatchNorm))
    return inside, heads


@cache
def gradient_bytes(preset: str) -> int:
    return sum(FLOAT * p.numel() for p in build(preset).parameters() if p.requires_grad)


def collectives(
    preset: str, share: int, parts: int, world: int, sync_norm: bool = True
) -> dict[str, Counter]:
    """What a step sends, by what it is for.

    Of several parts each goes through the encoder once without and once with a backward pass, and heads and losses see
    the batch twice, both times with one. A batch norm gathers mean, deviation and count, and sums up two numbers a
    channel on the way back, as torch.nn.SyncBatchNorm does. The gradient is summed up once, as if in one piece.
    """
    twice = 2 if parts > 1 else 1
    inside, heads = norms_of(preset)
    forward, backward = Counter[Collective](), Counter[Collective]()
    for channels, there, back in [
        *((c, twice * parts, parts) for c in inside),
        *((c, twice, twice) for c in heads),
    ]:
        forward[Collective("all_gather", FLOAT * (2 * channels + 1) * world)] += there
        backward[Collective("all_reduce", FLOAT * 2 * channels)] += back
    sent = {"gradients": Counter({Collective("all_reduce", gradient_bytes(preset)): 1})}
    if sync_norm:
        sent |= {"batch norms, forward": forward, "batch norms, backward": backward}
    for term, name in TERMS.items():
        once = of_losses(term, share, world)
        sent[name] = Counter({call: twice * count for call, count in once.items()})
    return sent | {"whether to stop": Counter({Collective("all_reduce", FLOAT): 1})}


def seconds_of(calls: Counter[Collective], world: int, gbit: float, plan: Plan, tree: bool = False) -> float:
    latency = plan.latency_us / 1e6
    return sum(count * call.seconds(world, gbit, latency, tree) for call, count in calls.items())


def shared_out(plan: Plan, world: int, fixed_share: bool) -> tuple[int, int]:
    """Clips a GPU, and the parts in which they go through its encoder."""
    share = max(1, plan.batch // (plan.gpus if fixed_share else world))
    return share, math.ceil(share / min(plan.micro_batch, share))


def computing(plan: Plan, share: int, step_ms: float) -> float:
    """Seconds of a step without what is sent: in proportion to the clips."""
    return share / plan.micro_batch * step_ms / 1e3


def sending(plan: Plan, world: int, gbit: float, fixed_share: bool, tree: bool, sync_norm: bool) -> float:
    """Seconds of a step in which something is sent, none of it at the same time as something else."""
    calls = collectives(PRESETS[0], *shared_out(plan, world, fixed_share), world, sync_norm)
    return sum(seconds_of(each, world, gbit, plan, tree) for each in calls.values())


def communication_table(plan: Plan) -> str:
    """A line for each thing that is sent at `plan.gpus`."""
    share, parts = shared_out(plan, plan.gpus, fixed_share=False)
    sent = collectives(PRESETS[0], share, parts, plan.gpus)
    sent["**all**"] = sum(sent.values(), Counter[Collective]())
    ways = [(gbit, tree) for tree in (False, True) for gbit in plan.link_gbit]
    heads = [f"{'doubling' if tree else 'ring'}, {gbit:g} Gbit/s, ms" for gbit, tree in ways]
    lines = []
    for name, calls in sent.items():
        megabytes = sum(count * call.sent(plan.gpus) for call, count in calls.items()) / 1e6
        times = (f"{1e3 * seconds_of(calls, plan.gpus, gbit, plan, tree):.2f}" for gbit, tree in ways)
        lines.append([name, str(calls.total()), f"{megabytes:.3f}", *times])
    what = f"{plan.gpus} GPUs, {share:,} clips each in {parts} part{'s' * (parts > 1)}, `{PRESETS[0]}`"
    return _table((what, "calls", "sent a rank, MB", *heads), lines)


def worlds_table(plan: Plan) -> str:
    """A line for each number of GPUs, at the first link and the middle step time."""
    gbit, step_ms = plan.link_gbit[0], sorted(plan.step_ms)[len(plan.step_ms) // 2]
    lines = []
    for fixed_share in (False, True):
        for world in WORLDS:
            share, parts = shared_out(plan, world, fixed_share)
            busy = computing(plan, share, step_ms)
            ways = ((False, True), (True, True), (False, False))
            times = [sending(plan, world, gbit, fixed_share, tree, norm) for tree, norm in ways]
            batch = f"{share * world:,}"
            cells = (f"{1e3 * each:.1f} ({each / (busy + each):.0%})" for each in times)
            lines.append([f"{world:,}", batch, f"{share:,}", str(parts), f"{1e3 * busy:,.1f}", *cells])
    heads = ("GPUs", "batch", "clips a GPU", "parts", "computing, ms")
    return _table((*heads, "sending, ring, ms", "by doubling, ms", "ring, sync_norm off, ms"), lines)


def thresholds_table(plan: Plan) -> str:
    """At how many GPUs sending takes a tenth, and half, of a step."""
    cases = [(step_ms, gbit) for step_ms in plan.step_ms for gbit in plan.link_gbit]
    lines = []
    for fixed_share, batch in (
        (False, f"batch of {plan.batch:,}"),
        (True, f"{plan.batch // plan.gpus} clips a GPU"),
    ):
        for tree, sync_norm, way in ((False, True, "ring"), (True, True, "doubling"), (False, False, "ring, sync_norm off")):  # fmt: skip
            cells = []
            for step_ms, gbit in cases:
                shares = {}
                for world in WORLDS:
                    busy = computing(plan, shared_out(plan, world, fixed_share)[0], step_ms)
                    sent = sending(plan, world, gbit, fixed_share, tree, sync_norm)
                    shares[world] = sent / (busy + sent)
                cells.append(" / ".join(_first_above(shares, limit) for limit in (0.1, 0.5)))
            lines.append([f"{batch}, {way}", *cells])
    return _table(("", *(f"{step_ms:g} ms, {gbit:g} Gbit/s" for step_ms, gbit in cases)), lines)


def _first_above(shares: dict[int, float], limit: float) -> str:
    return next((f"{world:,}" for world, share in shares.items() if share > limit), "-")


# The store, and what a save leaves.


def clip_bytes(plan: Plan) -> float:
    """Coordinates of a clip in the store."""
    return plan.frames * plan.persons * LAYOUT.num_joints * 3 * FLOAT


@contextmanager
def store_of(clips: int, text: str = "") -> Iterator[Store]:
    """A store of clips of one frame, with names as long as those of NTU RGB+D."""
    info = StoreInfo("many", LAYOUT.name, tuple(f"class {label}" for label in range(CLASSES)), 30.0)
    frame = np.ones((1, 1, LAYOUT.num_joints, 3), np.float32)
    made = (Clip(f"S{i:019}", frame, i % CLASSES, subject=1 + i % 100, text=text) for i in range(clips))
    with tempfile.TemporaryDirectory() as folder:
        yield Store.open(write(Path(folder, "store.arrow"), made, info).path)


@cache
def column_bytes(text: str = "", clips: int = 2000) -> float:
    """Bytes a clip of the arrays that an open store holds in memory."""
    with store_of(clips, text) as store:
        return sum(value.nbytes for value in vars(store).values() if isinstance(value, np.ndarray)) / clips


@cache
def feature_bytes() -> int:
    return FLOAT * build(PRESETS[0]).model.num_features


CAPTION = 200
"""Characters of the longest text in a store with texts; NumPy gives every clip room for as many."""


def data_table(plan: Plan) -> str:
    """What the clips take, and how fast they have to come."""
    store = plan.clips * clip_bytes(plan)
    gallery = plan.clips * (1 - VALIDATION_SHARE) * feature_bytes()
    steps = plan.clips // plan.batch
    lines = [
        ["coordinates in the store", f"{_gigabytes(store)}, {clip_bytes(plan) / 1e3:.1f} KB a clip"],
        [f"files of {plan.shard_gb:g} GB, were it in shards", f"{math.ceil(store / plan.shard_gb / 1e9):,}"],
    ]
    for words, text in (("", ""), (f", longest text {CAPTION} characters", "x" * CAPTION)):
        each = column_bytes(text)
        both = f"{_gigabytes(plan.clips * each)}, {_gigabytes(plan.machine * plan.clips * each)}"
        lines.append(
            [f"columns in a process, in {plan.machine} processes{words}", f"{both}; {each:.0f} B a clip"]
        )
    lines.append(
        ["running kNN: features of the clips to fit, on every GPU and in every process", _gigabytes(gallery)]
    )
    for step_ms in plan.step_ms:
        share = plan.micro_batch / (step_ms / 1e3)
        rates = (f"{count * share * clip_bytes(plan) / 1e6:,.0f} MB/s" for count in (1, plan.machine))
        hours = steps * computing(plan, plan.batch // plan.gpus, step_ms) / 3600
        what = f"{' a GPU, '.join(rates)} and {plan.machine * share:,.0f} clips/s a machine; an epoch {hours:.2f} h"
        lines.append([f"reading at {step_ms:g} ms for {plan.micro_batch} clips a GPU", what])
    return _table((f"{plan.clips:,} clips, {steps:,} steps an epoch", "computed"), lines)


QUEUE = 32_768


@cache
def state_bytes(preset: str, momentum: bool) -> int:
    """Tensors of what a save writes: see `Trainer.state_dict`."""
    trained = build(preset)
    optimizer = make_optimizer(trained, OptimizerConfig())
    for parameter in trained.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state: list[Any] = [trained.state_dict(), optimizer.state_dict()]
    if momentum:
        queue = KeyQueue(QUEUE, HeadConfig().projection)
        state += [MomentumEncoder(trained.model, 0.999).state_dict(), queue.state_dict()]
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, Tensor))


def saving_table(plan: Plan) -> str:
    """A line a state."""
    interval, lines = 60 * EngineConfig().save_minutes, []
    for preset in PRESETS:
        for momentum in (False, True):
            size = state_bytes(preset, momentum)
            seconds = size / plan.disk_mb / 1e6
            name = f"`{preset}`" + (f", momentum encoder, queue of {QUEUE:,}" if momentum else "")
            room = f"{(KEPT + 1) * size / 1e6:,.0f} MB"
            lines.append(
                [name, f"{size / 1e6:,.1f} MB", f"{seconds:.2f} s", f"{seconds / interval:.2%}", room]
            )
    heads = ("state", "tensors", f"at {plan.disk_mb:g} MB/s", f"of {interval / 60:g} minutes")
    return _table((*heads, f"room for {KEPT}, and the next"), lines)


# What breaks first.


def limits(plan: Plan) -> list[tuple[str, str, float, float]]:
    """What breaks, of what, at how many of it, and how many the plan has."""
    fastest, link = min(plan.step_ms), plan.link_gbit[0]

    def gpus(limit: float, tree: bool, sync_norm: bool) -> float:
        for world in WORLDS:
            busy = computing(plan, shared_out(plan, world, False)[0], fastest)
            sent = sending(plan, world, link, False, tree, sync_norm)
            if sent / (busy + sent) > limit:
                return world
        return math.inf

    fit, validation = 1 - VALIDATION_SHARE, VALIDATION_SHARE
    products = 2 * fit * validation * feature_bytes() / FLOAT
    card, host = 1e9 * plan.card_gb, 1e9 * plan.host_gb
    setting = f"of a step at {fastest:g} ms, {link:g} Gbit/s"
    by_clips = {
        "the running kNN compares for more than an hour": math.sqrt(3600e9 * plan.process_gflops / products),
        "features for the running kNN fill a card": card / fit / feature_bytes(),
        f"features for the running kNN fill a machine's {plan.host_gb:g} GB": host / plan.machine / feature_bytes(),
        f"the store is larger than a machine's {plan.host_gb:g} GB": host / clip_bytes(plan),
        f"columns, longest text {CAPTION} characters, fill a machine": host / plan.machine / column_bytes("x" * CAPTION),
        "columns without texts fill a machine": host / plan.machine / column_bytes(),
        "positions pass 32 bits": 2.0**31,
    }  # fmt: skip
    by_gpus = {
        f"sending by a ring is a tenth {setting}": gpus(0.1, False, True),
        f"sending by a ring is half {setting}": gpus(0.5, False, True),
        f"sending by doubling is half {setting}": gpus(0.5, True, True),
        f"sending by a ring, sync_norm off, is half {setting}": gpus(0.5, False, False),
        "a GPU has fewer than two clips of the batch": plan.batch / 2 + 1,
    }
    rows = [(what, "clips", at, float(plan.clips)) for what, at in by_clips.items()]
    rows += [(what, "GPUs", at, float(plan.gpus)) for what, at in by_gpus.items()]
    return sorted(rows, key=lambda row: row[2] / row[3])


def breaks_table(plan: Plan) -> str:
    """The first first: by how much of the plan there is when it breaks."""
    lines = []
    for what, unit, at, planned in limits(plan):
        where = "-" if math.isinf(at) else f"{_rounded(at)} {unit}"
        lines.append([what, where, f"{at / planned:.2f}" if math.isfinite(at) else "-"])
    return _table(("what", "from", f"of {plan.clips:,} clips, {plan.gpus} GPUs"), lines)


def _rounded(count: float) -> str:
    return f"{count:,.0f}" if count < 1e5 else f"{count / 1e6:,.1f} million"


# Measured on this machine.


def host_table(plan: Plan, few: int = 20_000) -> str:
    """What each process does on its cores; of few clips, and what that comes to for all in proportion."""
    with store_of(few) as store:
        opened, opened_bytes = _timed(lambda: Store.open(store.path))
        chosen, _ = _timed(lambda: choose_parts(PretrainConfig(), store))
        parts = choose_parts(PretrainConfig(), store)
        known, known_bytes = _timed(parts.fingerprint)
    times, read = plan.clips / few, len(parts.pretrain)
    order = GlobalBatchSampler(plan.clips, plan.batch, seed=0)
    started = time.perf_counter()
    order_bytes = peak(lambda: next(iter(order)))
    ordered = time.perf_counter() - started
    rate = _matching_rate()
    fit, validation = plan.clips * (1 - VALIDATION_SHARE), plan.clips * VALIDATION_SHARE
    hours = 2 * fit * validation * feature_bytes() / FLOAT / rate / 3600
    lines = [
        [f"open a store of {few:,} clips", f"{1e3 * opened:.1f} ms, {opened_bytes / few:.0f} B a clip at most",
         f"{times * opened:.1f} s, {_gigabytes(times * opened_bytes)}"],
        ["choose the clips to train on", f"{1e3 * chosen:.1f} ms", f"{times * chosen:.1f} s"],
        [f"their fingerprint, at each save, of {read:,}", f"{1e3 * known:.1f} ms, {known_bytes / read:.0f} B a clip at most",
         f"{plan.clips / read * known:.1f} s, {_gigabytes(plan.clips / read * known_bytes)}"],
        [f"the order of an epoch of {plan.clips:,}", f"{ordered:.1f} s, {order_bytes / 1e6:,.0f} MB", "the same"],
        ["nearest neighbours of the running kNN", f"{rate / 1e9:.0f} Gflop/s", f"{hours:,.0f} h each time"],
    ]  # fmt: skip
    where = (
        f"**{device_name(torch.device('cpu'))}**, {torch.get_num_threads()} threads, PyTorch {_version()}."
    )
    return f"{where}\n\n{_table(('what', 'measured', f'for {plan.clips:,} clips'), lines)}"


def _timed(work: Callable[[], Any], runs: int = 3) -> tuple[float, int]:
    """Seconds of the fastest run, and the most bytes that Python and NumPy had beyond those before it."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(times), most


def _matching_rate(queries: int = 2048, gallery: int = 8192) -> float:
    """Operations a second of `nearest`, two for each number that is compared."""
    width = feature_bytes() // FLOAT
    asked, among = torch.randn(queries, width), torch.randn(gallery, width)
    seconds, _ = _timed(lambda: nearest(asked, among, 1), runs=2)
    return 2 * queries * gallery * width / seconds


# The command.


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown(heads, lines))


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size < 1e11 else f"{size / 1e9:,.0f} GB"


def _version() -> str:
    return torch.__version__.partition("+")[0]


TABLES: dict[str, Callable[[Plan], str]] = {
    "communication": communication_table,
    "worlds": worlds_table,
    "thresholds": thresholds_table,
    "memory": memory_table,
    "data": data_table,
    "saving": saving_table,
    "breaks": breaks_table,
    "host": host_table,
}
MEASURED = ("host",)
"""Tables of times, which come out otherwise on another machine."""


def filled(text: str, plan: Plan, names: Sequence[str] = tuple(TABLES)) -> str:
    """A document with these tables; others stay as they are. Raises ValueError for a table that there is not."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"there is no table {name}; there are {', '.join(TABLES)}")
        return f"{match[1]}\n{TABLES[name](plan)}\n\n{match[3]}" if name in names else match[0]

    return MARKED.sub(table, text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for entry in fields(Plan):
        several = isinstance(entry.default, tuple)
        made.add_argument(
            f"--{entry.name.replace('_', '-')}",
            type=float if several else type(entry.default),
            nargs="+" if several else None,
            default=entry.default,
            help=f"{entry.metadata['about']}; by default {_words(entry.default)}",
        )
    made.add_argument("--table", choices=TABLES, nargs="+", default=list(TABLES), help="these alone")
    made.add_argument(
        "--write",
        action="store_true",
        help="put the tables into docs/scaling.md, which has those of the defaults",
    )
    return made


def _words(default: Any) -> str:
    return " ".join(f"{each:g}" for each in default) if isinstance(default, tuple) else f"{default:,}"


def main(arguments: Sequence[str] | None = None) -> None:
    parsed = vars(parser().parse_args(arguments))
    chosen, to_write = parsed.pop("table"), parsed.pop("write")
    plan = Plan(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in parsed.items()}
    )
    if to_write:
        if plan != Plan():
            parser().error("--write is for the defaults: the document says nothing of other assumptions")
        DOCUMENT.write_text(filled(DOCUMENT.read_text(), plan, chosen))
    else:
        print("\n\n".join(f"### {name}\n\n{TABLES[name](plan)}" for name in chosen))


if __name__ == "__main__":
    main()
