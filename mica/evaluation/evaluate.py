"""Evaluate a run: load it, extract features once, score them by any protocol, keep the results beside it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mica.data.dataset import SkeletonDataset
from mica.data.splits import Split, protocols_of, split
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.choosing import Validated
from mica.evaluation.ensemble import ensemble_scores
from mica.evaluation.features import Source, SplitFeatures, encoder_features, in_text_space, raw_features
from mica.evaluation.finetune import finetune_scores
from mica.evaluation.head import HEAD, Head, save_head
from mica.evaluation.knn import POOLED, TEXT_SPACE, knn_scores
from mica.evaluation.linear import LinearClassifier, linear_scores
from mica.evaluation.results import ProtocolName, Result, Score
from mica.evaluation.retrieval import retrieval_scores, text_retrieval_scores
from mica.evaluation.runs import CHECKPOINT, check_fit, fresh_model, keep_result
from mica.evaluation.semi import semi_scores
from mica.evaluation.transfer import fit_to, transfer_scores
from mica.evaluation.tuning import FineTuneConfig, recipe
from mica.evaluation.zero_shot import zero_shot_scores
from mica.models.mica import MICA, ModelCard
from mica.models.text import class_embeddings, load_text_encoder


@dataclass(frozen=True)
class Effort:
    """How much is done where a protocol draws or trains.

    Args:
        seeds: how many times; None leaves it to each protocol.
        training: how an encoder is fine-tuned; None stands for the recipe made for its source.
        progress: whether long work shows a bar.
    """

    seeds: int | None = None
    training: FineTuneConfig | None = None
    progress: bool = True

    @property
    def seeded(self) -> dict[str, Any]:
        """What a protocol that draws is told."""
        return {} if self.seeds is None else {"seeds": tuple(range(self.seeds))}

    @property
    def arguments(self) -> dict[str, Any]:
        """What a protocol that trains is told."""
        return {**self.seeded, "progress": self.progress}

    def recipe(self, source: Source) -> FineTuneConfig:
        """How an encoder from `source` is fine-tuned."""
        return self.training or recipe(source)


_OVERLAPPING = {"ntu60", "ntu120"}


class Evaluation:
    """A run and a store, with the features of each source extracted once for all protocols that only read them.

    Args:
        run: directory that pretraining wrote.
        store: the data set that the run was pretrained on.
        effort: how often and for how long the protocols that draw or train do so.
        validated: how the settings of the probes did on the validation clips, as of `mica.evaluation.validation`, where
            the run has itself trained on those; by default they are tried with the run's own features.

    Raises InputError where the run or the store cannot be read, or do not fit each other.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        store: Store,
        effort: Effort = Effort(),
        validated: Validated | None = None,
    ) -> None:
        self.run, self.store, self.effort, self.validated = Path(run), store, effort, validated
        self.model = fresh_model(self.run)
        self.card: ModelCard = self.model.card
        check_fit(self.card, store)
        self.division: Split = split(store, self.card.protocol)
        self._features: dict[Source, SplitFeatures] = {}
        if self.card.part == "train" and validated is None:
            warnings.warn(
                f"{self.run} has trained on the validation clips, too: what they choose now suits clips that it knows",
                stacklevel=2,
            )

    def evaluate(self, protocol: ProtocolName, source: Source = "trained") -> Result:
        """Score the test part, keep the result as `result_file` says and return it.

        `source` is what gives the features: the trained encoder or, to compare, the same one untrained ("random"),
        plain coordinates ("raw") or those turned to the front ("turned"). For "transfer" there is the function
        `transfer`, for "ensemble" a method of its own. Raises InputError where the protocol does not apply.
        """
        protocols: dict[str, Callable[[Source], list[Score]]] = {
            "linear": self._linear,
            "knn": self._knn,
            "retrieval": self._retrieval,
            "finetune": self._finetune,
            "semi": self._semi,
            "zero-shot": self._zero_shot,
        }
        return self._kept(protocol, source, protocols[protocol](source))

    def ensemble(self, others: Sequence[str | os.PathLike[str]]) -> Result:
        """Score the fusion of this run with others on the same clips: joint, bone and motion as a rule.

        Raises InputError where another run was pretrained on another data set, split or part of it.
        """
        members = {name: run.pooled("trained") for name, run in self.with_others(others).items()}
        scores = ensemble_scores(members, self.card.class_names)
        return self._kept("ensemble", "trained", scores)

    def with_others(self, others: Sequence[str | os.PathLike[str]]) -> dict[str, Evaluation]:
        """This run and others that can be fused with it, by stream where that tells them apart, else by path.

        Raises InputError as `ensemble` does.
        """
        runs = [self, *(Evaluation(run, self.store, self.effort) for run in others)]
        for other in runs[1:]:
            check_same_clips(self, other)
        if len({run.run.resolve() for run in runs}) < len(runs) or len(runs) < 2:
            raise InputError("an ensemble needs at least two different runs", file=self.run)
        streams: list[str] = [run.card.preprocessing.stream for run in runs]
        names = streams if len(set(streams)) == len(runs) else [str(run.run) for run in runs]
        return dict(zip(names, runs, strict=True))

    def pooled(self, source: Source) -> SplitFeatures:
        """The features of the training and the test part; extracted on first use."""
        if source not in self._features:
            card, store, division = self.card, self.store, self.division
            progress = "features" if self.effort.progress else None
            if source in ("trained", "random"):
                model = self.model if source == "trained" else fresh_model(self.run, "random")
                self._features[source] = encoder_features(model, card, store, division, progress)
            else:
                self._features[source] = raw_features(
                    card, store, division, align_view=source == "turned", progress=progress
                )
        return self._features[source]

    def _linear(self, source: Source) -> list[Score]:
        scores, classifier = linear_scores(
            self.pooled(source),
            self.card.class_names,
            **self.effort.seeded,
            validated=self._validated(source),
        )
        if source == "trained":
            self._save_head(classifier, scores[1])
        return scores

    def _save_head(self, classifier: LinearClassifier, found: Score) -> None:
        """Keep the logistic regression, for `mica predict`."""
        head = Head(
            classifier,
            self.card.class_names,
            self.card.dataset,
            self.card.protocol,
            persons=SkeletonDataset(self.store, [], self.card.preprocessing).persons,
            validation_top1=found.chosen["validation_top1"],
            test_top1=found.top1,
        )
        save_head(self.run / HEAD, head, self.model)

    def _knn(self, source: Source) -> list[Score]:
        candidates = {POOLED: self.pooled(source)}
        if source == "trained" and self.model.semantic is not None:
            candidates[TEXT_SPACE] = self._in_text_space()
        return knn_scores(candidates, self.card.class_names, validated=self._validated(source))

    def _validated(self, source: Source) -> Validated | None:
        return self.validated if source == "trained" else None

    def _retrieval(self, source: Source) -> list[Score]:
        scores = retrieval_scores(self.pooled(source), self.card.class_names)
        if source == "trained" and self.model.semantic is not None:
            scores += text_retrieval_scores(self._in_text_space(), self._texts(), self.card.class_names)
        return scores

    def _finetune(self, source: Source) -> list[Score]:
        return finetune_scores(
            *self._what_trains("finetune", source), **self.effort.seeded, progress=self.effort.progress
        )

    def _semi(self, source: Source) -> list[Score]:
        return semi_scores(
            *self._what_trains("semi", source), **self.effort.seeded, progress=self.effort.progress
        )

    def _what_trains(
        self, protocol: ProtocolName, source: Source
    ) -> tuple[Callable[[], MICA], ModelCard, Store, Split, tuple[str, ...], FineTuneConfig]:
        _check_source(protocol, source)
        card = self.card
        return (
            lambda: fresh_model(self.run, source),
            card,
            self.store,
            self.division,
            card.class_names,
            self.effort.recipe(source),
        )

    def _zero_shot(self, source: Source) -> list[Score]:
        """Unseen classes where the run left some out; else all classes by their prompts, which is not zero-shot."""
        if self.card.text == "none" or source != "trained":
            raise InputError(
                "zero-shot needs a model that was pretrained with text",
                file=self.run,
                hint="pretrain with --text minilm, or evaluate another protocol",
            )
        features = self._in_text_space()
        unseen = [label for label in range(len(self.card.class_names)) if label not in self.card.seen_classes]
        return zero_shot_scores(
            features.test, features.test_labels, self._texts(), unseen, self.card.class_names
        )

    def _texts(self) -> Float[Tensor, "K W D"]:
        encoder = load_text_encoder(self.card.text, self.card.text_path)
        return class_embeddings(encoder, self.card.dataset, self.card.class_names)

    def _in_text_space(self) -> SplitFeatures:
        pooled = self.pooled("trained")
        train, test = (in_text_space(self.model, part) for part in (pooled.train, pooled.test))
        return replace(pooled, train=train, test=test)

    def _kept(self, protocol: ProtocolName, source: Source, scores: Sequence[Score]) -> Result:
        return keep_result(self.run, self.card, protocol, source, scores, self.store, self.division)


