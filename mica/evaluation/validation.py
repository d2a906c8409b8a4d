"""What the validation clips say of a run that has not trained on them: how good it is, which settings its probes need.

A run that is to be scored after training on the whole training part has seen those clips and cannot be asked itself:
on clips that taught it, every setting looks right.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

from mica.data.dataset import SkeletonDataset
from mica.data.splits import split
from mica.data.store import Store
from mica.evaluation.choosing import Validated, best
from mica.evaluation.features import ForChoosing, extract_features, in_text_space
from mica.evaluation.knn import POOLED, TEXT_SPACE, validate_ways
from mica.evaluation.linear import LOGISTIC, SGD, validate_settings
from mica.evaluation.runs import fresh_model
from mica.files import atomic_path

VALIDATION = "validation.json"


def validate_run(run: Path, store: Store) -> None:
    """Score the validation clips, and no others, by both linear probes and nearest neighbours; keep what came of it."""
    model = fresh_model(run)
    how, division = model.card.preprocessing, split(store, model.card.protocol)
    clips = ForChoosing(
        *extract_features(model, SkeletonDataset(store, division.fit, how), how.stream, store.layout),
        *extract_features(model, SkeletonDataset(store, division.validation, how), how.stream, store.layout),
    )
    spaces = {POOLED: clips}
    if model.semantic is not None:
        fit, validation = in_text_space(model, clips.fit), in_text_space(model, clips.validation)
        spaces[TEXT_SPACE] = clips._replace(fit=fit, validation=validation)
    found = {**validate_settings(clips, len(store.info.class_names)), **validate_ways(spaces)}
    with atomic_path(run / VALIDATION, overwrite=True) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")


def read_validated(run: Path) -> Validated:
    """What `validate_run` kept of a run."""
    found: Validated = json.loads((run / VALIDATION).read_text())
    return found


def validation_top1(validated: Validated) -> float:
    """How good a run is: the mean of both linear probes, each at its best setting, in percent.

    >>> validation_top1({"SGD": {"lr 0.1": 70.0, "lr 0.03": 80.0}, "logistic regression": {"C 0.1": 90.0}})
    85.0
    """
    return fmean(best(validated[probe]).validation_top1 for probe in (SGD, LOGISTIC))
