"""FreST's filters and gates in pictures and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mica.evaluation.metrics import ConfusedPair
from mica.report.figures import gates
from mica.report.figures.canvas import Picture
from mica.report.gate_by_class import GateByClass, distances, most_different, stands_out
from mica.report.probe import Gate
from mica.skeleton import SkeletonLayout

_NAMED_JOINTS, _NAMED_PLACES = 5, 3
_MOST_PANELS = 12
_HARDLY_EVER = 0.995  # a gate that lets every joint pass more often than this tells none apart


@dataclass(frozen=True)
class GateView:
    """What all clips have in common; `by_share` says whether joints are told apart by how often they pass.

    `gains` are the least and the greatest of both filters.
    """

    filters: list[Picture]
    body: Picture
    by_share: bool
    gains: tuple[float, float]
    strongest: list[str]
    weakest: list[str]


def gate_view(gate: Gate, pose: Float[np.ndarray, "V 2"], layout: SkeletonLayout) -> GateView:
    """Show the share of passes; where that tells no joint apart, the strength instead."""
    by_share = gate.switches and bool(gate.kept.min() < _HARDLY_EVER)
    values, unit = (
        (100 * gate.kept, "clips and channels in which the joint passes [%]")
        if by_share
        else (gate.strength, "strength of the passed signal (average joint = 1)")
    )
    order = np.argsort(-values, kind="stable")
    digits, percent = (".1f", "\u00a0%") if by_share else (".2f", "")

    def name(joints: Sequence[int]) -> list[str]:
        return [f"{layout.joints[joint]} ({values[joint]:{digits}}{percent})" for joint in joints]

    bound = max(0.01, *(float(np.abs(magnitude - 1).max()) for magnitude in (gate.first, gate.last)))
    filters = [
        gates.filter_map(magnitude, layout, f"Filter of the {which} FreST layer", bound)
        for which, magnitude in (("first", gate.first), ("last", gate.last))
    ]
    return GateView(
        filters,
        gates.body(pose, values, layout, unit, order[:_NAMED_JOINTS].tolist()),
        by_share,
        (min(gate.first.min(), gate.last.min()), max(gate.first.max(), gate.last.max())),
        name(order[:_NAMED_JOINTS].tolist()),
        name(order[: -_NAMED_JOINTS - 1 : -1].tolist()),
    )


@dataclass(frozen=True)
class Contrast:
    """Two classes beside each other: why these, motion and spectra, and `told`: where which of them has more."""

    reason: str
    names: tuple[str, str]
    body: Picture
    map: Picture
    told: list[tuple[str, list[str]]]
    hertz: str


@dataclass(frozen=True)
class ClassGateView:
    """What sets classes apart.

    passing: energy behind the layer over energy before it, percent; `range` is that by joint and frequency.
    kept: how often the gate lets joints pass by class; None where it hardly ever switches one off. panels: of some or
    all of `total` classes, with the `scale` of their colours. hertz: what cycles per clip are in seconds.
    """

    passing: float
    range: tuple[float, float]
    average: Picture
    ratio: Picture
    kept: Picture | None
    contrasts: list[Contrast]
    panels: list[Picture]
    scale: Picture
    total: int
    hertz: str


def class_gate_view(
    gate: Gate,
    pose: Float[np.ndarray, "V 2"],
    layout: SkeletonLayout,
    class_names: Sequence[str],
    confused: ConfusedPair | None,
    labels: Int[np.ndarray, " clips"],
    seconds: Float[np.ndarray, " clips"],
) -> ClassGateView:
    """Show the classes beside the average class, and in pairs: the two that differ most, the two most confused.

    `confused` is the latter, None where nobody knows; `labels` and `seconds` of the clips say how long each lasts.
    """
    found = gate.by_class
    names = [class_names[label] for label in found.labels]
    pairs = _pairs(found, class_names, confused)
    typical = [float(np.median(seconds[labels == label])) for label in found.labels]
    switches = gate.switches and bool(found.kept.min() < _HARDLY_EVER)
    shown = _shown(found, [place for _, pair in pairs for place in pair])
    beside, motion = found.beside_average, found.motion_beside_average
    bound = _bound(beside[shown])
    panels = [
        gates.class_panel(pose, motion[place], beside[place].T, layout, names[place], bound)
        for place in shown
    ]
    ratio = found.ratio
    return ClassGateView(
        passing=100 * float(found.passed.sum() / max(found.entering.sum(), np.finfo(np.float64).tiny)),
        range=(100 * float(ratio.min()), 100 * float(ratio.max())),
        average=gates.energy_map(found.shares.mean(axis=0).T, layout, "What passes, the average class"),
        ratio=gates.ratio_map(ratio.T, layout, "What passes of what enters"),
        kept=gates.kept_by_class(found.kept, names, layout) if switches else None,
        contrasts=_contrasts(found, pairs, names, pose, layout, typical),
        panels=panels,
        scale=gates.times_scale(bound),
        total=len(names),
        hertz=_hertz(float(np.median(seconds)), ratio.shape[0] - 1),
    )


def _pairs(
    found: GateByClass, class_names: Sequence[str], confused: ConfusedPair | None
) -> list[tuple[str, tuple[int, int]]]:
    if len(found.labels) < 2:
        return []
    pairs = [("The two classes that differ most", most_different(found.shares))]
    if confused is not None:
        true, predicted = (
            found.place(class_names.index(name)) for name in (confused.true, confused.predicted)
        )
        if true is not None and predicted is not None:
            pairs.append(("The two classes most often confused", (true, predicted)))
    return pairs


def _contrasts(
    found: GateByClass,
    pairs: Sequence[tuple[str, tuple[int, int]]],
    names: Sequence[str],
    pose: Float[np.ndarray, "V 2"],
    layout: SkeletonLayout,
    seconds: Sequence[float],
) -> list[Contrast]:
    beside, motion, shares = found.beside_average, found.motion_beside_average, found.shares
    bound = _bound(*(beside[one] - beside[other] for _, (one, other) in pairs))
    contrasts = []
    for reason, (one, other) in pairs:
        both = names[one], names[other]
        spectrum, moving = (values[one] - values[other] for values in (beside, motion))
        body = gates.contrast_body(pose, moving, layout, both, bound)
        map_ = gates.contrast_map(spectrum.T, layout, both, bound)
        told = [
            (
                names[more],
                [_place(layout, *place) for place in stands_out(shares[more], shares[less], _NAMED_PLACES)],
            )
            for more, less in ((one, other), (other, one))
        ]
        lengths = (seconds[one], seconds[other])
        told = [(name, places) for name, places in told if places]
        contrasts.append(Contrast(reason, both, body, map_, told, _hertz_of_two(both, lengths)))
    return contrasts


def _place(layout: SkeletonLayout, frequency: int, joint: int, times: float) -> str:
    where = (
        "the average over the clip"
        if frequency == 0
        else f"{frequency} cycle{'s' * (frequency > 1)} per clip"
    )
    return f"{layout.joints[joint]}, {where} ({times:.1f} times)"


def _shown(found: GateByClass, wanted: Sequence[int]) -> list[int]:
    """All classes where they are few; else those that are wanted, then those farthest from the average class."""
    shares = found.shares
    far = distances(np.concatenate([shares, shares.mean(axis=0, keepdims=True)]))[-1, :-1]
    order = [*wanted, *np.argsort(-far, kind="stable").tolist()]
    return sorted(list(dict.fromkeys(order))[:_MOST_PANELS])


def _bound(*ratios: Float[np.ndarray, "K F V"] | Float[np.ndarray, "F V"]) -> float:
    """How far a scale of log2 ratios reaches to hold most of them: from 1, that is half to double, up to 3."""
    if not ratios:
        return 1.0
    values = np.concatenate([np.abs(ratio).ravel() for ratio in ratios])
    return float(np.clip(np.quantile(values, 0.98), 1.0, 3.0))


def _hertz(seconds: float, highest: int) -> str:
    """What a cycle per clip is in the typical clip; a recording of a frame has no duration."""
    if not seconds > 0:
        return "How long clips last is not known, and so not what a cycle per clip is in hertz."
    return (
        f"The typical clip lasts {seconds:.1f} s: 1 cycle per clip is {1 / seconds:.2f} Hz in it, and {highest}, the "
        f"highest shown, are {highest / seconds:.1f} Hz. In a clip half as long they are twice that."
    )


def _hertz_of_two(names: tuple[str, str], seconds: tuple[float, float]) -> str:
    if min(seconds) <= 0:
        return ""
    told = (f"{one:.1f} s in “{name}” ({1 / one:.2f} Hz)" for name, one in zip(names, seconds, strict=True))
    return f"1 cycle per clip takes {' and '.join(told)}."
