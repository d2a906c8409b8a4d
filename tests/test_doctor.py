"""The doctor names every package, the device, and every operator with the reason for its implementation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mica import doctor
from mica_kernels import backend, prebuilt


def test_every_operator_has_an_implementation_and_a_reason() -> None:
    text = doctor.examine()
    for operator in backend.OPERATORS:
        assert re.search(rf"^  {operator} +(reference|dense|triton): \w.{{10,}}$", text, re.MULTILINE), (
            operator
        )


def test_versions_device_and_precision_are_told() -> None:
    text = doctor.examine()
    assert [line for line in text.splitlines() if not line.startswith(" ")] == [
        "versions",
        "device",
        "kernels",
        "built ahead of time",
    ]
    assert re.search(rf"^  torch +{re.escape(torch.__version__.split('+')[0])}", text, re.MULTILINE)
    assert re.search(r"^  precision +(float32|bfloat16): this (cpu|cuda) ", text, re.MULTILINE)
    assert re.search(r"^  runs on +(cpu|cuda) \(.+\), \d+ threads$", text, re.MULTILINE)


def test_a_missing_package_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package-here"))
    assert re.search(r"^  no-such-package-here +not installed$", doctor.examine(), re.MULTILINE)


def test_a_demand_that_cannot_be_met_is_reported_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "cuneiform")
    lines = doctor.examine().splitlines()
    assert sum("none: MICA_KERNELS_IMPL=cuneiform" in line for line in lines) == len(backend.OPERATORS)


def test_what_is_built_for_the_card_at_hand_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(prebuilt, "triton_version", lambda: "3.7")
    for architecture in ("sm_90", "sm_100"):
        prebuilt.Manifest(architecture, "3.6", {}, {}).write(tmp_path)
    monkeypatch.setattr(doctor, "_architecture", lambda device: None)
    stale = r"stale: built with Triton 3.6, but 3.7 is installed; python -m mica_kernels build --arch"
    assert re.search(rf"^  sm_100 +{stale} sm_100\n  sm_90 +{stale} sm_90$", doctor.examine(), re.MULTILINE)
    monkeypatch.setattr(doctor, "_architecture", lambda device: "sm_90")
    assert re.search(rf"^built ahead of time\n  sm_90 +{stale} sm_90$", doctor.examine(), re.MULTILINE)


def test_no_triton_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebuilt, "triton_version", lambda: None)
    assert doctor.examine().endswith("Triton is not installed")
