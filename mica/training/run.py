"""The run directory: what a pretraining leaves behind, written so that a reader never sees half a line of it.

RUN/config.yaml      the whole configuration, to run it again
RUN/metrics.jsonl    one JSON object an epoch
RUN/starts.jsonl     one JSON object a start: the step, the machine, the versions, the number format
RUN/broken.jsonl     one JSON object a step that was not finite, with its clips; most runs have none
RUN/state/           what a resume needs, until the run is finished
RUN/.lock            held by the process that trains
RUN/profile.txt      where the time goes, and RUN/trace.json, of `mica pretrain --profile`
RUN/tracking/        what Accelerate's trackers write
RUN/checkpoint/      model.safetensors and model.json
RUN/evaluation/      one JSON file a protocol, written by `mica evaluate`
RUN/report.html      written by `mica report`
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from mica.errors import InputError
from mica.evaluation.runs import CHECKPOINT
from mica.files import atomic_path, refuse_existing, sync
from mica.lock import held
from mica.models.description import DESCRIPTION
from mica.models.hub import WEIGHTS
from mica.training.config import PretrainConfig
from mica.training.state import FOLDER, drop_states, newest_state, states, write_state

CONFIG, METRICS, STARTS, BROKEN = "config.yaml", "metrics.jsonl", "starts.jsonl", "broken.jsonl"
LOGS = (METRICS, STARTS, BROKEN)
LOCK = ".lock"
PATIENCE = 30.0
"""Seconds for which the lock is waited for: processes that read clips for one that was killed keep it some seconds."""


class RunDirectory:
    """A run directory, to begin or to go on with.

    Args:
        folder: where; nothing in it is touched before `begin`.
        config: what is going to run.
        overwrite: an earlier run may be replaced.
        resume: an earlier run of the same configuration is gone on with; where there is none, one begins.

    Raises InputError where the directory exists and may not be overwritten, or is no run and must not be, or is to be
    resumed and was of another configuration.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: PretrainConfig,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.folder, self._config = Path(folder), config
        self._overwrite, self._resume = overwrite, resume
        if overwrite and resume:
            hint = "--overwrite throws away what is there, --resume goes on with it"
            raise InputError("to be overwritten and to be resumed", file=folder, hint=hint)
        self._look()

    def _look(self) -> None:
        """See what is there, and whether that is to be gone on with; raises InputError as the class says."""
        self.resuming = self._resume and (self.folder / CONFIG).is_file()
        if self.resuming:
            self._check_same()
        elif states(self.folder) and not self._overwrite:
            hint = "pass --resume to go on with it, --overwrite to replace it, or name another output"
            raise InputError("holds a run that is not finished", file=self.folder, hint=hint)
        else:
            refuse_existing(self.folder, self._overwrite or _is_untouched(self.folder))
        if self.folder.exists() and not _is_run(self.folder):
            hint = "name another output; --overwrite replaces runs, and nothing else"
            raise InputError("exists, but is no run directory", file=self.folder, hint=hint)

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def finished(self) -> bool:
        """Whether there is a run that has come to its end."""
        whole = all((self.checkpoint / name).is_file() for name in (WEIGHTS, DESCRIPTION))
        return self.resuming and whole and not states(self.folder)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing here; raises InputError where one does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        hint = f"wait for it, or stop it; if it is gone for sure, remove {self.folder / LOCK}"
        refusal = InputError("another process is training this run", file=self.folder, hint=hint)
        with held(self.folder / LOCK, refusal, PATIENCE):
            self._look()  # whom this one waited for may have begun the run, or finished it
            yield

    def begin(self) -> dict[str, Any] | None:
        """Make the directory, or find it as the last save left it: then return that state."""
        state = newest_state(self.folder) if self.resuming else None
        if state is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear()
        else:
            drop_states(self.folder, after=state["step"])
            self._cut_back(state["step"])
        with atomic_path(self.folder / CONFIG, overwrite=True) as temporary:
            temporary.write_text(yaml.safe_dump(asdict(self._config), sort_keys=False))
        (self.folder / METRICS).touch()
        return state

    def check_clips(self, clips: str) -> None:
        """Raise InputError where the run began with other clips than those of this fingerprint."""
        starts = self.folder / STARTS
        entries = _whole_lines(starts) if starts.is_file() else iter(())
        began = next((entry.get("clips", clips) for entry, _ in entries), clips)
        if began != clips:
            hint = "resume with the store that the run began with, or name another output"
            raise InputError("the run began with other clips, labels or parts", file=self.folder, hint=hint)

    def log(self, record: dict[str, Any], file: str = METRICS) -> None:
        """Append a line to the metrics, or to another file."""
        with (self.folder / file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Keep what a resume needs; what was logged before it is on the disk before it is."""
        for file in self._logs():
            sync(file)
        write_state(self.folder, step, state)

    def finish(self) -> None:
        """Drop what only a resume needs."""
        if (self.folder / FOLDER).is_dir():
            # In one step: of half a folder of states a resume would say that none is whole.
            dropped = (self.folder / FOLDER).rename(self.folder / f".{FOLDER}.part")
            shutil.rmtree(dropped, ignore_errors=True)

    def _check_same(self) -> None:
        file = self.folder / CONFIG
        try:
            before = _flat(asdict(PretrainConfig())) | _flat(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
            raise InputError(f"cannot be read: {error}", file=file) from error
        now = _flat(asdict(self._config))
        differing = [
            f"{name}: {before.get(name)} before, {now.get(name)} now"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and not name.startswith("engine.")
        ]
        if differing:
            hint = "resume with the settings that it began with; only those of `engine` may change"
            raise InputError("\n  ".join(["the run began otherwise", *differing]), file=file, hint=hint)

    def _cut_back(self, step: int) -> None:
        """Drop what was logged after the state that the run goes on from: it is going to be logged again."""
        for file in self._logs():
            # Epochs and starts count the steps before them, a broken step is the one after as many.
            last = step - 1 if file.name == BROKEN else step
            with atomic_path(file, overwrite=True) as temporary:
                kept = (line for entry, line in _whole_lines(file) if entry["step"] <= last)
                temporary.write_text("".join(kept), encoding="utf-8")

    def _logs(self) -> list[Path]:
        return [file for name in LOGS if (file := self.folder / name).is_file()]

    def _clear(self) -> None:
        """Remove what is there, but for the lock, which this process holds, and what makes it known as a run."""
        for path in self.folder.iterdir():
            if path.is_symlink() or not path.is_dir():
                if path.name not in (LOCK, CONFIG):
                    path.unlink()
            else:
                shutil.rmtree(path)


def _whole_lines(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The entries of a file of JSON lines; a process that was killed may have left half of the last."""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        with suppress(ValueError):
            yield json.loads(line), line


def _flat(entries: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The entries of nested mappings by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in entries.items():
        inside = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{name}.") if inside else {f"{prefix}{name}": value}
    return flat


def _is_run(folder: Path) -> bool:
    """Whether `folder` is a run or untouched: anything else is not ours to remove."""
    return folder.is_dir() and (_has_config(folder) or _is_untouched(folder))


def _has_config(folder: Path) -> bool:
    """Whether there is a config.yaml that is ours: other programs have files of that name."""
    try:
        entries = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(entries, dict) and {"encoder", "optimizer"} <= entries.keys()


def _is_untouched(folder: Path) -> bool:
    """Whether `folder` is empty, but for what a process leaves that ends before its run has begun."""
    ours = (LOCK, f".{CONFIG}.*.part")
    return folder.is_dir() and all(any(path.match(name) for name in ours) for path in folder.iterdir())
