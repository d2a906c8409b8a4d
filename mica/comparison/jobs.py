"""The work of a comparison, a job a process: so that several can go side by side, and each can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mica.comparison.job import judgement
from mica.data.store import Store
from mica.errors import InputError, Interrupted
from mica.training.config import PretrainConfig
from mica.training.interrupt import StopRequest
from mica.training.parts import choose_parts
from mica.training.run import METRICS, RunDirectory

_LOOK_SECONDS = 0.5
_LAST_LINES = 12


@dataclass(frozen=True)
class Job:
    """A run to train and to judge.

    Args:
        data: the store.
        run: the run directory, which may hold a part of the work already.
        config: how it is trained.
        judged: what is to be scored: ("validation", "") for a choice, or pairs of a protocol and a source of features.
        settings: what of `config` tuning tries, or has chosen.
        trial: the run whose validation clips say with which settings it is scored; None where it is itself validated.
    """

    data: Path
    run: Path
    config: PretrainConfig
    judged: tuple[tuple[str, str], ...]
    settings: tuple[str, ...] = ()
    trial: Path | None = None

    def write(self, file: Path) -> None:
        """Describe it for the process that does it."""
        entries = {
            "data": str(self.data),
            "run": str(self.run),
            "judged": self.judged,
            "trial": str(self.trial or ""),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**entries, "config": asdict(self.config)}))

    @property
    def done(self) -> bool:
        """Whether it is trained and judged already; raises InputError where what is there is another run, or data's."""
        run = RunDirectory(self.run, self.config, resume=True)
        if run.finished:
            run.check_clips(choose_parts(self.config, Store.open(self.data)).fingerprint)
        return run.finished and all(judgement(self.run, *pair).is_file() for pair in self.judged)

    @property
    def epochs_done(self) -> int:
        file = self.run / METRICS
        return len(file.read_text().splitlines()) if file.is_file() else 0


def work_through(jobs: Sequence[Job], at_once: int, what: str) -> None:
    """Do the jobs, some at once, under a bar that counts their epochs.

    Raises InputError with the end of its log where a job fails, and Interrupted where this process was asked to stop:
    jobs under way are then asked to save first.
    """
    waiting = [job for job in jobs if not job.done]
    under_way: dict[subprocess.Popen[Any], Job] = {}
    total = sum(job.config.optimizer.epochs for job in jobs)
    with StopRequest() as stop, tqdm(total=total, unit="epoch", desc=what, disable=not waiting) as bar:
        try:
            while waiting or under_way:
                while waiting and len(under_way) < at_once:
                    job = waiting.pop(0)
                    under_way[_start(job, at_once)] = job
                time.sleep(_LOOK_SECONDS)
                done = sum(min(job.epochs_done, job.config.optimizer.epochs) for job in jobs)
                bar.set_postfix_str(", ".join(_label(job) for job in under_way.values()), refresh=False)
                if done > bar.n:
                    bar.update(done - bar.n)
                # First: who stops a comparison may have stopped its jobs as well.
                if stop.number is not None:
                    raise Interrupted(f"{signal.Signals(stop.number).name}: stopped", stop.number)
                for process in [process for process in under_way if process.poll() is not None]:
                    _check(process.returncode, under_way.pop(process))
        finally:
            for process in under_way:
                process.terminate()  # it saves
            for process in under_way:
                process.wait()


def _start(job: Job, at_once: int) -> subprocess.Popen[Any]:
    description = _beside(job, "job.json")
    job.write(description)
    threads = max(1, (os.cpu_count() or 1) // at_once)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    with _beside(job, "log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "mica.comparison.job", str(description)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE,  # which ends when this process does: the job then stops, however that came
            env=environment,
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
        )


def _beside(job: Job, ending: str) -> Path:
    return job.run.with_name(f"{job.run.name}.{ending}")


def _label(job: Job) -> str:
    return f"{job.run.parent.name}/{job.run.name}"


def _check(status: int, job: Job) -> None:
    if status == 0:
        _beside(job, "job.json").unlink()
        return
    log = _beside(job, "log")
    end = "\n    ".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
    raise InputError(f"{_label(job)} ended with status {status}; its last words:\n    {end}", file=log)
