"""One job of a comparison, in a process of its own: python -m mica.comparison.job FILE, as `work_through` starts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

from mica.configs import config_of
from mica.data.dataset import SkeletonDataset
from mica.data.splits import split
from mica.data.store import Store
from mica.errors import InputError, Interrupted
from mica.evaluation.evaluate import Effort, Evaluation
from mica.evaluation.features import ForChoosing, Source, extract_features
from mica.evaluation.linear import choose_settings
from mica.evaluation.results import ProtocolName, result_file
from mica.evaluation.runs import CHECKPOINT
from mica.files import atomic_path
from mica.models.mica import MICA
from mica.training.loop import pretrain

VALIDATION = "validation.json"


def main(description: Path) -> None:
    """Train the run unless it is trained, then judge it by whatever it was not judged by yet."""
    entries = json.loads(description.read_text())
    config = config_of(entries["config"])
    run, store = Path(entries["run"]), Store.open(entries["data"])
    pretrain(config, store, run, resume=True)
    missing = [pair for pair in entries["judged"] if not judgement(run, *pair).is_file()]
    if missing == [["validation", ""]]:
        validate(run, store)
    elif missing:
        evaluation = Evaluation(run, store, Effort(progress=False))
        for protocol, source in missing:
            assert protocol in get_args(ProtocolName)
            assert source in get_args(Source)
            evaluation.evaluate(protocol, source)


def judgement(run: Path, protocol: str, source: str) -> Path:
    """Where it is kept."""
    return run / VALIDATION if protocol == "validation" else result_file(run, protocol, source)


def validate(run: Path, store: Store) -> None:
    """Score the validation clips, and no others, by a linear probe that was fitted to the rest of the training part."""
    model = MICA.from_pretrained(run / CHECKPOINT)
    how, division = model.card.preprocessing, split(store, model.card.protocol)
    fit, validation = (
        extract_features(model, SkeletonDataset(store, clips, how), how.stream, store.layout)
        for clips in (division.fit, division.validation)
    )
    rate, penalty = choose_settings(ForChoosing(*fit, *validation), len(store.info.class_names), seed=0)
    found: dict[str, Any] = {
        "SGD": rate.validation_top1,
        "logistic regression": penalty.validation_top1,
        "mean": (rate.validation_top1 + penalty.validation_top1) / 2,
    }
    with atomic_path(run / VALIDATION, overwrite=True) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except InputError as error:
        sys.exit(f"mica: error: {error}")
    except Interrupted as interrupted:
        print(interrupted)
        sys.exit(interrupted.status)
