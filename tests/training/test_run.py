"""The run directory: refused, replaced or left alone, and readable while it grows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mica.errors import InputError
from mica.training.config import PretrainConfig
from mica.training.run import RunWriter

CONFIG = PretrainConfig(seed=3)


def test_metrics_can_be_read_after_every_line(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "deep" / "run", CONFIG) as run:
        for epoch in range(3):
            run.log({"epoch": epoch, "knn_validation": None})
            lines = (tmp_path / "deep" / "run" / "metrics.jsonl").read_text().splitlines()
            assert json.loads(lines[epoch]) == {"epoch": epoch, "knn_validation": None}
    assert run.checkpoint == tmp_path / "deep" / "run" / "checkpoint"


def test_config_is_plain_yaml(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run", CONFIG):
        pass
    entries = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert entries["seed"] == 3
    assert entries["encoder"]["preset"] == "stgcn"
    assert entries["split"]["zero_shot"] is None


def test_an_existing_run_is_refused_or_replaced_whole(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunWriter(run, CONFIG) as writer:
        writer.log({"epoch": 0})
    (run / "evaluation").mkdir()
    with pytest.raises(InputError, match="exists already"):
        RunWriter(run, CONFIG)
    writer = RunWriter(run, CONFIG, overwrite=True)
    assert (run / "evaluation").exists(), "nothing is removed before the run begins"
    with writer:
        pass
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "metrics.jsonl"]
    assert (run / "metrics.jsonl").read_text() == ""


def test_overwrite_removes_nothing_but_runs(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(InputError, match="is no run directory"):
            RunWriter(folder, CONFIG, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_empty_directory_may_become_a_run(tmp_path: Path) -> None:
    with RunWriter(tmp_path, CONFIG, overwrite=True):
        pass
    assert (tmp_path / "config.yaml").exists()
