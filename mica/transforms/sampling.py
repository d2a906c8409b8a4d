"""From recorded clips of any length to the tensor an encoder takes: a whole batch at once, on its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mica.skeleton import SkeletonLayout
from mica.transforms.streams import Stream

Centering = Literal["frame", "clip"]


@dataclass(frozen=True)
class Preprocessing:
    """How a recorded clip becomes the encoder's input.

    Args:
        num_frames: T, to which every clip is resampled.
        stream: "joint", "bone" or "motion", computed after augmentation.
        align_view: turn every clip so that the body of its first frame has its left towards +x, and so looks along +z.
        center: subtract the centre joint of every "frame", or of the first frame of the "clip" (keeps the path).
    """

    num_frames: int = 64
    stream: Stream = "joint"
    align_view: bool = True
    center: Centering = "clip"


def prepare(
    keypoints: Float[Tensor, "F M V 3"],
    lengths: Int[Tensor, " N"],
    layout: SkeletonLayout,
    how: Preprocessing,
) -> Float[Tensor, "N 3 num_frames V M"]:
    """Fill drop-outs, resample, root-centre and turn to the front; a missing person stays zero.

    keypoints: metres, the frames of all clips one after another, an absent body all zero. lengths: the frames of each
    clip, at least one, F in all. The first person gives the origin and the heading for all, so that who stands where is
    kept. Resampling is linear interpolation: first and last frame stay, a one-frame clip is repeated. Nothing waits for
    a GPU.

    >>> from mica.skeleton import get_layout
    >>> clips = torch.randn(31 + 5, 2, 20, 3)  # one of 31 frames, one of 5
    >>> prepare(clips, torch.tensor([31, 5]), get_layout("kinect-20"), Preprocessing(num_frames=64)).shape
    torch.Size([2, 3, 64, 20, 2])
    """
    ends = lengths.cumsum(0)
    starts = ends - lengths
    before, after = nearest_seen(keypoints)
    with torch.no_grad():
        clips = resample(keypoints, before, after, starts, ends, how.num_frames)
        x = rearrange(clips, "n t m v c -> n c t v m").contiguous()
        if how.align_view:
            x = face_front(x, layout)
        origin = x[:, :, :, layout.center : layout.center + 1, :1]
        x = x - (origin if how.center == "frame" else origin[:, :, :1])
        present = before[ends - 1] >= starts[:, None]
        return x.mul_(present[:, None, None, None])


def nearest_seen(keypoints: Float[Tensor, "F M V 3"]) -> tuple[Int[Tensor, "F M"], Int[Tensor, "F M"]]:
    """For each frame and body the number of the nearest frame up to it, and from it on, that shows the body.

    -1 and F stand for none. A body is seen where it is not all zero.

    >>> body = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0]).view(5, 1, 1, 1).expand(5, 1, 20, 3)
    >>> [frames.flatten().tolist() for frames in nearest_seen(body)]
    [[-1, 1, 1, 1, 4], [1, 1, 4, 4, 4]]
    """
    seen = keypoints.flatten(2).abs().sum(2) != 0
    number = torch.arange(len(seen), device=seen.device)[:, None]
    before = torch.where(seen, number, -1).cummax(0).values
    after = torch.where(seen, number, len(seen)).flip(0).cummin(0).values.flip(0)
    return before, after


def resample(
    keypoints: Float[Tensor, "F M V 3"],
    before: Int[Tensor, "F M"],
    after: Int[Tensor, "F M"],
    starts: Int[Tensor, " N"],
    ends: Int[Tensor, " N"],
    num_frames: int,
) -> Float[Tensor, "N num_frames M V 3"]:
    """Interpolate each body between the frames of its clip that show it; before the first and past the last it holds.

    starts, ends: where the clips lie among the frames. A body that its clip never shows stays zero.
    """
    first, last = starts[:, None], ends[:, None] - 1
    # In whole numbers, so that the last position is the last frame to the bit.
    passed, steps = torch.arange(num_frames, device=starts.device) * (last - first), max(num_frames - 1, 1)
    here = first + passed // steps
    low, high = before[here], after[torch.minimum(here + 1, last)]
    low = torch.where(low < first[..., None], high, low).clamp(max=last[..., None])
    high = torch.where(high > last[..., None], low, high)
    passed = (here[..., None] - low) * steps + (passed % steps)[..., None]
    share = passed.to(keypoints.dtype) / ((high - low) * steps).clamp(min=1)
    out, next_ = (_take_bodies(keypoints, frame) for frame in (low, high))
    return out.addcmul_(next_.sub_(out), share[..., None, None])


def _take_bodies(
    keypoints: Float[Tensor, "F M V 3"], frame: Int[Tensor, "N T M"]
) -> Float[Tensor, "N T M V 3"]:
    """Read each body at frames of its own."""
    persons = keypoints.shape[1]
    rows = frame * persons + torch.arange(persons, device=frame.device)
    return keypoints.flatten(0, 1).index_select(0, rows.flatten()).view(*frame.shape, *keypoints.shape[2:])


def face_front(x: Float[Tensor, "N 3 T V M"], layout: SkeletonLayout) -> Float[Tensor, "N 3 T V M"]:
    """Turn each clip about the vertical (y) so that the shoulders and hips of its first body and frame lie along x.

    Where that body gives no direction (a collapsed or edge-on frame) the clip stays as it is.
    """
    marks, frame = layout.landmarks, x[:, :, 0, :, 0]
    across = frame[..., marks["left shoulder"]] - frame[..., marks["right shoulder"]]
    across = across + frame[..., marks["left hip"]] - frame[..., marks["right hip"]]
    length = torch.hypot(across[:, 0], across[:, 2])
    turned = length >= 1e-6
    cos = torch.where(turned, across[:, 0] / length, 1).view(-1, 1, 1, 1)
    sin = torch.where(turned, across[:, 2] / length, 0).view(-1, 1, 1, 1)
    right, up, near = x.unbind(1)
    return torch.stack([right * cos + near * sin, up, near * cos - right * sin], 1)
