"""The pretraining step, rung by rung from what the peers write to ours: clips a second, and peak memory.

A step takes clips from a loader, makes two views of each, and ends with the weights updated; heads, losses and
optimizer are those of `mica` on every rung. A rung adds one thing to the one before it; those that stand apart of the
ladder say by how much a single thing changes the figures. All are measured in turn, round after round, so that what
else the machine does hits all alike. A rung whose features are not the peers' is not measured.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from benchmarks import memory
from benchmarks.peers import PeerSTGCN, TwoViews, copy_weights
from benchmarks.rungs import NTU, SMALL, Case, Rung, ladder, obstacle
from mica.models.heads import HeadConfig
from mica.models.mica import MICA
from mica.models.stgcn import STGCN, STGCNBlock
from mica.objectives import ObjectiveConfig, Objectives
from mica.skeleton import get_layout
from mica.training import allocator
from mica.training.config import OptimizerConfig
from mica.training.optimizer import make_optimizer
from mica.transforms.augment import VIEWS, augment
from mica.transforms.draws import Draws
from mica_kernels.backend import VARIABLE

Row = dict[str, Any]

CLASSES, WORDINGS, TEXT_WIDTH = 60, 4, 384
PARTS = ("augmentation", "forward", "backward", "optimizer")
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest relative error of the features."""
CHECKED = 4
"""Clips of which the features are compared on a CPU."""
ROUNDS = 3
LOADERS = 4
"""Processes that load for a GPU; on a CPU, which has no cores to spare, the step loads its own clips."""


@dataclass(frozen=True)
class Material:
    """Clips, labels and class texts, all made up, and the encoder that gives every rung its weights."""

    clips: Tensor
    labels: Tensor
    texts: Tensor
    encoder: STGCN

    @classmethod
    def of(cls, case: Case) -> Material:
        torch.manual_seed(0)
        layout = get_layout(case.layout)
        shape = (2 * case.batch, 3, case.frames, layout.num_joints, case.persons)
        return cls(
            clips=torch.randn(shape).mul_(0.03).cumsum(2),
            labels=torch.randint(CLASSES, shape[:1]),
            texts=normalize(torch.randn(CLASSES, WORDINGS, TEXT_WIDTH), dim=-1),
            encoder=STGCN(layout, case.preset, case.frames, frest=False),
        )


def encoder_of(rung: Rung, case: Case, source: STGCN) -> nn.Module:
    """The encoder of a rung, with the weights of `source`."""
    if not rung.ours:
        theirs = PeerSTGCN(source.layout, case.preset, rung.dropout)
        copy_weights(source, theirs)
        return theirs
    ours = STGCN(source.layout, case.preset, case.frames, frest=rung.frest is not None, dropout=rung.dropout)
    ours.input_norm.load_state_dict(source.input_norm.state_dict())
    blocks = [block for block in ours.blocks if isinstance(block, STGCNBlock)]
    for target, block in zip(blocks, source.blocks, strict=True):
        target.load_state_dict(block.state_dict())
    return ours


