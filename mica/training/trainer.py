"""One process's part of a pretraining run: model, losses, optimiser, clips, and the step that joins them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from mica.data.dataset import Batch, SkeletonLoader
from mica.data.sampler import GlobalBatchSampler
from mica.data.store import Store
from mica.errors import InputError
from mica.models.method import Around
from mica.models.mica import MICA
from mica.models.precision import choose_precision
from mica.models.stgcn import STGCN
from mica.models.text import class_embeddings, load_text_encoder
from mica.training.accelerator import make_accelerator
from mica.training.broken import BrokenSteps
from mica.training.checks import check_config
from mica.training.config import PretrainConfig
from mica.training.epoch import EpochLog
from mica.training.methods import make_method
from mica.training.monitor import Monitor, StepGuard, StepValues
from mica.training.optimizer import learning_rate, make_optimizer
from mica.training.parts import choose_parts, make_card
from mica.training.phases import Phases
from mica.training.running_knn import knn_accuracy
from mica.training.step import CachedGradients, Pretraining
from mica.training.sync_norm import synchronise_norms
from mica.transforms.augment import AugmentConfig, augment
from mica.transforms.draws import Draws, fix_generators
from mica.transforms.streams import to_stream
from mica_kernels import distributed

GPU_WORKERS = 4


class Trainer:
    """Model, objectives, optimiser and clips of one run, on one of its processes.

    Attributes:
        step: steps taken.
        stop: whether this process was asked to stop; what it says reaches all of them with the next step.
        log: the terms and times of the epoch that is under way.

    Raises InputError where a setting is out of range or the store does not fit the configuration.
    """

    def __init__(self, config: PretrainConfig, store: Store, accelerator: Accelerator | None = None) -> None:
        check_config(config)
        self.accelerator = accelerator or make_accelerator()
        self.config, self.device, self.layout = config, self.accelerator.device, store.layout
        self.parts = choose_parts(config, store)
        self.order = GlobalBatchSampler(
            len(self.parts.pretrain),
            config.optimizer.batch_size,
            config.seed,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        self.micro_batch = _micro_batch(config, len(self.order.positions))
        texts = self._class_texts(store)
        self.card = make_card(config, store, self.parts, None if texts is None else texts.shape[-1])
        self.phases = Phases(self.device)
        self.precision, self.why = choose_precision(config.precision, self.device)
        self.trained = make_method(config, self._build, texts, self.precision).to(self.device)
        self.trained.phase = self.phases
        if self.accelerator.num_processes > 1 and config.optimizer.sync_norm:
            synchronise_norms(self.trained, self.device)
        if config.engine.compile:
            for module in self.trained.modules():
                if isinstance(module, STGCN):
                    module.compile(dynamic=False)
        self.optimizer = make_optimizer(self.trained, config.optimizer)
        with warnings.catch_warnings():
            # Torch 2.13 has another word for broadcast_buffers, which Torch 2.11 does not know.
            warnings.simplefilter("ignore", FutureWarning)
            self.wrapped = self.accelerator.prepare_model(self.trained)
        if self.accelerator.num_processes > 1:
            # Said of 1 x 1 convolutions, of whose strides two mean nothing.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        self.guard = StepGuard(self.optimizer, [self.trained] if config.engine.skip_broken else [])
        self.monitor = Monitor(self.device)
        self.loader = SkeletonLoader(self.parts.pretrain, self.order, self.device, self._workers())
        self.stop: Callable[[], bool] = lambda: False
        self.waiting: Callable[[Callable[[], str]], AbstractContextManager] = nullcontext
        self.broken = BrokenSteps(self.parts.pretrain, self.order, config.engine.skip_broken)
        self._flags = torch.tensor([0.0, 1.0], device=self.device)
        self.step = 0
        self._asked_to_stop: int | None = None
        self.log = EpochLog()
        self.knn_shown = "-"

    @property
    def steps_per_epoch(self) -> int:
        return len(self.order)

    @property
    def stop_agreed(self) -> bool:
        """Whether one of the processes was asked to stop, and all of them know by this step.

        The one that saves looks ahead of the others: what it learns then has to wait.
        """
        asked = self._asked_to_stop
        known = asked is not None and self.step > asked + self.monitor.delay
        return known or (asked is not None and self.step % self.steps_per_epoch == 0)

    @property
    def model(self) -> MICA:
        """The model that gradients train."""
        return self.trained.model

    def _class_texts(self, store: Store) -> Float[Tensor, "K W D"] | None:
        if self.config.text == "none":
            return None
        with self.accelerator.main_process_first():  # the others find what it put into the cache
            encoder = load_text_encoder(self.config.text, self.config.text_path)
            return class_embeddings(encoder, store.info.dataset, store.info.class_names)

    def _build(self, place: int = 0) -> MICA:
        """A model with fresh weights; other ones for each place that the method has for a model."""
        # Seeded right before, so that nothing that ran earlier has a say in the weights. Those of the first model are
        # those that `random_model` makes again.
        if place == 0:
            torch.manual_seed(self.config.seed)
        else:
            fix_generators(self.config.seed, place)
        try:
            return self.card.build()
        except ValueError as error:
            raise InputError(str(error), field="encoder") from error

    def _workers(self) -> int:
        if self.config.engine.workers is not None:
            return self.config.engine.workers
        return GPU_WORKERS if self.device.type == "cuda" else 0

    def run_epoch(
        self, epoch: int, bar: tqdm, after_step: Callable[[], None] = lambda: None
    ) -> dict[str, float | int | None]:
        """Train what is left of an epoch, call `after_step` behind each step, and return its line of metrics.

        Raises InputError where a term or gradient was not finite, more often than may be.
        """
        self.order.set_epoch(epoch, first=self.step - epoch * self.steps_per_epoch)
        started = time.perf_counter()
        for batch in self.batches():
            values = self.train_step(batch["x"], batch["label"])
            self.take(self.monitor.push(self.step - 1, values))
            bar.update()
            passed, started = time.perf_counter() - started, time.perf_counter()
            self.log.seconds += passed
            after_step()
        return self._close_epoch(epoch, bar)

    def batches(self) -> Iterator[Batch]:
        """The batches of the epoch, prepared on the device; how long they kept the host waiting is added up."""
        loading = iter(self.loader)
        while True:
            started = time.perf_counter()
            with self.phases("loader"), self.waiting(self._describe_batch):
                batch = next(loading, None)
            if batch is None:
                return
            self.log.waited += time.perf_counter() - started
            yield batch

    def _describe_batch(self) -> str:
        names = ", ".join(self.broken.clips_of(self.step)[:3])
        store = self.parts.pretrain.store.path
        return f"step {self.step} has no clips yet of {store} ({names}, ...): a slow disk or network?"

    def train_step(self, x: Float[Tensor, "N C T V M"], labels: Tensor) -> dict[str, Tensor]:
        """The views, the losses, one step of the optimiser; returns the detached terms, and the gradient's norm.

        What is drawn follows from the seed and the number of the step alone: no generator carries a state along.
        """
        self.trained.train()
        self.guard.remember()
        rate = learning_rate(self.step, self.steps_per_epoch, self.config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        draws = Draws(self.config.seed, self.step, self.order.positions, self.device)
        with self.phases("augmentation"):
            views = torch.stack([self._view(x, how, draws) for how in self.trained.augmentations])
        parts = views.split(self.micro_batch, dim=1)
        around = self._around(labels, draws)
        self.trained.begin(parts, around)
        self.optimizer.zero_grad(set_to_none=True)
        earlier: list[Tensor] = []
        if len(parts) > 1:
            assert isinstance(self.trained, Pretraining)  # as check_config has seen to
            with self.phases("first parts"):
                earlier = CachedGradients(self.trained).backward(parts, around)
        around.fix_dropout(len(parts) - 1)
        terms = self.wrapped(parts[-1], earlier, around)
        with self.phases("backward"):
            self.accelerator.backward(terms["loss"])
        with self.phases("optimiser"):
            norm = self.accelerator.clip_grad_norm_(
                self.trained.parameters(), self.config.optimizer.clip_norm
            )
            self.trained.follow(around, self.guard.step(terms["loss"], norm))
        self.step += 1
        values = {name: term.detach() for name, term in terms.items()}
        return values | {"gradient": norm, "stop": distributed.mean(self._flags[int(self.stop())])}

    def _around(self, labels: Tensor, draws: Draws) -> Around:
        config, rank = self.config, self.accelerator.process_index
        return Around(
            labels,
            draws,
            progress=self.step / (config.optimizer.epochs * self.steps_per_epoch),
            fix_dropout=partial(fix_generators, config.seed, self.step, rank),
        )

    def _view(
        self, x: Float[Tensor, "N C T V M"], how: AugmentConfig, draws: Draws
    ) -> Float[Tensor, "N C T V M"]:
        return to_stream(augment(x, how, self.layout, draws), self.config.preprocessing.stream, self.layout)

    def take(self, arrived: Iterable[StepValues]) -> None:
        """Keep what steps gave; raises InputError where too many were not finite."""
        for found in arrived:
            if found.values.pop("stop") > 0 and self._asked_to_stop is None:
                self._asked_to_stop = found.step
            if not self.broken.counts(found):
                self.log.terms.append(found.values)

    def _close_epoch(self, epoch: int, bar: tqdm) -> dict[str, float | int | None]:
        started = time.perf_counter()
        self.take(self.monitor.drain())
        self.log.seconds += time.perf_counter() - started
        found = self.log.close(epoch, self.steps_per_epoch * self.config.optimizer.batch_size)
        record: dict[str, float | int | None] = {"epoch": epoch, "step": self.step, **found}
        record |= {"lr": self.optimizer.param_groups[0]["lr"], "knn_validation": None}
        if self._knn_is_due(epoch):
            record["knn_validation"] = accuracy = self.knn_accuracy()
            self.knn_shown = f"{accuracy:.1f} %"
        shown = {"loss": f"{found['loss']:.3f}", "clips/s": f"{found['clips_per_second']:.0f}"}
        bar.set_postfix(shown | {"kNN": self.knn_shown})
        return record

    def _knn_is_due(self, epoch: int) -> bool:
        every = self.config.knn_every
        return every > 0 and ((epoch + 1) % every == 0 or epoch + 1 == self.config.optimizer.epochs)

    def knn_accuracy(self) -> float:
        """Accuracy of the nearest neighbour, from the fit clips to the validation clips, in percent."""
        self.share_statistics()
        return knn_accuracy(self.trained.evaluated, self.parts, self.accelerator)

    @torch.no_grad()
    def share_statistics(self) -> None:
        """Give every process the running statistics of the first, which are those that are saved."""
        if self.accelerator.num_processes > 1:
            for buffer in self.trained.buffers():
                dist.broadcast(buffer, 0)

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on beside configuration and clips.

        Whatever is drawn follows from seed and step, and the place in the epoch from the step.
        """
        self.take(self.monitor.drain())
        return {
            "step": self.step,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.log.state_dict(),
            "broken": self.broken.count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.log.load_state_dict(state["epoch"])
        self.step, self.broken.count = state["step"], state["broken"]


def _micro_batch(config: PretrainConfig, share: int) -> int:
    """Clips that go through the encoder at a time."""
    wanted = config.optimizer.micro_batch or share
    if share % wanted:
        problem = f"{share} clips on a process are no multiple of a micro-batch of {wanted}"
        raise InputError(problem, field="optimizer.micro_batch")
    return wanted
