"""What a model is, as plain values: model.json, the file beside the weights."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from mica.errors import InputError
from mica.files import atomic_path
from mica.models.heads import HeadConfig
from mica.models.stgcn import EncoderConfig
from mica.skeleton import SkeletonLayout, get_layout, layout_from_dict
from mica.transforms.sampling import Preprocessing

MethodName = Literal["mica", "skeletonclr", "aimclr", "crossclr", "supervised"]
Supervision = Literal["none", "words", "labels"]
"""What pretraining has seen of the labels: nothing, what they say in words, or the labels themselves."""

METHODS: dict[MethodName, str] = {
    "mica": "MICA",
    "skeletonclr": "SkeletonCLR",
    "aimclr": "AimCLR",
    "crossclr": "CrosSCLR",
    "supervised": "supervised ST-GCN",
}
"""As their papers spell them."""

FORMAT = 1
DESCRIPTION = "model.json"


@dataclass
class ModelDescription:
    """What it takes to rebuild a model, to feed it, and to know what it has seen.

    Args:
        layout: name of the skeleton layout.
        preprocessing: how clips become the encoder's input.
        encoder, heads: their configurations.
        text: name of the text encoder, "none" for a model that saw no text.
        text_path: local directory of the text encoder's weights, where one was given.
        text_width: D of the text encoder.
        dataset, protocol, part: whose training part, and which part of it, it was pretrained on.
        class_names: of the dataset, in label order.
        seen_classes: labels it was pretrained on; the rest are unseen, for zero-shot.
        seed: of the pretraining.
        own_layout: describes the layout where it is not one of ours.
        persons: for how many bodies a clip had room, absent ones included; None in a model of an earlier release.
        method: how it was trained.
    """

    layout: str
    preprocessing: Preprocessing
    encoder: EncoderConfig
    heads: HeadConfig
    text: str
    text_path: str | None
    text_width: int | None
    dataset: str
    protocol: str
    part: str
    class_names: tuple[str, ...]
    seen_classes: tuple[int, ...]
    seed: int
    own_layout: dict[str, Any] | None = None
    persons: int | None = None
    method: MethodName = "mica"

    @property
    def skeleton(self) -> SkeletonLayout:
        """The layout itself; raises InputError where no layout of ours has the name."""
        return get_layout(self.layout) if self.own_layout is None else layout_from_dict(self.own_layout)

    @property
    def supervision(self) -> Supervision:
        """What the model has seen of the labels: models that differ in this are never ranked together."""
        if self.method == "supervised":
            return "labels"
        return "none" if self.text == "none" else "words"

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Self:
        """Read a folder's model.json; raises InputError where it is missing, damaged or of another format."""
        file = Path(folder) / DESCRIPTION
        if not file.is_file():
            raise InputError("no such file", file=file, hint="give a directory that `mica pretrain` wrote")
        try:
            entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"not JSON ({error})", file=file) from error
        if not isinstance(entries, dict) or entries.pop("format", None) != FORMAT:
            raise InputError(f"not a model description of format {FORMAT}", file=file, field="format")
        try:
            return cls(**_typed(entries))
        except (KeyError, TypeError) as error:
            raise InputError(f"an entry is missing or unknown: {error}", file=file) from error

    def write(self, folder: Path) -> None:
        """Write model.json, whole or not at all, over an earlier one."""
        with atomic_path(folder / DESCRIPTION, overwrite=True) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n")


def _typed(entries: dict[str, Any]) -> dict[str, Any]:
    """JSON's lists and objects as the tuples and dataclasses that they were."""
    kinds = (("preprocessing", Preprocessing), ("encoder", EncoderConfig), ("heads", HeadConfig))
    nested = {name: kind(**entries[name]) for name, kind in kinds}
    tuples = {name: tuple(entries[name]) for name in ("class_names", "seen_classes")}
    return {**entries, **nested, **tuples}
