"""The run directory: refused, replaced, gone on with or left alone, and readable while it grows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from mica.data.store import Store
from mica.errors import InputError
from mica.training import run as run_module
from mica.training.config import EngineConfig, OptimizerConfig, PretrainConfig
from mica.training.loop import pretrain
from mica.training.run import RunDirectory
from mica.training.state import states

CONFIG = PretrainConfig(seed=3)


def begun(folder: Path, config: PretrainConfig = CONFIG, **how: bool) -> RunDirectory:
    run = RunDirectory(folder, config, **how)
    run.begin()
    return run


def test_metrics_can_be_read_after_every_line(tmp_path: Path) -> None:
    run = begun(tmp_path / "deep" / "run")
    for epoch in range(3):
        run.log({"epoch": epoch, "knn_validation": None})
        lines = (tmp_path / "deep" / "run" / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[epoch]) == {"epoch": epoch, "knn_validation": None}
    assert run.checkpoint == tmp_path / "deep" / "run" / "checkpoint"


def test_config_is_plain_yaml(tmp_path: Path) -> None:
    begun(tmp_path / "run")
    entries = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert entries["seed"] == 3
    assert entries["encoder"]["preset"] == "stgcn"
    assert entries["split"]["zero_shot"] is None


def test_an_existing_run_is_refused_or_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begun(folder).log({"epoch": 0})
    (folder / "evaluation").mkdir()
    with pytest.raises(InputError, match="exists already"):
        RunDirectory(folder, CONFIG)
    run = RunDirectory(folder, CONFIG, overwrite=True)
    assert (folder / "evaluation").exists(), "nothing is removed before the run begins"
    run.begin()
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "metrics.jsonl"]
    assert (folder / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("how", ["overwrite", "resume"])
def test_nothing_but_runs_is_touched(tmp_path: Path, how: str) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for folder in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(InputError, match=r"is no run directory|exists already"):
            RunDirectory(folder, CONFIG, **{how: True})
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("how", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".config.yaml.x1y2.part"]])
def test_an_empty_directory_may_become_a_run(tmp_path: Path, how: dict[str, bool], left: list[str]) -> None:
    """So may one whose run ended before it had begun, for want of room or by a kill."""
    for name in left:
        (tmp_path / name).touch()
    begun(tmp_path, **how)
    assert (tmp_path / "config.yaml").exists()


def test_who_has_waited_for_a_run_finds_it_as_it_now_is(tmp_path: Path) -> None:
    """A second resume that waits for the lock while the first one finishes throws nothing away."""
    first = begun(tmp_path / "run")
    first.save(1, {"step": 1})
    second = RunDirectory(tmp_path / "run", CONFIG, resume=True)
    early = RunDirectory(tmp_path / "run", CONFIG, resume=True)
    early.resuming = False  # it looked before there was a run
    (first.checkpoint).mkdir()
    for name in ("model.safetensors", "model.json"):
        (first.checkpoint / name).touch()
    first.finish()
    for run in (second, early):
        with run.held():
            assert run.finished


def test_a_kill_while_states_are_dropped_leaves_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / "run")
    run.save(1, {"step": 1})
    run.checkpoint.mkdir()
    for name in ("model.safetensors", "model.json"):
        (run.checkpoint / name).touch()
    monkeypatch.setattr(
        run_module.shutil, "rmtree", lambda path, **_: (path / "step-00000001/tree.json").unlink()
    )
    run.finish()
    assert RunDirectory(tmp_path / "run", CONFIG, resume=True).finished


def test_weights_without_a_description_are_no_finished_run(tmp_path: Path) -> None:
    """A disk that fills between the two leaves what nobody can load: a resume has to go on."""
    run = begun(tmp_path / "run")
    run.checkpoint.mkdir()
    (run.checkpoint / "model.safetensors").touch()
    assert not RunDirectory(tmp_path / "run", CONFIG, resume=True).finished


@pytest.mark.parametrize("text", ["database: postgres\n", "- a list\n", "encoder: [", "\x00"])
def test_a_folder_with_a_configuration_of_something_else_is_not_overwritten(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="is no run directory"):
        RunDirectory(tmp_path, CONFIG, overwrite=True)


def test_a_torn_state_takes_no_place_of_a_good_one(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    for step in (1, 2):
        run.save(step, {"step": step})
    for step in (2, 3):
        (tmp_path / "run" / "state" / f"step-{step:08}" / "tree.json").write_text("torn")
        again = RunDirectory(tmp_path / "run", CONFIG, resume=True)
        with pytest.warns(UserWarning, match="torn"):
            state = again.begin()
        assert state is not None
        assert state["step"] == 1
        again.save(3, {"step": 3})


def test_a_broken_step_after_the_save_is_logged_once(tmp_path: Path) -> None:
    """Its number is how many came before it: at the save there had been as many."""
    run = begun(tmp_path / "run")
    for step in (3, 4):
        run.log({"step": step}, run_module.BROKEN)
    run.save(4, {"step": 4})
    RunDirectory(tmp_path / "run", CONFIG, resume=True).begin()
    assert (tmp_path / "run" / "broken.jsonl").read_text() == '{"step": 3}\n'


def test_what_was_logged_after_the_save_is_dropped_at_a_resume(tmp_path: Path) -> None:
    run = begun(tmp_path / "run")
    for step in (2, 4, 6):
        run.log({"step": step})
        if step == 4:
            run.save(step, {"step": step, "weight": torch.ones(2)})
    with (tmp_path / "run" / "metrics.jsonl").open("a") as torn:
        torn.write('{"step": 8, "lo')
    again = RunDirectory(tmp_path / "run", CONFIG, resume=True)
    state = again.begin()
    assert state is not None
    assert state["step"] == 4
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"step": 2}\n{"step": 4}\n'
    assert not again.finished


def test_a_run_without_a_save_begins_anew_at_a_resume(tmp_path: Path) -> None:
    begun(tmp_path / "run").log({"step": 2})
    run = RunDirectory(tmp_path / "run", CONFIG, resume=True)
    assert run.begin() is None
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""


def test_a_run_under_way_is_refused_with_the_way_to_go_on(tmp_path: Path) -> None:
    begun(tmp_path / "run").save(1, {"step": 1})
    with pytest.raises(InputError, match=r"not finished\n  hint: pass --resume"):
        RunDirectory(tmp_path / "run", CONFIG)
    with pytest.raises(InputError, match="to be overwritten and to be resumed"):
        RunDirectory(tmp_path / "run", CONFIG, overwrite=True, resume=True)
    assert len(states(tmp_path / "run")) == 1


@pytest.mark.parametrize("how", ["overwrite", "resume"])
def test_two_processes_never_train_one_run(
    tiny_store: Store,
    tiny_config: Callable[..., PretrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    monkeypatch.setattr(run_module, "PATIENCE", 0.1)
    config, folder = tiny_config(), tmp_path / "run"
    begun(folder, config).save(1, {"step": 1})
    with RunDirectory(folder, config, resume=True).held():
        with pytest.raises(
            InputError, match=r"run: another process is training this run\n  hint: wait for it"
        ):
            pretrain(config, tiny_store, folder, **{how: True})
        assert len(states(folder)) == 1, "nothing is removed before the lock is held"
    pretrain(config, tiny_store, folder, overwrite=True)
    assert not (folder / "state").exists()


def test_all_but_the_lock_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begun(folder).save(1, {"step": 1})
    (tmp_path / "kept.txt").write_text("not ours")
    (folder / "link").symlink_to(tmp_path / "kept.txt")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "evaluation" / "deep").mkdir(parents=True)
    run = RunDirectory(folder, CONFIG, overwrite=True)
    with run.held():
        run.begin()
        left = {str(path.relative_to(folder)) for path in folder.rglob("*")}
        assert left == {"config.yaml", "metrics.jsonl", ".lock"}
    assert (tmp_path / "kept.txt").exists()


def test_what_was_logged_is_on_the_disk_before_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, order = begun(tmp_path / "run"), []
    monkeypatch.setattr(run_module, "sync", lambda file: order.append(file.name))
    monkeypatch.setattr(run_module, "write_state", lambda *_: order.append("state"))
    run.log({"step": 0}, run_module.STARTS)
    run.save(1, {"step": 1})
    assert order == ["metrics.jsonl", "starts.jsonl", "state"]


def test_a_resume_with_other_settings_names_them(tmp_path: Path) -> None:
    begun(tmp_path / "run").save(1, {"step": 1})
    other = replace(CONFIG, seed=4, optimizer=OptimizerConfig(lr=0.5))
    with pytest.raises(InputError) as caught:
        RunDirectory(tmp_path / "run", other, resume=True)
    assert "optimizer.lr: 0.001 before, 0.5 now" in str(caught.value)
    assert "seed: 3 before, 4 now" in str(caught.value)
    RunDirectory(tmp_path / "run", replace(CONFIG, engine=EngineConfig(save_minutes=1)), resume=True)


def test_a_resume_takes_what_an_older_configuration_lacks_as_the_default(tmp_path: Path) -> None:
    begun(tmp_path / "run").save(1, {"step": 1})
    file = tmp_path / "run" / "config.yaml"
    entries = yaml.safe_load(file.read_text())
    del entries["momentum"], entries["optimizer"]["schedule"]
    file.write_text(yaml.safe_dump(entries))
    assert RunDirectory(tmp_path / "run", CONFIG, resume=True).begin() is not None


@pytest.mark.parametrize("text", ["optimizer: [", "just words", "\x00"])
def test_a_damaged_configuration_is_named_at_a_resume(tmp_path: Path, text: str) -> None:
    begun(tmp_path / "run").save(1, {"step": 1})
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config.yaml: cannot be read"):
        RunDirectory(tmp_path / "run", CONFIG, resume=True)
