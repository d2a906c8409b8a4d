"""The rungs of the training step: what each adds, and where it can run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from benchmarks.words import AS_PEERS
from mica.models.precision import choose_precision, multiplies_bfloat16
from mica.skeleton import get_layout
from mica.training import allocator
from mica_kernels.backend import explain


@dataclass(frozen=True)
class Case:
    """What a step is given."""

    name: str
    batch: int
    frames: int = 64
    persons: int = 2
    preset: str = "stgcn"
    layout: str = "ntu-25"

    @property
    def shape(self) -> dict[str, int]:
        joints = get_layout(self.layout).num_joints
        return {"batch": self.batch, "frames": self.frames, "joints": joints, "persons": self.persons}


NTU = Case("NTU", batch=128)
SMALL = Case("small", batch=8, persons=1)


@dataclass(frozen=True)
class Rung:
    """How a step is made; `apart` marks what is no rung of the ladder."""

    name: str
    batched: bool = False
    ours: bool = False
    keeps_memory: bool = False
    bfloat16: bool = False
    compiled: bool = False
    graphed: bool = False
    frest: Literal["reference", "fused"] | None = None
    dropout: float = 0.0
    apart: bool = False


def ladder(device: torch.device) -> tuple[Rung, ...]:
    """The rungs for a device, and those that stand apart."""
    peers = Rung(AS_PEERS)
    rungs = [peers]

    def then(name: str, **change: Any) -> None:
        rungs.append(replace(rungs[-1], name=name, **change))

    then("+ batched augmentation", batched=True)
    if device.type == "cuda":
        then("+ bfloat16", bfloat16=True)
        then("+ our ST-GCN", ours=True)
        then("+ torch.compile", compiled=True)
        then("+ CUDA graph", graphed=True)
        best = replace(rungs[-1], apart=True)
    else:
        then("+ our ST-GCN", ours=True)
        then("+ freed memory kept", keeps_memory=True)
        then("+ bfloat16", bfloat16=True)
        best = replace(rungs[-1], bfloat16=multiplies_bfloat16(device), apart=True)
        rungs.append(replace(peers, name="peers', freed memory kept", keeps_memory=True, apart=True))
    return (
        *rungs,
        replace(peers, name="peers', dropout 0.5", dropout=0.5, apart=True),
        replace(best, name="ours, dropout 0.5", dropout=0.5),
        replace(best, name="ours with FreST, reference", frest="reference"),
        replace(best, name="ours with FreST, fused", frest="fused"),
    )


def obstacle(rung: Rung, device: torch.device) -> str | None:
    """Why a rung cannot run on a device, if so."""
    if rung.bfloat16 and not multiplies_bfloat16(device):
        return choose_precision("auto", device)[1]
    if rung.frest == "fused" and (choice := explain(device)["spectral_gate"]).impl != "triton":
        return choice.reason
    if rung.keeps_memory and not allocator.return_freed_memory():
        return "the memory allocator is not glibc's"
    return None
