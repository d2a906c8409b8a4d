"""Words and clips in one plane, and what is said where that cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mica.errors import InputError
from mica.models.mica import MICA
from mica.report import anchors
from mica.report.anchors import AnchoredMap, anchored_map, lay_out

from ..conftest import FakeTextEncoder


def test_stars_stand_among_the_clips_of_their_class_whatever_the_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 4
    centres = F.normalize(torch.randn(4, 16, generator=generator), dim=1)
    apart = 3 * F.normalize(torch.randn(2, 16, generator=generator), dim=1)  # where all clips, all words lie
    noise = 0.1 * torch.randn(60, 16, generator=generator)
    clips = F.normalize(apart[0] + centres[labels] + noise, dim=1)
    words = F.normalize(apart[1] + centres, dim=1)
    found = lay_out(clips, words)
    assert (found.points.shape, found.anchors.shape) == ((60, 2), (4, 2))
    assert found.gap == pytest.approx(float(F.cosine_similarity(clips.mean(0), words.mean(0), dim=0)))
    assert found.gap < 0.6
    to_clips = np.linalg.norm(found.anchors[:, None] - found.points, axis=2)
    for label, distances in enumerate(to_clips):
        assert labels[np.argsort(distances)[:8]].tolist() == [label] * 8


@pytest.fixture(scope="module")
def model(text_run: Path) -> MICA:
    return MICA.from_pretrained(text_run / "checkpoint")


@pytest.fixture
def features(model: MICA) -> torch.Tensor:
    return torch.randn(12, model.num_features, generator=torch.Generator().manual_seed(1))


def test_clips_and_mean_prompts_go_into_the_same_layout(
    model: MICA, features: torch.Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MICA_CACHE", str(tmp_path))
    monkeypatch.setattr(anchors, "load_text_encoder", lambda name, path=None: FakeTextEncoder())
    found = anchored_map(model, model.card, features)
    assert isinstance(found, AnchoredMap)
    texts = anchors.class_embeddings(FakeTextEncoder(), model.card.dataset, model.card.class_names)
    with torch.inference_mode():
        expected = lay_out(model.embed(features), F.normalize(texts.mean(1), dim=-1))
    np.testing.assert_array_equal(found.points, expected.points)
    np.testing.assert_array_equal(found.anchors, expected.anchors)
    assert len(found.anchors) == len(model.card.class_names)


def test_says_why_there_are_no_words(
    model: MICA, tiny_run: Path, features: torch.Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MICA_CACHE", str(tmp_path))
    mute = MICA.from_pretrained(tiny_run / "checkpoint")
    assert "without text" in str(anchored_map(mute, mute.card, features))

    def nowhere(name: str, path: str | None = None) -> FakeTextEncoder:
        raise InputError("text encoder 'minilm' is not on this machine", hint="pip install it")

    monkeypatch.setattr(anchors, "load_text_encoder", nowhere)
    assert "'minilm' is not on this machine. pip install it" in str(anchored_map(model, model.card, features))
    monkeypatch.setattr(anchors, "load_text_encoder", lambda name, path=None: FakeTextEncoder())
    other = replace(model.card, text_width=99)
    assert "is not the text encoder that pretraining saw" in str(anchored_map(model, other, features))
