"""Freed memory stays with the process where it is kept, and goes back where it is not."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from mica.training import allocator

# Pages that the system sets up for large blocks that are allocated, filled and freed: in a process of its own, since
# holes between the blocks of other tests would serve them, too.
COUNTS = """
import json, resource
import torch
from mica.training import allocator

def pages_set_up(blocks=4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

returned, kept = [], []
for _ in range(2):
    assert allocator.return_freed_memory()
    returned.append(pages_set_up())
    assert allocator.keep_freed_memory()
    pages_set_up(16)  # small blocks that come to lie between the first large ones take a while to settle
    kept.append(pages_set_up())
print(json.dumps([returned, kept]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own allocator is asked for")
def test_kept_memory_is_set_up_once_and_returned_memory_anew() -> None:
    result = subprocess.run(
        [sys.executable, "-c", COUNTS], capture_output=True, text=True, check=True, timeout=120
    )
    returned, kept = json.loads(result.stdout)
    assert max(kept) < min(returned) / 4


@pytest.mark.parametrize("change", [allocator.keep_freed_memory, allocator.return_freed_memory])
def test_another_c_library_is_left_alone(change: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: pytest.fail("the C library was touched"))
    assert change() is False
