"""Raw files as the owners of NTU RGB+D and PKU-MMD hand them out, made up from a seed.

python -m benchmarks.raw_files ntu raw.zip --clips 114480      or a folder; few texts under many names
python -m benchmarks.raw_files pku raw --clips 30 --part 2     so many videos
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.raw_ntu import NtuClip, make_ntu, ntu_text, write_ntu
from benchmarks.raw_pku import PkuVideo, label_text, list_text, make_pku, pku_text, write_pku

__all__ = [
    "NtuClip", "PkuVideo", "label_text", "list_text", "make_ntu", "make_pku", "ntu_text", "pku_text", "write_ntu",
    "write_pku",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=("ntu", "pku"))
    parser.add_argument("target", type=Path, help="a folder, for ntu also a .zip")
    parser.add_argument("--clips", type=int, default=1000, help="clips of NTU, videos of PKU-MMD")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", type=int, choices=(1, 2), default=1, help="of PKU-MMD")
    parsed = parser.parse_args()
    if parsed.dataset == "ntu":
        write_ntu(parsed.target, parsed.clips, parsed.seed)
    else:
        write_pku(parsed.target, parsed.clips, parsed.seed, parsed.part, frames=5000)


if __name__ == "__main__":
    main()
