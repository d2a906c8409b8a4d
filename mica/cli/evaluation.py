"""The command `mica evaluate`: a protocol each, or all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from mica.cli import parsers

if TYPE_CHECKING:
    from mica.data.store import Store
    from mica.evaluation.evaluate import Effort, Evaluation
    from mica.evaluation.features import Source
    from mica.evaluation.results import Result

_FEATURES = {
    "trained": "the trained encoder",
    "random": "the same one untrained",
    "raw": "plain coordinates",
    "turned": "those turned to the front by the first frame",
}
_READS, _DRAWS, _TRAINS = "features", "seeds", "training"
# What can be evaluated: its description, and which options it takes.
PROTOCOLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "linear": (
        "A linear classifier on frozen features: the peers' SGD recipe, and logistic regression.",
        (_READS, _DRAWS),
    ),
    "knn": ("The nearest training clips by cosine similarity: 1, 5, 10 and 20 of them.", (_READS,)),
    "retrieval": ("Test clips ask for training clips, the words of each class for test clips.", (_READS,)),
    "finetune": ("The whole encoder trained on, with all labels.", (_TRAINS, _DRAWS)),
    "semi": (
        "The whole encoder trained on, with 1, 5 and 10 % of the labels: of each class, or of all clips.",
        (_TRAINS, _DRAWS),
    ),
    "transfer": ("Another data set, and where it has one another skeleton.", (_TRAINS, _DRAWS)),
    "zero-shot": ("The nearest class by its prompts alone; unseen classes where the run left some out.", ()),
    "ensemble": ("The scores of several runs added up: joint, bone and motion.", ()),
    "all": ("Every protocol that applies, on features that they share.", (_TRAINS, _DRAWS)),
}


def add_command(commands: Any) -> None:
    """Give `evaluate` its parser."""
    evaluate = parsers.make(
        "Score a run. Settings are chosen on validation subjects; the test part is scored once, at the end. "
        "Results lie in RUN/evaluation/."
    )
    commands.add_subcommand("evaluate", evaluate, help="score a run on the test part, once")
    protocols = evaluate.add_subcommands(dest="subcommand", title="protocols")
    for name, (text, options) in PROTOCOLS.items():
        protocol = parsers.make(text)
        parsers.add_run(protocol)
        if name == "transfer":
            parsers.add_data(protocol, "the store to transfer to")
        else:
            parsers.add_data(protocol)
        _add_inputs(protocol, name)
        _add_options(protocol, name, options)
        protocols.add_subcommand(name, protocol, help=text)


def _add_inputs(parser: ArgumentParser, protocol: str) -> None:
    if protocol == "transfer":
        parser.add_argument(
            "--protocol", type=str, default=None, help="what divides that set; by default its first"
        )
    if protocol == "all":
        parser.add_argument(
            "--transfer-to", type=str, default=None, help="another store, to transfer to as well"
        )
    if protocol in ("ensemble", "all"):
        parser.add_argument(
            "--with",
            type=str,
            nargs="+",
            default=[] if protocol == "all" else None,
            required=protocol == "ensemble",
            help="other runs on the same clips, as a rule of the other streams, to fuse with this one",
        )


def _add_options(parser: ArgumentParser, protocol: str, options: tuple[str, ...]) -> None:
    if protocol != "all" and (_READS in options or _TRAINS in options):
        choices = tuple(_FEATURES) if _READS in options else ("trained", "random")
        known = "; ".join(f"{name}: {_FEATURES[name]}" for name in choices)
        parser.add_argument("--features", choices=choices, default="trained", help=known)
    if _DRAWS in options:
        parser.add_argument(
            "--seeds",
            type=int,
            default=None,
            help="repetitions, each with other draws; by default 5 (linear, semi) or 3",
        )
    if _TRAINS in options:
        more = "; more where that makes fewer than 15 steps" if protocol == "semi" else ""
        parser.add_argument(
            "--epochs",
            type=int,
            default=None,
            help=f"of fine-tuning, at most; by default 5, of a random encoder 40{more}",
        )
        parser.add_argument(
            "--lr",
            type=float,
            default=None,
            help="of the encoder, in fine-tuning; by default 0.0001, of a random one 0.01",
        )


def evaluate(options: Namespace) -> None:
    """Evaluate by the protocol that was asked for, print a table and where the results lie."""
    from mica.data.store import Store
    from mica.evaluation.evaluate import Evaluation, transfer

    protocol, chosen = options.subcommand, options[options.subcommand]
    source = chosen.get("features", "trained")
    store, effort = Store.open(chosen.data), _effort(chosen, source)
    if protocol == "transfer":
        _show([transfer(chosen.run, store, chosen.protocol, source, effort)], chosen.run)
        return
    evaluation = Evaluation(chosen.run, store, effort)
    if protocol == "all":
        _evaluate_all(evaluation, chosen)
    elif protocol == "ensemble":
        _show([evaluation.ensemble(chosen["with"])], chosen.run)
    else:
        _show([evaluation.evaluate(protocol, source)], chosen.run)


def _evaluate_all(evaluation: Evaluation, chosen: Namespace) -> None:
    from mica.data.store import Store
    from mica.evaluation.suite import evaluate_all, left_out

    target: Store | None = None if chosen.transfer_to is None else Store.open(chosen.transfer_to)
    inputs: dict[str, Any] = {"transfer_to": target, "others": chosen["with"]}
    results: list[Result] = []
    try:
        results.extend(evaluate_all(evaluation, **inputs))
    finally:  # what was found before an error or Ctrl-C is shown
        if results:
            _show(results, chosen.run)
    for protocol, reason in left_out(evaluation, **inputs).items():
        print(f"left out: {protocol}, since {reason}")


def _effort(chosen: Namespace, source: Source) -> Effort:
    from dataclasses import replace

    from mica.errors import InputError
    from mica.evaluation.evaluate import Effort
    from mica.evaluation.tuning import recipe

    seeds = chosen.get("seeds")
    if seeds is not None and seeds < 1:
        raise InputError(f"{seeds}, expected at least 1", field="seeds")
    given = {name: chosen.get(name) for name in ("epochs", "lr")}
    overridden = {name: value for name, value in given.items() if value is not None}
    return Effort(seeds, replace(recipe(source), **overridden))


def _show(results: list[Result], run: str) -> None:
    from mica.evaluation.table import results_table

    print(results_table(results))
    print(f"results: {Path(run, 'evaluation')}")
