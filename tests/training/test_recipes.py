"""Every recipe takes its steps: on real data sets' names and divisions, with motion that nobody recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mica.configs import datasets, load_config, methods
from mica.data.class_names import CLASS_NAMES
from mica.data.clip import StoreInfo
from mica.data.splits import published_protocols
from mica.data.store import Store, write
from mica.data.synthetic import generate
from mica.skeleton import get_layout
from mica.training.trainer import Trainer

CLIPS, BATCH = 12, 4
# Of NTU RGB+D these subjects and setups train in one protocol and test in the other; the rest say it themselves.
TRAINS, TESTS = {"subject": 8, "setup": 2, "camera": 2}, {"subject": 3, "setup": 3, "camera": 3}


def make_store(dataset: str, folder: Path) -> Store:
    """A few synthetic clips under the name, classes and skeleton of a data set, divided for all its protocols."""
    info, clips, _ = generate(clips_per_class=2, subjects=4, num_frames=(8, 12))
    protocols = [protocol.name for protocol in published_protocols(dataset)]
    if dataset in CLASS_NAMES:
        layout = "kinect-20" if dataset in ("nw-ucla", "utd-mhad") else "ntu-25"
        info = StoreInfo(dataset, layout, CLASS_NAMES[dataset], 30.0)
    else:
        info = replace(info, dataset=dataset)
    joints = get_layout(info.layout).num_joints

    def divided():
        for place, clip in enumerate(clips):
            if place == CLIPS + BATCH:
                return
            part = "train" if place < CLIPS else "test"
            who = TRAINS if part == "train" else TESTS
            if dataset in ("utd-mhad", "synthetic", "own"):
                who = {**who, "subject": (1, 3)[place % 2] if part == "train" else 2}
            else:
                who = {**who, "subject": who["subject"] + place % 2 * (part == "train")}
            label = clip.label % len(info.class_names)
            parts = dict.fromkeys(protocols, part) if dataset.startswith("pku") else {}
            yield replace(
                clip,
                keypoints=clip.keypoints[:, :, :joints],
                name=f"{place}",
                label=label,
                parts=parts,
                **who,
            )

    return Store.open(write(folder / f"{dataset}.arrow", divided(), info).path)


@pytest.mark.parametrize("dataset", datasets())
def test_every_recipe_of_a_data_set_takes_a_step(dataset: str, tmp_path: Path, fake_text: None) -> None:
    store = make_store(dataset, tmp_path)
    for method in methods():
        config = load_config(
            f"{method}/{dataset}",
            [f"optimizer.batch_size={BATCH}", "optimizer.epochs=1", "precision=float32"],
        )
        trainer = Trainer(config, store)
        batch = next(trainer.batches())
        terms = trainer.train_step(batch["x"], batch["label"])
        assert all(value.isfinite() for value in terms.values()), method
        assert trainer.card.method == config.method
