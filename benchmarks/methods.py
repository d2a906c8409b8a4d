"""MICA beside the classics, and what each of its parts is worth: tables of RESULTS.md.

    python -m benchmarks.methods run --data DIR                 hours on two cores; goes on where it was stopped
    python -m benchmarks.methods run --data DIR --keep          into the results: RESULTS.md has the tables
    python -m benchmarks.methods run --data DIR --only nw-ucla-classics
    python -m benchmarks.methods commands                       prints the commands that `run` goes through

DIR holds nw-ucla.arrow and utd-mhad.arrow, as `mica prepare` makes them.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks import figures
from benchmarks.figures import Figures
from benchmarks.results import RESULTS, stamp, this_device

CLASSICS = ("skeletonclr", "aimclr", "crossclr")
RAW = ("raw coordinates", "raw, turned to the front")
PROBES = ("linear, SGD", "linear, logistic regression")
PLAIN = "encoder.frest=false"
SPARSITY_AND_SPATIAL = (
    "encoder.sparsity=bin",
    "encoder.sparsity=null",
    "encoder.spatial=dft",
    "encoder.spatial=null",
)
"""Asked of `mica` on UTD-MHAD, where mixing time is worth more than on NW-UCLA, and so what FreST does of it."""
POINTWISE = "encoder.temporal_kernel=1"
"""No convolution over time: what is left to mix it is FreST, which then has to start as more than the identity."""
ALONE = f"{POINTWISE}+encoder.start=random+encoder.groups=32"
CHOSEN = {
    ("nw-ucla", "mica"): ("objectives.intra=0.3",),
    ("nw-ucla", "mica-self"): ("heads.pooling=mean",),
    ("utd-mhad", "mica"): (),
    ("utd-mhad", "mica-self"): ("objectives.off_diagonal=0.02",),
}
"""What five trials chose beside the classics: it holds for the parts, which are not tuned again."""
LOSSES = ("objectives.modulation=0", "objectives.inter=0", "objectives.intra=0")


@dataclass(frozen=True)
class Comparison:
    """Methods that are trained and scored on a data set.

    Args:
        name: of the table, and of the file with the results.
        dataset: of the store.
        methods: as `mica compare` takes them.
        against: what is set against what, line by line: a method, what the others are, and which.
        trials: settings of each method that are tried.
        settings: of all methods.
    """

    name: str
    dataset: str
    methods: tuple[str, ...]
    against: tuple[tuple[str, str, tuple[str, ...]], ...]
    trials: int = 5
    settings: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return f"methods-{self.name}.json"

    def command(self, data: Path, out: Path) -> list[str]:
        """What is called for it; its runs lie in a folder of its own."""
        store, runs = data / f"{self.dataset}.arrow", out / self.name
        options = ["--seeds", "3", "--trials", str(self.trials), "--jobs", "2"]
        settings = ["--set", *self.settings] if self.settings else []
        return [
            "mica",
            "compare",
            "--methods",
            *self.methods,
            "--data",
            str(store),
            "--out",
            str(runs),
            *options,
            *settings,
        ]


def _classics(dataset: str) -> Comparison:
    floors = (("raw coordinates, the better", RAW), ("random encoder", ("random encoder",)))
    against = [
        ("mica", "best of the classics", CLASSICS),
        *(("mica", *floor) for floor in floors),
        ("mica", "supervised", ("supervised",)),
        ("mica-self", "best of the classics", CLASSICS),
        *(("mica-self", *floor) for floor in floors),
    ]
    methods = ("mica", "mica-self", *CLASSICS, "supervised")
    return Comparison(f"{dataset}-classics", dataset, methods, tuple(against))


def _parts(dataset: str, method: str, losses: Sequence[str] = (), of_frest: Sequence[str] = ()) -> Comparison:
    """Without FreST, without a loss; and FreST for convolutions over time, also with other sparsity and frequencies."""
    alone, neither = f"{method}+{ALONE}", f"{method}+{POINTWISE}+{PLAIN}"
    of_whole = {change: f"{method}+{change}" for change in (PLAIN, *losses)}
    of_alone = {change: f"{alone}+{change}" for change in of_frest}
    against = (
        *((method, f"`{change}`", (name,)) for change, name in of_whole.items()),
        (method, "the same with FreST for convolutions over time", (alone,)),
        (alone, f"`{POINTWISE}+{PLAIN}`", (neither,)),
        *((alone, f"the same with `{change}`", (name,)) for change, name in of_alone.items()),
    )
    methods = (method, *of_whole.values(), neither, alone, *of_alone.values())
    name = f"{dataset}-parts-of-{method}"
    return Comparison(name, dataset, methods, against, trials=1, settings=CHOSEN[dataset, method])


COMPARISONS = {
    one.name: one
    for one in (
        _classics("nw-ucla"),
        _parts("nw-ucla", "mica", LOSSES),
        _parts("nw-ucla", "mica-self"),
        _classics("utd-mhad"),
        _parts("utd-mhad", "mica", LOSSES, SPARSITY_AND_SPATIAL),
        _parts("utd-mhad", "mica-self"),
    )
}


def run(data: Path, out: Path, names: Sequence[str], keep: bool) -> None:
    """Train and score what is missing, and keep each table's figures as it is through."""
    for name in names:
        one = COMPARISONS[name]
        command = one.command(data, out)
        print("$", shlex.join(command), flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)
        if keep:
            figures.keep(one.file, _outcome(out / one.name))


def _outcome(folder: Path) -> Figures:
    """What a comparison has left, and where."""
    where = stamp(this_device())
    del where["threads"]  # of this process, which trains nothing
    lines = (folder / "comparison.md").read_text().splitlines()
    return {
        **where,
        **json.loads((folder / "comparison.json").read_text()),
        "markdown": lines,
    }


def table(name: str, results: Path = RESULTS) -> str:
    """The kept figures in Markdown: the standings, and what is how much above what."""
    one = COMPARISONS[name]
    return figures.kept(one.file, lambda found: "\n".join(_lines(one, found)), results)


def _lines(one: Comparison, found: Figures) -> Iterator[str]:
    yield figures.origin(found, shlex.join(one.command(Path("DIR"), Path("runs/methods"))))
    yield from ("", *found["markdown"], "")
    means = {row["method"]: {probe: fmean(row["top1"][probe]) for probe in PROBES} for row in found["rows"]}
    lines = []
    for method, what, names in one.against:
        above = (means[method][probe] - max(means[name][probe] for name in names) for probe in PROBES)
        lines.append([f"`{method}` above {what}", *(f"{points:+.1f}" for points in above)])
    yield from figures.markdown(("points", *PROBES), lines)


def listing() -> str:
    """The commands that `run` goes through, in Markdown."""
    lines = [shlex.join(one.command(Path("DIR"), Path("runs/methods"))) for one in COMPARISONS.values()]
    return "\n".join(("```", *lines, "```"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "commands"))
    parser.add_argument("--data", type=Path, default=Path("DIR"), help="directory with the stores")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="runs, a folder a table")
    parser.add_argument(
        "--only", choices=COMPARISONS, nargs="+", default=list(COMPARISONS), help="these alone"
    )
    parser.add_argument("--keep", action="store_true", help="write results/<device>/methods-*.json")
    parsed = parser.parse_args()
    if parsed.action == "run":
        run(parsed.data, parsed.out, parsed.only, parsed.keep)
    else:
        for name in parsed.only:
            print(shlex.join(COMPARISONS[name].command(parsed.data, parsed.out)))


if __name__ == "__main__":
    main()
