"""What a page shows of training, of confusions and of embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mica.evaluation.metrics import ConfusedPair
from mica.evaluation.results import Result, Score
from mica.models.mica import MICA, ModelCard
from mica.report import words
from mica.report.anchors import AnchoredMap, anchored_map
from mica.report.figures import charts, maps
from mica.report.figures.canvas import Picture
from mica.report.probe import Probe

_WORST_CLASSES = 3


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Loss, its terms and the running kNN, those that the run recorded, one picture each."""
    epochs = [entry["epoch"] + 1 for entry in metrics]
    pictures = []
    for colour, (name, (caption, unit)) in enumerate(words.TERMS.items()):
        values = [entry.get(name) for entry in metrics]
        if any(value is not None for value in values):
            pictures.append(charts.curve(epochs, values, caption, unit, colour))
    return pictures


@dataclass(frozen=True)
class ConfusionView:
    """Which classes fail, by which score; `pairs` the worst confusions first, `empty` the classes without clips."""

    score: str
    bars: Picture
    matrix: Picture
    pairs: tuple[ConfusedPair, ...]
    empty: list[str]


def confusion_view(results: Sequence[Result], card: ModelCard) -> ConfusionView | None:
    """Show the first score, in the order of protocols, that was asked about all classes; None where there is none."""
    found = _confusion_of(results, card)
    if found is None:
        return None
    result, score = found
    known = {name: value for name, value in score.per_class.items() if value is not None}
    counts = np.array(score.confusion, dtype=np.int64)
    return ConfusionView(
        score=f"{result.protocol}, {score.name}",
        bars=charts.class_bars(known, score.top1, min(_WORST_CLASSES, len(known) // 2)),
        matrix=charts.confusion(counts, card.class_names),
        pairs=score.confused,
        empty=[name for name in card.class_names if name not in known],
    )


def _confusion_of(results: Sequence[Result], card: ModelCard) -> tuple[Result, Score] | None:
    place = (card.dataset, card.class_names)
    own = {
        result.protocol: result
        for result in results
        if result.source == "trained" and (result.dataset, result.class_names) == place
    }
    for protocol in words.in_order(own):
        score = own[protocol].scores[0]
        asked = protocol != "zero-shot" or not own[protocol].unseen_classes
        if asked and score.confusion and score.per_class:
            return own[protocol], score
    return None


@dataclass(frozen=True)
class MapsView:
    """The test clips by their features and, or why not, among the words of their classes."""

    clips: int
    plain: Picture
    legend: list[tuple[Picture, str]]
    anchored: Picture | None
    gap: float
    unseen: list[str]
    missing: str


def maps_view(model: MICA, card: ModelCard, seen: Probe) -> MapsView:
    """Draw both maps."""
    found = anchored_map(model, card, seen.features)
    unseen = [label for label in range(len(card.class_names)) if label not in card.seen_classes]
    anchored, missing = None, found if isinstance(found, str) else ""
    if isinstance(found, AnchoredMap):
        anchored = maps.anchored_map(found.points, seen.labels, found.anchors, card.class_names, unseen)
    return MapsView(
        clips=len(seen.points),
        plain=maps.embedding_map(seen.points, seen.labels),
        legend=maps.legend(seen.labels, card.class_names),
        anchored=anchored,
        gap=found.gap if isinstance(found, AnchoredMap) else 0.0,
        unseen=[card.class_names[label] for label in unseen],
        missing=missing,
    )
