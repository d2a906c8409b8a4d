"""Benchmarks of the kernels and of the training step: `python -m benchmarks --help`."""

import os

os.environ.setdefault(
    "KINETO_LOG_LEVEL", "6"
)  # before PyTorch comes, whose profiler prints a line a use otherwise
