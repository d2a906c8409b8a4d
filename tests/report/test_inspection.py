"""What `inspect` counts, against counting in loops; and what it warns of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica.data.clip import Clip, StoreInfo
from mica.data.store import Store, write
from mica.report import survey as survey_module
from mica.report.inspection import inspect
from mica.report.survey import Survey, measure, survey
from mica.skeleton import get_layout

LAYOUT = get_layout("kinect-20")
CLASSES = ("wave", "clap", "bow")
MakeStore = Callable[..., Store]


def counted(keypoints: np.ndarray) -> dict[str, object]:
    """The survey of one clip by its definition, value by value in float64."""
    frames, persons = keypoints.shape[:2]
    seen = [[bool(keypoints[t, m].any()) for m in range(persons)] for t in range(frames)]
    whole = [keypoints[t, m] for t in range(frames) for m in range(persons)
             if seen[t][m] and np.isfinite(keypoints[t, m]).all()]  # fmt: skip
    shown = [sum(seen[t][m] for t in range(frames)) for m in range(persons)]
    torsos = []
    for body in np.array(whole, dtype=np.float64).reshape(-1, 20, 3):
        marks = {name: body[joint] for name, joint in LAYOUT.landmarks.items()}
        shoulders = (marks["left shoulder"] + marks["right shoulder"]) / 2
        torsos.append(shoulders - (marks["left hip"] + marks["right hip"]) / 2)
    values = np.concatenate(whole) if whole else None
    return {
        "bodies": sum(n > 0 for n in shown),
        "partly": sum(0 < n < frames for n in shown),
        "seen": sum(shown),
        "unplaced": sum(
            not joint.any()
            for t in range(frames)
            for m in range(persons)
            if seen[t][m]
            for joint in keypoints[t, m]
        ),
        "lost": sum(not any(row) for row in seen),
        "frozen": sum(
            any(seen[t]) and keypoints[t].tolist() == keypoints[t - 1].tolist() for t in range(1, frames)
        ),
        "broken": sum(not np.isfinite(frame).all() for frame in keypoints),
        "torso": np.mean(torsos, axis=0) if torsos else np.full(3, np.nan),
        "length": np.mean([np.linalg.norm(torso) for torso in torsos]) if torsos else np.nan,
        "low": np.full(3, np.inf) if values is None else values.min(axis=0),
        "high": np.full(3, -np.inf) if values is None else values.max(axis=0),
    }


def ragged(shapes: Sequence[tuple[int, int]], seed: int, broken: bool) -> list[np.ndarray]:
    """Clips with lost bodies, joints at the origin, frames that repeat and, if wished, values that are not finite."""
    random, clips = np.random.default_rng(seed), []
    for frames, persons in shapes:
        clip = random.normal(size=(frames, persons, 20, 3)).astype(np.float32)
        clip[random.random((frames, persons)) < 0.3] = 0
        clip[random.random((frames, persons, 20)) < 0.02] = 0
        for t in range(1, frames):
            if random.random() < 0.3:
                clip[t] = clip[t - 1]
        if broken:
            clip[random.random(clip.shape) < 0.002] = random.choice([np.nan, np.inf, -np.inf])
        clips.append(clip)
    return clips


def assert_counted(found: Survey, clips: Sequence[np.ndarray]) -> None:
    expected = [counted(clip) for clip in clips]
    for column in fields(Survey):
        wanted = np.array([clip[column.name] for clip in expected])
        np.testing.assert_allclose(
            getattr(found, column.name), wanted, rtol=1e-6, atol=1e-9, err_msg=column.name
        )


@settings(max_examples=40, deadline=None)
@given(
    frames=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    persons=st.integers(1, 3),
    seed=st.integers(0, 999),
    broken=st.booleans(),
)
def test_measures_what_loops_count(frames: list[int], persons: int, seed: int, broken: bool) -> None:
    clips = ragged([(n, persons) for n in frames], seed, broken)
    assert_counted(measure(np.concatenate(clips), np.array(frames), LAYOUT), clips)


def test_the_next_clip_is_no_frame_that_repeats() -> None:
    clips = [np.ones((frames, 1, 20, 3), np.float32) for frames in (1, 3, 1)]
    assert_counted(measure(np.concatenate(clips), np.array([1, 3, 1]), LAYOUT), clips)


def test_measures_strided_and_extreme_values() -> None:
    clip = ragged([(5, 4)], 0, broken=False)[0]
    clip[2, 0] *= 1e37
    assert_counted(measure(clip[:, ::2], np.array([5]), LAYOUT), [clip[:, ::2]])


@pytest.fixture
def make_store(tmp_path: Path) -> MakeStore:
    """Write arrays of coordinates as a store."""

    def make(
        arrays: Sequence[np.ndarray], dataset: str = "mine", classes: Sequence[str] = CLASSES, **numbers: int
    ) -> Store:
        clips = (
            Clip(f"clip {i}", array.astype(np.float32), i % len(classes), **{"subject": i % 4 + 1, **numbers})
            for i, array in enumerate(arrays)
        )
        info = StoreInfo(dataset, "kinect-20", tuple(classes), 20.0, source="made up")
        return Store.open(write(tmp_path / "made.arrow", clips, info, overwrite=True).path)

    return make


@pytest.fixture
def make_damaged(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> MakeStore:
    """A store whose file was damaged so that it gives these coordinates, which `write` would refuse."""

    def make(arrays: Sequence[np.ndarray]) -> Store:
        store = make_store([np.ones_like(array) for array in arrays])
        monkeypatch.setattr(store, "keypoints", lambda i: arrays[i].astype(np.float32))
        return store

    return make


def people(clips: int = 8, frames: int = 6, persons: int = 1) -> list[np.ndarray]:
    """Upright bodies of half a metre from hips to shoulders, three metres away, that move a little."""
    stance = np.zeros((20, 3))
    for name, joint in LAYOUT.landmarks.items():
        if "shoulder" in name or "hip" in name:
            stance[joint] = (0.2 if "left" in name else -0.2, 0.3 if "shoulder" in name else -0.2, 0)
    random = np.random.default_rng(0)
    moves = random.normal(scale=0.001, size=(clips, frames, persons, 20, 3))
    return list(stance + moves + (0, 0, 3))


@pytest.mark.parametrize("coordinates_a_block", [1, 700, 4 << 20])
def test_every_clip_is_found_again_whatever_the_blocks(
    make_damaged: MakeStore, monkeypatch: pytest.MonkeyPatch, coordinates_a_block: int
) -> None:
    monkeypatch.setattr(survey_module, "_BLOCK_COORDINATES", coordinates_a_block)
    clips = ragged([(1, 1), (6, 3), (4, 1), (3, 2), (5, 1), (2, 3), (1, 2)], 3, broken=True)
    assert_counted(survey(make_damaged(clips)), clips)


def test_counts_of_a_known_store(make_store: MakeStore) -> None:
    clips = [*people(6, frames=20), *people(2, frames=40, persons=2)]
    clips[0][3:5] = 0
    clips[1][7:9] = 0
    clips[1][15] = 0
    clips[6][:, 1] = 0
    clips[7][10:, 1] = 0
    clips[2][5] = clips[2][4]
    clips[3][1, 0, 0] = 0
    store = make_store(clips, camera=2)
    found = inspect(store)
    assert found.bodies == {1: 7, 2: 1}
    assert found.frames.tolist() == [20] * 6 + [40] * 2
    assert found.class_counts == (3, 3, 2)
    assert found.numbers == {"subjects": (1, 2, 3, 4), "cameras": (2,), "setups": (0,), "replications": (0,)}
    assert found.size == store.path.stat().st_size
    assert {what: (a.count, a.total, a.clips, a.worst) for what, a in found.missing.items() if a.count} == {
        "frames that show no body": (5, 200, 2, "clip 1"),
        "bodies lost in part of their clip": (3, 9, 3, "clip 0"),
        "bodies never seen in their clip": (1, 10, 1, "clip 6"),
        "joints at the origin in bodies seen": (1, 205 * 20, 1, "clip 3"),
        "frames that repeat the one before": (1, 200, 1, "clip 2"),
    }
    assert found.torso == pytest.approx(0.5, abs=0.01)
    np.testing.assert_allclose(found.low, (-0.2, -0.2, 0), atol=0.01)
    np.testing.assert_allclose(found.high, (0.2, 0.3, 3), atol=0.01)
    assert found.splits == {"cross-subject": "4 / 4; 2 of those that train validate"}
    assert found.warnings == ()
    text = str(found)
    for line in (
        "bodies          1 in 7 clips, 2 in 1 clip",
        "length          20 / 20 / 40 frames, 1.0 / 1.0 / 2.0 s (shortest / median / longest)",
        "subjects        4: 1 to 4",
        "setups          not given",
        "classes         3, all with clips",
        "missing         frames that show no body: 5 of 200 (2.5 %) in 2 clips, most in clip 1",
        "warnings        none",
    ):
        assert line in text.splitlines()
    bars = [line.split() for line in text.splitlines() if "####" in line]
    assert [bar[-1] for bar in bars] == ["6", "2"]
    assert [len(bar[-2]) for bar in bars] == [40, 14]


def turned(clips: list[np.ndarray], order: Sequence[int], signs: Sequence[int]) -> list[np.ndarray]:
    return [clip[..., list(order)] * np.array(signs) for clip in clips]


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (
            1000.0,
            "500 m apart in the typical clip, expected 0.3 to 0.8 m; the numbers look like millimetres.",
        ),
        (100.0, "numbers look like centimetres"),
        (0.55, "m apart in the typical clip"),
        (1.7, "m apart in the typical clip"),
        (1e-3, "unit is likely wrong"),
        (1e6, "unit is likely wrong"),
    ],
)
def test_warns_of_other_units(make_store: MakeStore, scale: float, words: str) -> None:
    (warning,) = inspect(make_store([clip * scale for clip in people()])).warnings
    assert words in warning
    assert warning.endswith("Prepare the store again with the right unit.")


@pytest.mark.parametrize("scale", [0.61, 1.0, 1.59])
def test_children_and_giants_are_people(make_store: MakeStore, scale: float) -> None:
    assert not inspect(make_store([clip * scale for clip in people()])).warnings


@pytest.mark.parametrize(
    ("order", "signs", "words"),
    [
        ((0, 1, 2), (1, -1, -1), "-y seems to point up"),
        ((0, 2, 1), (1, -1, 1), "; z seems to point up"),
        ((1, 0, 2), (-1, 1, 1), "-x seems to point up"),
    ],
)
def test_warns_where_y_is_not_up(
    make_store: MakeStore, order: Sequence[int], signs: Sequence[int], words: str
) -> None:
    (warning,) = inspect(make_store(turned(people(), order, signs))).warnings
    assert words in warning


def test_few_who_lie_down_are_no_cause_for_warning(make_store: MakeStore) -> None:
    clips = people(9)
    assert not inspect(make_store(turned(clips[:4], (1, 0, 2), (1, 1, 1)) + clips[4:])).warnings


def test_bodies_without_extent_are_small_and_have_no_top(make_store: MakeStore) -> None:
    (warning,) = inspect(make_store([np.ones((3, 1, 20, 3))] * 8)).warnings
    assert "0 m apart" in warning


def test_a_store_of_nothing_but_defects(make_damaged: MakeStore) -> None:
    clips = [np.zeros((4, 1, 20, 3)) for _ in range(8)]
    clips[5][2, 0, 7, 1] = np.nan
    found = inspect(make_damaged(clips))
    broken, empty = found.warnings
    assert broken.startswith("1 clip with values that are not finite, the first is clip 5:")
    assert empty.startswith("7 clips with no body in any frame, the first is clip 0:")
    assert found.bodies == {0: 7, 1: 1}
    assert np.isnan(found.torso)
    assert "no whole body" in str(found)


def test_warns_of_protocols_that_do_not_fit(make_store: MakeStore) -> None:
    (warning,) = inspect(make_store(people(), "utd-mhad")).warnings
    assert warning.startswith("Protocol cross-subject has other counts than published")
    found = inspect(make_store(people(), subject=2))
    assert found.warnings[0].startswith("Protocol cross-subject cannot be used here: ")
    assert found.splits == {"cross-subject": "0 / 8"}


def test_warns_of_persons_that_are_not_used(make_store: MakeStore) -> None:
    assert not inspect(make_store(people(8, persons=2))).warnings
    (warning,) = inspect(make_store([*people(6), *people(2, persons=3)])).warnings
    assert warning.startswith(
        "2 clips with more than 2 persons, the first is clip 6: only the first 2 of each"
    )
    assert "put those first in the raw files" in warning


def test_text_fits_a_terminal_whatever_the_names(make_store: MakeStore) -> None:
    odd = ["\x1b[2Jred", "two\nlines", "endless" * 30, "half \ud800"]
    classes = [f"class {i}" for i in range(33)] + odd + [f"class {i}" for i in range(33, 116)]
    clips = people(400, frames=2)
    store = make_store(clips[:-7], classes=classes)
    store.names[:] = "n" * store.names.dtype.itemsize
    text = str(inspect(store))
    assert all(len(line) < 100 and line.isprintable() for line in text.splitlines())
    assert "120, all with clips" in text
    assert "the smallest:" in text
    assert all(clean in text for clean in ("?[2Jred", "two?lines", "endless ...", "half ?"))
    shown = [line for line in text.splitlines() if " class " in line or "endless" in line or "?" in line]
    assert len(shown) == 10


def test_many_classes_the_smallest_the_largest_and_the_empty(make_store: MakeStore) -> None:
    classes = [f"class {i}" for i in range(40)]
    store = make_store(people(60, frames=1), classes=classes)
    store.labels[:] = np.repeat(np.arange(20), [1, 1, 1, 1, 1, *[2] * 10, 5, 6, 7, 8, 9])
    lines = str(inspect(store)).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("classes"))
    assert lines[start].split(maxsplit=1)[1] == "40, of which 20 without clips"
    listed = [" ".join(line.split()) for line in lines[start + 1 : start + 13]]
    assert listed[:6] == ["the smallest:", *(f"1 class {i}" for i in range(5))]
    assert listed[6:] == ["the largest:", *(f"{19 - i - 10} class {19 - i}" for i in range(5))]


def test_of_many_classes_only_one_with_clips(make_store: MakeStore) -> None:
    store = make_store(people(), classes=[f"class {i}" for i in range(40)])
    store.labels[:] = 7
    lines = [" ".join(line.split()) for line in str(inspect(store)).splitlines()]
    start = lines.index("the smallest:")
    assert lines[start : start + 4] == ["the smallest:", "8 class 7", "the largest:", "8 class 7"]


def test_synthetic_people_are_sound(tiny_store: Store) -> None:
    found = inspect(tiny_store)
    assert found.warnings == ()
    assert sum(found.class_counts) == sum(found.bodies.values()) == len(tiny_store)
    assert found.splits["cross-subject"].startswith("64 / 64; 16 of")
