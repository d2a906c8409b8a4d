"""Features of a store's clips, or of clips from files, block after block as they are computed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor
from tqdm import tqdm

from mica.data.dataset import MOST_PERSONS, SkeletonDataset, SkeletonLoader, in_order
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.transfer import fit_to
from mica.inference.clips import AS_THEY_ARE, Keypoints, Reading, read_clip
from mica.inference.embeddings import Block, Embeddings
from mica.models.mica import MICA, ModelCard
from mica.transforms.sampling import prepare
from mica.transforms.streams import to_stream

What = Literal["features", "text-space"]

_STORED_AT_ONCE, _READ_AT_ONCE = 128, 16
_NUMBERS = ("label", "subject", "camera", "setup", "replication")
_IN_PAIRS = ("ntu60", "ntu120", "pku-mmd-1", "pku-mmd-2")


def embed_store(model: MICA, store: Store, *, what: What = "features", progress: bool = False) -> Embeddings:
    """Embed all clips of a store in its order; where it has other joints than the model, they are mapped.

    There is room for as many bodies as the store's clips have, as in evaluations; see `persons` of `embed_files`.
    `what` is "features", the pooled ones that evaluations use, or "text-space", unit vectors that may be compared with
    those of words. The model is put into evaluation mode. Raises InputError for joints that cannot be mapped, and for
    the text space of a model without text; the blocks raise it where a vector is not finite.
    """
    fitted = fit_to(store, model.card)
    dataset = SkeletonDataset(fitted, np.arange(len(fitted)), model.card.preprocessing)
    loader = SkeletonLoader(dataset, in_order(len(dataset), _STORED_AT_ONCE), _device(model))
    class_names = np.array(store.info.class_names)
    columns = {"name": store.names, "class_name": class_names[store.labels]}
    columns |= {number: getattr(store, f"{number}s") for number in _NUMBERS}
    return Embeddings(
        columns=columns,
        width=_width(model, what),
        blocks=_blocks(model, (batch["x"] for batch in loader), store.names, what, progress),
        about={**_about(model.card, what), "dataset": store.info.dataset, "joints": store.info.layout},
        class_names=store.info.class_names,
    )


def embed_files(
    model: MICA,
    files: Sequence[str | os.PathLike[str]],
    how: Reading = AS_THEY_ARE,
    *,
    persons: int | None = None,
    what: What = "features",
    progress: bool = False,
) -> Embeddings:
    """Embed clips that lie in a file each, as `read_clip` reads them; they are called by their paths.

    `persons` is for how many bodies there is room in a clip, since features are a mean over them, absent ones included:
    None takes what the model was trained on. Otherwise as `embed_store`.
    """
    names = np.array([os.fspath(file).encode("utf-8", "replace").decode() for file in files], dtype=str)
    clips = (read_clip(file, model.encoder.layout, how) for file in files)
    inputs = _inputs(model, clips, persons_of(model.card) if persons is None else check_persons(persons))
    return Embeddings(
        columns={"name": names},
        width=_width(model, what),
        blocks=_blocks(model, inputs, names, what, progress),
        about=_about(model.card, what),
    )


def embed_clip(model: MICA, keypoints: Keypoints, persons: int) -> Float32[Tensor, "1 features"]:
    """Return the features of one clip that is on the model's joints, with room for so many bodies.

    >>> from mica.models.heads import HeadConfig
    >>> from mica.models.stgcn import EncoderConfig
    >>> from mica.transforms.sampling import Preprocessing
    >>> card = ModelCard("kinect-20", Preprocessing(), EncoderConfig("stgcn-small"), HeadConfig(), "none", None, None,
    ...                  "mine", "as-given", "train", ("wave",), (0,), seed=0)
    >>> embed_clip(card.build(), np.ones((1, 1, 20, 3), np.float32), persons=2).shape
    torch.Size([1, 2560])
    """
    inputs = _inputs(model, [keypoints], persons)
    return torch.from_numpy(next(_blocks(model, inputs, ["the clip"], "features", progress=False)))


def persons_of(card: ModelCard) -> int:
    """Return for how many bodies a clip had room where the model was trained; unsaid, two in data sets of pairs."""
    return card.persons or (2 if card.dataset in _IN_PAIRS else 1)


def persons_in(store: Store) -> int:
    """Return for how many bodies a clip of a store has room, as `SkeletonDataset` gives it."""
    return min(MOST_PERSONS, int(store.persons.max()))


def check_persons(persons: int) -> int:
    """Return a number of bodies that a clip may have room for; raise InputError for any other."""
    if persons not in range(1, MOST_PERSONS + 1):
        raise InputError(f"{persons} persons, expected 1 to {MOST_PERSONS}", field="persons")
    return persons


def _blocks(
    model: MICA,
    inputs: Iterable[Float[Tensor, "N 3 T V M"]],
    names: Sequence[str] | Shaped[np.ndarray, " clips"],
    what: What,
    progress: bool,
) -> Iterator[Block]:
    model.eval()
    done = 0
    with tqdm(total=len(names), desc="embed", unit="clip", disable=not progress) as bar:
        for x in inputs:
            with torch.inference_mode():
                vectors = model.features(to_stream(x, model.card.preprocessing.stream, model.encoder.layout))
                vectors = model.embed(vectors) if what == "text-space" else vectors
            block = vectors.float().cpu().numpy()
            _require_finite(block, names[done : done + len(block)])
            done += len(block)
            bar.update(len(block))
            yield block


def _inputs(model: MICA, clips: Iterable[Keypoints], persons: int) -> Iterator[Float[Tensor, "N 3 T V M"]]:
    """Prepare clips as the encoder takes them, a few at a time."""
    rest, device = iter(clips), _device(model)
    while group := list(islice(rest, _READ_AT_ONCE)):
        keypoints, lengths = _side_by_side(group, persons)
        yield prepare(
            keypoints.to(device), lengths.to(device), model.encoder.layout, model.card.preprocessing
        )


def _side_by_side(
    clips: Sequence[Keypoints], persons: int
) -> tuple[Float32[Tensor, "F M V 3"], Int64[Tensor, " N"]]:
    """Join clips over time, each with room for `persons`: bodies past those are left out, absent ones are zero."""
    lengths = [len(clip) for clip in clips]
    joined = np.zeros((sum(lengths), persons, *clips[0].shape[2:]), np.float32)
    for clip, end in zip(clips, np.cumsum(lengths), strict=True):
        seen = clip[:, :persons]
        joined[end - len(clip) : end, : seen.shape[1]] = seen
    return torch.from_numpy(joined), torch.tensor(lengths)


def _require_finite(block: Block, names: Sequence[str] | Shaped[np.ndarray, " clips"]) -> None:
    broken = ~np.isfinite(block).all(axis=1)
    if broken.any():
        hint = "look for huge coordinates with `mica inspect`; if there are none, the model has diverged"
        raise InputError("features that are not finite", clip=str(names[int(broken.argmax())]), hint=hint)


def _width(model: MICA, what: What) -> int:
    if what == "features":
        return model.num_features
    if model.card.text_width is None:
        hint = "pretrain with --text minilm, or ask for the features"
        raise InputError("the model was pretrained without text: it has no text space", hint=hint)
    return model.card.text_width


def _about(card: ModelCard, what: What) -> dict[str, str]:
    """What a reader of the vectors has to know of the model."""
    return {
        "what": what,
        "model": f"pretrained on {card.dataset}, {card.protocol}, {card.part}; text {card.text}; seed {card.seed}",
        "stream": card.preprocessing.stream,
        "layout": card.layout,
    }


def _device(model: MICA) -> torch.device:
    return next(model.parameters()).device
