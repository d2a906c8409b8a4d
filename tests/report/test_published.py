"""The numbers of others: as they were collected, apart by what was learned from, and beside our own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from mica.data.splits import published_protocols
from mica.evaluation.results import Result, Score
from mica.models.mica import ModelCard
from mica.report.published import (
    Number,
    _entries,
    own_numbers,
    published_section,
    published_table,
    rankings,
)

# As it was collected, method by method; "3s" sums three streams.
LINEAR = """
             ntu60/xsub ntu60/xview ntu120/xsub ntu120/xset pku-mmd-1/xsub pku-mmd-2/xsub
SkeletonCLR  68.3       76.4        56.8        55.9        -              -
AimCLR       74.3       79.7        63.4        63.4        83.4           -
PSTL         77.3       81.8        66.2        67.7        88.4           49.3
MAMP         84.9       89.1        78.6        79.1        92.2           53.8
USDRL        85.2       91.7        76.6        78.1        -              54.4
STARS        87.1       90.9        79.9        80.8        -              52.7
3s-CrosSCLR  77.8       83.4        67.9        66.7        84.9           -
3s-AimCLR    78.9       83.8        68.2        68.8        87.8           38.5
"""
SPLITS = {"xsub": "cross-subject", "xview": "cross-view", "xset": "cross-setup"}
MEASURED = """
                                          utd-mhad nw-ucla
