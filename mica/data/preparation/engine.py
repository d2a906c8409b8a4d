"""The run of a preparation: shards in several processes, then one file, then the account of every clip."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from multiprocessing.connection import wait as wait_for_end
from pathlib import Path

from tqdm import tqdm

from mica.data.clip import StoreInfo
from mica.data.outcome import Found, Outcome
from mica.data.preparation.account import Account, report_of
from mica.data.preparation.shards import Shard, batches_of, plan, read_shard, rows_of, take
from mica.data.recordings import Source
from mica.data.writing import WriteSummary, store_writer
from mica.errors import InputError
from mica.files import output_file
from mica.lock import held

_REPORTED = "reported"  # in OUT.work/: the report beside OUT, if any, is of this work


def prepare_found(
    found: Found,
    source: Source,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool = True,
    processes: int | None = None,
    skip_broken: bool = False,
) -> WriteSummary:
    """Read all units of `found` and write the store `out`, `processes` at a time (None: one a core).

    Work that was done lies in OUT.work/ until `out` is whole: a run that was killed goes on there, and ends in the
    same bytes. The order of the clips and the bytes do not depend on the number of processes. Raises
    `InputError` if a raw file is damaged, once all others are read and unless `skip_broken`, if no clip is left,
    if `out` exists, or a report of its name that is not of this work, or if the same work is going on.
    """
    out = output_file(out, overwrite)
    if processes is not None and processes < 1:
        raise InputError(f"{processes} processes, expected at least 1", field="processes")
    _refuse_report(out, overwrite)
    with _work_folder(out) as work:
        shards = plan(found, work)
        _read_all(found, source, shards, processes or os.cpu_count() or 1, progress)
        account = Account(row for shard in shards for row in rows_of(shard))
        if account.errors and not account.kept:
            shutil.rmtree(work)  # there is nothing in it to go on from
            raise account.refusal(report=None)
        (work / _REPORTED).touch()
        report = account.write(out)
        if not account.kept:
            shutil.rmtree(work)
            raise account.nothing_left(out, found.info.dataset, report)
        if account.errors and not skip_broken:
            raise account.refusal(report)
        whole = work / out.name  # there, so that a run that is killed now leaves no big file behind for good
        with store_writer(whole, found.info, overwrite=True) as writer:
            for shard in tqdm(shards, desc="one file of them", unit="shard", disable=not progress):
                for batch in batches_of(shard):
                    writer.copy(batch)
        os.replace(whole, out)
        shutil.rmtree(work)
    return replace(account.complete(writer.summary, report), path=out)


def prepare_stream(
    info: StoreInfo,
    outcomes: Iterable[Outcome],
    total: int,
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> WriteSummary:
    """Write the store `out` from outcomes that come one after another, as out of one big file."""
    out = output_file(out, overwrite)
    _refuse_report(out, overwrite)
    with (
        store_writer(out, info, overwrite=overwrite) as writer,
        tqdm(
            outcomes, total=total, desc=f"prepare {info.dataset}", unit="clip", disable=not progress
        ) as clips,
    ):
        account = Account(take(outcome, writer) for outcome in clips)
        if not account.kept:
            raise account.nothing_left(out, info.dataset, account.write(out))
    return account.complete(writer.summary, account.write(out))


def _refuse_report(out: Path, overwrite: bool) -> None:
    """Raise `InputError` if the report of `out` would take the place of one that this work has not written."""
    if not (_work(out) / _REPORTED).exists():
        output_file(report_of(out), overwrite)


def _work(out: Path) -> Path:
    return out.with_name(f"{out.name}.work")


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Give OUT.work/, held by this process alone."""
    work = _work(out)
    work.mkdir(parents=True, exist_ok=True)
    hint = "wait for it, or stop it and run the command again: it goes on where that one was"
    with held(work / "lock", InputError("another process is preparing this file", file=out, hint=hint)):
        for torn in work.glob(".*.part"):  # of a run that was killed while it wrote
            torn.unlink()
        yield work


def _read_all(found: Found, source: Source, shards: list[Shard], processes: int, progress: bool) -> None:
    """Read the shards that are not done yet."""
    waiting = [shard for shard in shards if not shard.is_done]
    done = len(found.units) - sum(len(shard.units) for shard in waiting)
    bar = tqdm(
        total=len(found.units),
        initial=done,
        desc=f"prepare {found.info.dataset}",
        unit="file",
        smoothing=0.05,
        disable=not progress,
    )
    with bar:
        read = _read_here if min(processes, len(waiting)) < 2 else partial(_read_in, processes)
        for shard in read(found, source, waiting):
            bar.update(len(shard.units))


def _read_here(found: Found, source: Source, shards: list[Shard]) -> Iterator[Shard]:
    for shard in shards:
        read_shard(found, source, shard)
        yield shard


def _read_in(processes: int, found: Found, source: Source, shards: list[Shard]) -> Iterator[Shard]:
    """Read shards in other processes; yields each as it is done."""
    # Spawned, since a fork copies the threads' locks of whatever this process has loaded.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin) as pool:
        ahead = iter(shards)
        running: dict[Future[None], Shard] = {}
        try:
            while True:
                for shard in islice(ahead, 2 * processes - len(running)):
                    small = Found(found.info, [], found.read, found.options)
                    running[pool.submit(read_shard, small, source, shard)] = shard
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    yield running.pop(future)
        except BrokenProcessPool as error:
            hint = (
                "perhaps memory ran out: the same command goes on from here, --processes 1 needs the least; a script "
                'that calls this begins with if __name__ == "__main__":'
            )
            raise InputError("a process that was reading raw files was killed", hint=hint) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """End this process when the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for_end([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
