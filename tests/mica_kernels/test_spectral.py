"""The spectral gate in PyTorch against sums written out in numpy: the definition, its gradients and its ugly cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mica_kernels import spectral_gate
from mica_kernels.backend import VARIABLE
from mica_kernels.spectral.reference import fourier_matrices

FRAMES = [1, 2, 3, 4, 7, 8, 50]
SPARSITIES = ["joint", "bin"]


@pytest.fixture(autouse=True, params=["reference", "dense"])
def _implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, request.param)


def naive_gate(
    x: torch.Tensor, weight: torch.Tensor, threshold: torch.Tensor | None, sparsity: str = "joint"
) -> NDArray[np.float64]:
    """The gate column by column: a two-sided DFT matrix, the filter extended by conjugate symmetry."""
    signal, parts = x.detach().double().numpy(), weight.detach().double().numpy()
    clips, channels, frames, joints = signal.shape
    time = np.arange(frames)
    dft = np.exp(-2j * np.pi * np.outer(time, time) / frames) / np.sqrt(frames)
    y = np.zeros_like(signal)
    for n, c, v in np.ndindex(clips, channels, joints):
        group = c // (channels // len(parts))
        spectrum = dft @ signal[n, c, :, v]
        for k in range(frames):
            mirrored = min(k, frames - k)
            real, imag = parts[group, mirrored, v]
            if 2 * k % frames == 0:
                imag = 0.0
            spectrum[k] *= complex(real, imag if k == mirrored else -imag)
        if threshold is not None:
            limit = threshold.detach().double().reshape(len(parts), -1).expand(-1, joints)[group, v].item()
            energy = np.abs(spectrum) ** 2
            size = np.sqrt(energy if sparsity == "bin" else energy.mean())
            with np.errstate(divide="ignore"):
                spectrum *= np.maximum(0, 1 - limit / size) if limit > 0 else 1
        column = dft.conj().T @ spectrum
        assert np.abs(column.imag).max() < 1e-9
        y[n, c, :, v] = column.real
    return y


def example(
    frames: int, *, clips: int = 2, channels: int = 4, joints: int = 3, groups: int = 2, limit: float = 0.6
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, weight and a threshold about which the filtered signals scatter."""
    random = torch.Generator().manual_seed(frames)
    x = torch.randn(clips, channels, frames, joints, generator=random, dtype=torch.float64)
    weight = torch.randn(groups, frames // 2 + 1, joints, 2, generator=random, dtype=torch.float64)
    threshold = 2 * limit * torch.rand(groups, joints, generator=random, dtype=torch.float64)
    return x, weight, threshold


@pytest.mark.parametrize("frames", FRAMES)
def test_filter_without_threshold(frames: int) -> None:
    x, weight, _ = example(frames)
    np.testing.assert_allclose(spectral_gate(x, weight).numpy(), naive_gate(x, weight, None), atol=1e-10)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("per_joint", [True, False])
def test_gate(frames: int, sparsity: str, per_joint: bool) -> None:
    x, weight, threshold = example(frames)
    threshold = threshold if per_joint else threshold[:, 0]
    y = spectral_gate(x, weight, threshold, sparsity=sparsity)
    np.testing.assert_allclose(y.numpy(), naive_gate(x, weight, threshold, sparsity), atol=1e-10)


def test_joint_gate_is_exact_at_its_threshold() -> None:
    """A constant c has rms c: it loses exactly the threshold, and vanishes where that is not smaller."""
    x = torch.tensor([3.0, 1.0, 0.5]).expand(1, 1, 9, 3).double()
    identity = torch.tensor([1.0, 0.0]).expand(1, 5, 3, 2).double()
    y = spectral_gate(x, identity, torch.ones(1, dtype=torch.float64))
    assert torch.allclose(y[..., 0], torch.tensor(2.0).double())
    assert (y[..., 1].abs() < 1e-9).all()
    assert not y[..., 2].any()


def test_bin_gate_keeps_only_the_strong_frequency() -> None:
    time = torch.arange(16, dtype=torch.float64)
    strong = 2.0 * torch.cos(2 * torch.pi * 2 * time / 16)
    weak = 0.1 * torch.cos(2 * torch.pi * 5 * time / 16)
    x = (strong + weak).reshape(1, 1, 16, 1)
    identity = torch.tensor([1.0, 0.0]).expand(1, 9, 1, 2).double()
    y = spectral_gate(x, identity, torch.ones(1, dtype=torch.float64), sparsity="bin")
    # The coefficient of amplitude a is a sqrt(T) / 2 = 4, of which the gate takes 1.
    assert torch.allclose(y.flatten(), 0.75 * strong)


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("sparsity", [None, *SPARSITIES])
def test_imaginary_part_of_real_bins_does_nothing(frames: int, sparsity: str | None) -> None:
    x, weight, threshold = example(frames)
    real_bins = [0, frames // 2] if frames % 2 == 0 else [0]
    changed = weight.clone()
    changed[:, real_bins, :, 1] = float("inf")
    arguments = {} if sparsity is None else {"threshold": threshold, "sparsity": sparsity}
    changed.requires_grad_()
    y = spectral_gate(x, changed, **arguments)
    assert torch.equal(y, spectral_gate(x, weight, **arguments))
    (gradient,) = torch.autograd.grad(y.square().sum(), changed)
    assert not gradient[:, real_bins, :, 1].any()
    if frames > 2:
        assert gradient[:, 1, :, 1].any()


@pytest.mark.parametrize("frames", [1, 2, 5, 6])
@pytest.mark.parametrize("sparsity", [None, *SPARSITIES])
def test_gradients(frames: int, sparsity: str | None) -> None:
    inputs = example(frames, clips=2, channels=2, joints=2)[: 2 if sparsity is None else 3]
    inputs = tuple(tensor.requires_grad_() for tensor in inputs)

    def gate(*tensors: torch.Tensor) -> torch.Tensor:
        return spectral_gate(*tensors, sparsity=sparsity or "joint")

    assert torch.autograd.gradcheck(gate, inputs)
    assert torch.autograd.gradgradcheck(gate, inputs)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_switched_off_passes_no_gradient(sparsity: str) -> None:
    x, weight, _ = example(8)
    threshold = torch.full((2, 3), 0.01, dtype=torch.float64)
    threshold[1, 2] = 100.0
    inputs = [tensor.requires_grad_() for tensor in (x, weight, threshold)]
    y = spectral_gate(x, weight, threshold, sparsity=sparsity)
    dx, dweight, dthreshold = torch.autograd.grad(y.sin().sum(), inputs)
    assert not y[:, 2:, :, 2].any()
    assert not dx[:, 2:, :, 2].any()
    assert not dweight[1, :, 2].any()
    assert dthreshold[1, 2] == 0
    assert dx[:, :2].all()
    assert dthreshold[0].all()


def test_no_gradient_at_the_kink() -> None:
    """Four ones have the coefficient 2 at frequency 0, exactly the threshold: s = 0, and so its gradient."""
    x = torch.ones(1, 1, 4, 1, requires_grad=True)
    threshold = torch.tensor([2.0], requires_grad=True)
    y = spectral_gate(x, torch.tensor([1.0, 0.0]).expand(1, 3, 1, 2), threshold, sparsity="bin")
    gradients = torch.autograd.grad(y.sum(), (x, threshold))
    assert not any(tensor.any() for tensor in (y, *gradients))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limit", [0.0, 1e-8, 1.0])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_silence_is_finite(sparsity: str, limit: float, dtype: torch.dtype) -> None:
    """A missing joint is zero in every frame; neither it nor its first and second gradients may be NaN."""
    x, weight, _ = (tensor.to(dtype) for tensor in example(8))
    x[..., 0] = 0
    threshold = torch.full((2, 3), limit, dtype=dtype)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, threshold)]
    y = spectral_gate(x, weight, threshold, sparsity=sparsity)
    first = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(gradient.cos().sum() for gradient in first), inputs)
    assert not y[..., 0].any()
    assert all(tensor.isfinite().all() for tensor in (y, *first, *second))


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_zero_threshold_is_no_threshold(sparsity: str) -> None:
    x, weight, _ = example(7)
    x[..., 0] = 0
    x.requires_grad_()
    gated = spectral_gate(x, weight, torch.zeros(2, dtype=torch.float64), sparsity=sparsity)
    plain = spectral_gate(x, weight)
    assert torch.equal(gated, plain)
    assert torch.equal(*(torch.autograd.grad(y.sin().sum(), x)[0] for y in (gated, plain)))


