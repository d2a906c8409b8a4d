"""Neighbours against a brute-force search, which examples are shown, and how."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mica.data.clip import Clip, StoreInfo
from mica.data.dataset import SkeletonDataset
from mica.data.splits import split
from mica.data.store import Store, write
from mica.evaluation.features import extract_features
from mica.models.mica import MICA
from mica.report import retrieved
from mica.report.probe import Probe, probe
from mica.report.retrieved import Retrieval, choose, examples, retrieve


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> MICA:
    return MICA.from_pretrained(tiny_run / "checkpoint")


@pytest.fixture(scope="module")
def seen(model: MICA, tiny_store: Store) -> Probe:
    return probe(model, model.card, tiny_store, split(tiny_store, model.card.protocol).test)


@pytest.fixture(scope="module")
def found(model: MICA, tiny_store: Store, seen: Probe) -> Retrieval:
    return retrieve(model, model.card, tiny_store, seen, split(tiny_store, model.card.protocol).train)


def test_neighbours_are_those_of_brute_force(
    model: MICA, tiny_store: Store, seen: Probe, found: Retrieval
) -> None:
    train = split(tiny_store, model.card.protocol).train
    dataset = SkeletonDataset(tiny_store, train, model.card.preprocessing)
    gallery, _ = extract_features(model, dataset, model.card.preprocessing.stream, tiny_store.layout)
    one, other = seen.features.double().numpy(), gallery.double().numpy()
    for row, query in enumerate(one):
        cosine = {
            int(clip): query @ of / np.sqrt((query @ query) * (of @ of))
            for clip, of in zip(train, other, strict=True)
        }
        # Clips that are equally near, but for rounding, may stand in any order.
        best = sorted(cosine.values(), reverse=True)[:3]
        np.testing.assert_allclose([cosine[int(clip)] for clip in found.clips[row]], best, atol=1e-6)
        np.testing.assert_allclose(found.similarity[row], best, atol=1e-6)
        assert len(set(found.clips[row])) == 3
    assert (found.searched, found.training) == (len(train), len(train))
    assert not set(found.clips.ravel()) & set(seen.clips)


def test_of_very_many_clips_an_even_share_is_searched(
    model: MICA, tiny_store: Store, seen: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieved, "MOST_TRAINING_CLIPS", 2)
    train = split(tiny_store, model.card.protocol).train
    found = retrieve(model, model.card, tiny_store, seen, train)
    assert (found.searched, found.training) == (2, len(train))
    assert set(found.clips.ravel()) == {train[0], train[-1]}
    assert found.clips.shape == (len(seen.clips), 2)  # there are no three


@pytest.mark.parametrize(
    ("right", "labels", "chosen"),
    [
        ("++--", (0, 1, 2, 3), [0, 1, 2, 3]),
        ("++++---", (0, 0, 1, 2, 1, 2, 2), [0, 2, 5, 4]),  # class 1 is shown already; so is class 2 after it
        ("+++", (0, 0, 0), [0, 1]),  # nothing fails; one class
        ("--", (5, 5), [0, 1]),
        ("", (), []),
    ],
)
def test_shows_both_right_and_wrong_of_different_classes(
    right: str, labels: tuple[int, ...], chosen: list[int]
) -> None:
    flags = np.array([sign == "+" for sign in right], dtype=bool)
    assert choose(flags, np.array(labels, dtype=np.int64)) == chosen


def test_examples_say_what_they_show(tiny_store: Store, seen: Probe, found: Retrieval) -> None:
    rows = examples(tiny_store, seen, found)
    assert rows
    names = tiny_store.info.class_names
    for query, *neighbours in rows:
        place = next(
            i for i, clip in enumerate(seen.clips)
            if names[tiny_store.labels[clip]] == query.name and f"subject {tiny_store.subjects[clip]}" in query.about
            and [names[tiny_store.labels[one]] for one in found.clips[i]] == [one.name for one in neighbours]
        )  # fmt: skip
        assert query.right is None
        assert query.similarity is None
        for one, clip, similarity in zip(
            neighbours, found.clips[place], found.similarity[place], strict=True
        ):
            assert one.right == (names[tiny_store.labels[clip]] == query.name)
            assert one.similarity == pytest.approx(float(similarity))
            assert f"subject {tiny_store.subjects[clip]}" in one.about
    assert {row[1].right for row in rows} <= {True, False}


def shown(figure: str) -> dict[str, object]:
    match = re.search(r'<script type="application/json">(.*?)</script>', figure, re.DOTALL)
    assert match is not None
    return dict(json.loads(match[1]))


def test_long_clips_are_thinned_out_at_their_pace_and_gaps_do_not_matter(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    long = random.normal(size=(100, 1, 20, 3)).astype(np.float32)
    hardly = np.zeros((200, 1, 20, 3), np.float32)
    hardly[101] = long[0]  # seen in one frame, which is none of those that are kept
    info = StoreInfo("mine", "kinect-20", ("wave",), 25.0)
    store = Store.open(write(tmp_path / "a.arrow", [Clip("a", long, 0), Clip("b", hardly, 0)], info).path)
    clip, instant = (shown(retrieved._figure(store, i, "wave")) for i in range(2))
    frames = clip["frames"]
    assert isinstance(frames, list)
    assert len(frames) == 32
    assert len(frames) / float(str(clip["rate"])) == pytest.approx(100 / 25.0)
    assert len(instant["frames"]) == 1  # type: ignore[arg-type]
    assert torch.tensor(frames[0][0]).abs().max() > 100  # millimetres
