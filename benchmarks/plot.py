"""Pictures of results: roofline, time against T, memory against N, the training step's waterfall, methods compared."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.results import Row, measured, pick, read, slug
from benchmarks.run import STEP

if TYPE_CHECKING:  # drawing alone needs matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "fused": "#D55E00",
    "dense": "#F0E442",
    "eager": "#0072B2",
    "compiled": "#009E73",
    "circulant": "#CC79A7",
    "chunked": "#56B4E9",
    "open_clip": "#E69F00",
    "lightly": "#333333",
}
"""Okabe and Ito's, which are told apart with any kind of colour vision."""

MARKERS = {"spectral_gate": "o", "info_nce": "s", "similarity_kl": "^"}
STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "benchmarks",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, help="a folder of results")
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder for the pictures, one for each device in it"
    )
    parser.add_argument("--format", choices=("svg", "png"), default="svg")


def main(parsed: argparse.Namespace) -> int:
    """Draw whatever the results have enough rows for, and say where it lies."""
    from matplotlib import rc_context

    from benchmarks import strips

    rows = read(parsed.results)
    with rc_context(STYLE):
        for device in dict.fromkeys(row["device"] for row in rows):
            for name, figure in figures(pick(rows, device=device)):
                save(figure, parsed.out / slug(device) / f"{name}.{parsed.format}")
        for found in comparisons(parsed.results):
            name = f"methods-{found['dataset']}.{parsed.format}"
            save(strips.figure(found), parsed.out / slug(found["device"]) / name)
    return 0


def save(figure: Figure, file: Path) -> None:
    """Write a picture, and say where it lies."""
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {"Date": None} if file.suffix == ".svg" else None  # the same results make the same file
    figure.savefig(file, dpi=110, bbox_inches="tight", metadata=kept)
    print(file)


def comparisons(results: Path) -> Iterable[dict[str, Any]]:
    """MICA beside the classics, as `methods.py` keeps it."""
    for file in sorted(results.rglob("methods-*-classics.json")):
        yield json.loads(file.read_text())


def figures(rows: Sequence[Row]) -> Iterable[tuple[str, Figure]]:
    """Names and figures of one device's rows, of those that there is something to show in."""
    step = pick(rows, operator=STEP)
    for name, wanted, draw in (
        ("roofline", _both(rows), roofline),
        ("time-against-frames", frames_sweep(rows), time_against_frames),
        ("memory-against-rows", rows_sweep(rows), memory_against_rows),
    ):
        if wanted:
            yield name, _figure(draw, wanted)
    if any(True for _ in measured(step)):
        from benchmarks import waterfall

        yield "training", waterfall.figure(step)


