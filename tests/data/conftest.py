"""Small made-up clips and stores."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mica.data.clip import Clip, StoreInfo
from mica.data.store import Store, write

from .folders import npy


@pytest.fixture
def info() -> StoreInfo:
    return StoreInfo("utd-mhad", "kinect-20", ("wave", "bow", "squat"), 30.0, source="made up")


@pytest.fixture
def make_clip() -> Callable[..., Clip]:
    """Make a clip of random coordinates that its name and shape determine."""

    def make(name: str = "clip", frames: int = 5, persons: int = 1, joints: int = 20, **fields: Any) -> Clip:
        random = np.random.default_rng([frames, persons, *name.encode()])
        keypoints = random.normal(size=(frames, persons, joints, 3)).astype(np.float32)
        return Clip(**{"name": name, "keypoints": keypoints, "label": 0, **fields})

    return make


@pytest.fixture
def make_store(tmp_path: Path, info: StoreInfo) -> Callable[..., Store]:
    """Write clips to a file and open it."""

    def make(clips: list[Clip], store_info: StoreInfo = info) -> Store:
        return Store.open(write(tmp_path / "made.arrow", clips, store_info, overwrite=True).path)

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder: the table, and files by name (bytes, text, or an array that becomes a .npy)."""

    def make(table: str | bytes | None, files: dict[str, Any] | None = None) -> Path:
        root = tmp_path / "mine"
        shutil.rmtree(root, ignore_errors=True)
        for name, content in {"clips.csv": table, **(files or {})}.items():
            if content is None:
                continue
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = npy(content) if isinstance(content, np.ndarray) else content
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        root.mkdir(exist_ok=True)
        return root

    return make
