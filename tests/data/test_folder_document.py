"""What docs/own-data.md says of one's own recordings."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast, get_args

import numpy as np
import pytest

from mica.cli import main
from mica.data.formats.own.coordinates import PLAUSIBLE_TORSO, TORSO, Units, Up
from mica.data.formats.own.joint_table import read_joint_table
from mica.data.formats.own.layout_file import find_layout
from mica.data.splits import split
from mica.data.store import Store
from mica.skeleton import SkeletonLayout

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "own-data.md"
TEXT = DOCUMENT.read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    return [block for of, block in found if of == language]


COMMANDS = [line for block in blocks("") for line in block.splitlines() if line.startswith("mica ")]


def test_the_documents_first_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fake_text: None
) -> None:
    """From the folder to a score, of a single epoch."""
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], DOCUMENT.name, "exec"), {})
    first, *after = [command for command in COMMANDS if "mine.arrow" in command]
    for command in (first, *after):
        quick = " --optimizer.epochs 1" if " pretrain " in command else ""
        main((command + quick).split()[1:])
    assert [command.split()[1] for command in after] == ["inspect", "inspect", "pretrain", "evaluate"]
    assert (tmp_path / "runs" / "mine" / "evaluation" / "knn.json").exists()
    assert "16 clips of mine, layout kinect-20" in capsys.readouterr().out
    store = Store.open(tmp_path / "mine.arrow")
    parts = split(store, "as-given")
    assert (len(parts.train), len(parts.test)) == (12, 4)
    assert f"{len(parts.fit)} clips in this example" in TEXT
    assert re.search(r"--clip (\S+)", TEXT)[1] in store.names  # type: ignore[index]


def test_the_documents_layout_is_one(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "sensor.yaml").write_text(blocks("yaml")[0])
    layout = find_layout(tmp_path / "sensor.yaml")
    assert (layout.name, layout.num_joints, layout.joints[layout.mirror[3]]) == (
        "my-sensor",
        11,
        "r_shoulder",
    )


def test_the_documents_tables_are_read() -> None:
    joints = ("left shoulder", "left elbow")
    two = cast(SkeletonLayout, SimpleNamespace(name="two", joints=joints, num_joints=2))
    tables = [block for block in blocks("") if "0.21" in block]
    assert len(tables) == 3
    for table in tables:
        values = read_joint_table(table.encode(), "a.csv", two)
        np.testing.assert_array_equal(values, [[[[0.21, 1.42, 2.5], [0.25, 1.15, 2.48]]]])


def test_the_documents_links_and_numbers_hold() -> None:
    headings = [line[3:].lower() for line in TEXT.splitlines() if line.startswith("## ")]
    anchors = {re.sub(r"[^a-z ]", "", heading).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) == anchors
    low, high = PLAUSIBLE_TORSO
    assert f"below {low:g} m or above {high:g} m" in TEXT
    assert f"measures {TORSO:g} m" in TEXT
    for choice in (*get_args(Units), *get_args(Up)):
        assert f"`{choice}`" in TEXT
