"""Exported graphs do what the model does, tell what to feed, and are not written otherwise."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mica.errors import InputError
from mica.models import export, stgcn
from mica.models.export import _refuse_pickles, export_encoder, export_program
from mica.models.frest import FreST
from mica.models.heads import HeadConfig
from mica.models.mica import MICA, ModelCard
from mica.models.stgcn import EncoderConfig, Preset
from mica.transforms.sampling import Preprocessing

from .cards import CARD

PRESETS = {"two blocks": Preset((8, 12), (1, 2), 3), "one block": Preset((8,), (2,), 3)}
JOINT = replace(
    CARD,
    preprocessing=Preprocessing(8, "bone", True, "frame"),
    encoder=EncoderConfig("two blocks", groups=2, sparsity="joint", spatial="graph"),
    heads=HeadConfig(segments=4, hidden=16, projection=10),
)
BIN = replace(
    JOINT,
    layout="coco-17",
    preprocessing=Preprocessing(13),
    encoder=replace(
        JOINT.encoder, preset="one block", sparsity="bin", spatial="dft", inputs=["joint", "motion"]
    ),
    text="none",
    text_width=None,
)
PLAIN = replace(JOINT, encoder=replace(BIN.encoder, sparsity=None, spatial=None))
WITHOUT = replace(
    BIN,
    encoder=EncoderConfig("one block", frest=False, inputs=["bone", "motion"]),
    heads=HeadConfig("mean", 1, 16, 10),
)

# What is exported, and at how many frames.
CASES = {
    "joint, graph, text": (JOINT, None),
    "bin, dft, no text, odd frames": (BIN, None),
    "plain filter at other frames than the card's": (PLAIN, 9),
    "no FreST": (WITHOUT, None),
}


@pytest.fixture(scope="module", autouse=True)
def small_presets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stgcn, "PRESETS", PRESETS)
        yield


def trained(card: ModelCard) -> MICA:
    """A model whose every number is drawn, and whose gates take some of what they see."""
    torch.manual_seed(1)
    model = card.build()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            filters = "gate.weight" in name or "spatial_response" in name
            value.uniform_(0.5, 1.5) if "running_var" in name else value.normal_(std=1.5 if filters else 0.4)
        if "threshold_offset" in name:
            value.add_(2)
    return model.eval()


def clips(model: MICA, frames: int, n: int, persons: int) -> Tensor:
    draw = torch.Generator().manual_seed(n + persons)
    return torch.randn(n, 3, frames, model.encoder.layout.num_joints, persons, generator=draw)


@torch.no_grad()
def eager(model: MICA, x: Tensor) -> list[Tensor]:
    features = model.features(x)
    return [features] if model.semantic is None else [features, model.embed(features)]


@pytest.mark.parametrize("case", CASES)
def test_onnx_runtime_gives_what_the_model_gives(case: str, tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    card, frames = CASES[case]
    model = trained(card)
    file = export_encoder(model, tmp_path / "encoder.onnx", frames=frames)
    frames = frames or card.preprocessing.num_frames
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = ["features", "embedding"][: 1 if card.text_width is None else 2]
    assert [output.name for output in session.get_outputs()] == names
    assert session.get_inputs()[0].shape == ["clips", 3, frames, len(card.skeleton.joints), "persons"]
    for n, persons in ((1, 1), (1, 2), (5, 1), (5, 2)):
        x = clips(model, frames, n, persons)
        for ours, theirs in zip(eager(model, x), session.run(None, {"x": x.numpy()}), strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=1e-4 * ours.abs().max().item())
    graph = onnx.load(file)
    onnx.checker.check_model(graph, full_check=True)
    assert {node.domain for node in graph.graph.node} == {""}
    assert b".py" not in file.read_bytes()  # nothing of the machine that wrote it
    told = {entry.key: json.loads(entry.value) for entry in graph.metadata_props}
    assert (told["layout"], tuple(told["joints"])) == (card.layout, card.skeleton.joints)
    assert (told["frames"], told["stream"]) == (frames, card.preprocessing.stream)
    assert Preprocessing(**told["preprocessing"]) == replace(card.preprocessing, num_frames=frames)


def test_gates_of_these_tests_are_at_work() -> None:
    for card in (JOINT, BIN):
        model = trained(card)
        for layer in model.encoder.frest_layers:
            layer.register_forward_pre_hook(in_part_switched_off)
        model.features(clips(model, card.preprocessing.num_frames, 5, 2))


def in_part_switched_off(layer: FreST, arguments: tuple[Tensor]) -> None:
    kept = (torch.fft.rfft(layer.filter(arguments[0]), dim=2).abs() > 1e-6).double().mean()
    assert 0.1 < kept < 0.9


def test_exported_program(tmp_path: Path) -> None:
    model = trained(BIN)
    file = export_encoder(model, tmp_path / "encoder.pt2")
    extra = {"mica.json": ""}
    program = torch.export.load(file, extra_files=extra)
    run = program.module()
    for n, persons in ((1, 1), (5, 2)):
        x = clips(model, BIN.preprocessing.num_frames, n, persons)
        for ours, theirs in zip(eager(model, x), run(x), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5 * ours.abs().max().item())
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not {name for name in called if "mica_kernels" in name or "fft" in name}
    assert json.loads(extra["mica.json"])["joints"] == list(BIN.skeleton.joints)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert not [name for name, content in members.items() if b".py" in content]
    assert not [name for name, content in members.items() if content.startswith(b"PK")]  # as torch.save would


def test_a_model_in_training_stays_in_training_and_is_exported_as_it_will_be_used(tmp_path: Path) -> None:
    model = trained(WITHOUT).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    program = export_program(model)
    x = clips(model, 13, 3, 1)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(program.module()(x)[0], eager(model.eval(), x)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("wrong", [lambda y: y * 1.001, lambda y: y + float("nan")], ids=["off", "nan"])
def test_a_graph_that_differs_is_not_written(wrong, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    densify = export.densify

    def spoil(encoder: torch.nn.Module, frames: int) -> None:
        densify(encoder, frames)
        encoder.blocks.append(_Applied(wrong))

    monkeypatch.setattr(export, "densify", spoil)
    with pytest.raises(RuntimeError, match="the exported graph is off by"):
        export_encoder(trained(WITHOUT), tmp_path / "encoder.pt2")
    assert not list(tmp_path.iterdir())


class _Applied(torch.nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def archive(members: Sequence[tuple[str, str]]) -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file


@pytest.mark.parametrize(
    "member",
    [
        ("a/data/weights/model_weights_config.json", '{"config": {"w": {"use_pickle": true}}}'),
        ("a/data/constants/model_constants_config.json", '{"config":{"w":{"use_pickle":true}}}'),
        ("a/data/sample_inputs/model.pt", "PK"),
    ],
)
def test_pickles_in_an_exported_program_are_refused(member: tuple[str, str]) -> None:
    _refuse_pickles(archive([("a/models/model.json", "{}"), ("a/data/sample_inputs/model.pt", "")]))
    with pytest.raises(RuntimeError, match=f"would pickle {member[0]}"):
        _refuse_pickles(archive([member]))


@pytest.mark.parametrize("missing", ["onnx.helper", "onnxruntime", "onnxscript"])
def test_without_onnx(missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"ONNX is not installed.*\n  hint: pip install 'mica\[onnx\]'"):
        export_encoder(trained(JOINT), tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["encoder.pt", "encoder", "encoder.onnx.zip"])
def test_other_kinds_of_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{name}: unknown kind of file.*\n  hint: end it in .onnx or .pt2"):
        export_encoder(trained(JOINT), tmp_path / name)


def test_existing_files_stay(tmp_path: Path) -> None:
    file = tmp_path / "encoder.pt2"
    file.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export_encoder(trained(WITHOUT), file)
    assert file.read_text() == "mine"
    assert export_encoder(trained(WITHOUT), file, overwrite=True) == file
    assert zipfile.is_zipfile(file)


def test_a_model_without_a_card(tmp_path: Path) -> None:
    model = trained(WITHOUT)
    del model.card
    with pytest.raises(ValueError, match=r"did not make has no card, and cannot be exported$"):
        export_encoder(model, tmp_path / "encoder.pt2", frames=13)
    with pytest.raises(ValueError, match="has no card, and cannot be exported unless told frames="):
        export_program(model)
    x = clips(model, 13, 2, 1)
    torch.testing.assert_close(
        export_program(model, 13).module()(x)[0], eager(model, x)[0], atol=1e-5, rtol=1e-4
    )
    with pytest.raises(ValueError, match="has no card, and cannot be saved"):
        model.save_pretrained(tmp_path / "saved")


def test_no_frames(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="field 'frames': 0 frames, expected at least one"):
        export_encoder(trained(JOINT), tmp_path / "encoder.onnx", frames=0)
    with pytest.raises(InputError, match="field 'frames': -1 frames, expected at least one"):
        export_program(trained(JOINT), -1)
