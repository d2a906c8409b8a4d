"""Transfer: what a model that was pretrained on one data set is worth on another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mica.data.mapped import MappedStore
from mica.data.splits import protocols_of, split
from mica.data.store import Store
from mica.evaluation.features import encoder_features
from mica.evaluation.finetune import FineTuneConfig, finetune_scores
from mica.evaluation.linear import linear_scores
from mica.evaluation.results import Score
from mica.models.mica import MICA, ModelCard


def fit_to(store: Store, card: ModelCard) -> Store:
    """Return the store itself where it has the joints of the model, else one whose joints are mapped to them.

    Of a `MappedStore`, `mapping` says which joint comes from where and which are `unmatched`. Raises InputError where
    the layouts have too little in common.
    """
    mapped = MappedStore(store, card.layout, card.own_layout)
    return store if mapped.layout == store.layout else mapped


def transfer_scores(
    model_maker: Callable[[], MICA],
    card: ModelCard,
    store: Store,
    protocol: str | None,
    config: FineTuneConfig,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    progress: bool = True,
) -> list[Score]:
    """Score a model on the data set of `store`: linear probes of the frozen encoder, then fine-tuned.

    protocol: one of the store's, None for the usual one. Preprocessing and stream are those of the model;
    joints are mapped to the model's. Raises InputError where they cannot be.
    """
    fitted = fit_to(store, card)
    division = split(store, protocol or protocols_of(store)[0].name)
    names = store.info.class_names
    linear, _ = linear_scores(encoder_features(model_maker(), card, fitted, division), names, seeds)
    tuned = finetune_scores(
        model_maker, card, fitted, division, names, config, seeds=seeds, progress=progress
    )
    return [*(replace(score, name=f"linear, {score.name}") for score in linear), *tuned]
