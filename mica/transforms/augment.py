"""Augmentations of skeleton batches (N, C, T, V, M): batched tensor operations, each clip its own draw.

Definitions follow AimCLR (Guo et al., AAAI 2022, section 3.2) where it has them. Every function takes the batch and its
`Draws`, so that the same seed and step give the same views; all are done where the batch is, and none waits for a GPU.
Products of matrices move joints and smooth time: where PyTorch was told to take products of float32 on a GPU less
exactly ("high"), so are these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mica.skeleton import SkeletonLayout
from mica.transforms.draws import Draws

Batch = Float[Tensor, "N C T V M"]


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly each augmentation acts; 0 switches it off. They act in this order,
    but for those that turn and deform: scale, shear, tilt, rotate, yaw.

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


VIEWS = {
    "basic": AugmentConfig(time_shift=1 / 6, shear=0.5),
    "strong": AugmentConfig(
        time_shift=1 / 6, flip=0.5, rotate=30.0, shear=0.5, noise=0.5, blur=0.5, axis_mask=0.5
    ),
}
"""AimCLR's two views, with the probabilities of its code; see docs/comparison.md."""


def augment(x: Batch, config: AugmentConfig, layout: SkeletonLayout, draws: Draws) -> Batch:
    """Return one randomly augmented view of the batch; a person who is not there (all zero) stays away.

    >>> from mica.skeleton import get_layout
    >>> x = torch.randn(4, 3, 16, 20, 1)
    >>> one, two = (
    ...     augment(x, VIEWS["strong"], get_layout("kinect-20"), Draws(seed=7, step=0, clips=range(4)))
    ...     for _ in range(2)
    ... )
    >>> bool((one == two).all()), one.shape == x.shape
    (True, True)
    """
    with torch.no_grad():
        if config.shortest_crop < 1:
            x = crop_resize(x, config.shortest_crop, draws)
        if config.time_shift > 0:
            x = time_shift(x, config.time_shift, draws)
        if config.mirror > 0:
            x = mirror(x, config.mirror, layout, draws)
        if config.flip > 0:
            x = exchange_sides(x, draws.chance(config.flip), layout)
        if config.yaw > 0 or config.rotate > 0 or config.tilt > 0 or config.shear > 0 or config.scale > 0:
            x = transform(x, spatial_matrices(config, draws).to(x.dtype))
        if config.noise > 0:
            x = add_noise(x, config.noise, draws)
        if config.blur > 0:
            x = blur(x, config.blur, draws)
        if config.axis_mask > 0:
            x = axis_mask(x, config.axis_mask, draws)
        if config.corrupt_joints > 0:
            x = corrupt_joints(x, config.corrupt_joints, draws)
        if config.time_flip > 0:
            x = time_flip(x, config.time_flip, draws)
        return x


def crop_resize(x: Batch, shortest: float, draws: Draws) -> Batch:
    """Cut a random window of a share in [shortest, 1] of the frames and resize it to T by linear interpolation."""
    last = x.shape[2] - 1
    length = draws.uniform(shortest, 1, 1) * last
    start = draws.uniform(0, 1, 1) * (last - length)
    position = start + length * torch.linspace(0, 1, last + 1, device=x.device)
    low = position.long().clamp(max=last)
    share = (position - low).to(x.dtype)[:, None, :, None, None]
    before, after = take_frames(x, low), take_frames(x, (low + 1).clamp(max=last))
    return before.addcmul_(after.sub_(before), share)


def time_shift(x: Batch, share: float, draws: Draws) -> Batch:
    """Reflect-pad `share` of T on both sides, then cut a random window of T."""
    frames = x.shape[2]
    pad = min(int(frames * share), frames - 1)  # a reflection has no more frames than that
    position = (torch.arange(frames, device=x.device) + draws.integers(-pad, pad + 1, 1)).abs()
    last = frames - 1
    return take_frames(x, last - (last - position).abs())


def time_flip(x: Batch, probability: float, draws: Draws) -> Batch:
    """Play clips backwards."""
    forward = torch.arange(x.shape[2], device=x.device)
    return take_frames(x, torch.where(draws.chance(probability)[:, None], forward.flip(0), forward))


def take_frames(x: Batch, index: Int[Tensor, "N T"]) -> Batch:
    """Put the clips together from frames of their own, by number."""
    n, channels, frames = x.shape[:3]
    first = torch.arange(0, n * channels * frames, frames, device=x.device).view(n, channels, 1)
    rows = x.reshape(n * channels * frames, -1)
    return rows.index_select(0, (first + index[:, None]).flatten()).view(x.shape)


def mirror(x: Batch, probability: float, layout: SkeletonLayout, draws: Draws) -> Batch:
    """Mirror persons: left and right joints exchanged and x negated (a plain flip keeps x, as peers do)."""
    mirrored = draws.chance(probability)
    out = exchange_sides(x, mirrored, layout)
    out[:, :1] *= torch.where(mirrored, -1.0, 1.0).to(x.dtype).view(-1, 1, 1, 1, 1)
    return out


