"""Transfer: another data set, on other joints if need be, as if it had been converted to the model's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mica.data.clip import Clip, StoreInfo
from mica.data.convert import convert
from mica.data.mapped import MappedStore
from mica.data.splits import protocols_of, split
from mica.data.store import Store, write
from mica.errors import InputError
from mica.evaluation.features import encoder_features
from mica.evaluation.finetune import FineTuneConfig, finetune_scores
from mica.evaluation.linear import linear_scores
from mica.evaluation.results import Score, read_result
from mica.evaluation.runs import keep_result
from mica.evaluation.transfer import fit_to, transfer_scores
from mica.models.mica import MICA, ModelCard
from mica.skeleton import get_layout, infer_layout, layout_to_dict

CONFIG = FineTuneConfig(epochs=1, batch_size=8)
SEEDS = (0, 1)


@pytest.fixture
def card(tiny_run: Path) -> ModelCard:
    return ModelCard.read(tiny_run / "checkpoint")


@pytest.fixture
def model_maker(tiny_run: Path) -> Callable[[], MICA]:
    return lambda: MICA.from_pretrained(tiny_run / "checkpoint")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three classes by six people on the joints of COCO, with a second body now and then, and two divisions."""
    random = np.random.default_rng(0)
    postures = 0.3 * random.normal(size=(3, 1, 1, 17, 3))
    clips = []
    for subject in range(1, 7):
        for label in range(3):
            keypoints = postures[label] + 0.05 * random.normal(size=(6, 1 + subject % 2, 17, 3))
            keypoints[2:4, 1:] = 0
            parts = {"ours": "test" if subject % 2 else "train", "theirs": "test" if subject < 3 else "train"}
            clips.append(
                Clip(f"{label}_{subject}", keypoints.astype(np.float32), label, subject, subject, parts=parts)
            )
    info = StoreInfo("elsewhere", "coco-17", ("run", "sit", "stand"), 30.0)
    return Store.open(write(tmp_path_factory.mktemp("target") / "target.arrow", clips, info).path)


def test_a_store_on_the_models_joints_is_taken_as_it_is(tiny_store: Store, card: ModelCard) -> None:
    assert fit_to(tiny_store, card) is tiny_store


def test_other_joints_are_mapped_as_convert_does(target: Store, card: ModelCard, tmp_path: Path) -> None:
    fitted = fit_to(target, card)
    assert isinstance(fitted, MappedStore)
    assert fitted.layout == get_layout(card.layout)
    assert set(fitted.mapping.unmatched) == set(fitted.layout.joints) - {
        joint for joint, found in zip(fitted.layout.joints, fitted.mapping.matched, strict=True) if found
    }
    assert fitted.mapping.unmatched
    converted = Store.open(convert(target, card.layout, tmp_path / "converted.arrow").path)
    for i in range(len(target)):
        np.testing.assert_array_equal(fitted.keypoints(i), converted.keypoints(i))


def test_kinect_clips_for_a_model_of_ntus_joints(
    zero_shot_store: Store, card: ModelCard, tmp_path: Path
) -> None:
    fitted = fit_to(zero_shot_store, replace(card, layout="ntu-25"))
    converted = Store.open(convert(zero_shot_store, "ntu-25", tmp_path / "converted.arrow").path)
    assert fitted.layout == converted.layout
    np.testing.assert_array_equal(fitted.keypoints(5), converted.keypoints(5))


def test_a_model_with_a_layout_of_its_own(target: Store, card: ModelCard) -> None:
    kinect = get_layout("kinect-20")
    own = infer_layout("mine", kinect.joints[::-1], [19 - parent for parent in kinect.parents[::-1]])
    # As it comes from model.json, where tuples are lists.
    description = json.loads(json.dumps(layout_to_dict(own)))
    fitted = fit_to(target, replace(card, layout="mine", own_layout=description))
    model = replace(card, layout="mine", own_layout=description).build()
    assert fitted.layout == model.encoder.layout == own
    kinects = MappedStore(target, "kinect-20")
    np.testing.assert_array_equal(fitted.keypoints(1), kinects.keypoints(1)[:, :, ::-1])
    assert fit_to(fitted, replace(card, layout="mine", own_layout=description)) is fitted


def test_bodies_that_have_too_little_in_common_are_refused(target: Store, card: ModelCard) -> None:
    rig = infer_layout("rig", ["hips", "l_arm", "r_arm", "l_thigh", "r_thigh"], [0] * 5)
    with pytest.raises(InputError, match="'coco-17' cannot become 'rig'"):
        fit_to(target, replace(card, layout="rig", own_layout=layout_to_dict(rig)))


@pytest.mark.parametrize(("asked", "protocol"), [(None, "ours"), ("theirs", "theirs")])
def test_scores_are_those_on_the_converted_store(
    target: Store,
    card: ModelCard,
    model_maker: Callable[[], MICA],
    tmp_path: Path,
    asked: str | None,
    protocol: str,
) -> None:
    converted = Store.open(convert(target, card.layout, tmp_path / "converted.arrow").path)
    division, names = split(converted, protocol), converted.info.class_names
    features = encoder_features(model_maker(), card, converted, division)
    expected: list[Score] = [
        replace(score, name=f"linear, {score.name}") for score in linear_scores(features, names, SEEDS)[0]
    ]
    expected += finetune_scores(
        model_maker, card, converted, division, names, CONFIG, seeds=SEEDS, progress=False
    )
    found = transfer_scores(model_maker, card, target, asked, CONFIG, seeds=SEEDS, progress=False)
    assert [score.name for score in found] == ["linear, SGD", "linear, logistic regression", "fine-tuned"]
    assert found == expected
    assert found[0].per_class.keys() == {"run", "sit", "stand"}


def test_results_by_two_divisions_of_a_set_lie_beside_each_other(
    tiny_run: Path, target: Store, card: ModelCard, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    for protocol in protocols_of(target):
        division = split(target, protocol.name)
        keep_result(run, card, "transfer", "trained", [Score("SGD", 50.0)], target, division)
    usual, other = (protocol.name for protocol in protocols_of(target)[:2])
    kept = {read_result(file).split: file.name for file in (run / "evaluation").glob("transfer-*")}
    assert (kept[usual], kept[other]) == ("transfer-elsewhere.json", f"transfer-elsewhere-{other}.json")
