"""The recorder against loops in float64: energies by definition, bodies that are absent left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mica.models.frest import FreST
from mica.models.stgcn import STGCN
from mica.report.spectra import Spectra, SpectrumRecorder, energy
from mica.skeleton import get_layout

LAYOUT = get_layout("kinect-20")
PERSONS = 2


@pytest.fixture(scope="module")
def encoder() -> STGCN:
    """A tiny encoder in float64 whose filters and gates are anything but the identity."""
    torch.manual_seed(0)
    encoder = STGCN(LAYOUT, preset="stgcn-small", num_frames=10).double().eval()
    with torch.no_grad():
        for layer in encoder.frest_layers:
            layer.gate.weight.add_(0.5 * torch.randn_like(layer.gate.weight))
            layer.spatial_response.add_(0.3 * torch.randn_like(layer.spatial_response))
            layer.gate.threshold_offset.add_(torch.randn_like(layer.gate.threshold_offset))
    return encoder


@pytest.fixture(scope="module")
def bodies() -> torch.Tensor:
    """Five clips of two bodies, the last clip of nobody, others at times of one."""
    x = torch.randn(5 * PERSONS, 3, 10, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[[1, 4, 8, 9]] = 0
    return x


def record(encoder: STGCN, *batches: torch.Tensor) -> SpectrumRecorder:
    recorder = SpectrumRecorder(PERSONS)
    with torch.inference_mode(), recorder.watch(encoder):
        for batch in batches:
            encoder(batch)
    return recorder


def signals(encoder: STGCN, layer: FreST, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What enters a layer, what its filter makes of it and what its gate lets pass, found block by block."""
    joints = encoder.input_norm(x.permute(0, 3, 1, 2).flatten(1, 2))
    x = joints.unflatten(1, (20, 3)).permute(0, 2, 3, 1)
    for block in encoder.blocks:
        if block is layer:
            return x, layer.filter(x, gated=False), layer.filter(x)
        x = block(x)
    raise AssertionError


def energy_by_loops(signal: np.ndarray) -> np.ndarray:
    """Mean over channels (C, T, V) of the energy of each frequency, from the sums that define the transform."""
    channels, num_frames, joints = signal.shape
    out = np.zeros((num_frames // 2 + 1, joints))
    for frequency in range(num_frames):
        wave = np.exp(-2j * np.pi * frequency * np.arange(num_frames) / num_frames)
        for channel in range(channels):
            for joint in range(joints):
                power = abs((wave * signal[channel, :, joint]).sum()) ** 2 / num_frames
                out[min(frequency, num_frames - frequency), joint] += power / channels
    return out


@pytest.mark.parametrize("which", [0, -1])
def test_energies_and_passes_are_those_of_loops(encoder: STGCN, bodies: torch.Tensor, which: int) -> None:
    layer = encoder.frest_layers[which]
    found = record(encoder, bodies).spectra(layer)
    present = [i for i, body in enumerate(bodies) if body.abs().sum() > 0]
    assert found.clip.tolist() == [i // PERSONS for i in present]
    with torch.inference_mode():
        entering, filtered, passed = (signal.numpy() for signal in signals(encoder, layer, bodies))
    assert found.num_frames == entering.shape[2]
    for row, body in enumerate(present):
        np.testing.assert_allclose(
            found.entering[row], energy_by_loops(entering[body]), rtol=1e-9, atol=1e-12
        )
        np.testing.assert_allclose(found.passed[row], energy_by_loops(passed[body]), rtol=1e-9, atol=1e-12)
        for joint in range(20):
            moves = [c for c in range(len(filtered[body])) if filtered[body, c, :, joint].any()]
            kept = np.mean([passed[body, c, :, joint].any() for c in moves])
            np.testing.assert_allclose(found.kept[row, joint], kept, rtol=1e-6)
    assert 0.05 < found.kept.mean() < 0.95  # else the gate was not put to the test


@pytest.mark.parametrize("num_frames", [1, 2, 7, 8])
def test_energies_add_up_to_the_squares(num_frames: int) -> None:
    x = torch.randn(3, 4, num_frames, 5, dtype=torch.float64)
    torch.testing.assert_close(energy(x).sum(1), x.square().mean(1).sum(1))


def test_batches_are_one_after_another(encoder: STGCN, bodies: torch.Tensor) -> None:
    layer = encoder.frest_layers[0]
    whole, parts = record(encoder, bodies), record(encoder, bodies[:4], bodies[4:])
    assert (whole.clips, whole.bodies) == (parts.clips, parts.bodies) == (5, 6)
    one, other = whole.spectra(layer), parts.spectra(layer)
    assert one.clip.tolist() == other.clip.tolist() == [0, 1, 1, 2, 3, 3]
    np.testing.assert_allclose(one.passed, other.passed, rtol=1e-9)


def test_a_batch_of_nobody_adds_nothing(encoder: STGCN, bodies: torch.Tensor) -> None:
    alone, after = record(encoder, bodies), record(encoder, bodies, torch.zeros_like(bodies))
    assert (after.clips, after.bodies) == (10, alone.bodies)
    layer = encoder.frest_layers[0]
    np.testing.assert_array_equal(after.spectra(layer).passed, alone.spectra(layer).passed)
    assert record(encoder, torch.zeros_like(bodies)).bodies == 0


def test_leaves_no_hooks_and_counts_without_frest(encoder: STGCN, bodies: torch.Tensor) -> None:
    record(encoder, bodies)
    assert not encoder._forward_pre_hooks
    assert not any(layer._forward_pre_hooks for layer in encoder.frest_layers)
    plain = STGCN(LAYOUT, preset="stgcn-small", num_frames=10, frest=False).double().eval()
    assert record(plain, bodies).bodies == 6
    assert record(plain, torch.zeros_like(bodies)).bodies == 0


def test_spectra_of_a_layer_in_the_middle_are_not_kept(encoder: STGCN, bodies: torch.Tensor) -> None:
    recorder = record(encoder, bodies)
    assert isinstance(recorder.spectra(encoder.frest_layers[-1]), Spectra)
    with pytest.raises(KeyError):
        recorder.spectra(encoder.frest_layers[1])
