"""Sizes and times at many GPUs and many clips, computed: `python -m benchmarks.scaling --help`."""
