"""Which implementation is chosen, and that the package asks for nothing beyond PyTorch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mica_kernels import spectral_gate
from mica_kernels.backend import OPERATORS, VARIABLE, choose, explain


@pytest.fixture(autouse=True)
def _no_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize("operator", OPERATORS)
def test_auto_runs_the_reference_and_says_why(operator: str) -> None:
    choice = choose(operator, torch.zeros(1))
    why = f"this version has no compiled kernel for {operator} on cpu"
    assert (choice.impl, choice.reason) == ("reference", f"{why}, so the PyTorch reference runs")


def test_variable_stands_in_for_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    assert choose("info_nce").reason == "MICA_KERNELS_IMPL=reference was asked for"
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(RuntimeError, match=r"MICA_KERNELS_IMPL=triton was asked for, but this version"):
        spectral_gate(torch.zeros(1, 1, 4, 1), torch.zeros(1, 3, 1, 2))


def test_argument_goes_before_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    assert choose("info_nce", impl="reference").impl == "reference"


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"operator must be one of spectral_gate, .*; got 'fft'"):
        choose("fft")
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ValueError, match="MICA_KERNELS_IMPL=fast: the implementation must be one of auto"):
        choose("info_nce")


@pytest.mark.parametrize("device", ["cpu", "cuda", torch.device("cuda", 1)])
def test_explain_needs_no_such_device(device: str | torch.device) -> None:
    choices = explain(device)
    assert set(choices) == set(OPERATORS)
    assert all(choice.impl == "reference" for choice in choices.values())
    assert torch.device(device).type in choices["info_nce"].reason


@pytest.mark.parametrize("demand", ["triton", "fast"])
def test_explain_reports_an_unmet_demand(demand: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, demand)
    choices = explain("cpu")
    assert {choice.impl for choice in choices.values()} == {"none"}
    assert all(f"MICA_KERNELS_IMPL={demand}" in choice.reason for choice in choices.values())


def test_imports_and_runs_without_triton() -> None:
    """In a fresh interpreter in which any `import triton` fails, and without starting a GPU runtime."""
    program = """
import sys
sys.modules["triton"] = None
import torch
import mica_kernels, mica_kernels.nn
assert not torch.cuda.is_initialized()
print(mica_kernels.spectral_gate(torch.ones(1, 1, 4, 1), torch.ones(1, 3, 1, 2)).shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.Size([1, 1, 4, 1])"