@pytest.mark.parametrize("sparsity", [None, *SPARSITIES])
@pytest.mark.parametrize("form", ["channels_last", "permuted", "sliced", "expanded", "joints_by_frames"])
def test_any_strides(form: str, sparsity: str | None) -> None:
    base, weight, threshold = example(6)
    x = {
        "channels_last": lambda: base.to(memory_format=torch.channels_last),
        "permuted": lambda: base.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0),
        "sliced": lambda: base.repeat_interleave(2, dim=2)[:, :, ::2],
        "expanded": lambda: base[:, :, :, :1].expand(-1, -1, -1, 3),
        "joints_by_frames": lambda: base.transpose(2, 3).contiguous().transpose(2, 3),
    }[form]()
    gate = None if sparsity is None else threshold
    y = spectral_gate(x, weight, gate, sparsity=sparsity or "joint")
    np.testing.assert_allclose(y.numpy(), naive_gate(x, weight, gate, sparsity or "joint"), atol=1e-10)
    assert y.stride() == torch.empty_like(x).stride()


def test_strided_parameters() -> None:
    x, weight, threshold = example(6)
    parts_first = weight.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    y = spectral_gate(x, parts_first, threshold.T.contiguous().T)
    assert torch.equal(y, spectral_gate(x, weight, threshold))


