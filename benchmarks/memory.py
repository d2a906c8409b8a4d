"""Memory of the contrastive losses on a CPU: what the reference holds beyond its inputs, forward and backward.

    python -m benchmarks.memory                       32,768 rows and columns, D = 256; some three minutes on two cores
    python -m benchmarks.memory --rows 8192           another size
    python -m benchmarks.memory --out FILE            the results as JSON as well

The most resident memory of a process of its own, looked at every 5 ms, less what it had before the call.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mica_kernels import info_nce, similarity_kl

PAGE = 4096
LOSSES: dict[str, Callable[..., Tensor]] = {
    "info_nce": partial(info_nce, impl="reference"),
    "similarity_kl": partial(similarity_kl, teacher_scale=10.0, impl="reference"),
}


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def peak(work: Callable[[], None]) -> int:
    """The most bytes in memory during the work, beyond those before it."""
    before = most = resident()
    done = Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.005):
            most = max(most, resident())

    watcher = Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(most, resident()) - before


def allocated(work: Callable[[], None]) -> int:
    """The most bytes of GPU memory during the work, beyond those before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def measure(loss: str, rows: int, width: int) -> dict[str, Any]:
    """Memory and seconds of one forward and backward pass with gradients to query, key and scale."""
    torch.manual_seed(0)
    matrices = [normalize(torch.randn(rows, width), dim=1) for _ in range(2)]
    teacher = [normalize(torch.randn(rows, width), dim=1) for _ in range(2 if loss == "similarity_kl" else 0)]
    scale = torch.tensor(20.0, requires_grad=True)

    def step(count: int) -> None:
        leaves = [matrix[:count].detach().requires_grad_() for matrix in matrices]
        LOSSES[loss](*leaves, *(matrix[:count] for matrix in teacher), scale=scale).backward()

    step(8)  # what PyTorch sets up once is not the loss's
    started = time.perf_counter()
    extra = peak(partial(step, rows))
    return {
        "loss": loss,
        "rows": rows,
        "width": width,
        "extra_bytes": extra,
        "matrix_bytes": 4 * rows * rows,
        "seconds": time.perf_counter() - started,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def line(row: dict[str, Any]) -> str:
    size = f"{row['rows']:,} x {row['rows']:,}, D = {row['width']}"
    extra, matrix = (f"{row[name] / 1e6:,.0f} MB" for name in ("extra_bytes", "matrix_bytes"))
    return f"{row['loss']:14} {size}: {extra} beyond the inputs, {row['seconds']:.1f} s; one such matrix has {matrix}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=32_768, help="N and M")
    parser.add_argument("--width", type=int, default=256, help="D")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    parsed = parser.parse_args(arguments)
    rows = []
    for loss in LOSSES:
        with get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measure, (loss, parsed.rows, parsed.width)))
        print(line(rows[-1]), flush=True)
    if parsed.out is not None:
        parsed.out.parent.mkdir(parents=True, exist_ok=True)
        parsed.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
