"""A result says what was predicted, comes back from disk as it was, and is refused where it is damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator

from mica.errors import InputError
from mica.evaluation.results import Result, Score, read_result, read_results, result_file, score, write_result

NAMES = ("wave", "clap", "never asked")


def answers(seed: int) -> torch.Tensor:
    return torch.randint(3, (20,), generator=Generator().manual_seed(seed))


@pytest.fixture
def found() -> Score:
    truth = answers(0) % 2
    predictions = [answers(seed) for seed in (1, 2, 3)]
    chosen = {"setting": "lr 0.1", "validation_top1": 50.0}
    return score("SGD", predictions, truth, NAMES, seeds=(1, 2, 3), chosen=chosen, measures={"labels": 5.0})


@pytest.fixture
def result(found: Score) -> Result:
    return Result(
        protocol="linear",
        source="trained",
        scores=(found, replace(found, name="logistic regression", spread=None, seeds=())),
        dataset="nw-ucla",
        split="cross-view",
        split_note="1,020 / 464 as published",
        parts={"train": 1020, "fit": 900, "validation": 120, "test": 20},
        validation_subjects=(3, 8),
        pretrained_on="nw-ucla, cross-view, fit",
        supervision="none",
        class_names=NAMES,
        unseen_classes=("clap",),
    )


def test_a_score_sums_up_its_seeds(found: Score) -> None:
    truth = (answers(0) % 2).tolist()
    runs = [answers(seed).tolist() for seed in (1, 2, 3)]
    reached = [100 * sum(a == b for a, b in zip(run, truth, strict=True)) / 20 for run in runs]
    assert found.top1 == pytest.approx(sum(reached) / 3)
    assert found.spread == pytest.approx(np.std(reached, ddof=1))
    pairs = [pair for run in runs for pair in zip(truth, run, strict=True)]
    assert found.confusion == tuple(tuple(pairs.count((i, j)) for j in range(3)) for i in range(3))
    assert found.per_class == {
        "wave": pytest.approx(100 * pairs.count((0, 0)) / sum(i == 0 for i, _ in pairs)),
        "clap": pytest.approx(100 * pairs.count((1, 1)) / sum(i == 1 for i, _ in pairs)),
        "never asked": None,
    }
    assert (found.clips, found.seeds, found.measures) == (20, (1, 2, 3), {"labels": 5.0})
    assert found.confused[0].percent == max(pair.percent for pair in found.confused)


def test_what_was_drawn_once_has_no_spread() -> None:
    once = score("k = 1", [answers(1)], answers(0), NAMES)
    assert (once.spread, once.seeds, once.chosen, once.measures) == (None, (), {}, {})
    assert score("k = 1", [answers(0)], answers(0), NAMES).top1 == 100.0


def test_comes_back_as_it_was(result: Result, tmp_path: Path) -> None:
    file = result_file(tmp_path, "linear")
    write_result(file, replace(result, dataset="another, to be replaced"))
    write_result(file, result)
    assert read_result(file) == result
    assert read_results(tmp_path) == [result]
    assert [path.name for path in file.parent.iterdir()] == ["linear.json"]


def test_files_by_protocol_source_and_target() -> None:
    run = Path("run")
    assert result_file(run, "linear") == run / "evaluation" / "linear.json"
    assert result_file(run, "knn", "random").name == "random-knn.json"
    assert result_file(run, "transfer", target="utd-mhad").name == "transfer-utd-mhad.json"


def test_a_run_without_results_has_none(tmp_path: Path) -> None:
    assert read_results(tmp_path) == []


def test_results_are_read_in_the_order_of_their_names(result: Result, tmp_path: Path) -> None:
    for protocol in ("linear", "knn", "retrieval"):
        write_result(result_file(tmp_path, protocol), replace(result, protocol=protocol))
    assert [result.protocol for result in read_results(tmp_path)] == ["knn", "linear", "retrieval"]


Damage = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda entries: entries.pop("format"), "no result of format 2"),
        (lambda entries: entries.update(format=1), "no result of format 2"),
        (lambda entries: entries.pop("scores"), "scores"),
        (lambda entries: entries.update(scores=[]), "no score"),
        (lambda entries: entries.update(scores=[3]), "malformed"),
        (lambda entries: entries.pop("class_names"), "class_names"),
        (lambda entries: entries.pop("dataset"), "dataset"),
        (lambda entries: entries.update(unknown=1), "unknown"),
        (lambda entries: entries.update(class_names=["a"]), "1 x 1"),
        (lambda entries: entries["scores"][0].update(top1="high"), "high"),
        (lambda entries: entries["scores"][0].update(confusion=[[1, 2], [3]]), "confusion counts"),
        (lambda entries: entries["scores"][0].pop("seeds"), "seeds"),
        (lambda entries: entries["scores"][0].update(confused=[{"true": "a"}]), "malformed"),
    ],
)
def test_damage_is_named(result: Result, tmp_path: Path, damage: Damage, message: str) -> None:
    file = result_file(tmp_path, "linear")
    write_result(file, result)
    entries = json.loads(file.read_text())
    damage(entries)
    file.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=message) as caught:
        read_results(tmp_path)
    assert caught.value.file == file
    assert "evaluate" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1', '"text"', "\0"])
def test_what_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (file := tmp_path / "linear.json").write_text(text)
    with pytest.raises(InputError, match=r"not JSON|no result"):
        read_result(file)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_result(tmp_path / "linear.json")
