"""From a run directory to report.html."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from markupsafe import Markup

from mica.data.splits import Split, split
from mica.data.store import Store
from mica.evaluation.runs import CHECKPOINT, check_fit
from mica.files import atomic_path, output_file
from mica.models.mica import MICA, ModelCard
from mica.report import words
from mica.report.gate_view import ClassGateView, class_gate_view, gate_view
from mica.report.motion.animation import animation_player, player_hash
from mica.report.probe import Probe, probe
from mica.report.published import own_numbers, published_section, published_table
from mica.report.records import RunRecords, read_records
from mica.report.retrieved import examples, retrieve
from mica.report.score_table import score_table
from mica.report.templates import style, template
from mica.report.views import ConfusionView, confusion_view, curves, maps_view

REPORT = "report.html"


def write_report(
    run: str | os.PathLike[str],
    store: Store,
    out: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = True,
) -> Path:
    """Write the report of a run as one HTML file that needs nothing besides itself, and return its path.

    It shows what the run directory holds, and passes clips of `store` through the model once more for the maps, the
    gate and the neighbours. `out` is RUN/report.html unless given. Raises InputError where `run` is no directory that
    pretraining wrote, a file in it is damaged, `store` is another data set than the model's, or `out` exists and may
    not be overwritten.
    """
    run = Path(run)
    out = output_file(run / REPORT if out is None else out, overwrite)
    records, card = read_records(run), ModelCard.read(run / CHECKPOINT)
    check_fit(card, store)
    page = render(run, store, records, MICA.from_pretrained(run / CHECKPOINT), split(store, card.protocol))
    with atomic_path(out, overwrite) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return out


def render(run: Path, store: Store, records: RunRecords, model: MICA, division: Split) -> str:
    """Return the page; whatever comes from files is escaped."""
    card = model.card
    seen = probe(model, card, store, division.test)
    found = retrieve(model, card, store, seen, division.train)
    confusion = confusion_view(records.results, card)
    measured = {result.protocol for result in records.results if result.source == "trained"}
    waiting = words.unmeasured(card, measured)
    place = shlex.quote(str(run)), shlex.quote(str(store.path))
    return template("report.html.j2").render(
        style=style(),
        player=animation_player(),
        player_hash=player_hash(),
        name=run.resolve().name,
        card=card,
        title=words.title(card),
        method=words.method(card, len(records.metrics)),
        parts=words.parts(store, division),
        scores=score_table(records.results, card.dataset),
        waiting=waiting,
        commands=[*words.commands(waiting, *place), "mica report --run {} --data {}".format(*place)],
        published=published(run.resolve().name, records, card),
        confusion=confusion,
        retrieval=found,
        examples=examples(store, seen, found),
        maps=maps_view(model, card, seen),
        gate=None if seen.gate is None else gate_view(seen.gate, seen.pose, store.layout),
        class_gate=by_class(store, card, seen, confusion),
        curves=curves(records.metrics),
        config=records.config,
    )


def published(name: str, records: RunRecords, card: ModelCard) -> Markup | None:
    """What others report on the same split, with this run's own numbers; None where nothing is known."""
    table = published_table(card.dataset, card.protocol)
    if table is None:
        return None
    return published_section(
        table, list(own_numbers(name, card, len(records.metrics), records.results, table))
    )


def by_class(
    store: Store, card: ModelCard, seen: Probe, confusion: ConfusionView | None
) -> ClassGateView | None:
    """The gate by class, beside the pair that is most confused."""
    if seen.gate is None:
        return None
    worst = confusion.pairs[0] if confusion is not None and confusion.pairs else None
    seconds = store.frames[seen.clips] / store.info.frame_rate
    return class_gate_view(seen.gate, seen.pose, store.layout, card.class_names, worst, seen.labels, seconds)