class Step:
    """One rung's pretraining step, the same as `mica.training.trainer` makes: a call is a step."""

    def __init__(self, rung: Rung, case: Case, material: Material, device: torch.device) -> None:
        self.rung, self.device, self.layout = rung, device, material.encoder.layout
        self.precision = torch.bfloat16 if rung.bfloat16 else torch.float32
        encoder = encoder_of(rung, case, material.encoder)
        if rung.compiled:
            encoder.compile(dynamic=False)
        self.model = MICA(encoder, HeadConfig(), TEXT_WIDTH).to(device)
        self.objectives = Objectives(ObjectiveConfig(), material.texts).to(device)
        self.modules = nn.ModuleList([self.model, self.objectives])
        self.optimizer = make_optimizer(self.modules, OptimizerConfig())
        for group in self.optimizer.param_groups:
            group["capturable"] = rung.graphed
        self.steps = torch.zeros((), dtype=torch.int32, device=device)
        self.batches = iter(_loader(rung, case, material, device))
        self.inputs = [part.to(device) for part in next(self.batches)]
        self.marks: list[float] = []
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        self.marks = [time.perf_counter()]
        for held, part in zip(self.inputs, next(self.batches), strict=True):
            held.copy_(part, non_blocking=True)
        if self.graph is None:
            self.compute()
        else:
            self.graph.replay()

    def compute(self) -> None:
        """From what the loader gave to updated weights."""
        *clips, labels = self.inputs
        self.model.train()
        self.steps += 1  # on the device, so that each replay of a CUDA graph draws anew
        draws = Draws(0, self.steps, range(len(labels)), self.device)
        views = torch.cat(self.views(clips[0], draws) if self.rung.batched else clips)
        self._mark()
        features = self.features(views)
        view1, view2 = self.model.project(features).chunk(2)
        embedded = self.model.embed(features)
        terms = self.objectives(view1, view2, embedded, labels.repeat(2), draws)
        self._mark()
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        self._mark()
        nn.utils.clip_grad_norm_(self.modules.parameters(), OptimizerConfig.clip_norm)
        self.optimizer.step()
        self._mark()

    def views(self, clips: Tensor, draws: Draws) -> list[Tensor]:
        return [augment(clips, VIEWS["basic"], self.layout, draws) for _ in range(2)]

    def features(self, views: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.precision, enabled=self.rung.bfloat16):
            return self.model.features(views).float()

    def _mark(self) -> None:
        self.marks.append(time.perf_counter())

    def capture(self) -> None:
        """Record the whole step as a CUDA graph, after steps on a stream of their own, as PyTorch's notes ask."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.compute()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self.compute()
        self.graph = graph


def _loader(rung: Rung, case: Case, material: Material, device: torch.device) -> DataLoader:
    """Batches without end."""
    data: Dataset = TensorDataset(material.clips, material.labels)
    if not rung.batched:
        data = TwoViews(material.clips.numpy(), material.labels.numpy())
    cuda = device.type == "cuda"
    order = RandomSampler(data, replacement=True, num_samples=1 << 40)
    return DataLoader(data, case.batch, sampler=order, num_workers=LOADERS if cuda else 0, pin_memory=cuda)


def check(step: Step, case: Case, material: Material) -> None:
    """Compare the features with those of the peers' encoder in float64; raises ArithmeticError.

    New FreST layers are the identity, so theirs must agree as well.
    """
    # On a GPU as many as a step has views: what is compiled for them serves the step.
    clips = material.clips[: None if step.device.type == "cuda" else CHECKED].to(step.device)
    training = step.rung.dropout == 0
    exact = MICA(encoder_of(Rung("exact"), case, material.encoder), HeadConfig(), None)
    exact.to(step.device, torch.float64).train(training)
    step.model.train(training)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = step.features(clips).detach()
        with torch.no_grad():
            expected = exact.features(clips.double())
    error = (torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)).item()
    if not error <= LIMITS[step.precision]:
        raise ArithmeticError(f"features are off by {error:.2g} of their size: not the peers' encoder")


@dataclass
class Runner:
    """A step that is right, and what has been measured of it."""

    step: Step
    case: Case
    extra_bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    parts: list[list[float]] = field(default_factory=list)

    def start(self) -> None:
        """The first steps; the most memory that they take."""
        with self.surroundings():
            if self.step.device.type == "cuda":
                self.step()
                self.extra_bytes = memory.allocated(
                    self.step.capture if self.step.rung.graphed else self.step
                )
            else:
                self.extra_bytes = _resident(partial(self.repeat, 3 if self.step.rung.keeps_memory else 1))

    def visit(self) -> None:
        """One measurement: a step on a CPU, many on a GPU."""
        cuda = self.step.device.type == "cuda"
        with self.surroundings():
            # The loaders have batches in store; kept memory has to be set up.
            self.repeat(3 * LOADERS if cuda else 2 * self.step.rung.keeps_memory)
            _wait(self.step.device)
            started = time.perf_counter()
            self.repeat(20 if cuda else 1)
            _wait(self.step.device)
            self.seconds.append((time.perf_counter() - started) / (20 if cuda else 1))
        if not cuda:
            self.parts.append([after - before for before, after in pairwise(self.step.marks)])

    def repeat(self, times: int) -> None:
        for _ in range(times):
            self.step()

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """The allocator and the implementation of the operators that the rung asks for."""
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = "reference" if self.step.rung.frest == "reference" else "auto"
        allocator.return_freed_memory()
        if self.step.rung.keeps_memory:
            allocator.keep_freed_memory()
        try:
            yield
        finally:
            allocator.return_freed_memory()
            os.environ.pop(VARIABLE)
            if before is not None:
                os.environ[VARIABLE] = before

    def row(self) -> Row:
        times = sorted(1e3 * seconds for seconds in self.seconds)
        median, last = statistics.median(times), len(times) - 1
        shares = {
            name: 1e3 * statistics.median(part)
            for name, part in zip(PARTS, zip(*self.parts, strict=True), strict=False)
        }
        return _row(
            self.step.rung,
            self.case,
            times={
                "median": median,
                "p20": times[round(0.2 * last)],
                "p80": times[round(0.8 * last)],
                "runs": len(times),
            },
            clips_per_second=1e3 * self.case.batch / median,
            extra_bytes=self.extra_bytes,
            shares=shares or None,
        )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _resident(work: Callable[[], None]) -> int:
    """The most bytes of memory during the work, beyond those before it."""
    errors: list[Exception] = []

    def guarded() -> None:
        try:
            work()
        except Exception as error:  # `peak` would go on watching
            errors.append(error)

    extra = memory.peak(guarded)
    for error in errors:
        raise error
    return extra


def _row(rung: Rung, case: Case, **found: Any) -> Row:
    return {
        "operator": "pretraining_step",
        "case": case.name,
        "shape": case.shape,
        "implementation": rung.name,
        "mode": "step",
        "apart": rung.apart,
        "failed": None,
        **found,
    }


def _prepared(rung: Rung, case: Case, material: Material, device: torch.device) -> Runner:
    runner = Runner(Step(rung, case, material, device), case)
    with runner.surroundings():
        check(runner.step, case, material)
    runner.start()
    return runner


def rows(
    device: torch.device,
    quick: bool = False,
    *,
    case: Case | None = None,
    rungs: Sequence[Rung] | None = None,
    rounds: int = 0,
) -> Iterator[Row]:
    """A row for every rung, in order, as the last round comes to it."""
    case = case or (SMALL if quick else NTU)
    material = Material.of(case)
    entries = [_entry(rung, case, material, device) for rung in rungs or ladder(device)]
    for turn in range(rounds or ROUNDS):
        for place, entry in enumerate(entries):
            if isinstance(entry, Runner):
                try:
                    entry.visit()
                except Exception as error:
                    entries[place] = _row(entry.step.rung, case, failed=_words(error))
            if turn == (rounds or ROUNDS) - 1:
                yield _row_of(entries[place])


def _entry(rung: Rung, case: Case, material: Material, device: torch.device) -> Runner | Row:
    """What is going to be measured, or the row that says why it is not."""
    if reason := obstacle(rung, device):
        return _row(rung, case, left_out=reason)
    try:
        return _prepared(rung, case, material, device)
    except Exception as error:  # wrong features, no memory, and what compilers raise, of many kinds
        return _row(rung, case, failed=_words(error))


def _row_of(entry: Runner | Row) -> Row:
    return entry.row() if isinstance(entry, Runner) else entry


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:2000]
