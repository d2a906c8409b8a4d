"""Pretraining: from a store and a configuration to a run directory, over as many processes as there are."""

from __future__ import annotations

import errno
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from mica.data.store import Store
from mica.errors import InputError, Interrupted
from mica.models.mica import ModelCard
from mica.training.accelerator import make_accelerator
from mica.training.allocator import freed_memory_kept
from mica.training.config import PretrainConfig
from mica.training.environment import describe_start
from mica.training.interrupt import StopRequest
from mica.training.phases import StepProfile
from mica.training.run import BROKEN, STARTS, RunDirectory
from mica.training.trainer import Trainer
from mica.training.watchdog import Watchdog
from mica.transforms.augment import AugmentConfig

TRACKING = "tracking"
"""What Accelerate's trackers write to, in the run directory."""


def pretrain(
    config: PretrainConfig,
    store: Store,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    profile: bool = False,
) -> ModelCard:
    """Pretrain on the training part of `store` and write the run directory `out`; on every process of the run alike.

    resume: go on with an earlier run in `out`, from its last save, or begin. profile: see `StepProfile`.

    Raises InputError where a setting is out of range, the store does not fit the configuration, or `out` exists and may
    not be overwritten: all before anything is written or removed. And where a loss stops being finite, or the disk is
    full. Raises `Interrupted` where SIGTERM or Ctrl-C asked it to save and leave.
    """
    accelerator = make_accelerator(log_with=_trackers(config) or None, project_dir=str(out))
    if config.augment == AugmentConfig() and config.method != "supervised" and accelerator.is_main_process:
        warnings.warn(
            "no view is augmented: both views of a clip are the same. A recipe has views: --config mica/own, for one",
            stacklevel=2,
        )
    run = RunDirectory(out, config, overwrite, resume) if accelerator.is_main_process else None
    trainer = Trainer(config, store, accelerator)
    Session(trainer, run, profile).train()
    return trainer.card


def _trackers(config: PretrainConfig) -> list[str]:
    """Those asked for; raises InputError where Accelerate has none of that name, or its package is missing."""
    wanted, available = config.engine.trackers, [str(tracker) for tracker in get_available_trackers()]
    for name in wanted:
        if name not in available:
            hint = f"installed are: {', '.join(available) or 'none'}; pip install tensorboard, or whichever you want"
            raise InputError(
                f"no tracker '{name}' of Accelerate is installed", field="engine.trackers", hint=hint
            )
    return wanted


def _on_main(value: Any) -> Any:
    """What the first process has, on all of them."""
    return broadcast_object_list([value])[0]


class Session:
    """A start or a resume of a run: what goes on around the steps.

    Args:
        trainer: takes the steps.
        run: the directory; None on all processes but the first.
        profile: whether to measure where the time goes.
    """

    def __init__(self, trainer: Trainer, run: RunDirectory | None, profile: bool) -> None:
        self.trainer, self.run = trainer, run
        self.accelerator: Accelerator = trainer.accelerator
        self.epochs = trainer.config.optimizer.epochs
        self.stop = StopRequest()
        self._saved = time.monotonic()
        self._profile = StepProfile(trainer.phases, run.folder) if profile and run is not None else None

    def train(self) -> None:
        """Take the steps that are left, if any, and leave the model."""
        trainer = self.trainer
        with _failures_explained(trainer), ExitStack() as stack:
            if self.run is not None:
                stack.enter_context(self.run.held())
                if self.run.resuming:
                    self.run.check_clips(trainer.parts.fingerprint)
            if _on_main(self.run is not None and self.run.finished):
                return
            self._begin()
            watchdog = stack.enter_context(Watchdog(trainer.config.engine.stuck_seconds, _report))
            trainer.waiting, trainer.stop = watchdog.waiting, lambda: self.stop.number is not None
            stack.enter_context(self.stop)
            stack.enter_context(freed_memory_kept(trainer.device))
            total = self.epochs * trainer.steps_per_epoch
            bar = stack.enter_context(
                tqdm(
                    total=total, initial=trainer.step, unit="step", desc="pretrain", disable=self.run is None
                )
            )
            for epoch in range(trainer.step // trainer.steps_per_epoch, self.epochs):
                record = trainer.run_epoch(epoch, bar, after_step=self._after_step)
                self._log(record)
                self._save_if_due()
            self._finish()

    def _begin(self) -> None:
        trainer, state = self.trainer, _on_main(None if self.run is None else self.run.begin())
        if state is not None:
            trainer.load_state_dict(state)
        if self.run is not None:
            start = describe_start(
                trainer.step, trainer.device, trainer.precision, trainer.why, self.accelerator.num_processes
            )
            self.run.log({**start, "clips": trainer.parts.fingerprint}, STARTS)
            run = self.run
            trainer.broken.record = lambda entry: run.log(entry, BROKEN)
        if trainer.config.engine.trackers:
            # Of a run that is resumed, TensorBoard hides what it had after the step.
            options = {"tensorboard": {"purge_step": trainer.step}}
            self.accelerator.init_trackers(TRACKING, init_kwargs=options)

    def _after_step(self) -> None:
        if self._profile is not None and (file := self._profile.after_step()) is not None:
            tqdm.write(f"profile: {file}")
            self._profile = None
        if self.trainer.step % self.trainer.steps_per_epoch:  # else its epoch is logged first
            self._save_if_due()

    def _log(self, record: dict[str, Any]) -> None:
        if self.run is not None:
            self.run.log(record)
        numbers = {name: value for name, value in record.items() if value is not None}
        self.accelerator.log(numbers, step=self.trainer.step)

    def _save_if_due(self) -> None:
        """Save every so often, and when all have agreed to stop; then leave."""
        minutes = (time.monotonic() - self._saved) / 60
        if self.run is not None and (
            self.trainer.stop_agreed or minutes >= self.trainer.config.engine.save_minutes
        ):
            self.run.save(self.trainer.step, self.trainer.state_dict())
            self._saved = time.monotonic()
        if self.trainer.stop_agreed:
            self._leave()

    def _leave(self) -> None:
        total = self.epochs * self.trainer.steps_per_epoch
        number = self.stop.number or signal.SIGTERM  # which another process got
        raise Interrupted(
            f"{signal.Signals(number).name}: saved after step {self.trainer.step} of {total}", number
        )

    def _finish(self) -> None:
        self.trainer.share_statistics()
        if self.run is not None:
            self.trainer.trained.evaluated.save_pretrained(self.run.checkpoint)
            self.run.finish()
        if self._profile is not None:
            _report("no profile: the run has too few steps")
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.wait_for_everyone()


def _report(words: str) -> None:
    tqdm.write(f"mica: {words}", file=sys.stderr)


@contextmanager
def _failures_explained(trainer: Trainer) -> Iterator[None]:
    """What is no fault of the run, in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        hint = "make room, then go on from the last save: the same command with --resume"
        raise InputError(f"no space left, at step {trainer.step}", file=error.filename, hint=hint) from error
    except RuntimeError as error:
        if "Connection closed by peer" not in str(error):
            raise
        problem = (
            f"process {trainer.accelerator.process_index}: another process went away at step {trainer.step}"
        )
        hint = "its own error, above, says why; then go on from the last save: the same command with --resume"
        raise InputError(problem, hint=hint) from error
