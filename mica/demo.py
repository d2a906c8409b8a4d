"""The whole method on made-up motion: data, pretraining, evaluation, report."""

from __future__ import annotations

import os
from dataclasses import replace

from mica.configs import load_config
from mica.data.formats import prepare
from mica.data.store import Store
from mica.evaluation.evaluate import Evaluation
from mica.evaluation.table import results_table
from mica.files import refuse_existing
from mica.report import write_report
from mica.training.loop import pretrain


def demo(out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a synthetic store, a run and its report into `out` and print the results.

    Raises InputError where `out` exists and may not be overwritten.
    """
    folder = refuse_existing(out, overwrite)
    data, run = folder / "synthetic.arrow", folder / "run"
    print("1/4  synthetic motion: 16 everyday actions by 12 virtual people")
    print(prepare("synthetic", None, data, overwrite=overwrite))
    store = Store.open(data)
    print(
        "\n2/4  pretraining on half of the people; the bar shows the kNN accuracy on people held out from it"
    )
    pretrain(load_config("mica/synthetic"), store, run, overwrite=overwrite)
    print("\n3/4  evaluation on the other half of the people")
    evaluation = Evaluation(run, store)
    results = [evaluation.evaluate("linear", source) for source in ("turned", "random", "trained")]
    results += [evaluation.evaluate("knn", source) for source in ("turned", "random", "trained")]
    results.append(evaluation.evaluate("zero-shot"))
    print("\n4/4  report")
    report = write_report(run, store, folder / "report.html")
    quoted = [replace(result, scores=result.scores[:1]) for result in results]
    print(f"\n{results_table(quoted)}\n\nreport: {report}")
