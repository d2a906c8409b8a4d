"""Evaluating a run: repeatable, on the clips that it should be, and kept whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mica.data.dataset import SkeletonDataset
from mica.data.splits import zero_shot_split
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation import evaluate
from mica.evaluation.evaluate import Evaluation, check_fit, result_file
from mica.evaluation.features import encoder_features, extract_features, random_model, raw_features
from mica.evaluation.zero_shot import zero_shot_predict
from mica.models.pretrained import load_pretrained
from mica.models.text import class_embeddings


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("protocol", "source"), [("linear", "trained"), ("knn", "trained"), ("knn", "random")]
)
def test_twice_gives_the_same_digits(run: Path, tiny_store: Store, protocol: Any, source: Any) -> None:
    files = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        result = Evaluation(run, tiny_store).evaluate(protocol, source)
        files.append(result_file(run, protocol, source).read_text())
        assert json.loads(files[-1]) == result
    assert files[0] == files[1]


def test_result_tells_its_circumstances(run: Path, tiny_store: Store) -> None:
    result = Evaluation(run, tiny_store).evaluate("knn")
    assert {name: result[name] for name in ("protocol", "source", "clips", "split", "dataset")} == {
        "protocol": "knn",
        "source": "trained",
        "clips": 64,
        "split": "cross-subject",
        "dataset": "synthetic",
    }
    assert result["text_supervision"] is False
    assert result["pretrained_on"] == "fit"
    assert result["class_names"] == list(tiny_store.info.class_names)
    assert np.sum(result["confusion"]) == 64
    assert 0 <= result["chosen"]["validation_top1"] <= 100


def test_untrained_sources_have_files_of_their_own(run: Path, tiny_store: Store) -> None:
    evaluation = Evaluation(run, tiny_store)
    results = [evaluation.evaluate("knn", source) for source in ("trained", "random", "raw", "turned")]
    assert [result["pretrained_on"] for result in results] == ["fit", None, None, None]
    names = sorted(path.name for path in (run / "evaluation").iterdir())
    assert names == ["knn.json", "random-knn.json", "raw-knn.json", "turned-knn.json"]


def test_a_result_is_replaced_whole_or_not_at_all(
    run: Path, tiny_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    Evaluation(run, tiny_store).evaluate("knn")
    before = result_file(run, "knn").read_text()

    def half(result: object, **_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate.json, "dumps", half)
    with pytest.raises(KeyboardInterrupt):
        Evaluation(run, tiny_store).evaluate("knn")
    assert [path.name for path in (run / "evaluation").iterdir()] == ["knn.json"]
    assert result_file(run, "knn").read_text() == before


def test_features_are_the_models_own_and_leave_it_alone(tiny_run: Path, tiny_store: Store) -> None:
    model, card = load_pretrained(tiny_run / "checkpoint")
    dataset = SkeletonDataset(tiny_store, [3, 1, 2], card.preprocessing)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    features, labels = extract_features(model, dataset, "joint", tiny_store.layout, batch_size=2)
    assert model.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert labels.tolist() == tiny_store.labels[[3, 1, 2]].tolist()
    with torch.inference_mode():
        expected = model.eval().features(torch.stack([dataset[i]["x"] for i in range(3)]))
    torch.testing.assert_close(features, expected)


def test_random_features_differ_from_trained(tiny_run: Path, tiny_store: Store) -> None:
    evaluation = Evaluation(tiny_run, tiny_store)
    trained, random = (
        encoder_features(model, evaluation.card, tiny_store, evaluation.division)
        for model in (evaluation.model, random_model(evaluation.card))
    )
    assert torch.equal(trained.test_labels, random.test_labels)
    similarity = F.cosine_similarity(trained.test, random.test)
    assert not torch.allclose(trained.test, random.test)
    assert (similarity < 1 - 1e-4).all()


def test_parts_are_those_of_the_split(tiny_run: Path, tiny_store: Store) -> None:
    evaluation = Evaluation(tiny_run, tiny_store)
    division = evaluation.division
    for turned in (False, True):
        features = raw_features(evaluation.card, tiny_store, division, align_view=turned)
        assert features.train_labels.tolist() == tiny_store.labels[division.train].tolist()
        assert features.test_labels.tolist() == tiny_store.labels[division.test].tolist()
        assert division.train[features.fit.numpy()].tolist() == division.fit.tolist()
        assert features.test.shape == (64, 3 * 8 * 25)
        fit, _, validation, _ = features.for_choosing
        assert (len(fit), len(validation)) == (48, 16)


def test_zero_shot_without_text_is_refused(run: Path, tiny_store: Store) -> None:
    with pytest.raises(InputError, match="needs a model that was pretrained with text"):
        Evaluation(run, tiny_store).evaluate("zero-shot")
    assert not (run / "evaluation").exists()


def test_prompts_of_seen_classes(text_run: Path, tiny_store: Store, fake_text: None, tmp_path: Path) -> None:
    run = Path(shutil.copytree(text_run, tmp_path / "run"))
    result = Evaluation(run, tiny_store).evaluate("zero-shot")
    assert result["unseen_classes"] == []
    assert result["clips"] == 64
    assert result["text_supervision"] is True
    with pytest.raises(InputError, match="pretrained with text"):
        Evaluation(run, tiny_store).evaluate("zero-shot", "random")


def test_zero_shot_asks_for_unseen_classes_alone(
    zero_shot_run: Path, zero_shot_store: Store, fake_text: None, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(zero_shot_run, tmp_path / "run"))
    unseen = zero_shot_split("utd-mhad", "22/5").unseen
    result = Evaluation(run, zero_shot_store).evaluate("zero-shot")
    names = zero_shot_store.info.class_names
    assert result["unseen_classes"] == [names[label] for label in unseen]
    assert result["clips"] == 2 * len(unseen)
    confusion = np.array(result["confusion"])
    assert np.flatnonzero(confusion.sum(1)).tolist() == sorted(unseen)
    assert set(np.flatnonzero(confusion.sum(0))) <= set(unseen), "a seen class was answered"
    answered = {name for name, score in result["per_class"].items() if score is not None}
    assert answered == set(result["unseen_classes"])


def test_zero_shot_is_the_nearest_mean_prompt(
    zero_shot_run: Path, zero_shot_store: Store, fake_text: None
) -> None:
    evaluation = Evaluation(zero_shot_run, zero_shot_store)
    card = evaluation.card
    features = encoder_features(evaluation.model, card, zero_shot_store, evaluation.division).test
    texts = class_embeddings(evaluate.load_text_encoder("minilm"), card.dataset, card.class_names)
    with torch.inference_mode():
        skeleton = evaluation.model.embed(features).double().numpy()
    concepts = texts.double().numpy().mean(1)
    concepts /= np.linalg.norm(concepts, axis=1, keepdims=True)
    for candidates in ([4, 14, 23], [26, 0, 7, 3], [5]):
        found = zero_shot_predict(evaluation.model, features, texts, torch.tensor(candidates))
        expected = [max(candidates, key=lambda label: clip @ concepts[label]) for clip in skeleton]
        assert found.tolist() == expected


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda info: replace(info, layout="kinect-20"), "layout"),
        (lambda info: replace(info, dataset="ntu60"), "dataset"),
        (lambda info: replace(info, class_names=info.class_names[:-1]), "class_names"),
        (lambda info: replace(info, class_names=info.class_names[::-1]), "class_names"),
    ],
)
def test_a_store_that_the_model_was_not_made_for(
    tiny_run: Path, tiny_store: Store, change: Callable[..., Any], field: str
) -> None:
    card = load_pretrained(tiny_run / "checkpoint")[1]
    store = Store.open(tiny_store.path)
    check_fit(card, store)
    store.info = change(store.info)
    with pytest.raises(InputError) as caught:
        check_fit(card, store)
    assert (caught.value.file, caught.value.field) == (tiny_store.path, field)
