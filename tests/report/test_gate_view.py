"""The gate in words and pictures: which joints, classes and pairs are shown, and what is said of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mica.evaluation.metrics import ConfusedPair
from mica.report.figures import gates
from mica.report.figures.canvas import Picture
from mica.report.gate_by_class import GateByClass
from mica.report.gate_view import ClassGateView, class_gate_view, gate_view
from mica.report.probe import Gate
from mica.skeleton import get_layout, standing_pose

LAYOUT = get_layout("kinect-20")
POSE = standing_pose(LAYOUT)
NAMES = tuple(f"class {label}" for label in range(15))
HAND = LAYOUT.joints.index("right hand")


def make_gate(classes: int = 15, kept: float = 0.9, switches: bool = True) -> Gate:
    """Classes of even energy, but for a right hand that class 3 swings twice a clip, and a head that class 5 nods."""
    energy = np.ones((classes, 5, 20))
    if classes > 5:
        energy[3, 2, HAND] = 40
        energy[5, 1, LAYOUT.joints.index("head")] = 10
    by_class = GateByClass(np.arange(classes), 2 * energy, energy, np.full((classes, 20), kept))
    strength = np.linspace(0.5, 1.5, 20)
    return Gate(np.ones((20, 5)), np.ones((20, 3)), np.linspace(1.0, kept, 20), strength, switches, by_class)


def view(gate: Gate, confused: ConfusedPair | None = None, seconds: float = 2.0) -> ClassGateView:
    labels = gate.by_class.labels
    return class_gate_view(gate, POSE, LAYOUT, NAMES, confused, labels, np.full(len(labels), seconds))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are composed but not written, which takes long; the pages' tests write them."""
    monkeypatch.setattr(gates, "to_picture", lambda figure, alt: Picture("", 1, 1, alt))


@pytest.mark.parametrize(
    ("switches", "kept", "by_share"), [(True, 0.9, True), (True, 1.0, False), (False, 0.5, False)]
)
def test_joints_are_told_apart_by_passes_or_else_by_strength(
    switches: bool, kept: float, by_share: bool
) -> None:
    found = gate_view(make_gate(kept=kept, switches=switches), POSE, LAYOUT)
    assert found.by_share == by_share
    assert found.strongest[0] == ("hip centre (100.0\xa0%)" if by_share else "right foot (1.50)")
    assert found.weakest[0] == ("right foot (90.0\xa0%)" if by_share else "hip centre (0.50)")


def test_pairs_say_who_has_more_where() -> None:
    found = view(make_gate(), ConfusedPair("class 2", "class 5", 40.0))
    different, confused = found.contrasts
    assert different.names == ("class 3", "class 5")
    told = dict(different.told)
    # 40 of 139 beside 1 of 109; 10 of 109 beside 1 of 139.
    assert told["class 3"] == ["right hand, 2 cycles per clip (31.4 times)"]
    assert told["class 5"][0] == "head, 1 cycle per clip (12.8 times)"
    assert confused.names == ("class 2", "class 5")
    assert dict(confused.told)["class 5"] == ["head, 1 cycle per clip (9.2 times)"]
    assert "class 3 over motion in class 5" in different.body.alt
    assert "differ most at right hand, 2 cycles per clip, 31 times" in different.map.alt
    assert "by joint: right hand 8.4 times, head " in different.body.alt  # 43 of 139 beside 4 of 109
    assert (
        different.hertz
        == "1 cycle per clip takes 2.0 s in “class 3” (0.50 Hz) and 2.0 s in “class 5” (0.50 Hz)."
    )


def test_what_passes_of_what_enters() -> None:
    found = view(make_gate(classes=2))
    assert (found.passing, found.range) == (50.0, (50.0, 50.0))
    assert "1 cycle per clip is 0.50 Hz" in found.hertz
    assert "4, the highest shown, are 2.0 Hz" in found.hertz


def test_of_many_classes_those_are_shown_that_stand_out() -> None:
    gate = make_gate()
    found = view(gate, ConfusedPair("class 13", "class 14", 40.0))
    assert (len(found.panels), found.total) == (12, 15)
    alts = [panel.alt.split(" beside")[0] for panel in found.panels]
    assert {"class 3", "class 5", "class 13", "class 14"} <= set(alts)
    assert alts == sorted(alts, key=NAMES.index)
    assert len(view(make_gate(classes=2)).panels) == 2


def test_a_gate_that_switches_nothing_off_has_no_picture_of_it() -> None:
    assert view(make_gate(2, kept=0.9)).kept is not None
    assert view(make_gate(2, kept=1.0)).kept is None
    assert view(make_gate(2, kept=0.9, switches=False)).kept is None


def test_one_class_no_second_and_no_duration() -> None:
    found = view(make_gate(classes=1), ConfusedPair("class 0", "class 1", 10.0), seconds=0.0)
    assert found.contrasts == []
    assert len(found.panels) == 1
    assert "not known" in found.hertz
    two = view(make_gate(classes=2), ConfusedPair("class 0", "class 9", 10.0))  # of which there is no clip
    assert len(two.contrasts) == 1


def test_bounds_hold_where_everything_is_the_same() -> None:
    gate = make_gate(classes=3)
    flat = replace(gate, by_class=replace(gate.by_class, passed=np.ones((3, 5, 20))))
    assert all("1.0 times" in panel.alt for panel in view(flat).panels)
