"""A layout as plain JSON values, so that a data set or a file of one's own can carry its list of joints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mica.errors import InputError
from mica.skeleton.inference import infer_center, infer_landmarks, infer_mirror, infer_parts
from mica.skeleton.layout import LANDMARKS, PARTS, SkeletonLayout, check_tree, unfit

_REQUIRED = ("name", "joints", "parents")
_OPTIONAL = ("mirror", "center", "parts", "landmarks", "about")


def layout_to_dict(layout: SkeletonLayout) -> dict[str, Any]:
    """Return what `layout_from_dict` takes: strings, lists and dicts, joints by their names.

    >>> from mica.skeleton import get_layout
    >>> plain = layout_to_dict(get_layout("kinect-20"))
    >>> plain["joints"][4], plain["parents"][4], plain["mirror"][0]
    ('left shoulder', 'shoulder centre', ['left shoulder', 'right shoulder'])
    """
    name = layout.joints
    return {
        "name": layout.name,
        "about": layout.about,
        "joints": list(layout.joints),
        "parents": [name[parent] for parent in layout.parents],
        "mirror": [[name[v], name[other]] for v, other in enumerate(layout.mirror) if v < other],
        "center": name[layout.center],
        "parts": {part: [name[v] for v in layout.parts[part]] for part in PARTS},
        "landmarks": {mark: name[layout.landmarks[mark]] for mark in LANDMARKS},
    }


def layout_from_dict(d: Mapping[str, Any]) -> SkeletonLayout:
    """Make a layout of plain values, as a JSON file gives them; a joint is told by its name or its index from 0.

    Required: "name"; "joints", their names in order; "parents", the joint that each hangs from, for the root itself,
    -1 or null. The others follow from the names of the joints (see `infer_layout`) where they are left out: "mirror",
    the pairs of left and right joints; "center", a joint; "parts" and "landmarks", the joints of each of `PARTS` and
    `LANDMARKS`; "about", a line of text. Raises `InputError` that names the field.

    >>> joints = ["pelvis", "chest", "l_arm", "r_arm", "l_hip", "r_hip"]
    >>> layout = layout_from_dict({"name": "mine", "joints": joints, "parents": [-1, 0, 1, 1, "pelvis", "pelvis"]})
    >>> layout.bones
    ((1, 0), (2, 1), (3, 1), (4, 0), (5, 0))
    >>> layout_from_dict(layout_to_dict(layout)) == layout
    True
    """
    read = _Reader(d)
    name, joints = read.name, read.joints
    parents = read.parents()
    check_tree(name, joints, parents)
    landmarks = read.landmarks() if "landmarks" in d else infer_landmarks(name, joints)
    return SkeletonLayout(
        name=name,
        joints=joints,
        parents=parents,
        mirror=read.mirror() if "mirror" in d else infer_mirror(name, joints, parents),
        center=read.joint("center", d["center"])
        if "center" in d
        else infer_center(name, joints, parents, landmarks),
        parts=read.parts() if "parts" in d else infer_parts(joints, parents),
        landmarks=landmarks,
        about=read.text("about", d.get("about", "")),
    )


class _Reader:
    """The fields of one description, each checked for what it should hold."""

    def __init__(self, d: Mapping[str, Any]) -> None:
        if not isinstance(d, Mapping):
            raise InputError(f"a skeleton layout is described by fields, found {d!r:.60}")
        self.name = ""
        if missing := [field for field in _REQUIRED if field not in d]:
            raise self.refuse(missing[0], "missing")
        self.name = self.text("name", d["name"])
        if not self.name.strip():
            raise self.refuse("name", "empty")
        if unknown := [field for field in d if field not in _REQUIRED + _OPTIONAL]:
            problem, known = f"unknown field {unknown[0]!r:.60}", ", ".join(_REQUIRED + _OPTIONAL)
            raise unfit(self.name, str(unknown[0]), problem, f"known fields: {known}")
        self.d = d
        self.joints = tuple(self.text("joints", joint) for joint in self.sequence("joints", d["joints"]))

    def refuse(self, field: str, problem: str) -> InputError:
        return unfit(
            self.name, field, problem, "the documentation of layout_from_dict says what a field holds"
        )

    def text(self, field: str, value: object) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise self.refuse(field, f"{value!r:.60}, expected a line of text")
        return value

    def sequence(self, field: str, value: object) -> Sequence[Any]:
        if not isinstance(value, list | tuple):
            raise self.refuse(field, f"{value!r:.60}, expected a list")
        return value

    def joint(self, field: str, value: object) -> int:
        if isinstance(value, str) and value in self.joints:
            return self.joints.index(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.joints):
            return value
        problem = f"{value!r:.60} is not a joint, expected a name or an index below {len(self.joints)}"
        raise self.refuse(field, problem)

    def parents(self) -> tuple[int, ...]:
        values = self.sequence("parents", self.d["parents"])
        own = (v if value is None or value == -1 else value for v, value in enumerate(values))
        return tuple(self.joint("parents", value) for value in own)

    def mirror(self) -> tuple[int, ...]:
        partner = list(range(len(self.joints)))
        paired: set[int] = set()
        for pair in self.sequence("mirror", self.d["mirror"]):
            two = [self.joint("mirror", value) for value in self.sequence("mirror", pair)]
            if len(set(two)) != 2 or paired & set(two):
                raise self.refuse("mirror", f"{pair!r:.60}, expected two joints that are in no other pair")
            partner[two[0]], partner[two[1]] = two[1], two[0]
            paired.update(two)
        return tuple(partner)

    def parts(self) -> dict[str, tuple[int, ...]]:
        members = self._each("parts", PARTS)
        return {
            part: tuple(self.joint("parts", value) for value in self.sequence("parts", members[part]))
            for part in PARTS
        }

    def landmarks(self) -> dict[str, int]:
        marks = self._each("landmarks", LANDMARKS)
        return {mark: self.joint("landmarks", marks[mark]) for mark in LANDMARKS}

    def _each(self, field: str, expected: Sequence[str]) -> Mapping[str, Any]:
        value = self.d[field]
        if not isinstance(value, Mapping) or set(value) != set(expected):
            raise self.refuse(field, f"{value!r:.60}, expected {', '.join(expected)}, each with its joints")
        return value
