"""Videos, labels and lists as the owners of PKU-MMD hand them out, made up from a seed, with what is true of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float

from benchmarks.raw_ntu import person


@dataclass(frozen=True)
class PkuVideo:
    """A video: its bodies (T, 2, 25, 3), rows of class (from 1), first and last frame, and who trains."""

    name: str
    keypoints: Float[np.ndarray, "T 2 25 3"]
    actions: list[tuple[int, int, int]]
    parts: dict[str, str]


def make_pku(name: str, rng: np.random.Generator, frames: int = 240, actions: int = 4) -> PkuVideo:
    """A video whose second body comes for its second half, and in which nobody is there in the last frames.

    The first action begins in frame 0, the last but one ends after the video, the last shows nobody.
    """
    keypoints = np.zeros((frames, 2, 25, 3))
    keypoints[: frames - 10, 0] = person(rng, frames - 10)
    keypoints[frames // 2 : frames - 10, 1] = person(rng, frames - 10 - frames // 2)
    bounds = np.linspace(0, frames - 20, actions, dtype=int).tolist()
    rows = [(int(rng.integers(1, 52)), start, stop) for start, stop in pairwise(bounds)]
    rows += [(51, frames - 30, frames + 3), (1, frames - 8, frames - 1)]
    return PkuVideo(name, np.round(keypoints, 6), rows, {})


def pku_text(keypoints: Float[np.ndarray, "T 2 25 3"], end: str = "\n") -> bytes:
    """The text of a video: rows that begin with a space, six decimals."""
    row = " %.6f" * keypoints[0].size + end
    return "".join([row % tuple(frame.ravel()) for frame in keypoints]).encode()


def label_text(video: PkuVideo, end: str = "\n") -> bytes:
    return "".join([f"{number},{start},{stop},2{end}" for number, start, stop in video.actions]).encode()


def list_text(videos: Sequence[PkuVideo], protocol: str, end: str = "\n") -> bytes:
    """A list of videos with the owners' headings, their misspelling included, and their trailing commas."""
    train, test = (
        "".join([f"{video.name}, " for video in videos if video.parts[protocol] == part])
        for part in ("train", "test")
    )
    return end.join(["Training videos: ", train, "Validataion videos: ", test, ""]).encode()


def write_pku(target: Path, videos: int, seed: int = 0, part: int = 1, frames: int = 240) -> list[PkuVideo]:
    """Write videos, labels and lists into a folder as the owners name them, and return what they hold."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(videos):
        number, view = divmod(index, 3)
        name = f"{number + 2:04d}" if part == 1 else f"A{number // 13 + 1:02d}N{number % 13 + 1:02d}"
        video = make_pku(f"{name}-{'LMR'[view]}", rng, frames)
        video.parts["cross-subject"] = "test" if number % 3 == 2 else "train"
        video.parts["cross-view"] = "test" if view == 0 else "train"
        made.append(video)
    skeletons, labels, lists = target / "Data" / "PKU_Skeleton_Renew", target / "Label", target / "Split"
    for folder in (skeletons, labels, lists):
        folder.mkdir(parents=True)
    for video in made:
        (skeletons / f"{video.name}.txt").write_bytes(pku_text(video.keypoints))
        (labels / f"{video.name}.txt").write_bytes(label_text(video, "\r\n"))
    for protocol in ("cross-subject", "cross-view"):
        name = protocol if part == 1 else protocol.replace("-", "_") + "_v2"
        (lists / f"{name}.txt").write_bytes(list_text(made, protocol))
    return made
