"""Which number format a run computes in; what is chosen on CPUs and GPUs is tested with the trainer."""

from __future__ import annotations

import pytest
import torch

from mica.models import precision
from mica.models.precision import choose_precision, multiplies_bfloat16


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_other_devices_are_not_judged_by_the_cpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    device = torch.device(kind)
    assert not multiplies_bfloat16(device)
    chosen, reason = choose_precision("auto", device)
    assert chosen == torch.float32
    assert reason == f"whether {kind} multiplies bfloat16 in hardware is not known"
    assert choose_precision("bfloat16", device) == (torch.bfloat16, "as asked")
