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
from mica.configs import datasets
from mica.data.store import Store
from mica.errors import InputError
from mica.evaluation.validation import read_validated, validation_top1
from mica.training.checks import check_config
from mica.training.config import PretrainConfig

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
        for field, most in (("seeds", math.inf), ("trials", len(grid("mica", 1.0))), ("jobs", math.inf)):
            value = getattr(self, field)
            if not 1 <= value <= most:
                expected = "at least 1" if most == math.inf else f"1 to {most}"
                raise InputError(f"{value}, expected {expected}", field=field)

    def config(self, one: Contestant, seed: int, part: str) -> PretrainConfig:
        """How a contestant is trained on a part of the clips; raises InputError where a setting is out of range."""
        budget = [] if self.budget is None else [f"optimizer.epochs={self.budget}"]
        recipe = self.recipe or Store.open(self.data).info.dataset
        if recipe not in datasets() and not Path(recipe).is_file():
            hint = (
                f"--recipe own, another of {', '.join(datasets())}, or a YAML file of what all methods share"
            )
            raise InputError(f"there is no recipe for '{recipe}'", field="recipe", hint=hint)
        config = one.config(recipe, seed, *self.settings, f"split.part={part}", "knn_every=0", *budget)
        check_config(config)
        return config

    def trials_of(self, method: str) -> list[Job]:
        """Train a method, by each of its settings, without the validation clips, and let those judge it."""
        recipe = self.config(Contestant(method), TUNING_SEED, "fit")
        return [
            Job(
                self.data,
                self.out / method / f"trial-{number}",
                self.config(Contestant(method, settings), TUNING_SEED, "fit"),
                (("validation", ""),),
                settings,
            )
            for number, settings in enumerate(grid(method, recipe.optimizer.lr)[: self.trials])
        ]

    def final(self, one: Contestant, seed: int, trial: Path, judged: Sequence[tuple[str, str]]) -> Job:
        """Train a contestant on the whole training part, validation clips included, and score the test part.

        trial: a run that has not seen the validation clips, on which the settings of the probes are chosen.
        """
        run = self.out / one.folder / f"seed-{seed}"
        return Job(self.data, run, self.config(one, seed, "train"), tuple(judged), one.chosen, trial)


def compare(methods: Sequence[str], plan: Plan) -> Standings:
    """Compare methods, by names as of `Contestant`, and write what came of it beside their runs; return the standings.

    A comparison that was stopped goes on where it was: called again, it takes up every training that is saved and every
    score that is kept. Raises InputError where a name is no method's, a setting is out of range, or a training fails;
    Interrupted where it was asked to stop.
    """
    contestants = read_contestants(methods)
    for one in contestants:
        plan.config(one, TUNING_SEED, "train")  # a setting that is none is told before hours of tuning
    best = _tuned(list(dict.fromkeys(one.method for one in contestants)), plan)
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


def _tuned(methods: Sequence[str], plan: Plan) -> dict[str, Job]:
    """Try the same number of settings of each method; return the trial that did best for each."""
    trials = {method: plan.trials_of(method) for method in methods}
    work_through([trial for of_method in trials.values() for trial in of_method], plan.jobs, "tune")
    return {method: best_trial(of_method) for method, of_method in trials.items()}


def best_trial(trials: Sequence[Job]) -> Job:
    """The one whose mean over both linear probes is best on the validation part, the first among equals."""
    return max(trials, key=lambda trial: validation_top1(read_validated(trial.run)))
