"""Accelerate's view of the processes and devices of a run."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs


def make_accelerator(**options: Any) -> Accelerator:
    """Accelerate's view of the processes and devices that `accelerate launch` or `torchrun` gave this run.

    Number formats stay with us: only the encoder is to leave float32.
    """
    # Running statistics are those of the first process; they are handed out where they are needed, not every step.
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False)]
    # Without being told of CPUs, Accelerate would let each process of a launch train by itself.
    cpu = not torch.cuda.is_available()
    return Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=handlers, **options)
