"""FreST: the identity when new, a dense float64 computation when not, and any number of frames."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mica.models.frest import FreST, Start, real_fourier_basis
from mica.skeleton import get_layout

LAYOUT = get_layout("kinect-20")
V = LAYOUT.num_joints


def layer(num_frames: int = 16, trained: bool = True, channels: int = 8, **how: object) -> FreST:
    """A FreST layer; `trained` fills every parameter and statistic with random numbers."""
    torch.manual_seed(0)
    out = FreST(channels, num_frames, V, layout=LAYOUT, **how)
    if trained:
        for parameter in out.parameters():
            torch.nn.init.normal_(parameter)
        torch.nn.init.normal_(out.norm.running_mean)
        torch.nn.init.uniform_(out.norm.running_var, 0.5, 2)
        if out.gate.threshold_offset is not None:
            torch.nn.init.uniform_(out.gate.threshold_offset, 2, 5)  # thresholds of 0.07 to 0.9
    return out


def signal(frames: int = 16, n: int = 3, channels: int = 8) -> Tensor:
    return torch.randn(n, channels, frames, V, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sparsity", ["joint", "bin", None])
@pytest.mark.parametrize("spatial", ["graph", "dft", None])
@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 40])
def test_new_layer_is_the_identity(frames: int, spatial: str, sparsity: str, training: bool) -> None:
    new = layer(trained=False, spatial=spatial, sparsity=sparsity).train(training)
    x = signal(frames)
    assert torch.equal(new(x), x)


def dense(frest: FreST, x: Tensor) -> np.ndarray:
    """The layer in evaluation mode by full matrices over joints and frames."""
    parameters = {name: value.detach().numpy() for name, value in frest.state_dict().items()}
    n, channels, frames, _ = x.shape
    dft = np.exp(-2j * np.pi * np.outer(np.arange(frames), np.arange(frames)) / frames) / np.sqrt(frames)
    real_bins = [f for f in range(frames) if 2 * f % frames == 0]
    signals = x.numpy()
    filtered = np.zeros_like(signals)
    for i, c in np.ndindex(n, channels):
        g = c * frest.groups // channels
        here = signals[i, c]
        if frest.spatial_basis is not None:
            basis = frest.spatial_basis.numpy()
            here = here @ basis @ np.diag(parameters["spatial_response"][g]) @ basis.T
        for v in range(V):
            half = parameters["gate.weight"][g, :, v] @ np.array([1, 1j])
            full = np.array([half[f] if f <= frames - f else half[frames - f].conj() for f in range(frames)])
            full[real_bins] = full[real_bins].real
            spectrum = full * (dft @ here[:, v])
            threshold = 0.0 if frest.gate.threshold is None else frest.gate.threshold[g, v].item()
            if frest.gate.sparsity == "bin":
                spectrum = spectrum * np.maximum(0, 1 - threshold / np.abs(spectrum))
            out = (dft.conj().T @ spectrum).real
            if frest.gate.sparsity == "joint":
                out = out * max(0.0, 1 - threshold / np.sqrt(np.mean(out**2)))
            filtered[i, c, :, v] = out
    mixed = np.einsum("oc,nctv->notv", parameters["mix.weight"][:, :, 0, 0], filtered)
    scale = parameters["norm.weight"] / np.sqrt(parameters["norm.running_var"] + frest.norm.eps)
    shift = parameters["norm.bias"] - parameters["norm.running_mean"] * scale
    return signals + mixed * scale[:, None, None] + shift[:, None, None]


@pytest.mark.parametrize("sparsity", ["joint", "bin", None])
@pytest.mark.parametrize("spatial", ["graph", "dft", None])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("frames", [1, 2, 7, 8])
def test_layer_is_its_definition(frames: int, groups: int, spatial: str, sparsity: str) -> None:
    frest = layer(frames, groups=groups, spatial=spatial, sparsity=sparsity).double().eval()
    x = signal(frames, n=2).double()
    with torch.no_grad():
        np.testing.assert_allclose(frest(x).numpy(), dense(frest, x), atol=1e-10)


def test_a_random_start_has_filters_of_unit_power_and_counts_from_the_first_step() -> None:
    torch.manual_seed(0)
    frest = FreST(64, 64, V, groups=64, layout=LAYOUT, start="random")
    power = frest.gate.weight.detach().square().sum(-1)
    assert power.mean().item() == pytest.approx(1, abs=0.02)
    assert power[:, 1:-1].std().item() == pytest.approx(
        1, abs=0.05
    )  # exponential, as of a complex normal variable
    assert torch.equal(frest.norm.weight, torch.ones(64))
    x = torch.randn(2, 64, 64, V)
    assert (frest(x) - x).std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("frames", [1, 2, 7, 8])
def test_a_random_start_draws_nothing_that_cannot_learn(frames: int) -> None:
    torch.manual_seed(0)
    frest = FreST(64, frames, V, groups=64, layout=LAYOUT, sparsity=None, start="random")
    power = frest.gate.weight.detach().square().sum(-1)
    torch.testing.assert_close(power.mean((0, 2)), torch.ones(frames // 2 + 1), atol=0.15, rtol=0)
    frest.filter(signal(frames, channels=64)).square().sum().backward()
    assert torch.equal(frest.gate.weight.ne(0), frest.gate.weight.grad.ne(0))


@pytest.mark.parametrize("start", get_args(Start))
def test_its_parameters_can_be_counted_without_numbers(start: Start) -> None:
    def shapes() -> dict[str, torch.Size]:
        return {
            name: part.shape for name, part in FreST(8, 7, V, layout=LAYOUT, start=start).named_parameters()
        }

    with torch.device("meta"):
        counted = shapes()
    assert counted == shapes()


@pytest.mark.parametrize("size", [1, 2, 5, 20, 25])
def test_fourier_basis_is_orthonormal_low_frequencies_first(size: int) -> None:
    basis = real_fourier_basis(size).astype(np.float64)
    np.testing.assert_allclose(basis.T @ basis, np.eye(size), atol=1e-6)
    power = np.abs(np.fft.fft(basis, axis=0)) ** 2
    frequencies = power[: size // 2 + 1].argmax(0)
    np.testing.assert_array_equal(frequencies, [(column + 1) // 2 for column in range(size)])


def resampled(x: Tensor, frames: int) -> Tensor:
    """A periodic signal at another number of samples, by its Fourier series."""
    spectrum = torch.fft.rfft(x, dim=2, norm="forward")
    bins = frames // 2 + 1
    kept = torch.zeros(*x.shape[:2], bins, V, dtype=spectrum.dtype)
    shared = min(bins, spectrum.shape[2])
    kept[:, :, :shared] = spectrum[:, :, :shared]
    return torch.fft.irfft(kept, n=frames, dim=2, norm="forward")


@settings(max_examples=40, deadline=None)
@given(
    built=st.integers(3, 24),
    frames=st.integers(3, 24),
    others=st.integers(3, 24),
    sparsity=st.sampled_from(["joint", "bin", None]),
    seed=st.integers(0, 99),
)
def test_filtering_commutes_with_resampling_the_clip(
    built: int, frames: int, others: int, sparsity: str | None, seed: int
) -> None:
    frest = layer(built, groups=2, sparsity=sparsity).double().eval()
    shortest = min(built, frames, others)
    generator = torch.Generator().manual_seed(seed)
    band_limited = torch.randn(2, 8, shortest - 1 + shortest % 2, V, generator=generator, dtype=torch.float64)
    x = resampled(band_limited, frames)
    with torch.no_grad():
        torch.testing.assert_close(
            frest(resampled(x, others)), resampled(frest(x), others), atol=1e-6, rtol=0
        )


def test_more_frames_repeat_the_highest_frequency() -> None:
    frest = layer(8, groups=1, sparsity=None, spatial=None)
    torch.nn.init.zeros_(frest.gate.weight)
    torch.nn.init.constant_(frest.gate.weight[:, -1, :, 0], 2.0)
    x = signal(20)
    spectrum = torch.fft.rfft(x, dim=2)
    spectrum[:, :, :4] = 0
    torch.testing.assert_close(frest.filter(x), 2 * torch.fft.irfft(spectrum, n=20, dim=2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("built", [1, 7, 8])
@pytest.mark.parametrize("more", [1, 2, 9])
def test_what_did_nothing_does_nothing_at_more_frames(built: int, more: int) -> None:
    frest = layer(built, groups=2, sparsity=None)
    x, weight = signal(built + more), frest.gate.weight
    assert torch.equal(frest.gate_at(built)[0], weight)
    before = frest.filter(x)
    with torch.no_grad():
        for real in {0, built // 2} if built % 2 == 0 else {0}:
            weight[:, real, :, 1] += 5
    assert torch.equal(frest.filter(x), before)
    with torch.no_grad():
        weight[:, -1] += 5
    assert not torch.allclose(frest.filter(x), before, atol=0.1)


def test_memory_format_does_not_matter() -> None:
    frest, x = layer().eval(), signal()
    out = frest(channels_last(x))
    torch.testing.assert_close(out, frest(x), atol=1e-5, rtol=1e-5)
    strided = signal(32)[:, :, ::2]
    torch.testing.assert_close(frest(strided), frest(strided.contiguous()), atol=1e-5, rtol=1e-5)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


# The same signal in other memory.
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": channels_last,
    "every other frame": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "every other frame, channels_last": lambda x: channels_last(x.repeat_interleave(2, dim=2))[:, :, ::2],
    "every other joint, channels_last": lambda x: channels_last(x.repeat_interleave(2, dim=3))[..., ::2],
    "joints before frames": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "joints before frames, channels_last": lambda x: channels_last(x.transpose(2, 3)).transpose(2, 3),
}


def spatial_alone(groups: int, spatial: str, frames: int) -> FreST:
    """A float64 layer whose gate lets everything pass, so that its filter is the spatial one."""
    out = layer(frames, trained=False, groups=groups, spatial=spatial, sparsity=None).double()
    torch.nn.init.normal_(out.spatial_response)
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spatial", ["graph", "dft"])
@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("frames", [1, 6])
def test_spatial_filter_is_its_definition(frames: int, groups: int, spatial: str, layout: str) -> None:
    frest = spatial_alone(groups, spatial, frames)
    x = LAYOUTS[layout](signal(frames).double()).requires_grad_()
    response = frest.spatial_response.repeat_interleave(8 // groups, dim=0)
    basis = frest.spatial_basis
    expected = torch.einsum("nctv,vk,ck,wk->nctw", x, basis, response, basis)
    out = frest.filter(x)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)
    probe, wanted = torch.randn_like(expected), (x, frest.spatial_response)
    ours, theirs = (torch.autograd.grad((result * probe).sum(), wanted) for result in (out, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_format_stays(dtype: torch.dtype, groups: int, memory_format: torch.memory_format) -> None:
    frest = layer(groups=groups).to(dtype)
    x = signal().to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    for run in (frest._spatial, frest.filter, frest):
        out = run(x)
        assert out.is_contiguous(memory_format=memory_format)
        # What layers below get. x.grad is no proof of it: autograd puts that into the layout of x.
        (gradient,) = torch.autograd.grad(out, x, torch.randn_like(out))
        assert gradient.is_contiguous(memory_format=memory_format)
    frest(x).sum().backward()
    assert x.grad.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 4])
def test_no_clips(groups: int, memory_format: torch.memory_format) -> None:
    frest = layer(groups=groups).eval()
    x = torch.empty(0, 8, 16, V, memory_format=memory_format).requires_grad_()
    out = frest(x)
    out.sum().backward()
    assert out.shape == x.grad.shape == x.shape
    assert not frest.spatial_response.grad.any()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype: torch.dtype, groups: int, memory_format: torch.memory_format) -> None:
    frest, x = layer(groups=groups, sparsity=None), signal().contiguous(memory_format=memory_format)
    expected = frest.filter(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = frest.filter(x.to(dtype))
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).norm() < 0.02 * expected.norm()
    out.float().square().sum().backward()
    assert frest.spatial_response.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    exact = layer().eval()
    x = signal()
    expected = exact(x)
    out = layer().to(dtype).eval()(x.to(dtype))
    assert out.dtype == dtype
    assert (out.float() - expected).norm() < 0.05 * expected.norm()


def test_gate_map_shows_what_is_kept() -> None:
    frest = layer(16, trained=False, groups=2, spatial=None)
    with torch.no_grad():
        frest.gate.weight[0, 3, 5] = torch.tensor([3.0, 4.0])
        frest.gate.threshold_offset[0, 7] = 1000.0  # joint 7 never passes in the first half of the channels
        frest.gate.weight[:, [0, 8], :, 1] = 7.0  # does nothing: spectra are real there
    x = signal()
    x[1, :, :, 2] = 0  # joint 2 of clip 1 does not move
    shown = frest.gate_map(x)
    expected = torch.ones(V, 9)
    expected[5, 3] = (5 + 1) / 2
    torch.testing.assert_close(shown["filter"], expected)
    kept = torch.ones(3, V)
    kept[:, 7], kept[1, 2] = 0.5, 0
    assert torch.equal(shown["kept"], kept)
    assert list(frest.gate_map()) == ["filter"]
    assert not any(value.requires_grad for value in shown.values())


@pytest.mark.parametrize("sparsity", ["joint", "bin", None])
def test_every_parameter_learns_once_gamma_moves(sparsity: str | None) -> None:
    frest = layer(trained=False, sparsity=sparsity)
    x = signal().requires_grad_()
    target = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    (frest(x) - target).square().sum().backward()
    assert frest.norm.weight.grad.abs().min() > 0
    assert not frest.gate.weight.grad.any()
    torch.nn.init.constant_(frest.norm.weight, 0.5)
    (frest(x) - target).square().sum().backward()
    assert x.grad.isfinite().all()
    for name, parameter in frest.named_parameters():
        moved = parameter.grad[..., 0] if name == "gate.weight" else parameter.grad
        assert moved.ne(0).float().mean() > 0.9, name


def test_state_survives_saving() -> None:
    trained, fresh = layer().eval(), layer(trained=False).eval()
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(signal()), trained(signal()))
    assert "spatial_basis" not in trained.state_dict()


@pytest.mark.parametrize("shape", [(2, 8, 16, 25), (2, 4, 16, 20), (8, 16, 20), (2, 20, 16, 8)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"FreST expects \(N, 8, T, 20\), got \("):
        layer()(torch.zeros(shape))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"groups": 3}, "groups must divide channels"),
        ({"layout": None}, 'spatial="graph" needs the skeleton'),
        ({"layout": get_layout("ntu-25")}, "layout ntu-25 has 25 joints, the layer 20"),
        ({"spatial": "wavelet"}, 'spatial must be "graph", "dft" or None, got \'wavelet\''),
        ({"sparsity": "bins"}, "sparsity must be one of joint, bin, or None; got 'bins'"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"start": "zero"}, "start must be one of identity, random; got 'zero'"),
    ],
)
def test_impossible_layers_are_refused(how: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FreST(**{"channels": 8, "num_frames": 16, "num_joints": V, "layout": LAYOUT, **how})
