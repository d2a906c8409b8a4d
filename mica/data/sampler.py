"""The order in which pretraining goes through its clips, however many processes share a batch."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from mica.errors import InputError
from mica.transforms.draws import Draws

_STREAM = 1
"""Keeps the order apart from the views, which are drawn from the same seed."""


class GlobalBatchSampler(Sampler[list[int]]):
    """One process's part of every batch: the order of an epoch follows from seed and epoch alone.

    Step k has the same batch however many processes share it; process `rank` of `processes` gets the `rank`-th of
    equal parts, and `positions` says where in the batch they are, for `Draws`. Clips that fill no batch at the end of
    an epoch are left out, other ones each time.

    Args:
        count: number of clips.
        batch_size: clips of all processes together.
        seed: of the order.
        rank: this process, from 0.
        processes: how many share each batch.

    Raises InputError where the batch cannot be shared out evenly, is larger than there are clips, or there is no such
    rank.

    >>> whole = GlobalBatchSampler(count=9, batch_size=4, seed=0)
    >>> parts = [GlobalBatchSampler(9, 4, seed=0, rank=rank, processes=2) for rank in (0, 1)]
    >>> list(whole) == [one + two for one, two in zip(*parts)], parts[1].positions
    (True, range(2, 4))
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, processes: int = 1) -> None:
        _require(processes >= 1, "processes", f"{processes}, expected at least 1")
        _require(0 <= rank < processes, "rank", f"{rank} of {processes} processes, counted from 0")
        _require(batch_size >= 1, "batch_size", f"{batch_size}, expected at least 1")
        _require(
            batch_size % processes == 0,
            "batch_size",
            f"{batch_size} clips cannot be shared evenly by {processes} processes",
        )
        _require(batch_size <= count, "batch_size", f"{batch_size} clips a batch, but only {count} clips")
        self.count, self.batch_size, self.seed, self.epoch, self.first = count, batch_size, seed, 0, 0
        share = batch_size // processes
        self.positions = range(rank * share, (rank + 1) * share)

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch whose order the next iterations give, and the first of its batches that they do."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        draws = Draws(self.seed, self.epoch, range(self.count), stream=_STREAM)
        order = draws.bits(1)[:, 0].argsort(stable=True)
        for step in range(self.first, len(self)):
            start = step * self.batch_size
            yield order[start + self.positions.start : start + self.positions.stop].tolist()


def _require(holds: bool, field: str, problem: str) -> None:
    if not holds:
        raise InputError(problem, field=field)
