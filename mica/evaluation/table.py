"""Results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from mica.evaluation.results import Result

SOURCES = {
    "trained": "pretrained encoder",
    "random": "random encoder",
    "raw": "raw coordinates",
    "turned": "raw, turned to front",
}


def results_table(results: Sequence[Result]) -> str:
    """One line a score: what was scored, by which protocol, top-1 accuracy in percent and its spread over the seeds.

    >>> from mica.evaluation.results import Score
    >>> scores = (Score("SGD", 61.25, spread=0.5, clips=80), Score("logistic regression", 60.0, clips=80))
    >>> place = {"dataset": "nw-ucla", "split": "cross-view", "split_note": "", "class_names": ()}
    >>> seen = {"parts": {}, "validation_subjects": (), "pretrained_on": None, "supervision": "none"}
    >>> print(results_table([Result("linear", "raw", scores, **place, **seen)]))
    features         protocol                     top-1 %          clips
    raw coordinates  linear: SGD                     61.2 ± 0.5       80
    raw coordinates  linear: logistic regression     60.0             80
    """
    lines = [("features", "protocol", f"{'top-1 %':>9}{'clips':>15}")]
    for result in results:
        protocol = f"transfer to {result.dataset}" if result.protocol == "transfer" else result.protocol
        for score in result.scores:
            spread = "" if score.spread is None else f"± {score.spread:.1f}"
            figures = f"{score.top1:>9.1f} {spread:<6}{score.clips:>8}"
            lines.append((SOURCES[result.source], f"{protocol}: {score.name}", figures))
    first, second = (max(len(line[column]) for line in lines) for column in (0, 1))
    return "\n".join(f"{source:<{first}}  {name:<{second}}{figures}" for source, name, figures in lines)
