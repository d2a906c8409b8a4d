"""Every augmentation against its definition, clip by clip, in NumPy.

What a clip drew is read off a signal made for it (a ramp over time, unit vectors, an impulse) under the
same seed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from mica.skeleton import get_layout
from mica.transforms import augment as module
from mica.transforms.augment import VIEWS, AugmentConfig, augment
from mica.transforms.draws import Draws

LAYOUT = get_layout("kinect-20")
V = LAYOUT.num_joints
NOTHING = AugmentConfig()
STRONG = AugmentConfig(
    shortest_crop=0.1,
    time_shift=1 / 6,
    mirror=0.5,
    flip=0.5,
    yaw=90,
    rotate=30,
    tilt=17,
    shear=0.5,
    scale=0.2,
    noise=0.5,
    blur=0.5,
    axis_mask=0.5,
    corrupt_joints=5,
    time_flip=0.5,
)
EACH = {
    name: replace(NOTHING, **{name: 1.0 if isinstance(value, float) and value < 1 else value})
    for name, value in vars(STRONG).items()
    if name != "shortest_crop"
} | {"shortest_crop": replace(NOTHING, shortest_crop=0.1), "all": STRONG}
FIXED = {"mirror", "flip", "time_flip"}  # these draw only whether they act


def view(x: Tensor, config: AugmentConfig, seed: int = 0) -> Tensor:
    return augment(x, config, LAYOUT, Draws(seed, step=0, clips=range(len(x))))


def clips(n: int = 6, frames: int = 24, persons: int = 1) -> Tensor:
    return torch.randn(n, 3, frames, V, persons, generator=Generator().manual_seed(1))


def ramp(n: int, frames: int) -> Tensor:
    """Clips whose every coordinate is the frame number."""
    return torch.arange(float(frames)).view(1, 1, frames, 1, 1).expand(n, 3, frames, V, 1)


def matrices(config: AugmentConfig, n: int = 40) -> np.ndarray:
    """The matrix that each clip drew, seen on unit vectors standing at the first three joints."""
    x = torch.zeros(n, 3, 1, V, 1)
    x[:, :, 0, :3, 0] = torch.eye(3)
    return view(x, config)[:, :, 0, :3, 0].double().numpy()


def about(axis: int, degrees: float) -> np.ndarray:
    """Right-handed rotation about x, y or z, in its usual form."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array(
        [
            [[1, 0, 0], [0, c, -s], [0, s, c]],
            [[c, 0, s], [0, 1, 0], [-s, 0, c]],
            [[c, -s, 0], [s, c, 0], [0, 0, 1]],
        ][axis]
    )


