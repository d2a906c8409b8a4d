"""Choosing launch configurations by trying them on the GPU at hand. Nothing is tuned unless asked for.

Ask with the environment variable MICA_KERNELS_TUNE=1, or in Python::

    with mica_kernels.tune.tuning():
        spectral_gate(x, weight, threshold).sum().backward()

Every kernel that runs meanwhile is timed in each of its candidate configurations, once for each kind of signals, and
the fastest is kept in `file()`, a JSON file that later processes read.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path

import torch

from mica_kernels.launch import Launch

VARIABLE = "MICA_KERNELS_TUNE"
CACHE_VARIABLE = "MICA_KERNELS_CACHE"

_asked = False


def file() -> Path:
    """Where tuned configurations are kept: tuned.json in MICA_KERNELS_CACHE, or in ~/.cache/mica_kernels."""
    return Path(os.environ.get(CACHE_VARIABLE, "~/.cache/mica_kernels")).expanduser() / "tuned.json"


@contextmanager
def tuning() -> Iterator[None]:
    """Tune whatever runs in this context."""
    global _asked
    before, _asked = _asked, True
    try:
        yield
    finally:
        _asked = before


def pick(
    device: torch.device,
    key: str,
    shipped: Launch,
    candidates: Callable[[], list[Launch]],
    run: Callable[[Launch], object],
) -> Launch:
    """The tuned configuration for `key` on `device`, else the shipped one; tunes first where that was asked for."""
    if device.type != "cuda":
        return shipped
    key = f"{_name(device)} {key}"
    if key not in saved() and (_asked or os.environ.get(VARIABLE) == "1"):
        _save(key, fastest([shipped, *candidates()], run))
    return saved().get(key, shipped)


def fastest(candidates: list[Launch], run: Callable[[Launch], object]) -> Launch:
    """The candidate with the smallest median time; one that does not compile or fit the GPU is passed over."""
    times = {}
    for launch in candidates:
        try:
            times[launch] = _time(partial(run, launch))
        except Exception as error:  # Triton raises errors of many kinds for what a GPU cannot do
            reason = error
    if not times:
        raise RuntimeError(f"none of {len(candidates)} launch configurations runs on this GPU") from reason
    return min(times, key=times.__getitem__)


@lru_cache
def saved() -> dict[str, Launch]:
    """What has been tuned, by GPU, operator and kind of signals."""
    if not file().is_file():
        return {}
    try:
        return {key: Launch(**fields) for key, fields in json.loads(file().read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # Cut off, or of another version of this package: no reason that nothing should run.
        problem = "cannot be read, so shipped configurations run; delete it, or tune again"
        warnings.warn(f"{file()}: {problem} ({error})", stacklevel=1)  # so that it is shown once
        return {}


def _save(key: str, launch: Launch) -> None:
    saved.cache_clear()  # another process may have written meanwhile
    table = {**saved(), key: launch}
    file().parent.mkdir(parents=True, exist_ok=True)
    temporary = file().with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({key: asdict(value) for key, value in sorted(table.items())}, indent=1))
    temporary.replace(file())
    saved.cache_clear()


def _time(run: Callable[[], object]) -> float:
    """Milliseconds, the median of many runs."""
    from triton.testing import do_bench

    return do_bench(run, return_mode="median")


@lru_cache
def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)
