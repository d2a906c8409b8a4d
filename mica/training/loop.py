"""Pretraining: from a store and a configuration to a run directory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from mica.data.dataset import SkeletonDataset, SkeletonLoader
from mica.data.sampler import GlobalBatchSampler
from mica.data.splits import split, zero_shot_split
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.features import extract_features
from mica.evaluation.knn import knn_predict
from mica.evaluation.metrics import accuracy
from mica.models.mica import MICA, ModelCard
from mica.models.precision import choose_precision
from mica.models.text import class_embeddings, load_text_encoder
from mica.objectives import Objectives
from mica.training.allocator import freed_memory_kept
from mica.training.checks import check_config
from mica.training.config import PretrainConfig
from mica.training.optimizer import learning_rate, make_optimizer
from mica.training.run import RunWriter
from mica.transforms.augment import augment
from mica.transforms.draws import Draws
from mica.transforms.streams import to_stream


def pretrain(config: PretrainConfig, store: Store, out: Path, *, overwrite: bool = False) -> ModelCard:
    """Pretrain on the training part of `store` and write the run directory `out`.

    Raises InputError where a setting is out of range, the store does not fit the configuration, or `out` exists and may
    not be overwritten: all before anything is written or removed. And where a loss stops being finite.
    """
    run = RunWriter(out, config, overwrite)
    trainer = Trainer(config, store, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with (
        run,
        freed_memory_kept(trainer.device),
        tqdm(total=config.optimizer.epochs * len(trainer.loader), unit="step", desc="pretrain") as bar,
    ):
        for epoch in range(config.optimizer.epochs):
            record = trainer.run_epoch(epoch, bar)
            run.log(record)
    trainer.model.save_pretrained(run.checkpoint)
    return trainer.card


@dataclass
class Parts:
    """The clips that pretraining reads, and the two between which the running kNN is measured."""

    pretrain: SkeletonDataset
    gallery: SkeletonDataset
    queries: SkeletonDataset
    seen_classes: tuple[int, ...]


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
        )
    return parts


class Trainer:
    """Model, objectives, optimiser and clips of one run."""

    def __init__(self, config: PretrainConfig, store: Store, device: torch.device) -> None:
        check_config(config)
        self.config, self.device, self.layout = config, device, store.layout
        self.parts = choose_parts(config, store)
        texts = self._class_texts(store)
        self.card = ModelCard(
            layout=store.info.layout,
            preprocessing=config.preprocessing,
            encoder=config.encoder,
            heads=config.heads,
            text=config.text,
            text_path=config.text_path,
            text_width=None if texts is None else texts.shape[-1],
            dataset=store.info.dataset,
            protocol=config.split.protocol,
            part=config.split.part,
            class_names=store.info.class_names,
            seen_classes=self.parts.seen_classes,
            seed=config.seed,
            own_layout=store.info.own_layout,
            persons=self.parts.pretrain.persons,
        )
        self.model = self._build().to(device)
        self.objectives = Objectives(config.objectives, texts).to(device)
        self.modules = nn.ModuleList([self.model, self.objectives])
        self.optimizer = make_optimizer(self.modules, config.optimizer)
        self.precision, _ = choose_precision(config.precision, device)
        self.order = GlobalBatchSampler(len(self.parts.pretrain), config.optimizer.batch_size, config.seed)
        self.loader = SkeletonLoader(self.parts.pretrain, self.order, device)
        self.step = 0
        self.knn_shown = "-"

    def _class_texts(self, store: Store) -> Float[Tensor, "K W D"] | None:
        if self.config.text == "none":
            return None
        encoder = load_text_encoder(self.config.text, self.config.text_path)
        return class_embeddings(encoder, store.info.dataset, store.info.class_names)

    def _build(self) -> MICA:
        # Seeded right before, so that nothing that ran earlier has a say in the weights.
        torch.manual_seed(self.config.seed)
        try:
            return self.card.build()
        except ValueError as error:
            raise InputError(str(error), field="encoder") from error

    def run_epoch(self, epoch: int, bar: tqdm) -> dict[str, float | int | None]:
        """Train one epoch; return the mean of its terms and, every `knn_every` epochs, the kNN accuracy.

        Raises InputError where a term was not finite.
        """
        start, history, clips = time.perf_counter(), [], 0
        self.order.set_epoch(epoch)
        for batch in self.loader:
            history.append(self.train_step(batch["x"], batch["label"]))
            clips += len(batch["x"])
            bar.update()
        means = epoch_means(history, epoch)
        seconds = time.perf_counter() - start
        record: dict[str, float | int | None] = {"epoch": epoch, "step": self.step, **means}
        record |= {"lr": self.optimizer.param_groups[0]["lr"], "clips_per_second": clips / seconds}
        record["knn_validation"] = self.knn_accuracy() if self._knn_is_due(epoch) else None
        record["seconds"] = seconds
        if record["knn_validation"] is not None:
            self.knn_shown = f"{record['knn_validation']:.1f} %"
        bar.set_postfix(
            {"loss": f"{means['loss']:.3f}", "clips/s": f"{clips / seconds:.0f}", "kNN": self.knn_shown}
        )
        return record

    def train_step(self, x: Float[Tensor, "N C T V M"], labels: Tensor) -> dict[str, Tensor]:
        """Two views, the losses, one step of the optimiser; returns the detached terms.

        What is drawn follows from the seed and the number of the step alone: no generator carries a state along.
        """
        self.model.train()
        rate = learning_rate(self.step, len(self.loader), self.config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        draws = Draws(self.config.seed, self.step, self.order.positions, self.device)
        views = torch.cat([self._view(x, draws), self._view(x, draws)])
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            features = self.model.features(views)
        features = features.float()
        skeleton = None if self.model.semantic is None else self.model.embed(features)
        view1, view2 = self.model.project(features).chunk(2)
        terms = self.objectives(view1, view2, skeleton, labels.repeat(2), draws)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(self.modules.parameters(), self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.step += 1
        return {name: term.detach() for name, term in terms.items()}

    def _view(self, x: Float[Tensor, "N C T V M"], draws: Draws) -> Float[Tensor, "N C T V M"]:
        augmented = augment(x, self.config.augment, self.layout, draws)
        return to_stream(augmented, self.config.preprocessing.stream, self.layout)

    def _knn_is_due(self, epoch: int) -> bool:
        every = self.config.knn_every
        return every > 0 and ((epoch + 1) % every == 0 or epoch + 1 == self.config.optimizer.epochs)

    def knn_accuracy(self) -> float:
        """Accuracy of the nearest neighbour, from the fit clips to the validation clips, in percent."""
        stream = self.config.preprocessing.stream
        gallery, labels = extract_features(self.model, self.parts.gallery, stream, self.layout)
        queries, truth = extract_features(self.model, self.parts.queries, stream, self.layout)
        return accuracy(knn_predict(gallery, labels, queries), truth)


def epoch_means(history: Sequence[dict[str, Tensor]], epoch: int) -> dict[str, float]:
    """The mean of each term over the steps of an epoch; raises InputError naming the first that is not finite.

    Values are looked at once an epoch: to look at every step would have a GPU wait for the host each time.
    """
    values = {name: torch.stack([terms[name] for terms in history]).double().cpu() for name in history[0]}
    broken = {name: (~term.isfinite()).nonzero() for name, term in values.items()}
    if any(len(steps) for steps in broken.values()):
        # Of several at the same step the first is meant: the loss comes last and only sums the others up.
        step, name = min(
            ((int(steps[0]), name) for name, steps in broken.items() if len(steps)),
            key=lambda found: found[0],
        )
        raise InputError(
            f"epoch {epoch}, step {step} of {len(history)}: the term '{name}' is {values[name][step].item()}",
            hint="lower --optimizer.lr, or try --precision float32; and look for huge coordinates in the store",
        )
    return {name: term.mean().item() for name, term in values.items()}
