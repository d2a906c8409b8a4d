"""k nearest neighbours by cosine similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def knn_predict(
    train: Float[Tensor, "clips features"],
    labels: Int[Tensor, " clips"],
    queries: Float[Tensor, "queries features"],
    k: int = 1,
    chunk: int = 1024,
) -> Int[Tensor, " queries"]:
    """The majority class of the k most similar training clips; ties go to the class of the nearest of them.

    Queries go in chunks, so that queries x clips similarities never stand in memory at once. Raises ValueError where
    k is not between 1 and the number of training clips.

    >>> knn_predict(torch.eye(3), torch.tensor([4, 5, 6]), torch.tensor([[0.1, 0.9, 0.0]]))
    tensor([5])
    """
    if not 1 <= k <= len(train):
        raise ValueError(f"k must be between 1 and the {len(train)} training clips, got {k}")
    gallery = F.normalize(train, dim=1)
    predictions = []
    for part in F.normalize(queries, dim=1).split(chunk):
        neighbours = labels[(part @ gallery.T).topk(k, dim=1).indices]
        votes = (neighbours[:, :, None] == neighbours[:, None, :]).sum(2)
        # argmax takes the first of equals, and neighbours are sorted by similarity.
        predictions.append(neighbours.gather(1, votes.argmax(1, keepdim=True)).squeeze(1))
    return torch.cat(predictions)


def accuracy(predicted: Int[Tensor, " clips"], labels: Int[Tensor, " clips"]) -> float:
    """Top-1 accuracy in percent."""
    return 100.0 * (predicted == labels).float().mean().item()
