"""From one layout to another: where the joints of a target body lie, given those of a source body."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from mica.errors import InputError
from mica.skeleton.layout import LANDMARKS, SkeletonLayout
from mica.skeleton.naming import SIDES


def _both_sides(rows: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(f"{side} {name}" for name in row) for row in rows for side in SIDES)


# Names of one place, to within what estimators differ by. Of several in the source, the first is taken.
_SAME_PLACE = (
    ("pelvis", "spine base", "hip centre", "mid hip", "hips"),
    ("spine", "spine mid", "middle spine"),
    ("shoulder centre", "spine shoulder", "thorax"),
    *_both_sides(
        [
            ("foot", "big toe", "foot index"),
            ("index", "hand tip"),
            ("eye", "eye inner", "eye outer"),
        ]
    ),
)
# What lies in the middle of others, each line with what the ones above it found.
_MIDDLE_OF: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("pelvis", ("left hip", "right hip")),
    ("shoulder centre", ("left shoulder", "right shoulder")),
    ("neck", ("shoulder centre",)),
    ("spine", ("pelvis", "shoulder centre")),
    ("lower spine", ("pelvis", "spine")),
    ("upper spine", ("spine", "shoulder centre")),
    ("head", ("left ear", "right ear")),
    ("head", ("nose",)),
    ("nose", ("head",)),
    *((f"{side} hand", (f"{side} index", f"{side} pinky")) for side in SIDES),
    *((f"{side} collar", (f"{side} shoulder", "shoulder centre")) for side in SIDES),
)
# Without these a mapped body would not move like the one it came from.
_NEEDED = (*LANDMARKS, *(f"{side} {joint}" for joint in ("elbow", "knee") for side in SIDES))


@dataclass(frozen=True, eq=False)
class LayoutMap:
    """How the joints of `target` follow from those of `source`; `str()` of it is fit to print.

    Row v of `weights` says of which joints of the source joint v of the target is the mean; rows sum to one. Joints
    that are not `matched` have no counterpart and lie with the next matched joint on the way to the centre.
    """

    source: SkeletonLayout
    target: SkeletonLayout
    weights: Float[np.ndarray, "V_to V_from"]
    matched: Bool[np.ndarray, " V_to"]

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The joints of the target that have no counterpart in the source."""
        return tuple(name for name, found in zip(self.target.joints, self.matched, strict=True) if not found)

    def apply(self, keypoints: Float[np.ndarray, "... V_from 3"]) -> Float[np.ndarray, "... V_to 3"]:
        """Return the target's joints, in the dtype of `keypoints` (integers become float64).

        A body that is all zero, which a sensor lost, stays all zero. A joint that is not a number spoils only those
        that follow from it. Raises `InputError` if the keypoints are not those of the source layout.

        >>> from mica.skeleton import get_layout
        >>> to_kinect = map_layout(get_layout("coco-17"), get_layout("kinect-20"))
        >>> to_kinect.apply(np.ones((31, 2, 17, 3), np.float32)).shape
        (31, 2, 20, 3)
        """
        expected = (self.source.num_joints, 3)
        if keypoints.ndim < 2 or keypoints.shape[-2:] != expected or keypoints.dtype.kind not in "fiu":
            problem = f"{keypoints.dtype} of shape {keypoints.shape}, expected numbers of shape (..., {expected[0]}, 3)"
            raise InputError(f"layout '{self.source.name}': {problem}", field="keypoints")
        dtype = keypoints.dtype if keypoints.dtype.kind == "f" else np.dtype(np.float64)
        mapped = np.empty((*keypoints.shape[:-2], self.target.num_joints, 3), dtype)
        for v, row in enumerate(self.weights):
            joints = np.flatnonzero(row)  # by hand, because 0 times NaN is NaN
            mapped[..., v, :] = sum(row[joint] * keypoints[..., joint, :] for joint in joints)
        return mapped

    def __str__(self) -> str:
        found = int(self.matched.sum())
        lines = [
            f"{self.source.name} -> {self.target.name}: {found} of {self.target.num_joints} joints found"
        ]
        for name, row, matched in zip(self.target.joints, self.weights, self.matched, strict=True):
            shares = {self.source.joints[joint]: row[joint] for joint in np.flatnonzero(row)}
            origin = " + ".join(f"{100 * share:g} % {joint}" for joint, share in shares.items())
            origin = next(iter(shares)) if len(shares) == 1 else origin
            if not matched:
                lines.append(f"  {name}: not found, lies with {origin}")
            elif origin != name:
                lines.append(f"  {name}: {origin}")
        return "\n".join(lines)


def map_layout(source: SkeletonLayout, target: SkeletonLayout) -> LayoutMap:
    """Find the joints of `target` in `source`: by name, by names of the same place, or in the middle of others.

    Raises `InputError` if either lacks a shoulder, hip, elbow or knee.

    >>> from mica.skeleton import get_layout
    >>> print(map_layout(get_layout("openpose-18"), get_layout("h36m-17")))
    openpose-18 -> h36m-17: 17 of 17 joints found
      pelvis: 50 % right hip + 50 % left hip
      spine: 25 % right shoulder + 25 % left shoulder + 25 % right hip + 25 % left hip
      thorax: 50 % right shoulder + 50 % left shoulder
      head: 50 % right ear + 50 % left ear
    >>> map_layout(get_layout("coco-17"), get_layout("kinect-20")).unmatched
    ('left hand', 'right hand', 'left foot', 'right foot')
    """
    if source == target:
        return LayoutMap(source, target, np.eye(source.num_joints), np.ones(source.num_joints, bool))
    names = target.standard_joints()
    _check_common(source, target)
    places = _places(source)
    found = [v for v, name in enumerate(names) if name in places]
    hops = target.hop_distances()
    stands_for = [v if v in found else _nearest(v, found, hops, target.center) for v in range(len(names))]
    weights = np.stack([places[names[v]] for v in stands_for])
    return LayoutMap(source, target, weights, np.isin(np.arange(len(names)), found))


def _check_common(*layouts: SkeletonLayout) -> None:
    for layout in layouts:
        if missing := [name for name in _NEEDED if name not in layout.standard_joints()]:
            first, second = (layout.name for layout in layouts)
            problem = f"'{first}' cannot become '{second}': '{layout.name}' has no {' and no '.join(missing)}"
            raise InputError(
                problem, field="joints", hint="name the joints as other layouts do, say 'left elbow'"
            )


def _places(source: SkeletonLayout) -> dict[str, Float[np.ndarray, " V_from"]]:
    """For each name the weights of the source's joints whose mean is that place."""
    places = dict(zip(source.standard_joints(), np.eye(source.num_joints), strict=True))
    places |= {mark: np.eye(source.num_joints)[joint] for mark, joint in source.landmarks.items()}
    _share(places)
    for name, others in _MIDDLE_OF:
        if name not in places and all(other in places for other in others):
            places[name] = np.mean([places[other] for other in others], axis=0)
    _share(places)
    return places


def _share(places: dict[str, Float[np.ndarray, " V_from"]]) -> None:
    """Give a place that one of its names has to the others."""
    for names in _SAME_PLACE:
        known = next((places[name] for name in names if name in places), None)
        if known is not None:
            for name in names:
                places.setdefault(name, known)


def _nearest(joint: int, found: Sequence[int], hops: np.ndarray, center: int) -> int:
    """The nearest of `found` on the way from `joint` to the centre, else the nearest of all."""

    def distance(other: int) -> tuple[bool, int]:
        beside = hops[joint, other] + hops[other, center] > hops[joint, center]
        return bool(beside), int(hops[joint, other])

    return min(found, key=distance)
