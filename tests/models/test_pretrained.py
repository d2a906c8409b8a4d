"""Models on disk: what goes out comes back, and what cannot be read says why."""

from __future__ import annotations

import json
import pickletools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mica.errors import InputError
from mica.models.description import DESCRIPTION
from mica.models.hub import WEIGHTS
from mica.models.mica import MICA, ModelCard
from mica.models.stgcn import EncoderConfig
from mica.transforms.sampling import Preprocessing

from .cards import CARD

X = torch.randn(2, 3, 8, 20, 1, generator=torch.Generator().manual_seed(0))


def trained(card: ModelCard = CARD) -> MICA:
    """A model whose every number is drawn."""
    torch.manual_seed(1)
    model = card.build()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.05, 0.2)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    trained().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit_card(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    entries = json.loads((folder / DESCRIPTION).read_text())
    change(entries)
    (folder / DESCRIPTION).write_text(json.dumps(entries))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize(
    "card",
    [
        CARD,
        replace(CARD, preprocessing=Preprocessing(8, "bone", False, "frame")),
        replace(CARD, encoder=EncoderConfig("stgcn-small", sparsity="bin", spatial="dft")),
        replace(CARD, text="none", text_width=None),
        replace(CARD, encoder=EncoderConfig("stgcn-small", frest=False)),
        replace(CARD, encoder=EncoderConfig("stgcn-small", sparsity=None, spatial=None)),
    ],
    ids=["full", "other preparation", "other FreST", "no text", "no FreST", "plain filter"],
)
def test_round_trip(card: ModelCard, tmp_path: Path) -> None:
    model = trained(card)
    model.save_pretrained(tmp_path)
    loaded = MICA.from_pretrained(tmp_path)
    assert loaded.card == card
    assert not loaded.training
    features = model.features(X)
    assert torch.equal(loaded.features(X), features)
    assert torch.equal(loaded.project(features), model.project(features))
    if card.text_width is not None:
        assert torch.equal(loaded.embed(features), model.embed(features))


def test_saving_again_replaces_and_leaves_nothing_beside(folder: Path) -> None:
    model = trained(replace(CARD, seed=4))
    with torch.no_grad():
        model.projector[-1].bias.fill_(7)
    model.save_pretrained(folder)
    loaded = MICA.from_pretrained(folder)
    assert (loaded.card.seed, loaded.projector[-1].bias[0].item()) == (4, 7.0)
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", DESCRIPTION, WEIGHTS]


def test_nothing_is_pickled(folder: Path) -> None:
    for file in folder.iterdir():
        content = file.read_bytes()
        assert not content.startswith((b"PK", b"\x80"))
        with pytest.raises(ValueError):  # noqa: PT011 - whatever it is, it is no pickle
            list(pickletools.genops(content))


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file\n  hint"):
        MICA.from_pretrained(folder)


@pytest.mark.parametrize("length", [0, 4, 300, -1])
def test_truncated_weights(folder: Path, length: int) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:length])
    with pytest.raises(InputError, match=rf"{WEIGHTS}: damaged weights"):
        MICA.from_pretrained(folder)


def test_files_missing_are_listed(folder: Path) -> None:
    (folder / DESCRIPTION).unlink()
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=rf"checkpoint: no such files: {DESCRIPTION}, {WEIGHTS}\n  hint"):
        MICA.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("projector.1.weight"), "missing: projector.1.weight"),
        (lambda weights: weights.update(extra=torch.ones(1)), "unexpected: extra"),
        (
            lambda weights: weights.update({"projector.4.bias": torch.ones(3)}),
            r"of another shape: projector.4.bias \(3,\), expected \(10,\)",
        ),
        (
            lambda weights: weights.update({"projector.4.bias": torch.ones(10, 1)}),
            r"of another shape: projector.4.bias \(10, 1\), expected \(10,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(folder: Path, change: Callable, message: str) -> None:
    edit_weights(folder, change)
    with pytest.raises(
        InputError, match=rf"{WEIGHTS}: the weights do not fit {DESCRIPTION}\n  {message}\n  hint: "
    ):
        MICA.from_pretrained(folder)


def test_all_that_does_not_fit_is_listed(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["projector.0.bios"] = weights.pop("projector.0.bias")
        del weights["encoder.input_norm.weight"]
        weights["projector.4.bias"], weights["projector.1.weight"] = torch.ones(2), torch.ones(1)
        weights["more"] = torch.ones(1)

    edit_weights(folder, change)
    with pytest.raises(InputError) as caught:
        MICA.from_pretrained(folder)
    lines = str(caught.value).splitlines()
    names = "projector.0.bias", "encoder.input_norm.weight"
    assert lines[1] in {f"  missing: {first}, {second}" for first, second in (names, names[::-1])}
    assert lines[2] in ("  unexpected: projector.0.bios, more", "  unexpected: more, projector.0.bios")
    assert lines[3].startswith("  of another shape: projector.1.weight (1,), expected (16, ")
    assert lines[3].endswith("projector.4.bias (2,), expected (10,)")


@pytest.mark.parametrize("content", ["", "{", "seed: 1", "\x80\x04"])
def test_description_that_is_not_json(folder: Path, content: str) -> None:
    (folder / DESCRIPTION).write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=rf"{DESCRIPTION}: not JSON"):
        ModelCard.read(folder)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"format": 2}', '{"format": "1"}'])
def test_description_of_another_format(folder: Path, content: str) -> None:
    (folder / DESCRIPTION).write_text(content)
    with pytest.raises(InputError, match="field 'format': not a model description of format 1"):
        ModelCard.read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(colour="red"), "colour"),
        (lambda card: card.pop("seed"), "seed"),
        (lambda card: card.pop("encoder"), "encoder"),
        (lambda card: card.pop("class_names"), "class_names"),
        (lambda card: card["encoder"].update(depth=4), "depth"),
        (lambda card: card.update(heads=[1]), "heads|mapping"),
        (lambda card: card.update(seen_classes=3), "iterable"),
    ],
)
def test_entries_missing_or_unknown_are_named(folder: Path, change: Callable, message: str) -> None:
    edit_card(folder, change)
    with pytest.raises(InputError, match=rf"{DESCRIPTION}: an entry is missing or unknown: .*({message})"):
        ModelCard.read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(layout="octopus"), "unknown skeleton layout 'octopus'"),
        (lambda card: card["encoder"].update(preset="resnet"), "unknown preset 'resnet'"),
        (lambda card: card["encoder"].update(groups=7), "groups must divide channels"),
        (lambda card: card["encoder"].update(spatial="wavelet"), "wavelet"),
        (lambda card: card["heads"].update(pooling="max"), "pooling must be one of"),
        (lambda card: card["preprocessing"].update(num_frames="many"), ""),
    ],
)
def test_description_of_no_model(folder: Path, change: Callable, message: str) -> None:
    edit_card(folder, change)
    with pytest.raises(InputError, match=rf"{DESCRIPTION}: describes no model: .*{message}"):
        MICA.from_pretrained(folder)
