"""Whether pretraining in bfloat16, with the kernels where they run, ends as accurate as in float32 without them.

    mica prepare nw-ucla --raw DIR --out nw-ucla.arrow
    python -m benchmarks.precision --data nw-ucla.arrow          about an hour of one core
    python -m benchmarks.precision --data nw-ucla.arrow --keep   into the results: docs/performance.md has the table

A recipe is trained both ways from the same seeds and probed alike. Nothing is chosen by what comes out. Trainings that
are in --out already are taken as they are, and one that was cut goes on.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from benchmarks import figures
from benchmarks.figures import Figures
from benchmarks.results import RESULTS, stamp, this_device
from mica_kernels.backend import VARIABLE

FILE = "precision.json"
COMMAND = "python -m benchmarks.precision --data nw-ucla.arrow --config {recipe} --keep"
RECIPE, SEEDS = "mica/nw-ucla", 3
WAYS = {"float32": "reference", "bfloat16": "auto"}
"""Number format of the encoder, and implementation of the operators."""
PROTOCOLS = ("linear", "knn")


def measure(data: Path, out: Path, recipe: str = RECIPE, seeds: int = SEEDS) -> Figures:
    """The scores of every run, and where and with what they were made."""
    device = this_device()
    runs = [_run(data, out, recipe, way, seed) for seed in range(seeds) for way in WAYS]
    return {**stamp(device), "recipe": recipe, "runs": runs}


def _run(data: Path, out: Path, recipe: str, way: str, seed: int) -> Figures:
    """Train and probe once; what is there of it already is not done again."""
    from mica.configs import load_config
    from mica.data.store import Store
    from mica.evaluation.evaluate import Evaluation
    from mica.training.loop import pretrain

    config = replace(load_config(recipe), precision=way, seed=seed)
    store, run = Store.open(data), out / f"{recipe}-{way}-{seed}"
    with patch.dict(os.environ, {VARIABLE: WAYS[way]}):
        pretrain(config, store, run, resume=True)
        evaluation = Evaluation(run, store)
        results = [evaluation.evaluate(protocol) for protocol in PROTOCOLS]
    scores = {f"{one.protocol}: {score.name}": score.top1 for one in results for score in one.scores}
    return {"way": way, "seed": seed, "scores": scores}


def table(results: Path = RESULTS) -> str:
    """The kept figures in Markdown, a table a device."""
    return figures.kept_table(FILE, COMMAND, _lines, results)


def _lines(found: Figures) -> Iterator[tuple[str, str]]:
    by_way = {way: [run for run in found["runs"] if run["way"] == way] for way in WAYS}
    seeds = len(by_way["float32"])
    yield (
        f"recipe `{found['recipe']}`, top-1 % on the test part",
        f"{seeds} pretrainings each way: mean, each",
    )
    for score in found["runs"][0]["scores"]:
        of = {way: [run["scores"][score] for run in runs] for way, runs in by_way.items()}
        means = {way: statistics.mean(values) for way, values in of.items()}
        cells = [f"{way} {means[way]:.1f} ({', '.join(f'{v:.1f}' for v in of[way])})" for way in WAYS]
        yield score, f"{'; '.join(cells)}; difference {means['bfloat16'] - means['float32']:+.1f}"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, required=True, help="the store of the recipe's data set")
    made.add_argument("--config", default=RECIPE, help=f"the recipe (default: {RECIPE})")
    made.add_argument(
        "--out", type=Path, default=Path("runs/precision"), help=f"runs and {FILE} (default: runs/precision)"
    )
    made.add_argument("--keep", action="store_true", help=f"write results/<device>/{FILE}")
    return made


def main() -> None:
    parsed = parser().parse_args()
    found = measure(parsed.data, parsed.out, parsed.config)
    print(figures.table(found, COMMAND, _lines))
    figures.write(parsed.out / FILE, found)
    if parsed.keep:
        figures.keep(FILE, found)


if __name__ == "__main__":
    main()
