"""What a step, a card, a store and a save come to at many GPUs and many clips: the tables of docs/scaling.md.

    python -m benchmarks.scaling                                  all tables, for 64 GPUs and 10 million clips
    python -m benchmarks.scaling --table thresholds --step-ms 35 --link-gbit 200 --latency-us 8
    python -m benchmarks.scaling --table memory --batch 32768 --micro-batch 512 --card-gb 141
    python -m benchmarks.scaling --write                          into the document; a minute on two cores

Sizes are not typed in. The code of the training step itself runs, forward and backward, on tensors that have a shape
and no memory; what it would hold, save and send is counted on the way. Times follow from these by a model of the
network and by assumptions that are arguments. Nothing here is measured but the table `host`, on this machine's CPU.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from benchmarks.results import HERE
from benchmarks.scaling.breaks import breaks_table
from benchmarks.scaling.corpus import data_table, saving_table
from benchmarks.scaling.host import host_table
from benchmarks.scaling.memory import memory_table
from benchmarks.scaling.plan import Plan
from benchmarks.scaling.sending import communication_table, thresholds_table
from benchmarks.scaling.training import training_table

DOCUMENT = HERE.parent / "docs" / "scaling.md"
MARKED = re.compile(r"(<!-- scaling: (?P<name>[\w-]+) -->\n).*?(<!-- end of scaling -->)", re.DOTALL)

TABLES: dict[str, Callable[[Plan], str]] = {
    "communication": communication_table,
    "thresholds": thresholds_table,
    "memory": memory_table,
    "training": training_table,
    "data": data_table,
    "saving": saving_table,
    "breaks": breaks_table,
    "host": host_table,
}
MEASURED = ("host",)
"""Tables of times, which come out otherwise on another machine."""


def filled(text: str, plan: Plan, names: Sequence[str] = tuple(TABLES)) -> str:
    """A document with these tables; others stay as they are. Raises ValueError for a table that there is not."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"there is no table {name}; there are {', '.join(TABLES)}")
        return f"{match[1]}\n{TABLES[name](plan)}\n\n{match[3]}" if name in names else match[0]

    return MARKED.sub(table, text)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for entry in fields(Plan):
        several = isinstance(entry.default, tuple)
        made.add_argument(
            f"--{entry.name.replace('_', '-')}",
            type=float if several else type(entry.default),
            nargs="+" if several else None,
            default=entry.default,
            metavar="N",
            help=f"{entry.metadata['about']} (default: {_words(entry.default)})",
        )
    made.add_argument("--table", choices=TABLES, nargs="+", default=list(TABLES), help="these alone")
    about = "put the tables into docs/scaling.md, which has those of the defaults"
    made.add_argument("--write", action="store_true", help=about)
    return made


def _words(default: Any) -> str:
    several = default if isinstance(default, tuple) else (default,)
    return " ".join(f"{each:,}" if isinstance(each, int) else f"{each:g}" for each in several)


def main(arguments: Sequence[str] | None = None) -> None:
    parsed = vars(parser().parse_args(arguments))
    chosen, to_write = parsed.pop("table"), parsed.pop("write")
    plan = Plan(**{name: tuple(each) if isinstance(each, list) else each for name, each in parsed.items()})
    if not to_write:
        print("\n\n".join(f"### {name}\n\n{TABLES[name](plan)}" for name in chosen))
    elif plan == Plan():
        DOCUMENT.write_text(filled(DOCUMENT.read_text(), plan, chosen))
    else:
        parser().error("--write is for the defaults: the document says nothing of other assumptions")


if __name__ == "__main__":
    main()
