"""Several methods on one data set, with equal budgets and equal tuning, scored once: `mica compare`."""
