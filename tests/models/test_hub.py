"""Models by name: from a folder, from the hub's cache, and to the hub. Nothing here asks the network."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, constants, hub_mixin
from safetensors.torch import load_file, save_file
from torch import Tensor

from mica.errors import InputError
from mica.models import hub
from mica.models.hub import fingerprint
from mica.models.mica import MICA, ModelCard
from mica.models.readme import MARK, ResultLine, describe_model
from mica.skeleton import get_layout, layout_to_dict

from .cards import CARD

FILES = ["README.md", "model.json", "model.safetensors"]
NAME, COMMIT = "somebody/mica-nw-ucla", "0123456789abcdef0123456789abcdef01234567"
RESULTS = (
    ResultLine("nw-ucla", "cross-view", "linear", "SGD", 81.26, 0.44, 464, "words"),
    ResultLine("nw-ucla", "cross-view", "knn", "k = 1", 75.0, None, 464, "words"),
    ResultLine("utd-mhad", "cross-subject", "transfer", "fine-tuned", 60.0, 1.0, 430, "words"),
)
X = torch.randn(2, 3, 8, 20, 1, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def model() -> MICA:
    torch.manual_seed(0)
    return CARD.build().eval()


@pytest.fixture
def folder(model: MICA, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_HUB_OFFLINE=1 in the environment, which is read when the package is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def cached(source: Path, cache: Path, commit: str = COMMIT, ref: str = "main") -> Path:
    """Lay a model out as the hub's cache does: blobs, and snapshots that link to them."""
    storage = cache / f"models--{NAME.replace('/', '--')}"
    snapshot = storage / "snapshots" / commit
    for folder in (snapshot, storage / "blobs", storage / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (storage / "refs" / ref).write_text(commit)
    for file in source.iterdir():
        blob = storage / "blobs" / f"{commit[:8]}-{file.name}"
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blob)
    return snapshot


