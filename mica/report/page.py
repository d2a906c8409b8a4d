"""From a run directory to report.html."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mica.data.splits import split
from mica.data.store import Store
from mica.evaluation.evaluate import check_fit
from mica.files import atomic_path, refuse_existing
from mica.models.pretrained import ModelCard, load_card, load_pretrained
from mica.report import figures
from mica.report.figures import Picture
from mica.report.probe import Gate, Probe, probe
from mica.report.records import RunRecords, read_records
from mica.report.templates import style, template
from mica.report.words import in_order, meaning, method, most_confused, title, unmeasured
from mica.skeleton import SkeletonLayout
from mica.training.run import CHECKPOINT

REPORT = "report.html"
_TERMS = {  # name in metrics.jsonl: what it is, unit
    "loss": ("Total loss, weighted", "nats"),
    "modulation": ("Feature Modulation, KL(P || Q)", "nats"),
    "inter": ("Inter: skeleton and text", "nats"),
    "intra": ("Intra: two views of a clip", "no unit"),
    "knn_validation": ("Running kNN on validation subjects", "top-1 [%]"),
}
_NAMED_JOINTS = 5


def write_report(
    run: str | os.PathLike[str],
    store: Store,
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = True,
) -> Path:
    """Write the report of a run as one HTML file that needs nothing besides itself, and return its path.

    It shows what the run directory holds, and passes the test clips of `store` through the model once more
    for the map of embeddings and the gate. `out` is RUN/report.html unless given. Raises InputError where
    `run` is no directory that pretraining wrote, a file in it is damaged, `store` is another data set than
    the model's, or `out` exists and may not be overwritten.
    """
    run = Path(run)
    out = refuse_existing(run / REPORT if out is None else out, overwrite)
    records, card = read_records(run), load_card(run / CHECKPOINT)
    check_fit(card, store)
    model, _ = load_pretrained(run / CHECKPOINT)
    seen = probe(model, card, store, split(store, card.protocol).test)
    page = render(run, store.path, records, card, seen, store.layout)
    with atomic_path(out, overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def render(
    run: Path, data: Path, records: RunRecords, card: ModelCard, seen: Probe, layout: SkeletonLayout
) -> str:
    """Return the page; whatever comes from files is escaped."""
    linear = records.evaluations.get("linear")
    counts = None if linear is None else linear.confusion
    return template("report.html.j2").render(
        style=style(),
        run=run,
        data=data,
        card=card,
        title=title(card),
        method=method(card, len(records.metrics)),
        results=[
            (records.evaluations[name], meaning(records.evaluations[name]))
            for name in in_order(records.evaluations)
        ],
        baselines=_baseline_names(records),
        unmeasured=unmeasured(card, records.evaluations),
        curves=curves(records),
        confusion=None if counts is None else figures.confusion(counts, card.class_names),
        confused=[] if counts is None else most_confused(counts, card.class_names),
        clips=len(seen.points),
        map=figures.embedding_map(seen.points, seen.labels),
        legend=figures.legend(seen.labels, card.class_names),
        gate=None if seen.gate is None else gate_view(seen.gate, seen.pose, layout),
        config=records.config,
    )


def _baseline_names(records: RunRecords) -> list[str]:
    names = (name for evaluation in records.evaluations.values() for name in evaluation.baselines)
    return list(dict.fromkeys(names))


def curves(records: RunRecords) -> list[Picture]:
    """Loss, its terms and the running kNN, those that the run recorded, one picture each."""
    epochs = [entry["epoch"] + 1 for entry in records.metrics]
    pictures = []
    for colour, (name, (caption, unit)) in enumerate(_TERMS.items()):
        values = [entry.get(name) for entry in records.metrics]
        if any(value is not None for value in values):
            pictures.append(figures.curve(epochs, values, caption, unit, colour))
    return pictures


@dataclass(frozen=True)
class GateView:
    """The gate in pictures and words; `by_share` says whether joints are told apart by how often they pass.

    `gains` are the least and the greatest of both filters.
    """

    filters: list[Picture]
    body: Picture
    by_share: bool
    gains: tuple[float, float]
    strongest: list[str]
    weakest: list[str]


def gate_view(gate: Gate, pose: Float[np.ndarray, "V 2"], layout: SkeletonLayout) -> GateView:
    """Show the share of passes; where that tells no joint apart, the strength instead."""
    by_share = gate.switches and bool(gate.kept.min() < 0.995)
    values, unit = (
        (100 * gate.kept, "clips and channels in which the joint passes a signal [%]")
        if by_share
        else (gate.strength, "strength of the passed signal (average joint = 1)")
    )
    order = np.argsort(-values, kind="stable")
    digits, percent = (".1f", "\u00a0%") if by_share else (".2f", "")

    def name(joints: Sequence[int]) -> list[str]:
        return [f"{layout.joints[joint]} ({values[joint]:{digits}}{percent})" for joint in joints]

    bound = figures.filter_bound(gate)
    filters = [
        figures.filter_map(magnitude, layout, f"Filter of the {which} FreST layer", bound)
        for which, magnitude in (("first", gate.first), ("last", gate.last))
    ]
    return GateView(
        filters,
        figures.body(pose, values, layout, unit, order[:_NAMED_JOINTS].tolist()),
        by_share,
        (min(gate.first.min(), gate.last.min()), max(gate.first.max(), gate.last.max())),
        name(order[:_NAMED_JOINTS].tolist()),
        name(order[: -_NAMED_JOINTS - 1 : -1].tolist()),
    )
