"""Augmentations of skeleton batches (N, C, T, V, M): batched tensor operations, each clip its own draw.

Definitions follow AimCLR (Guo et al., AAAI 2022, section 3.2) where it has them. Every function takes the batch and a
generator on the batch's device, so that the same seed gives the same views.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor

from mica.skeleton import SkeletonLayout

Batch = Float[Tensor, "N C T V M"]


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly each augmentation acts; 0 switches it off. They act in this order.

    Args:
        shortest_crop: shortest share of the clip that a random temporal window keeps (resized back to T); 1 is off.
        time_shift: reflect-pad by this share of T on both sides and cut a random window of T (AimCLR's crop: 1/6).
        mirror: probability of the mirrored person (left and right exchanged, x negated).
        flip: probability of exchanging left and right joints alone, as AimCLR does.
        yaw: largest turn about the vertical, degrees.
        rotate: AimCLR's rotation: up to this many degrees about one random axis, up to 1 about the others.
        tilt: random rotation about every axis, degrees each.
        shear: off-diagonal entries of the shear matrix, uniform in +- this.
        scale: relative change of size, uniform in +- this.
        noise: probability of adding normal noise of 0.01.
        blur: probability of a Gaussian blur over time, 15 taps, sigma uniform in [0.1, 2] frames.
        axis_mask: probability of zeroing one of x, y, z.
        corrupt_joints: number of joints whose coordinates are replaced by noise-free zeros.
        time_flip: probability of playing the clip backwards.
    """

    shortest_crop: float = 1.0
    time_shift: float = 0.0
    mirror: float = 0.0
    flip: float = 0.0
    yaw: float = 0.0
    rotate: float = 0.0
    tilt: float = 0.0
    shear: float = 0.0
    scale: float = 0.0
    noise: float = 0.0
    blur: float = 0.0
    axis_mask: float = 0.0
    corrupt_joints: int = 0
    time_flip: float = 0.0


def augment(x: Batch, config: AugmentConfig, layout: SkeletonLayout, generator: Generator) -> Batch:
    """Return one randomly augmented view of the batch.

    >>> from mica.skeleton import get_layout
    >>> x = torch.randn(4, 3, 16, 20, 1)
    >>> seeded = lambda: torch.Generator().manual_seed(7)
    >>> strong = AugmentConfig(shortest_crop=0.5, mirror=0.5, yaw=30, shear=0.5, noise=0.5)
    >>> one, two = (augment(x, strong, get_layout("kinect-20"), seeded()) for _ in range(2))
    >>> bool((one == two).all()), one.shape == x.shape
    (True, True)
    """
    if config.shortest_crop < 1:
        x = crop_resize(x, config.shortest_crop, generator)
    if config.time_shift > 0:
        x = time_shift(x, config.time_shift, generator)
    if config.mirror > 0:
        x = sometimes(x, mirror(x, layout), config.mirror, generator)
    if config.flip > 0:
        x = sometimes(x, x[:, :, :, list(layout.mirror)], config.flip, generator)
    if config.yaw > 0 or config.rotate > 0 or config.tilt > 0 or config.shear > 0 or config.scale > 0:
        x = transform(x, spatial_matrices(len(x), config, generator).to(x.dtype))
    if config.noise > 0:
        x = sometimes(x, add_noise(x, generator), config.noise, generator)
    if config.blur > 0:
        x = sometimes(x, blur(x, generator), config.blur, generator)
    if config.axis_mask > 0:
        x = sometimes(x, axis_mask(x, generator), config.axis_mask, generator)
    if config.corrupt_joints > 0:
        x = corrupt_joints(x, config.corrupt_joints, generator)
    if config.time_flip > 0:
        x = sometimes(x, x.flip(2), config.time_flip, generator)
    return x


def uniform(n: int, low: float, high: float, generator: Generator) -> Float[Tensor, " n"]:
    return torch.rand(n, generator=generator, device=generator.device) * (high - low) + low


def sometimes(x: Batch, changed: Batch, probability: float, generator: Generator) -> Batch:
    """Take each clip from `changed` with the given probability, else from `x`."""
    take = uniform(len(x), 0, 1, generator) < probability
    return torch.where(take.view(-1, 1, 1, 1, 1), changed, x)


def crop_resize(x: Batch, shortest: float, generator: Generator) -> Batch:
    """Cut a random window of a share in [shortest, 1] of the frames and resize it to T by linear interpolation."""
    frames = x.shape[2]
    length = uniform(len(x), shortest, 1, generator) * (frames - 1)
    start = uniform(len(x), 0, 1, generator) * (frames - 1 - length)
    steps = torch.linspace(0, 1, frames, device=x.device)
    return sample_frames(x, start[:, None] + length[:, None] * steps)


def time_shift(x: Batch, share: float, generator: Generator) -> Batch:
    """Reflect-pad `share` of T on both sides, then cut a random window of T."""
    frames = x.shape[2]
    pad = min(int(frames * share), frames - 1)  # a reflection has no more frames than that
    offset = torch.randint(-pad, pad + 1, (len(x), 1), generator=generator, device=x.device)
    position = (torch.arange(frames, device=x.device) + offset).abs()
    last = frames - 1
    return sample_frames(x, (last - (last - position).abs()).float())


