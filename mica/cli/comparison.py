"""The command `mica compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from mica.cli import parsers

COMPARE = (
    "Compare methods on one data set: the same encoder, clips, views and epochs for all, as many settings of each "
    "tried on the validation part, several seeds, the test part scored once. A method may be changed: "
    "mica+encoder.frest=false. "
    "After Ctrl-C, a kill or a crash, the same command goes on where it was. "
    "mica compare --methods mica mica-self aimclr supervised --data nw-ucla.arrow --out runs/compared"
)


def add_command(commands: Any) -> None:
    """Give `compare` its parser."""
    parser = parsers.make(COMPARE)
    parser.add_argument(
        "--methods",
        type=str,
        nargs="+",
        required=True,
        help="mica, mica-self, skeletonclr, aimclr, crossclr, supervised, or one of them changed: METHOD+SETTING=VALUE",
    )
    parsers.add_data(parser)
    parser.add_argument("--out", type=str, required=True, help="folder of the runs, the table and the page")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each method")
    parser.add_argument("--budget", type=int, default=None, help="epochs of each; by default the recipe's")
    parser.add_argument(
        "--recipe",
        type=str,
        default=None,
        help="a YAML file of your own in place of the data set's recipe; mica/configs/datasets holds examples",
    )
    parser.add_argument(
        "--set",
        type=str,
        nargs="+",
        default=[],
        help="settings of all methods: split.protocol=cross-setup optimizer.lr=0.002",
    )
    parser.add_argument(
        "--trials",
        type=int,
        default=1,
        help="settings of each method to choose from on the validation part, 1 to 5, the recipe's first; with 1 that "
        "alone is trained without that part, to choose the settings of the probes",
    )
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    commands.add_subcommand("compare", parser, help="several methods, tuned and trained alike, in one table")


def compare(options: Namespace) -> None:
    from mica.comparison.compare import Plan, compare
    from mica.comparison.table import markdown

    plan = Plan(
        data=Path(options.data),
        out=Path(options.out),
        seeds=options.seeds,
        budget=options.budget,
        trials=options.trials,
        jobs=options.jobs,
        recipe=options.recipe,
        settings=tuple(options.set),
    )
    standings = compare(options.methods, plan)
    print("\n".join(markdown(standings)))
    print(f"\nalso: {options.out}/comparison.html, comparison.md, comparison.json")
