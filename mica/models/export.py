"""A model as a graph that runs without this package: ONNX, or PyTorch's exported program."""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mica.errors import InputError
from mica.files import atomic_path, output_file
from mica.models.dense import densify
from mica.models.mica import MICA, ModelCard

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
"""Of ONNX; ONNX Runtime knows it from 1.14 (2023) on."""

TOLERANCE = 1e-4
"""The largest difference from the model itself that an exported one may have, in units of its largest output."""

_CHECKED = ((1, 1), (5, 2))
"""Clips and persons of the inputs on which the two are compared."""


def export_encoder(
    model: MICA, out: str | os.PathLike[str], *, frames: int | None = None, overwrite: bool = False
) -> Path:
    """Write the trained encoder as a graph: `.onnx` for ONNX Runtime and its kin, `.pt2` for `torch.export.load`.

    Its input "x" is (clips, 3, frames, joints, persons), float32, prepared as `model.card.preprocessing` says, any
    number of clips and persons; its outputs are "features" (clips, features) and, of a model with text, "embedding"
    (clips, D). frames: T, which is fixed in the graph; the card's unless told. What to feed is written into the file:
    layout, joints, frames, stream, preprocessing, coordinates, each as JSON, among the `metadata_props` of ONNX or in
    `mica.json` of a `.pt2`. Nothing is pickled. The graph is run and compared with the model before a file is written.

    Raises InputError for another suffix, an existing file, T < 1, and where the packages for ONNX are not installed;
    ValueError for a model without a card; RuntimeError where the graph does not do what the model does: no file is left
    then.
    """
    out = output_file(out, overwrite)
    if out.suffix not in _WRITERS:
        raise InputError(f"unknown kind of file '{out.suffix}'", file=out, hint="end it in .onnx or .pt2")
    model.required_card("exported")
    content = _WRITERS[out.suffix](model, _frames(model, frames))
    with atomic_path(out, overwrite) as temporary:
        temporary.write_bytes(content)
    return out


def export_program(model: MICA, frames: int | None = None) -> ExportedProgram:
    """The graph that `export_encoder` writes, as `torch.export` gives it: ATen operators alone, on the CPU.

    Returns "features", and "embedding" of a model with text, for "x" (clips, 3, frames, joints, persons).

    Raises InputError for T < 1, and ValueError where neither `frames` nor a card says what T is.
    """
    num_frames = _frames(model, frames)
    graph = _Graph(model, num_frames)
    x = torch.zeros(2, 3, num_frames, model.encoder.layout.num_joints, 2)
    free = {0: Dim("clips", min=1), 4: Dim("persons", min=1)}
    with torch.no_grad():
        return torch.export.export(graph, (x,), dynamic_shapes=(free,))


def _frames(model: MICA, frames: int | None) -> int:
    if frames is None:
        frames = model.required_card("exported unless told frames=").preprocessing.num_frames
    if frames < 1:
        raise InputError(f"{frames} frames, expected at least one", field="frames")
    return frames


class _Graph(nn.Module):
    """What goes out: a copy of the model less the head that only training needs, FreST in matrix products."""

    def __init__(self, model: MICA, num_frames: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
        del self.model.projector
        densify(self.model.encoder, num_frames)

    def forward(self, x: Float[Tensor, "N C T V M"]) -> tuple[Tensor, ...]:
        features = self.model.features(x)
        return (features,) if self.model.semantic is None else (features, self.model.embed(features))


def what_to_feed(card: ModelCard, frames: int) -> dict[str, object]:
    """What somebody needs to know who has the graph alone."""
    return {
        "layout": card.layout,
        "joints": list(card.skeleton.joints),
        "frames": frames,
        "stream": card.preprocessing.stream,
        "preprocessing": {**asdict(card.preprocessing), "num_frames": frames},
        "coordinates": "metres, right-handed, y up; an absent person is all zero",
        "text": card.text,
    }


def _onnx(model: MICA, frames: int) -> bytes:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
        from onnx.helper import set_model_props
    except ImportError as error:
        raise InputError(
            f"ONNX is not installed ({error})", field="out", hint="pip install 'mica[onnx]', or export a .pt2"
        ) from error
    with _quiet():
        program = torch.onnx.export(
            export_program(model, frames),
            dynamo=True,
            opset_version=OPSET,
            input_names=["x"],
            output_names=["features", "embedding"][: 1 + (model.semantic is not None)],
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _tidy(proto)
    feed = what_to_feed(model.card, frames)
    set_model_props(proto, {name: json.dumps(value) for name, value in feed.items()})
    content = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    _compare(model, frames, lambda x: [torch.from_numpy(y) for y in session.run(None, {"x": x.numpy()})])
    return content


def _tidy(proto: ModelProto) -> None:
    """Take out what the exporter notes of its way, file names of this machine among it, and name the free axes."""
    graph = proto.graph
    del graph.value_info[:], graph.metadata_props[:]
    for part in (graph.node, graph.initializer, graph.input, graph.output):
        for entry in part:
            del entry.metadata_props[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "clips"
    graph.input[0].type.tensor_type.shape.dim[4].dim_param = "persons"


def _pt2(model: MICA, frames: int) -> bytes:
    program = export_program(model, frames)
    for node in program.graph.nodes:  # file names of this machine
        node.meta.pop("stack_trace", None)
    program.example_inputs = None  # they would be pickled
    file = io.BytesIO()
    feed = json.dumps(what_to_feed(model.card, frames))
    torch.export.save(program, file, extra_files={"mica.json": feed})
    _refuse_pickles(file)
    loaded = torch.export.load(file).module()
    _compare(model, frames, loaded)
    return file.getvalue()


def _refuse_pickles(file: io.BytesIO) -> None:
    """Raise RuntimeError where this release of PyTorch pickles what others write as it is."""
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            config = json.loads(content)["config"] if name.endswith("_config.json") else {}
            if any(payload["use_pickle"] for payload in config.values()) or (
                name.endswith(".pt") and content
            ):
                raise RuntimeError(f"torch {torch.__version__} would pickle {name}: export to .onnx")
    file.seek(0)


_WRITERS: dict[str, Callable[[MICA, int], bytes]] = {".onnx": _onnx, ".pt2": _pt2}


@torch.no_grad()
def _compare(model: MICA, frames: int, run: Callable[[Tensor], Sequence[Tensor]]) -> None:
    """Raise RuntimeError unless `run` gives what the model gives."""
    eager = copy.deepcopy(model).cpu().float().eval()
    draw = torch.Generator().manual_seed(0)
    for clips, persons in _CHECKED:
        x = torch.randn(clips, 3, frames, model.encoder.layout.num_joints, persons, generator=draw)
        features = eager.features(x)
        expected = [features] if eager.semantic is None else [features, eager.embed(features)]
        for ours, theirs in zip(expected, run(x), strict=True):
            off = (ours - theirs).abs().max() / ours.abs().max()
            if not off <= TOLERANCE:  # nor where it is no number
                raise RuntimeError(
                    f"the exported graph is off by {off:.1e} of the largest output for {clips} clips of {persons} "
                    f"persons, more than {TOLERANCE:.0e}: nothing was written"
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of packages that nobody asked for."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
