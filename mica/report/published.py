"""What others reached on the same clips: published numbers, beside our own and never in one ranking with them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from markupsafe import Markup

from mica.evaluation.results import Result
from mica.models.description import Supervision as Seen
from mica.models.mica import ModelCard
from mica.report.templates import template

Supervision = Literal["self-supervised", "language-supervised", "supervised", "untrained"]

_NUMBERS = Path(__file__).with_name("published.yaml")
_SUPERVISION: dict[Seen, Supervision] = {
    "none": "self-supervised",
    "words": "language-supervised",
    "labels": "supervised",
}
_ALONE = " alone"  # ends the name of the score of one member of an ensemble
# What stands in one ranking, and in which order the rankings stand.
_RANKINGS = {
    "self-supervised": "Self-supervised: the encoder saw skeletons alone",
    "language-supervised": "Language-supervised: the encoder saw the labels of its clips as sentences",
    "supervised": "Supervised: the encoder was trained on the labels",
    "measured": "For scale, measured by us before this project: AimCLR's own code at short budgets on a CPU",
}


@dataclass(frozen=True)
class Number:
    """A top-1 accuracy in percent, and what it takes to judge it.

    Args:
        method: what it is called.
        top1: with `spread` over repetitions, where there were several.
        origin: "published" by others, "measured" by us with others' code, "own" of this project.
        supervision: what the encoder has learned from.
        protocol: how the encoder was judged.
        streams: "joint", ..., "three" for the sum of joint, bone and motion; "" where it is not known.
        note: budget, encoder, and whatever else is special.
    """

    method: str
    top1: float
    origin: Literal["published", "measured", "own"]
    supervision: Supervision
    protocol: str
    streams: str = ""
    spread: float | None = None
    note: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """The numbers that are known of a split of a data set, in no order of merit."""

    dataset: str
    split: str
    numbers: tuple[Number, ...]


def published_table(dataset: str, split: str) -> PublishedTable | None:
    """Return what is known of a split, None where nothing was published.

    Collected from the projects' own pages and later papers' tables.

    >>> table = published_table("ntu60", "cross-view")
    >>> [number.top1 for number in table.numbers if number.method == "AimCLR"]
    [79.7, 83.8]
    >>> published_table("synthetic", "cross-subject")
    """
    key = f"{dataset}/{split}"
    numbers = tuple(_number(entry, key) for entry in _entries() if key in entry["top1"])
    return PublishedTable(dataset, split, numbers) if numbers else None


@cache
def _entries() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = yaml.safe_load(_NUMBERS.read_text(encoding="utf-8"))
    return entries


def _number(entry: dict[str, Any], key: str) -> Number:
    return Number(**{**entry, "top1": entry["top1"][key], "spread": entry.get("spread", {}).get(key)})


def own_numbers(
    name: str, card: ModelCard, epochs: int, results: Sequence[Result], table: PublishedTable
) -> Iterator[Number]:
    """The linear evaluations of a run on the clips of `table`, of which `results` may hold some, and its ensemble's."""
    for result in results:
        if (result.dataset, result.split, result.source) != (table.dataset, table.split, "trained"):
            continue
        if result.protocol in ("linear", "ensemble"):
            for score in result.scores[: 1 if result.protocol == "ensemble" else None]:
                yield Number(
                    method=name,
                    top1=score.top1,
                    origin="own",
                    supervision=_SUPERVISION[result.supervision],
                    protocol=f"linear, {score.name}",
                    streams=_streams(result) or card.preprocessing.stream,
                    spread=score.spread,
                    note=_about(card, epochs),
                )


def _streams(result: Result) -> str:
    """What an ensemble is made of, as the scores of its members say."""
    members = [score.name.removesuffix(_ALONE) for score in result.scores if score.name.endswith(_ALONE)]
    return "three" if sorted(members) == ["bone", "joint", "motion"] else " and ".join(members)


def _about(card: ModelCard, epochs: int) -> str:
    encoder = f"{card.encoder.preset}{' with FreST' if card.encoder.frest else ''}, {epochs} epochs"
    seen, known = len(card.seen_classes), len(card.class_names)
    return encoder if seen == known else f"{encoder}, pretrained on {seen} of {known} classes"


def rankings(table: PublishedTable, own: Sequence[Number] = ()) -> dict[str, list[Number]]:
    """Numbers that may be compared, best first, under a heading each; our own stand where their supervision says.

    What was measured at short budgets comes last, as it is and in no ranking.

    >>> own = Number("mine", 70.0, "own", "language-supervised", "linear")
    >>> found = rankings(published_table("ntu60", "cross-view"), [own])
    >>> [len(numbers) for numbers in found.values()], found[_RANKINGS["language-supervised"]] == [own]
    ([8, 1], True)
    """
    groups: dict[str, list[Number]] = {key: [] for key in _RANKINGS}
    for number in (*table.numbers, *own):
        groups["measured" if number.origin == "measured" else number.supervision].append(number)
    for key in groups.keys() - {"measured"}:
        groups[key].sort(key=lambda number: -number.top1)
    return {_RANKINGS[key]: numbers for key, numbers in groups.items() if numbers}


def published_section(table: PublishedTable, own: Sequence[Number] = ()) -> Markup:
    """Return the table as HTML with the words that it needs, for a page that has the common style."""
    return Markup(template("published.html.j2").render(rankings=rankings(table, own), own=bool(own)))