def test_nothing_is_the_identity() -> None:
    x = clips()
    assert torch.equal(view(x, NOTHING), x)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("frames", [1, 2, 3, 5, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_dtype_and_input_are_kept(name: str, frames: int, dtype: torch.dtype) -> None:
    x = clips(frames=frames, persons=2).to(dtype)
    before = x.clone()
    out = view(x, EACH[name])
    assert (out.shape, out.dtype, out.device) == (x.shape, dtype, x.device)
    assert out.isfinite().all()
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", EACH)
def test_a_seed_fixes_the_view(name: str) -> None:
    x = clips()
    first, again, other = (view(x, EACH[name], seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, x)
    if name not in FIXED:
        assert not torch.equal(first, other)


@pytest.mark.parametrize("name", sorted(EACH.keys() - FIXED))
def test_every_clip_draws_for_itself(name: str) -> None:
    same = clips(n=1).expand(8, -1, -1, -1, -1)
    views = view(same, EACH[name]).flatten(1)
    assert len(torch.unique(views, dim=0)) >= (2 if name == "axis_mask" else 4)


@pytest.mark.parametrize("name", EACH)
def test_absent_person_stays_away(name: str) -> None:
    x = clips(persons=2)
    x[:, ..., 1] = 0
    x[0] = 0
    out = view(x, EACH[name])
    assert not out[..., 1].any()
    assert not out[0].any()
    assert out[1:, ..., 0].any()


@pytest.mark.parametrize("name", ["mirror", "flip", "noise", "blur", "axis_mask", "time_flip"])
def test_probability_is_of_the_clip(name: str) -> None:
    x = clips(n=400, frames=4)
    out = view(x, replace(NOTHING, **{name: 0.25}))
    changed = (out != x).flatten(1).any(1)
    assert 60 < changed.sum() < 140  # mean 100, standard deviation 8.7


@pytest.mark.parametrize("frames", [2, 7, 24])
@pytest.mark.parametrize("shortest", [0.1, 0.9])
def test_crop_resize(frames: int, shortest: float) -> None:
    n, x = 50, clips(50, frames)
    config = replace(NOTHING, shortest_crop=shortest)
    positions = view(ramp(n, frames), config)[:, 0, :, 0, 0].double().numpy()
    first, last = positions[:, 0], positions[:, -1]
    assert first.min() >= 0
    assert last.max() <= frames - 1
    shares = (last - first) / (frames - 1)
    assert shares.min() >= shortest - 1e-5
    assert shares.std() > 0.2 * (1 - shortest)
    np.testing.assert_allclose(positions, np.linspace(first, last, frames, axis=1), atol=1e-5)
    out = view(x, config).double().numpy()
    for i, c, v in np.ndindex(n, 3, 2):
        expected = np.interp(positions[i], np.arange(frames), x[i, c, :, v, 0].double().numpy())
        np.testing.assert_allclose(out[i, c, :, v, 0], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("frames", "share"), [(24, 1 / 6), (50, 1 / 6), (7, 1 / 6), (5, 0.5), (3, 1.0), (2, 9.0)]
)
def test_time_shift_is_a_window_of_the_reflected_clip(frames: int, share: float) -> None:
    n, pad = 60, min(int(frames * share), frames - 1)
    x, config = clips(n, frames), replace(NOTHING, time_shift=share)
    offsets = view(ramp(n, frames), config)[:, 0, :, 0, 0].numpy()
    out, seen = view(x, config).numpy(), set()
    for i in range(n):
        padded = np.pad(np.arange(frames), pad, mode="reflect")
        starts = [s for s in range(2 * pad + 1) if np.array_equal(padded[s : s + frames], offsets[i])]
        assert starts
        clip = np.pad(x[i].numpy(), ((0, 0), (pad, pad), (0, 0), (0, 0)), mode="reflect")
        np.testing.assert_array_equal(out[i], clip[:, starts[0] : starts[0] + frames])
        seen.update(starts)
    assert len(seen) >= min(pad + 1, 5)


@pytest.mark.parametrize("frames", range(1, 400, 7))
def test_a_sixth_pads_as_the_peers_do(frames: int) -> None:
    assert int(frames * (1 / 6)) == frames // 6


def test_mirror_and_flip() -> None:
    x = clips()
    mirrored = view(x, replace(NOTHING, mirror=1.0))
    flipped = view(x, replace(NOTHING, flip=1.0))
    for joint, name in enumerate(LAYOUT.joints):
        swap = {"left": "right", "right": "left"}
        partner = LAYOUT.joints.index(" ".join(swap.get(word, word) for word in name.split()))
        assert torch.equal(flipped[:, :, :, joint], x[:, :, :, partner])
        assert torch.equal(mirrored[:, 0, :, joint], -x[:, 0, :, partner])
        assert torch.equal(mirrored[:, 1:, :, joint], x[:, 1:, :, partner])
    for name in ("mirror", "flip", "time_flip"):
        once = view(x, EACH[name])
        assert torch.equal(view(once, EACH[name]), x)


def test_time_flip() -> None:
    x = clips()
    np.testing.assert_array_equal(view(x, EACH["time_flip"]), x.numpy()[:, :, ::-1])


def test_rotation_is_the_product_about_x_y_and_z() -> None:
    degrees = np.random.default_rng(0).uniform(-180, 180, (20, 3))
    out = module.rotation(torch.from_numpy(degrees).float()).double().numpy()
    expected = [about(0, x) @ about(1, y) @ about(2, z) for x, y, z in degrees]
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize(
    "turn", [{"yaw": 90}, {"rotate": 30}, {"tilt": 17}, {"yaw": 90, "rotate": 30, "tilt": 17}]
)
def test_rotations_keep_lengths_and_hands(turn: dict[str, float]) -> None:
    drawn = matrices(replace(NOTHING, **turn))
    np.testing.assert_allclose(
        drawn @ drawn.transpose(0, 2, 1), np.broadcast_to(np.eye(3), drawn.shape), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(drawn), 1, atol=1e-5)


def euler(drawn: np.ndarray) -> np.ndarray:
    """Angles x, y, z in degrees of R_x R_y R_z."""
    x = np.arctan2(-drawn[:, 1, 2], drawn[:, 2, 2])
    z = np.arctan2(-drawn[:, 0, 1], drawn[:, 0, 0])
    return np.degrees(np.stack([x, np.arcsin(drawn[:, 0, 2]), z], axis=1))


def test_yaw_turns_about_the_vertical_alone() -> None:
    angles = euler(matrices(replace(NOTHING, yaw=60)))
    assert np.abs(angles[:, [0, 2]]).max() < 1e-4
    assert -60 <= angles[:, 1].min() < -20 < 20 < angles[:, 1].max() <= 60


def test_rotate_has_one_main_axis() -> None:
    angles = np.sort(euler(matrices(replace(NOTHING, rotate=30), n=300)), axis=1)
    assert angles.min() >= -1e-4
    assert angles[:, 1].max() <= 1 + 1e-4
    assert 25 < angles[:, 2].max() <= 30 + 1e-4
    main = euler(matrices(replace(NOTHING, rotate=30), n=300)).argmax(1)
    assert np.bincount(main, minlength=3).min() > 60


def test_tilt_turns_about_every_axis() -> None:
    angles = euler(matrices(replace(NOTHING, tilt=17), n=300))
    assert (np.abs(angles).max(0) <= 17 + 1e-4).all()
    assert (angles.max(0) > 13).all()
    assert (angles.min(0) < -13).all()


def test_shear_is_off_the_diagonal() -> None:
    drawn = matrices(replace(NOTHING, shear=0.5), n=100)
    np.testing.assert_array_equal(drawn[:, range(3), range(3)], 1)
    entries = drawn[:, ~np.eye(3, dtype=bool)]
    assert (np.abs(entries) <= 0.5).all()
    assert (entries.max(0) > 0.4).all()
    assert (entries.min(0) < -0.4).all()


def test_scale_is_the_same_for_all_axes() -> None:
    drawn = matrices(replace(NOTHING, scale=0.2), n=100)
    sizes = drawn[:, 0, 0]
    np.testing.assert_array_equal(drawn, sizes[:, None, None] * np.eye(3))
    assert 0.8 - 1e-6 <= sizes.min() < 0.85 < 1.15 < sizes.max() <= 1.2 + 1e-6


def test_matrices_act_on_every_point() -> None:
    config = replace(NOTHING, yaw=90, rotate=30, tilt=17, shear=0.5, scale=0.2)
    n, x = 4, clips(4, persons=2)
    drawn, out = matrices(config, n), view(x, config)
    for i, t, v, m in np.ndindex(n, 24, V, 2):
        np.testing.assert_allclose(
            out[i, :, t, v, m], drawn[i] @ x[i, :, t, v, m].double().numpy(), atol=1e-5
        )


def test_noise_is_normal_of_a_hundredth() -> None:
    x = clips(n=20)
    noise = view(x, EACH["noise"]) - x
    assert noise.std() == pytest.approx(0.01, rel=0.03)
    assert abs(noise.mean()) < 3e-4
    assert (noise.abs() < 0.02).float().mean() == pytest.approx(0.9545, abs=0.01)


def test_blur_is_a_normalised_gaussian() -> None:
    n, frames = 40, 31
    impulse = torch.zeros(n, 3, frames, V, 1)
    impulse[:, :, frames // 2] = 1
    kernels = view(impulse, EACH["blur"])[:, 0, :, 0, 0].double().numpy()
    np.testing.assert_allclose(kernels.sum(1), 1, atol=1e-6)
    assert not kernels[:, : frames // 2 - 7].any()
    taps, offsets = kernels[:, frames // 2 - 7 : frames // 2 + 8], np.arange(-7, 8)
    sigma = np.sqrt(0.5 / np.log(taps[:, 7] / np.maximum(taps[:, 8], 1e-300)))
    assert 0.05 <= sigma.min() < 0.5 < 1.5 < sigma.max() <= 2 + 1e-5
    gaussian = np.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    np.testing.assert_allclose(taps, gaussian / gaussian.sum(1, keepdims=True), atol=1e-6)
    x = clips(n, frames)
    out = view(x, EACH["blur"])
    for i, v in np.ndindex(n, 3):
        padded = np.pad(x[i, 1, :, v, 0].double().numpy(), 7, mode="edge")
        np.testing.assert_allclose(out[i, 1, :, v, 0], np.convolve(padded, taps[i], mode="valid"), atol=1e-5)


def test_axis_mask_zeroes_one_axis() -> None:
    x = clips(n=60)
    out = view(x, EACH["axis_mask"])
    silent = (out == 0).all(dim=4).all(dim=3).all(dim=2)
    assert (silent.sum(1) == 1).all()
    assert silent.any(0).all()
    assert torch.equal(out[~silent], x[~silent])


@pytest.mark.parametrize("count", [1, 15, 20, 25])
def test_corrupt_joints_zeroes_that_many(count: int) -> None:
    x = clips(n=200, frames=2, persons=2)
    out = view(x, replace(NOTHING, corrupt_joints=count))
    silent = (out == 0).all(dim=4).all(dim=2).all(dim=1)
    assert (silent.sum(1) == min(count, V)).all()
    assert silent.any(0).all()
    kept = ~silent[:, None, None, :, None].expand_as(x)
    assert torch.equal(out[kept], x[kept])


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_draws_are_of_single_precision_whatever_the_clips_are(name: str, dtype: torch.dtype) -> None:
    """So that the view is the same but for rounding."""
    x = clips(persons=2)
    out = view(x.to(dtype), EACH[name])
    assert out.dtype == dtype
    bound = 1e-5 if dtype == torch.float64 else 0.1
    assert (out.float() - view(x, EACH[name])).abs().max() < bound


@pytest.mark.parametrize("name", EACH)
def test_memory_order_does_not_matter(name: str) -> None:
    x = clips(persons=2)
    for strided in (x.transpose(0, 4).contiguous().transpose(0, 4), torch.stack([x, x], 3)[:, :, :, 0]):
        assert not strided.is_contiguous()
        assert torch.equal(view(strided, EACH[name]), view(x, EACH[name]))


@pytest.mark.parametrize("name", EACH)
def test_parts_of_a_batch_have_the_views_that_they_have_in_the_whole(name: str) -> None:
    x = clips(n=64, persons=2)
    parts = [
        augment(x[start : start + 16], EACH[name], LAYOUT, Draws(3, step=5, clips=range(start, start + 16)))
        for start in range(0, 64, 16)
    ]
    assert torch.equal(torch.cat(parts), augment(x, EACH[name], LAYOUT, Draws(3, step=5, clips=range(64))))


@pytest.mark.parametrize("name", EACH)
def test_no_value_is_waited_for(name: str) -> None:
    """Tensors of the meta device have no values: whatever looks at one fails."""
    x = clips(persons=2).to("meta")
    out = augment(x, EACH[name], LAYOUT, Draws(0, 0, range(len(x)), device="meta"))
    assert (out.shape, out.device) == (x.shape, x.device)


def test_no_gradient_is_recorded() -> None:
    assert not view(clips().requires_grad_(), STRONG).requires_grad


def test_views_are_those_of_aimclr() -> None:
    assert VIEWS["basic"] == AugmentConfig(time_shift=1 / 6, shear=0.5)
    assert VIEWS["strong"] == AugmentConfig(
        time_shift=1 / 6, shear=0.5, flip=0.5, rotate=30, noise=0.5, blur=0.5, axis_mask=0.5
    )


@pytest.mark.parametrize("frames", [4, 24])
def test_the_strong_view_is_its_definition_clip_by_clip(frames: int) -> None:
    """The whole view in NumPy's doubles, a clip at a time, of the same draws."""
    n, pad = 40, frames // 6
    x, draws = clips(n, frames, persons=2), Draws(9, step=2, clips=range(n))
    drawn = {
        "offset": draws.integers(-pad, pad + 1),
        "flip": draws.chance(0.5),
        "angles": draws.uniform(0, 1, 3),
        "main": draws.integers(0, 3),
        "shear": draws.uniform(-0.5, 0.5, 3, 3),
        "noisy": draws.chance(0.5),
        "noise": draws.normal(*x.shape[1:]),
        "sigma": draws.uniform(0.1, 2),
        "blurred": draws.chance(0.5),
        "masked": draws.chance(0.5),
        "axis": draws.integers(0, 3),
    }
    out = augment(x, VIEWS["strong"], LAYOUT, Draws(9, step=2, clips=range(n)))
    assert all(0 < drawn[name].sum() < n for name in ("flip", "noisy", "blurred", "masked"))
    for i in range(n):
        own = {name: values[i].double().numpy() for name, values in drawn.items()}
        np.testing.assert_allclose(out[i], strong_view(x[i].double().numpy(), own), atol=1e-5)


def strong_view(clip: np.ndarray, own: dict[str, np.ndarray]) -> np.ndarray:
    """AimCLR's strong view of a clip (3, T, V, M) that drew `own`."""
    frames, pad = clip.shape[1], clip.shape[1] // 6
    padded = np.pad(clip, ((0, 0), (pad, pad), (0, 0), (0, 0)), mode="reflect")
    start = pad + int(own["offset"])
    clip = padded[:, start : start + frames]
    if own["flip"]:
        clip = clip[:, :, list(LAYOUT.mirror)]
    degrees = [angle * (30 if axis == own["main"] else 1) for axis, angle in enumerate(own["angles"])]
    turn = about(0, degrees[0]) @ about(1, degrees[1]) @ about(2, degrees[2])
    shear = np.where(np.eye(3) > 0, 1, own["shear"])
    clip = np.einsum("ij,jtvm->itvm", turn @ shear, clip)
    clip = clip + 0.01 * own["noise"] * own["noisy"]
    if own["blurred"]:
        kernel = np.exp(-(np.arange(-7, 8) ** 2) / (2 * own["sigma"] ** 2))
        wide = np.pad(clip, ((0, 0), (7, 7), (0, 0), (0, 0)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(wide, 15, axis=1)
        clip = windows @ (kernel / kernel.sum())
    clip = clip.copy()
    if own["masked"]:
        clip[int(own["axis"])] = 0
    return clip
