"""Bodies: skeleton layouts, how one becomes another, and where their joints stand."""

import mica.skeleton.layouts  # noqa: F401  (registers them)
from mica.skeleton.description import layout_from_dict, layout_to_dict
from mica.skeleton.inference import infer_layout
from mica.skeleton.layout import LANDMARKS, PARTS, SkeletonLayout
from mica.skeleton.mapping import LayoutMap, map_layout
from mica.skeleton.pose import standing_pose
from mica.skeleton.registry import LAYOUTS, get_layout, joints_table, layouts_table, register

__all__ = [
    "LANDMARKS",
    "LAYOUTS",
    "PARTS",
    "LayoutMap",
    "SkeletonLayout",
    "get_layout",
    "infer_layout",
    "joints_table",
    "layout_from_dict",
    "layout_to_dict",
    "layouts_table",
    "map_layout",
    "register",
    "standing_pose",
]
