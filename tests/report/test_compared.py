"""Runs as their directories tell of them: which scores may stand beside each other, and which is the best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from mica.errors import InputError
from mica.evaluation.results import Result, Score
from mica.models.description import Supervision
from mica.models.mica import ModelCard
from mica.report.compared import best_of, distinct_names, read_runs, settings

MakeCard, WriteRun, AddResult = Callable[..., ModelCard], Callable[..., Path], Callable[..., Result]


def test_best_agrees_with_a_plain_search() -> None:
    random, kinds = np.random.default_rng(0), get_args(Supervision)
    for _ in range(200):
        count = int(random.integers(1, 7))
        cells = {
            place: (
                Score("SGD", float(random.choice([50.0, 50.04, 60.0, 60.2]))),
                kinds[random.integers(3)],
            )
            for place in range(count)
        }
        wanted = set()
        for place, (score, text) in cells.items():
            rivals = [other for other, (_, read) in cells.items() if read == text and other != place]
            if rivals and all(round(cells[other][0].top1, 1) <= round(score.top1, 1) for other in rivals):
                wanted.add(place)
        assert best_of(cells) == wanted


def test_other_classes_or_other_test_clips_are_no_contest(
    tmp_path: Path, make_card: MakeCard, write_run: WriteRun, add_result: AddResult
) -> None:
    card = make_card()
    runs = [write_run(tmp_path / name, card) for name in "abc"]
    add_result(runs[0], card, "linear", {"SGD": 50.0})
    add_result(runs[1], card, "linear", {"SGD": 60.0}, class_names=("wave", "clap", "sit"))
    add_result(runs[2], card, "linear", {"SGD": 60.0}, labels=[0, 1, 2])
    found = settings(read_runs(runs))
    assert [[run.name for run in setting.runs] for setting in found] == [["a"], ["b"], ["c"]]
    assert not any(row.best for setting in found for row in setting.rows)


def test_zero_shot_over_other_unseen_classes_is_another_question(
    tmp_path: Path, make_card: MakeCard, write_run: WriteRun, add_result: AddResult
) -> None:
    card = make_card(text="minilm", seen_classes=(0, 1))
    runs = [write_run(tmp_path / name, card) for name in "ab"]
    for run, unseen in zip(runs, (("bow",), ("wave",)), strict=True):
        for protocol in ("zero-shot", "linear"):
            add_result(run, card, protocol, {"mean": 50.0}, unseen_classes=unseen)
    (setting,) = settings(read_runs(runs))
    filled = [(row.protocol, [score is not None for score in row.scores]) for row in setting.rows]
    assert filled == [
        ("linear", [True, True]),
        ("zero-shot", [True, False]),
        ("zero-shot", [False, True]),
    ]


def test_names_tell_the_runs_apart(tmp_path: Path, make_card: MakeCard, write_run: WriteRun) -> None:
    runs = [write_run(tmp_path / place / "run", make_card()) for place in ("x", "y")]
    assert [run.name for run in read_runs(runs)] == ["x/run", "y/run"]
    assert distinct_names([Path("/run"), Path("/x/run"), Path("/x/late")]) == ["/run", "x/run", "late"]
    with pytest.raises(InputError, match="the same run twice"):
        read_runs([runs[0], runs[0] / ".." / "run"])
    with pytest.raises(InputError, match="at least two"):
        read_runs(runs[:1])


def test_refuses_a_card_that_describes_no_model(
    tmp_path: Path, make_card: MakeCard, write_run: WriteRun
) -> None:
    runs = [write_run(tmp_path / "a", make_card()), write_run(tmp_path / "b", make_card(layout="octopus"))]
    with pytest.raises(InputError, match="describes no model"):
        read_runs(runs)
