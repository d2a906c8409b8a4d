"""Results in tables: which number stands where, and what is said of it."""

from __future__ import annotations

from typing import Any

from mica.evaluation.results import Result, Score
from mica.report.score_table import score_table

PLACE: dict[str, Any] = {
    "dataset": "nw-ucla", "split": "cross-view", "split_note": "1,020 / 464 as published",
    "parts": {"train": 1020, "test": 464}, "validation_subjects": (3, 8), "pretrained_on": "nw-ucla",
    "supervision": "none", "class_names": ("wave", "clap"),
}  # fmt: skip


def result(protocol: str, *scores: Score, source: str = "trained", **changes: Any) -> Result:
    return Result(protocol, source, scores, **{**PLACE, **changes})


RESULTS = [
    result("transfer", Score("linear, SGD", 50.0, clips=430), dataset="utd-mhad", split="cross-subject"),
    result("knn", Score("k = 1", 61.0, clips=464), Score("k = 5", 62.0, clips=464)),
    result(
        "linear",
        Score("SGD", 70.0, spread=1.5, clips=464, chosen={"setting": "lr 3", "validation_top1": 88.25}),
    ),
    result("linear", Score("SGD", 20.0, spread=0.5), source="random"),
    result("linear", Score("logistic regression", 33.0), source="raw"),  # of which the run has no score
    result("linear", Score("SGD", 99.0), source="raw", dataset="utd-mhad"),  # other clips
    result("knn", Score("k = 5", 40.0), source="turned"),
    result("knn", Score("k = 5", 41.0), source="raw"),
    result("retrieval", Score("by words", 5.0), source="raw"),  # the run itself has none
]


def test_protocols_in_order_other_data_sets_last() -> None:
    table = score_table(RESULTS, "nw-ucla")
    assert [group.name for group in table.groups] == ["linear", "knn", "transfer to UTD-MHAD"]
    assert [len(group.lines) for group in table.groups] == [1, 2, 1]
    assert table.groups[0].circumstances == (
        "NW-UCLA, cross-view: 1,020 / 464 as published; held out for choices: subjects 3, 8"
    )
    assert table.groups[2].circumstances.startswith("UTD-MHAD, cross-subject")


def test_floors_are_of_the_same_variant_on_the_same_clips() -> None:
    linear, knn, transfer = score_table(RESULTS, "nw-ucla").groups
    assert {name: floor.top1 for name, floor in linear.lines[0].floors.items()} == {"random encoder": 20.0}
    assert knn.lines[0].floors == {}
    assert {name: floor.top1 for name, floor in knn.lines[1].floors.items()} == {
        "raw coordinates": 41.0,
        "raw, turned to front": 40.0,
    }
    assert knn.floors == ["raw coordinates", "raw, turned to front"]
    assert transfer.floors == []
    assert score_table(RESULTS, "nw-ucla").floors == ["random encoder"]  # of the first lines alone


def test_choices_and_measures_in_small_print() -> None:
    measures = {"hit rate at 1": 72.3, "area under seen-unseen curve": 0.123, "labels": 1020.0}
    score = Score("x", 1.0, measures=measures, chosen={"setting": "12 epochs"})
    (group,) = score_table([result("semi", score)], "nw-ucla").groups
    assert group.lines[0].small == [
        "hit rate at 1: 72.3, area under seen-unseen curve: 0.12, labels: 1,020",
        "chosen on validation: 12 epochs",
    ]
    (linear, *_) = score_table(RESULTS, "nw-ucla").groups
    assert linear.lines[0].small == ["chosen on validation: lr 3 (88.2 % there)"]


def test_pictures_tell_all_numbers() -> None:
    table = score_table(RESULTS, "nw-ucla")
    assert table.picture is not None
    assert (
        "linear: 70.0 ± 1.5 (random encoder 20.0); knn: 61.0; transfer to UTD-MHAD: 50.0."
        in table.picture.alt
    )
    assert [group.picture is not None for group in table.groups] == [False, True, False]
    assert "k = 5: 62.0 (raw coordinates 41.0, raw, turned to front 40.0)" in str(table.groups[1].picture)
    empty = score_table([], "nw-ucla")
    assert (empty.groups, empty.floors, empty.picture) == ([], [], None)
