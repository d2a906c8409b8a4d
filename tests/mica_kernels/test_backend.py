"""Which implementation is chosen, and that the package asks for nothing beyond PyTorch."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mica_kernels import backend, device, spectral_gate
from mica_kernels.backend import OPERATORS, VARIABLE, choose, explain
from mica_kernels.contrastive import configs as contrastive
from mica_kernels.spectral import configs as spectral

CPU_REASONS = {
    "1": "on the CPU the kernel only runs in Triton's interpreter, which is for tests",
    "0": "the kernel needs a GPU, and this runs on the CPU",
}
"""Why "auto" does without the kernel, by TRITON_INTERPRET."""


@pytest.fixture(autouse=True)
def _no_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As far as `backend` can see there is an H100, and Triton."""
    monkeypatch.setattr(device, "triton_installed", lambda: True)
    monkeypatch.setattr(device, "capability", lambda where: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    return monkeypatch


def matrix(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings without memory, as if on a GPU."""
    with FakeTensorMode():
        return tuple(torch.empty(count, 8, dtype=dtype, device="cuda") for count in (rows, columns))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("interpreted", ["0", "1"])
def test_auto_on_a_cpu_does_without_the_kernel_and_says_why(
    interpreted: str, operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(device.INTERPRETER, interpreted)
    monkeypatch.setattr(device, "triton_installed", lambda: True)
    tensors = (torch.zeros(1, 1, 4, 1),) if operator == "spectral_gate" else (torch.zeros(2048, 1),) * 2
    choice = choose(operator, *tensors)
    why = CPU_REASONS[interpreted]
    if operator == "spectral_gate":
        faster = (
            f"up to {spectral.DENSE_FRAMES} frames products of matrices are faster than the reference's FFT"
        )
        assert (choice.impl, choice.reason) == ("dense", f"{why}; {faster}")
    else:
        assert (choice.impl, choice.reason) == ("reference", f"{why}, so the PyTorch reference runs")
    assert explain("cpu")[operator] == choice


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_auto_on_a_cpu_takes_products_of_matrices_for_short_signals_alone(dtype: torch.dtype) -> None:
    longest = torch.zeros(1, 1, spectral.DENSE_FRAMES, 1, dtype=dtype)
    longer = torch.zeros(1, 1, spectral.DENSE_FRAMES + 1, 1, dtype=dtype)
    assert choose("spectral_gate", longest).impl == "dense"
    assert choose("spectral_gate", longer).impl == "reference"
    assert choose("spectral_gate", longer).reason.endswith(", so the PyTorch reference runs")
    assert choose("spectral_gate", longer, impl="dense").impl == "dense"
    assert choose("spectral_gate", longest.to("meta")).impl == "reference"
    assert (
        torch.func.vmap(lambda x: x.new_full((), choose("spectral_gate", x).impl == "dense"))(longest[None])
        == 0
    )


def test_the_losses_have_no_dense_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """To demand it of one is an error; the variable speaks to all operators, and leaves these as they are."""
    for operator in ("info_nce", "similarity_kl"):
        expected = choose(operator, torch.zeros(2, 3), torch.zeros(2, 3))
        with pytest.raises(
            RuntimeError, match=rf'impl="dense" was asked for, but {operator} has no such form'
        ):
            choose(operator, torch.zeros(2, 3), torch.zeros(2, 3), impl="dense")
        with monkeypatch.context() as patch:
            patch.setenv(VARIABLE, "dense")
            assert choose(operator, torch.zeros(2, 3), torch.zeros(2, 3)) == expected
            choice = choose("spectral_gate", torch.zeros(1, 1, 600, 1))
            assert (choice.impl, choice.reason) == ("dense", "MICA_KERNELS_IMPL=dense was asked for")


@pytest.mark.parametrize("operator", OPERATORS)
def test_auto_on_a_gpu_runs_the_kernel(operator: str, gpu: pytest.MonkeyPatch) -> None:
    choice = explain("cuda")[operator]
    assert (choice.impl, choice.reason) == ("triton", "the compiled kernel serves cuda")


@pytest.mark.parametrize("operator", ["info_nce", "similarity_kl"])
def test_auto_runs_the_kernel_where_the_matrix_is_large(operator: str, gpu: pytest.MonkeyPatch) -> None:
    side = math.isqrt(contrastive.WORTHWHILE)
    assert side**2 == contrastive.WORTHWHILE
    assert choose(operator, *matrix(side, side)).impl == "triton"
    assert choose(operator, *matrix(1, contrastive.WORTHWHILE, torch.bfloat16)).impl == "triton"
    small = matrix(side, side - 1)
    why = f"a similarity matrix of {side} x {side - 1} is too small for the kernel to save anything"
    assert choose(operator, *small).reason == f"{why}, so the PyTorch reference runs"
    assert choose(operator, *small).impl == "reference"
    assert choose(operator, *small, impl="triton").impl == "triton"
    gpu.setenv(VARIABLE, "triton")
    assert choose(operator, *small).impl == "triton"


def test_extra_keys_make_a_matrix_larger_and_teachers_do_not(gpu: pytest.MonkeyPatch) -> None:
    side = math.isqrt(contrastive.WORTHWHILE)
    few, many = matrix(side, side - 8)
    assert choose("info_nce", few, many).impl == "reference"
    assert choose("info_nce", few, many, matrix(8, 8)[0]).impl == "triton"
    assert choose("similarity_kl", few, many, few, many).impl == "reference"


@pytest.mark.parametrize("operator", ["info_nce", "similarity_kl"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_double_among_embeddings_is_not_served(place: int, operator: str, gpu: pytest.MonkeyPatch) -> None:
    tensors = [*matrix(2048, 2048), matrix(2048, 1)[0]]
    tensors[place] = matrix(2048, 1, torch.float64)[0]
    reason = "the kernel serves float32, bfloat16, float16, not float64"
    assert choose(operator, *tensors).reason == f"{reason}, so the PyTorch reference runs"
    with pytest.raises(RuntimeError, match=f'impl="triton" was asked for, but {reason}'):
        choose(operator, *tensors, impl="triton")


@pytest.mark.parametrize(
    ("owner", "name", "value", "reason"),
    [
        (device, "triton_installed", lambda: False, "Triton, which compiles the kernel, is not installed"),
        (device, "capability", lambda where: (7, 5), "compute capability 8.0, and this GPU is older"),
        (torch.cuda, "is_available", lambda: False, "the kernel needs a GPU, and PyTorch finds none"),
        (torch.version, "hip", "6.4", "the kernel has not been tried on AMD GPUs"),
    ],
)
def test_gpus_that_are_not_served(
    owner: object, name: str, value: object, reason: str, gpu: pytest.MonkeyPatch
) -> None:
    gpu.setattr(owner, name, value)
    choice = explain("cuda")["spectral_gate"]
    assert choice.impl == "reference"
    assert reason in choice.reason
    gpu.setenv(VARIABLE, "triton")
    choice = explain("cuda")["spectral_gate"]
    assert choice.impl == "none"
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("x", "reason"),
    [
        (torch.zeros(1, 1, 513, 1), "the kernel serves up to 512 frames, not 513"),
        (torch.zeros(1, 1, 200, 1).double(), "the kernel serves float32, bfloat16, float16, not float64"),
        (torch.zeros(1, 1, 4, 1, device="meta"), "the kernel serves NVIDIA GPUs, not meta"),
    ],
)
def test_tensors_that_are_not_served(x: torch.Tensor, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(device.INTERPRETER, "1")
    monkeypatch.setattr(device, "triton_installed", lambda: True)
    assert choose("spectral_gate", x).reason == f"{reason}, so the PyTorch reference runs"
    with pytest.raises(RuntimeError, match=f'impl="triton" was asked for, but {reason}; ask for "auto" or'):
        choose("spectral_gate", x, impl="triton")


def test_the_interpreter_runs_kernels_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(device.INTERPRETER, "1")
    monkeypatch.setattr(device, "triton_installed", lambda: True)
    assert choose("spectral_gate", torch.zeros(1, 1, 4, 1), impl="triton").impl == "triton"
    for operator in ("info_nce", "similarity_kl"):
        assert choose(operator, torch.zeros(2, 3), torch.zeros(2, 3), impl="triton").impl == "triton"
        monkeypatch.setenv(device.INTERPRETER, "0")
        with pytest.raises(RuntimeError, match="but the kernel needs a GPU, and this runs on the CPU"):
            choose(operator, torch.zeros(2, 3), torch.zeros(2, 3), impl="triton")
        monkeypatch.setenv(device.INTERPRETER, "1")


def test_variable_stands_in_for_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "reference")
    assert choose("info_nce").reason == "MICA_KERNELS_IMPL=reference was asked for"
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(
        RuntimeError, match=r"MICA_KERNELS_IMPL=triton was asked for, but the kernel serves up to"
    ):
        spectral_gate(torch.zeros(1, 1, 600, 1), torch.zeros(1, 301, 1, 2))
    monkeypatch.setenv(VARIABLE, "auto")
    assert choose("info_nce").impl == "reference"


def test_argument_goes_before_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    assert choose("info_nce", impl="reference").impl == "reference"


def test_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"operator must be one of spectral_gate, .*; got 'fft'"):
        choose("fft")
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ValueError, match="MICA_KERNELS_IMPL=fast: the implementation must be one of auto"):
        choose("info_nce")


@pytest.mark.parametrize("where", ["cpu", "cuda", torch.device("cuda", 99), "mps"])
def test_explain_needs_no_such_device(where: str | torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    choices = explain(where)
    assert set(choices) == set(OPERATORS)
    assert choices["spectral_gate"].impl == ("dense" if where == "cpu" else "reference")
    assert choices["info_nce"].impl == choices["similarity_kl"].impl == "reference"


@pytest.mark.parametrize("demand", ["triton", "fast"])
def test_explain_reports_an_unmet_demand(demand: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, demand)
    choices = explain("meta")
    assert {choice.impl for choice in choices.values()} == {"none"}
    assert all(f"MICA_KERNELS_IMPL={demand}" in choice.reason for choice in choices.values())


def test_what_is_constant_is_marked_as_pytorch_marks_it() -> None:
    ours, theirs = (mark(lambda: 0) for mark in (backend._constant, torch.compiler.assume_constant_result))
    assert vars(ours) == vars(theirs) != {}


def test_imports_and_runs_without_triton() -> None:
    """In a fresh interpreter in which any `import triton` fails, and without starting a GPU runtime."""
    program = """
import sys
sys.modules["triton"] = None
import torch
import mica_kernels, mica_kernels.nn
assert not torch.cuda.is_initialized()
print(mica_kernels.spectral_gate(torch.ones(1, 1, 4, 1), torch.ones(1, 3, 1, 2)).shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "torch.Size([1, 1, 4, 1])"
