"""What is decayed, how the rate runs, and which number format is chosen."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mica.models import precision
from mica.models.frest import FreST
from mica.models.heads import HeadConfig
from mica.models.mica import MICA
from mica.models.precision import choose_precision
from mica.models.stgcn import STGCN
from mica.objectives import ObjectiveConfig, Objectives
from mica.skeleton import get_layout
from mica.training.config import OptimizerConfig
from mica.training.optimizer import learning_rate, make_optimizer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def modules() -> nn.ModuleList:
    encoder = STGCN(get_layout("kinect-20"), "stgcn-small", num_frames=8)
    texts = F.normalize(torch.randn(3, 2, 6), dim=-1)
    model = MICA(encoder, HeadConfig(segments=1, hidden=8, projection=8), text_width=6)
    return nn.ModuleList([model, Objectives(ObjectiveConfig(), texts)])


def test_every_parameter_is_in_one_group(modules: nn.ModuleList) -> None:
    decayed, kept = make_optimizer(modules, OptimizerConfig(lr=0.5, weight_decay=0.25)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.25, 0.0)
    assert decayed["lr"] == kept["lr"] == 0.5
    listed = [id(parameter) for group in (decayed, kept) for parameter in group["params"]]
    assert sorted(listed) == sorted(map(id, modules.parameters()))


def test_filters_thresholds_biases_norms_and_temperatures_are_spared(modules: nn.ModuleList) -> None:
    decayed = {
        id(parameter) for parameter in make_optimizer(modules, OptimizerConfig()).param_groups[0]["params"]
    }
    spared = {name for name, parameter in modules.named_parameters() if id(parameter) not in decayed}
    frest = [name for name, module in modules.named_modules() if isinstance(module, FreST)]
    assert len(frest) == 4
    for layer in frest:
        assert {
            f"{layer}.{name}" for name in ("gate.weight", "gate.threshold_offset", "spatial_response")
        } <= spared
        assert f"{layer}.mix.weight" not in spared
    for name, module in modules.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert {f"{name}.weight", f"{name}.bias"} <= spared
        elif isinstance(module, nn.Conv2d | nn.Linear):
            assert f"{name}.weight" not in spared
            assert module.bias is None or f"{name}.bias" in spared
    assert {name for name in spared if "logit_scale" in name} == {
        "1.modulation.logit_scale",
        "1.inter.logit_scale",
    }


def test_schedule_rises_to_the_rate_and_falls_to_zero() -> None:
    config = OptimizerConfig(epochs=10, lr=0.3, warmup_epochs=2)
    rates = [learning_rate(step, 5, config) for step in range(51)]
    assert rates[0] == pytest.approx(0.03)
    assert rates[9] == rates[10] == max(rates) == pytest.approx(0.3)
    assert rates[30] == pytest.approx(0.15)
    assert rates[50] == pytest.approx(0, abs=1e-12)
    assert 0 < rates[49] < 0.001
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))


@pytest.mark.parametrize("warmup", [0, 0.1, 0.3, 0.5, 3, 7])
def test_schedule_is_finite_and_bounded_whatever_the_warm_up(warmup: float) -> None:
    config = OptimizerConfig(epochs=3, lr=1.0, warmup_epochs=warmup)
    rates = [learning_rate(step, 4, config) for step in range(13)]
    assert all(math.isfinite(rate) and 0 <= rate <= 1 for rate in rates)
    if warmup == 0:
        assert rates[0] == 1.0


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_precision_as_asked(wanted: str) -> None:
    assert choose_precision(wanted, CPU) == (getattr(torch, wanted), "as asked")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("able", "expected", "word"),
    [(True, torch.bfloat16, "in hardware"), (False, torch.float32, "emulate")],
)
def test_precision_by_what_the_hardware_can(
    monkeypatch: pytest.MonkeyPatch, able: bool, expected: torch.dtype, word: str
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: able)
    chosen, reason = choose_precision("auto", CPU)
    assert chosen == expected
    assert word in reason
    assert "cpu" in reason
