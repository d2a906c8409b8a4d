"""The momentum encoder and the queue of its keys (He et al., CVPR 2020)."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Generator, Tensor, nn

from mica.models.mica import MICA


class MomentumEncoder(nn.Module):
    """A model that follows another: after each step, `decay` of itself and the rest of the other, buffers included.

    >>> from mica.models.heads import HeadConfig
    >>> from mica.models.stgcn import STGCN
    >>> from mica.skeleton import get_layout
    >>> online = MICA(STGCN(get_layout("kinect-20"), "stgcn-small", 8), HeadConfig(), None)
    >>> target = MomentumEncoder(online, decay=0.75)
    >>> _ = online.encoder.input_norm.bias.data.fill_(1)
    >>> target.follow(online)
    >>> target.model.encoder.input_norm.bias[:2]
    tensor([0.2500, 0.2500])
    """

    def __init__(self, online: MICA, decay: float) -> None:
        super().__init__()
        self.model, self.decay = deepcopy(online).requires_grad_(False), decay

    @torch.no_grad()
    def follow(self, online: MICA) -> None:
        """Go a step towards `online`; counters of batches are taken as they are."""
        mine, theirs = _tensors(self.model), _tensors(online)
        moving = [place for place, tensor in enumerate(mine) if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[i] for i in moving], [theirs[i] for i in moving], 1 - self.decay)
        for place in set(range(len(mine))).difference(moving):
            mine[place].copy_(theirs[place])


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


class KeyQueue(nn.Module):
    """The latest keys, oldest overwritten first; `real` is empty at the start and grows to `size`.

    Filled with random vectors instead, as MoCo does, a queue stalls small sets: all logits are alike at first. Behind
    `real` there are such, for keys that were no good before the queue was full.

    >>> queue = KeyQueue(size=3, width=2)
    >>> queue.push(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> queue.real
    tensor([[1., 0.],
            [0., 1.]])
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        unread = torch.randn(size, width, generator=Generator().manual_seed(0))
        self.register_buffer("keys", F.normalize(unread, dim=1))
        self.keys: Tensor
        self.filled, self.next = 0, 0

    @property
    def real(self) -> Float[Tensor, "Q P"]:
        return self.keys[: self.filled]

    @torch.no_grad()
    def push(self, keys: Float[Tensor, "N P"], good: Bool[Tensor, ""] | None = None) -> None:
        """Take keys in; where `good`, which stays on the device, is false, what they would replace stays."""
        size = len(self.keys)
        keys = keys[-size:] if size else keys[:0]
        places = (torch.arange(len(keys), device=self.keys.device) + self.next) % max(size, 1)
        if good is not None:
            keys = torch.where(good, keys, self.keys[places])
        self.keys.index_copy_(0, places, keys)
        self.next = (self.next + len(keys)) % max(size, 1)
        self.filled = min(size, self.filled + len(keys))

    def get_extra_state(self) -> dict[str, int]:
        return {"filled": self.filled, "next": self.next}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.filled, self.next = state["filled"], state["next"]
