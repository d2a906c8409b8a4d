"""The README is run, block by block: its examples are what people copy first."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import mica_kernels
from mica.cli import make_parser
from mica.configs import datasets, find_recipe, methods

ROOT = Path(__file__).resolve().parents[1]
README, *DOCS = (
    (ROOT / name).read_text()
    for name in (
        "README.md",
        "docs/data.md",
        "docs/own-data.md",
        "docs/evaluation.md",
        "docs/scaling.md",
        "docs/comparison.md",
    )
)
LAUNCHED = re.compile(r"^(?:mica |(?:accelerate launch|torchrun|srun torchrun) .*-m mica )(.*)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
BLOCKS = FENCED.findall(README)
COMMANDS = [
    found[1]
    for text in (README, *DOCS)
    for _, block in FENCED.findall(text)
    for line in re.sub(r"\\\n\s*", "", block).splitlines()
    if (found := LAUNCHED.match(line))
]


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_python_blocks_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    arguments = shlex.split(command)
    if "--config" in arguments:
        position = arguments.index("--config") + 1
        arguments[position - 1 : position + 1] = [
            f"--config={file}" for file in find_recipe(arguments[position])
        ]
    assert make_parser().parse_args(arguments).subcommand == arguments[0]


@pytest.mark.parametrize("name", [*methods(), *datasets()])
def test_what_recipes_are_made_of_is_named(name: str) -> None:
    assert f"`{name}`" in README


def test_files_it_points_to_exist() -> None:
    for folder, text in ((ROOT, README), *((ROOT / "docs", text) for text in DOCS)):
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (folder / target).exists(), target


@pytest.mark.parametrize("name", mica_kernels.__all__)
def test_every_operator_is_shown(name: str) -> None:
    assert f"`{name}`" in README
    assert re.search(rf"from mica_kernels import .*\b{name}\b", README)


def test_the_layers_of_other_peoples_models_are_shown() -> None:
    code = "".join(block for language, block in BLOCKS if language == "python")
    assert "FreST(" in code
    assert "InfoNCELoss(" in code


def test_every_document_is_within_a_link() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")) == sorted(
        {target for target in linked if re.fullmatch(r"docs/.*\.md", target)}
    )
