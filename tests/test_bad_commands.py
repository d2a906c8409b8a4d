"""Bad input on the command line: status 2, one message that names the place, no traceback, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from mica.cli import main
from mica.data.clip import Clip, StoreInfo
from mica.data.store import Store, write
from mica.models import text
from mica.training import trainer

CLIP = "a01_s02_e00_v01"
FRAMES = np.random.default_rng(0).normal(size=(3, 20, 3))
TINY = """
preprocessing: {num_frames: 8}
encoder: {preset: stgcn-small}
heads: {segments: 1, hidden: 16, projection: 8}
text: none
optimizer: {epochs: 1, batch_size: 16}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory without a hub, with a recipe in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-hub"))
    monkeypatch.setenv("MICA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trainer, "load_text_encoder", text.load_text_encoder)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


def everything(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


def refused(place: Path, capsys: pytest.CaptureFixture[str], command: str, *named: str) -> str:
    """Run a command that must fail and leave everything as it was; return its message."""
    before = everything(place)
    with pytest.raises(SystemExit) as exit_:
        main(command.split())
    captured = capsys.readouterr()
    assert exit_.value.code == 2
    message = captured.err[captured.err.rindex("mica: error:") :]
    assert captured.err.count("mica: error:") == 1
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert "usage:" not in captured.err
    assert [word for word in named if word not in message] == [], message
    assert everything(place) == before
    return message


def raw_json(name: str = f"{CLIP}.json", cut: int | None = None, **changes: Any) -> Callable[[Path], None]:
    content = {"file_name": CLIP, "label": 1, "skeletons": FRAMES.tolist(), **changes}
    return lambda folder: (folder / name).write_text(json.dumps(content)[:cut]) and None


def raw_mat(content: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        file = folder / "a3_s2_t1_skeleton.mat"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            savemat(file, content)

    return make


NAN_FRAME = np.where(np.arange(3)[:, None, None] == 2, np.nan, FRAMES).tolist()

# (what is wrong, data set, how to make the raw directory, what the message must name)
BAD_RAW: list[tuple[str, str, Callable[[Path], None], tuple[str, ...]]] = [
    ("empty directory", "nw-ucla", lambda folder: None, ("raw", "no .json files")),
    ("empty directory", "utd-mhad", lambda folder: None, ("raw", "no .mat files")),
    ("missing directory", "nw-ucla", lambda folder: folder.rmdir(), ("raw", "no such file or directory")),
    ("truncated JSON", "nw-ucla", raw_json(cut=200), (f"raw/{CLIP}.json", f"clip {CLIP}", "truncated")),
    (
        "wrong joint count",
        "nw-ucla",
        raw_json(skeletons=FRAMES[:, :19].tolist()),
        (f"raw/{CLIP}.json", f"clip {CLIP}", "field 'skeletons'", "19 joints", "20"),
    ),
    ("NaN frames", "nw-ucla", raw_json(skeletons=NAN_FRAME), (f"clip {CLIP}", "1 of 3 frames", "frame 2")),
    ("all zero", "nw-ucla", raw_json(skeletons=(0 * FRAMES).tolist()), (f"clip {CLIP}", "saw nobody")),
    ("no frames", "nw-ucla", raw_json(skeletons=[]), (f"clip {CLIP}", "field 'skeletons'", "no frames")),
    ("another label", "nw-ucla", raw_json(label=2), (f"raw/{CLIP}.json", "field 'label'", "means 1")),
    ("odd file name", "nw-ucla", raw_json("clip7.json"), ("raw/clip7.json", "a01_s01_e00_v01.json")),
    (
        "unreadable .mat",
        "utd-mhad",
        raw_mat(b"nothing of the kind" * 20),
        ("a3_s2_t1_skeleton.mat", "MATLAB 5"),
    ),
    ("wrong variable", "utd-mhad", raw_mat({"d_iner": FRAMES}), ("clip a3_s2_t1", "d_skel", "found d_iner")),
]


@pytest.mark.parametrize(
    ("dataset", "make", "named"), [pytest.param(*row, id=name) for name, *row in BAD_RAW]
)
def test_bad_raw_data(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    dataset: str,
    make: Callable[[Path], None],
    named: tuple[str, ...],
) -> None:
    (place / "raw").mkdir()
    make(place / "raw")
    refused(place, capsys, f"prepare {dataset} --raw raw --out set.arrow", *named)


@pytest.mark.parametrize("dataset", ["nw-ucla --raw raw", "synthetic"])
def test_prepare_refuses_an_existing_output(
    place: Path, capsys: pytest.CaptureFixture[str], dataset: str
) -> None:
    (place / "raw").mkdir()
    raw_json()(place / "raw")
    (place / "set.arrow").write_text("precious")
    refused(place, capsys, f"prepare {dataset} --out set.arrow", "set.arrow", "exists already", "--overwrite")


@pytest.mark.parametrize(
    "command",
    [
        "prepare nw-ucla --raw raw --out folder",
        "prepare synthetic --out folder",
        "convert --data tiny.arrow --to-layout kinect-20 --out folder",
        "export ctr-gcn --data tiny.arrow --out folder",
        "inspect tiny.arrow --clip 0 --out folder.gif",
        "embed --model run --data tiny.arrow --out folder.npz",
        "report --run run --data tiny.arrow --out folder",
        "report --run run other --out folder",
        "export-encoder --model run --out folder.onnx",
    ],
)
def test_a_folder_is_no_file_to_overwrite(
    place: Path, capsys: pytest.CaptureFixture[str], tiny_store: Store, tiny_run: Path, command: str
) -> None:
    for name in ("raw", "folder", "folder.gif", "folder.npz", "folder.onnx"):
        (place / name).mkdir()
    raw_json(cut=200)(place / "raw")  # not looked at
    for name in ("run", "other"):
        shutil.copytree(tiny_run, place / name)
    shutil.copy(tiny_store.path, place / "tiny.arrow")
    refused(place, capsys, f"{command} --overwrite", "folder", "is a folder, expected a file")


def test_a_failing_overwrite_keeps_the_old_store(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "raw").mkdir()
    raw_json(cut=200)(place / "raw")
    (place / "set.arrow").write_text("precious")
    refused(place, capsys, "prepare nw-ucla --raw raw --out set.arrow --overwrite", f"raw/{CLIP}.json")


# (options behind a good command, what the message must name)
BAD_SETTINGS: list[tuple[str, tuple[str, ...]]] = [
    ("--config nosuch", ("'nosuch'", "METHOD/DATASET", "synthetic")),
    ("--encoder.preset resnet", ("field 'encoder'", "'resnet'", "stgcn-small")),
    ("--encoder.groups 7", ("field 'encoder'", "7 groups for 32 channels")),
    ("--encoder.groups 0", ("field 'encoder.groups'",)),
    ("--encoder.temporal_kernel 4", ("field 'encoder'", "temporal_kernel must be odd", "4")),
    ("--encoder.start zero", ("encoder.start", "zero")),
    ("--encoder.dropout 1.5", ("field 'encoder.dropout'", "1.5")),
    ("--encoder.sparsity row", ("encoder.sparsity", "row")),
    ("--heads.segments 0", ("field 'heads.segments'",)),
    ("--heads.projection -1", ("field 'heads.projection'",)),
    ("--heads.pooling max", ("heads.pooling", "max")),
    ("--split.protocol cross-view", ("unknown protocol 'cross-view'", "cross-subject")),
    ("--split.zero_shot 55/5", ("unknown zero-shot split '55/5'",)),
    ("--split.part all", ("split.part", "all")),
    ("--optimizer.epochs 0", ("field 'optimizer.epochs'", "0", "at least 1")),
    ("--optimizer.epochs -3", ("field 'optimizer.epochs'", "-3")),
    ("--optimizer.epochs many", ("optimizer.epochs", "many")),
    ("--optimizer.batch_size 0", ("field 'optimizer.batch_size'",)),
    ("--optimizer.batch_size 1", ("field 'optimizer.batch_size'",)),
    ("--optimizer.batch_size 4000", ("tiny.arrow", "field 'optimizer.batch_size'", "48 clips", "4000")),
    ("--optimizer.batch_size 49", ("48 clips", "give a smaller one, --optimizer.batch_size 32")),
    ("--optimizer.lr -1", ("field 'optimizer.lr'",)),
    ("--optimizer.warmup_epochs -1", ("field 'optimizer.warmup_epochs'",)),
    ("--preprocessing.num_frames 0", ("field 'preprocessing.num_frames'",)),
    ("--augment.mirror 2.0", ("field 'augment.mirror'", "2.0", "between 0 and 1")),
    ("--augment.noise -0.5", ("field 'augment.noise'",)),
    ("--augment.shear -1", ("field 'augment.shear'",)),
    ("--augment.shortest_crop 0", ("field 'augment.shortest_crop'",)),
    ("--augment.corrupt_joints 1.5", ("augment.corrupt_joints", "1.5")),
    ("--objectives.intra 0", ("field 'objectives'", "no term is left")),
    ("--objectives.teacher_temperature 0", ("field 'objectives.teacher_temperature'",)),
    ("--seed many", ("seed", "many")),
    ("--seed 1.5", ("seed", "1.5")),
    ("--seed -1", ("field 'seed'",)),
    ("--precision float16", ("precision", "float16")),
    ("--text word2vec", ("text", "word2vec", "minilm")),
    ("--text clip", ("text encoder 'clip'", "hf download", "minilm")),
    ("--text minilm --text_path nowhere", ("nowhere", "pip install")),
    ("--colour red", ("--colour",)),
    ("--data nowhere.arrow", ("nowhere.arrow", "no such file", "mica prepare")),
    ("--out tiny.yaml", ("tiny.yaml", "exists already", "--overwrite")),
    ("--out . --overwrite", ("is no run directory",)),
    ("--out tiny.yaml/run", ("tiny.yaml/run",)),
]


@pytest.mark.parametrize(("options", "named"), BAD_SETTINGS, ids=[options for options, _ in BAD_SETTINGS])
def test_bad_settings(
    place: Path, capsys: pytest.CaptureFixture[str], tiny_store: Store, options: str, named: tuple[str, ...]
) -> None:
    command = f"pretrain --config tiny.yaml --data {tiny_store.path} --out run"
    refused(place, capsys, f"{command} {options}", *named)


# (what is wrong, content of the recipe, what the message must name beside the file)
BAD_RECIPES: list[tuple[str, str, tuple[str, ...]]] = [
    ("unknown key", "colour: red", ("colour",)),
    ("unknown nested key", "heads: {segmente: 1}", ("segmente",)),
    ("wrong type", "seed: many", ("seed", "many")),
    ("wrong nested type", "optimizer: {epochs: three}", ("optimizer.epochs", "three")),
    ("wrong choice", "split: {part: all}", ("split.part", "all")),
    ("value for a group", "encoder: 3", ("field 'encoder'",)),
    ("malformed", "split: {protocol: [", ("YAML", "line 1")),
    ("empty", "", ("holds no settings",)),
    ("a list", "- 1", ("holds no settings",)),
]


@pytest.mark.parametrize(("content", "named"), [pytest.param(*row, id=name) for name, *row in BAD_RECIPES])
def test_bad_recipe(
    place: Path, capsys: pytest.CaptureFixture[str], tiny_store: Store, content: str, named: tuple[str, ...]
) -> None:
    (place / "bad.yaml").write_text(content)
    command = f"pretrain --config bad.yaml --data {tiny_store.path} --out run"
    refused(place, capsys, command, "bad.yaml", *named)


def test_pretrain_refuses_an_existing_run(
    place: Path, capsys: pytest.CaptureFixture[str], tiny_store: Store, tiny_run: Path
) -> None:
    shutil.copytree(tiny_run, place / "run")
    command = f"pretrain --config tiny.yaml --data {tiny_store.path} --out run"
    refused(place, capsys, command, "run", "exists already", "--overwrite")


@pytest.mark.parametrize("options", ["--encoder.groups 7", "--optimizer.epochs 0", "--text clip", "--seed x"])
def test_a_failing_overwrite_keeps_the_old_run(
    place: Path, capsys: pytest.CaptureFixture[str], tiny_store: Store, tiny_run: Path, options: str
) -> None:
    shutil.copytree(tiny_run, place / "run")
    command = f"pretrain --config tiny.yaml --data {tiny_store.path} --out run --overwrite {options}"
    refused(place, capsys, command)


@pytest.mark.parametrize(
    "command",
    [
        "pretrain --config tiny.yaml --data set.arrow --out new",
        "evaluate knn --run run --data set.arrow",
        "report --run run --data set.arrow",
    ],
)
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.unlink(), "no such file"),
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "truncated"),
        (lambda file: file.write_bytes(b"PK\x03\x04 a zip file"), "not an Arrow file"),
    ],
    ids=["missing", "truncated", "not Arrow"],
)
def test_bad_store(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    tiny_store: Store,
    tiny_run: Path,
    command: str,
    damage: Callable[[Path], object],
    problem: str,
) -> None:
    shutil.copytree(tiny_run, place / "run")
    shutil.copy(tiny_store.path, place / "set.arrow")
    damage(place / "set.arrow")
    refused(place, capsys, command, "set.arrow", problem, "mica prepare")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def other_preset(run: Path) -> None:
    file = run / "checkpoint" / "model.json"
    file.write_text(file.read_text().replace('"hidden": 16', '"hidden": 24'))


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("report --run one two", ("--out comparison.html",)),
        ("report --run one", ("data", "--data STORE.arrow")),
        ("predict --model run", ("either a store or files", "--files")),
        ("evaluate linear --run run --data tiny.arrow --seeds 0", ("seeds", "at least 1")),
    ],
)
def test_options_that_do_not_go_together(
    place: Path, capsys: pytest.CaptureFixture[str], tiny_store: Store, command: str, named: tuple[str, ...]
) -> None:
    shutil.copy(tiny_store.path, "tiny.arrow")
    refused(place, capsys, command, *named)


