"""What the spectral gate's kernels make of silence, of numbers at the ends of their range, of none, and of no clips."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from mica_kernels.launch import Launch, Variant
from mica_kernels.spectral import configs, op, reference
from tests.mica_kernels.lanes import DEVICE, Poisoned, Results
from tests.mica_kernels.spectral_cases import LONG, SHORT, SPARSITIES, Case, fused_gate, reference_gate

pytest.importorskip("triton")


@pytest.mark.parametrize("limit", [0.0, 1e-8, 1.0])
@pytest.mark.parametrize("sparsity", ["joint", "bin"])
def test_silence_is_finite(sparsity: str, limit: float, differentiate: Callable[..., Results]) -> None:
    x, weight, _, _, dy = Case(frames=8, form="sliced").arguments(torch.float32)
    x[..., 0] = 0
    threshold = torch.full((2, 3), limit, device=DEVICE)
    results = differentiate(fused_gate, x, weight, threshold, sparsity, dy)
    expected = differentiate(reference_gate, x, weight, threshold, sparsity, dy)
    assert all(result.isfinite().all() for result in results.values())
    assert not results["y"][..., 0].any()
    torch.testing.assert_close(results, expected)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in the interpreter
@pytest.mark.parametrize(
    ("sparsity", "launch", "value"),
    [
        *[(sparsity, launch, torch.nan) for sparsity in SPARSITIES for launch in (SHORT, LONG)],
        ("joint", SHORT, torch.inf),
        ("bin", LONG, -torch.inf),
    ],
)
def test_what_is_not_finite_stays_in_its_column(
    sparsity: str,
    launch: Launch,
    value: float,
    differentiate: Callable[..., Results],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(configs, "launch", lambda *key: launch)
    x, weight, threshold, mode, dy = Case(sparsity=sparsity, frames=6).arguments(torch.float32)
    expected = differentiate(fused_gate, x, weight, threshold, mode, dy)
    x[1, 2, 4, 1] = value  # a channel of group 1
    results = differentiate(fused_gate, x, weight, threshold, mode, dy)
    assert results["y"][1, 2, :, 1].isnan().all()
    if sparsity != "none":
        assert results["dx"][1, 2, :, 1].isnan().all()
        assert results["dthreshold"][1, 1].isnan()
    assert not results["dweight"][1, :, 1].isfinite().all()
    touched = {
        "y": (1, 2, ..., 1),
        "dx": (1, 2, ..., 1),
        "dweight": (1, ..., 1, slice(None)),
        "dthreshold": (1, 1),
    }
    for name, result in results.items():
        result[touched[name]] = expected[name][touched[name]] = 0
        assert torch.equal(result, expected[name]), name


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in the interpreter
@pytest.mark.parametrize("sparsity", ["joint", "bin"])
def test_threshold_that_is_not_a_number(sparsity: str, differentiate: Callable[..., Results]) -> None:
    x, weight, threshold, _, dy = Case().arguments(torch.float32)
    threshold[1, 2] = torch.nan
    results = differentiate(fused_gate, x, weight, threshold, sparsity, dy)
    for signal in (results["y"], results["dx"]):
        assert signal[:, 2:, :, 2].isnan().all()
        assert signal.isnan().sum() == signal[:, 2:, :, 2].numel()


@pytest.mark.parametrize("frames", [7, 80])
@pytest.mark.parametrize("sparsity", ["joint", "bin"])
def test_zero_threshold_is_no_threshold(
    sparsity: str, frames: int, differentiate: Callable[..., Results]
) -> None:
    x, weight, _, _, dy = Case(clips=1, joints=2, frames=frames).arguments(torch.float32)
    x[..., 0] = 0
    gated = differentiate(fused_gate, x, weight, torch.zeros(2, device=DEVICE), sparsity, dy)
    plain = differentiate(fused_gate, x, weight, None, "joint", dy)
    for name in plain:
        torch.testing.assert_close(gated[name], plain[name])


@pytest.mark.parametrize("frames", [8, 70])
@pytest.mark.parametrize("sparsity", ["joint", "bin"])
def test_switched_off_is_exactly_zero_and_passes_no_gradient(
    sparsity: str, frames: int, differentiate: Callable[..., Results]
) -> None:
    x, weight, _, _, dy = Case(clips=1, joints=2, frames=frames).arguments(torch.float32)
    threshold = torch.full((2, 2), 0.01, device=DEVICE)
    threshold[1, 1] = 100.0
    results = differentiate(fused_gate, x, weight, threshold, sparsity, dy)
    for signal in (results["y"], results["dx"]):
        assert not signal[:, 2:, :, 1].any()
        assert signal[:, :2].all()
        assert signal[..., 0].all()
    assert not results["dweight"][1, :, 1].any()
    assert results["dthreshold"][1, 1] == 0
    assert results["dthreshold"][0].all()


@pytest.mark.parametrize("launch", [SHORT, LONG], ids=["short", "long"])
def test_no_gradient_at_the_kink(
    launch: Launch, differentiate: Callable[..., Results], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four ones have the coefficient 2 at frequency 0, exactly the threshold: s = 0, and so its gradient."""
    monkeypatch.setattr(configs, "launch", lambda *key: launch)
    x, identity = torch.ones(1, 1, 4, 1, device=DEVICE), torch.tensor([1.0, 0.0], device=DEVICE)
    results = differentiate(
        fused_gate, x, identity.expand(1, 3, 1, 2), torch.full((1,), 2.0, device=DEVICE), "bin", x
    )
    assert not any(result.any() for result in results.values())


