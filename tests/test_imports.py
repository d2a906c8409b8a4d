"""The house stays in order: what may import what, and what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# From the top; a room imports from its own floor or from those below it, and never in a circle.
FLOORS = [
    {"mica.__main__"},
    {"mica.cli"},
    {"mica.demo", "mica.doctor", "mica.comparison"},
    {"mica.configs"},
    {"mica.training", "mica.report"},
    {"mica.inference"},
    {"mica.evaluation"},
    {"mica.data"},
    {"mica.models", "mica.objectives", "mica.transforms"},
    {"mica.prompts"},
    {"mica_kernels", "mica.skeleton"},
    {"mica.files", "mica.lock"},
    {"mica.errors"},
    {"mica"},
]
RANK = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

COMPILING = {"mica_kernels.build", "mica_kernels.prebuilt", "mica_kernels.tune"}


def modules() -> Iterator[tuple[str, Path]]:
    for package in ("mica", "mica_kernels"):
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
            yield name.removesuffix(".__init__"), file


MODULES = dict(modules())


def imported(name: str, text: ast.Module | None = None) -> Iterator[str]:
    """Every module that a module imports, wherever in its text."""
    file = MODULES[name]
    for node in ast.walk(text or ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
            start = ".".join(parents[: len(parents) + 1 - node.level]) if node.level else ""
            source = ".".join(part for part in (start, node.module or "") if part)
            children = [f"{source}.{alias.name}" for alias in node.names]
            inside = [child for child in children if child in MODULES]
            yield from inside if len(inside) == len(children) else [source, *inside]


def room(name: str) -> str:
    """`mica.data.store` -> `mica.data`; `mica_kernels.spectral.op` -> `mica_kernels`."""
    return "mica_kernels" if name.startswith("mica_kernels") else ".".join(name.split(".")[:2])


def own(name: str) -> bool:
    return name.split(".")[0] in ("mica", "mica_kernels")


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_its_floor(name: str) -> None:
    assert room(name) in RANK, f"give {room(name)} a floor in FLOORS"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_lower_knows_anything_higher(name: str) -> None:
    higher = [other for other in imported(name) if own(other) and RANK[room(other)] < RANK[room(name)]]
    assert not higher, f"{name} imports {higher}"


def test_no_circles() -> None:
    def graph(place) -> dict[str, set[str]]:
        edges: dict[str, set[str]] = {}
        for name in MODULES:
            others = {place(other) for other in imported(name) if own(other)}
            edges.setdefault(place(name), set()).update(others - {place(name)})
        return edges

    for place in (room, str):
        assert list(TopologicalSorter(graph(place)).static_order())


def test_kernels_know_nothing_of_mica() -> None:
    for name in MODULES:
        if room(name) == "mica_kernels":
            assert not [other for other in imported(name) if other.split(".")[0] == "mica"], name


def test_triton_only_in_kernels_and_lazily_in_what_compiles_them() -> None:
    for name, file in MODULES.items():
        text = ast.parse(file.read_text())
        if name in COMPILING:
            text = ast.Module(
                [node for node in text.body if isinstance(node, ast.Import | ast.ImportFrom)], []
            )
        if file.name != "kernels.py":
            assert not [other for other in imported(name, text) if other.split(".")[0] == "triton"], name


def test_nothing_is_pickled() -> None:
    for name, file in MODULES.items():
        tree = ast.parse(file.read_text())
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called = {ast.unparse(call) for call in calls}
        assert not called & {"torch.save", "pickle.load", "pickle.loads", "pickle.dump", "pickle.dumps"}, name


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_imports_without_triton_and_without_baggage() -> None:
    code = """
import sys
BAGGAGE = "transformers", "pyarrow", "matplotlib", "scipy", "triton", "sympy", "torch._dynamo"
sys.modules["triton"] = None  # any import of it fails
import mica, mica_kernels, mica_kernels.build, mica.doctor, mica.models.mica, mica.objectives, mica.transforms.augment
mica_kernels.spectral_gate, mica_kernels.info_nce, mica_kernels.similarity_kl
print([name for name in BAGGAGE if sys.modules.get(name)])
import torch
print(torch.cuda.is_initialized())
"""
    assert run(code).split() == ["[]", "False"]


def test_a_training_waits_for_nothing_that_it_does_not_use() -> None:
    code = """
import sys
import mica.configs, mica.training.loop, mica.evaluation.evaluate
LATER = "sklearn", "torchmetrics", "matplotlib", "transformers", "torch._dynamo"
print([name for name in LATER if name in sys.modules])
"""
    assert run(code).strip() == "[]"


def test_preparing_data_does_without_pytorch() -> None:
    """It takes seconds to load, in every process that reads raw files."""
    code = """
import sys
from mica.cli import make_parser
make_parser(["prepare", "ntu60"]), make_parser(["--help"])
import mica.data.formats, mica.data.export, mica.data.convert, mica.data.store
print("torch" in sys.modules)
"""
    assert run(code).split() == ["False"]


def test_package_itself_is_light() -> None:
    code = "import sys, mica; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert run(code).split() == ["False", "False"]
