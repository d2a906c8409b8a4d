from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mica.errors import InputError
from mica.skeleton import LANDMARKS, LAYOUTS, PARTS, SkeletonLayout, get_layout, layouts_table, register

# The graph of ST-GCN and those who followed it, 1-based, as they print it.
STGCN_EDGES = (
    *(
        (1, 2),
        (2, 21),
        (3, 21),
        (4, 3),
        (5, 21),
        (6, 5),
        (7, 6),
        (8, 7),
        (9, 21),
        (10, 9),
        (11, 10),
        (12, 11),
    ),
    *((13, 1), (14, 13), (15, 14), (16, 15), (17, 1), (18, 17), (19, 18), (20, 19)),
    *((22, 23), (23, 8), (24, 25), (25, 12)),
)

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def tree(parents: list[int], center: int) -> SkeletonLayout:
    """A body of any shape, whose first joints are shared out among the parts."""
    joints = tuple(f"joint {v}" for v in range(len(parents)))
    parts = {part: (v,) for v, part in enumerate(PARTS[1:], 1)}
    parts["torso"] = (0, *range(len(PARTS), len(parents)))
    landmarks = dict.fromkeys(LANDMARKS, 0)
    return SkeletonLayout(
        "tree", joints, tuple(parents), tuple(range(len(parents))), center, parts, landmarks
    )


@st.composite
def trees(draw: st.DrawFn) -> SkeletonLayout:
    size = draw(st.integers(len(PARTS), 12))
    parents = [0, *(draw(st.integers(0, v - 1)) for v in range(1, size))]
    return tree(parents, draw(st.integers(0, size - 1)))


def stgcn_spatial_partition(bones: tuple[tuple[int, int], ...], size: int, center: int) -> np.ndarray:
    """The peers' loops, entry by entry; hop distances by Floyd and Warshall."""
    hop = np.where(np.eye(size, dtype=bool), 0.0, np.inf)
    for a, b in bones:
        hop[a, b] = hop[b, a] = 1
    for k in range(size):
        hop = np.minimum(hop, hop[:, [k]] + hop[[k], :])
    degree = [1 + sum(v in bone for bone in bones) for v in range(size)]
    partition = np.zeros((3, size, size))
    for i in range(size):
        for j in range(size):
            if hop[j, i] > 1:
                continue
            if hop[j, center] == hop[i, center]:
                subset = 0
            elif hop[j, center] > hop[i, center]:
                subset = 1
            else:
                subset = 2
            partition[subset, j, i] = 1 / degree[i]
    return partition


def laplacian(layout: SkeletonLayout) -> np.ndarray:
    """As the sum over bones of d d^T, d the difference along the bone."""
    total = np.zeros((layout.num_joints, layout.num_joints))
    for child, parent in layout.bones:
        difference = np.zeros(layout.num_joints)
        difference[child], difference[parent] = 1, -1
        total += np.outer(difference, difference)
    return total


def test_ntu_bones_are_those_of_the_peers() -> None:
    ours = {frozenset(bone) for bone in get_layout("ntu-25").bones}
    assert ours == {frozenset((a - 1, b - 1)) for a, b in STGCN_EDGES}


@every_layout
def test_mirror_exchanges_left_and_right_and_keeps_the_bones(layout: SkeletonLayout) -> None:
    swap = {"left": "right", "right": "left"}
    for joint, partner in zip(layout.joints, layout.mirror, strict=True):
        assert layout.joints[partner] == " ".join(swap.get(word, word) for word in joint.split())
    assert {(layout.mirror[c], layout.mirror[p]) for c, p in layout.bones} == set(layout.bones)


@every_layout
def test_parts_and_landmarks_lie_where_their_names_say(layout: SkeletonLayout) -> None:
    assert tuple(layout.parts) == PARTS  # the order in which models keep them
    for part, joints in layout.parts.items():
        if part == "torso":  # has eyes and ears
            assert set(joints) == {layout.mirror[v] for v in joints}
        else:
            assert {layout.joints[v].split()[0] for v in joints} == {part.split()[0]}
            assert len(joints) >= 3
    for landmark in ("left shoulder", "right shoulder", "left hip", "right hip"):
        assert layout.joints[layout.landmarks[landmark]] == landmark
    assert layout.parents[layout.center] == layout.center


@every_layout
def test_adjacency_equals_the_peers_definition(layout: SkeletonLayout) -> None:
    expected = stgcn_spatial_partition(layout.bones, layout.num_joints, layout.center)
    ours = layout.adjacency()
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-7)


@settings(max_examples=60, deadline=None)
@given(trees())
def test_adjacency_of_any_tree_and_center(layout: SkeletonLayout) -> None:
    expected = stgcn_spatial_partition(layout.bones, layout.num_joints, layout.center)
    np.testing.assert_allclose(layout.adjacency(), expected, rtol=1e-7)
    np.testing.assert_allclose(expected.sum(axis=(0, 1)), 1.0)


