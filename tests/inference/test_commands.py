"""What the commands do, from a run's directory to a file or a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.head import HEAD, Head, save_head
from mica.evaluation.linear import LinearClassifier
from mica.inference import predict
from mica.inference.commands import embed_command, open_model, predict_command
from mica.inference.embed import embed_store


class FakeEncoder:
    """Each text an axis, in their order."""

    name, fingerprint, width = "fake", "0" * 16, 12

    def encode(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(self.width)[torch.arange(len(texts)) % self.width]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MICA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(predict, "load_text_encoder", lambda name, path=None: FakeEncoder())


@pytest.fixture
def run(text_run: Path, tmp_path: Path) -> Path:
    return Path(copytree(text_run, tmp_path / "run"))


def add_head(run: Path, persons: int = 1) -> Head:
    """A head whose weights are the features of three clips' classes, made up."""
    model = open_model(run)
    weight = torch.randn(3, model.num_features, generator=torch.Generator().manual_seed(0))
    head = Head(LinearClassifier(weight, torch.zeros(3)), ("x", "y", "z"), "mine", "as-given", persons)
    save_head(run / HEAD, head, model)
    return head


@pytest.mark.parametrize("place", [".", "checkpoint"])
def test_a_model_is_found_in_a_run_and_by_itself(text_run: Path, place: str) -> None:
    model = open_model(text_run / place)
    assert not model.training
    assert model.card.dataset == "synthetic"


def test_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        open_model(tmp_path / "nothing")


@pytest.mark.parametrize("what", ["features", "text-space"])
def test_embeds_a_store(run: Path, tiny_store: Store, tmp_path: Path, what: Any) -> None:
    out = tmp_path / "a.npz"
    said = embed_command(run, out, data=tiny_store.path, what=what, progress=False)
    expected = np.concatenate(list(embed_store(open_model(run), tiny_store, what=what).blocks))
    with np.load(out, allow_pickle=False) as content:
        np.testing.assert_array_equal(content["features"], expected)
    assert said == f"{what}: {out}, 128 x {expected.shape[1]:,} float32"


def test_embeds_files(run: Path, tiny_store: Store, tmp_path: Path) -> None:
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    for place, file in enumerate(files):
        np.save(file, tiny_store.keypoints(place) * 100)
    out = tmp_path / "made" / "a.parquet"
    embed_command(run, out, files=files, units="centimetres", layout="ntu-25", progress=False)
    table = pq.read_table(out)
    assert table["name"].to_pylist() == [str(file) for file in files]
    expected = next(embed_store(open_model(run), tiny_store).blocks)[:2]
    np.testing.assert_allclose(np.array(table["features"].to_pylist()), expected, atol=1e-4)


