from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica.errors import InputError
from mica.skeleton import LAYOUTS, PARTS, SkeletonLayout, get_layout, layout_from_dict, layout_to_dict

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
REQUIRED, INFERRED = ("name", "joints", "parents"), ("mirror", "center", "parts", "landmarks")


def plain(**changes: Any) -> dict[str, Any]:
    return {**layout_to_dict(get_layout("kinect-20")), **changes}


@every_layout
def test_there_and_back_through_json(layout: SkeletonLayout) -> None:
    back = layout_from_dict(json.loads(json.dumps(layout_to_dict(layout))))
    assert back == layout
    assert back.about == layout.about
    assert list(back.parts) == list(layout.parts) == list(PARTS)
    assert hash(back) == hash(layout)


@every_layout
def test_what_is_left_out_follows_from_the_names(layout: SkeletonLayout) -> None:
    described = layout_to_dict(layout)
    assert layout_from_dict({field: described[field] for field in REQUIRED}) == layout
    for left_out in INFERRED:
        assert (
            layout_from_dict({field: described[field] for field in described if field != left_out}) == layout
        )


@pytest.mark.parametrize("root", [-1, None, 0, "a"])
def test_names_that_say_nothing_need_every_field(root: object) -> None:
    d: dict[str, Any] = {
        "name": "letters",
        "joints": list("abcdefg"),
        "parents": [root, "a", 1, "b", 0, "a", "a"],
        "mirror": [["c", 3], [4, "f"]],
        "center": "b",
        "parts": {
            "right leg": ["f"], "left leg": [4], "torso": ["g", "a", 1], "left arm": ["c"], "right arm": ["d"],
        },
        "landmarks": {"left hip": "e", "right hip": "f", "right shoulder": 3, "left shoulder": "c"},
    }  # fmt: skip
    layout = layout_from_dict(d)
    assert layout.parents == (0, 0, 1, 1, 0, 0, 0)
    assert layout.mirror == (0, 1, 3, 2, 5, 4, 6)
    assert layout.center == 1
    assert list(layout.parts.items()) == [
        ("torso", (6, 0, 1)), ("left arm", (2,)), ("right arm", (3,)), ("left leg", (4,)), ("right leg", (5,)),
    ]  # fmt: skip
    assert layout.landmarks == {"left shoulder": 2, "right shoulder": 3, "left hip": 4, "right hip": 5}
    for left_out in ("center", "parts", "landmarks", "mirror"):
        described = {field: value for field, value in d.items() if field != left_out}
        if left_out == "center":  # needs no names
            assert layout_from_dict(described).center == 0
        else:
            with pytest.raises(InputError) as caught:
                layout_from_dict(described)
            assert caught.value.field in (left_out, "parts")


@pytest.mark.parametrize(
    ("d", "field", "problem"),
    [
        ({}, "name", "missing"),
        ({"name": "x"}, "joints", "missing"),
        ({"name": "x", "joints": []}, "parents", "missing"),
        ({"name": "x", "joints": [], "parents": []}, "joints", "0 joints"),
        (plain(name=3), "name", "3, expected a line of text"),
        (plain(name="  "), "name", "empty"),
        (plain(name="two\nlines"), "name", "line of text"),
        (plain(colour="red"), "colour", "unknown field 'colour'"),
        (plain(joints="head"), "joints", "'head', expected a list"),
        (plain(joints={"head": 0}), "joints", "expected a list"),
        (plain(joints=[*range(20)]), "joints", "0, expected a line of text"),
        (plain(joints=["head"] * 20), "parents", "not a joint"),
        (plain(joints=["head"] * 20, parents=[0] * 20), "joints", "'head'"),
        (plain(joints=["\x00"] * 20), "joints", "line of text"),
        (plain(parents=None), "parents", "None, expected a list"),
        (plain(parents=["tail"] * 20), "parents", "'tail' is not a joint"),
        (plain(parents=[True] * 20), "parents", "True is not a joint"),
        (plain(parents=[1.0] * 20), "parents", "1.0 is not a joint"),
        (plain(parents=[20] * 20), "parents", "20 is not a joint"),
        (plain(parents=[-2] * 20), "parents", "-2 is not a joint"),
        (plain(parents=[[0]] * 20), "parents", "not a joint"),
        (plain(parents=[-1] * 20), "parents", "20 roots"),
        (plain(parents=[-1] * 30), "parents", "not a joint"),
        (plain(parents=[0]), "parents", "1 entries"),
        (plain(parents=[1, 2, 0, *[3] * 17]), "parents", "one tree"),
        (plain(mirror=[4, 8]), "mirror", "4, expected a list"),
        (plain(mirror=[[4, 8, 9]]), "mirror", "expected two joints"),
        (plain(mirror=[[4, 8], [8, 4]]), "mirror", "no other pair"),
        (plain(mirror=[[4, 4]]), "mirror", "expected two joints"),
        (plain(mirror=[["left shoulder", "tail"]]), "mirror", "'tail' is not a joint"),
        (plain(mirror=None), "mirror", "None, expected a list"),
        (plain(center=None), "center", "None is not a joint"),
        (plain(center=-1), "center", "-1 is not a joint"),
        (plain(parts={}), "parts", "expected torso, left arm"),
        (plain(parts=[]), "parts", "expected torso, left arm"),
        (plain(parts={part: 3 for part in PARTS}), "parts", "3, expected a list"),
        (plain(parts={part: [] for part in PARTS}), "parts", "not a partition"),
        (plain(parts={part: [*range(20)] for part in PARTS}), "parts", "not a partition"),
        (plain(landmarks={"left hip": 4}), "landmarks", "right shoulder"),
        (plain(landmarks=7), "landmarks", "expected left shoulder"),
        (plain(about=["x"]), "about", "expected a line of text"),
        (
            plain(joints=[f"joint {v}" for v in range(10**5)], parents=[-1, *[0] * (10**5 - 1)]),
            "joints",
            "100000",
        ),
    ],
)
def test_bad_description_names_its_field(d: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InputError, match="skeleton layout") as caught:
        layout_from_dict(d)
    assert caught.value.field == field
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("d", [None, [], "ntu-25", 3, [("name", "x")]])
def test_a_description_has_fields(d: Any) -> None:
    with pytest.raises(InputError, match="described by fields"):
        layout_from_dict(d)


values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 21)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(PARTS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(PARTS) | st.text(max_size=3), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([*REQUIRED, *INFERRED, "about"]), values)
def test_any_value_of_a_field_is_taken_or_refused(field: str, value: Any) -> None:
    try:
        layout = layout_from_dict(plain(**{field: value}))
    except InputError:
        return
    assert layout_from_dict(layout_to_dict(layout)) == layout
