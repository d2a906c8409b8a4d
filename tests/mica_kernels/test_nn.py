"""The modules: what they start as, what they learn, and how their parameters stay in bounds."""

from __future__ import annotations

import math

import pytest
import torch

from mica_kernels import info_nce, similarity_kl, spectral_gate
from mica_kernels.nn import INITIAL_SCALE, INITIAL_THRESHOLD, InfoNCELoss, SimilarityKLLoss, SpectralGate


@pytest.mark.parametrize("sparsity", ["joint", "bin"])
def test_gate_starts_near_the_identity(sparsity: str) -> None:
    gate = SpectralGate(8, 25, 5, groups=4, sparsity=sparsity)
    x = torch.randn(3, 8, 25, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(gate.threshold, torch.full((4, 5), INITIAL_THRESHOLD))
    assert torch.equal(gate(x), spectral_gate(x, gate.weight, gate.threshold, sparsity=sparsity))
    assert (gate(x) - x).norm() / x.norm() < 2 * INITIAL_THRESHOLD


def test_gate_learns_filter_and_threshold() -> None:
    gate = SpectralGate(8, 16, 5, groups=2)
    gate(torch.randn(3, 8, 16, 5, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert {name for name, _ in gate.named_parameters()} == {"weight", "threshold_offset"}
    assert gate.weight.grad[..., 0].all()
    assert (gate.threshold_offset.grad < 0).all()  # a larger threshold gives a smaller output


@pytest.mark.parametrize("offset", [-100.0, -1.0, 0.0, 3.0])
def test_threshold_is_never_negative(offset: float) -> None:
    gate = SpectralGate(4, 8, 2, groups=1)
    torch.nn.init.constant_(gate.threshold_offset, offset)
    assert (gate.threshold >= 0).all()


def test_gate_without_sparsity_only_filters() -> None:
    gate = SpectralGate(8, 16, 5, groups=2, sparsity=None)
    torch.nn.init.normal_(gate.weight)
    x = torch.randn(3, 8, 16, 5, generator=torch.Generator().manual_seed(0))
    assert gate.threshold is None
    assert [name for name, _ in gate.named_parameters()] == ["weight"]
    assert list(gate.state_dict()) == ["weight"]
    assert torch.equal(gate(x), spectral_gate(x, gate.weight))
    assert repr(gate) == "SpectralGate(groups=2, frequencies=9, joints=5, sparsity=None)"


def test_gate_refuses_groups_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="groups must divide channels, got 8 groups for 12 channels"):
        SpectralGate(12, 16, 5)


def test_gate_refuses_what_its_first_signals_would() -> None:
    with pytest.raises(ValueError, match="sparsity must be one of joint, bin, or None; got 'bins'"):
        SpectralGate(8, 16, 5, sparsity="bins")
    with pytest.raises(ValueError, match="num_frames must be at least 1, got 0"):
        SpectralGate(8, 0, 5)


def test_gate_survives_saving() -> None:
    first, second = SpectralGate(8, 16, 5), SpectralGate(8, 16, 5)
    torch.nn.init.normal_(first.weight)
    torch.nn.init.normal_(first.threshold_offset)
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 8, 16, 5)
    assert torch.equal(first(x), second(x))
    assert repr(first) == "SpectralGate(groups=8, frequencies=9, joints=5, sparsity='joint')"


def test_info_nce_loss_is_the_operator() -> None:
    query, key, queue = torch.randn(4, 3), torch.randn(6, 3), torch.randn(5, 3)
    labels = {"query_labels": torch.tensor([0, 1, 1, 2]), "key_labels": torch.tensor([0, 0, 1, 2, 5, 2])}
    loss = InfoNCELoss(symmetric=False)(query, key, extra_keys=queue, **labels)
    expected = info_nce(query, key, scale=INITIAL_SCALE, extra_keys=queue, symmetric=False, **labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_similarity_kl_loss_is_the_operator() -> None:
    tensors = torch.randn(4, 3), torch.randn(6, 3), torch.randn(4, 5), torch.randn(6, 5)
    loss = SimilarityKLLoss(teacher_scale=3.0, initial_scale=2.0)(*tensors)
    expected = similarity_kl(*tensors, scale=2.0, teacher_scale=3.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("loss", [InfoNCELoss(), SimilarityKLLoss()])
def test_scale_is_learned(loss: InfoNCELoss | SimilarityKLLoss) -> None:
    assert loss.scale().item() == pytest.approx(INITIAL_SCALE)
    assert loss.logit_scale.item() == pytest.approx(math.log(INITIAL_SCALE))
    tensors = [torch.randn(4, 3) for _ in range(2 if isinstance(loss, InfoNCELoss) else 4)]
    loss(*tensors).backward()
    assert loss.logit_scale.grad != 0


@pytest.mark.parametrize(("parameter", "scale"), [(50.0, 100.0), (-50.0, 1.0)])
def test_scale_out_of_bounds_comes_back(parameter: float, scale: float) -> None:
    loss = InfoNCELoss()
    torch.nn.init.constant_(loss.logit_scale, parameter)
    assert loss.scale().item() == pytest.approx(scale, rel=1e-5)
    loss(torch.randn(4, 3), torch.randn(4, 3)).backward()
    assert loss.logit_scale.grad != 0


def test_impossible_scale_is_refused() -> None:
    with pytest.raises(ValueError, match=r"initial_scale must lie in \[1, max_scale = 100.0\], got 200.0"):
        InfoNCELoss(initial_scale=200.0)
