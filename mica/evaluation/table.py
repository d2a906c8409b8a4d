"""Results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SOURCES = {
    "trained": "pretrained encoder",
    "random": "random encoder",
    "raw": "raw coordinates",
    "turned": "raw, turned to front",
}


def results_table(results: Sequence[dict[str, Any]]) -> str:
    """One line a score: what was scored, by which protocol, top-1 accuracy in percent, on how many clips.

    >>> print(results_table([{"protocol": "knn", "source": "raw", "top1": 61.25, "clips": 80}]))
    features              protocol                          top-1 %   clips
    raw coordinates       knn                                  61.2      80
    """
    lines = [f"{'features':<22}{'protocol':<32}{'top-1 %':>9}{'clips':>8}"]
    for result in results:
        name, features = result["protocol"], SOURCES[result["source"]]
        scores = {name: result}
        if "logistic_regression" in result:
            scores = {f"{name} (SGD)": result, f"{name} (logistic regression)": result["logistic_regression"]}
        if name == "zero-shot" and not result["unseen_classes"]:
            scores = {"prompts of seen classes": result}
        for protocol, score in scores.items():
            lines.append(f"{features:<22}{protocol:<32}{score['top1']:>9.1f}{result['clips']:>8}")
    return "\n".join(lines)
