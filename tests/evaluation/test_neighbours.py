"""Nearest clips tile by tile are those of a loop in float64, in its order, whatever the size of a tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from mica.evaluation.features import Scaling
from mica.evaluation.neighbours import nearest

BLOCKS = [1, 3, 7, 2048]


def brute_force(queries: Tensor, gallery: Tensor, k: int) -> tuple[list[list[float]], list[list[int]]]:
    """In float64, a query at a time: a stable sort leaves equals in the gallery's order."""
    asked, clips = queries.double().numpy(), gallery.double().numpy()
    similarities, indexes = [], []
    for query in asked:
        lengths = np.linalg.norm(clips, axis=1) * np.linalg.norm(query)
        cosine = np.divide(clips @ query, lengths, out=np.zeros(len(clips)), where=lengths > 0)
        order = np.argsort(-cosine, kind="stable")[:k]
        similarities.append(cosine[order].tolist())
        indexes.append(order.tolist())
    return similarities, indexes


def random(clips: int, seed: int, width: int = 5) -> Tensor:
    return torch.randn(clips, width, generator=Generator().manual_seed(seed))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("k", [1, 2, 9, 23, 24])
def test_is_brute_force(k: int, block: int) -> None:
    queries, gallery = random(10, 0), random(24, 1)
    similarity, index = nearest(queries, gallery, k, block=block)
    expected, order = brute_force(queries, gallery, k)
    assert index.tolist() == order
    torch.testing.assert_close(similarity.double(), torch.tensor(expected).double(), atol=1e-6, rtol=0)


@settings(max_examples=150, deadline=None)
@given(
    clips=st.integers(1, 40),
    k=st.integers(1, 40),
    block=st.integers(1, 45),
    seed=st.integers(0, 1000),
)
def test_equals_stand_in_the_gallerys_order(clips: int, k: int, block: int, seed: int) -> None:
    """Rows of one or four ones have lengths 1 and 2, so that cosines are exact, and mostly equal; rows of zeros too."""
    k = min(k, clips)
    generator = Generator().manual_seed(seed)
    kinds = torch.cat([torch.eye(6), 1 - torch.eye(6)[:, [0, 0, 1, 1, 2, 2]], torch.zeros(1, 6)])
    kinds = kinds[(kinds.sum(1) == 1) | (kinds.sum(1) == 4) | (kinds.sum(1) == 0)]
    gallery = kinds[torch.randint(len(kinds), (clips,), generator=generator)]
    queries = kinds[torch.randint(len(kinds), (9,), generator=generator)]
    similarity, index = nearest(queries, gallery, k, block=block)
    expected, order = brute_force(queries, gallery, k)
    assert similarity.tolist() == expected
    assert index.tolist() == order


def test_one_query_no_query() -> None:
    gallery = random(8, 0)
    assert nearest(gallery[3:4], gallery, 1)[1].tolist() == [[3]]
    similarity, index = nearest(gallery[:0], gallery, 3)
    assert similarity.shape == index.shape == (0, 3)
    assert index.dtype == torch.int64


@pytest.mark.parametrize("k", [0, -1, 9])
def test_refuses_other_k(k: int) -> None:
    with pytest.raises(ValueError, match="k must be between 1 and the 8"):
        nearest(random(2, 1), random(8, 0), k)


def test_an_empty_gallery_has_no_neighbours() -> None:
    with pytest.raises(ValueError, match="the 0 clips"):
        nearest(random(2, 1), random(0, 0), 1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("side", "name"), [(0, "queries"), (1, "gallery clips")])
def test_what_is_not_finite_is_refused_rather_than_ranked(value: float, side: int, name: str) -> None:
    parts = [random(4, 0), random(9, 1)]
    parts[side][-1, 2] = value
    with pytest.raises(ValueError, match=f"{name} whose features hold NaN or infinity"):
        nearest(parts[0], parts[1], 1, block=2)


@pytest.mark.parametrize("block", BLOCKS)
def test_scaled_by_tiles_is_scaled_at_once(block: int) -> None:
    queries, gallery = random(5, 2) * 10 + 3, random(11, 3) * 10 + 3
    scaling = Scaling.of(gallery)
    found = nearest(queries, gallery, 4, scaling=scaling, block=block)
    assert found[1].tolist() == brute_force(scaling(queries), scaling(gallery), 4)[1]
    assert found[1].tolist() != brute_force(queries, gallery, 4)[1]


def test_leaves_its_input_alone_and_length_out_of_account() -> None:
    queries, gallery = random(5, 2), random(11, 3)
    before = queries.clone(), gallery.clone()
    longer = gallery * torch.linspace(0.01, 100, len(gallery))[:, None]
    assert torch.equal(nearest(queries, longer, 5)[1], nearest(queries, gallery, 5)[1])
    assert torch.equal(queries, before[0])
    assert torch.equal(gallery, before[1])


def test_double_stays_double() -> None:
    similarity, _ = nearest(random(3, 0).double(), random(9, 1).double(), 2, block=4)
    assert similarity.dtype == torch.float64
