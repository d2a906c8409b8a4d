"""Whether the C library keeps the memory that a training step frees: what of a step on a CPU is spent on getting it."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# The parameters of mallopt(3), from <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MIB = 1 << 20


def keep_freed_memory() -> bool:
    """Have the process keep freed memory for its next allocation; returns False, and does nothing, without glibc.

    By itself glibc hands every block above 32 MiB back to the system as it is freed, and the system zeroes the next
    one page by page. A training step on a CPU allocates gigabytes of such blocks, the same in every step. Kept, they
    are set up once; the process then stays as large as its largest step, and some fragments more.
    """
    return _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1})


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Keep freed memory for as long as the context lasts, where `device` is the CPU."""
    kept = device.type == "cpu" and keep_freed_memory()
    try:
        yield
    finally:
        if kept:
            return_freed_memory()


def return_freed_memory() -> bool:
    """Hand freed memory back, now and from now on, as glibc does by itself; returns False without glibc.

    What lies in use between large blocks may leave holes: they are handed back once and then used again.
    """
    # The two thresholds are those that glibc comes to by itself once large blocks have been freed.
    known = _set({_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 * _MIB, _TRIM_THRESHOLD: 64 * _MIB})
    if known:
        ctypes.CDLL(None).malloc_trim(0)
    return known


def _set(parameters: dict[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(name, value) == 1 for name, value in parameters.items()])