def transfer(
    run: str | os.PathLike[str],
    target: Store,
    protocol: str | None = None,
    source: Source = "trained",
    effort: Effort = Effort(),
) -> Result:
    """Score a run on another data set, by one of that set's protocols (the usual one unless given); keep the result.

    Where its skeleton is another one, its joints are mapped to the model's. Raises InputError where they cannot be, and
    for the data set that the run was pretrained on: by another protocol it would be tested on clips it has seen.
    """
    _check_source("transfer", source)
    run, card = Path(run), ModelCard.read(Path(run) / CHECKPOINT)
    check_target(run, card, target)
    division = split(target, protocol or protocols_of(target)[0].name)
    scores = transfer_scores(
        lambda: fresh_model(run, source),
        card,
        target,
        division.protocol.name,
        effort.recipe(source),
        **effort.arguments,
    )
    return keep_result(run, card, "transfer", source, scores, target, division)


def check_same_clips(one: Evaluation, other: Evaluation) -> None:
    """Raise InputError unless two runs have seen the same clips, and as much of their labels by the same encoder."""
    for name in ("protocol", "part", "seen_classes", "text", "supervision"):
        of_one, of_other = getattr(one.card, name), getattr(other.card, name)
        if of_one != of_other:
            problem = f"pretrained on {of_other}, and {one.run} on {of_one}"
            raise InputError(problem, file=other.run, field=name, hint="fuse runs of the same clips")


def check_target(run: Path, card: ModelCard, target: Store) -> None:
    """Raise InputError unless a run can be transferred to a data set; warn where the two have clips in common."""
    if target.info.dataset == card.dataset:
        raise InputError(
            f"{run} was pretrained on {card.dataset}, and may know clips that would test it",
            file=target.path,
            field="dataset",
            hint="`mica evaluate linear` scores it there; `mica prepare folder --name` names data of one's own",
        )
    if {card.dataset, target.info.dataset} == _OVERLAPPING:
        warnings.warn(
            "NTU RGB+D 120 holds the clips of NTU RGB+D 60: some of those that test it may have trained it",
            stacklevel=3,
        )
    fit_to(target, card)


def _check_source(protocol: str, source: Source) -> None:
    """Raise InputError for coordinates where an encoder is to be trained."""
    if source not in ("trained", "random"):
        hint = "give --features trained or random"
        raise InputError(f"{protocol} trains an encoder, and {source} coordinates have none", hint=hint)
