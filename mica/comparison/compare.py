"""From the names of methods to a table: tune each as hard as the others, train it from several seeds, score it once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mica.comparison.contestant import Contestant, grid, read_contestants
from mica.comparison.jobs import Job, work_through
from mica.comparison.page import write_page
from mica.comparison.standings import Standings, read_standings
from mica.comparison.table import write_table
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.validation import read_validated, validation_top1

TUNING_SEED = 0
JUDGED = (("linear", "trained"), ("knn", "trained"))
FLOORS_BY_SEED = (("linear", "random"), ("knn", "random"))
FLOORS = (
    *FLOORS_BY_SEED,
    *((protocol, source) for source in ("raw", "turned") for protocol in ("linear", "knn")),
)


@dataclass(frozen=True)
class Plan:
    """How methods are compared.

    Args:
        data: the store.
        out: OUT/METHOD/seed-0, ...: the runs; OUT/comparison.md, .json and .html: what came of it.
        seeds: how often each method is trained.
        budget: epochs of every training; None for those of the recipe.
        trials: settings of each method that are tried on the validation part, the recipe's own first; 1 tries no other.
        jobs: how many trainings go side by side, sharing the processor's cores out.
        recipe: the name of a data set, or a YAML file for data of one's own, whose settings all methods share; None for
            the store's own data set.
        settings: further ones that all methods share, such as "split.protocol=cross-view".
    """

    data: Path
    out: Path
    seeds: int = 3
    budget: int | None = None
    trials: int = 1
    jobs: int = 1
    recipe: str | None = None
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, most in (("seeds", math.inf), ("trials", len(grid("mica"))), ("jobs", math.inf)):
            value = getattr(self, field)
            if not 1 <= value <= most:
                expected = "at least 1" if most == math.inf else f"1 to {most}"
                raise InputError(f"{value}, expected {expected}", field=field)

    def trial(self, one: Contestant, number: int) -> Job:
        """Train a contestant without the validation clips, and let those judge it."""
        return self._job(one, f"trial-{number}", TUNING_SEED, "fit", (("validation", ""),))

    def final(self, one: Contestant, seed: int, trial: Path, judged: Sequence[tuple[str, str]]) -> Job:
        """Train a contestant on the whole training part, validation clips included, and score the test part.

        trial: its run that has not seen the validation clips, on which the settings of the probes are chosen.
        """
        return replace(self._job(one, f"seed-{seed}", seed, "train", judged), trial=trial)

    def _job(
        self, one: Contestant, name: str, seed: int, part: str, judged: Sequence[tuple[str, str]]
    ) -> Job:
        budget = [] if self.budget is None else [f"optimizer.epochs={self.budget}"]
        recipe = self.recipe or Store.open(self.data).info.dataset
        config = one.config(recipe, seed, *self.settings, f"split.part={part}", "knn_every=0", *budget)
        return Job(self.data, self.out / one.folder / name, config, tuple(judged))


def compare(methods: Sequence[str], plan: Plan) -> Standings:
    """Compare methods, by names as of `Contestant`, and write what came of it beside their runs; return the standings.

    A comparison that was stopped goes on where it was: called again, it takes up every training that is saved and every
    score that is kept. Raises InputError where a name is no method's, a setting is out of range, or a training fails;
    Interrupted where it was asked to stop.
    """
    contestants = read_contestants(methods)
    best = {method: _best_trial(method, plan) for method in _tried(contestants, plan)}
    contestants = [replace(one, chosen=best[one.method].settings) for one in contestants]
    # All is chosen: from here on the validation clips train, too.
    work = [
        plan.final(one, seed, best[one.method].run, JUDGED)
        for seed in range(plan.seeds)
        for one in contestants
    ]
    # What needs no training stands below all: coordinates as they are, and the first contestant's encoder untrained.
    for place in range(0, len(work), len(contestants)):
        floors = FLOORS if place == 0 else FLOORS_BY_SEED
        work[place] = replace(work[place], judged=(*JUDGED, *floors))
    work_through(work, plan.jobs, "train and score")
    standings = read_standings(plan.out, contestants, plan.seeds)
    write_table(standings, plan.out)
    write_page(standings, plan.out)
    return standings


@dataclass(frozen=True)
class Trial:
    """What did best on the validation part: settings of a method, and the run that tried them."""

    settings: tuple[str, ...]
    run: Path


def _tried(contestants: Sequence[Contestant], plan: Plan) -> list[str]:
    """Try the same number of settings of each method that takes part; return the methods."""
    methods = list(dict.fromkeys(one.method for one in contestants))
    work = [
        plan.trial(Contestant(method, settings), number)
        for method in methods
        for number, settings in enumerate(grid(method)[: plan.trials])
    ]
    work_through(work, plan.jobs, "tune")
    return methods


def _best_trial(method: str, plan: Plan) -> Trial:
    """The settings whose mean over both linear probes is best on the validation part, the first among equals."""
    runs = [plan.out / method / f"trial-{number}" for number in range(plan.trials)]
    reached = [validation_top1(read_validated(run)) for run in runs]
    place = reached.index(max(reached))
    return Trial(grid(method)[place], runs[place])
