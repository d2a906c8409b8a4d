"""The tables of every protocol: what they say of the kept figures, and what is kept of runs."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accuracy
from mica.evaluation.results import Result, Score, result_file, write_result

FEATURES = {
    "clips": "10 / 5 as published",
    "rows": [
        {"features": "raw", "words": False, "scores": [[45.1, 0.2], [45.5, None], [55.2, None]]},
        {
            "features": "language-supervised",
            "words": True,
            "scores": [[84.1, 0.0], [86.4, None], [86.2, None]],
            "epochs": 25,
            "minutes": 4.12,
        },
    ],
}
PROTOCOLS = [{"protocol": "retrieval: by words", "scores": [None, None, [100.0, None]]}]
SET = {"features": FEATURES, "protocols": PROTOCOLS}
UNSEEN = {
    "classes": ["sit to stand", "stand to sit"],
    "variants": [
        {"variant": "single wording", "top1": [45.5, 7.6], "clips": 80, "measures": {"chance": 20.0}}
    ],
}
FOUND: dict[str, Any] = {
    "device": "a processor",
    "torch": "2.13.0",
    "commit": "abc",
    "threads": 1,
    "date": "2026-11-29T00:00:00+00:00",
    "datasets": {"nw-ucla": SET, "utd-mhad": SET},
    "unseen": UNSEEN,
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nw-ucla-features", "| raw | no | 45.1 ± 0.2 | 45.5 | 55.2 |  |  |"),
        (
            "utd-mhad-features",
            "| language-supervised | labels as words | 84.1 ± 0.0 | 86.4 | 86.2 | 25 | 4.1 |",
        ),
        ("utd-mhad-features", "Training / test clips: 10 / 5 as published."),
        ("nw-ucla-protocols", "| retrieval: by words |  |  | 100.0 |"),
        ("utd-mhad-unseen", "| single wording | 45.5 ± 7.6 | 80 | chance 20.0 |"),
        ("utd-mhad-unseen", "Never seen in pretraining: sit to stand, stand to sit."),
    ],
)
def test_table(tmp_path: Path, name: str, expected: str) -> None:
    assert accuracy.table(name, tmp_path) == "Not yet measured."
    (tmp_path / "a-processor").mkdir()
    (tmp_path / "a-processor" / accuracy.FILE).write_text(json.dumps(FOUND))
    lines = accuracy.table(name, tmp_path).splitlines()
    assert lines[0] == (
        "**a processor**, 1 thread, PyTorch 2.13.0, commit abc, 2026-11-29. "
        "Made by `python -m benchmarks.accuracy run --raw DIR`."
    )
    assert expected in lines


def test_the_commands_leave_all_that_the_tables_ask_for(tmp_path: Path) -> None:
    """Each leaves what it is said to leave, with a score that says whose it is."""
    for command, file in accuracy.all_commands(Path("DIR"), tmp_path):
        if command[1] == "pretrain":
            folder = file.parents[1]
            folder.mkdir()
            (folder / "metrics.jsonl").write_text('{"seconds": 60.0}\n')
        elif command[1] == "evaluate":
            leave(command)
            assert file.is_file(), command
    found = accuracy.found_in(tmp_path)
    assert found["datasets"].keys() == set(accuracy.PROTOCOLS)
    every, trained, language = [True] * 3, [False, True, True], [False, False, True]
    for dataset, of in found["datasets"].items():
        assert len(of["features"]["rows"]) == len(accuracy.rows_of(dataset))
        assert all(len(row["scores"]) == 3 for row in of["features"]["rows"])
        other = next(name for name in accuracy.PROTOCOLS if name != dataset)
        assert {
            row["protocol"].partition(":")[0]: [score is not None for score in row["scores"]]
            for row in of["protocols"]
        } == {
            **dict.fromkeys(("linear", "knn", "retrieval", "finetune", "semi"), every),
            f"transfer to {other}": trained,
            **dict.fromkeys(("zero-shot", "ensemble"), language),
        }
    assert "| linear: SGD | 44.9 | 44.9 | 44.9 |" in accuracy.protocols_table(of["protocols"])


def leave(command: list[str]) -> None:
    """Write what a command of `mica evaluate` writes."""
    options = dict(pairwise(command))
    run, source = Path(options["--run"]), options.get("--features", "trained")
    of_all = {"linear", "knn", "retrieval", "finetune", "semi", "transfer"}
    of_all |= {"ensemble"} if "--with" in command else set()
    of_all |= set() if run.name.endswith("-self") else {"zero-shot"}
    for protocol in of_all if command[2] == "all" else {command[2]}:
        target = Path(options["--transfer-to"]).stem if protocol == "transfer" else ""
        names = ("SGD", "logistic regression") if protocol == "linear" else ("first",)
        result = Result(
            protocol,
            source,
            tuple(Score(name, 44.9495) for name in names),  # 45.0 if it were rounded twice
            dataset=target or Path(options["--data"]).stem,
            split="cross-view",
            split_note="1 / 1",
            parts={},
            validation_subjects=(),
            pretrained_on=None,
            supervision="none",
            class_names=("a",),
        )
        file = result_file(run, protocol, source, target)
        file.parent.mkdir(exist_ok=True)
        write_result(file, result)
