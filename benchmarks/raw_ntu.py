"""`.skeleton` files as the owners of NTU RGB+D hand them out, made up from a seed, with what is true of them.

The bodies are those of the synthetic data set, narrow, so that who is noise is known from how a clip was made.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mica.data.synthetic.actions import ACTIONS
from mica.data.synthetic.generate import act
from mica.data.synthetic.sensor import observe
from mica.data.synthetic.subject import Subject

Joints = Float[np.ndarray, "F 25 3"]
Track = tuple[Int[np.ndarray, " F"], Joints]
"""The frames that show a body, and its joints there."""

SHORT, WIDE, CROWD = "track of 11 frames or fewer", "track wider than high", "more than two bodies"


@dataclass(frozen=True)
class NtuClip:
    """What a `.skeleton` file holds: bodies by ID, those to keep, the more moving first, and why others go."""

    num_frames: int
    tracks: dict[int, Track]
    kept: tuple[int, ...] = ()
    cleaned: tuple[str, ...] = ()


def person(rng: np.random.Generator, frames: int, size: float = 1.0) -> Joints:
    """A body that moves, seen by a sensor; metres, x to its left, y up, z the distance, never wider than high."""
    subject = Subject.draw(int(rng.integers(40)), rng)
    moving = act(subject, int(rng.integers(len(ACTIONS))), max(frames, 20), rng)[:frames]
    seen = observe(moving, int(rng.integers(1, 4)), int(rng.integers(1, 4)), rng)
    centre = seen.mean(axis=(0, 1))
    return centre + (seen - centre) * (0.5 * size, size, 0.5 * size)


def statue(rng: np.random.Generator, frames: int, variance: float) -> Joints:
    """A body that only trembles; how far its joints lie apart, in m², is all that it has of motion."""
    body = person(rng, 1)
    centre = body.mean(axis=(0, 1))
    body = centre + (body - centre) * np.sqrt(variance / body.reshape(-1, 3).var(axis=0).sum())
    return body + rng.normal(0, 1e-3, (frames, 25, 3))


def _track(frames: Sequence[int] | Int[np.ndarray, " F"], joints: Joints) -> Track:
    return np.array(frames, np.int64), joints[: len(frames)]


def _ids(rng: np.random.Generator, count: int) -> list[int]:
    """As a Kinect numbers bodies: so large, and so near each other, that a float takes one for the other."""
    first = 72057594037927936 + int(rng.integers(20_000))
    return [first + 1 + index for index in range(count)]


def one(rng: np.random.Generator, frames: int) -> NtuClip:
    (body,) = _ids(rng, 1)
    return NtuClip(frames, {body: _track(range(frames), person(rng, frames))}, (body,))


def gaps(rng: np.random.Generator, frames: int) -> NtuClip:
    """A body that comes late, is lost for a third of the time and comes back; nobody is there meanwhile."""
    (body,) = _ids(rng, 1)
    seen = [*range(1, frames // 3), *range(2 * frames // 3, frames)]
    return NtuClip(frames, {body: _track(seen, person(rng, frames))}, (body,))


def two(rng: np.random.Generator, frames: int) -> NtuClip:
    """The first to come moves less than the second, who comes later and at times stands first in a frame."""
    first, second = _ids(rng, 2)
    late = range(frames // 4, frames)
    tracks = {
        first: _track(range(frames), statue(rng, frames, 0.04)),
        second: _track(late, person(rng, frames)),
    }
    return NtuClip(frames, tracks, (second, first))


def short(rng: np.random.Generator, frames: int) -> NtuClip:
    body, noise = _ids(rng, 2)
    tracks = {
        noise: _track(range(11), person(rng, 11, 2.0)),
        body: _track(range(1, frames), person(rng, frames)),
    }
    return NtuClip(frames, tracks, (body,), (SHORT,))


def wide(rng: np.random.Generator, frames: int) -> NtuClip:
    body, noise = _ids(rng, 2)
    lying = person(rng, frames, 2.0)[..., [1, 0, 2]]
    tracks = {noise: _track(range(frames), lying), body: _track(range(frames), person(rng, frames))}
    return NtuClip(frames, tracks, (body,), (WIDE,))


def crowd(rng: np.random.Generator, frames: int) -> NtuClip:
    """Everything at once: short and wide noise, and three persons for two places."""
    short_one, small, body, lying, middle = _ids(rng, 5)
    tracks = {
        short_one: _track(range(5), person(rng, 5)),
        small: _track(range(frames), statue(rng, frames, 0.01)),
        body: _track(range(frames), person(rng, frames)),
        lying: _track(range(frames // 2, frames), person(rng, frames)[..., [1, 0, 2]]),
        middle: _track(range(0, frames, 2), statue(rng, frames, 0.04)),
    }
    return NtuClip(frames, tracks, (body, middle), (SHORT, WIDE, CROWD))


def nobody(rng: np.random.Generator, frames: int) -> NtuClip:
    return NtuClip(frames, {})


KINDS: dict[str, tuple[Callable[[np.random.Generator, int], NtuClip], int]] = {
    "one": (one, 32),
    "gaps": (gaps, 3),
    "two": (two, 7),
    "short": (short, 2),
    "wide": (wide, 2),
    "crowd": (crowd, 1),
    "nobody": (nobody, 1),
}
"""How clips are made, and how many of 48 are so: 1.15 bodies in a frame, as in the real set."""


def make_ntu(kind: str, rng: np.random.Generator, frames: int, digits: int = 7) -> NtuClip:
    """A clip of a kind, with the decimal numbers that its text will have; 30 frames or more keep its promise.

    >>> clip = make_ntu("two", np.random.default_rng(0), frames=30)
    >>> clip.num_frames, [list(clip.tracks).index(body) for body in clip.kept]
    (30, [1, 0])
    """
    clip = KINDS[kind][0](rng, frames)
    tracks = {body: (when, _decimal(joints, digits)) for body, (when, joints) in clip.tracks.items()}
    return NtuClip(clip.num_frames, tracks, clip.kept, clip.cleaned)


def _decimal(values: np.ndarray, digits: int) -> np.ndarray:
    return np.char.mod(f"%.{digits}g", values).astype(np.float64)


def ntu_text(clip: NtuClip, rng: np.random.Generator, digits: int = 7, end: str = "\r\n") -> bytes:
    """The text of a `.skeleton` file; odd words are strewn over the columns that nobody reads."""
    bodies: list[list[str]] = [[] for _ in range(clip.num_frames)]
    for body, (when, joints) in clip.tracks.items():
        for frame, lines in zip(when.tolist(), _joint_lines(joints, rng, digits), strict=True):
            header = f"{body} 0 1 1 1 {rng.integers(4)} 0 {rng.normal(0, 0.2):.7g} {rng.normal(0, 0.2):.7g} 2"
            bodies[frame].append(end.join([header, "25", *lines]))
    lines = [str(clip.num_frames)]
    for there in bodies:
        rng.shuffle(there)
        lines += [str(len(there)), *there]
    return (end.join(lines) + end).encode()


def _joint_lines(joints: Joints, rng: np.random.Generator, digits: int) -> Iterator[list[str]]:
    x, y, z = np.moveaxis(joints, 2, 0)
    depth = np.stack([256 + 365 * x / z, 212 - 365 * y / z], axis=2)
    colour = np.stack([960 + 1060 * x / z, 540 - 1060 * y / z], axis=2)
    others = np.concatenate([depth, colour, rng.uniform(-1, 1, (*x.shape, 4))], axis=2)
    words = np.char.mod("%.7g", others)
    odd = rng.random(words.shape) < 0.001
    words[odd] = rng.choice(["-1.#IND", "NaN", "-Infinity", "0"], odd.sum())
    points, states = np.char.mod(f"%.{digits}g", joints), rng.integers(1, 3, (*x.shape, 1)).astype(str)
    for frame in np.concatenate([points, words, states], axis=2).tolist():
        yield [" ".join(fields) for fields in frame]


def ntu_names(count: int) -> Iterator[str]:
    """Names of clips that NTU RGB+D 120 could have: half the actions in setups 1 to 17, half in the others."""
    for index in range(count):
        rest, action = divmod(index, 120)
        rest, camera = divmod(rest, 3)
        rest, replication = divmod(rest, 2)
        first, setups = (1, 17) if action < 60 else (18, 15)
        subject, setup = divmod(rest, setups)
        setup += first
        yield f"S{setup:03d}C{camera + 1:03d}P{subject + 1:03d}R{replication + 1:03d}A{action + 1:03d}"


def write_ntu(
    target: Path, clips: int, seed: int = 0, templates: int = 48, cut: int = 0, mean_frames: int = 80
) -> dict[str, NtuClip]:
    """Write `.skeleton` files into a folder or a `.zip`, and return what is true of each.

    `templates` texts go round under `clips` names: linked in a folder, compressed once for a zip. The last `cut`
    files end in the middle and are not in the result.
    """
    rng, templates = np.random.default_rng(seed), min(templates, clips)
    kinds = [kind for kind, (_, share) in KINDS.items() for _ in range(share)]
    kinds = [kinds[len(kinds) * index // templates] for index in range(templates)]
    made = []
    for index, kind in enumerate(rng.permutation(kinds)):
        frames, digits = max(30, round(mean_frames * rng.lognormal(-0.06, 0.35))), int(rng.integers(6, 10))
        clip = make_ntu(str(kind), rng, frames, digits)
        made.append((clip, ntu_text(clip, rng, digits, "\n" if index % 4 == 3 else "\r\n")))
    names = list(ntu_names(clips))
    texts = [(name, made[index % templates][1]) for index, name in enumerate(names)]
    whole = clips - cut
    texts[whole:] = [(name, text[: 1 + int(rng.integers(len(text) - 2))]) for name, text in texts[whole:]]
    (_into_zip if target.suffix == ".zip" else _into_folder)(target, texts)
    return {name: made[index % templates][0] for index, name in enumerate(names[:whole])}


def _into_folder(target: Path, texts: Sequence[tuple[str, bytes]]) -> None:
    """Two folders, as the two zips of the owners give; equal texts are one file with several names."""
    first: dict[int, Path] = {}
    for folder in ("nturgb+d_skeletons", "nturgb+d_skeletons120"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for name, text in texts:
        path = target / f"nturgb+d_skeletons{'120' if int(name[1:4]) > 17 else ''}" / f"{name}.skeleton"
        if id(text) in first:
            os.link(first[id(text)], path)
        else:
            path.write_bytes(text)
            first[id(text)] = path


def _into_zip(target: Path, texts: Sequence[tuple[str, bytes]]) -> None:
    """As `ZipFile.writestr` does, but each text is compressed and summed up once."""
    packed: dict[int, tuple[bytes, int]] = {}
    with zipfile.ZipFile(target, "w") as archive:
        assert archive.fp is not None
        for name, text in texts:
            if id(text) not in packed:
                packer = zlib.compressobj(1, zlib.DEFLATED, -15)
                packed[id(text)] = packer.compress(text) + packer.flush(), zlib.crc32(text)
            entry = zipfile.ZipInfo(f"nturgb+d_skeletons/{name}.skeleton")
            entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, len(text)
            data, entry.CRC = packed[id(text)]
            entry.compress_size, entry.header_offset = len(data), archive.fp.tell()
            archive.fp.write(entry.FileHeader() + data)
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
        archive.start_dir, archive._didModify = archive.fp.tell(), True
