"""The layouts that are known by name."""

from __future__ import annotations

from mica.errors import InputError
from mica.skeleton.layout import SkeletonLayout

LAYOUTS: dict[str, SkeletonLayout] = {}


def register(layout: SkeletonLayout) -> SkeletonLayout:
    """Make `layout` known under its name and return it; `InputError` if another body has that name."""
    if LAYOUTS.setdefault(layout.name, layout) != layout:
        raise InputError(f"another skeleton layout is called '{layout.name}'", hint="choose another name")
    return layout


def get_layout(name: str) -> SkeletonLayout:
    """Return the registered layout `name`; `InputError` listing the known ones otherwise.

    >>> get_layout("coco-17").joints[:3]
    ('nose', 'left eye', 'right eye')
    """
    if name not in LAYOUTS:
        known = ", ".join(sorted(LAYOUTS))
        raise InputError(f"unknown skeleton layout '{name}'", hint=f"known layouts: {known}")
    return LAYOUTS[name]


def layouts_table() -> str:
    """Return the registered layouts as a table, a line a layout.

    >>> print(layouts_table().splitlines()[2])
    kinect-20         20  shoulder centre  Kinect v1, 3-D (UTD-MHAD, NW-UCLA)
    """
    rows = [("layout", "joints", "centre", "about")]
    rows += [
        (layout.name, str(layout.num_joints), layout.joints[layout.center], layout.about)
        for layout in LAYOUTS.values()
    ]
    name, _, center, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(f"{row[0]:<{name}}  {row[1]:>6}  {row[2]:<{center}}  {row[3]}".rstrip() for row in rows)


def joints_table(layout: SkeletonLayout) -> str:
    """Return the joints of a layout as a table, a line a joint: its bone, its partner, its part of the body.

    >>> print(joints_table(get_layout("kinect-20")).splitlines()[5])
      4  left shoulder    shoulder centre  right shoulder   left arm
    """
    names = layout.joints
    part_of = {joint: part for part, joints in layout.parts.items() for joint in joints}
    rows = [("", "joint", "hangs from", "partner", "part")]
    for joint, (parent, partner) in enumerate(zip(layout.parents, layout.mirror, strict=True)):
        bone = "" if parent == joint else names[parent]
        other = "" if partner == joint else names[partner]
        rows.append((str(joint), names[joint], bone, other, part_of[joint]))
    width = max(map(len, names)) + 2
    return "\n".join(
        f"{row[0]:>3}  {''.join(f'{cell:<{width}}' for cell in row[1:])}".rstrip() for row in rows
    )
