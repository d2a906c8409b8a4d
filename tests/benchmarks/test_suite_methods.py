"""MICA beside the classics: which commands are gone through, what is kept of them, and what the tables say."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures, methods
from benchmarks.methods import COMPARISONS
from benchmarks.results import RESULTS
from mica.comparison.contestant import read_contestants

SCORES = {
    "raw coordinates": (60.0, 62.0),
    "raw, turned to the front": (61.0, 61.0),
    "random encoder": (50.0, 50.0),
    "mica-self": (70.0, 71.0),
    "skeletonclr": (65.0, 66.5),
    "aimclr": (69.0, 64.0),
    "crossclr": (10.0, 12.0),
    "mica": (80.0, 82.5),
    "supervised": (80.5, 81.0),
}

WHERE = {"device": "a processor", "torch": "2.13.0", "commit": "abc", "date": "2026-11-29", "threads": 2}


def outcome(folder: Path) -> None:
    """What `mica compare` leaves: two seeds, each a point from the mean."""
    rows = []
    for name, means in SCORES.items():
        top1 = {probe: [mean - 1, mean + 1] for probe, mean in zip(methods.PROBES, means, strict=True)}
        rows.append({"method": name, "top1": top1})
    folder.mkdir(parents=True)
    (folder / "comparison.json").write_text(json.dumps({"rows": rows}))
    (folder / "comparison.md").write_text("| method |\n| --- |\n")


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_is_of_methods_that_there_are(name: str) -> None:
    for contestant in read_contestants(COMPARISONS[name].methods):
        contestant.config(COMPARISONS[name].dataset, seed=0)


@pytest.mark.parametrize("name", COMPARISONS)
def test_what_is_set_against_what_takes_part(name: str) -> None:
    one, floors = COMPARISONS[name], set(SCORES)
    for method, _, others in one.against:
        assert method in one.methods
        assert set(others) <= {*one.methods, *floors}
        assert method not in others


def test_each_comparison_has_a_folder_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["methods", "commands", "--data", "stores", "--out", "runs"])
    methods.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(COMPARISONS)
    for line, (name, one) in zip(lines, COMPARISONS.items(), strict=True):
        assert line.startswith("mica compare --methods mica")
        assert f" --data stores/{one.dataset}.arrow --out runs/{name} " in line


def test_parts_have_what_was_chosen_for_the_whole() -> None:
    for (dataset, method), settings in methods.CHOSEN.items():
        command = COMPARISONS[f"{dataset}-parts-of-{method}"].command(Path("stores"), Path("runs"))
        assert command[command.index("--trials") + 1] == "1"
        assert command[command.index("--jobs") + 2 :] == (["--set", *settings] if settings else [])
        for file in RESULTS.glob(f"*/methods-{dataset}-classics.json"):
            rows = json.loads(file.read_text())["rows"]
            assert [tuple(row["chosen"]) for row in rows if row["method"] == method] == [settings]


def test_what_was_compared_is_kept_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    monkeypatch.setattr(methods, "stamp", lambda device: dict(WHERE))
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "results")
    outcome(tmp_path / "runs" / "nw-ucla-classics")
    assert methods.table("nw-ucla-classics", tmp_path / "results") == "Not yet measured."
    methods.run(tmp_path, tmp_path / "runs", ["nw-ucla-classics"], keep=True)
    assert [command[2:4] for command in ran] == [["mica", "compare"]]
    assert capsys.readouterr().out.startswith("$ mica compare --methods mica mica-self skeletonclr ")
    text = methods.table("nw-ucla-classics", tmp_path / "results")
    assert "Made by `mica compare --methods mica " in text
    assert "threads" not in text
    for line in (
        "| method |",
        "| points | linear, SGD | linear, logistic regression |",
        "| `mica` above best of the classics | +11.0 | +16.0 |",
        "| `mica` above raw coordinates, the better | +19.0 | +20.5 |",
        "| `mica` above random encoder | +30.0 | +32.5 |",
        "| `mica` above supervised | -0.5 | +1.5 |",
        "| `mica-self` above best of the classics | +1.0 | +4.5 |",
        "| `mica-self` above raw coordinates, the better | +9.0 | +9.0 |",
    ):
        assert line in text.splitlines()


def test_nothing_is_kept_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, check: None)
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "results")
    methods.run(tmp_path, tmp_path / "runs", ["nw-ucla-classics"], keep=False)
    assert not (tmp_path / "results").exists()
