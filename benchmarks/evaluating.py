"""How long it takes to evaluate by all protocols, and what evaluating a data set of NTU RGB+D 120's size holds.

    python -m benchmarks.evaluating --runs runs/accuracy         NW-UCLA and UTD-MHAD, then the large features
    python -m benchmarks.evaluating --runs runs/accuracy --keep  into the results: docs/evaluation.md has the table

The runs are those of `python -m benchmarks.accuracy run`; copies of them are evaluated. The large features are made up.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from benchmarks import figures
from benchmarks.figures import Figures
from benchmarks.results import RESULTS, stamp

if TYPE_CHECKING:
    from mica.evaluation.features import SplitFeatures

FILE, COMMAND = "evaluating.json", "python -m benchmarks.evaluating --runs runs/accuracy --keep"
SETS = {"nw-ucla": "utd-mhad", "utd-mhad": "nw-ucla"}
NTU120 = (63_026, 50_919)  # training and test clips of cross-subject
WIDTHS = {"AimCLR's encoder": 256, "ours, with parts": 2560}


def measure(runs: Path) -> Figures:
    """All figures, and where and with what they were made."""
    protocols = {dataset: _apart("protocols", str(runs), dataset) for dataset in SETS}
    large = {name: _apart("large", str(width)) for name, width in WIDTHS.items()}
    return {**stamp(torch.device("cpu")), "protocols": protocols, "large": large}


def _apart(*arguments: str) -> Figures:
    """Measure in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.evaluating", "--part", *arguments]
    found: Figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def protocols(runs: Path, dataset: str) -> Figures:
    """Seconds of each protocol over a copy of the joint stream's run, loading included."""
    from benchmarks.accuracy import STREAMS, run_name
    from mica.data.store import Store
    from mica.evaluation.evaluate import Evaluation
    from mica.evaluation.suite import evaluate_all

    names = [run_name(dataset, stream) for stream in STREAMS]
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        joint, *others = (Path(shutil.copytree(runs / name, Path(folder, name))) for name in names)
        start = time.perf_counter()
        evaluation = Evaluation(joint, Store.open(runs / f"{dataset}.arrow"))
        target = Store.open(runs / f"{SETS[dataset]}.arrow")
        for result in evaluate_all(evaluation, transfer_to=target, others=others):
            now = time.perf_counter()
            seconds[result.protocol], start = now - start, now
    return {"seconds": seconds, "total": sum(seconds.values()), "peak_megabytes": _memory("VmHWM") / 1e6}


def large(width: int) -> Figures:
    """Seconds of each protocol on features of NTU-120's number, and by how much memory grew, in sizes of them."""
    for work in _works(_made_up_features((240, 240), width)).values():
        work()  # loads the libraries, which take what they take whatever the features are
    features = _made_up_features(NTU120, width)
    size = (features.train.nbytes + features.test.nbytes) / 1e6
    before = _memory("VmRSS")
    found = {}
    for name, work in _works(features).items():
        start = time.perf_counter()
        work()
        found[name] = time.perf_counter() - start
    grown = (_memory("VmHWM") - before) / 1e6
    return {"width": width, "megabytes": size, "grown_megabytes": grown, "seconds": found}


def _works(features: SplitFeatures) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    from mica.evaluation.knn import knn_scores
    from mica.evaluation.linear import fit_logistic, fit_sgd
    from mica.evaluation.retrieval import retrieval_scores

    names = tuple(f"class {label}" for label in range(120))
    train, labels, test = features.train, features.train_labels, features.test
    return {
        "retrieval": lambda: retrieval_scores(features, names),
        "knn, one k": lambda: knn_scores({"pooled": features}, names, ks=(1,)),
        "SGD probe, one fit": lambda: fit_sgd(train, labels, 120, lr=0.1).predict(test),
        "logistic regression, one fit": lambda: fit_logistic(
            train, labels, 120, inverse_penalty=1e-3
        ).predict(test),
    }


def _made_up_features(counts: tuple[int, int], width: int) -> SplitFeatures:
    """So many training and test clips, a fifth of the former for validation."""
    from mica.evaluation.features import SplitFeatures

    (train, train_labels), (test, test_labels) = (_made_up(count, width) for count in counts)
    return SplitFeatures(train, train_labels, torch.arange(len(train)) % 5 > 0, test, test_labels)


def _made_up(count: int, width: int) -> tuple[Tensor, Tensor]:
    """Clips of 120 classes around centres of their own."""
    centres = torch.randn(120, width, generator=Generator().manual_seed(0))
    labels = torch.arange(count) % 120
    x = torch.randn(count, width, generator=Generator().manual_seed(count)).mul_(3)
    for label in range(120):
        x[labels == label] += centres[label]
    return x, labels


def _memory(kind: str) -> int:
    """What this process holds now (VmRSS) or has held at most (VmHWM), in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))


def table(results: Path = RESULTS) -> str:
    """The kept figures in Markdown, a table a device."""
    return figures.kept_table(FILE, COMMAND, _lines, results)


def _lines(found: Figures) -> Iterator[tuple[str, str]]:
    for dataset, of in found["protocols"].items():
        each = ", ".join(f"{protocol} {seconds:.0f}" for protocol, seconds in of["seconds"].items())
        yield (
            f"{dataset}, all protocols",
            f"{of['total'] / 60:.1f} minutes, at most {of['peak_megabytes']:.0f} MB",
        )
        yield f"{dataset}, seconds of each", each
    total = sum(of["total"] for of in found["protocols"].values())
    yield "both", f"{total / 60:.1f} minutes"
    for name, of in found["large"].items():
        features = f"{sum(NTU120):,} clips x {of['width']} ({name})"
        times = of["grown_megabytes"] / of["megabytes"]
        yield (
            f"features of {features}: {of['megabytes']:.0f} MB in float32",
            f"evaluating them takes {of['grown_megabytes']:.0f} MB more at most ({times:.1f} times)",
        )
        yield (
            f"seconds at {of['width']}",
            ", ".join(f"{part} {seconds:.0f}" for part, seconds in of["seconds"].items()),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, help="runs and stores of `python -m benchmarks.accuracy run`")
    parser.add_argument("--keep", action="store_true", help=f"write results/<device>/{FILE}")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.part:
        kind, *rest = parsed.part
        found = protocols(Path(rest[0]), rest[1]) if kind == "protocols" else large(int(rest[0]))
        print(json.dumps(found))
        return
    if parsed.runs is None:
        parser.error("--runs is needed: where `python -m benchmarks.accuracy run` put its runs")
    found = measure(parsed.runs)
    print(figures.table(found, COMMAND, _lines))
    if parsed.keep:
        figures.keep(FILE, found)


if __name__ == "__main__":
    main()
