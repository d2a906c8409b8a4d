"""The run directory: what a pretraining leaves behind, written so that a reader never sees half a line of it.

RUN/config.yaml      the whole configuration, to run it again
RUN/metrics.jsonl    one JSON object an epoch
RUN/checkpoint/      model.safetensors and model.json
RUN/evaluation/      one JSON file a protocol, written by `mica evaluate`
RUN/report.html      written by `mica report`
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import yaml

from mica.errors import InputError
from mica.evaluation.runs import CHECKPOINT
from mica.files import refuse_existing
from mica.training.config import PretrainConfig

CONFIG, METRICS = "config.yaml", "metrics.jsonl"


class RunWriter:
    """Creates a run directory with its configuration and appends metrics; a context manager.

    Raises InputError where the directory exists and may not be overwritten, or is no run and must not be.
    """

    def __init__(
        self, folder: str | os.PathLike[str], config: PretrainConfig, overwrite: bool = False
    ) -> None:
        self.folder = refuse_existing(folder, overwrite)
        if self.folder.exists() and not _is_run(self.folder):
            hint = "name another output; --overwrite replaces runs, and nothing else"
            raise InputError("exists, but is no run directory", file=self.folder, hint=hint)
        self._config = config
        self._metrics: TextIO | None = None

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def __enter__(self) -> RunWriter:
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        (self.folder / CONFIG).write_text(yaml.safe_dump(asdict(self._config), sort_keys=False))
        self._metrics = (self.folder / METRICS).open("w")
        return self

    def log(self, record: dict[str, float | int | None]) -> None:
        assert self._metrics is not None
        self._metrics.write(json.dumps(record) + "\n")
        self._metrics.flush()

    def __exit__(self, *exception: object) -> None:
        assert self._metrics is not None
        self._metrics.close()


def _is_run(folder: Path) -> bool:
    """Whether `folder` is a run or empty: anything else is not ours to remove."""
    return folder.is_dir() and ((folder / CONFIG).is_file() or not any(folder.iterdir()))
