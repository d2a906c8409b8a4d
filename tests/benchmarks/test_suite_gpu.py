"""What only a GPU can show of the suite: its times, the replay of a graph, Python's part, and memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from benchmarks.__main__ import main
from benchmarks.measure import Slot
from benchmarks.operators import Make
from benchmarks.registry import OPERATORS
from benchmarks.results import MODES, read
from benchmarks.run import rows
from mica_kernels import device

GPU = torch.cuda.is_available() and torch.version.hip is None

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(
        GPU and device.interpreted(), reason="TRITON_INTERPRET=1 keeps the kernels off the GPU"
    ),
]
SMALL = {"spectral_gate": "micro-joint", "info_nce": "n256", "similarity_kl": "kl-n1024"}


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    yield torch.device("cuda")
    torch.cuda.empty_cache()


@pytest.mark.parametrize("name", OPERATORS)
def test_a_small_case_of_the_kernel(name: str, cuda: torch.device) -> None:
    operator = OPERATORS[name]
    (case,) = operator.chosen(cuda, quick=False, names=(SMALL[name],))
    found = {row["mode"]: row for row in rows(operator, case, cuda, ("fused",))}
    assert tuple(found) == MODES
    for mode, row in found.items():
        assert row.get("times"), row
        assert 0 < row["times"]["p20"] <= row["times"]["median"] <= row["times"]["p80"]
        assert row["times"]["runs"] >= 20
        assert row["extra_bytes"] > 0
        assert 0 < row["bandwidth_share"] < 2
        assert row["device"] == torch.cuda.get_device_name(cuda)
        assert row["cuda"] == torch.version.cuda
        assert len(row["capability"]) == 2
        for part in ("python_us", "graph_ms"):
            assert (row[part] is None) == (mode == "backward")
            assert row[part] is None or row[part] > 0


def test_the_floor_and_eager_mode(cuda: torch.device) -> None:
    operator = OPERATORS["spectral_gate"]
    (case,) = operator.chosen(cuda, quick=False, names=("micro-joint",))
    found = list(rows(operator, case, cuda, ("copy", "eager"), ("forward",)))
    assert [row["implementation"] for row in found] == ["copy", "eager"]
    assert all(row["times"]["median"] > 0 for row in found)


def test_memory_is_exact(cuda: torch.device) -> None:
    """What is held at the most beyond x and dy, in blocks of 512 bytes: y; dx; both."""
    size = 1 << 20
    x = torch.zeros(size // 4, device=cuda, requires_grad=True)
    slot = Slot((x,), {"dx": x}, torch.ones_like(x))
    found = measure.measure(torch.neg, [slot, slot], cuda)
    assert {mode: each.extra_bytes for mode, each in found.items()} == {
        "forward": size,
        "backward": size,
        "both": 2 * size,
    }


def test_what_cannot_be_captured_has_no_graph(cuda: torch.device) -> None:
    """And the GPU is of use afterwards."""
    x = torch.ones(1000, device=cuda, requires_grad=True)
    slot = Slot((x,), {"dx": x}, torch.ones_like(x))
    found = measure.measure(lambda x: x * x.sum().item(), [slot, slot], cuda)
    assert found["forward"].graph_ms is None
    assert found["forward"].times.median > 0
    captured = measure.measure(torch.neg, [slot, slot], cuda)["both"].graph_ms
    assert captured is not None
    assert captured > 0


def test_a_wrong_kernel_is_refused_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = OPERATORS["info_nce"]

    def implementations(case: object, where: torch.device) -> dict[str, Make]:
        made = operator.implementations(case, where)
        kernel = made["fused"]()
        return {**made, "fused": lambda: lambda *arguments, **options: -kernel(*arguments, **options)}

    monkeypatch.setitem(OPERATORS, "info_nce", replace(operator, implementations=implementations))
    arguments = ["run", "info_nce", "--case", "n256", "--implementation", "fused", "eager", "--mode", "both"]
    assert main([*arguments, "--out", str(tmp_path)]) == 1
    assert "FAILED info_nce n256 fused: wrong, and so not timed" in capsys.readouterr().out
    wrong, right = read(tmp_path)
    assert "times" not in wrong
    assert right["times"]["median"] > 0
