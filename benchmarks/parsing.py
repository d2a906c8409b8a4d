"""How fast raw files are read: ours, the peers' way, and NumPy's bare turning of text into numbers.

    python -m benchmarks.parsing                                  a few megabytes of each kind, a table
    python -m benchmarks.parsing --megabytes 50 --json rates.json

Everything reads the same texts from memory on one core, in turns, and must give the same coordinates first. Times
are of the processor, so that other work on the machine counts for little. The peers' way is that of CTR-GCN, pyskl
and their forerunners, written anew from what it does.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.raw_files import make_ntu, make_pku, ntu_text, pku_text
from mica.data.formats.ntu_text import parse, parse_by_line
from mica.data.formats.pku_text import parse_video, parse_video_by_line

Reader = Callable[[bytes], Any]

BODY_KEYS = (
    "bodyID", "clipedEdges", "handLeftConfidence", "handLeftState", "handRightConfidence", "handRightState",
    "isResticted", "leanX", "leanY", "trackingState",
)  # fmt: skip
JOINT_KEYS = (
    "x", "y", "z", "depthX", "depthY", "colorX", "colorY", "orientationW", "orientationX", "orientationY",
    "orientationZ", "trackingState",
)  # fmt: skip


def peers_ntu(text: bytes) -> dict[str, Any]:
    """Line by line, every field of every body and joint as a float in a dictionary."""
    file = io.StringIO(text.decode())
    sequence: dict[str, Any] = {"numFrame": int(file.readline()), "frameInfo": []}
    for _ in range(sequence["numFrame"]):
        frame: dict[str, Any] = {"numBody": int(file.readline()), "bodyInfo": []}
        for _ in range(frame["numBody"]):
            fields = file.readline().split()
            body: dict[str, Any] = {key: float(field) for key, field in zip(BODY_KEYS, fields, strict=False)}
            body["numJoint"] = int(file.readline())
            body["jointInfo"] = []
            for _ in range(body["numJoint"]):
                fields = file.readline().split()
                body["jointInfo"].append(
                    {key: float(field) for key, field in zip(JOINT_KEYS, fields, strict=False)}
                )
            frame["bodyInfo"].append(body)
        sequence["frameInfo"].append(frame)
    return sequence


def peers_ntu_points(text: bytes) -> np.ndarray:
    """What peers read, as x, y and z in the order of the file."""
    bodies = [body for frame in peers_ntu(text)["frameInfo"] for body in frame["bodyInfo"]]
    return np.array([[[joint[axis] for axis in "xyz"] for joint in body["jointInfo"]] for body in bodies])


def our_ntu_points(text: bytes) -> np.ndarray:
    """What we read, in the order of a file of one body."""
    (track,) = parse(text, "generated").tracks
    return track.joints


def peers_pku(text: bytes) -> np.ndarray:
    """Row by row, as most peers do."""
    return np.array(
        [[float(word) for word in line.split()] for line in io.StringIO(text.decode())], np.float32
    )


def bare(text: bytes) -> np.ndarray:
    """Text into numbers, whatever they mean."""
    return np.fromstring(text, sep=" ")


NTU: dict[str, Reader] = {
    "ours": lambda text: parse(text, "generated"),
    "ours, line by line": lambda text: parse_by_line(text, "generated"),
    "peers, dictionaries": peers_ntu,
    "NumPy, bare": bare,
}
PKU: dict[str, Reader] = {
    "ours": lambda text: parse_video(text, "generated"),
    "ours, line by line": lambda text: parse_video_by_line(text, "generated"),
    "peers, row by row": peers_pku,
    "peers, np.loadtxt": lambda text: np.loadtxt(io.BytesIO(text), dtype=np.float32),
    "NumPy, bare": bare,
}


def ntu_texts(size: float) -> list[bytes]:
    """Clips of one body and 80 frames, as most are, of so many bytes together."""
    rng = np.random.default_rng(0)
    texts: list[bytes] = []
    while sum(map(len, texts)) < size:
        plain = ntu_text(make_ntu("one", rng, 80), rng)
        texts.append(plain.replace(b"-1.#IND", b"0"))  # which the peers and NumPy cannot read
    return texts


def pku_texts(size: float) -> list[bytes]:
    """Videos of 500 frames, of so many bytes together."""
    rng = np.random.default_rng(0)
    texts: list[bytes] = []
    while sum(map(len, texts)) < size:
        texts.append(pku_text(make_pku("0002-L", rng, 500).keypoints))
    return texts


def check(ntu: list[bytes], pku: list[bytes]) -> None:
    """Raise unless ours and the peers' give the same coordinates."""
    for text in ntu:
        np.testing.assert_array_equal(our_ntu_points(text), peers_ntu_points(text).astype(np.float32))
    for text in pku:
        np.testing.assert_array_equal(parse_video(text, "generated").reshape(-1, 150), peers_pku(text))


def rates(readers: dict[str, Reader], texts: list[bytes]) -> dict[str, float]:
    """Megabytes a second of processor time of each reader, the median over the texts, which they read in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for text in texts:
        for name, read in readers.items():
            started = time.process_time()
            read(text)
            seconds[name].append((time.process_time() - started) / len(text))
    return {name: 1e-6 / statistics.median(times) for name, times in seconds.items()}


def measure(megabytes: float) -> dict[str, dict[str, float]]:
    """Check, then measure every reader on so many megabytes of each kind of text."""
    ntu, pku = ntu_texts(1e6 * megabytes), pku_texts(1e6 * megabytes)
    check(ntu[:3], pku[:1])
    return {"NTU RGB+D": rates(NTU, ntu), "PKU-MMD": rates(PKU, pku)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=8, help="of each kind of text")
    parser.add_argument("--json", type=Path, help="a file for the rates")
    parsed = parser.parse_args(arguments)
    found = measure(parsed.megabytes)
    for kind, readers in found.items():
        print(f"{kind}, MB/s")
        for name, rate in readers.items():
            print(f"  {name:22} {rate:7.1f}   {readers['ours'] / rate:5.1f} times as long as ours")
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
