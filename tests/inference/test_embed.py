"""Vectors of clips: those of the evaluation to the bit, for stores and files, whoever is absent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mica.data.convert import convert
from mica.data.dataset import SkeletonDataset
from mica.data.store import Clip, Store, write
from mica.errors import InputError
from mica.evaluation.features import extract_features
from mica.inference import embed
from mica.inference.embed import embed_clip, embed_files, embed_store, persons_of
from mica.inference.embeddings import Embeddings
from mica.models.mica import MICA
from mica.transforms.streams import Stream, to_stream


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> MICA:
    return MICA.from_pretrained(tiny_run / "checkpoint")


@pytest.fixture(scope="module")
def text_model(text_run: Path) -> MICA:
    return MICA.from_pretrained(text_run / "checkpoint")


@pytest.fixture
def pairs(tiny_store: Store, tmp_path: Path) -> Store:
    """Clips of one person and of two, one of three, one of one frame."""
    random = np.random.default_rng(0)

    def clip(name: str, frames: int, persons: int) -> Clip:
        return Clip(name, random.normal(size=(frames, persons, 25, 3)).astype(np.float32), label=persons)

    clips = [clip("alone", 9, 1), clip("together", 7, 2), clip("three", 8, 3), clip("blink", 1, 1)]
    return Store.open(write(tmp_path / "pairs.arrow", clips, tiny_store.info).path)


def vectors(embeddings: Embeddings) -> Tensor:
    return torch.from_numpy(np.concatenate(list(embeddings.blocks)))


def expected(model: MICA, store: Store, batch_size: int = 128) -> Tensor:
    dataset = SkeletonDataset(store, np.arange(len(store)), model.card.preprocessing)
    return extract_features(model, dataset, model.card.preprocessing.stream, store.layout, batch_size)[0]


@pytest.mark.parametrize("stream", ["joint", "motion"])
def test_stores_have_the_features_of_evaluation(
    model: MICA, tiny_store: Store, monkeypatch: pytest.MonkeyPatch, stream: Stream
) -> None:
    card = replace(model.card, preprocessing=replace(model.card.preprocessing, stream=stream))
    monkeypatch.setattr(model, "card", card)
    monkeypatch.setattr(embed, "_STORED_AT_ONCE", 50)
    found = embed_store(model.train(), tiny_store)
    assert (len(found), found.width) == (128, model.num_features)
    assert torch.equal(vectors(found), expected(model, tiny_store, batch_size=50))


def test_bodies_that_are_absent_count_as_in_evaluation(model: MICA, pairs: Store) -> None:
    found = vectors(embed_store(model, pairs))
    assert torch.equal(found, expected(model, pairs))
    for place, name in enumerate(pairs.names):
        one = embed_clip(model, pairs.keypoints(place), persons=2)
        torch.testing.assert_close(one[0], found[place], msg=f"{name}")


def test_columns_say_what_the_store_knows(model: MICA, tiny_store: Store) -> None:
    found = embed_store(model, tiny_store)
    columns = found.columns
    assert set(columns) == {"name", "label", "class_name", "subject", "camera", "setup", "replication"}
    for place in (0, 17, 127):
        clip = tiny_store.clip(place)
        for name in ("name", "label", "subject", "camera", "setup", "replication"):
            assert columns[name][place] == getattr(clip, name)
        assert columns["class_name"][place] == tiny_store.info.class_names[clip.label]
    assert found.class_names == tiny_store.info.class_names
    assert found.about["layout"] == found.about["joints"] == "ntu-25"
    assert (found.about["dataset"], found.about["what"]) == ("synthetic", "features")
    assert found.about["model"].startswith("pretrained on synthetic, cross-subject, fit; text none")


def test_text_space(text_model: MICA, tiny_store: Store) -> None:
    found = embed_store(text_model, tiny_store, what="text-space")
    with torch.inference_mode():
        wanted = text_model.embed(expected(text_model, tiny_store))
    assert found.width == text_model.card.text_width == 12
    given = vectors(found)
    assert torch.equal(given, wanted)
    torch.testing.assert_close(given.norm(dim=1), torch.ones(len(tiny_store)))


def test_a_model_without_text_has_no_text_space(model: MICA, tiny_store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without text"):
        embed_store(model, tiny_store, what="text-space")
    with pytest.raises(InputError, match="without text"):
        embed_files(model, [tmp_path / "a.npy"], what="text-space")


def test_other_joints_are_mapped_as_converted(model: MICA, zero_shot_store: Store, tmp_path: Path) -> None:
    converted = Store.open(convert(zero_shot_store, "ntu-25", tmp_path / "to.arrow").path)
    found = embed_store(model, zero_shot_store)
    assert torch.equal(vectors(found), expected(model, converted))
    assert (found.about["joints"], found.about["layout"]) == ("kinect-20", "ntu-25")


def test_files_have_the_features_of_their_store(
    model: MICA, pairs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, name in enumerate(pairs.names):
        np.save(tmp_path / f"{name}.npy", pairs.keypoints(place))
    files = [tmp_path / f"{name}.npy" for name in pairs.names]
    for at_once in (16, 3, 1):
        monkeypatch.setattr(embed, "_READ_AT_ONCE", at_once)
        found = embed_files(model, files, persons=2)
        assert found.columns["name"].tolist() == [str(file) for file in files]
        torch.testing.assert_close(vectors(found), expected(model, pairs))


def test_an_absent_body_by_definition(model: MICA, pairs: Store) -> None:
    """Features are the mean over both places, and an absent body's are those of nothing at all."""
    alone = pairs.keypoints(0)
    dataset = SkeletonDataset(pairs, [0], model.card.preprocessing)
    with torch.inference_mode():
        x = to_stream(dataset[0]["x"][None], model.card.preprocessing.stream, pairs.layout)
        of_body, of_nothing = (
            model.eval().features(part) for part in (x[..., :1], torch.zeros_like(x[..., :1]))
        )
    torch.testing.assert_close(embed_clip(model, alone, 2), (of_body + of_nothing) / 2)
    torch.testing.assert_close(embed_clip(model, alone, 1), of_body)
    assert not torch.allclose(of_body, of_nothing)