@pytest.mark.parametrize("signal", ["constant", "alternating", "cosine", "square wave", "random"])
def test_large_half_precision_does_not_overflow(
    signal: str, differentiate: Callable[..., Results], check_budget: Callable[..., None]
) -> None:
    """Sums over time, and the mean square, are far beyond what float16 holds; y = x is not."""
    frames = 48
    time = torch.arange(frames)
    waves = {
        "constant": torch.ones(frames),
        "alternating": 1.0 - 2 * (time % 2),
        "cosine": torch.cos(2 * math.pi * 3 * time / frames),
        "square wave": torch.cos(2 * math.pi * (time + 0.5) / frames).sign(),
        "random": torch.rand(frames, generator=torch.Generator().manual_seed(0)) * 2 - 1,
    }
    x = (60000 * waves[signal]).to(DEVICE, torch.float16)[:, None].expand(1, 1, frames, 1)
    weight = torch.tensor([1.0, 0.0], device=DEVICE).expand(1, frames // 2 + 1, 1, 2)
    arguments = x, weight, torch.full((1,), 0.5, device=DEVICE), "joint", x
    results = differentiate(fused_gate, *arguments)
    assert all(result.isfinite().all() for result in results.values())
    check_budget(results, *arguments)


@pytest.mark.parametrize("shape", [(0, 4, 6, 3), (2, 4, 6, 0), (2, 0, 6, 3)])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_nothing(
    sparsity: str, shape: tuple[int, ...], launched: list[Variant], differentiate: Callable[..., Results]
) -> None:
    x = torch.empty(shape, device=DEVICE).to(memory_format=torch.channels_last)
    weight = torch.ones(2, 4, shape[3], 2, device=DEVICE, dtype=torch.bfloat16)
    threshold = None if sparsity == "none" else torch.ones(2, device=DEVICE)
    results = differentiate(fused_gate, x, weight, threshold, "bin" if sparsity == "bin" else "joint", x)
    shapes = {"y": shape, "dx": shape, "dweight": weight.shape, "dthreshold": (2,)}
    assert all(result.shape == shapes[name] for name, result in results.items())
    assert not any(result.any() for result in results.values())
    assert results["dweight"].dtype == torch.bfloat16
    assert results["y"].stride() == x.stride()
    assert not launched


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_shortest_clips(
    frames: int,
    sparsity: str,
    differentiate: Callable[..., Results],
    check_budget: Callable[..., None],
    poisoned: Poisoned,
) -> None:
    arguments = Case(frames=frames, sparsity=sparsity).arguments(torch.float32)
    with poisoned():
        fused = differentiate(fused_gate, *arguments)
    check_budget(fused, *arguments)


def test_same_epsilon() -> None:
    assert op._kernels().EPS.value == reference.EPS
