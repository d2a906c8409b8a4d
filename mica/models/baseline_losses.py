"""What the classics' losses are made of, each a function of logits, similarities or a feature map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mica.models.encoding import in_full
from mica_kernels import distributed


def contrast(
    logits: Float[Tensor, "N 1+L"], positives: Bool[Tensor, "N L"] | None = None
) -> Float[Tensor, ""]:
    """InfoNCE where the first logit of each row is a positive, and more of them may be: the mean of their losses.

    >>> logits = torch.tensor([[2.0, 0.0, 1.0]])
    >>> round(contrast(logits).item(), 4)
    0.4076
    >>> round(contrast(logits, torch.tensor([[False, True]])).item(), 4)
    0.9076
    """
    logarithms = F.log_softmax(logits, dim=1)
    if positives is None:
        return -logarithms[:, 0].mean()
    counted = F.pad(positives, (1, 0), value=True).to(logarithms.dtype)
    return -((logarithms * counted).sum(1) / counted.sum(1)).mean()


def divergence(logits: Float[Tensor, "N L"], others: Sequence[Float[Tensor, "N L"]]) -> Float[Tensor, ""]:
    """The cross entropy of other distributions with that of `logits`, which counts as the truth; mean over `others`.

    >>> logits = torch.tensor([[0.0, 0.0]])
    >>> round(divergence(logits, [logits, torch.tensor([[1.0, -1.0]])]).item(), 4)
    0.91
    """
    truth = logits.detach().softmax(1)
    return torch.stack([-(truth * other.log_softmax(1)).sum(1).mean() for other in others]).mean()


def nearest(similarities: Sequence[Float[Tensor, "N Q"]], count: int) -> Bool[Tensor, "N Q"]:
    """Which of the queue are among the `count` most similar by any of several measures.

    >>> nearest([torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([[0.7, 0.2, 0.1]])], 1)
    tensor([[ True,  True, False]])
    """
    chosen = torch.zeros_like(similarities[0], dtype=torch.bool)
    for measure in similarities:
        chosen.scatter_(1, measure.topk(min(count, measure.shape[1]), dim=1).indices, True)
    return chosen


def energy_drop(x: Float[Tensor, "N C T V"], above: float = 0.7) -> Float[Tensor, "N C T V"]:
    """Zero the joints, then the cells, of a feature map that attention without parameters finds most telling.

    A cell's attention is sigmoid((x - mean)^2 / (4 (variance + 1e-4)) + 1/2), mean and variance over its clip and
    channel; a joint's is the mean of its cells'. Either time, what is left is scaled up by as
    much as was dropped.

    Source: AimCLR (Guo et al., AAAI 2022), equations 4 and 5, after Yang et al., SimAM (ICML 2021).

    >>> x = torch.zeros(1, 1, 4, 3)
    >>> x[..., 2] = 1.0
    >>> energy_drop(x + 1.0)[0, 0, 0].tolist()
    [2.25, 2.25, 0.0]
    """
    with torch.no_grad():
        exact = in_full(x)
        squares = (exact - exact.mean((2, 3), keepdim=True)).square()
        variance = squares.sum((2, 3), keepdim=True) / max(x.shape[2] * x.shape[3] - 1, 1)
        attention = torch.sigmoid(squares / (4 * (variance + 1e-4)) + 0.5)
        joints = (attention.mean((1, 2), keepdim=True) < above).to(exact.dtype)
        cells = (attention < above).to(exact.dtype)
        kept = joints * cells * (_made_up(joints) * _made_up(cells))
    return x * kept.to(x.dtype)


def _made_up(mask: Tensor) -> Tensor:
    """The factor by which a mask of ones and zeros, over the clips of all processes, keeps the sum."""
    return 1 / distributed.mean(mask.mean()).clamp_min(1 / mask.numel())
