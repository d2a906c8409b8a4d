"""What a step, a card, a store and a save come to at many GPUs and many clips: the tables of docs/scaling.md.

    python -m benchmarks.scaling                                  all tables, for 64 GPUs and 10 million clips
    python -m benchmarks.scaling --table thresholds --step-ms 35 --link-gbit 200 --latency-us 8
    python -m benchmarks.scaling --table memory --batch 32768 --micro-batch 512 --card-gb 141
    python -m benchmarks.scaling --write                          into the document; a minute on two cores

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
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, partial
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
from benchmarks.results import HERE
from benchmarks.table import markdown
from mica.data.dataset import MOST_PERSONS, SkeletonDataset
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
from mica.training.environment import device_name
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
CLASSES, WORDINGS, TEXT_WIDTH = 60, 8, 384  # NTU RGB+D 60, and the text encoder "minilm"
PRESETS = ("stgcn", "stgcn-64")
WORLDS = tuple(2**i for i in range(11))
FLOAT = 4

FRAGMENTS, CONTEXT = 0.2, 2e9
"""Allowances on a card: what the allocator loses, and bytes of the CUDA context and of libraries' workspaces."""

CAPTION = 200
"""Characters of the longest text in a store with texts; NumPy gives every clip room for as many."""

QUEUE = 32_768