def test_an_output_is_refused_before_any_work(run: Path, tiny_store: Store, tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    out.write_text("mine")
    for wanted, problem in ((out, "exists already"), (tmp_path / "a.txt", "as .npz or .parquet")):
        with pytest.raises(InputError, match=problem):
            embed_command(tmp_path / "no model", wanted, data=tiny_store.path)
    embed_command(run, out, data=tiny_store.path, overwrite=True, progress=False)
    assert out.stat().st_size > 1000


@pytest.mark.parametrize("both", [True, False])
def test_either_a_store_or_files(run: Path, tiny_store: Store, tmp_path: Path, both: bool) -> None:
    given: dict[str, Any] = {"data": tiny_store.path, "files": ["a.npy"]} if both else {}
    with pytest.raises(InputError, match="either a store or files"):
        embed_command(run, tmp_path / "a.npz", **given)
    with pytest.raises(InputError, match="either a store or files"):
        predict_command(run, **given)


def test_by_the_head_of_the_run(run: Path, tiny_store: Store, tmp_path: Path) -> None:
    head, features = add_head(run), next(embed_store(open_model(run), tiny_store).blocks)
    lines = predict_command(run, data=tiny_store.path, clip=str(tiny_store.names[5]), top=2).splitlines()
    label = tiny_store.info.class_names[tiny_store.labels[5]]
    assert lines[0].split() == [str(tiny_store.names[5]), *f"({label})".split(), "probability"]
    scores = head.classifier.scores(torch.from_numpy(features[5:6])).softmax(1)[0]
    best = scores.argsort(descending=True)[:2].tolist()
    expected = [[str(place), "xyz"[k], f"{scores[k]:.3f}"] for place, k in enumerate(best, start=1)]
    assert [line.split() for line in lines[1:]] == expected
    assert predict_command(run / "checkpoint", data=tiny_store.path, clip="5", top=2).splitlines() == lines
    moved = (run / HEAD).rename(tmp_path / "head")
    again = predict_command(run, data=tiny_store.path, clip="5", head=moved, by="head", top=2)
    assert again.splitlines() == lines


def test_a_head_knows_for_how_many_bodies(run: Path, tiny_store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", tiny_store.keypoints(0))
    tables = []
    for persons in (1, 2):
        add_head(run, persons)
        stored = predict_command(run, data=tiny_store.path, clip="0").splitlines()[1:]
        own = predict_command(run, files=[tmp_path / "a.npy"]).splitlines()[1:]
        assert [line.split() for line in stored] == [line.split() for line in own]
        tables.append(own)
    assert tables[0] != tables[1]


def test_by_words_where_there_is_no_head(run: Path, tiny_store: Store, words: None) -> None:
    table = predict_command(run, data=tiny_store.path, clip="0", top=3).splitlines()
    assert table[0].endswith("cosine")
    named = {line.rsplit(maxsplit=1)[0].split(maxsplit=1)[1] for line in table[1:]}
    assert len(named) == 3
    assert named <= set(tiny_store.info.class_names)


def test_texts_mean_words(run: Path, tiny_store: Store, tmp_path: Path, words: None) -> None:
    add_head(run)
    np.save(tmp_path / "a.npy", tiny_store.keypoints(0))
    np.save(tmp_path / "b.npy", tiny_store.keypoints(1)[:1])  # of one frame
    texts, files = ["a person waves", "a person sits"], [tmp_path / "a.npy", tmp_path / "b.npy"]
    table = predict_command(run, files=files, texts=texts).splitlines()
    assert [line.split()[0] for line in table] == [str(files[0]), "1", "2", str(files[1]), "1", "2"]
    with torch.inference_mode():
        model = open_model(run)
        embedded = model.embed(torch.from_numpy(next(embed_store(model, tiny_store).blocks)[:1]))[0]
    best = int(embedded[1] > embedded[0])  # texts are axes
    assert table[1].split() == ["1", *texts[best].split(), f"{embedded[best]:.3f}"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"by": "head", "texts": ["a person waves"]}, "a head knows no words"),
        ({"by": "head"}, "`mica evaluate linear` trains a head"),
        ({"top": 0}, "0 classes to name"),
        ({"clip": None}, "a store and a clip go together"),
        ({"clip": "no such clip", "by": "words"}, "no clip 'no such clip'"),
        ({"layout": "no-such"}, "unknown skeleton layout"),
        ({"layout": "ntu-25"}, "a store knows its layout and units"),
        ({"units": "pixels"}, "a store knows its layout and units"),
        ({"head": "nowhere"}, "nowhere: no such file"),
        ({"head": "nowhere", "texts": ["a person waves"]}, "a head knows no words"),
        ({"by": "head", "text_path": "weights"}, "a head knows no words"),
        ({"by": "words", "head": "nowhere"}, "words need no head"),
    ],
)
def test_refusals(run: Path, tiny_store: Store, words: None, given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        predict_command(run, **{"data": tiny_store.path, "clip": "0", **given})


def test_words_for_a_model_without_text(tiny_run: Path, tiny_store: Store) -> None:
    with pytest.raises(InputError, match="words mean nothing to it"):
        predict_command(tiny_run, data=tiny_store.path, clip="0")
