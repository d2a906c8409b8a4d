"""What is assumed, and how sizes and tables are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import markdown
from mica.skeleton import get_layout
from mica.transforms.sampling import Preprocessing

LAYOUT, FRAMES = get_layout("ntu-25"), Preprocessing().num_frames
CLASSES, WORDINGS, TEXT_WIDTH = 60, 8, 384  # NTU RGB+D 60, and the text encoder "minilm"
PRESETS = ("stgcn", "stgcn-64")
FLOAT = 4


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


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown(heads, lines))


def gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size < 1e11 else f"{size / 1e9:,.0f} GB"
