"""A run over several processes is that of one with the joined batch: gloo, on the CPU, in float64.

In float32 gradients of the first layers, which eight batch norms follow, differ by up to a hundredth: by rounding only.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from mica.data.store import Store, write
from mica.data.synthetic import generate
from mica.models import baselines
from mica.models.baselines import BaselineConfig
from mica.models.description import MethodName
from mica.objectives import ObjectiveConfig, cross_correlation_loss
from mica.training import methods
from mica.training import step as step_module
from mica.training import trainer as trainer_module
from mica.training.config import MomentumConfig, OptimizerConfig, PretrainConfig, SplitConfig
from mica.training.monitor import StepValues
from mica.training.sync_norm import synchronise_norms
from mica.training.trainer import Trainer
from mica.transforms.augment import AugmentConfig
from mica.transforms.draws import Draws
from tests.conftest import FakeTextEncoder, tiny_run_config

WORLD, SHARE = 4, 16
QUEUE = 75
"""Of keys: two steps overwrite the first of them, and no step fills it evenly."""
SINGLES = torch.randn(2, WORLD, 3, generator=torch.Generator().manual_seed(0))
"""Two views of as many clips as there are processes."""
CPU = torch.device("cpu")
Found = dict[str, Any]


CLASSICS: tuple[MethodName, ...] = ("aimclr", "crossclr", "supervised")


def configuration(**optimizer: Any) -> PretrainConfig:
    """All terms at once, the momentum encoder and its queue."""
    how = {
        "name": "sgd",
        "lr": 0.05,
        "epochs": 2,
        "batch_size": WORLD * SHARE,
        "warmup_epochs": 0,
        **optimizer,
    }
    return replace(
        tiny_run_config(),
        split=SplitConfig(part="train"),
        text="minilm",
        objectives=ObjectiveConfig(instance=0.5),
        momentum=MomentumConfig(decay=0.9, queue=QUEUE),
        optimizer=OptimizerConfig(**how),
    )


def classic(method: MethodName) -> PretrainConfig:
    momentum = MomentumConfig() if method == "supervised" else MomentumConfig(decay=0.9, queue=QUEUE)
    config = replace(configuration(), method=method, text="none", momentum=momentum)
    return replace(config, baseline=BaselineConfig(mine_after=0.3, extreme=AugmentConfig(rotate=30)))


@contextmanager
def in_float64(folder: Path) -> Iterator[None]:
    """Trainers made here compute in float64, with made-up texts."""
    build = Trainer._build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_build", lambda self, place=0: build(self, place).double())
        for module, name in (
            (methods, "Objectives"),
            (methods, "Supervised"),
            (step_module, "KeyQueue"),
            (baselines, "KeyQueue"),
        ):
            made = getattr(module, name)
            patch.setattr(module, name, lambda *arguments, made=made: made(*arguments).double())
        patch.setattr(trainer_module, "load_text_encoder", lambda name, path=None: FakeTextEncoder())
        patch.setenv("MICA_CACHE", str(folder / "cache"))
        yield


@contextmanager
def in_order(order: Tensor) -> Iterator[None]:
    """Trainers draw as if the clips of a batch came in another order."""

    def draws(*arguments: Any) -> Draws:
        made = Draws(*arguments)
        made._outer, made._inner = made._outer[order], made._inner[order]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "Draws", draws)
        yield


def steps_of(config: PretrainConfig, store: Store, count: int = 2, order: Tensor | None = None) -> Found:
    """The terms and gradients of the first steps of a run, and its whole state behind them.

    order: of the clips within a batch.
    """
    with in_float64(store.path.parent):
        trainer = Trainer(config, store)
    found: Found = {"values": [], "gradients": [], "labels": []}
    for epoch in range(count):
        trainer.order.set_epoch(epoch)
        batch = next(trainer.batches())
        x, labels = batch["x"].double(), batch["label"]
        if order is None:
            values = trainer.train_step(x, labels)
        else:
            with in_order(order):
                values = trainer.train_step(x[order], labels[order])
        found["values"].append({name: value.item() for name, value in values.items()})
        found["labels"].append(batch["label"])
        gradients = {name: p.grad for name, p in trainer.trained.named_parameters() if p.grad is not None}
        found["gradients"].append({name: gradient.clone() for name, gradient in gradients.items()})
    trainer.share_statistics()
    state = trainer.trained.state_dict()
    found["state"] = {name: tensor.clone() for name, tensor in state.items() if isinstance(tensor, Tensor)}
    found["clips"] = trainer.broken.clips_of(1)
    trainer.model.float()  # clips come in float32
    found["knn"] = trainer.knn_accuracy()
    return found


def work(rank: int, folder: Path) -> None:
    """What one process makes of it, to a file."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "localhost",
    }
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=WORLD)
    store = Store.open(folder / "store.arrow")
    found = {
        "synchronised": steps_of(configuration(), store),
        "in parts": steps_of(configuration(micro_batch=SHARE // 2), store, count=1),
        "apart": steps_of(configuration(sync_norm=False, micro_batch=SHARE // 2), store, count=1),
        **{method: steps_of(classic(method), store) for method in CLASSICS},
        "norms": normed(rank),
        "one clip each": cross_correlation_loss(*SINGLES[:, rank : rank + 1]),
        "stopping": stopping(rank, store),
    }
    torch.save(found, folder / f"{rank}.part")
    (folder / f"{rank}.part").rename(folder / f"{rank}.pt")
    while not all((folder / f"{other}.pt").exists() for other in range(WORLD)):
        time.sleep(0.02)
    # A tidy end can wait for ever: PyTorch takes gloo's groups down with Python's lock held, which their threads want.
    os._exit(0)


def stopping(rank: int, store: Store) -> list[bool]:
    """Whether a rank knows of a request to stop that only the last of them got, before its second step."""
    trainer = Trainer(replace(configuration(), text="none"), store)
    known = []
    for epoch in range(2):
        trainer.stop = lambda epoch=epoch: rank == WORLD - 1 and epoch == 1
        trainer.order.set_epoch(epoch)
        batch = next(trainer.batches())
        trainer.take(trainer.monitor.push(epoch, trainer.train_step(batch["x"], batch["label"])))
        known.append(trainer.stop_agreed)
    return known


def normed(rank: int) -> Found:
    """A batch norm's output, gradients and running statistics of a rank's part of a batch."""
    torch.manual_seed(0)
    x, weights = torch.randn(2, 8, 3, 5, 2).mul_(4).add_(2).unbind(0)
    mine = slice(None) if rank < 0 else slice(2 * rank, 2 * rank + 2)
    norm: nn.Module = nn.Sequential(nn.BatchNorm2d(3))
    nn.init.normal_(norm[0].weight)
    if rank >= 0:
        norm = synchronise_norms(norm, CPU)
    leaf = x[mine].clone().requires_grad_()
    out = norm(leaf)
    (out * weights[mine]).sum().backward()
    gradients = {name: p.grad for name, p in norm.named_parameters()}
    return {"out": out.detach(), "dx": leaf.grad, **gradients, **dict(norm.named_buffers())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    info, clips, _ = generate(clips_per_class=9, subjects=8, num_frames=(8, 12))
    folder = tmp_path_factory.mktemp("processes")
    write(folder / "store.arrow", clips, info)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[Found]:
    # Imported once, not by each.
    multiprocessing.set_forkserver_preload(["mica.training.trainer", "torch._dynamo"])
    mp.start_processes(work, (folder,), nprocs=WORLD, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone(folder: Path) -> Found:
    return steps_of(configuration(), Store.open(folder / "store.arrow"))


def check_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """As close as float64 is; biases in front of a batch norm have no gradient but rounding."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_losses_are_those_of_one_process(ranks: list[Found], alone: Found) -> None:
    for step, expected in enumerate(alone["values"]):
        assert {"modulation", "inter", "intra", "instance", "loss", "gradient"} <= expected.keys()
        for rank in ranks:
            assert rank["synchronised"]["values"][step] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("step", [0, 1])
def test_gradients_are_those_of_one_process(step: int, ranks: list[Found], alone: Found) -> None:
    for rank in ranks:
        check_close(rank["synchronised"]["gradients"][step], alone["gradients"][step])


@pytest.mark.parametrize("method", CLASSICS)
def test_classics_on_several_processes_are_those_of_one(
    method: MethodName, ranks: list[Found], folder: Path
) -> None:
    expected = steps_of(classic(method), Store.open(folder / "store.arrow"))
    for rank in ranks:
        for step in (0, 1):
            assert rank[method]["values"][step] == pytest.approx(
                expected["values"][step], rel=1e-9, abs=1e-12
            )
            check_close(rank[method]["gradients"][step], expected["gradients"][step])
        check_close(rank[method]["state"], expected["state"])


def test_parts_on_several_processes_are_parts_on_one(ranks: list[Found], folder: Path) -> None:
    """The first parts of all processes are one part, as batch norms see them, and so are the second."""
    order = torch.arange(WORLD * SHARE).view(WORLD, 2, SHARE // 2).transpose(0, 1).flatten()
    config = configuration(micro_batch=WORLD * SHARE // 2)
    expected = steps_of(config, Store.open(folder / "store.arrow"), count=1, order=order)
    for rank in ranks:
        assert rank["in parts"]["values"][0] == pytest.approx(expected["values"][0], rel=1e-9)
        check_close(rank["in parts"]["gradients"][0], expected["gradients"][0])


def test_weights_statistics_keys_and_knn_are_those_of_one_process(ranks: list[Found], alone: Found) -> None:
    assert alone["state"]["queue.keys"].shape == (QUEUE, 8)
    for rank in ranks:
        check_close(rank["synchronised"]["state"], alone["state"])
        assert rank["synchronised"]["knn"] == alone["knn"]
        assert rank["synchronised"]["clips"] == alone["clips"]


def test_ranks_share_a_batch_out(ranks: list[Found], alone: Found) -> None:
    parts = [rank["synchronised"]["labels"][0] for rank in ranks]
    assert [len(part) for part in parts] == [SHARE] * WORLD
    assert torch.equal(torch.cat(parts), alone["labels"][0])


def test_ranks_stay_together_with_norms_and_parts_of_their_own(ranks: list[Found]) -> None:
    first = ranks[0]["apart"]
    for rank in ranks[1:]:
        assert rank["apart"]["values"] == first["values"]
        for name, gradient in first["gradients"][0].items():
            assert torch.equal(rank["apart"]["gradients"][0][name], gradient), name
        state = rank["apart"]["state"]
        assert [name for name, value in first["state"].items() if not torch.equal(state[name], value)] == []


def test_all_ranks_learn_at_the_same_step_that_one_was_asked_to_stop(ranks: list[Found]) -> None:
    assert [rank["stopping"] for rank in ranks] == [[False, True]] * WORLD


def test_features_are_correlated_over_processes_with_a_clip_each(ranks: list[Found]) -> None:
    expected = cross_correlation_loss(*SINGLES)
    for rank in ranks:
        torch.testing.assert_close(rank["one clip each"], expected)


def test_synchronised_norms_are_those_of_the_joined_batch(ranks: list[Found]) -> None:
    expected, found = normed(-1), [rank["norms"] for rank in ranks]
    check = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
    for name in ("out", "dx"):
        check(torch.cat([rank[name] for rank in found]), expected[name])
    for name in ("0.weight", "0.bias"):
        check(torch.stack([rank[name] for rank in found]).sum(0), expected[name])
    for name in ("0.running_mean", "0.running_var", "0.num_batches_tracked"):
        for rank in found:
            check(rank[name], expected[name])


def test_values_of_a_step_are_named() -> None:
    assert StepValues(3, {"loss": float("nan"), "inter": float("inf"), "intra": 1.0}).broken() == "inter"
