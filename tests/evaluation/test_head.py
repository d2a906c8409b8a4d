"""Heads on disk: read back as they were, or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mica.errors import InputError
from mica.evaluation.head import HEAD, Head, load_head, save_head
from mica.evaluation.linear import LinearClassifier
from mica.models.mica import MICA

NAMES = ("wave", "bow", "squat")


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> MICA:
    return MICA.from_pretrained(tiny_run / "checkpoint")


@pytest.fixture(scope="module")
def head(model: MICA) -> Head:
    weight = torch.randn(3, model.num_features, generator=torch.Generator().manual_seed(0))
    classifier = LinearClassifier(weight, torch.tensor([0.5, -torch.inf, -2.0]))
    return Head(classifier, NAMES, "mine", "cross-subject", persons=2, validation_top1=81.25, test_top1=70.5)


@pytest.fixture
def file(head: Head, model: MICA, tmp_path: Path) -> Path:
    save_head(tmp_path / HEAD, head, model)
    return tmp_path / HEAD


def test_comes_back_as_it_was(file: Path, head: Head, model: MICA) -> None:
    found = load_head(file, model)
    assert torch.equal(found.classifier.weight, head.classifier.weight)
    assert torch.equal(found.classifier.bias, head.classifier.bias)
    for name in ("class_names", "dataset", "protocol", "persons", "validation_top1", "test_top1"):
        assert getattr(found, name) == getattr(head, name)


def test_replaces_an_earlier_one_whole_or_not_at_all(
    file: Path, head: Head, model: MICA, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Head(LinearClassifier(head.classifier.weight[:2], torch.zeros(2)), NAMES[:2], "mine", "x", 1)
    save_head(file, other, model)
    before = file.read_bytes()
    assert load_head(file, model).class_names == NAMES[:2]

    def half(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr("mica.evaluation.head.save_file", half)
    with pytest.raises(KeyboardInterrupt):
        save_head(file, head, model)
    assert [path.name for path in file.parent.iterdir()] == [HEAD]
    assert file.read_bytes() == before


def test_another_model_is_refused(file: Path, text_run: Path) -> None:
    with pytest.raises(InputError, match="head of another model") as caught:
        load_head(file, MICA.from_pretrained(text_run / "checkpoint"))
    assert caught.value.file == file


def rewritten(file: Path, tensors: Callable[[dict], Any] = dict, about: Callable[[dict], Any] = dict) -> None:
    """Write the file again with other tensors or another description."""
    with safe_open(file, framework="pt") as stored:
        described = json.loads(stored.metadata()["mica.head"])
    save_file(tensors(load_file(file)), file, metadata={"mica.head": json.dumps(about(described))})


def changed(name: str, at: tuple[int, ...], value: float) -> Callable[[dict], Any]:
    def change(tensors: dict) -> dict:
        tensors[name][at] = value
        return tensors

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda file: file.unlink(), "no such file"),
    "cut": (cut, "damaged weights"),
    "no weights": (lambda file: file.write_text("{}"), "damaged weights"),
    "foreign": (lambda file: save_file({"weight": torch.zeros(1)}, file), "weights of something else"),
    "other format": (lambda file: rewritten(file, about=lambda d: {**d, "format": 2}), "not of format 1"),
    "a list": (lambda file: rewritten(file, about=lambda d: [d]), "not of format 1"),
    "entry missing": (lambda file: rewritten(file, about=lambda d: d.pop("protocol") and d), "protocol"),
    "unknown entry": (lambda file: rewritten(file, about=lambda d: {**d, "more": 1}), "more"),
    "no model": (lambda file: rewritten(file, about=lambda d: d.pop("model") and d), "model"),
    "two names": (
        lambda file: rewritten(file, about=lambda d: {**d, "class_names": ["a", "b"]}),
        "3 rows of weights, but 2 different names",
    ),
    "same names": (lambda file: rewritten(file, about=lambda d: {**d, "class_names": ["a", "b", "a"]}), "3 rows"),
    "numbers": (lambda file: rewritten(file, about=lambda d: {**d, "class_names": [0, 1, 2]}), "3 rows"),
    "crowd": (lambda file: rewritten(file, about=lambda d: {**d, "persons": 3}), "3 persons"),
    "no number": (lambda file: rewritten(file, about=lambda d: {**d, "persons": "2"}), "2 persons"),
    "more tensors": (lambda file: rewritten(file, lambda t: {**t, "x": torch.zeros(1)}), "bias, weight, x"),
    "no bias": (lambda file: rewritten(file, lambda t: {"weight": t["weight"]}), "tensors weight"),
    "short bias": (lambda file: rewritten(file, lambda t: {**t, "bias": t["bias"][:2]}), "a bias of (2,)"),
    "flat": (lambda file: rewritten(file, lambda t: {**t, "weight": t["weight"].flatten()}), "of shape"),
    "doubles": (lambda file: rewritten(file, lambda t: {**t, "bias": t["bias"].double()}), "not float32"),
    "NaN": (lambda file: rewritten(file, changed("weight", (0, 3), torch.nan)), "not finite"),
    "infinite weight": (lambda file: rewritten(file, changed("weight", (1, 0), -torch.inf)), "not finite"),
    "infinite bias": (lambda file: rewritten(file, changed("bias", (0,), torch.inf)), "not finite"),
    "NaN bias": (lambda file: rewritten(file, changed("bias", (0,), torch.nan)), "not finite"),
    "no class": (
        lambda file: rewritten(file, lambda t: {**t, "bias": torch.full((3,), -torch.inf)}),
        "no class that it could predict",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_head_is_refused(file: Path, model: MICA, kind: str) -> None:
    damage, problem = WRONG[kind]
    damage(file)
    with pytest.raises(InputError, match=re.escape(problem)) as caught:
        load_head(file, model)
    assert caught.value.file == file
    assert "mica evaluate linear" in (caught.value.hint or "")
