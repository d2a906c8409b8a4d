"""Pretraining and every protocol on NW-UCLA and UTD-MHAD: tables of RESULTS.md.

    python -m benchmarks.accuracy run --raw DIR --out runs/accuracy     prepares, trains what is missing, evaluates
    python -m benchmarks.accuracy keep --out runs/accuracy              into the results: RESULTS.md has the tables
    python -m benchmarks.accuracy commands                              prints the commands that `run` goes through

DIR holds nw_ucla/ and utd_mhad/ with the files as released. `run` can be stopped and started again: it takes up a
finished training and a finished evaluation as they are.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import figures
from benchmarks.figures import Figures, markdown
from benchmarks.results import RESULTS, stamp, this_device

if TYPE_CHECKING:
    from mica.evaluation.features import Source
    from mica.evaluation.results import Score

FILE = "accuracy.json"
COMMAND = "python -m benchmarks.accuracy run --raw DIR"
PROTOCOLS = {"nw-ucla": "cross-view", "utd-mhad": "cross-subject"}
STREAMS = ("joint", "bone", "motion")
PLAIN = ("--encoder.frest", "false")

Top1 = tuple[float, float | None]
"""Percent, and their standard deviation where there is one."""


@dataclass(frozen=True)
class Training:
    """A run: its name under `out`, its data set, and how `mica pretrain` makes it."""

    run: str
    dataset: str
    recipe: str
    options: tuple[str, ...] = ()

    def command(self, out: Path) -> list[str]:
        data, run = str(out / f"{self.dataset}.arrow"), str(out / self.run)
        return ["mica", "pretrain", "--config", self.recipe, "--data", data, "--out", run, *self.options]


@dataclass(frozen=True)
class Row:
    """A line of a table of features: the run, and which of its features."""

    title: str
    run: str
    features: Source = "trained"


def run_name(dataset: str, stream: str = "joint") -> str:
    """What the language-supervised run of a stream is called."""
    return f"{dataset}-language" + ("" if stream == "joint" else f"-{stream}")


def _stream_options(stream: str) -> tuple[str, ...]:
    """Joints, of which the encoder makes bones and motion; or one of these as they are."""
    options = ("--preprocessing.stream", stream)
    return options if stream == "joint" else (*options, "--encoder.inputs", "[joint]")


def trainings() -> list[Training]:
    """Every run that the tables need."""
    runs = []
    for dataset in PROTOCOLS:
        runs += [
            Training(run_name(dataset, stream), dataset, f"mica/{dataset}", _stream_options(stream))
            for stream in STREAMS
        ]
        runs.append(Training(f"{dataset}-self", dataset, f"mica-self/{dataset}"))
    runs.append(Training("nw-ucla-language-plain", "nw-ucla", "mica/nw-ucla", PLAIN))
    runs.append(Training("nw-ucla-self-plain", "nw-ucla", "mica-self/nw-ucla", PLAIN))
    runs.append(
        Training("utd-mhad-language-22-5", "utd-mhad", "mica/utd-mhad", ("--split.zero_shot", "22/5"))
    )
    return runs


def rows_of(dataset: str) -> list[Row]:
    """The features of a data set; the floors use the preprocessing and the encoder of the first training."""
    language = run_name(dataset)
    rows = [
        Row("raw coordinates, as recorded", language, "raw"),
        Row("raw coordinates, turned to the front", language, "turned"),
        Row("random encoder", language, "random"),
        Row("self-supervised", f"{dataset}-self"),
        Row("language-supervised", language),
    ]
    if dataset == "nw-ucla":
        plain = "nw-ucla-language-plain"
        rows += [
            Row("random encoder, no FreST", plain, "random"),
            Row("self-supervised, no FreST", "nw-ucla-self-plain"),
            Row("language-supervised, no FreST", plain),
        ]
    return rows


def evaluations(dataset: str, out: Path) -> Iterator[tuple[list[str], Path]]:
    """The commands that score the runs of a data set, each with the last file that it writes."""
    from mica.evaluation.results import result_file

    other = next(name for name in PROTOCOLS if name != dataset)
    whole = {run_name(dataset), f"{dataset}-self"}
    data, beside = ["--data", str(out / f"{dataset}.arrow")], ["--transfer-to", str(out / f"{other}.arrow")]

    def evaluate(protocol: str, run: str, *options: str) -> list[str]:
        return ["mica", "evaluate", protocol, "--run", str(out / run), *data, *options]

    for row in rows_of(dataset):
        if row.features != "trained" or row.run not in whole:
            for protocol in ("linear", "knn"):
                features = [] if row.features == "trained" else ["--features", row.features]
                yield (
                    evaluate(protocol, row.run, *features),
                    result_file(out / row.run, protocol, row.features),
                )
    for protocol in ("retrieval", "finetune", "semi"):
        run = run_name(dataset)
        yield evaluate(protocol, run, "--features", "random"), result_file(out / run, protocol, "random")
    own, language = f"{dataset}-self", run_name(dataset)
    yield evaluate("all", own, *beside), result_file(out / own, "transfer", target=other)
    others = [str(out / run_name(dataset, stream)) for stream in STREAMS[1:]]
    yield evaluate("all", language, *beside, "--with", *others), result_file(out / language, "ensemble")
    if dataset == "utd-mhad":
        run = "utd-mhad-language-22-5"
        yield evaluate("zero-shot", run), result_file(out / run, "zero-shot")


def all_commands(raw: Path, out: Path) -> Iterator[tuple[list[str], Path]]:
    """Every command in order, with the file that shows that it has been run."""
    for dataset in PROTOCOLS:
        folder, store = raw / dataset.replace("-", "_"), out / f"{dataset}.arrow"
        yield ["mica", "prepare", dataset, "--raw", str(folder), "--out", str(store)], store
    for training in trainings():
        yield training.command(out), out / training.run / "checkpoint" / "model.json"
    for dataset in PROTOCOLS:
        yield from evaluations(dataset, out)


def run(raw: Path, out: Path) -> None:
    """Run every command whose result is not there yet; an interrupted training goes on."""
    for command, result in all_commands(raw, out):
        if not result.exists():
            print("$", shlex.join(command), flush=True)
            going_on = ["--resume"] if command[1] == "pretrain" else []
            subprocess.run([sys.executable, "-m", "mica", *command[1:], *going_on], check=True)


def found_in(out: Path) -> Figures:
    """Every figure of the tables, from the evaluation files under `out`, and where they were made."""
    from mica.evaluation.results import read_result, result_file

    sets = {
        dataset: {"features": _features(dataset, out), "protocols": _protocols(dataset, out)}
        for dataset in PROTOCOLS
    }
    result = read_result(result_file(out / "utd-mhad-language-22-5", "zero-shot"))
    unseen = {"classes": list(result.unseen_classes), "variants": [_unseen(score) for score in result.scores]}
    return {**stamp(this_device()), "datasets": sets, "unseen": unseen}


def _features(dataset: str, out: Path) -> Figures:
    """A row for every kind of features."""
    from mica.evaluation.results import read_result, result_file

    rows = []
    for row in rows_of(dataset):
        linear, knn = (
            read_result(result_file(out / row.run, name, row.features)) for name in ("linear", "knn")
        )
        training = _training(out / row.run) if row.features == "trained" else {}
        scores = [_top1(score) for score in (*linear.scores, knn.scores[0])]
        words = linear.supervision == "words"
        rows.append({"features": row.title, "words": words, "scores": scores, **training})
    return {"clips": linear.split_note, "rows": rows}


def _training(folder: Path) -> Figures:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {"epochs": len(records), "minutes": sum(record["seconds"] for record in records) / 60}


def _protocols(dataset: str, out: Path) -> list[Figures]:
    """A row a variant of a protocol: never trained, self-supervised, language-supervised."""
    runs = ((run_name(dataset), "random"), (f"{dataset}-self", "trained"), (run_name(dataset), "trained"))
    columns = [_scores(out / run, source) for run, source in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    return [{"protocol": name, "scores": [column.get(name) for column in columns]} for name in names]


def _scores(run: Path, source: str) -> dict[str, Top1]:
    """Every score of a source, in the order of the protocols."""
    from mica.evaluation.results import PROTOCOLS as ORDER
    from mica.evaluation.results import read_results

    found = sorted(read_results(run), key=lambda result: ORDER.index(result.protocol))
    return {
        f"{'transfer to ' + result.dataset if result.protocol == 'transfer' else result.protocol}: {score.name}": _top1(
            score
        )
        for result in found
        if result.source == source
        for score in result.scores
    }


def _unseen(score: Score) -> Figures:
    return {"variant": score.name, "top1": _top1(score), "clips": score.clips, "measures": score.measures}


def _top1(score: Score) -> Top1:
    return score.top1, score.spread


def table(name: str, results: Path = RESULTS) -> str:
    """The kept figures in Markdown; `name` is one of `TABLES`."""

    def make(found: Figures) -> str:
        return "\n".join((figures.origin(found, COMMAND), "", *TABLES[name](found)))

    return figures.kept(FILE, make, results)


def features_table(of: Figures) -> Iterator[str]:
    heads = (
        "features",
        "text seen",
        "linear, SGD",
        "linear, logistic regression",
        "kNN",
        "epochs",
        "minutes",
    )
    lines = [
        [
            row["features"],
            "labels as words" if row["words"] else "no",
            *map(_cell, row["scores"]),
            str(row.get("epochs", "")),
            f"{row['minutes']:.1f}" if "minutes" in row else "",
        ]
        for row in of["rows"]
    ]
    yield from markdown(heads, lines)
    yield f"\nTraining / test clips: {of['clips']}."


def protocols_table(of: Sequence[Figures]) -> Iterator[str]:
    heads = ("protocol", "random encoder", "self-supervised", "language-supervised")
    yield from markdown(heads, [[row["protocol"], *map(_cell, row["scores"])] for row in of])


def unseen_table(of: Figures) -> Iterator[str]:
    yield f"Never seen in pretraining: {', '.join(of['classes'])}.\n"
    lines = []
    for row in of["variants"]:
        further = ", ".join(f"{name} {value:.1f}" for name, value in row["measures"].items())
        lines.append([row["variant"], _cell(row["top1"]), str(row["clips"]), further])
    yield from markdown(("variant", "top-1", "clips", "further"), lines)


def _cell(score: Top1 | None) -> str:
    if score is None:
        return ""
    return f"{score[0]:.1f}" + ("" if score[1] is None else f" ± {score[1]:.1f}")


TABLES: dict[str, Callable[[Figures], Iterator[str]]] = {
    "nw-ucla-features": lambda found: features_table(found["datasets"]["nw-ucla"]["features"]),
    "nw-ucla-protocols": lambda found: protocols_table(found["datasets"]["nw-ucla"]["protocols"]),
    "utd-mhad-features": lambda found: features_table(found["datasets"]["utd-mhad"]["features"]),
    "utd-mhad-protocols": lambda found: protocols_table(found["datasets"]["utd-mhad"]["protocols"]),
    "utd-mhad-unseen": lambda found: unseen_table(found["unseen"]),
}


def listing() -> str:
    """The commands that `run` goes through, in Markdown."""
    lines = [shlex.join(command) for command, _ in all_commands(Path("DIR"), Path("runs/accuracy"))]
    return "\n".join(("```", *lines, "```"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("run", "keep", "commands"))
    parser.add_argument("--raw", type=Path, default=Path("DIR"), help="directory with nw_ucla/ and utd_mhad/")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"), help="stores and runs")
    arguments = parser.parse_args()
    if arguments.action == "run":
        run(arguments.raw, arguments.out)
    elif arguments.action == "keep":
        figures.keep(FILE, found_in(arguments.out))
    else:
        for command, _ in all_commands(arguments.raw, arguments.out):
            print(shlex.join(command))


if __name__ == "__main__":
    main()
