"""Several methods on one data set, with equal budgets and equal tuning, scored once: `mica compare`."""

from mica.comparison.compare import compare

__all__ = ["compare"]
