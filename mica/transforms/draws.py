"""Random numbers of a batch that its clips' positions determine, however the batch is shared out among processes.

Counter-based, as in Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): no state is carried from
step to step. The mixing is Wellons' lowbias32, with a second key between its multiplications.
"""

from __future__ import annotations

import math
from hashlib import blake2b

import torch
from jaxtyping import Bool, Float32, Int, Int32
from torch import Tensor

_ODD = 0x9E3779B9 - (1 << 32)  # the golden ratio's bits: neighbouring counters end up far apart
_POOL = 64
"""Numbers a clip that are made at once: small requests share the cost."""


class Draws:
    """Draws for the clips at some positions of a global batch, on a device; each call gives new ones.

    Every number is a function of seed, stream, step, the clip's position and how much was asked for before: a batch of
    256 on one process draws what four processes with 64 positions each draw. Nothing waits for a GPU.

    Args:
        seed: any integer.
        step: the step of training, below 2^32; a tensor of no dimensions on the device draws anew each time that a CUDA
            graph is replayed.
        clips: positions in the global batch.
        device: where the numbers are made.
        stream: numbers of another stream have nothing to do with these.

    >>> whole = Draws(seed=7, step=0, clips=range(4)).uniform(0, 1, 2)
    >>> half = Draws(seed=7, step=0, clips=range(2, 4)).uniform(0, 1, 2)
    >>> whole.shape, bool((whole[2:] == half).all())
    (torch.Size([4, 2]), True)
    """

    def __init__(
        self,
        seed: int,
        step: int | Int[Tensor, ""],
        clips: range,
        device: torch.device | str = "cpu",
        stream: int = 0,
    ) -> None:
        self.clips, self.device = clips, device
        positions = torch.arange(clips.start, clips.stop, clips.step, dtype=torch.int32, device=device)
        word = step.to(torch.int32) if isinstance(step, Tensor) else _signed(step)
        self._outer, self._inner = (
            _mix(_mix(positions[:, None] * _ODD + base) ^ word) for base in _bases(seed, stream)
        )
        self._used = 0
        self._pool: Float32[Tensor, "N left"] = torch.empty(len(clips), 0, device=device)

    def bits(self, count: int) -> Int32[Tensor, "N count"]:
        """Return 32 random bits each."""
        counters = torch.arange(self._used, self._used + count, dtype=torch.int32, device=self.device)
        self._used += count
        return _mix(counters.mul_(_ODD) ^ self._outer, self._inner)

    def uniform(self, low: float, high: float, *shape: int) -> Float32[Tensor, "N ..."]:
        """Return numbers from `low` up to `high`, of 24 random bits each, in `shape` for every clip."""
        return self._unit(*shape) * (high - low) + low

    def integers(self, low: int, high: int, *shape: int) -> Int[Tensor, "N ..."]:
        """Return whole numbers from `low` up to, not including, `high`, which may be at most 2^20 apart."""
        return (self._unit(*shape) * (high - low)).long() + low

    def chance(self, probability: float) -> Bool[Tensor, " N"]:
        """Choose each clip with the given probability."""
        return self._unit() < probability

    def normal(self, *shape: int) -> Float32[Tensor, "N ..."]:
        """Return normal numbers, mean 0 and deviation 1, by the method of Box and Muller (1958).

        32 random bits make two of them, 16 for the angle and 16 for the radius, so that none lies beyond 4.9.
        """
        count = math.prod(shape)
        bits = self.bits((count + 1) // 2)
        angle = (bits >> 16).float().mul_(2 * math.pi / (1 << 16))
        share = bits.bitwise_and_(0xFFFF).float().mul_(1 / (1 << 16)).add_(0.5 / (1 << 16))
        radius = share.log_().mul_(-2).sqrt_()
        out = torch.empty(len(bits), 2, bits.shape[1], device=self.device)
        torch.mul(radius, angle.cos(), out=out[:, 0])
        torch.mul(radius, angle.sin_(), out=out[:, 1])
        return out.flatten(1)[:, :count].reshape(len(bits), *shape)

    def _unit(self, *shape: int) -> Float32[Tensor, "N ..."]:
        """Numbers in [0, 1)."""
        count = math.prod(shape)
        if self._pool.shape[1] < count:
            bits = self.bits(max(count, _POOL))
            self._pool = _shift_right(bits, 8).float().mul_(1 / (1 << 24))
        taken, self._pool = self._pool[:, :count], self._pool[:, count:]
        return taken.reshape(len(taken), *shape)


def fix_generators(*numbers: int) -> None:
    """Have whatever draws from PyTorch's own generators next draw what these numbers say, on every device.

    Not their sum, nor shifted: of a seed, PyTorch's generator for CPUs takes the lowest 32 bits alone.

    >>> fix_generators(7, 1)
    >>> one = torch.rand(2)
    >>> fix_generators(7, 2)
    >>> bool((one == torch.rand(2)).any())
    False
    """
    digest = blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest) >> 1)


def _bases(seed: int, stream: int) -> tuple[int, int]:
    """Two signed 32-bit numbers that have nothing in common with those of a neighbouring seed."""
    digest = blake2b(f"{seed} {stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], signed=True), int.from_bytes(digest[4:], signed=True)


def _signed(word: int) -> int:
    """The lowest 32 bits, as PyTorch's integers have them."""
    return (word + (1 << 31)) % (1 << 32) - (1 << 31)


def _shift_right(x: Int32[Tensor, "N K"], bits: int) -> Int32[Tensor, "N K"]:
    """Shift zeros in from the left; PyTorch's own shift repeats the sign."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def _mix(x: Int32[Tensor, "N K"], key: Int32[Tensor, "N 1"] | int = 0) -> Int32[Tensor, "N K"]:
    """Scramble in place, a bijection for each key; products wrap around."""
    x.bitwise_xor_(_shift_right(x, 16)).mul_(0x7FEB352D)
    x.bitwise_xor_(_shift_right(x, 15)).add_(key).mul_(0x846CA68B - (1 << 32))
    return x.bitwise_xor_(_shift_right(x, 16))
