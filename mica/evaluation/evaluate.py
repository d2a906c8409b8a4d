"""Evaluate a run: load it, extract features once, score them by a protocol, keep the result beside it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from mica.data.splits import Split, split
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation import protocols
from mica.evaluation.features import Source, SplitFeatures, encoder_features, random_model, raw_features
from mica.evaluation.zero_shot import zero_shot_predict
from mica.files import atomic_path
from mica.models.mica import MICA
from mica.models.pretrained import ModelCard, load_pretrained
from mica.models.text import class_embeddings, load_text_encoder

ProtocolName = Literal["linear", "knn", "zero-shot"]


class Evaluation:
    """A run and a store, with the features of each source extracted once and shared by the protocols.

    Raises InputError where the run or the store cannot be read, or do not fit each other.
    """

    def __init__(self, run: str | os.PathLike[str], store: Store) -> None:
        self.run, self.store = Path(run), store
        self.model, self.card = load_pretrained(self.run / "checkpoint")
        self.model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        check_fit(self.card, store)
        self.division: Split = split(store, self.card.protocol)
        self._features: dict[Source, SplitFeatures] = {}

    def evaluate(self, protocol: ProtocolName, source: Source = "trained") -> dict[str, Any]:
        """Score the test part, write evaluation/<protocol>.json (random-<protocol>.json, ...) and return it."""
        if protocol == "linear":
            both = protocols.linear(self._pooled(source), len(self.card.class_names))
            result = self._described(both["sgd"])
            result["logistic_regression"] = self._described(both["logistic_regression"])
        elif protocol == "knn":
            result = self._described(
                protocols.knn({"pooled": self._pooled(source), **self._text_space(source)})
            )
        else:
            result = self._zero_shot(source)
        result = {"protocol": protocol, "source": source, **result, **self._circumstances(source)}
        write_result(self.run, protocol, source, result)
        return result

    def _described(self, prediction: protocols.Prediction) -> dict[str, Any]:
        return protocols.describe(prediction, self.card.class_names)

    def _circumstances(self, source: Source) -> dict[str, Any]:
        card = self.card
        return {
            "text_supervision": source == "trained" and card.text != "none",
            "dataset": card.dataset,
            "split": card.protocol,
            "split_note": self.division.note,
            "pretrained_on": card.part if source == "trained" else None,
            "class_names": list(card.class_names),
        }

    def _pooled(self, source: Source) -> SplitFeatures:
        if source not in self._features:
            card, store, division = self.card, self.store, self.division
            if source in ("trained", "random"):
                model: MICA = self.model if source == "trained" else random_model(card)
                self._features[source] = encoder_features(model, card, store, division)
            else:
                turned = source == "turned"
                self._features[source] = raw_features(card, store, division, align_view=turned)
        return self._features[source]

    def _text_space(self, source: Source) -> dict[str, SplitFeatures]:
        """The embeddings in the text's space, where the model has learned one: neighbours may be sought there too."""
        if source != "trained" or self.model.semantic is None:
            return {}
        pooled, device = self._pooled(source), next(self.model.parameters()).device
        with torch.inference_mode():
            train, test = (self.model.embed(part.to(device)).cpu() for part in (pooled.train, pooled.test))
        return {"text space": replace(pooled, train=train, test=test)}

    def _zero_shot(self, source: Source) -> dict[str, Any]:
        """Unseen classes where the run left some out; else all classes by their prompts, which is not zero-shot."""
        if self.card.text == "none" or source != "trained":
            raise InputError(
                "zero-shot needs a model that was pretrained with text",
                file=self.run,
                hint="pretrain with --text minilm, or evaluate linear or knn",
            )
        labels = range(len(self.card.class_names))
        unseen = [label for label in labels if label not in self.card.seen_classes]
        candidates = torch.tensor(unseen or list(labels))
        encoder = load_text_encoder(self.card.text, self.card.text_path)
        texts = class_embeddings(encoder, self.card.dataset, self.card.class_names)
        features = self._pooled(source)
        asked = torch.isin(features.test_labels, candidates)
        if not asked.any():
            raise InputError("the test part has no clip of an unseen class", file=self.store.path)
        predicted = zero_shot_predict(self.model, features.test[asked], texts, candidates)
        prediction = protocols.Prediction(predicted, features.test_labels[asked], {})
        return {**self._described(prediction), "unseen_classes": [self.card.class_names[i] for i in unseen]}


def check_fit(card: ModelCard, store: Store) -> None:
    """Raise InputError unless the store has the layout, dataset and classes that the model was made for."""
    for field, of_model, of_store in (
        ("layout", card.layout, store.info.layout),
        ("dataset", card.dataset, store.info.dataset),
        ("class_names", card.class_names, store.info.class_names),
    ):
        if of_model != of_store:
            if field == "class_names":
                of_model, of_store = f"{len(of_model)} classes", f"{len(of_store)} classes (or other names)"
            raise InputError(
                f"the model was pretrained on {of_model}, the store holds {of_store}",
                file=store.path,
                field=field,
                hint="evaluate on the store that the run was trained on, or one prepared in the same way",
            )


def result_file(run: str | os.PathLike[str], protocol: str, source: Source = "trained") -> Path:
    """Where a result is kept: evaluation/linear.json, evaluation/random-linear.json, ..."""
    name = protocol if source == "trained" else f"{source}-{protocol}"
    return Path(run) / "evaluation" / f"{name}.json"


def write_result(run: Path, protocol: str, source: Source, result: dict[str, Any]) -> None:
    with atomic_path(result_file(run, protocol, source), overwrite=True) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
