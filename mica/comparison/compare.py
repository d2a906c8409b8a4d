"""From the names of methods to a table: tune each as hard as the others, train it from several seeds, score it once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mica.comparison.contestant import Contestant, grid, read_contestants
from mica.comparison.job import VALIDATION
from mica.comparison.jobs import Job, work_through
from mica.comparison.page import write_page
from mica.comparison.standings import Standings, read_standings
from mica.comparison.table import write_table
from mica.data.store import Store
from mica.errors import InputError

TUNING_SEED = 0
JUDGED = (("linear", "trained"), ("knn", "trained"))
FLOORS_BY_SEED = (("linear", "random"), ("knn", "random"))
FLOORS = (
    *FLOORS_BY_SEED,
    *((protocol, source) for source in ("raw", "turned") for protocol in ("linear", "knn")),
)


def compare(
    methods: Sequence[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    seeds: int = 3,
    budget: int | None = None,
    trials: int = 1,
    at_once: int = 1,
) -> Standings:
    """Compare methods on a store, and write what came of it into the folder `out`; return the standings.

    A comparison that was stopped goes on where it was: called again, it takes up every training that is saved and every
    score that is kept.

    Args:
        methods: names as of `Contestant`.
        data: the store; its data set has to have recipes.
        out: OUT/METHOD/seed-0, ...: the runs; OUT/comparison.md, .json and .html: what came of it.
        seeds: how often each method is trained.
        budget: epochs of every training; None for those of the data set's recipe.
        trials: settings of each method that are tried on the validation part, the recipe's own first; 1 tries none.
        at_once: how many trainings go side by side, sharing the processor's cores out.

    Raises InputError where a name is no method's, a setting is out of range, or a training fails; Interrupted where it
    was asked to stop.
    """
    data, out = Path(data), Path(out)
    store = Store.open(data)
    contestants = _tuned(read_contestants(methods), store, data, out, budget, trials, at_once)
    jobs = [
        Job(data, _run(out, one, seed), one.config(store.info.dataset, seed, *_final(budget)), JUDGED)
        for seed in range(seeds)
        for one in contestants
    ]
    # What needs no training stands below all: coordinates as they are, and the first contestant's encoder untrained.
    for place in range(0, len(jobs), len(contestants)):
        floors = FLOORS if place == 0 else FLOORS_BY_SEED
        jobs[place] = replace(jobs[place], judged=(*JUDGED, *floors))
    work_through(jobs, at_once, "train and score")
    standings = read_standings(out, contestants, seeds)
    write_table(standings, out)
    write_page(standings, out)
    return standings


def _tuned(
    contestants: list[Contestant],
    store: Store,
    data: Path,
    out: Path,
    budget: int | None,
    trials: int,
    at_once: int,
) -> list[Contestant]:
    """The contestants with the settings that do best on the validation part, the same number tried for each method."""
    names = list(dict.fromkeys(one.method for one in contestants))
    if not 1 <= trials <= len(grid(names[0])):
        raise InputError(f"{trials}, expected 1 to {len(grid(names[0]))}", field="trials")
    if trials == 1:
        return contestants
    tried = {name: [Contestant(name, settings) for settings in grid(name)[:trials]] for name in names}
    jobs = [
        Job(
            data,
            out / name / f"trial-{number}",
            one.config(store.info.dataset, TUNING_SEED, "split.part=fit", *_common(budget)),
            (("validation", ""),),
        )
        for name, candidates in tried.items()
        for number, one in enumerate(candidates)
    ]
    work_through(jobs, at_once, "tune")
    chosen = {name: candidates[best_trial(out / name, trials)].chosen for name, candidates in tried.items()}
    return [replace(one, chosen=chosen[one.method]) for one in contestants]


def best_trial(folder: Path, trials: int) -> int:
    """The number of the trial whose mean over both probes is best on the validation part, the first among equals."""
    found = [
        json.loads((folder / f"trial-{number}" / VALIDATION).read_text())["mean"] for number in range(trials)
    ]
    return found.index(max(found))


def _run(out: Path, one: Contestant, seed: int) -> Path:
    return out / one.name / f"seed-{seed}"


def _final(budget: int | None) -> tuple[str, ...]:
    """All is chosen: the validation clips train, too."""
    return "split.part=train", *_common(budget)


def _common(budget: int | None) -> tuple[str, ...]:
    return ("knn_every=0", *(() if budget is None else (f"optimizer.epochs={budget}",)))
