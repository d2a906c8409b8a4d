"""What `mica embed` and `mica predict` do, for Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from mica.data.find import find_clip
from mica.data.formats.own.layout_file import find_layout
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.head import HEAD, load_head
from mica.evaluation.runs import CHECKPOINT
from mica.evaluation.transfer import fit_to
from mica.inference.clips import AS_THEY_ARE, Reading
from mica.inference.embed import What, embed_clip, embed_files, embed_store, persons_in, persons_of
from mica.inference.embeddings import check_output, write_embeddings
from mica.inference.predict import Ranked, class_words, predict_by_head, predict_by_text, predictions_table
from mica.models.mica import MICA

PathLike = str | os.PathLike[str]
By = Literal["head", "words"]


def open_model(place: PathLike) -> MICA:
    """Load a model from the directory of a run, or what `MICA.from_pretrained` reads; on a GPU where there is one.

    Raises InputError where there is none, or it is damaged.
    """
    checkpoint = Path(place) / CHECKPOINT
    model = MICA.from_pretrained(checkpoint if checkpoint.is_dir() else place)
    return model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def embed_command(
    model: PathLike,
    out: PathLike,
    *,
    data: PathLike | None = None,
    files: Sequence[PathLike] = (),
    what: What = "features",
    layout: PathLike | None = None,
    units: str = "metres",
    up: str | None = None,
    dimensions: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Write vectors of all clips of a store, or of one's own files, to a `.npz` or `.parquet`; return what was done.

    Args:
        model: directory of a run or of a checkpoint, or a model's name on the Hugging Face Hub.
        out: the file to write.
        data, files: a store, or files of a clip each.
        what: "features" or "text-space".
        layout, units, up, dimensions: of one's own files, as `mica prepare folder` has them.
        overwrite: replace an output that exists.
        progress: show a bar.

    Raises InputError for whatever does not fit; then nothing is written.
    """
    how = _reading(layout, units, up, dimensions)
    _require_one(data, files, how)
    check_output(out, overwrite)
    network = open_model(model)
    if data is not None:
        embeddings = embed_store(network, Store.open(data), what=what, progress=progress)
    else:
        embeddings = embed_files(network, files, how, what=what, progress=progress)
    write_embeddings(out, embeddings, overwrite=overwrite)
    return f"{what}: {out}, {len(embeddings):,} x {embeddings.width:,} float32"


def predict_command(
    model: PathLike,
    *,
    data: PathLike | None = None,
    clip: str | None = None,
    files: Sequence[PathLike] = (),
    by: By | None = None,
    texts: Sequence[str] = (),
    text_path: PathLike | None = None,
    head: PathLike | None = None,
    top: int = 5,
    layout: PathLike | None = None,
    units: str = "metres",
    up: str | None = None,
    dimensions: int | None = None,
) -> str:
    """Rank what a clip of a store, or each of some files, may show; return a table to print.

    Args:
        model: directory of a run or of a checkpoint, or a model's name on the Hugging Face Hub.
        data, clip: a store, and a clip's name or number in it.
        files: files of a clip each, instead.
        by: "head", a trained linear classifier, or "words"; None takes the head where the run has one, and neither
            texts nor text_path are given.
        texts: sentences to choose among; by default the class prompts of the data set that the model was trained on.
        text_path: where the text encoder's weights lie, if not where the model was trained.
        head: the file of a head; by default the run's.
        top: how many to name.
        layout, units, up, dimensions: of one's own files, as `mica prepare folder` has them.

    Raises InputError for whatever does not fit.
    """
    how = _reading(layout, units, up, dimensions)
    _require_one(data, files, how)
    if (data is None) != (clip is None):
        raise InputError("a store and a clip go together", hint="e.g. --data nw-ucla.arrow --clip 0")
    if top < 1:
        raise InputError(f"{top} classes to name, expected at least 1", field="top")
    network = open_model(model)
    file = Path(head) if head is not None else _head_of(model)
    wants_head = head is not None or (file.is_file() and not texts and text_path is None)
    by = by or ("head" if wants_head else "words")
    rank: Callable[[Tensor], list[list[Ranked]]]
    if by == "head":
        if texts or text_path is not None:
            field = "texts" if texts else "text_path"
            raise InputError("a head knows no words", field=field, hint="predict by words, or leave it out")
        trained = load_head(file, network)
        rank, persons, measure = partial(predict_by_head, trained, top=top), trained.persons, "probability"
    else:
        if head is not None:
            raise InputError("words need no head", field="head", hint="predict by the head, or leave it out")
        words, names = class_words(network.card, texts, text_path)
        rank = partial(predict_by_text, network, texts=words, class_names=names, top=top)
        persons, measure = None, "cosine"
    if data is not None and clip is not None:
        shown, features = _of_store(network, Store.open(data), clip, persons)
    else:
        shown, features = _of_files(network, files, how, persons)
    return predictions_table(shown, rank(features), measure)


def _of_store(
    model: MICA, store: Store, clip: str, persons: int | None
) -> tuple[list[str], Float32[Tensor, "1 features"]]:
    """What the clip is called, with its class, and its features."""
    place, fitted = find_clip(store, clip), fit_to(store, model.card)
    if persons is None:
        unsaid = model.card.persons is None and store.info.dataset == model.card.dataset
        persons = persons_in(store) if unsaid else persons_of(model.card)
    label = store.info.class_names[store.labels[place]]
    shown = f"{store.names[place]} ({label})"
    return [shown], embed_clip(model, fitted.keypoints(place), persons)


def _of_files(
    model: MICA, files: Sequence[PathLike], how: Reading, persons: int | None
) -> tuple[list[str], Float32[Tensor, "N features"]]:
    embeddings = embed_files(model, files, how, persons=persons)
    return embeddings.columns["name"].tolist(), torch.from_numpy(np.concatenate(list(embeddings.blocks)))


def _reading(layout: PathLike | None, units: str, up: str | None, dimensions: int | None) -> Reading:
    return Reading(None if layout is None else find_layout(layout), units, up, dimensions)


def _require_one(data: PathLike | None, files: Sequence[PathLike], how: Reading) -> None:
    if (data is None) == (not files):
        raise InputError("give either a store or files of clips", hint="--data STORE, or --files a.npy b.npy")
    if data is not None and how != AS_THEY_ARE:
        raise InputError(
            "a store knows its layout and units", file=data, hint="leave out layout, units, up and dimensions"
        )


def _head_of(model: PathLike) -> Path:
    """Where `mica evaluate linear` keeps the head: in the run, beside the checkpoint."""
    folder = Path(model)
    return (folder.parent if folder.name == CHECKPOINT else folder) / HEAD
