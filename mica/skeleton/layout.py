"""Bodies: what the joints of a skeleton are called, how bones join them, and the graphs that follow."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from mica.errors import InputError
from mica.skeleton.naming import Side, parse, standard_names

LANDMARKS = ("left shoulder", "right shoulder", "left hip", "right hip")
PARTS = ("torso", "left arm", "right arm", "left leg", "right leg")

_MOST_JOINTS = 1000
# Laplacian eigenvalues closer than this are one; those of the trees here differ by 1e-2 or agree to 1e-14.
_SAME_EIGENVALUE = 1e-8
# A projected joint shorter than this lies outside the eigenspace.
_NEGLIGIBLE = 1e-6


def unfit(layout: str, field: str, problem: str, hint: str | None = None) -> InputError:
    """Return the error that says what does not fit in a field of the layout of this name."""
    return InputError(f"skeleton layout '{layout}': {problem}", field=field, hint=hint)


def check_tree(layout: str, joints: Sequence[str], parents: Sequence[int]) -> None:
    """Raise `InputError` unless the joints have names of their own and `parents` makes them one tree.

    >>> check_tree("arm", ("shoulder", "elbow"), (0, 0))
    """
    if not 0 < len(joints) <= _MOST_JOINTS:
        raise unfit(layout, "joints", f"{len(joints)} joints, expected 1 to {_MOST_JOINTS}")
    if "" in joints or len(set(joints)) < len(joints):
        repeated = sorted({name for name in joints if name and joints.count(name) > 1})
        problem = f"more than one is called '{repeated[0]}'" if repeated else "one has no name"
        raise unfit(layout, "joints", problem, "every joint needs a name of its own")
    if len(parents) != len(joints):
        raise unfit(layout, "parents", f"{len(parents)} entries, {len(joints)} joints")
    if not set(parents) <= set(range(len(joints))):
        raise unfit(layout, "parents", "an index outside the joints")
    roots = sum(parent == v for v, parent in enumerate(parents))
    if roots != 1:
        raise unfit(layout, "parents", f"{roots} roots, expected 1 (the root is its own parent)")
    root = next(v for v, parent in enumerate(parents) if v == parent)
    if any(way_to_root(parents, v)[-1] != root for v in range(len(joints))):
        raise unfit(layout, "parents", "the bones do not form one tree")


def way_to_root(parents: Sequence[int], joint: int) -> list[int]:
    """Return the joints from `joint` inwards, itself first; where bones form a circle, the way ends in it.

    >>> way_to_root((0, 0, 1), 2)
    [2, 1, 0]
    """
    way = [joint]
    while parents[way[-1]] != way[-1] and len(way) <= len(parents):
        way.append(parents[way[-1]])
    return way


@dataclass(frozen=True)
class SkeletonLayout:
    """A kinematic tree of V joints with its symmetry, body parts and landmarks; all indices are 0-based.

    `parents[v]` is the joint that the bone of v comes from; the root is its own parent. `mirror[v]` is the
    left-right partner, v itself on the midline. `center` is the joint that root-centring subtracts and that
    hop distances are measured to. `parts` shares the joints out among `PARTS`; `landmarks` finds `LANDMARKS`.
    `about` says in a line which sensor, estimator or data set has this body. Raises `InputError` if these do
    not fit together.

    >>> from mica.skeleton import get_layout
    >>> layout = get_layout("ntu-25")
    >>> layout.num_joints, layout.joints[layout.center], layout.bones[0]
    (25, 'spine shoulder', (0, 1))
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    mirror: tuple[int, ...]
    center: int
    parts: dict[str, tuple[int, ...]] = field(hash=False)
    landmarks: dict[str, int] = field(hash=False)
    about: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_tree(self.name, self.joints, self.parents)
        everyone, require = set(range(self.num_joints)), self._require
        entries = len(self.mirror)
        require(entries == self.num_joints, "mirror", f"{entries} entries, {self.num_joints} joints")
        require(set(self.mirror) <= everyone, "mirror", "an index outside the joints")
        require(all(self.mirror[m] == v for v, m in enumerate(self.mirror)), "mirror", "not its own inverse")
        require(self.center in everyone, "center", f"{self.center} is not a joint")
        require(set(self.parts) == set(PARTS), "parts", f"expected {', '.join(PARTS)}")
        shared_out = sorted(v for part in self.parts.values() for v in part)
        require(shared_out == sorted(everyone), "parts", "not a partition of the joints")
        empty = [name for name, part in self.parts.items() if not part]
        require(not empty, "parts", f"no joint belongs to {', '.join(empty)}")
        require(set(self.landmarks) == set(LANDMARKS), "landmarks", f"expected {', '.join(LANDMARKS)}")
        require(set(self.landmarks.values()) <= everyone, "landmarks", "an index outside the joints")
        for joint in ("shoulder", "hip"):
            left, right = self.landmarks[f"left {joint}"], self.landmarks[f"right {joint}"]
            require(
                self.mirror[left] == right, "mirror", f"left and right {joint} are not each other's partners"
            )

    def _require(self, holds: bool, which: str, problem: str) -> None:
        if not holds:
            raise unfit(self.name, which, problem)

    @property
    def num_joints(self) -> int:
        """V."""
        return len(self.joints)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """The V - 1 bones as (child, parent)."""
        return tuple((child, parent) for child, parent in enumerate(self.parents) if child != parent)

    def standard_joints(self) -> tuple[str, ...]:
        """Return what we would call the joints; a landmark is the joint that `landmarks` says.

        >>> from mica.skeleton import infer_layout
        >>> infer_layout("rig", ["hips", "l_arm", "r_arm", "l_thigh", "r_thigh"], [0] * 5).standard_joints()
        ('hips', 'left shoulder', 'right shoulder', 'left hip', 'right hip')
        """
        names = list(standard_names(self.joints))
        for mark, joint in self.landmarks.items():
            names[joint] = mark
        return tuple(names)

    def side(self, joint: int) -> Side:
        """Return on which side of the body a joint lies, "" for the midline and where neither part nor name says it.

        >>> from mica.skeleton import get_layout
        >>> coco = get_layout("coco-17")
        >>> coco.side(0), coco.side(4), coco.side(11)
        ('', 'right', 'left')
        """
        if self.mirror[joint] == joint:
            return ""
        part = next(part for part, joints in self.parts.items() if joint in joints)
        return parse(self.joints[joint] if part == "torso" else part).side

    def hop_distances(self) -> Int[np.ndarray, "V V"]:
        """Return the number of bones between any two joints.

        >>> from mica.skeleton import get_layout
        >>> int(get_layout("kinect-20").hop_distances()[3, 4])  # head, shoulder centre, left shoulder
        2
        """
        neighbours: list[list[int]] = [[] for _ in self.joints]
        for child, parent in self.bones:
            neighbours[child].append(parent)
            neighbours[parent].append(child)
        hops = np.full((self.num_joints, self.num_joints), -1, dtype=np.int64)
        for start in range(self.num_joints):
            hops[start, start] = 0
            queue = deque([start])
            while queue:
                here = queue.popleft()
                for there in neighbours[here]:
                    if hops[start, there] < 0:
                        hops[start, there] = hops[start, here] + 1
                        queue.append(there)
        return hops

    def adjacency(self) -> Float[np.ndarray, "3 V V"]:
        """Return the spatial partition of the one-hop neighbourhood (ST-GCN, AAAI 2018, section 3.3).

        Entry [k, v, w] weighs what joint w receives from joint v: k = 0 from itself, k = 1 from neighbours
        one hop farther from `center` than w, k = 2 from the neighbour one hop nearer. The three add up to
        A D^-1, whose columns sum to one. No two neighbours in a tree lie equally far from its centre, so that
        each has its k.

        >>> from mica.skeleton import get_layout
        >>> get_layout("kinect-20").adjacency().sum(axis=(0, 1))[:3]
        array([1., 1., 1.], dtype=float32)
        """
        hops = self.hop_distances()
        neighbourhood = (hops <= 1).astype(np.float64)
        normalised = neighbourhood / neighbourhood.sum(axis=0, keepdims=True)
        to_center = hops[self.center]
        outward = to_center[:, None] - to_center[None, :]  # of the giving joint against the receiving one
        return np.stack([normalised * (outward == side) for side in (0, 1, -1)]).astype(np.float32)

    def graph_fourier_basis(self) -> Float[np.ndarray, "V V"]:
        """Return the eigenvectors of the combinatorial Laplacian D - A as columns, by rising eigenvalue.

        Orthonormal. Bodies are symmetric, so eigenvalues repeat and an eigensolver may return any rotation of
        an eigenspace: within each we take the basis that Gram-Schmidt makes of the joints projected into it,
        in their order. That also fixes the signs.

        >>> from mica.skeleton import get_layout
        >>> basis = get_layout("ntu-25").graph_fourier_basis()
        >>> bool(np.allclose(basis[:, 0], 0.2))  # the lowest graph frequency is constant, 1/sqrt(25)
        True
        """
        linked = (self.hop_distances() == 1).astype(np.float64)
        eigenvalues, vectors = np.linalg.eigh(np.diag(linked.sum(axis=0)) - linked)
        first_of_each = np.flatnonzero(np.diff(eigenvalues, prepend=-np.inf) > _SAME_EIGENVALUE)
        spaces = np.split(vectors, first_of_each[1:], axis=1)
        return np.concatenate([_canonical_basis(space) for space in spaces], axis=1).astype(np.float32)


def _canonical_basis(space: Float[np.ndarray, "V d"]) -> Float[np.ndarray, "V d"]:
    """Return an orthonormal basis of the span of `space` that depends on the span alone."""
    projector = space @ space.T
    basis: list[np.ndarray] = []
    for joint in projector:
        rest = joint - sum((vector * (vector @ joint) for vector in basis), np.zeros_like(joint))
        length = np.linalg.norm(rest)
        if length > _NEGLIGIBLE and len(basis) < space.shape[1]:
            basis.append(rest / length)
    return np.stack(basis, axis=1)
