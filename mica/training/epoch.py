"""What the steps of the epoch under way gave, and the epoch's line of metrics."""

from __future__ import annotations

import math
from typing import Any

from mica.errors import InputError


class EpochLog:
    """The terms of an epoch's steps, and what they took; all of it is kept over a resume.

    Attributes:
        terms: those of each step that was finite, by name.
        seconds: the steps, and of these `waited`, until clips were there.

    >>> log = EpochLog()
    >>> log.terms, log.seconds = [{"loss": 3.0}, {"loss": 1.0}], 4.0
    >>> log.close(epoch=7, clips=100)
    {'loss': 2.0, 'clips_per_second': 25.0, 'seconds': 4.0, 'waited': 0.0}
    >>> log.terms
    []
    """

    def __init__(self) -> None:
        self.terms: list[dict[str, float]] = []
        self.seconds, self.waited = 0.0, 0.0

    def close(self, epoch: int, clips: int) -> dict[str, float]:
        """The means over an epoch of so many clips; the next one begins. Raises InputError where no step was finite."""
        if not self.terms:
            problem = f"epoch {epoch}: no step had a finite loss and gradient"
            raise InputError(problem, hint="lower --optimizer.lr, or try --precision float32")
        means = {
            name: math.fsum(step[name] for step in self.terms) / len(self.terms) for name in self.terms[0]
        }
        times = {"clips_per_second": clips / self.seconds, "seconds": self.seconds, "waited": self.waited}
        self.terms, self.seconds, self.waited = [], 0.0, 0.0
        return means | times

    def state_dict(self) -> dict[str, Any]:
        return vars(self).copy()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
