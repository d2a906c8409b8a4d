"""Runs as evaluations meet them: the model that a run left, the store that fits it, and where a result is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from mica.data.splits import Split, protocols_of
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.features import Source, random_model
from mica.evaluation.results import (
    FOLDER,
    ProtocolName,
    Result,
    Score,
    read_result,
    result_file,
    write_result,
)
from mica.models.hub import README
from mica.models.mica import MICA, ModelCard
from mica.models.readme import ResultLine, describe_model, write_readme

CHECKPOINT = "checkpoint"
_HINT = "evaluate on the store that the run was trained on; `mica evaluate transfer` takes any other"


def fresh_model(run: Path, source: Source = "trained") -> MICA:
    """The model of a run as it was pretrained, or ("random") as it was before, where there is a GPU on that."""
    model = MICA.from_pretrained(run / CHECKPOINT)
    if source == "random":
        model = random_model(model.card)
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def check_fit(card: ModelCard, store: Store) -> None:
    """Raise InputError unless the store has the skeleton, dataset and classes that the model was made for."""
    for field, of_model, of_store in (
        ("layout", card.layout, store.info.layout),
        ("dataset", card.dataset, store.info.dataset),
        ("class_names", card.class_names, store.info.class_names),
    ):
        if of_model != of_store:
            if field == "class_names":
                of_model, of_store = f"{len(of_model)} classes", f"{len(of_store)} classes (or other names)"
            raise InputError(
                f"the model was pretrained on {of_model}, the store holds {of_store}",
                file=store.path,
                field=field,
                hint=_HINT,
            )
    if card.skeleton != store.layout:
        problem = f"other joints or bones than the model's, under the same name {card.layout}"
        raise InputError(problem, file=store.path, field="layout", hint=_HINT)


def keep_result(
    run: Path,
    card: ModelCard,
    protocol: ProtocolName,
    source: Source,
    scores: Sequence[Score],
    store: Store,
    division: Split,
) -> Result:
    """Write what was found, with its circumstances, into the run's directory and return it."""
    trained, parts = source == "trained", ("train", "fit", "validation", "test")
    held_out = np.unique(store.subjects[division.validation])
    unseen = [name for label, name in enumerate(card.class_names) if label not in card.seen_classes]
    result = Result(
        protocol=protocol,
        source=source,
        scores=tuple(scores),
        dataset=store.info.dataset,
        split=division.protocol.name,
        split_note=division.note,
        parts={part: len(getattr(division, part)) for part in parts},
        validation_subjects=tuple(subject for subject in held_out.tolist() if subject),
        pretrained_on=f"{card.dataset}, {card.protocol}, {card.part}" if trained else None,
        supervision=card.supervision if trained else "none",
        class_names=store.info.class_names,
        unseen_classes=tuple(unseen) if protocol != "transfer" else (),
    )
    target = _target(store, division) if protocol == "transfer" else ""
    write_result(result_file(run, protocol, source, target), result)
    write_readme(run / CHECKPOINT / README, describe_model(card, list(quoted(run))))
    return result


def _target(store: Store, division: Split) -> str:
    """Another data set in a file's name, with the protocol unless it is the usual one."""
    dataset, protocol = store.info.dataset, division.protocol.name
    return dataset if protocol == protocols_of(store)[0].name else f"{dataset}-{protocol}"


def quoted(run: Path) -> Iterator[ResultLine]:
    """The first score of every result of the trained model, for its README; what cannot be read is not quoted."""
    for file in sorted((run / FOLDER).glob("*.json")):
        with suppress(InputError):
            found = read_result(file)
            if found.source == "trained":
                first = found.scores[0]
                yield ResultLine(
                    found.dataset,
                    found.split,
                    found.protocol,
                    first.name,
                    first.top1,
                    first.spread,
                    first.clips,
                    found.supervision,
                )
