"""What clips show: rankings against loops in float64, words that mean something to the model, and those that do not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mica.errors import InputError
from mica.evaluation.head import Head
from mica.evaluation.linear import LinearClassifier
from mica.inference import predict
from mica.inference.predict import class_words, predict_by_head, predict_by_text
from mica.models.mica import MICA
from mica.prompts import prompts

NAMES = tuple(f"class {k}" for k in range(9))


class FakeEncoder:
    """Unit vectors that a text's bytes determine."""

    name, fingerprint = "fake", "0" * 16

    def __init__(self, width: int = 12) -> None:
        self.width = width

    def encode(self, texts: Sequence[str]) -> Tensor:
        draws = [Generator().manual_seed(crc32(text.encode())) for text in texts]
        return F.normalize(torch.stack([torch.randn(self.width, generator=draw) for draw in draws]), dim=-1)


@pytest.fixture(autouse=True)
def fake_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, object]]:
    """Words cost nothing; gives which encoders were asked for."""
    asked: list[tuple[object, object]] = []

    def load(name: str, path: object = None) -> FakeEncoder:
        asked.append((name, path))
        return FakeEncoder()

    monkeypatch.setenv("MICA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(predict, "load_text_encoder", load)
    return asked


@pytest.fixture(scope="module")
def model(text_run: Path) -> MICA:
    return MICA.from_pretrained(text_run / "checkpoint")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed))


def test_by_words_as_in_a_loop(model: MICA) -> None:
    assert model.semantic is not None
    features = random(6, model.num_features)
    texts = F.normalize(random(9, 4, 12, seed=1), dim=-1)
    found = predict_by_text(model.train(), features, texts, NAMES, top=9)
    with torch.inference_mode():
        skeletons = model.eval().semantic(features).double().numpy()
    for ranked, skeleton in zip(found, skeletons, strict=True):
        cosines = {}
        for name, wordings in zip(NAMES, texts.double().numpy(), strict=True):
            mean = np.mean(wordings, axis=0)
            cosines[name] = float(skeleton @ mean / np.linalg.norm(skeleton) / np.linalg.norm(mean))
        assert [name for name, _ in ranked] == sorted(cosines, key=cosines.__getitem__, reverse=True)
        for name, cosine in ranked:
            assert cosine == pytest.approx(cosines[name], abs=1e-5)


def test_by_head_as_in_a_loop() -> None:
    features, weight, bias = random(6, 5), random(9, 5, seed=1), random(9, seed=2)
    bias[[2, 7]] = -torch.inf  # training had no clip of them
    head = Head(LinearClassifier(weight, bias), NAMES, "mine", "as-given", 1)
    found = predict_by_head(head, features, top=20)
    for ranked, clip in zip(found, features.double().tolist(), strict=True):
        exps = {
            name: math.exp(sum(w * x for w, x in zip(row, clip, strict=True)) + shift)
            for name, row, shift in zip(NAMES, weight.double().tolist(), bias.double().tolist(), strict=True)
            if shift > -math.inf
        }
        assert [name for name, _ in ranked] == sorted(exps, key=exps.__getitem__, reverse=True)
        assert len(ranked) == 7
        for name, probability in ranked:
            assert probability == pytest.approx(exps[name] / sum(exps.values()), abs=1e-6)
        assert sum(probability for _, probability in ranked) == pytest.approx(1)


def test_scores_that_no_exponent_holds() -> None:
    head = Head(LinearClassifier(1e4 * torch.eye(3), torch.zeros(3)), NAMES[:3], "mine", "as-given", 1)
    (ranked,) = predict_by_head(head, torch.tensor([[0.0, 1.0, -1.0]]))
    assert [(name, score) for name, score in ranked] == [("class 1", 1.0), ("class 0", 0.0), ("class 2", 0.0)]


def test_of_equal_classes_the_first_comes_first(model: MICA) -> None:
    head = Head(LinearClassifier(torch.zeros(9, 2), torch.zeros(9)), NAMES, "mine", "as-given", 1)
    assert [name for name, _ in predict_by_head(head, torch.ones(1, 2), top=4)[0]] == list(NAMES[:4])
    texts = F.normalize(random(1, 1, 12), dim=-1).expand(9, 1, -1)
    (ranked,) = predict_by_text(model, random(1, model.num_features), texts, NAMES, top=3)
    assert [name for name, _ in ranked] == list(NAMES[:3])


def test_any_words(model: MICA, fake_words: list[tuple[object, object]]) -> None:
    words, names = class_words(model.card, ["a person waves ", "somebody sits"], text_path="there")
    assert names == ("a person waves", "somebody sits")
    assert torch.equal(words, FakeEncoder().encode(names)[:, None])
    assert fake_words == [("minilm", "there")]


def test_the_words_of_its_own_classes(model: MICA, fake_words: list[tuple[object, object]]) -> None:
    words, names = class_words(replace(model.card, text_path="of the card"))
    assert names == model.card.class_names
    wordings = prompts(model.card.dataset, names)
    for k in (0, 15):
        assert torch.equal(words[k], FakeEncoder().encode(wordings[k]))
    assert fake_words == [("minilm", "of the card")]


@pytest.mark.parametrize(
    ("texts", "problem"), [(["a", " "], "a text is empty"), (["a", "b", "a "], "a text is given twice")]
)
def test_words_that_say_nothing(model: MICA, texts: list[str], problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        class_words(model.card, texts)
    assert caught.value.field == "texts"


def test_a_model_without_text_knows_no_words(tiny_run: Path, fake_words: list[tuple[object, object]]) -> None:
    with pytest.raises(InputError, match="without text: words mean nothing"):
        class_words(MICA.from_pretrained(tiny_run / "checkpoint").card, ["a person waves"])
    assert not fake_words


def test_another_encoder_is_refused(model: MICA, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "load_text_encoder", lambda name, path: FakeEncoder(width=7))
    with pytest.raises(InputError, match="7 numbers a text, the model was trained with 12"):
        class_words(model.card, ["a person waves"])


def test_an_encoder_that_is_not_there(model: MICA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(InputError, match="no such directory") as caught:
        class_words(model.card, ["a person waves"], text_path=tmp_path / "nowhere")
    assert caught.value.hint