def exchange_sides(x: Batch, where: Bool[Tensor, " N"], layout: SkeletonLayout) -> Batch:
    """Exchange left and right joints of some clips, by a product with zeros and ones: quicker than reading them so."""
    n, channels, frames, joints, persons = x.shape
    keep, exchange = _exchange(layout.mirror, persons, x.dtype, x.device)
    matrices = torch.where(where.view(-1, 1, 1), exchange, keep)
    return torch.bmm(x.reshape(n, channels * frames, joints * persons), matrices).view(x.shape)


@lru_cache(maxsize=8)
def _exchange(
    partner: tuple[int, ...], persons: int, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, "VM VM"], Float[Tensor, "VM VM"]]:
    """The identity, and the matrix that gives each joint of each person its partner's place."""
    order = (torch.tensor(partner)[:, None] * persons + torch.arange(persons)).flatten()
    keep = torch.eye(len(order), dtype=dtype)
    return keep.to(device), keep[order].to(device)


def spatial_matrices(config: AugmentConfig, draws: Draws) -> Float[Tensor, "N 3 3"]:
    """One 3 x 3 matrix a clip that holds all the rotations, the shear and the scale."""
    eye = torch.eye(3, device=draws.device)
    out = eye.expand(len(draws.clips), 3, 3)
    if config.yaw > 0:
        upright = torch.arange(3, device=draws.device) == 1
        out = out @ rotation(draws.uniform(-config.yaw, config.yaw, 1) * upright)
    if config.rotate > 0:
        angles = draws.uniform(0, 1, 3)
        main = torch.arange(3, device=draws.device) == draws.integers(0, 3, 1)
        out = out @ rotation(torch.where(main, angles * config.rotate, angles))
    if config.tilt > 0:
        out = out @ rotation(draws.uniform(-config.tilt, config.tilt, 3))
    if config.shear > 0:
        out = out @ torch.where(eye > 0, eye, draws.uniform(-config.shear, config.shear, 3, 3))
    if config.scale > 0:
        out = out * draws.uniform(1 - config.scale, 1 + config.scale, 1, 1)
    return out


def rotation(degrees: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3 3"]:
    """Rotation matrices R_x R_y R_z for angles about x, y and z, in degrees."""
    angles = degrees * (math.pi / 180)
    (cx, cy, cz), (sx, sy, sz) = angles.cos().unbind(1), angles.sin().unbind(1)
    rows = (
        (cy * cz, -cy * sz, sy),
        (cx * sz + sx * sy * cz, cx * cz - sx * sy * sz, -sx * cy),
        (sx * sz - cx * sy * cz, sx * cz + cx * sy * sz, cx * cy),
    )
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def transform(x: Batch, matrices: Float[Tensor, "N 3 3"]) -> Batch:
    """Multiply every point of a clip by the clip's matrix."""
    return torch.bmm(matrices, x.flatten(2)).view(x.shape)


def add_noise(x: Batch, probability: float, draws: Draws, deviation: float = 0.01) -> Batch:
    """Add normal noise to every coordinate of the persons who are there."""
    amount = deviation * draws.chance(probability).view(-1, 1, 1)
    present = x.flatten(1, 2).flatten(2).abs().sum(1).view(len(x), x.shape[3], -1).any(1, keepdim=True)
    amount = (amount * present).expand(-1, x.shape[3], -1).reshape(len(x), 1, 1, -1)
    noise = draws.normal(*x.shape[1:]).flatten(3).mul_(amount)
    return noise.to(x.dtype).view(x.shape).add_(x)


def blur(x: Batch, probability: float, draws: Draws, taps: int = 15) -> Batch:
    """Gaussian blur over time, a sigma in [0.1, 2] frames for each clip, the kernel normalised (peers forget to)."""
    sigma = draws.uniform(0.1, 2.0, 1)
    offsets = torch.arange(taps, device=x.device) - taps // 2
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    kernel = torch.where(draws.chance(probability)[:, None], kernel, offsets == 0).to(x.dtype)
    frames = x.shape[2]
    matrices = (kernel @ _tap_positions(frames, taps, x.dtype, x.device)).view(-1, 1, frames, frames)
    return (matrices @ x.flatten(3)).view(x.shape)


@lru_cache(maxsize=8)
def _tap_positions(
    frames: int, taps: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "taps TT"]:
    """What a tap adds to the T x T matrix of a convolution over time whose first and last frames go on for ever."""
    time = torch.arange(frames)
    source = (time + torch.arange(taps)[:, None] - taps // 2).clamp(0, frames - 1)
    return (source[:, :, None] == time).to(dtype).flatten(1).to(device)


def axis_mask(x: Batch, probability: float, draws: Draws) -> Batch:
    """Zero one coordinate axis of a clip."""
    axis = torch.where(draws.chance(probability)[:, None], draws.integers(0, x.shape[1], 1), -1)
    keep = torch.arange(x.shape[1], device=x.device) != axis
    return x * keep[:, :, None, None, None]


def corrupt_joints(x: Batch, count: int, draws: Draws) -> Batch:
    """Zero `count` random joints of each clip, in all its frames."""
    order = draws.uniform(0, 1, x.shape[3]).argsort(1)
    return x * (order >= count)[:, None, None, :, None]