@pytest.mark.parametrize("command", ["evaluate linear", "evaluate knn", "report"])
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (shutil.rmtree, ("run", "no such file", "mica pretrain")),
        (lambda run: shutil.rmtree(run / "checkpoint"), ("model.json", "no such file")),
        (lambda run: (run / "checkpoint/model.safetensors").unlink(), ("model.safetensors", "no such file")),
        (lambda run: cut(run / "checkpoint/model.safetensors"), ("model.safetensors", "damaged")),
        (lambda run: cut(run / "checkpoint/model.json"), ("model.json", "not JSON")),
        (other_preset, ("model.safetensors", "do not fit", "projector")),
    ],
    ids=["no run", "no checkpoint", "no weights", "truncated weights", "truncated card", "other weights"],
)
def test_bad_checkpoint(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    tiny_store: Store,
    tiny_run: Path,
    command: str,
    damage: Callable[[Path], object],
    named: tuple[str, ...],
) -> None:
    shutil.copytree(tiny_run, place / "run")
    damage(place / "run")
    refused(place, capsys, f"{command} --run run --data {tiny_store.path}", *named)


@pytest.mark.parametrize(
    ("changes", "joints", "named"),
    [
        ({"layout": "kinect-20"}, 20, ("other.arrow", "field 'layout'", "ntu-25", "kinect-20")),
        ({"dataset": "ntu60"}, 25, ("other.arrow", "field 'dataset'", "synthetic", "ntu60")),
        (
            {"class_names": ("one", "two")},
            25,
            ("other.arrow", "field 'class_names'", "16 classes", "2 classes"),
        ),
    ],
    ids=["layout", "data set", "classes"],
)
def test_store_of_another_kind_than_the_run(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    tiny_store: Store,
    tiny_run: Path,
    changes: dict[str, Any],
    joints: int,
    named: tuple[str, ...],
) -> None:
    info: StoreInfo = replace(tiny_store.info, **changes)
    keypoints = np.ones((4, 1, joints, 3), np.float32)
    write("other.arrow", [Clip(f"s{subject}", keypoints, 0, subject) for subject in range(1, 5)], info)
    shutil.copytree(tiny_run, place / "run")
    refused(place, capsys, "evaluate knn --run run --data other.arrow", *named)
    assert asdict(tiny_store.info)["layout"] == "ntu-25"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("", ("demo", "--help")),
        ("frobnicate", ("frobnicate", "prepare")),
        ("prepare", ("ntu60", "--help")),
        ("prepare ntu61 --raw raw --out set.arrow", ("ntu61", "ntu60")),
        ("prepare ntu60 --out set.arrow", ("raw",)),
        ("prepare folder --raw . --units inches --out set.arrow", ("units", "inches", "metres")),
        ("export npz --data tiny.arrow --out b.npz", ("npz", "ctr-gcn")),
        ("pretrain --out run", ("data",)),
        ("evaluate", ("linear", "--help")),
        ("evaluate probing --run run --data tiny.arrow", ("probing", "linear")),
        ("evaluate finetune --run run --data tiny.arrow --features raw", ("raw", "random")),
        ("evaluate ensemble --run run --data tiny.arrow", ("ensemble.with",)),
        ("evaluate knn --run run --data tiny.arrow --features deep", ("deep", "random")),
        ("evaluate knn --data tiny.arrow", ("run",)),
    ],
)
def test_bad_arguments(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, named: tuple[str, ...]
) -> None:
    assert "--help" in refused(place, capsys, command, *named)


