"""Evaluating a run: repeatable, on the clips that it should be, and kept whole with its circumstances."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mica.data.splits import split, zero_shot_split
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation import evaluate, results
from mica.evaluation.evaluate import Effort, Evaluation, check_target, transfer
from mica.evaluation.features import Source
from mica.evaluation.results import PROTOCOLS, read_result, read_results, result_file
from mica.evaluation.runs import check_fit, fresh_model
from mica.evaluation.suite import evaluate_all, left_out
from mica.evaluation.tuning import FROM_SCRATCH, FineTuneConfig
from mica.models.mica import MICA, ModelCard
from mica.training.config import PretrainConfig
from mica.training.loop import pretrain

QUICK = Effort(seeds=1, training=FineTuneConfig(epochs=1), progress=False)


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("protocol", "source"),
    [
        ("linear", "trained"),
        ("knn", "trained"),
        ("knn", "random"),
        ("retrieval", "raw"),
        ("finetune", "trained"),
        ("semi", "random"),
    ],
)
def test_twice_gives_the_same_digits(run: Path, tiny_store: Store, protocol: Any, source: Any) -> None:
    files = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        result = Evaluation(run, tiny_store, QUICK).evaluate(protocol, source)
        file = result_file(run, protocol, source)
        files.append(file.read_text())
        assert read_result(file) == result
    assert files[0] == files[1]


def test_result_tells_its_circumstances(run: Path, tiny_store: Store) -> None:
    result, division = Evaluation(run, tiny_store).evaluate("knn"), split(tiny_store, "cross-subject")
    assert (result.protocol, result.source, result.dataset) == ("knn", "trained", "synthetic")
    assert (result.split, result.split_note) == ("cross-subject", division.note)
    assert result.parts == {"train": 64, "fit": 48, "validation": 16, "test": 64}
    assert result.validation_subjects == tuple(np.unique(tiny_store.subjects[division.validation]).tolist())
    assert result.supervision == "none"
    assert result.pretrained_on == "synthetic, cross-subject, fit"
    assert result.class_names == tiny_store.info.class_names
    for score in result.scores:
        assert (score.clips, np.sum(score.confusion)) == (64, 64)
    assert 0 <= result.scores[0].chosen["validation_top1"] <= 100


def test_the_models_readme_quotes_results_of_the_trained_encoder(run: Path, tiny_store: Store) -> None:
    evaluation = Evaluation(run, tiny_store)
    evaluation.evaluate("knn", "random")
    readme = run / "checkpoint" / "README.md"
    assert "k = 1" not in readme.read_text()
    quoted = evaluation.evaluate("knn").scores[0]
    (run / "evaluation" / "linear.json").write_text("{}")  # of an earlier release
    evaluation.evaluate("retrieval")
    assert f"| knn, k = 1 | {quoted.top1:.1f} |" in readme.read_text()
    assert MICA.from_pretrained(run / "checkpoint").readme == readme.read_text()


def test_untrained_sources_have_files_of_their_own(run: Path, tiny_store: Store) -> None:
    evaluation = Evaluation(run, tiny_store)
    found = [evaluation.evaluate("knn", source) for source in ("trained", "random", "raw", "turned")]
    assert [result.pretrained_on for result in found] == ["synthetic, cross-subject, fit", None, None, None]
    names = sorted(path.name for path in (run / "evaluation").iterdir())
    assert names == ["knn.json", "random-knn.json", "raw-knn.json", "turned-knn.json"]
    assert [result.source for result in read_results(run)] == ["trained", "random", "raw", "turned"]


def test_features_are_extracted_once_for_all_that_need_them(
    run: Path, tiny_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mica.evaluation import evaluate

    extracted = []

    def counted(*arguments: Any, **named: Any) -> Any:
        extracted.append(arguments)
        return original(*arguments, **named)

    original = evaluate.encoder_features
    monkeypatch.setattr(evaluate, "encoder_features", counted)
    evaluation = Evaluation(run, tiny_store, QUICK)
    for protocol in ("linear", "knn", "retrieval"):
        evaluation.evaluate(protocol)
    assert len(extracted) == 1


def test_a_result_is_replaced_whole_or_not_at_all(
    run: Path, tiny_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    Evaluation(run, tiny_store).evaluate("knn")
    before = result_file(run, "knn").read_text()

    def half(result: object, **_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(results.json, "dumps", half)
    with pytest.raises(KeyboardInterrupt):
        Evaluation(run, tiny_store).evaluate("knn")
    assert [path.name for path in (run / "evaluation").iterdir()] == ["knn.json"]
    assert result_file(run, "knn").read_text() == before


@pytest.mark.parametrize("damage", ["missing", "unexpected"])
def test_a_checkpoint_with_other_keys_is_refused_and_they_are_listed(
    run: Path, tiny_store: Store, damage: str
) -> None:
    """Peers load what fits, and then score an encoder that is partly random."""
    file = run / "checkpoint" / "model.safetensors"
    weights = load_file(file)
    names = ["encoder.blocks.0.graph.conv.weight", "projector.1.weight"]
    if damage == "missing":
        for name in names:
            weights.pop(name)
    else:
        names = ["module.conv.weight", "queue"]
        weights.update(dict.fromkeys(names, torch.ones(1)) | {"queue": torch.zeros(2)})
    save_file(weights, file)
    with pytest.raises(InputError) as caught:
        Evaluation(run, tiny_store)
    assert damage in str(caught.value).lower()
    assert [name for name in names if name not in str(caught.value)] == []
    assert not (run / "evaluation").exists()


def test_every_protocol_in_one_go(
    text_run: Path, tiny_store: Store, zero_shot_store: Store, fake_text: None, tmp_path: Path
) -> None:
    """Synthetic motion has NTU's skeleton, UTD-MHAD the older Kinect's: joints are mapped."""
    run, other = (Path(shutil.copytree(text_run, tmp_path / name)) for name in ("run", "other"))
    evaluation = Evaluation(run, tiny_store, QUICK)
    inputs: dict[str, Any] = {"transfer_to": zero_shot_store, "others": [other]}
    assert left_out(evaluation, **inputs) == {}
    found = list(evaluate_all(evaluation, **inputs))
    assert tuple(result.protocol for result in found) == PROTOCOLS
    assert {result.protocol: result for result in read_results(run)} == {
        result.protocol: result for result in found
    }
    assert all(result.supervision == "words" for result in found)
    moved = next(result for result in found if result.protocol == "transfer")
    assert (moved.dataset, moved.split, moved.parts["test"]) == ("utd-mhad", "cross-subject", 54)
    assert result_file(run, "transfer", target="utd-mhad").is_file()
    assert not (other / "evaluation").exists()


def test_what_does_not_apply_is_left_out_with_its_reason(run: Path, tiny_store: Store) -> None:
    reasons = left_out(Evaluation(run, tiny_store))
    assert set(reasons) == {"zero-shot", "transfer", "ensemble"}
    assert "without text" in reasons["zero-shot"]


def test_streams_are_fused_under_their_names(
    tiny_store: Store, tiny_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    runs = []
    for stream in ("joint", "bone", "motion"):
        config = tiny_config()
        how = replace(config.preprocessing, stream=stream)
        pretrain(replace(config, preprocessing=how), tiny_store, tmp_path / stream)
        runs.append(tmp_path / stream)
    result = Evaluation(runs[0], tiny_store).ensemble(runs[1:])
    names = " ".join(score.name for score in result.scores)
    assert all(stream in names for stream in ("joint", "bone", "motion"))
    assert any("peers" in score.name for score in result.scores)
    with pytest.raises(InputError, match="two different runs"):
        Evaluation(runs[0], tiny_store).ensemble([])


def test_runs_of_other_clips_are_not_fused(
    run: Path, tiny_store: Store, tiny_config: Callable[..., PretrainConfig], tmp_path: Path
) -> None:
    config = tiny_config()
    pretrain(replace(config, split=replace(config.split, part="train")), tiny_store, tmp_path / "whole")
    with pytest.raises(InputError, match="part"), pytest.warns(match="trained on the validation clips"):
        Evaluation(run, tiny_store).ensemble([tmp_path / "whole"])


@pytest.mark.filterwarnings("ignore:.*trained on the validation clips")
def test_runs_that_have_seen_other_supervision_are_not_fused(run: Path, tiny_store: Store) -> None:
    """A supervised run has read no text either."""
    other = Path(shutil.copytree(run, run.parent / "supervised"))
    card = other / "checkpoint" / "model.json"
    card.write_text(card.read_text().replace('"method": "mica"', '"method": "supervised"'))
    with pytest.raises(InputError, match="field 'supervision'"):
        Evaluation(run, tiny_store).ensemble([other])


def test_a_run_is_not_fused_with_itself(run: Path, tiny_store: Store) -> None:
    again = run.parent / "same"
    again.symlink_to(run)
    with pytest.raises(InputError, match="two different runs"):
        Evaluation(run, tiny_store).ensemble([again])


def test_a_skeleton_of_the_same_name_is_not_the_same(run: Path, tiny_store: Store) -> None:
    other = deepcopy(tiny_store)
    other.layout = replace(tiny_store.layout, center=0 if tiny_store.layout.center else 1)
    with pytest.raises(InputError, match="other joints or bones than the model's, under the same name"):
        check_fit(ModelCard.read(run / "checkpoint"), other)


def test_clips_that_may_have_trained_a_run_test_no_transfer(
    run: Path, tiny_store: Store, zero_shot_store: Store
) -> None:
    with pytest.raises(InputError, match="pretrained on synthetic, and may know clips"):
        transfer(run, tiny_store)
    card = replace(ModelCard.read(run / "checkpoint"), dataset="ntu60")
    target = deepcopy(zero_shot_store)
    target.info = replace(target.info, dataset="ntu120")
    with pytest.warns(match="holds the clips of NTU RGB"):
        check_target(run, card, target)


@pytest.mark.parametrize("wrong", ["with", "transfer"])
def test_what_does_not_fit_is_told_before_the_first_protocol(
    run: Path, tiny_store: Store, wrong: str
) -> None:
    inputs: dict[str, Any] = {"others": [run / "no-such"]} if wrong == "with" else {"transfer_to": tiny_store}
    with pytest.raises(InputError):
        next(evaluate_all(Evaluation(run, tiny_store, QUICK), **inputs))
    assert not (run / "evaluation").exists()


def test_another_run_may_have_chosen_how_the_features_are_probed(run: Path, tiny_store: Store) -> None:
    """Coordinates and untrained encoders, which have learned from no clip, choose for themselves."""
    validated = {
        "SGD": {"lr 0.1": 1.0, "lr 0.03": 2.0},
        "logistic regression": {"C 0.1": 3.0},
        "k = 5": {"text space, as they are": 99.0, "pooled, standardised": 4.0},
    }
    evaluation = Evaluation(run, tiny_store, Effort(seeds=1), validated)
    found = {score.name: score.chosen for score in evaluation.evaluate("linear").scores}
    found |= {score.name: score.chosen for score in evaluation.evaluate("knn").scores}
    assert found == {
        "SGD": {"setting": "lr 0.03", "validation_top1": 2.0},
        "logistic regression": {"setting": "C 0.1", "validation_top1": 3.0},
        "k = 5": {"setting": "pooled, standardised", "validation_top1": 4.0},
    }, "of the ways that there are"
    raw = evaluation.evaluate("knn", "raw").scores
    assert [score.name for score in raw] == [f"k = {k}" for k in (1, 5, 10, 20)]


@pytest.mark.parametrize(("source", "expected"), [("trained", FineTuneConfig()), ("random", FROM_SCRATCH)])
def test_an_untrained_encoder_is_given_longer(
    source: Source,
    expected: FineTuneConfig,
    run: Path,
    tiny_store: Store,
    zero_shot_store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert FROM_SCRATCH.epochs > FineTuneConfig().epochs
    evaluation, told = Evaluation(run, tiny_store), []
    monkeypatch.setattr(evaluate, "keep_result", lambda *_: None)
    for name in ("finetune_scores", "semi_scores", "transfer_scores"):
        monkeypatch.setattr(evaluate, name, lambda *arguments, **_: told.append(arguments[-1]))
    evaluation.evaluate("finetune", source)
    evaluation.evaluate("semi", source)
    transfer(run, zero_shot_store, source=source)
    assert told == [expected] * 3


def test_random_is_the_same_architecture_before_training(run: Path) -> None:
    trained, random = (fresh_model(run, source) for source in ("trained", "random"))
    shapes = [
        {name: value.shape for name, value in model.state_dict().items()} for model in (trained, random)
    ]
    assert shapes[0] == shapes[1]
    name = "encoder.blocks.0.graph.conv.weight"
    assert not torch.equal(trained.state_dict()[name], random.state_dict()[name])
    assert not random.training


@pytest.mark.parametrize("protocol", ["finetune", "semi"])
def test_coordinates_cannot_be_fine_tuned(run: Path, tiny_store: Store, protocol: Any) -> None:
    with pytest.raises(InputError, match="--features trained or random"):
        Evaluation(run, tiny_store).evaluate(protocol, "raw")
    with pytest.raises(InputError, match="--features trained or random"):
        transfer(run, tiny_store, source="turned")


def test_zero_shot_without_text_is_refused(run: Path, tiny_store: Store) -> None:
    with pytest.raises(InputError, match="needs a model that was pretrained with text"):
        Evaluation(run, tiny_store).evaluate("zero-shot")
    assert not (run / "evaluation").exists()


def test_prompts_of_seen_classes(text_run: Path, tiny_store: Store, fake_text: None, tmp_path: Path) -> None:
    run = Path(shutil.copytree(text_run, tmp_path / "run"))
    result = Evaluation(run, tiny_store).evaluate("zero-shot")
    assert result.unseen_classes == ()
    assert result.scores[0].clips == 64
    assert "seen" in result.scores[0].name
    assert result.supervision == "words"
    with pytest.raises(InputError, match="pretrained with text"):
        Evaluation(run, tiny_store).evaluate("zero-shot", "random")


def test_zero_shot_asks_for_unseen_classes_alone(
    zero_shot_run: Path, zero_shot_store: Store, fake_text: None, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(zero_shot_run, tmp_path / "run"))
    unseen = zero_shot_split("utd-mhad", "22/5").unseen
    result = Evaluation(run, zero_shot_store).evaluate("zero-shot")
    names = zero_shot_store.info.class_names
    assert result.unseen_classes == tuple(names[label] for label in unseen)
    score = result.scores[0]
    assert score.clips == 2 * len(unseen)
    confusion = np.array(score.confusion)
    assert np.flatnonzero(confusion.sum(1)).tolist() == sorted(unseen)
    assert set(np.flatnonzero(confusion.sum(0))) <= set(unseen), "a seen class was answered"
    answered = {name for name, reached in score.per_class.items() if reached is not None}
    assert answered == set(result.unseen_classes)
    assert any("harmonic mean" in score.measures for score in result.scores)


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
    card = ModelCard.read(tiny_run / "checkpoint")
    store = Store.open(tiny_store.path)
    check_fit(card, store)
    store.info = change(store.info)
    with pytest.raises(InputError) as caught:
        check_fit(card, store)
    assert (caught.value.file, caught.value.field) == (tiny_store.path, field)
