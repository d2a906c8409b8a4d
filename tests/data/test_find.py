"""Clips found by name, and else by position."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from mica.data.clip import Clip
from mica.data.find import find_clip
from mica.data.store import Store
from mica.errors import InputError


@pytest.fixture
def store(make_clip: Callable[..., Clip], make_store: Callable[..., Store]) -> Store:
    return make_store([make_clip(name) for name in ("alone", "together", "a blink", "1")])


@pytest.mark.parametrize(
    ("wanted", "position"), [("together", 1), ("0", 0), ("2", 2), ("1", 3), ("alone", 0)]
)
def test_finds_clips_by_name_and_else_by_position(store: Store, wanted: str, position: int) -> None:
    assert find_clip(store, wanted) == position


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("togehter", "similar names: together; positions run from 0 to 3"),
        ("ALONE", "positions run from 0 to 3"),
        ("4", "positions run from 0 to 3"),
        ("-1", "positions run from 0 to 3"),
        ("²", "positions run from 0 to 3"),
        ("9" * 5000, "positions run from 0 to 3"),
        ("", "the first is called alone"),
        ("\udcff", "the first is called alone"),
    ],
)
def test_suggests_what_may_have_been_meant(store: Store, wanted: str, hint: str) -> None:
    with pytest.raises(InputError, match=re.escape(hint)) as error:
        find_clip(store, wanted)
    assert error.value.file == store.path


def test_suggests_among_very_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = np.array([f"S{setup:03d}P{person:03d}" for setup in range(100) for person in range(500)])
    monkeypatch.setattr(store, "names", names)
    with pytest.raises(InputError, match=r"similar names: S\d{3}P\d{3}, "):
        find_clip(store, "S042P49")
