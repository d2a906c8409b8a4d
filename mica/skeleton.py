"""Bodies: what the joints of a skeleton are called, how bones join them, and the graphs that follow."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from mica.errors import InputError

LANDMARKS = ("left shoulder", "right shoulder", "left hip", "right hip", "spine base", "neck")
PARTS = ("torso", "left arm", "right arm", "left leg", "right leg")

# Laplacian eigenvalues closer than this are one; those of the trees here differ by 1e-2 or agree to 1e-14.
_SAME_EIGENVALUE = 1e-8
# A projected joint shorter than this lies outside the eigenspace.
_NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class SkeletonLayout:
    """A kinematic tree of V joints with its symmetry, body parts and landmarks; all indices are 0-based.

    `parents[v]` is the joint that the bone of v comes from; the root is its own parent. `mirror[v]` is the
    left-right partner, v itself on the midline. `center` is the joint that root-centring subtracts and that
    hop distances are measured to. `parts` shares the joints out among `PARTS`; `landmarks` finds `LANDMARKS`.
    Raises `InputError` if these do not fit together.

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

    def __post_init__(self) -> None:
        everyone, require = set(range(self.num_joints)), self._require
        for which, table in (("parents", self.parents), ("mirror", self.mirror)):
            require(len(table) == self.num_joints, which, f"{len(table)} entries, {self.num_joints} joints")
            require(set(table) <= everyone, which, "an index outside the joints")
        roots = sum(parent == v for v, parent in enumerate(self.parents))
        require(roots == 1, "parents", f"{roots} roots, expected 1 (the root is its own parent)")
        require(bool((self.hop_distances() >= 0).all()), "parents", "the bones do not form one tree")
        require(all(self.mirror[m] == v for v, m in enumerate(self.mirror)), "mirror", "not its own inverse")
        require(self.center in everyone, "center", f"{self.center} is not a joint")
        require(set(self.parts) == set(PARTS), "parts", f"expected {', '.join(PARTS)}")
        shared_out = sorted(v for part in self.parts.values() for v in part)
        require(shared_out == sorted(everyone), "parts", "not a partition of the joints")
        require(set(self.landmarks) == set(LANDMARKS), "landmarks", f"expected {', '.join(LANDMARKS)}")
        require(set(self.landmarks.values()) <= everyone, "landmarks", "an index outside the joints")

    def _require(self, holds: bool, which: str, problem: str) -> None:
        if not holds:
            raise InputError(f"skeleton layout '{self.name}': {problem}", field=which)

    @property
    def num_joints(self) -> int:
        """V."""
        return len(self.joints)

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """The V - 1 bones as (child, parent)."""
        return tuple((child, parent) for child, parent in enumerate(self.parents) if child != parent)

    def hop_distances(self) -> Int[np.ndarray, "V V"]:
        """Return the number of bones between any two joints, -1 where no path joins them.

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


LAYOUTS: dict[str, SkeletonLayout] = {}


def register(layout: SkeletonLayout) -> SkeletonLayout:
    """Make `layout` known under its name and return it; `InputError` if another body has that name."""
    if LAYOUTS.setdefault(layout.name, layout) != layout:
        raise InputError(f"another skeleton layout is called '{layout.name}'", hint="choose another name")
    return layout


def get_layout(name: str) -> SkeletonLayout:
    """Return the registered layout `name`; `InputError` listing the known ones otherwise."""
    if name not in LAYOUTS:
        known = ", ".join(sorted(LAYOUTS))
        raise InputError(f"unknown skeleton layout '{name}'", hint=f"known layouts: {known}")
    return LAYOUTS[name]


# Kinect v2, in the order of NTU RGB+D and PKU-MMD. The bones are ST-GCN's: hand tips hang from the thumbs.
register(
    SkeletonLayout(
        name="ntu-25",
        joints=(
            *("spine base", "spine mid", "neck", "head"),
            *("left shoulder", "left elbow", "left wrist", "left hand"),
            *("right shoulder", "right elbow", "right wrist", "right hand"),
            *("left hip", "left knee", "left ankle", "left foot"),
            *("right hip", "right knee", "right ankle", "right foot"),
            *("spine shoulder", "left hand tip", "left thumb", "right hand tip", "right thumb"),
        ),
        parents=(1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11),
        mirror=(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22),
        center=20,
        parts={
            "torso": (0, 1, 2, 3, 20),
            "left arm": (4, 5, 6, 7, 21, 22),
            "right arm": (8, 9, 10, 11, 23, 24),
            "left leg": (12, 13, 14, 15),
            "right leg": (16, 17, 18, 19),
        },
        landmarks=dict(zip(LANDMARKS, (4, 8, 12, 16, 0, 2), strict=True)),
    )
)

# Kinect v1, in the order of its SDK.
register(
    SkeletonLayout(
        name="kinect-20",
        joints=(
            *("hip centre", "spine", "shoulder centre", "head"),
            *("left shoulder", "left elbow", "left wrist", "left hand"),
            *("right shoulder", "right elbow", "right wrist", "right hand"),
            *("left hip", "left knee", "left ankle", "left foot"),
            *("right hip", "right knee", "right ankle", "right foot"),
        ),
        parents=(1, 2, 2, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18),
        mirror=(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15),
        center=2,
        parts={
            "torso": (0, 1, 2, 3),
            "left arm": (4, 5, 6, 7),
            "right arm": (8, 9, 10, 11),
            "left leg": (12, 13, 14, 15),
            "right leg": (16, 17, 18, 19),
        },
        landmarks=dict(zip(LANDMARKS, (4, 8, 12, 16, 0, 2), strict=True)),
    )
)