def test_zero_shot_needs_a_run_with_text(
    place: Path, capsys: pytest.CaptureFixture[str], tiny_store: Store, tiny_run: Path
) -> None:
    shutil.copytree(tiny_run, place / "run")
    command = f"evaluate zero-shot --run run --data {tiny_store.path}"
    refused(place, capsys, command, "run", "pretrained with text", "--text minilm")


def test_unwritable_results_are_an_error_of_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], tiny_store: Store, tiny_run: Path
) -> None:
    shutil.copytree(tiny_run, place / "run")
    (place / "run" / "evaluation").write_text("a file where a directory belongs")
    refused(place, capsys, f"evaluate knn --run run --data {tiny_store.path}", "evaluation")


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("inspect tiny.arrow --clip nobody --out clip.gif", ("nobody", "tiny.arrow")),
        ("inspect tiny.arrow --clip 0 --out clip.mp4", ("clip.mp4", ".gif", ".html")),
        ("inspect tiny.arrow --clip 0", ("--clip", "--out")),
        ("inspect none.arrow", ("none.arrow", "no such file")),
        ("convert --data tiny.arrow --to-layout none --out b.arrow", ("'none'", "kinect-20")),
        ("convert --data tiny.arrow --to-layout ntu-25 --out tiny.arrow", ("tiny.arrow", "exists already")),
        (
            "export ctr-gcn --data tiny.arrow --protocol cross-view --out b.npz",
            ("cross-view", "cross-subject"),
        ),
        ("layouts none", ("'none'", "smpl-22")),
        ("prepare ntu60 --raw raw --missing-list none.txt --out set.arrow", ("none.txt",)),
        ("prepare ntu60 --raw tiny.arrow --out set.arrow", ("tiny.arrow", "no .skeleton files")),
    ],
)
def test_bad_data_commands(
    place: Path, capsys: pytest.CaptureFixture[str], tiny_store: Store, command: str, named: tuple[str, ...]
) -> None:
    shutil.copy(tiny_store.path, place / "tiny.arrow")
    (place / "raw").mkdir()
    (place / "raw" / "S001C001P001R001A001.skeleton").write_text("1\n0\n")
    refused(place, capsys, command, *named)