raw coordinates, nearest neighbour        86.5     60.1
raw coordinates, logistic regression      79.8     68.5
random ST-GCN, nearest neighbour          57.1±6.2 37.7±2.6
random ST-GCN, logistic regression        79.5±2.5 55.7±3.3
SkeletonCLR, nearest neighbour            56.3     67.2
SkeletonCLR, logistic regression          72.8     73.7
AimCLR, nearest neighbour                 53.5     61.2
AimCLR, logistic regression               66.0     65.5
ST-GCN, trained on labels                 70.2     77.8
"""
OWN = Number(
    "mine", 99.0, "own", "language-supervised", "linear, SGD", "joint", 0.4, "stgcn-small, 25 epochs"
)


def test_published_linear_evaluations_are_all_there_and_no_others() -> None:
    head, *lines = LINEAR.strip().splitlines()
    for column, place in enumerate(head.split()):
        dataset, split = place.split("/")
        wanted = {}
        for method, *values in map(str.split, lines):
            if values[column] != "-":
                streams = "three" if method.startswith("3s-") else "joint"
                wanted[method.removeprefix("3s-"), streams] = float(values[column])
        table = published_table(dataset, SPLITS[split])
        assert table is not None
        assert {(number.method, number.streams): number.top1 for number in table.numbers} == wanted
        assert {number.origin for number in table.numbers} == {"published"}
        assert {(number.supervision, number.protocol) for number in table.numbers} == {
            ("self-supervised", "linear")
        }


@pytest.mark.parametrize(
    ("dataset", "split", "published"),
    [
        ("utd-mhad", "cross-subject", {("self-supervised", 95.1), ("supervised", 94.7)}),
        (
            "nw-ucla",
            "cross-view",
            {
                ("self-supervised", 86.1),
                ("self-supervised", 84.9),
                ("supervised", 96.5),
                ("supervised", 98.3),
            },
        ),
    ],
)
def test_sets_at_hand_have_what_was_measured_at_short_budgets(
    dataset: str, split: str, published: set[tuple[str, float]]
) -> None:
    table = published_table(dataset, split)
    assert table is not None
    found = {
        number.origin: [n for n in table.numbers if n.origin == number.origin] for number in table.numbers
    }
    assert {(number.supervision, number.top1) for number in found["published"]} == published
    head, *lines = MEASURED.strip().splitlines()
    column = head.split().index(dataset)
    wanted = {}
    for line in lines:
        name, *values = re.split(r"\s{2,}|(?<=\d) ", line)
        top1, _, spread = values[column].partition("±")
        wanted[name] = (float(top1), float(spread) if spread else None)
    assert {f"{n.method}, {n.protocol}": (n.top1, n.spread) for n in found["measured"]} == wanted


def test_every_place_is_a_published_protocol_and_others_have_none() -> None:
    places = {place for entry in _entries() for place in (*entry["top1"], *entry.get("spread", {}))}
    for place in places:
        dataset, split = place.split("/")
        assert split in {protocol.name for protocol in published_protocols(dataset)}, place
    assert published_table("synthetic", "cross-subject") is None
    assert published_table("ntu60", "cross-setup") is None


def test_what_learned_from_other_things_is_in_no_common_ranking() -> None:
    table = published_table("nw-ucla", "cross-view")
    assert table is not None
    selfish = replace(OWN, supervision="self-supervised", top1=85.0)
    groups = rankings(table, [OWN, selfish])
    for heading, numbers in groups.items():
        if "measured by us" in heading:
            assert {number.origin for number in numbers} == {"measured"}
        else:
            assert len({number.supervision for number in numbers}) == 1, heading
            assert [number.top1 for number in numbers] == sorted((n.top1 for n in numbers), reverse=True)
            assert "measured" not in {number.origin for number in numbers}
    assert next(iter(groups)).startswith("Self-supervised")
    assert [number.top1 for number in next(iter(groups.values()))] == [86.1, 85.0, 84.9]
    assert [numbers for heading, numbers in groups.items() if heading.startswith("Language")] == [[OWN]]
    assert sum(map(len, groups.values())) == len(table.numbers) + 2


def result(protocol: str, scores: tuple[Score, ...], **changes: object) -> Result:
    circumstances = {
        "source": "trained", "dataset": "nw-ucla", "split": "cross-view", "split_note": "", "parts": {"test": 4},
        "validation_subjects": (), "pretrained_on": None, "supervision": "none", "class_names": ("a", "b"),
    }  # fmt: skip
    return Result(protocol=protocol, scores=scores, **{**circumstances, **changes})


def test_own_numbers_are_the_linear_ones_of_the_same_clips(make_card: Callable[..., ModelCard]) -> None:
    table = published_table("nw-ucla", "cross-view")
    assert table is not None
    scores = (Score("SGD", 84.0, spread=0.5), Score("logistic regression", 83.0))
    fused = tuple(
        Score(name, 90.0)
        for name in ("weights chosen on validation", "joint alone", "bone alone", "motion alone")
    )
    results = [
        result("linear", scores),
        result("linear", scores, source="random"),
        result("linear", scores, split="cross-subject"),
        result("linear", scores, dataset="utd-mhad"),
        result("knn", scores),
        result("ensemble", fused, supervision="words"),
        result("ensemble", fused[:-1]),
    ]
    card = make_card(stream="bone", class_names=("a", "b", "c"), seen_classes=(0, 2))
    own = list(own_numbers("run", card, 25, results, table))
    assert [(number.protocol, number.top1, number.streams) for number in own] == [
        ("linear, SGD", 84.0, "bone"),
        ("linear, logistic regression", 83.0, "bone"),
        ("linear, weights chosen on validation", 90.0, "three"),
        ("linear, weights chosen on validation", 90.0, "joint and bone"),
    ]
    assert [number.supervision for number in own] == [
        "self-supervised", "self-supervised", "language-supervised", "self-supervised"
    ]  # fmt: skip
    assert own[0].note == "stgcn-small with FreST, 25 epochs, pretrained on 2 of 3 classes"
    assert own[0].spread == 0.5


def test_page_part_marks_ours_and_names_what_was_learned_from() -> None:
    table = published_table("nw-ucla", "cross-view")
    assert table is not None
    html = published_section(table, [replace(OWN, method="<b>mine</b>")])
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html))
    assert html.count(">ours<") == 1
    assert "&lt;b&gt;mine&lt;/b&gt;" in html
    assert "99.0 ± 0.4 linear, SGD skeletons and sentences joint" in text
    assert "CTR-GCN 96.5 trained on labels labels \N{EN DASH}" in text
    assert (
        "raw coordinates 50 frames, turned to the front or not, whichever was better 60.1 nearest neighbour nothing"
        in text
    )
    assert "differ from ours" in text
    assert "Numbers of this project are marked" in text
    assert "Numbers of this project" not in published_section(table)
