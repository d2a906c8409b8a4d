"""What all tests share: where the public data lie, and a tiny data set with a tiny run on it."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Triton asks for this when it is imported; where there is no GPU, its interpreter runs the kernels.
    os.environ.setdefault("TRITON_INTERPRET", "1")

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch.nn.functional as F
from torch import Tensor

from mica.data.clip import Clip, StoreInfo
from mica.data.store import Store, write
from mica.data.synthetic import generate
from mica.evaluation import evaluate
from mica.models.heads import HeadConfig
from mica.models.stgcn import EncoderConfig
from mica.report import anchors
from mica.training import loop, trainer
from mica.training.config import OptimizerConfig, PretrainConfig, SplitConfig
from mica.transforms.augment import AugmentConfig
from mica.transforms.sampling import Preprocessing

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The directory of the public data sets, which do not come with the project."""
    folder = Path(os.environ.get("MICA_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set MICA_DATA to a directory with nw_ucla/ and utd_mhad/")
    return folder


class FakeTextEncoder:
    """Unit vectors that a text's bytes determine, at no cost."""

    name, width, fingerprint = "fake", 12, "0" * 16

    def encode(self, texts: Sequence[str]) -> Tensor:
        draws = [torch.Generator().manual_seed(crc32(text.encode())) for text in texts]
        return F.normalize(torch.stack([torch.randn(self.width, generator=draw) for draw in draws]), dim=-1)


def tiny_run_config(epochs: int = 1, batch_size: int = 16, **changes: Any) -> PretrainConfig:
    config = PretrainConfig(
        preprocessing=Preprocessing(num_frames=8),
        encoder=EncoderConfig(preset="stgcn-small"),
        heads=HeadConfig(segments=1, hidden=16, projection=8),
        augment=AugmentConfig(shear=0.3, noise=0.5),
        optimizer=OptimizerConfig(epochs=epochs, batch_size=batch_size, warmup_epochs=0),
        text="none",
        precision="float32",
        knn_every=0,
    )
    return replace(config, **changes)


@contextmanager
def faked_text(cache: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICA_CACHE", str(cache))
        for module in (trainer, evaluate, anchors):
            patch.setattr(module, "load_text_encoder", lambda name, path=None: FakeTextEncoder())
        yield


@pytest.fixture
def fake_text(tmp_path: Path) -> Iterator[None]:
    """Training and evaluation use the fake text encoder, and a text cache of their own."""
    with faked_text(tmp_path / "cache"):
        yield


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Synthetic motion of 16 classes by 8 people: 48 clips to fit, 16 to validate, 64 to test."""
    info, clips, _ = generate(clips_per_class=8, subjects=8, num_frames=(8, 12))
    return Store.open(write(tmp_path_factory.mktemp("tiny") / "tiny.arrow", clips, info).path)


@pytest.fixture(scope="session")
def zero_shot_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A clip of each of UTD-MHAD's 27 classes by each of four people, every class a posture of its own."""
    random = np.random.default_rng(0)
    postures = random.normal(size=(27, 1, 1, 20, 3))
    clips = [
        Clip(f"a{label}_s{subject}", (posture + 0.1 * random.normal(size=(5, 1, 20, 3))).astype(np.float32),
             label, subject)
        for subject in (1, 2, 3, 4)
        for label, posture in enumerate(postures)
    ]  # fmt: skip
    info = StoreInfo("utd-mhad", "kinect-20", tuple(f"class {label}" for label in range(27)), 30.0)
    return Store.open(write(tmp_path_factory.mktemp("zero") / "zero.arrow", clips, info).path)


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., PretrainConfig]:
    """Make the configuration of a run of one epoch that takes a second."""
    return tiny_run_config


@pytest.fixture(scope="session")
def tiny_run(
    tiny_store: Store, tiny_config: Callable[..., PretrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of one epoch on `tiny_store` without text; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    loop.pretrain(tiny_config(knn_every=1), tiny_store, out)
    return out


@pytest.fixture(scope="session")
def text_run(
    tiny_store: Store, tiny_config: Callable[..., PretrainConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of one epoch on `tiny_store` with text; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "text"
    with faked_text(tmp_path_factory.mktemp("cache")):
        loop.pretrain(tiny_config(text="minilm"), tiny_store, out)
    return out


@pytest.fixture(scope="session")
def zero_shot_run(
    zero_shot_store: Store,
    tiny_config: Callable[..., PretrainConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of one epoch on `zero_shot_store` that leaves five classes out; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "zero-shot"
    config = tiny_config(batch_size=11, text="minilm", split=SplitConfig(zero_shot="22/5", part="train"))
    with faked_text(tmp_path_factory.mktemp("cache")):
        loop.pretrain(config, zero_shot_store, out)
    return out