def assert_fourier_basis(layout: SkeletonLayout) -> None:
    basis = layout.graph_fourier_basis()
    assert basis.dtype == np.float32
    wide = basis.astype(np.float64)
    np.testing.assert_allclose(wide.T @ wide, np.eye(layout.num_joints), atol=1e-6)
    spectrum = wide.T @ laplacian(layout) @ wide
    np.testing.assert_allclose(spectrum, np.diag(np.linalg.eigvalsh(laplacian(layout))), atol=1e-5)


@every_layout
def test_fourier_basis_diagonalises_the_laplacian_in_rising_order(layout: SkeletonLayout) -> None:
    assert_fourier_basis(layout)


@settings(max_examples=40, deadline=None)
@given(trees())
def test_fourier_basis_of_any_tree(layout: SkeletonLayout) -> None:
    assert_fourier_basis(layout)


@every_layout
def test_fourier_basis_does_not_hang_on_the_eigensolver(
    layout: SkeletonLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eigensolver owes nobody a rotation within a repeated eigenvalue, nor a sign."""
    expected = layout.graph_fourier_basis()
    solve = np.linalg.eigh
    random = np.random.default_rng(0)

    def solve_otherwise(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = solve(matrix)
        for value in np.unique(values.round(6)):
            same = np.flatnonzero(abs(values - value) < 1e-5)
            turn, _ = np.linalg.qr(random.normal(size=(len(same), len(same))))
            vectors[:, same] = vectors[:, same] @ turn
        return values, vectors

    monkeypatch.setattr(np.linalg, "eigh", solve_otherwise)
    np.testing.assert_allclose(layout.graph_fourier_basis(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "field", "problem"),
    [
        ({"parents": tuple(range(20))}, "parents", "20 roots"),
        ({"parents": (1, 0, *get_layout("kinect-20").parents[2:])}, "parents", "one tree"),
        ({"parents": get_layout("kinect-20").parents[:-1]}, "parents", "19 entries"),
        ({"parents": (*get_layout("kinect-20").parents[:-1], 20)}, "parents", "outside"),
        ({"mirror": (1, 2, 0, *get_layout("kinect-20").mirror[3:])}, "mirror", "inverse"),
        ({"center": 20}, "center", "not a joint"),
        ({"parts": {**get_layout("kinect-20").parts, "torso": (0, 1, 2)}}, "parts", "partition"),
        ({"parts": {**get_layout("kinect-20").parts, "tail": ()}}, "parts", "expected"),
        (
            {"parts": {**get_layout("kinect-20").parts, "torso": (), "left arm": (0, 1, 2, 3, 4, 5, 6, 7)}},
            "parts",
            "belongs to torso",
        ),
        ({"parts": {**get_layout("kinect-20").parts, "torso": (0, 1, 2, 20)}}, "parts", "partition"),
        ({"landmarks": {"left hip": 2}}, "landmarks", "expected"),
        ({"landmarks": {**get_layout("kinect-20").landmarks, "left hip": 20}}, "landmarks", "outside"),
        ({"joints": ("head", "head", *get_layout("kinect-20").joints[2:])}, "joints", "'head'"),
        ({"joints": ("", *get_layout("kinect-20").joints[1:])}, "joints", "no name"),
        ({"joints": (), "parents": ()}, "joints", "0 joints"),
        ({"joints": ("head",) * 5000}, "joints", "1 to 1000"),
        ({"mirror": (-1, *get_layout("kinect-20").mirror[1:])}, "mirror", "outside"),
        ({"mirror": ()}, "mirror", "0 entries"),
        ({"mirror": tuple(range(20))}, "mirror", "left and right shoulder are not"),
        (
            {"landmarks": {**get_layout("kinect-20").landmarks, "right hip": 17}},
            "mirror",
            "right hip are not",
        ),
    ],
)
def test_layouts_that_do_not_fit_together_are_refused(
    change: dict[str, Any], field: str, problem: str
) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        replace(get_layout("kinect-20"), **change)
    assert caught.value.field == field


def test_circle_of_bones_is_refused() -> None:
    parents = list(get_layout("kinect-20").parents)
    parents[5], parents[6], parents[7] = 7, 5, 6  # elbow, wrist and hand around
    with pytest.raises(InputError, match="one tree"):
        replace(get_layout("kinect-20"), parents=tuple(parents))


def test_registry() -> None:
    layout = get_layout("ntu-25")
    assert register(replace(layout)) == layout  # the same body twice is no conflict
    assert register(replace(layout, about="said otherwise")).about != layout.about  # nor is another text
    with pytest.raises(InputError, match="another skeleton layout"):
        register(replace(layout, center=0))
    with pytest.raises(InputError, match=r"(?s)unknown.*kinect-20, .*ntu-25"):
        get_layout("body-1000")
    assert get_layout("ntu-25") is layout
    assert len({layout, get_layout("kinect-20"), layout}) == 2


def test_table_has_a_line_a_layout() -> None:
    lines = layouts_table().splitlines()
    assert len(lines) == 1 + len(LAYOUTS)
    for line, layout in zip(lines[1:], LAYOUTS.values(), strict=True):
        assert line.split()[:2] == [layout.name, str(layout.num_joints)]
        assert layout.joints[layout.center] in line
        assert line.endswith(layout.about)
        assert len(line) <= 120
    assert all("2-D" in layout.about or "3-D" in layout.about for layout in LAYOUTS.values())
