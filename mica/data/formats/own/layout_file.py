"""The layout that a person names: one of the registered, or a JSON or YAML file that describes it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from mica.errors import InputError
from mica.skeleton import LAYOUTS, SkeletonLayout, get_layout, layout_from_dict

_SUFFIXES = (".json", ".yaml", ".yml")


def find_layout(layout: str | os.PathLike[str]) -> SkeletonLayout:
    """Return a registered layout by its name, or that of a file that holds what `layout_from_dict` takes.

    A file without a field "name" gives its layout its own name. Raises `InputError` for a name that is not known, and a
    file that is missing, damaged or describes no skeleton.

    >>> find_layout("coco-17").num_joints
    17
    """
    path = Path(layout)
    if str(layout) in LAYOUTS:
        return get_layout(str(layout))
    if path.suffix.lower() not in _SUFFIXES:
        problem = f"unknown skeleton layout '{layout}'"
        hint = f"name a file that ends in {', '.join(_SUFFIXES)}, or one of {', '.join(sorted(LAYOUTS))}"
        raise InputError(problem, field="layout", hint=hint)
    described = _read(path)
    if not isinstance(described, dict):
        raise InputError("describes no skeleton: expected the fields joints and parents", file=path)
    try:
        return layout_from_dict({"name": path.stem, **described})
    except InputError as error:
        raise InputError(error.problem, file=path, field=error.field, hint=error.hint) from error


def layouts_with(joints: int) -> str:
    """Return which registered layouts have so many joints, in words.

    >>> layouts_with(20)
    'layouts with 20 joints: kinect-20'
    """
    names = [layout.name for layout in LAYOUTS.values() if layout.num_joints == joints]
    return f"layouts with {joints} joints: {', '.join(names) or 'none; write a layout file'}"


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=path, field="layout") from error
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", file=path, hint="save it as UTF-8") from error
    try:
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        problem = " ".join(f"not readable as {path.suffix[1:].upper()} ({error})".split())
        raise InputError(problem, file=path) from error
