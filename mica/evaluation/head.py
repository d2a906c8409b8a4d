"""A trained linear head on disk: weights as safetensors, everything else as JSON in its metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mica.data.dataset import MOST_PERSONS
from mica.errors import InputError
from mica.evaluation.linear import LinearClassifier
from mica.files import atomic_path
from mica.models.hub import fingerprint
from mica.models.mica import MICA

FORMAT = 1
HEAD = "head.safetensors"
"""What it is called in the directory of a run."""

_KEY = "mica.head"
_HINT = "`mica evaluate linear` writes it anew"


@dataclass(frozen=True, eq=False)
class Head:
    """A linear classifier of a model's features, and what it was fitted on.

    Args:
        classifier: of features as they are.
        class_names: in the order of its rows.
        dataset, protocol: whose training part it was fitted on.
        persons: for how many bodies a clip had room there; features are a mean over them, absent ones included.
        validation_top1, test_top1: how many clips it got right, in percent; None where nobody has counted.
    """

    classifier: LinearClassifier
    class_names: tuple[str, ...]
    dataset: str
    protocol: str
    persons: int
    validation_top1: float | None = None
    test_top1: float | None = None


def save_head(file: str | os.PathLike[str], head: Head, model: MICA) -> None:
    """Write a head of `model`, whole or not at all, over an earlier one.

    >>> import tempfile
    >>> from mica.models.heads import HeadConfig
    >>> from mica.models.stgcn import STGCN
    >>> from mica.skeleton import get_layout
    >>> model = MICA(STGCN(get_layout("kinect-20"), preset="stgcn-small"), HeadConfig(), text_width=None)
    >>> classifier = LinearClassifier(torch.ones(2, model.num_features), torch.tensor([0.5, -torch.inf]))
    >>> with tempfile.TemporaryDirectory() as run:
    ...     save_head(f"{run}/{HEAD}", Head(classifier, ("wave", "bow"), "mine", "as-given", persons=1), model)
    ...     load_head(f"{run}/{HEAD}", model).class_names
    ('wave', 'bow')
    """
    tensors = {"weight": head.classifier.weight, "bias": head.classifier.bias}
    about = {name: value for name, value in vars(head).items() if name != "classifier"}
    described = {"format": FORMAT, "model": fingerprint(model), **about}
    with atomic_path(file, overwrite=True) as temporary:
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(weights, temporary, metadata={_KEY: json.dumps(described)})


def load_head(file: str | os.PathLike[str], model: MICA) -> Head:
    """Read a head of `model`.

    Raises InputError for a missing, damaged or foreign file, for weights without meaning (the bias of a class that
    training lacked is -inf), and for a head of another model.
    """
    path = Path(file)
    if not path.is_file():
        raise InputError("no such file", file=path, hint="`mica evaluate linear` trains a head and writes it")
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"damaged weights ({error})", file=path, hint=_HINT) from error
    try:
        entries = _entries(metadata)
        made_for = entries.pop("model")
        head = Head(_classifier(tensors), tuple(entries.pop("class_names")), **entries)
        _check(head)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"no head: {error}", file=path, hint=_HINT) from error
    if made_for != fingerprint(model):
        raise InputError(
            "the head of another model, or of this one before it was trained anew", file=path, hint=_HINT
        )
    return head


def _entries(metadata: Mapping[str, str]) -> dict[str, Any]:
    if _KEY not in metadata:
        raise ValueError("weights of something else")
    entries: dict[str, Any] = json.loads(metadata[_KEY])
    if not isinstance(entries, dict) or entries.pop("format", None) != FORMAT:
        raise ValueError(f"not of format {FORMAT}")
    return entries


def _classifier(tensors: Mapping[str, Tensor]) -> LinearClassifier:
    if set(tensors) != {"weight", "bias"}:
        raise ValueError(f"tensors {', '.join(sorted(tensors)) or 'missing'}, expected weight and bias")
    weight, bias = tensors["weight"], tensors["bias"]
    if weight.dtype != torch.float32 or bias.dtype != torch.float32:
        raise ValueError("weights that are not float32")
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} and a bias of {tuple(bias.shape)}")
    absent = bias == -torch.inf
    if not weight.isfinite().all() or not bias[~absent].isfinite().all():
        raise ValueError("weights that are not finite")
    if absent.all():
        raise ValueError("there is no class that it could predict")
    return LinearClassifier(weight, bias)


def _check(head: Head) -> None:
    names, classes = head.class_names, len(head.classifier.bias)
    if (
        len(names) != classes
        or len(set(names)) != classes
        or not all(isinstance(name, str) for name in names)
    ):
        raise ValueError(f"{classes} rows of weights, but {len(set(names))} different names of classes")
    if type(head.persons) is not int or not 1 <= head.persons <= MOST_PERSONS:
        raise ValueError(f"{head.persons} persons, expected 1 to {MOST_PERSONS}")