def sample_frames(x: Batch, position: Float[Tensor, "N T"]) -> Batch:
    """Read the clips at fractional frame positions, each clip at its own."""
    low = position.floor().long().clamp(0, x.shape[2] - 1)
    high = (low + 1).clamp(max=x.shape[2] - 1)
    share = (position - low).to(x.dtype)[:, None, :, None, None]
    frames = rearrange(x, "n c t v m -> n t c v m")
    clips = torch.arange(len(x), device=x.device)[:, None]
    read = lambda index: rearrange(frames[clips, index], "n t c v m -> n c t v m")  # noqa: E731
    return torch.lerp(read(low), read(high), share.expand_as(x))


def mirror(x: Batch, layout: SkeletonLayout) -> Batch:
    """The mirrored person: left and right joints exchanged and x negated (a plain flip keeps x, as peers do)."""
    flipped = x[:, :, :, list(layout.mirror)]
    return torch.cat([-flipped[:, :1], flipped[:, 1:]], dim=1)


def spatial_matrices(n: int, config: AugmentConfig, generator: Generator) -> Float[Tensor, "n 3 3"]:
    """One 3 x 3 matrix a clip that holds all the rotations, the shear and the scale."""
    out = torch.eye(3, device=generator.device).expand(n, 3, 3)
    if config.yaw > 0:
        angles = torch.zeros(n, 3, device=generator.device)
        angles[:, 1] = uniform(n, -config.yaw, config.yaw, generator)
        out = out @ rotation(angles)
    if config.rotate > 0:
        angles = uniform(3 * n, 0, 1, generator).view(n, 3)
        main = torch.randint(3, (n, 1), generator=generator, device=generator.device)
        angles = angles.scatter(1, main, angles.gather(1, main) * config.rotate)
        out = out @ rotation(angles)
    if config.tilt > 0:
        out = out @ rotation(uniform(3 * n, -config.tilt, config.tilt, generator).view(n, 3))
    if config.shear > 0:
        entries = uniform(9 * n, -config.shear, config.shear, generator).view(n, 3, 3)
        eye = torch.eye(3, device=generator.device)
        out = out @ (entries * (1 - eye) + eye)
    if config.scale > 0:
        out = out * uniform(n, 1 - config.scale, 1 + config.scale, generator).view(n, 1, 1)
    return out


def rotation(degrees: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices R_x R_y R_z for angles about x, y and z, in degrees."""
    cos, sin = torch.cos(degrees * math.pi / 180), torch.sin(degrees * math.pi / 180)
    out = torch.eye(3, device=degrees.device).expand(len(degrees), 3, 3)
    for axis, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        turn = torch.eye(3, device=degrees.device).repeat(len(degrees), 1, 1)
        turn[:, i, i] = turn[:, j, j] = cos[:, axis]
        turn[:, i, j], turn[:, j, i] = -sin[:, axis], sin[:, axis]
        out = out @ turn
    return out


def transform(x: Batch, matrices: Float[Tensor, "N 3 3"]) -> Batch:
    return torch.einsum("nij,njtvm->nitvm", matrices, x)


def add_noise(x: Batch, generator: Generator, deviation: float = 0.01) -> Batch:
    """Add normal noise to every coordinate; a person who is not there (all zero) stays away."""
    present = (x != 0).any(dim=3, keepdim=True).any(dim=2, keepdim=True).any(dim=1, keepdim=True)
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + deviation * noise * present


def blur(x: Batch, generator: Generator, taps: int = 15) -> Batch:
    """Gaussian blur over time, a sigma in [0.1, 2] frames for each clip, the kernel normalised (peers forget to)."""
    sigma = uniform(len(x), 0.1, 2.0, generator)
    offsets = torch.arange(taps, device=x.device) - taps // 2
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(x.dtype)
    flat = rearrange(x, "n c t v m -> (c v m) n t")
    padded = F.pad(flat, (taps // 2, taps // 2), mode="replicate")
    out = F.conv1d(padded, kernel[:, None], groups=len(x))
    return rearrange(out, "(c v m) n t -> n c t v m", c=x.shape[1], v=x.shape[3])


def axis_mask(x: Batch, generator: Generator) -> Batch:
    """Zero one coordinate axis of each clip."""
    axis = torch.randint(x.shape[1], (len(x), 1), generator=generator, device=x.device)
    keep = torch.ones(x.shape[:2], device=x.device, dtype=x.dtype).scatter(1, axis, 0)
    return x * keep[:, :, None, None, None]


def corrupt_joints(x: Batch, count: int, generator: Generator) -> Batch:
    """Zero `count` random joints of each clip, in all its frames."""
    order = torch.rand(len(x), x.shape[3], generator=generator, device=x.device).argsort(1)
    keep = (order >= count).to(x.dtype)
    return x * keep[:, None, None, :, None]
