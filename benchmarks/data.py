"""Everything that is measured of data: parsing, views of a batch, and a data set of NTU RGB+D 120's size.

    python -m benchmarks.data                           a quarter of an hour on two cores
    python -m benchmarks.data --clips 15000             a first impression
    python -m benchmarks.data --keep                    into the results, from which docs/data.md has its table

Each part is a command of its own, too: `benchmarks.parsing`, `benchmarks.augment`, `benchmarks.preparing`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import figures
from benchmarks.figures import Figures
from benchmarks.results import RESULTS, stamp

FILE, COMMAND = "data.json", "python -m benchmarks.data --keep"


def measure(clips: int, folder: Path | None) -> Figures:
    """All figures, and where and with what they were made."""
    from benchmarks import augment, parsing, preparing  # which need more than a table of what they found

    with tempfile.TemporaryDirectory(dir=folder) as place:
        return {
            **stamp(torch.device("cpu")),
            "parsing": parsing.measure(megabytes=30),
            "augment": augment.rows(count=128, rounds=15),
            "preparing": preparing.measure(Path(place), clips),
        }


def table(results: Path = RESULTS) -> str:
    """The kept figures in Markdown, a table a device."""
    return figures.kept_table(FILE, COMMAND, _lines, results)


def _lines(found: Figures) -> Iterator[tuple[str, str]]:
    for kind, rates in found["parsing"].items():
        ours = rates["ours"]
        for way, rate in rates.items():
            yield (
                f"parsing {kind}, {way}",
                f"{rate:.0f} MB/s a core" + ("" if way == "ours" else f" ({ours / rate:.1f} times as long)"),
            )
    for row in found["augment"]:
        times = f"{row['batched_ms']:.1f} ms; a clip at a time in NumPy {row['per_clip_ms']:.0f} ms"
        yield (
            f"{row['view']} view of {row['clips']} clips (3, 64, 25, 2)",
            f"{times}, {row['ratio']:.1f} times",
        )
    of = found["preparing"]
    yield (
        f"`mica prepare ntu120`, {of['clips_recorded']:,} recordings, {of['raw_gigabytes']:.1f} GB of text",
        f"{of['prepare_seconds']:.0f} s: {of['prepare_clips_per_second']:.0f} clips/s, "
        f"{of['prepare_megabytes_per_second']:.0f} MB/s",
    )
    yield "memory of it, all processes, at most", f"{of['prepare_peak_megabytes']:.0f} MB"
    yield "the store", f"{of['clips_kept']:,} clips, {of['store_gigabytes']:.2f} GB"
    yield "a random clip into an array, warm", f"{of['random_access_microseconds']:.1f} µs"
    yield "loader to (128, 3, 64, 25, 2), random order", f"{of['loader_clips_per_second']:,.0f} clips/s"
    yield (
        "a pretraining step (ST-GCN with FreST, strong views, 128 clips) waits for its clips",
        f"{100 * of['loader_share_of_step']:.2f} % of {of['step_clips_per_second']:.1f} clips/s",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=100_000, help="clips of the large data set")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where to write it; a temporary folder by default"
    )
    parser.add_argument("--keep", action="store_true", help=f"write results/<device>/{FILE}")
    parsed = parser.parse_args()
    found = measure(parsed.clips, parsed.folder)
    print(figures.table(found, COMMAND, _lines))
    if parsed.keep:
        figures.keep(FILE, found)


if __name__ == "__main__":
    main()
