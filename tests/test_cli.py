"""The command line, from raw files to a score; what is refused is in test_bad_commands.py."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from mica import cli
from mica.cli import data, main, make_parser
from mica.configs import load_config
from mica.data.formats import RECORDED, STREAMED
from mica.data.store import Store, write
from mica.errors import InputError, Interrupted
from mica.evaluation.evaluate import Effort, Evaluation
from mica.evaluation.results import Result
from mica.evaluation.tuning import FROM_SCRATCH, FineTuneConfig
from mica.training.trainer import Trainer

TINY = """
preprocessing: {num_frames: 8}
encoder: {preset: stgcn-small}
heads: {segments: 1, hidden: 16, projection: 8}
augment: {shear: 0.3}
text: none
optimizer: {epochs: 1, batch_size: 16}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path / "tiny.yaml"


def test_pretrain_then_evaluate(
    tiny_store: Store, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = str(tmp_path / "run"), str(tiny_store.path)
    main(
        [
            "pretrain",
            "--config",
            str(recipe),
            "--data",
            data,
            "--out",
            run,
            "--seed",
            "4",
            "--optimizer.lr",
            "2e-3",
        ]
    )
    assert f"run: {run}" in capsys.readouterr().out
    config = load_config(f"{run}/config.yaml")
    assert (config.seed, config.optimizer.lr, config.optimizer.batch_size) == (4, 2e-3, 16)
    main(["evaluate", "knn", "--run", run, "--data", data])
    out = capsys.readouterr().out
    result = json.loads(Path(run, "evaluation", "knn.json").read_text())
    assert all(f"{score['top1']:.1f}" in out for score in result["scores"])
    assert f"results: {Path(run, 'evaluation')}" in out
    main(["evaluate", "knn", "--run", run, "--data", data, "--features", "raw"])
    assert Path(run, "evaluation", "raw-knn.json").is_file()
    main(["pretrain", f"--config={run}/config.yaml", "--data", data, "--out", run, "--overwrite"])
    assert load_config(f"{run}/config.yaml") == config
    assert not Path(run, "evaluation").exists()


def test_an_interrupted_pretraining_says_how_to_go_on(
    tiny_store: Store,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, take = tmp_path / "my run", Trainer.train_step

    def interrupted(self: Trainer, *batch: Tensor) -> dict[str, Tensor]:
        os.kill(os.getpid(), signal.SIGINT)
        return take(self, *batch)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    arguments = ["pretrain", "--config", str(recipe), "--data", str(tiny_store.path), "--out", str(run)]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--overwrite"])
    assert caught.value.code == 130
    said = capsys.readouterr().err
    assert "mica: SIGINT: saved after step 1 of 3" in said
    monkeypatch.undo()
    with pytest.raises(SystemExit):
        main(arguments)
    assert "holds a run that is not finished" in (refused := capsys.readouterr().err)
    assert "pass --resume to go on with it" in refused
    (again,) = [line for line in said.splitlines() if line.startswith("  go on with: ")]
    main(shlex.split(again.removeprefix("  go on with: mica ")))
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [3]


def test_an_interrupted_demo_says_how_to_begin_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise Interrupted("saved after step 1 of 3", signal.SIGINT)

    monkeypatch.setattr("mica.demo.demo", interrupted)
    with pytest.raises(SystemExit):
        main(["demo", "--out", "runs/x"])
    (again,) = [line for line in capsys.readouterr().err.splitlines() if "mica demo" in line]
    command = again[again.index("mica demo") + len("mica ") :]
    assert make_parser().parse_args(shlex.split(command)).demo.overwrite


def test_what_was_found_before_an_error_is_shown(
    tiny_store: Store, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(evaluation: Evaluation, **_: object) -> Iterator[Result]:
        yield evaluation.evaluate("knn")
        raise InputError("the disk is full")

    monkeypatch.setattr("mica.evaluation.suite.evaluate_all", stopped)
    with pytest.raises(SystemExit):
        main(["evaluate", "all", "--run", str(tiny_run), "--data", str(tiny_store.path)])
    assert "knn: k = 1" in capsys.readouterr().out


def test_a_trained_model_is_used(
    tiny_store: Store, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its head, its features, its predictions, its page, and one beside another run."""
    runs = [str(shutil.copytree(tiny_run, tmp_path / name)) for name in ("one", "two")]
    run, data = runs[0], str(tiny_store.path)

    def told(*command: str) -> str:
        capsys.readouterr()
        main(list(command))
        return capsys.readouterr().out

    main(["evaluate", "linear", "--run", run, "--data", data, "--seeds", "1"])
    assert Path(run, "head.safetensors").is_file()
    vectors = tmp_path / "vectors.npz"
    assert "128" in told("embed", "--model", run, "--data", data, "--out", str(vectors))
    with np.load(vectors) as content:
        assert len(content["features"]) == len(tiny_store)
    assert "probability" in told("predict", "--model", run, "--data", data, "--clip", "0", "--top", "2")
    page = tmp_path / "page.html"
    assert str(page) in told("report", "--run", *runs, "--out", str(page))
    assert page.read_text().startswith("<!DOCTYPE html>")
    clips = (tiny_store.clip(i) for i in range(len(tiny_store)))
    other = str(write(tmp_path / "gait.arrow", clips, replace(tiny_store.info, dataset="gait")).path)
    transferred = told("evaluate", "transfer", "--run", run, "--data", other, "--seeds", "1", "--epochs", "1")
    assert "transfer to gait: fine-tuned" in transferred
    fused = told("evaluate", "ensemble", "--run", run, "--data", data, "--with", runs[1])
    assert "weights chosen on validation" in fused


def nw_ucla_clips(folder: Path, frames: int) -> None:
    """A clip of each of ten actions by two subjects, seen from three sides."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for label, action in enumerate((1, 2, 3, 4, 5, 6, 8, 9, 11, 12), start=1):
        for subject in (1, 2):
            for view in (1, 2, 3):
                name = f"a{action:02}_s{subject:02}_e00_v{view:02}"
                content = {
                    "file_name": name,
                    "label": label,
                    "skeletons": random.normal(size=(frames, 20, 3)).tolist(),
                }
                (folder / f"{name}.json").write_text(json.dumps(content))


def test_clips_of_one_frame_are_legal(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nw_ucla_clips(tmp_path / "raw", frames=1)
    data, run = str(tmp_path / "one.arrow"), str(tmp_path / "run")
    main(["prepare", "nw-ucla", "--raw", str(tmp_path / "raw"), "--out", data])
    out = capsys.readouterr().out
    assert "60 clips of nw-ucla" in out
    assert "frames 1 to 1" in out
    assert "found 40 / 20, published 1,020 / 464" in out
    arguments = ["--config", str(recipe), "--data", data, "--out", run, "--split.protocol", "cross-view"]
    main(["pretrain", *arguments, "--preprocessing.stream", "motion"])
    main(["evaluate", "knn", "--run", run, "--data", data])
    assert json.loads(Path(run, "metrics.jsonl").read_text())["loss"] > 0


def test_doctor_prints_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    out = capsys.readouterr().out
    assert out.startswith("versions")
    assert "spectral_gate" in out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--help", ("demo", "prepare", "pretrain", "evaluate", "embed", "predict", "report", "doctor")),
        ("demo --help", ("--out", "--overwrite")),
        (
            "prepare --help",
            ("nw-ucla", "utd-mhad", "ntu60", "ntu120", "pku-mmd-1", "pku-mmd-2", "folder", "synthetic"),
        ),
        ("prepare --help", ("ctr-gcn", "pyskl", "agcn", "goes on where it was")),
        ("prepare utd-mhad --help", ("--raw", "--out", "--overwrite", "--processes", "--skip-broken")),
        ("prepare ntu120 --help", ("--missing-list", "zip")),
        ("prepare folder --help", ("--layout", "--units", "millimetres", "--frame-rate", "docs/own-data.md")),
        ("inspect --help", ("--clip", "FILE.gif", "FILE.html")),
        ("convert --help", ("--to-layout", "--data")),
        ("export --help", ("ctr-gcn,pyskl", "--protocol", "--frames")),
        ("layouts --help", ("--out",)),
        (
            "evaluate --help",
            ("linear", "knn", "finetune", "semi", "transfer", "zero-shot", "ensemble", "all"),
        ),
        ("evaluate all --help", ("--run", "--data", "--transfer-to", "--with", "--seeds", "--epochs")),
        ("embed --help", ("--model", "--data", "--files", ".parquet", "text-space")),
        ("predict --help", ("--model", "--clip", "--texts", "--top")),
        ("export-encoder --help", ("--model", "--out", "--frames", "ONNX")),
        ("report --help", ("--run", "--data", "--out")),
        ("evaluate knn --help", ("--run", "--data", "--features")),
        ("report --help", ("--run", "--data")),
        (
            "pretrain --help",
            ("--config", "--optimizer.lr", "--split.zero_shot", "--augment.mirror", "synthetic"),
        ),
        ("pretrain --help", ("peak learning rate", "passes over the clips")),
    ],
)
def test_help_names_what_there_is(
    command: str, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(command.split())
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert [word for word in words if word not in text] == []


def test_every_format_can_be_prepared() -> None:
    assert set(data.RECORDED) == set(RECORDED)
    assert set(data.STREAMED) == set(STREAMED)


def test_a_stop_by_the_user_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", stop)
    with pytest.raises(SystemExit) as exit_:
        main(["doctor"])
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "mica: stopped\n"


def test_flags_stand_beside_a_recipe_in_any_order(recipe: Path) -> None:
    parsed = make_parser().parse_args(
        ["pretrain", "--seed", "7", "--data", "a", "--config", str(recipe), "--out", "b", "--knn_every", "2"]
    )
    assert (parsed.pretrain.knn_every, parsed.pretrain.heads.hidden) == (2, 16)


def test_installed_entry_point(tmp_path: Path) -> None:
    """A process of its own: status 2 and two lines, not a page."""
    code = "import sys; from mica.cli import main; main(sys.argv[1:])"
    arguments = ["prepare", "nw-ucla", "--raw", str(tmp_path / "nowhere"), "--out", str(tmp_path / "a.arrow")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"mica: error: {tmp_path / 'nowhere'}: no such file or directory",
        "  hint: give the folder of the raw files, or a zip of it",
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_gone_is_no_error() -> None:
    """As behind `| head -1`."""
    code = "import sys; from mica.cli import main; main(sys.argv[1:])"
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-c", code, "layouts"],
            stdout=gone,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_frames_of_an_export(tiny_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "x.npz"
    main(["export", "ctr-gcn", "--data", str(tiny_store.path), "--out", str(out), "--frames", "15"])
    with np.load(out) as content:
        assert content["x_test"].shape[:2] == (64, 15)


def test_what_fine_tuning_is_told(tiny_run: Path, tiny_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Effort] = []
    monkeypatch.setattr(Evaluation, "evaluate", lambda self, *_: told.append(self.effort))
    monkeypatch.setattr("mica.cli.evaluation._show", lambda *_: None)
    command = ["evaluate", "finetune", "--run", str(tiny_run), "--data", str(tiny_store.path)]
    main([*command, "--seeds", "2", "--lr", "0.5"])
    main([*command, "--features", "random", "--epochs", "7"])
    assert told == [
        Effort(seeds=2, training=replace(FineTuneConfig(), lr=0.5)),
        Effort(training=replace(FROM_SCRATCH, epochs=7)),
    ]