def test_room_for_bodies_follows_from_what_was_trained_on(model: MICA, tmp_path: Path) -> None:
    assert (persons_of(model.card), persons_of(replace(model.card, persons=2))) == (1, 2)
    of_an_earlier_release = {
        name: persons_of(replace(model.card, dataset=name, persons=None))
        for name in ("ntu60", "pku-mmd-2", "utd-mhad", "own")
    }
    assert of_an_earlier_release == {"ntu60": 2, "pku-mmd-2": 2, "utd-mhad": 1, "own": 1}
    for persons in (0, 3):
        with pytest.raises(InputError, match=f"{persons} persons"):
            embed_files(model, [tmp_path / "a.npy"], persons=persons)


def test_files_are_read_as_vectors_are_taken(
    model: MICA, tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", tiny_store.keypoints(0))
    files = [tmp_path / "a.npy"] * 40 + [tmp_path / "missing.npy"]
    found = embed_files(model, files)
    blocks = found.blocks
    assert [len(next(blocks)) for _ in range(2)] == [16, 16]
    with pytest.raises(InputError, match=r"missing\.npy: cannot be read"):
        next(blocks)


def test_vectors_that_are_not_finite_name_their_clip(model: MICA, tiny_store: Store, tmp_path: Path) -> None:
    for i in range(20):
        np.save(tmp_path / f"{i}.npy", tiny_store.keypoints(i))

    def broken(x: Tensor) -> Tensor:
        out = type(model).features(model, x)
        if len(x) == 4:  # the second batch
            out[1, 3] = torch.inf
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "features", broken)
        with pytest.raises(InputError, match=r"17\.npy: features that are not finite"):
            list(embed_files(model, [tmp_path / f"{i}.npy" for i in range(20)]).blocks)
