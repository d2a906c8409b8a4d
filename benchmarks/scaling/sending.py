"""What a step sends, and how long that takes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.scaling.counting import as_on_a_gpu, build, losses_of
from benchmarks.scaling.plan import FLOAT, PRESETS, TEXT_WIDTH, Plan, table
from mica.models.heads import HeadConfig
from mica.objectives import ObjectiveConfig
from mica.transforms.draws import Draws
from mica_kernels import distributed

WORLDS = tuple(2**i for i in range(11))


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
    return table((what, "calls", "a rank sends, MB", *heads), lines)


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
    return table(("a tenth / half of a step from", *heads), lines)
