"""The real code on tensors without memory, and what it would hold and save."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.scaling.plan import CLASSES, FRAMES, LAYOUT, TEXT_WIDTH, WORDINGS
from mica.data.dataset import MOST_PERSONS
from mica.models.heads import HeadConfig
from mica.models.mica import MICA
from mica.models.stgcn import STGCN, EncoderConfig
from mica.objectives import ObjectiveConfig, Objectives
from mica.training.config import MomentumConfig
from mica.training.step import Pretraining
from mica.transforms import augment
from mica.transforms.augment import AugmentConfig
from mica_kernels.backend import Choice


@contextmanager
def as_on_a_gpu(kernels: bool = True) -> Iterator[None]:
    """Code takes the ways that it takes on a GPU with Triton.

    kernels: operators are taken to have some, for the device that the tensors are on; else they compute by their
    references, and save what they save beside kernels.
    """
    choice = Choice("triton", "as on a GPU")
    with ExitStack() as stack:
        for operators in ("contrastive", "spectral"):
            stack.enter_context(patch(f"mica_kernels.{operators}.op.choose", lambda *_, **__: choice))
        stack.enter_context(patch("mica_kernels.device.runs_kernels", lambda _: kernels))
        stack.enter_context(patch("mica.models.stgcn.WIDE", math.inf))  # a layout for CPUs
        yield


@contextmanager
def traced() -> Iterator[None]:
    """Tensors made inside have no memory, and nothing is computed."""
    _forget_constants()
    try:
        with as_on_a_gpu(), FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        _forget_constants()


def _forget_constants() -> None:
    """What views keep between calls: neither is memory inside for nothing, nor a tensor without memory left outside."""
    for kept in (augment._exchange, augment._tap_positions):
        kept.cache_clear()


class Live(TorchDispatchMode):
    """Bytes of the tensors made since that are in use (`now`), and at most at a time (`most`).

    What an operator needs only while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._sizes:
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._sizes[storage._cdata] = storage.nbytes()
        weakref.finalize(storage, self._forget, storage._cdata)
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)

    def _forget(self, storage: int) -> None:
        self.now -= self._sizes.pop(storage)


def saved_bytes(work: Callable[[], Any], own: Sequence[Tensor] = ()) -> int:
    """Bytes that autograd saves for the backward pass of the work, those of `own` tensors left out."""
    kept = {tensor.untyped_storage()._cdata: (tensor, 0) for tensor in own}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(
            storage._cdata, (tensor, storage.nbytes())
        )  # the tensor: or another may take its place
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        work()
    return sum(size for _, size in kept.values())


def build(preset: str) -> Pretraining:
    """Encoder, heads and losses as a run of default settings has them."""
    encoder = STGCN(LAYOUT, num_frames=FRAMES, **asdict(EncoderConfig(preset)))
    model = MICA(encoder, HeadConfig(), TEXT_WIDTH)
    losses = losses_of(ObjectiveConfig())
    return Pretraining(model, losses, torch.bfloat16, MomentumConfig(), AugmentConfig())


def losses_of(config: ObjectiveConfig) -> Objectives:
    return Objectives(config, torch.zeros(CLASSES, WORDINGS, TEXT_WIDTH))


def views_of(clips: int) -> Tensor:
    return torch.zeros(2, clips, 3, FRAMES, LAYOUT.num_joints, MOST_PERSONS)
