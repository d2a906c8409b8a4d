"""What a run starts on, for the record: figures are of a machine, a number format and versions."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mica_kernels import backend

PACKAGES = ("mica", "torch", "triton", "accelerate")


def describe_start(
    step: int, device: torch.device, precision: torch.dtype, why: str, processes: int
) -> dict[str, Any]:
    """What is recorded of a start, or of a resume at `step`."""
    return {
        "step": step,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": device_name(device),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "precision": str(precision).removeprefix("torch."),
        "why": why,
        "kernels": {operator: choice.impl for operator, choice in backend.explain(device).items()},
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def device_name(device: torch.device) -> str:
    """What the maker calls it; of a CPU, how it reports itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
