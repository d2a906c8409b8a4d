"""FreST in matrix products is FreST: in float64, against the FFT."""

from __future__ import annotations

import pytest
import torch

from mica.models.dense import DenseFreST, densify
from mica.models.frest import FreST
from mica.models.stgcn import STGCN
from mica.skeleton import get_layout

LAYOUT = get_layout("kinect-20")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(num_frames: int, groups: int = 2, sparsity=None, spatial=None) -> FreST:
    """A layer whose every number is drawn, and whose gate takes about half of what it sees."""
    layer = FreST(4, num_frames, 20, groups, sparsity, spatial, LAYOUT).double().eval()
    for seed, value in enumerate(layer.state_dict().values()):
        if value.is_floating_point():
            value.copy_(draw(*value.shape, seed=seed))
    layer.norm.running_var.abs_()
    if layer.gate.threshold_offset is not None:
        with torch.no_grad():
            layer.gate.threshold_offset.add_(5.5)
    return layer


@pytest.mark.parametrize("num_frames", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("spatial", ["graph", "dft", None])
@pytest.mark.parametrize("sparsity", ["joint", "bin", None])
@torch.no_grad()
def test_equal_to_the_layer(num_frames: int, sparsity: str | None, spatial: str | None) -> None:
    layer = trained(num_frames, sparsity=sparsity, spatial=spatial)
    x = draw(3, 4, num_frames, 20)
    dense = DenseFreST(layer, num_frames)
    torch.testing.assert_close(dense.filter(x), layer.filter(x), atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(dense(x), layer(x), atol=1e-12, rtol=1e-10)


@torch.no_grad()
def test_the_gates_of_these_tests_are_at_work() -> None:
    x = draw(3, 4, 8, 20)
    for sparsity in ("joint", "bin"):
        layer = trained(8, sparsity=sparsity)
        kept = (torch.fft.rfft(layer.filter(x), dim=2).abs() > 1e-9).double().mean()
        assert 0.1 < kept < 0.9


@pytest.mark.parametrize("sparsity", ["joint", "bin"])
@pytest.mark.parametrize(("made_for", "served"), [(8, 5), (8, 13), (9, 16)])
@torch.no_grad()
def test_other_lengths_than_the_layer_was_made_for(made_for: int, served: int, sparsity: str) -> None:
    layer = trained(made_for, groups=1, sparsity=sparsity, spatial="graph")
    x = draw(2, 4, served, 20)
    torch.testing.assert_close(DenseFreST(layer, served)(x), layer(x), atol=1e-12, rtol=1e-10)


@torch.no_grad()
def test_silence_stays_silent() -> None:
    for sparsity in ("joint", "bin"):
        layer = trained(8, sparsity=sparsity)
        filtered = DenseFreST(layer, 8).filter(torch.zeros(1, 4, 8, 20, dtype=torch.float64))
        assert torch.equal(filtered, torch.zeros_like(filtered))


@torch.no_grad()
def test_an_encoder_keeps_its_outputs_at_the_length_that_was_named() -> None:
    torch.manual_seed(0)
    encoder = STGCN(LAYOUT, "stgcn-small", num_frames=16, inputs=["joint", "motion"]).eval()
    for layer in encoder.frest_layers:
        layer.norm.weight.fill_(1)
    x = draw(2, 3, 11, 20).float()
    expected = encoder(x)
    densify(encoder, 11)
    assert not encoder.frest_layers
    assert sum(isinstance(block, DenseFreST) for block in encoder.blocks) == 4
    torch.testing.assert_close(encoder(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_lengths_are_counted_and_no_clip_is_run(training: bool) -> None:
    encoder = STGCN(LAYOUT, "stgcn", num_frames=16).train(training)
    before = {name: value.clone() for name, value in encoder.state_dict().items() if "running" in name}
    densify(encoder, 11)
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    lengths = [block.synthesis.shape[0] for block in encoder.blocks if isinstance(block, DenseFreST)]
    assert lengths == [11] * 4 + [6] * 3 + [3] * 3