def _figure(draw: Callable[[Axes, Sequence[Row]], None], rows: Sequence[Row]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    draw(axes, rows)
    figure.text(
        0, -0.02, f"{rows[0]['device']}, PyTorch {rows[0]['torch']}", color="#666666", fontsize=9, va="top"
    )
    return figure


def _both(rows: Sequence[Row]) -> list[Row]:
    return [row for row in measured(pick(rows, mode="both")) if row.get("flops")]


def frames_sweep(rows: Sequence[Row]) -> list[Row]:
    """Signals that differ in T alone."""
    swept = measured(pick(rows, operator="spectral_gate", mode="both"))
    return [row for row in swept if "sweep-t" in row["case"]]


def rows_sweep(rows: Sequence[Row]) -> list[Row]:
    """Symmetric losses that differ in N = M alone: of the type and width that most have."""
    plain = [
        row
        for row in measured(pick(rows, operator="info_nce", mode="both"))
        if row["size"]["groups"] is None and row["size"]["queue"] is None and row.get("extra_bytes")
    ]
    kinds = Counter((row["size"]["dtype"], row["size"]["width"]) for row in plain)
    most = max(kinds, key=kinds.__getitem__, default=None)
    return [row for row in plain if (row["size"]["dtype"], row["size"]["width"]) == most]


def roofline(axes: Axes, rows: Sequence[Row]) -> None:
    """What every implementation achieves of what the device can, by operations a byte."""
    for row in rows:
        work, rate = row["flops"] / row["bytes"], row["flops"] / (1e-3 * row["times"]["median"])
        colour, marker = COLOURS[row["implementation"]], MARKERS[row["operator"]]
        axes.plot(work, rate / 1e12, color=colour, marker=marker, ls="", ms=7, alpha=0.8, mew=0)
    copy = max(row["copy_rate"] for row in rows)
    rates = {row["size"]["dtype"]: row["matrix_rate"] for row in rows}
    works = [row["flops"] / row["bytes"] for row in rows]
    left = min(*works, *(rate / copy for rate in rates.values())) / 2
    for dtype, rate in rates.items():
        knee = rate / copy
        right = 2 * max(*works, knee)
        axes.plot([left, knee, right], [copy * left / 1e12, rate / 1e12, rate / 1e12], color="#888888", lw=1)
        axes.annotate(f"matmul, {dtype}", (right, rate / 1e12), ha="right", va="bottom", color="#666666")
    label = f"copy, {copy / 1e9:,.0f} GB/s"
    place = {"xytext": (6, 0), "textcoords": "offset points", "va": "top"}
    axes.annotate(label, (left, copy * left / 1e12), color="#666666", **place)
    axes.set(
        xscale="log", yscale="log", xlabel="operations a byte, of what cannot be avoided", ylabel="TFLOP/s"
    )
    axes.set_title("Roofline, forward and backward: grey is what the device was measured to do")
    _legend(axes, rows, {row["operator"]: MARKERS[row["operator"]] for row in rows})


def time_against_frames(axes: Axes, rows: Sequence[Row]) -> None:
    for name, points in _lines(rows, lambda row: row["size"]["shape"][2]):
        times = [row["times"] for _, row in points]
        frames = [at for at, _ in points]
        axes.plot(frames, [each["median"] for each in times], marker="o", color=COLOURS[name], label=name)
        spread = ([each[side] for each in times] for side in ("p20", "p80"))
        axes.fill_between(frames, *spread, color=COLOURS[name], alpha=0.15, linewidth=0)
    size = rows[0]["size"]
    clips, channels, _, joints = size["shape"]
    axes.set(xlabel="frames T", ylabel="milliseconds, forward and backward", ylim=(0, None))
    axes.set_title(f"spectral_gate, {size['dtype']}: {clips} clips, {channels} channels, {joints} joints")
    axes.legend()


def memory_against_rows(axes: Axes, rows: Sequence[Row]) -> None:
    for name, points in _lines(rows, lambda row: row["size"]["rows"]):
        held = [row["extra_bytes"] / 1e6 for _, row in points]
        axes.plot([at for at, _ in points], held, marker="o", color=COLOURS[name], label=name)
    size = rows[0]["size"]
    axes.set(xscale="log", yscale="log", xlabel="N = M", ylabel="MB beyond the inputs, forward and backward")
    axes.set_title(f"info_nce, {size['dtype']}, D = {size['width']}")
    axes.legend()


def _lines(rows: Sequence[Row], at: Callable[[Row], int]) -> Iterable[tuple[str, list[tuple[int, Row]]]]:
    """By implementation, the rows in order."""
    for name in dict.fromkeys(row["implementation"] for row in rows):
        mine = [(at(row), row) for row in pick(rows, implementation=name)]
        yield name, sorted(mine, key=lambda point: point[0])


def _legend(axes: Axes, rows: Sequence[Row], markers: dict[str, str]) -> None:
    """Colours for implementations, shapes for operators."""
    from matplotlib.lines import Line2D

    names = dict.fromkeys(row["implementation"] for row in rows)
    colours = [Line2D([], [], ls="", marker="o", color=COLOURS[name], label=name) for name in names]
    shapes = [
        Line2D([], [], ls="", marker=mark, color="#999999", label=name) for name, mark in markers.items()
    ]
    axes.legend(handles=[*colours, *shapes], loc="center left", bbox_to_anchor=(1, 0.5))
