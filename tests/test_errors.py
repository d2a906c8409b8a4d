"""The message of an InputError says where, what, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from mica.errors import InputError


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({}, "broken"),
        ({"file": Path("a/b.json")}, "a/b.json: broken"),
        ({"clip": "a01", "field": "label"}, "clip a01: field 'label': broken"),
        ({"field": "label", "clip": "a01", "file": "b"}, "b: clip a01: field 'label': broken"),
        ({"hint": "mend it"}, "broken\n  hint: mend it"),
    ],
)
def test_message(where: dict[str, str], message: str) -> None:
    error = InputError("broken", **where)
    assert str(error) == message
    assert isinstance(error, ValueError)


def test_places_can_be_read_back() -> None:
    error = InputError("broken", file="f", clip="c", field="x", hint="h")
    assert (error.problem, error.file, error.clip, error.field, error.hint) == ("broken", "f", "c", "x", "h")
