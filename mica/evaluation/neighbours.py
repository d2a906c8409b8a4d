"""The clips most similar to a clip, tile by tile: neither all similarities nor a copy of all features is ever held."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


@torch.no_grad()
def nearest(
    queries: Float[Tensor, "Q D"],
    gallery: Float[Tensor, "G D"],
    k: int,
    *,
    scaling: Callable[[Tensor], Tensor] | None = None,
    block: int = 2048,
) -> tuple[Float[Tensor, "Q k"], Int64[Tensor, "Q k"]]:
    """Return the cosine similarity and the index of the `k` most similar clips of the gallery, the most similar first.

    Equals stand in the gallery's order. scaling: applied to the features of either side before they are compared.
    block: how many queries are compared with how many clips at once. Raises ValueError where `k` is not between 1 and
    the gallery's size, or where a feature is not finite.

    >>> similarity, index = nearest(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [3.0, 4.0]]), k=2)
    >>> similarity, index
    (tensor([[0.6000, 0.0000]]), tensor([[1, 0]]))
    """
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k must be between 1 and the {len(gallery)} clips of the gallery, got {k}")

    def unit(rows: Tensor, of: str) -> Tensor:
        rows = F.normalize(rows if scaling is None else scaling(rows), dim=1)
        if not rows.isfinite().all():
            raise ValueError(f"{of} whose features hold NaN or infinity cannot be ranked")
        return rows

    # Made before it is filled: answers kept one by one would come to lie where tiles lay, and take up their room.
    found = (
        queries.new_empty(len(queries), k),
        torch.empty(len(queries), k, dtype=torch.int64, device=queries.device),
    )
    for first in range(0, len(queries), block):
        asked, best = unit(queries[first : first + block], "queries"), None
        for start in range(0, len(gallery), block):
            tile = asked @ unit(gallery[start : start + block], "gallery clips").T
            similarity, index = _highest(tile, k)
            best = _merge(best, (similarity, index + start), k)
        assert best is not None
        for part, filled in zip(best, found, strict=True):
            filled[first : first + block] = part
    return found


def _highest(values: Float[Tensor, "Q G"], k: int) -> tuple[Float[Tensor, "Q k"], Int64[Tensor, "Q k"]]:
    """The k highest of every row (all where there are fewer) and their columns; equals in the order of columns."""
    # topk keeps no order among equals, and which of them it takes at the end is anyone's guess: to see whether there
    # were any to choose from, one more is taken.
    top, columns = values.topk(min(k + 1, values.shape[1]), dim=1)
    columns, order = columns.sort(dim=1)
    top, order = top.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    if k < values.shape[1]:
        open_rows = (top[:, k - 1] == top[:, k]).nonzero().squeeze(1)
        if len(open_rows):
            sorted_rows = values[open_rows].sort(dim=1, descending=True, stable=True)
            top[open_rows], columns[open_rows] = (part[:, : k + 1] for part in sorted_rows)
    return top[:, :k], columns[:, :k]


def _merge(
    best: tuple[Tensor, Tensor] | None, more: tuple[Tensor, Tensor], k: int
) -> tuple[Float[Tensor, "Q k"], Int64[Tensor, "Q k"]]:
    """The k highest of two sorted lists; of equals those of `best` first, whose indexes are lower."""
    if best is None:
        return more
    similarity, order = torch.cat([best[0], more[0]], 1).sort(dim=1, descending=True, stable=True)
    return similarity[:, :k], torch.cat([best[1], more[1]], 1).gather(1, order[:, :k])
