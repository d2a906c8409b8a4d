"""What the README says of one's own recordings is run, up to a run of a single epoch."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mica.cli import main

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
SECTION = README.split("\n## Your own recordings\n")[1].split("\n## ")[0]


def test_a_store_written_from_python_is_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_text: None
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    (command,) = re.findall(r"^mica (pretrain .*)", SECTION, flags=re.MULTILINE)
    main([*command.split(), "--optimizer.epochs", "1"])
    assert (tmp_path / "runs" / "mine" / "metrics.jsonl").exists()
