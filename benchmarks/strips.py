"""The picture of MICA beside the classics: what every training reached by both linear probes."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from benchmarks.figures import Figures
from benchmarks.methods import PROBES
from mica.comparison.page import KINDS
from mica.report.figures.canvas import styled
from mica.report.figures.standings import Strip, draw_strips
from mica.report.words import DATASETS


@styled
def figure(found: Figures) -> Figure:
    """A panel a probe, a row a method, a dot a training."""
    rows: list[dict[str, Any]] = found["rows"]
    drawn = Figure(figsize=(9, 1.5 + 0.26 * len(rows)), layout="constrained")
    panels = drawn.subplots(1, len(PROBES), sharex=True, sharey=True)
    for axes, probe in zip(panels, PROBES, strict=True):
        draw_strips(
            axes, [Strip(row["method"], KINDS[row["supervision"]], row["top1"][probe]) for row in rows]
        )
        axes.set(title=probe)
    drawn.suptitle(f"{DATASETS.get(found['dataset'], found['dataset'])}, {found['split']}", x=0.01, ha="left")
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, handletextpad=0.3
    )
    return drawn
