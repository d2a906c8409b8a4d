"""Which clips a run reads, and what its model says of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mica.data.dataset import SkeletonDataset
from mica.data.splits import split, zero_shot_split
from mica.data.store import Store
from mica.errors import InputError
from mica.models.mica import ModelCard
from mica.training.config import PretrainConfig


@dataclass
class Parts:
    """The clips that pretraining reads, and the two between which the running kNN is measured."""

    pretrain: SkeletonDataset
    gallery: SkeletonDataset
    queries: SkeletonDataset
    seen_classes: tuple[int, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the names, lengths, labels or order of the store's clips, and with which of them pretrain."""
        store = self.pretrain.store
        digest = hashlib.sha256("\n".join(store.names).encode())
        for numbers in (store.frames, store.labels, self.pretrain.indices):
            digest.update(numbers.tobytes())
        return digest.hexdigest()


def choose_parts(config: PretrainConfig, store: Store) -> Parts:
    """The clips of the configured part without unseen classes; the kNN runs from fit to validation."""
    division = split(store, config.split.protocol)
    unseen: tuple[int, ...] = ()
    if config.split.zero_shot is not None:
        unseen = zero_shot_split(store.info.dataset, config.split.zero_shot).unseen

    def dataset(indices: np.ndarray) -> SkeletonDataset:
        seen = indices[~np.isin(store.labels[indices], unseen)]
        return SkeletonDataset(store, seen, config.preprocessing)

    chosen = division.fit if config.split.part == "fit" else division.train
    parts = Parts(
        dataset(chosen),
        dataset(division.fit),
        dataset(division.validation),
        tuple(label for label in range(len(store.info.class_names)) if label not in unseen),
    )
    if len(parts.pretrain) < config.optimizer.batch_size:
        raise InputError(
            f"{len(parts.pretrain)} clips to pretrain on, fewer than one batch of {config.optimizer.batch_size}",
            file=store.path,
            field="optimizer.batch_size",
            hint=_smaller_batch(len(parts.pretrain)),
        )
    return parts


def _smaller_batch(clips: int) -> str:
    """Say which batch is not too large: the largest power of two."""
    if clips < 2:
        return "a batch needs two clips, so that they can be compared: prepare the store with more"
    return f"give a smaller one, --optimizer.batch_size {1 << clips.bit_length() - 1}"


def make_card(config: PretrainConfig, store: Store, parts: Parts, text_width: int | None) -> ModelCard:
    """What a model that is trained on these parts says of itself."""
    return ModelCard(
        layout=store.info.layout,
        preprocessing=config.preprocessing,
        encoder=config.encoder,
        heads=config.heads,
        text=config.text,
        text_path=config.text_path,
        text_width=text_width,
        dataset=store.info.dataset,
        protocol=config.split.protocol,
        part=config.split.part,
        class_names=store.info.class_names,
        seen_classes=parts.seen_classes,
        seed=config.seed,
        own_layout=store.info.own_layout,
        persons=parts.pretrain.persons,
        method=config.method,
    )