def _option(default: Any, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Plan:
    """What is assumed; each entry is an option of the command."""

    gpus: int = _option(64, "GPUs, a process each")
    machine: int = _option(8, "GPUs of one machine, whose processes share its memory and its disk")
    clips: int = _option(10_000_000, "clips of the store")
    batch: int = _option(16_384, "clips a step, of all GPUs together")
    micro_batch: int = _option(256, "clips that go through the encoder at a time on one GPU")
    step_ms: tuple[float, ...] = _option(
        (20.0, 50.0, 100.0),
        "milliseconds that a GPU is busy with one micro-batch, all its passes; an assumption",
    )
    link_gbit: tuple[float, ...] = _option((400.0, 100.0), "what a GPU sends, Gbit/s; an assumption")
    latency_us: float = _option(5.0, "microseconds of a message between two GPUs; an assumption")
    card_gb: float = _option(80.0, "memory of a card, 10^9 bytes")
    host_gb: float = _option(1000.0, "memory of a machine, 10^9 bytes; an assumption")
    host_gflops: float = _option(1000.0, "10^9 operations a second of a process's cores; an assumption")
    frames: float = _option(80.0, "mean frames of a clip in the store")
    persons: float = _option(1.2, "mean persons of a clip in the store")
    shard_gb: float = _option(4.0, "size of a file, were the store in shards, 10^9 bytes")
    disk_mb: float = _option(200.0, "what the run directory's disk takes, 10^6 bytes a second; an assumption")


# Counting: the real code on tensors without memory.


@contextmanager
def as_on_a_gpu(kernels: bool = True) -> Iterator[None]:
    """Code takes the ways that it takes on a GPU with Triton.

    kernels: operators are taken to have some, for the device that the tensors are on; else they compute by their
    references, and save what they save beside kernels.
    """
    choice = Choice("triton", "as on a GPU")
    with ExitStack() as stack:
        for operators in ("contrastive", "spectral"):
            stack.enter_context(patch(f"mica_kernels.{operators}.op.choose", lambda *_, **__: choice))
        stack.enter_context(patch("mica_kernels.device.runs_kernels", lambda _: kernels))
        stack.enter_context(patch("mica.models.stgcn.WIDE", math.inf))  # a layout for CPUs
        yield


@contextmanager
def traced() -> Iterator[None]:
    """Tensors made inside have no memory, and nothing is computed."""
    with as_on_a_gpu(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


class Live(TorchDispatchMode):
    """Bytes of the tensors made since that are in use (`now`), and at most at a time (`most`).

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
    kept = {tensor.untyped_storage()._cdata: (tensor, 0) for tensor in own}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(
            storage._cdata, (tensor, storage.nbytes())
        )  # the tensor: or another may take its place
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(size for _, size in kept.values())


def build(preset: str) -> Pretraining:
    """Encoder, heads and losses as a run of default settings has them."""
    encoder = STGCN(LAYOUT, num_frames=FRAMES, **asdict(EncoderConfig(preset)))
    model = MICA(encoder, HeadConfig(), TEXT_WIDTH)
    return Pretraining(model, losses_of(ObjectiveConfig()), torch.bfloat16, Phases(torch.device("cpu")))


def losses_of(config: ObjectiveConfig) -> Objectives:
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
            encoding=Line.through(partial(_encoding, trained), 64, 128),
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


def _encoding(trained: Pretraining, clips: int) -> int:
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
    lines = [[what, *(_gigabytes(figure(memory)) for memory in found)] for what, figure in figures.items()]
    best = [
        f"{n:,}: {_gigabytes(m.on_card(n))}" if n else "none" for m, n in zip(found, largest, strict=True)
    ]
    lines.append([f"**the largest micro-batch within {plan.card_gb:g} GB**, {allowances}", *best])
    return _table((f"a batch of {batch:,} clips on one card", *(f"`{preset}`" for preset in PRESETS)), lines)


# What a step sends.


@dataclass(frozen=True)
class Collective:
    """A call of torch.distributed: "all_reduce", "all_gather", "reduce_scatter" or "all_to_all", and its bytes.

    size: of the tensor that is reduced, or of all parts together.
    """

    kind: str
    size: int

    @property
    def turns(self) -> int:
        """A sum is scattered first, then gathered."""
        return 2 if self.kind == "all_reduce" else 1

    def sent(self, world: int) -> float:
        """Bytes that a rank sends."""
        return self.turns * (world - 1) / world * self.size

    def seconds(self, world: int, gbit: float, latency: float, doubling: bool = False) -> float:
        """Messages that wait for one another, around a ring or between ever larger groups, then the bytes."""
        messages = math.ceil(math.log2(world)) if doubling else world - 1
        return self.turns * messages * latency + self.sent(world) * 8 / (gbit * 1e9)


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
        self.found[Collective("all_reduce", tensor.nbytes)] += 1

    def all_gather(self, parts: Sequence[Tensor], tensor: Tensor, group: Any = None) -> None:
        self.found[Collective("all_gather", tensor.nbytes * self.world)] += 1

    def reduce_scatter(self, part: Tensor, parts: Sequence[Tensor], group: Any = None) -> None:
        self.found[Collective("reduce_scatter", part.nbytes * self.world)] += 1

    def all_to_all_single(self, received: Tensor, parts: Tensor, group: Any = None) -> None:
        self.found[Collective("all_to_all", parts.nbytes)] += 1


TERMS = {
    "modulation": "`modulation`: its mean",
    "inter": "`inter`: texts, labels, column statistics",
    "intra": "`intra`: moments and correlations",
}


@cache
def of_term(term: str, share: int, world: int) -> Counter[Collective]:
    """What one forward and backward pass of a term sends, with `share` clips on each of `world` ranks."""
    recorder = Recorder(world)
    # Without memory, too; of the many parts that a gather is cut into, it makes less than FakeTensorMode.
    with as_on_a_gpu(), torch.device("meta"), patch.object(distributed, "dist", recorder):
        objectives = losses_of(ObjectiveConfig(**{name: float(name == term) for name in TERMS}))
        views = torch.zeros(2, share, HeadConfig().projection, requires_grad=True)
        skeleton = torch.zeros(2 * share, TEXT_WIDTH, requires_grad=True)
        labels = torch.zeros(2 * share).long()
        draws = Draws(0, 0, range(share), "meta")
        objectives(*views, skeleton, labels, draws)["loss"].backward()
    return recorder.found


@cache
def learned_bytes(preset: str) -> int:
    return sum(FLOAT * p.numel() for p in build(preset).parameters() if p.requires_grad)


@cache
def norms_of(preset: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels of the batch norms of the encoder, and of the heads."""
    model = build(preset).model
    found = {name: norm.num_features for name, norm in model.named_modules() if isinstance(norm, _BatchNorm)}
    inside = [name for name in found if name.startswith("encoder.")]
    return tuple(found.pop(name) for name in inside), tuple(found.values())


def collectives(share: int, parts: int, world: int, sync_norm: bool = True) -> dict[str, Counter]:
    """What a step sends, by what it is for.

    Of several parts each goes through the encoder once without and once with a backward pass, and heads and losses see
    the batch twice, both times with one. A batch norm gathers mean, deviation and count, and sums up two numbers a
    channel on the way back, as torch.nn.SyncBatchNorm does. The gradient is summed up once, as if in one piece.
    """
    twice = 2 if parts > 1 else 1
    inside, heads = norms_of(PRESETS[0])
    passes = [*((channels, twice * parts, parts) for channels in inside), *((c, twice, twice) for c in heads)]
    forward, backward = Counter[Collective](), Counter[Collective]()
    for channels, there, back in passes:
        forward[Collective("all_gather", FLOAT * (2 * channels + 1) * world)] += there
        backward[Collective("all_reduce", FLOAT * 2 * channels)] += back
    sent = {"gradients": Counter({Collective("all_reduce", learned_bytes(PRESETS[0])): 1})}
    if sync_norm:
        sent |= {"batch norms, forward": forward, "batch norms, backward": backward}
    for term, name in TERMS.items():
        sent[name] = Counter({call: twice * n for call, n in of_term(term, share, world).items()})
    return sent | {"whether to stop": Counter({Collective("all_reduce", FLOAT): 1})}


@dataclass(frozen=True)
class Way:
    """How messages go, and whether batch norms send any."""

    name: str
    doubling: bool = False
    sync_norm: bool = True


WAYS = (Way("ring"), Way("doubling", doubling=True), Way("ring, sync_norm off", sync_norm=False))


@dataclass(frozen=True)
class Case:
    """A step on `world` GPUs: of one batch whatever their number, or with a share each that stays the same."""

    plan: Plan
    world: int
    fixed_share: bool = False

    @property
    def share(self) -> int:
        return max(1, self.plan.batch // (self.plan.gpus if self.fixed_share else self.world))

    @property
    def parts(self) -> int:
        return math.ceil(self.share / self.plan.micro_batch)

    def computing(self, step_ms: float) -> float:
        """Seconds, in proportion to the clips."""
        return self.share / self.plan.micro_batch * step_ms / 1e3

    def seconds(self, calls: Counter[Collective], gbit: float, way: Way) -> float:
        """Of calls one after another, while nothing is computed."""
        latency = self.plan.latency_us / 1e6
        return sum(n * call.seconds(self.world, gbit, latency, way.doubling) for call, n in calls.items())

    def sending(self, gbit: float, way: Way) -> float:
        calls = collectives(self.share, self.parts, self.world, way.sync_norm)
        return sum(self.seconds(each, gbit, way) for each in calls.values())

    def sent_share(self, step_ms: float, gbit: float, way: Way) -> float:
        """The part of a step in which it sends."""
        sending = self.sending(gbit, way)
        return sending / (sending + self.computing(step_ms))


def first_above(
    limit: float, plan: Plan, step_ms: float, gbit: float, way: Way, fixed: bool = False
) -> float:
    """The number of GPUs, a power of two, from which on sending takes more than `limit` of a step."""
    return next((w for w in WORLDS if Case(plan, w, fixed).sent_share(step_ms, gbit, way) > limit), math.inf)


def communication_table(plan: Plan) -> str:
    """A line for each thing that is sent at `plan.gpus`."""
    case = Case(plan, plan.gpus)
    sent = collectives(case.share, case.parts, case.world)
    sent["**all**"] = sum(sent.values(), Counter[Collective]())
    ways = [(gbit, way) for way in WAYS[:2] for gbit in plan.link_gbit]
    lines = []
    for name, calls in sent.items():
        megabytes = sum(n * call.sent(case.world) for call, n in calls.items()) / 1e6
        times = (f"{1e3 * case.seconds(calls, gbit, way):.2f}" for gbit, way in ways)
        lines.append([name, str(calls.total()), f"{megabytes:.3f}", *times])
    heads = (f"{way.name}, {gbit:g} Gbit/s, ms" for gbit, way in ways)
    what = f"{case.world} GPUs, {case.share:,} clips each, parts: {case.parts}"
    return _table((what, "calls", "a rank sends, MB", *heads), lines)


def thresholds_table(plan: Plan) -> str:
    """At how many GPUs sending takes a tenth, and half, of a step."""
    columns = [(step_ms, gbit) for step_ms in plan.step_ms for gbit in plan.link_gbit]
    lines = []
    for fixed in (False, True):
        name = f"{Case(plan, plan.gpus).share} clips a GPU" if fixed else f"batch of {plan.batch:,}"
        for way in WAYS:
            found = [
                [first_above(limit, plan, *column, way, fixed) for limit in (0.1, 0.5)] for column in columns
            ]
            cells = (" / ".join("-" if math.isinf(w) else f"{w:,}" for w in pair) for pair in found)
            lines.append([f"{name}, {way.name}", *cells])
    heads = (f"{step_ms:g} ms, {gbit:g} Gbit/s" for step_ms, gbit in columns)
    return _table(("a tenth / half of a step from", *heads), lines)


# The store, and what a save leaves.


def clip_bytes(plan: Plan) -> float:
    """Coordinates of a clip in the store."""
    return plan.frames * plan.persons * LAYOUT.num_joints * 3 * FLOAT


@contextmanager
def store_of(clips: int, frames: int = 1, text: str = "") -> Iterator[Store]:
    """A store of clips of one person, with names as long as those of NTU RGB+D."""
    info = StoreInfo("many", LAYOUT.name, tuple(f"class {label}" for label in range(CLASSES)), 30.0)
    still = np.ones((frames, 1, LAYOUT.num_joints, 3), np.float32)
    made = (Clip(f"S{i:019}", still, i % CLASSES, subject=1 + i % 100, text=text) for i in range(clips))
    with tempfile.TemporaryDirectory() as folder:
        yield Store.open(write(Path(folder, "store.arrow"), made, info).path)


@cache
def column_bytes(text: str = "", clips: int = 2000) -> float:
    """Bytes a clip of the arrays that an open store holds in memory."""
    with store_of(clips, text=text) as store:
        return sum(value.nbytes for value in vars(store).values() if isinstance(value, np.ndarray)) / clips


@cache
def feature_width() -> int:
    return build(PRESETS[0]).model.num_features


def gallery_bytes(clips: float) -> float:
    """Features of the clips to fit, to which the running kNN compares those that validate."""
    return clips * (1 - VALIDATION_SHARE) * FLOAT * feature_width()


def knn_operations(clips: float) -> float:
    return 2 * clips**2 * VALIDATION_SHARE * (1 - VALIDATION_SHARE) * feature_width()


def data_table(plan: Plan) -> str:
    """What the clips take, and how fast they have to come."""
    size, steps, case = plan.clips * clip_bytes(plan), plan.clips // plan.batch, Case(plan, plan.gpus)
    columns = {"": column_bytes(), f", longest text {CAPTION} characters": column_bytes("x" * CAPTION)}
    lines = [
        ["coordinates in the store", f"{_gigabytes(size)}, {clip_bytes(plan) / 1e3:.1f} kB a clip"],
        [f"files, were it in shards of {plan.shard_gb:g} GB", f"{math.ceil(size / plan.shard_gb / 1e9):,}"],
    ]
    for words, each in columns.items():
        alone, together = (_gigabytes(count * plan.clips * each) for count in (1, plan.machine))
        cell = f"{alone}, {each:.0f} B a clip; {plan.machine} of them {together}"
        lines.append([f"columns in a process{words}", cell])
    what = "features to which the running kNN compares, on every GPU and in every process"
    lines.append([what, _gigabytes(gallery_bytes(plan.clips))])
    for step_ms in plan.step_ms:
        rate = plan.micro_batch / step_ms * 1e3
        one, machine = (f"{count * rate * clip_bytes(plan) / 1e6:,.0f} MB/s" for count in (1, plan.machine))
        lines.append(
            [
                f"read at {step_ms:g} ms for {plan.micro_batch} clips",
                f"{rate:,.0f} clips/s and {one} a GPU, {machine} a machine; an epoch takes "
                f"{steps * case.computing(step_ms):.0f} s",
            ]
        )
    return _table((f"{plan.clips:,} clips, {steps:,} steps an epoch", "computed"), lines)


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
            name = f"`{preset}`" + (f", momentum encoder, queue of {QUEUE:,}" if momentum else "")
            size = state_bytes(preset, momentum) / 1e6
            seconds, room = size / plan.disk_mb, (KEPT + 1) * size
            cells = f"{size:,.1f} MB", f"{seconds:.2f} s", f"{seconds / interval:.2%}", f"{room:,.0f} MB"
            lines.append([name, *cells])
    heads = ("state", "tensors", f"at {plan.disk_mb:g} MB/s", f"of {interval / 60:g} minutes")
    return _table((*heads, f"room for {KEPT}, and the next"), lines)


# What breaks first.


def limits(plan: Plan) -> list[tuple[str, float, str, float]]:
    """What breaks, from how many on, of what, and by how much of the plan: the first first."""
    host, fastest, link = 1e9 * plan.host_gb, min(plan.step_ms), plan.link_gbit[0]
    each = host / plan.machine
    clips = {
        "the running kNN compares for an hour": math.sqrt(3600e9 * plan.host_gflops / knn_operations(1)),
        "features for the running kNN fill a card": 1e9 * plan.card_gb / gallery_bytes(1),
        "features for the running kNN fill a machine's memory": each / gallery_bytes(1),
        "the store is larger than a machine's memory": host / clip_bytes(plan),
        f"columns fill it, longest text {CAPTION} characters": each / column_bytes("x" * CAPTION),
    }
    gpus = {
        f"sending ({way.name}) is {words} of a step": first_above(limit, plan, fastest, link, way)
        for way in WAYS
        for limit, words in ((0.1, "a tenth"), (0.5, "half"))
    }
    rows = [(what, at, "clips", at / plan.clips) for what, at in clips.items()]
    rows += [(what, at, "GPUs", at / plan.gpus) for what, at in gpus.items()]
    return sorted(rows, key=lambda row: row[-1])


def breaks_table(plan: Plan) -> str:
    """A line a limit."""
    lines = [
        [what, f"{_rounded(at)} {unit}", f"{share:.2f}"]
        for what, at, unit, share in limits(plan)
        if math.isfinite(at)
    ]
    return _table(("what", "from", f"of {plan.clips:,} clips, {plan.gpus} GPUs"), lines)


def _rounded(count: float) -> str:
    return f"{count:,.0f}" if count < 1e5 else f"{count / 1e6:,.1f} million"


# Measured on this machine.


def host_table(plan: Plan, few: int = 20_000) -> str:
    """What each process does on its cores; of few clips, and what that comes to for all in proportion."""
    with store_of(few) as store:
        parts = choose_parts(PretrainConfig(), store)
        fit = len(parts.pretrain)
        opened, opened_bytes = _timed(lambda: Store.open(store.path))
        chosen, chosen_bytes = _timed(lambda: choose_parts(PretrainConfig(), store))
        known, known_bytes = _timed(lambda: replace(parts).fingerprint)  # kept by each
    order = GlobalBatchSampler(plan.clips, plan.batch, seed=0)
    ordered, _ = _timed(lambda: next(iter(order)))
    order_bytes = peak(lambda: next(iter(order)))
    read, rate = _reading_rate(int(plan.frames)), _matching_rate()

    def line(what: str, seconds: float, size: float, clips: int) -> list[str]:
        times = plan.clips / clips
        of_few = f"{1e3 * seconds:.1f} ms, {size / clips:.0f} B a clip"
        return [what, of_few, f"{times * seconds:.1f} s, {_gigabytes(times * size)}"]

    hours = knn_operations(plan.clips) / rate / 3600
    lines = [
        line(f"open a store of {few:,} clips", opened, opened_bytes, few),
        line("choose those to train on", chosen, chosen_bytes, few),
        line(f"fingerprint of {fit:,}, once", known, known_bytes, fit),
        [f"order of an epoch of {plan.clips:,}", f"{ordered:.1f} s, {order_bytes / 1e9:.2f} GB", "the same"],
        [f"read clips of {plan.frames:g} frames, in memory already", f"{read:,.0f} clips/s", ""],
        ["nearest neighbours of the running kNN", f"{rate / 1e9:.0f} Gflop/s", f"{hours:,.0f} h each time"],
    ]
    where = (
        f"**{device_name(torch.device('cpu'))}**, {torch.get_num_threads()} threads, PyTorch {_version()}."
    )
    return f"{where}\n\n{_table(('what', 'measured', f'in proportion, {plan.clips:,} clips'), lines)}"


def _timed(work: Callable[[], Any], runs: int = 3) -> tuple[float, int]:
    """Seconds of the fastest run; and the most bytes that Python and NumPy had beyond those before it."""
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


def _reading_rate(frames: int, clips: int = 2048, batch: int = 256) -> float:
    """Clips a second that one process reads in random order."""
    with store_of(clips, frames) as store:
        dataset = SkeletonDataset(store, range(clips), Preprocessing())
        order = np.random.default_rng(0).permutation(clips).reshape(-1, batch)
        return clips / _timed(lambda: [dataset.__getitems__(each) for each in order])[0]


def _matching_rate(queries: int = 2048, gallery: int = 4096) -> float:
    """Operations a second of `nearest`, two for each number that is compared."""
    asked, among = torch.randn(queries, feature_width()), torch.randn(gallery, feature_width())
    return 2 * queries * gallery * feature_width() / _timed(lambda: nearest(asked, among, 1))[0]


# The command.


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown(heads, lines))


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size < 1e11 else f"{size / 1e9:,.0f} GB"


def _version() -> str:
    return torch.__version__.partition("+")[0]


TABLES: dict[str, Callable[[Plan], str]] = {
    "communication": communication_table,
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
            metavar="N",
            help=f"{entry.metadata['about']} (default: {_words(entry.default)})",
        )
    made.add_argument("--table", choices=TABLES, nargs="+", default=list(TABLES), help="these alone")
    about = "put the tables into docs/scaling.md, which has those of the defaults"
    made.add_argument("--write", action="store_true", help=about)
    return made


def _words(default: Any) -> str:
    several = default if isinstance(default, tuple) else (default,)
    return " ".join(f"{each:,}" if isinstance(each, int) else f"{each:g}" for each in several)


def main(arguments: Sequence[str] | None = None) -> None:
    parsed = vars(parser().parse_args(arguments))
    chosen, to_write = parsed.pop("table"), parsed.pop("write")
    plan = Plan(**{name: tuple(each) if isinstance(each, list) else each for name, each in parsed.items()})
    if not to_write:
        print("\n\n".join(f"### {name}\n\n{TABLES[name](plan)}" for name in chosen))
    elif plan == Plan():
        DOCUMENT.write_text(filled(DOCUMENT.read_text(), plan, chosen))
    else:
        parser().error("--write is for the defaults: the document says nothing of other assumptions")


if __name__ == "__main__":
    main()
