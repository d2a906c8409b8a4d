"""The store, and what a save leaves."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.scaling.counting import build
from benchmarks.scaling.plan import CLASSES, FLOAT, LAYOUT, PRESETS, Plan, gigabytes, table
from benchmarks.scaling.sending import Case
from mica.data.splits import VALIDATION_SHARE
from mica.data.store import Clip, Store, StoreInfo, write
from mica.models.heads import HeadConfig
from mica.models.momentum import KeyQueue, MomentumEncoder
from mica.training.config import EngineConfig, OptimizerConfig
from mica.training.optimizer import make_optimizer
from mica.training.state import KEPT

CAPTION = 200
"""Characters of the longest text in a store with texts; NumPy gives every clip room for as many."""

QUEUE = 32_768


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
        ["coordinates in the store", f"{gigabytes(size)}, {clip_bytes(plan) / 1e3:.1f} kB a clip"],
        [f"files, were it in shards of {plan.shard_gb:g} GB", f"{math.ceil(size / plan.shard_gb / 1e9):,}"],
    ]
    for words, each in columns.items():
        alone, together = (gigabytes(count * plan.clips * each) for count in (1, plan.machine))
        cell = f"{alone}, {each:.0f} B a clip; {plan.machine} of them {together}"
        lines.append([f"columns in a process{words}", cell])
    what = "features to which the running kNN compares, on every GPU and in every process"
    lines.append([what, gigabytes(gallery_bytes(plan.clips))])
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
    return table((f"{plan.clips:,} clips, {steps:,} steps an epoch", "computed"), lines)


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
    return table((*heads, f"room for {KEPT}, and the next"), lines)
