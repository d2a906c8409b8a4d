"""The tables of every protocol: what they say of the kept figures, and what is kept of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import accuracy
from mica.evaluation.results import result_file

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


def test_what_is_kept_is_what_was_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command leaves a file; all that the tables ask for are among them."""
    wanted: list[Path] = []

    class Asked(Exception):
        pass

    def ask(file: Path) -> None:
        wanted.append(file)
        raise Asked

    monkeypatch.setattr("mica.evaluation.results.read_result", ask)
    left = {result for _, result in accuracy.all_commands(Path("DIR"), tmp_path)}
    for dataset in accuracy.PROTOCOLS:
        for row in accuracy.rows_of(dataset):
            wanted.append(tmp_path / row.run / "checkpoint" / "model.json")
    with pytest.raises(Asked):
        accuracy.found_in(tmp_path)
    assert wanted[-1] == result_file(tmp_path / "nw-ucla-language", "linear", "raw")
    assert set(wanted) <= left