@pytest.mark.parametrize("sparsity", [None, *SPARSITIES])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_empty_batch(sparsity: str | None, memory_format: torch.memory_format) -> None:
    _, weight, threshold = example(6)
    x = torch.empty(0, 4, 6, 3, dtype=torch.bfloat16).to(memory_format=memory_format).requires_grad_()
    inputs = [tensor.requires_grad_() for tensor in (x, weight, threshold)][: 2 if sparsity is None else 3]
    y = spectral_gate(*inputs, sparsity=sparsity or "joint")
    assert (y.shape, y.dtype, y.stride()) == (x.shape, x.dtype, x.stride())
    gradients = torch.autograd.grad(y.sum(), inputs)
    assert all(gradient.shape == tensor.shape for gradient, tensor in zip(gradients, inputs, strict=True))
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("sparsity", [None, *SPARSITIES])
@pytest.mark.parametrize(
    ("dtype", "budget"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
def test_precision(dtype: torch.dtype, budget: float, sparsity: str | None) -> None:
    """Half inputs cost about as much as the rounding of the result, budgeted against its largest value."""
    x, weight, threshold = (tensor.to(dtype) for tensor in example(50))
    gate = None if sparsity is None else threshold
    y = spectral_gate(x, weight, gate, sparsity=sparsity or "joint")
    expected = naive_gate(x, weight, gate, sparsity or "joint")
    assert y.dtype == dtype
    assert np.abs(y.double().numpy() - expected).max() <= budget * np.abs(expected).max()


def test_half_inputs_with_float32_parameters() -> None:
    x, weight, threshold = example(8)
    x = x.bfloat16().requires_grad_()
    weight = weight.float().requires_grad_()
    y = spectral_gate(x, weight, threshold.float())
    y.float().sum().backward()
    assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


def test_input_is_not_changed() -> None:
    x, weight, threshold = example(8)
    before = x.clone()
    y = spectral_gate(x, weight, threshold)
    y.zero_()
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, r"x must be a tensor of shape \(N, C, T, V\), got list"),
        ({"x": torch.zeros(2, 4, 8, 3).long()}, TypeError, r"x must be a real floating-point.*int64"),
        ({"x": torch.zeros(4, 8, 3)}, ValueError, r"x must have shape \(N, C, T, V\), got \(4, 8, 3\)"),
        ({"x": torch.zeros(2, 4, 0, 3)}, ValueError, r"x must have at least one frame.*\(2, 4, 0, 3\)"),
        ({"weight": torch.zeros(2, 5, 3)}, ValueError, r"weight must have.*\(G, F, V, 2\).*\(2, 5, 3\)"),
        ({"weight": torch.zeros(2, 5, 3, 2).cfloat()}, TypeError, "weight must be a real.*complex64"),
        ({"weight": torch.zeros(3, 5, 3, 2)}, ValueError, "weight has 3 groups.*4 channels"),
        ({"weight": torch.zeros(2, 8, 3, 2)}, ValueError, r"\(2, 5, 3, 2\) for x.*got \(2, 8, 3, 2\)"),
        ({"weight": torch.zeros(2, 5, 3, 2, device="meta")}, ValueError, "weight is on meta, x on cpu"),
        ({"threshold": 0.1}, TypeError, r"threshold must be a tensor.*\(G, V\) or \(G\), got float"),
        ({"threshold": torch.zeros(3)}, ValueError, r"\(2, 3\) or \(G,\) = \(2,\), got \(3,\)"),
        ({"threshold": torch.zeros(())}, ValueError, r"threshold must have.*\(G, V\) or \(G\), got \(\)"),
        ({"sparsity": "none"}, ValueError, "sparsity must be one of joint, bin; got 'none'"),
        ({"impl": "cuda"}, ValueError, 'impl="cuda": the implementation must be one of auto'),
        (
            {"x": torch.zeros(2, 4, 8, 3).double(), "impl": "triton"},
            RuntimeError,
            'impl="triton" was asked for',
        ),
    ],
)
def test_errors_name_the_argument(changes: dict, error: type[Exception], message: str) -> None:
    arguments = {"x": torch.zeros(2, 4, 8, 3), "weight": torch.zeros(2, 5, 3, 2), **changes}
    with pytest.raises(error, match=message):
        spectral_gate(**arguments)


@pytest.mark.parametrize("num_frames", [1, 2, 7, 64, 125])
def test_fourier_matrices(num_frames: int) -> None:
    x = torch.randn(num_frames, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    analysis, synthesis = fourier_matrices(num_frames)
    spectrum = torch.fft.rfft(x, dim=0, norm="ortho")
    torch.testing.assert_close(analysis @ x, torch.cat([spectrum.real, spectrum.imag]), atol=1e-12, rtol=0)
    torch.testing.assert_close(synthesis @ analysis @ x, x, atol=1e-12, rtol=0)
