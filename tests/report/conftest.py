"""The browser that all pages are opened in, and runs that nobody trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mica.evaluation.results import Result, result_file, score, write_result
from mica.models.heads import HeadConfig
from mica.models.mica import ModelCard
from mica.models.stgcn import EncoderConfig
from mica.training.config import PretrainConfig
from mica.transforms.sampling import Preprocessing

from .browser import Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium and no google-chrome here to run pages in")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def make_card() -> Callable[..., ModelCard]:
    """Make the card of a tiny model on NW-UCLA that saw no text."""

    def make(stream: str = "joint", text: str = "none", **changes: Any) -> ModelCard:
        entries: dict[str, Any] = {
            "layout": "kinect-20", "preprocessing": Preprocessing(num_frames=8, stream=stream),
            "encoder": EncoderConfig(preset="stgcn-small"),
            "heads": HeadConfig(segments=1, hidden=16, projection=8),
            "text": text, "text_path": None, "text_width": None if text == "none" else 12,
            "dataset": "nw-ucla", "protocol": "cross-view", "part": "fit",
            "class_names": ("wave", "clap", "bow"), "seen_classes": (0, 1, 2), "seed": 0,
        }  # fmt: skip
        return ModelCard(**{**entries, **changes})

    return make


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """Write the files of a run but for its weights, as pretraining with this card would."""

    def write(folder: Path, card: ModelCard, metrics: Sequence[dict[str, Any]] = (), **changes: Any) -> Path:
        folder.mkdir(parents=True)
        config = asdict(
            PretrainConfig(preprocessing=card.preprocessing, encoder=card.encoder, heads=card.heads)
        )
        config |= {"text": card.text, "seed": card.seed, **changes}
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in metrics))
        (folder / "checkpoint").mkdir()
        description = {"format": 1, **asdict(card)}
        (folder / "checkpoint" / "model.json").write_text(json.dumps(description))
        return folder

    return write


@pytest.fixture(scope="session")
def add_result() -> Callable[..., Result]:
    """Write a result into a run: a score for each of `accuracies`, of predictions that are right so often."""

    def add(
        run: Path, card: ModelCard, protocol: str, accuracies: dict[str, float | tuple[float, ...]],
        labels: Sequence[int] | None = None, source: str = "trained", measures: dict[str, float] | None = None,
        **changes: Any,
    ) -> Result:  # fmt: skip
        names = changes.get("class_names", card.class_names)
        truth = torch.tensor(labels if labels is not None else [i % len(names) for i in range(60)])
        scores = []
        for name, accuracy in accuracies.items():
            draws = accuracy if isinstance(accuracy, tuple) else (accuracy,)
            predictions = [_predict(truth, share, len(names)) for share in draws]
            scores.append(score(name, predictions, truth, names, measures=measures))
        entries: dict[str, Any] = {
            "dataset": card.dataset, "split": card.protocol, "split_note": "as published",
            "parts": {"train": 90, "fit": 72, "validation": 18, "test": len(truth)}, "validation_subjects": (3,),
            "pretrained_on": card.part, "supervision": card.supervision if source == "trained" else "none",
            "class_names": tuple(names),
        }  # fmt: skip
        result = Result(protocol=protocol, source=source, scores=tuple(scores), **{**entries, **changes})
        target = result.dataset if protocol == "transfer" else ""
        write_result(result_file(run, protocol, source, target), result)
        return result

    return add


def _predict(truth: torch.Tensor, percent: float, classes: int) -> torch.Tensor:
    """Right for so many percent of the clips, else the next class."""
    wrong = np.random.default_rng(round(10 * percent)).permutation(len(truth))[
        round(percent / 100 * len(truth)) :
    ]
    predicted = truth.clone()
    predicted[wrong] = (predicted[wrong] + 1) % classes
    return predicted
