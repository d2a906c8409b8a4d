"""Freed memory stays with the process where it is kept, and goes back where it is not."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from mica.training import allocator

BLOCK = 64 << 20

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own allocator is asked for")


def pages_set_up(times: int = 4) -> int:
    """Pages that the system had to set up for blocks that are allocated, filled and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(BLOCK // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.fixture(autouse=True)
def _as_it_was() -> object:
    yield
    allocator.return_freed_memory()


@glibc
def test_kept_memory_is_set_up_once() -> None:
    assert allocator.return_freed_memory()
    fresh = pages_set_up()
    assert allocator.keep_freed_memory()
    pages_set_up()
    assert pages_set_up() < fresh / 4


@glibc
def test_returned_memory_is_set_up_anew() -> None:
    allocator.keep_freed_memory()
    pages_set_up()
    kept = pages_set_up()
    allocator.return_freed_memory()
    assert pages_set_up() > 4 * kept


@pytest.mark.parametrize("change", [allocator.keep_freed_memory, allocator.return_freed_memory])
def test_another_c_library_is_left_alone(change: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("the C library was touched"))
    assert change() is False