def same(model: MICA, other: MICA) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_folder_is_three_files_and_comes_back(model: MICA, folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == FILES
    for name in (folder, str(folder)):
        loaded = MICA.from_pretrained(name)
        assert (loaded.card, loaded.training, type(loaded)) == (CARD, False, MICA)
        assert same(loaded, model)
        assert torch.equal(loaded.features(X), model.features(X))


def test_a_folder_without_readme_is_read(model: MICA, folder: Path) -> None:
    (folder / "README.md").unlink()
    loaded = MICA.from_pretrained(folder)
    assert same(loaded, model)
    assert loaded.readme is None


def test_built_models_have_their_card_and_others_cannot_be_saved(model: MICA, tmp_path: Path) -> None:
    assert model.card is CARD
    assert copy.deepcopy(model).card == CARD
    stranger = MICA(model.encoder, CARD.heads, None)
    with pytest.raises(ValueError, match=r"ModelCard\.build did not make"):
        stranger.save_pretrained(tmp_path / "stranger")
    assert not list((tmp_path / "stranger").iterdir())


def test_failing_in_the_middle_leaves_what_was_there(
    model: MICA, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def fail(weights: dict[str, Tensor], file: Path) -> None:
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(hub, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        model.save_pretrained(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_from_the_cache_of_the_hub(model: MICA, folder: Path, tmp_path: Path, offline: None) -> None:
    cached(folder, tmp_path / "cache")
    for chosen in ({}, {"revision": "main"}, {"revision": COMMIT}, {"local_files_only": True}):
        loaded = MICA.from_pretrained(NAME, cache_dir=tmp_path / "cache", **chosen)
        assert same(loaded, model)
        assert loaded.card == CARD


def test_revisions_are_told_apart(model: MICA, folder: Path, tmp_path: Path, offline: None) -> None:
    cached(folder, tmp_path / "cache")
    other = replace(CARD, seed=4).build()
    other.save_pretrained(tmp_path / "other")
    cached(tmp_path / "other", tmp_path / "cache", commit="f" * 40, ref="v2")
    for revision, seed in (("main", 3), ("v2", 4), ("f" * 40, 4)):
        loaded = MICA.from_pretrained(NAME, cache_dir=tmp_path / "cache", revision=revision)
        assert (loaded.card.seed, same(loaded, other)) == (seed, seed == 4)


def test_a_snapshot_that_lacks_files(folder: Path, tmp_path: Path, offline: None) -> None:
    (cached(folder, tmp_path / "cache") / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        MICA.from_pretrained(NAME, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("chosen", [{}, {"revision": "v9"}, {"local_files_only": True}])
def test_out_of_reach(
    chosen: dict[str, Any], tmp_path: Path, offline: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "revision" in chosen:
        cached(folder, tmp_path / "cache")
    with pytest.raises(InputError, match=rf"^{NAME}: no such directory, and the Hugging Face Hub") as caught:
        MICA.from_pretrained(NAME, cache_dir=tmp_path / "cache", **chosen)
    assert "\n  hint: check the name, the revision and the connection" in str(caught.value)


@pytest.mark.parametrize("error", [ConnectionError("reset"), RuntimeError("quota"), KeyError()])
def test_whatever_the_hub_raises_is_told(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **keywords: object) -> str:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=str(error).strip() or "KeyError"):
        MICA.from_pretrained(NAME)


def test_what_is_asked_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def download(name: str, **keywords: Any) -> str:
        asked.append((name, keywords))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    wishes = {"revision": "v2", "cache_dir": tmp_path, "token": "hf_x", "local_files_only": True}
    MICA.from_pretrained(NAME, **wishes, force_download=True)
    assert asked[0][0] == NAME
    assert sorted(asked[0][1].pop("allow_patterns")) == FILES
    assert asked[0][1] == {**wishes, "force_download": True}


@pytest.mark.parametrize(
    "name", [Path(NAME), "/nowhere/at/all", "./model", "runs/nw/checkpoint", "..", "a b"]
)
def test_paths_are_not_looked_for_on_the_hub(
    name: str | Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub, "snapshot_download", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"no such files: model.json, model.safetensors\n  hint: .*mica pretrain"
    ):
        MICA.from_pretrained(name)


def test_a_directory_goes_before_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch, model: MICA, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub, "snapshot_download", None)
    monkeypatch.chdir(tmp_path)
    assert same(MICA.from_pretrained("model"), model)


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What reached HfApi: the repository, and the files as they were in the folder."""
    seen: dict[str, Any] = {}

    def create_repo(self: HfApi, repo_id: str, **keywords: Any) -> SimpleNamespace:
        seen["created"] = (repo_id, keywords)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: Path, **keywords: Any) -> str:
        seen["files"] = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
        seen["upload"] = (repo_id, keywords["commit_message"], keywords["revision"])
        return "https://huggingface.co/commit"

    monkeypatch.setattr(hub_mixin.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(hub_mixin.HfApi, "upload_folder", upload_folder)
    return seen


def test_push(model: MICA, uploaded: dict[str, Any], folder: Path) -> None:
    loaded = MICA.from_pretrained(folder)
    assert loaded.push_to_hub(NAME, private=True, commit_message="first", branch="v2").startswith("https://")
    assert (uploaded["created"][0], uploaded["created"][1]["private"]) == (NAME, True)
    assert uploaded["upload"] == (NAME, "first", "v2")
    assert uploaded["files"] == {file.name: file.read_bytes() for file in folder.iterdir()}


def with_results(folder: Path) -> str:
    """Put the scores into the README of a folder, as an evaluation does."""
    text = describe_model(CARD, RESULTS)
    (folder / "README.md").write_text(text)
    return text


def test_results_survive_loading_saving_and_pushing(
    folder: Path, uploaded: dict[str, Any], tmp_path: Path
) -> None:
    text = with_results(folder)
    loaded = MICA.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "again")
    loaded.push_to_hub(NAME)
    assert (tmp_path / "again" / "README.md").read_text() == text
    assert uploaded["files"]["README.md"].decode() == text


def test_results_of_other_weights_are_dropped(folder: Path, tmp_path: Path) -> None:
    with_results(folder)
    loaded = MICA.from_pretrained(folder)
    with torch.no_grad():
        next(loaded.encoder.parameters()).view(-1)[0] += 1e-3
    loaded.save_pretrained(tmp_path / "tuned")
    assert (tmp_path / "tuned" / "README.md").read_text() == describe_model(CARD)
    loaded.readme = describe_model(CARD, RESULTS[:1])  # what was measured of the new weights
    loaded.save_pretrained(tmp_path / "tuned")
    assert "81.3 ± 0.4" in (tmp_path / "tuned" / "README.md").read_text()


def test_a_readme_of_somebody_else_stays(model: MICA, folder: Path, tmp_path: Path) -> None:
    mine = describe_model(CARD).replace(MARK, "My words.")
    (folder / "README.md").write_text(mine)
    model.save_pretrained(folder)
    assert (folder / "README.md").read_text() == mine
    loaded = MICA.from_pretrained(folder)
    with torch.no_grad():
        loaded.projector[-1].bias.add_(1)
    loaded.save_pretrained(tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "README.md").read_text() == mine


def test_metadata_is_what_the_hub_reads() -> None:
    read = huggingface_hub.ModelCard(describe_model(CARD, RESULTS)).data
    assert (read.library_name, read.datasets, read.pipeline_tag) == (
        "mica",
        ["nw-ucla"],
        "feature-extraction",
    )
    assert "skeleton-based-action-recognition" in read.tags
    scores = {
        (score.dataset_name, score.dataset_config, score.dataset_split, score.metric_name): score.metric_value
        for score in read.eval_results
    }
    assert scores == {
        ("nw-ucla", "cross-view", "test", "top-1 %, linear, SGD"): 81.26,
        ("nw-ucla", "cross-view", "test", "top-1 %, knn, k = 1"): 75.0,
        ("utd-mhad", "cross-subject", "test", "top-1 %, transfer, fine-tuned"): 60.0,
    }
    assert huggingface_hub.ModelCard(describe_model(CARD)).data.eval_results is None


def test_what_a_readme_says() -> None:
    text = describe_model(CARD, RESULTS)
    assert "| nw-ucla, cross-view | linear, SGD | 81.3 ± 0.4 | 464 | as words |" in text
    assert "| nw-ucla, cross-view | knn, k = 1 | 75.0 | 464 | as words |" in text
    assert "Classes: 2 of 3; it has never seen *throw*." in text
    assert "has seen the labels of its clips as words" in text
    assert "resampled to 8" in text
    silent = describe_model(replace(CARD, text="none", text_width=None, seen_classes=(0, 1, 2)))
    assert "It has seen no labels" in silent
    assert "Classes: 3 of 3.\n" in silent
    assert "never seen" not in silent
    assert "not been evaluated" in silent
    assert "embed" not in silent.split("```")[1]


def own_layout() -> ModelCard:
    described = layout_to_dict(get_layout("coco-17")) | {"name": "of my own"}
    return replace(CARD, layout="of my own", own_layout=described, text="none", text_width=None)


@pytest.mark.parametrize("card", [CARD, own_layout()], ids=["with text", "own layout, no text"])
def test_the_example_of_a_readme_runs(
    card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card.build().save_pretrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["features"].shape == (1, scope["model"].num_features)
    assert ("embedding" in scope) == (card.text_width is not None)


def test_fingerprints_tell_weights_apart(model: MICA) -> None:
    before = fingerprint(model)
    assert fingerprint(copy.deepcopy(model)) == before
    changes: list[Callable[[MICA], object]] = [
        lambda model: model.encoder.input_norm.num_batches_tracked.add_(1),
        lambda model: model.semantic[-1].bias.data[-1].add_(1e-6),
        lambda model: model.half(),
    ]
    for change in changes:
        changed = copy.deepcopy(model)
        change(changed)
        assert fingerprint(changed) != before


def test_nothing_but_safetensors_is_read(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        MICA.from_pretrained(folder)
    save_file(weights, folder / "model.safetensors")
    assert MICA.from_pretrained(folder).card == CARD


def test_runs_of_the_first_release_are_read(model: MICA, tmp_path: Path) -> None:
    """Two files, as they have been written since format 1."""
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    entries = {
        "format": 1,
        "layout": "kinect-20",
        "preprocessing": {"num_frames": 8, "stream": "bone", "align_view": True, "center": "clip"},
        "encoder": {
            "preset": "stgcn-small", "frest": True, "groups": 2, "sparsity": "joint", "spatial": "graph",
            "dropout": 0.0,
        },
        "heads": {"pooling": "parts", "segments": 2, "hidden": 16, "projection": 10},
        "text": "minilm", "text_path": None, "text_width": 12, "dataset": "nw-ucla", "protocol": "cross-view",
        "part": "fit", "class_names": ["pick up", "wave \u2013 both hands", "throw"], "seen_classes": [0, 1],
        "seed": 3, "own_layout": None,
    }  # fmt: skip
    (tmp_path / "model.json").write_text(json.dumps(entries))
    loaded = MICA.from_pretrained(tmp_path)
    assert loaded.card == CARD
    assert same(loaded, model)


LIMITED = """
import errno, resource, sys, torch
from pathlib import Path
from mica.models.hub import save_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    save_tensors({"x": torch.ones(1000)}, Path(sys.argv[1]))
except OSError as error:
    print(error.errno == errno.EFBIG, error.filename == sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on files' sizes is set as Unix does")
def test_what_the_system_refuses_is_an_error_of_the_system(tmp_path: Path) -> None:
    """A limit on files' sizes stands for a full disk."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "True True\n", done.stderr
