"""Steps whose loss or gradient was not finite: counted, and named with their clips."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from tqdm import tqdm

from mica.data.dataset import SkeletonDataset
from mica.data.sampler import GlobalBatchSampler
from mica.errors import InputError
from mica.training.monitor import StepValues

_SHOWN = 5


class BrokenSteps:
    """Counts steps that were not finite and stops a run that has too many.

    Args:
        dataset: the clips of the run.
        order: in which they come.
        allowed: how many such steps may be left out.

    Attributes:
        count: how many there were.
        record: what to do with the account of one, with all its clips.
    """

    def __init__(self, dataset: SkeletonDataset, order: GlobalBatchSampler, allowed: int) -> None:
        self.dataset, self.order, self.allowed, self.count = dataset, order, allowed, 0
        self.record: Callable[[dict[str, Any]], None] = lambda entry: None

    def counts(self, found: StepValues) -> bool:
        """Whether a step is one of them; raises InputError where it is one too many."""
        name = found.broken()
        if name is None:
            return False
        self.count += 1
        epoch, place = divmod(found.step, len(self.order))
        clips, bad = self.clips_of(found.step), self._bad_clips(found.step)
        what = "the gradient's norm" if name == "gradient" else f"the term '{name}'"
        where = f"epoch {epoch}, step {place} of {len(self.order)}"
        problem = f"{where}: {what} is {found.values[name]}, with the clips {_some(clips)}"
        if bad:
            problem += f"; of these have coordinates that are not finite: {_some(bad)}"
        values = {key: repr(value) for key, value in found.values.items()}
        self.record({"step": found.step, "epoch": epoch, "what": name, "values": values, "clips": clips})
        left = self.allowed - self.count
        if left < 0:
            hint = (
                "lower --optimizer.lr, or try --precision float32; and look for huge coordinates in the store; "
                "--resume --engine.skip_broken 10 goes on from the last save and leaves up to ten such steps out"
            )
            raise InputError(problem, hint=hint)
        tqdm.write(f"mica: left out: {problem}; {left} more may be", file=sys.stderr)
        return True

    def clips_of(self, step: int) -> list[str]:
        """The names of all clips of a step's batch, whichever process had them."""
        return self.dataset.store.names[self._batch_of(step)].tolist()

    def _batch_of(self, step: int) -> np.ndarray:
        """Their positions in the store."""
        epoch, place = divmod(step, len(self.order))
        whole = GlobalBatchSampler(self.order.count, self.order.batch_size, self.order.seed)
        whole.set_epoch(epoch, first=place)
        return self.dataset.indices[next(iter(whole))]

    def _bad_clips(self, step: int) -> list[str]:
        store = self.dataset.store
        return [
            str(store.names[i]) for i in self._batch_of(step) if not np.isfinite(store.keypoints(i)).all()
        ]


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
