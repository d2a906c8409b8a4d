"""The spectral gate as an operator of PyTorch's: compilation, export, autocast, transforms, higher gradients.

On a machine without a GPU the kernel runs in Triton's interpreter; where that is off, in a process of its own, it falls
back.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from mica_kernels import backend, spectral_gate
from mica_kernels.nn import SpectralGate
from mica_kernels.spectral import reference

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPERATOR = torch.ops.mica_kernels.spectral_gate.default
BACKWARD = torch.ops.mica_kernels.spectral_gate_backward.default

fused_gate = partial(spectral_gate, impl="triton")
dense_gate = partial(spectral_gate, impl="dense")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def example(
    clips: int = 2, frames: int = 5, *, requires_grad: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """x in channels_last, weight and a threshold of about half of the signals; the shapes decide on the values."""
    random = torch.Generator().manual_seed(frames)
    x = torch.randn(clips, 4, frames, 2, generator=random).to(memory_format=torch.channels_last)
    weight = torch.randn(2, frames // 2 + 1, 2, 2, generator=random)
    threshold = torch.rand(2, 2, generator=random) + 0.1
    return tuple(tensor.to(DEVICE, dtype).requires_grad_(requires_grad) for tensor in (x, weight, threshold))


def gradients(gate: Callable[..., Tensor], *tensors: Tensor, **options: str) -> tuple[Tensor, ...]:
    """y, and the gradients of a sum over its sines."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = gate(*leaves, **options)
    return y.detach(), *torch.autograd.grad(y.sin().sum(), leaves)


def is_fused(y: Tensor) -> bool:
    return y.grad_fn is not None and "mica_kernels_spectral_gate" in y.grad_fn.name()


@pytest.mark.parametrize(
    ("with_threshold", "sparsity"), [("no", "joint"), ("per joint", "bin"), ("per group", "joint")]
)
def test_opcheck(with_threshold: str, sparsity: str) -> None:
    x, weight, threshold = example(2, 3, requires_grad=True)
    per_group = threshold[:, 0].detach().requires_grad_()
    threshold = {"no": None, "per joint": threshold, "per group": per_group}[with_threshold]
    dy = torch.randn(x.shape, device=DEVICE).requires_grad_()
    torch.library.opcheck(OPERATOR, (x, weight, threshold, sparsity))
    torch.library.opcheck(BACKWARD, (dy, x, weight, threshold, sparsity, [True, True, threshold is not None]))


@pytest.mark.parametrize("form", ["empty", "sliced", "expanded"])
def test_fake_results_lie_as_real_ones(form: str) -> None:
    x, weight, threshold = example(2, 4)
    x = {
        "empty": x[:0],
        "sliced": x[:, :, ::2].repeat_interleave(2, 2)[:, 1:3],
        "expanded": x[:1].expand_as(x),
    }[form]
    weight, threshold = (weight[:1], threshold[:1]) if form == "sliced" else (weight, threshold)
    torch.library.opcheck(OPERATOR, (x, weight, threshold, "joint"), test_utils="test_faketensor")
    torch.library.opcheck(
        BACKWARD, (x, x, weight, threshold, "joint", [True, True, True]), test_utils="test_faketensor"
    )


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_fake_tensors_need_no_such_device(device: str) -> None:
    with FakeTensorMode():
        x = torch.empty(2, 4, 6, 3, dtype=torch.bfloat16, device=device).to(memory_format=torch.channels_last)
        weight, threshold = torch.empty(2, 4, 3, 2, device=device), torch.empty(2, device=device)
        y = OPERATOR(x, weight, threshold, "joint")
        results = y, *BACKWARD(y, x, weight, threshold, "joint", [True, True, True])
    for result, like in zip(results, (x, x, weight, threshold), strict=True):
        assert (result.shape, result.stride(), result.dtype) == (like.shape, like.stride(), like.dtype)
        assert result.device == like.device


@pytest.mark.parametrize("impl", ["triton", "dense", "reference", "auto"])
def test_compiles_once_for_all_batches_and_frames(impl: str) -> None:
    """In one graph, forward and backward. Sizes that are equal in the first call would be taken for one."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(partial(spectral_gate, impl=impl), fullgraph=True, dynamic=True, backend=counter)
    for clips, frames in ((3, 9), (5, 9), (3, 13), (7, 6)):
        tensors = example(clips, frames)
        torch.testing.assert_close(
            gradients(compiled, *tensors), gradients(spectral_gate, *tensors, impl="reference")
        )
    assert counter.frame_count == 1
    calls = [str(node.target) for node in counter.graphs[0].graph.nodes if node.op == "call_function"]
    fused = impl == "triton" or (impl == "auto" and DEVICE.type == "cuda")
    assert any("mica_kernels" in call for call in calls) == fused


@pytest.mark.parametrize("sparsity", [None, "bin"])
def test_compiled_without_threshold_and_by_bin(sparsity: str | None) -> None:
    compiled = torch.compile(fused_gate, fullgraph=True, backend="aot_eager")
    tensors = example()[: 2 if sparsity is None else 3]
    options = {"sparsity": sparsity or "joint"}
    torch.testing.assert_close(
        gradients(compiled, *tensors, **options), gradients(fused_gate, *tensors, **options), rtol=0, atol=0
    )


@pytest.mark.skipif(
    DEVICE.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))),
    reason="inductor needs a C++ compiler",
)
def test_compiles_with_inductor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among other operations, in channels_last, for two batch sizes and numbers of frames."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    def block(x: Tensor, weight: Tensor, threshold: Tensor) -> Tensor:
        return fused_gate(x.relu() + x, weight, threshold).mul(2).tanh()

    compiled = torch.compile(block, fullgraph=True, dynamic=True)
    for clips, frames in ((3, 9), (5, 6)):
        tensors = example(clips, frames)
        torch.testing.assert_close(gradients(compiled, *tensors), gradients(block, *tensors))


def test_compile_says_why_there_is_no_kernel() -> None:
    tensors = example(dtype=torch.float64)
    compiled = torch.compile(fused_gate, backend="eager")
    with pytest.raises(
        RuntimeError, match=r'impl="triton" was asked for, but the kernel serves .*not float64'
    ):
        compiled(*tensors)


def test_dynamic_frames_go_beyond_what_the_kernel_serves() -> None:
    """A graph compiled for clips that the kernel serves is not used for clips that it does not."""
    compiled = torch.compile(spectral_gate, fullgraph=True, dynamic=True, backend="aot_eager")
    for frames in (12, 513):
        tensors = example(3, frames)
        torch.testing.assert_close(compiled(*tensors), spectral_gate(*tensors, impl="reference"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("impl", ["triton", "dense", "reference"])
def test_autocast_leaves_the_gate_alone(impl: str, dtype: torch.dtype) -> None:
    gate, tensors = partial(spectral_gate, impl=impl), example()
    expected = gradients(gate, *tensors)
    with torch.autocast(DEVICE.type, dtype=dtype):
        results = gradients(gate, *tensors)
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))
    assert {result.dtype for result in results} == {torch.float32}


def test_in_a_network_under_autocast() -> None:
    """The convolution before it gives bfloat16, in which the interpreter could not multiply."""
    dtype = torch.float16 if DEVICE.type == "cuda" else torch.bfloat16
    network = nn.Sequential(nn.Conv2d(3, 4, 1), SpectralGate(4, 8, 5, groups=2)).to(DEVICE)
    with torch.autocast(DEVICE.type, dtype=dtype):
        y = network(torch.randn(2, 3, 8, 5, device=DEVICE))
    y.float().sum().backward()
    assert y.dtype == dtype
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        _, weight, threshold = example(frames=6)
        self.weight, self.threshold = nn.Parameter(weight), nn.Parameter(threshold)

    def forward(self, x: Tensor) -> Tensor:
        return fused_gate(x, self.weight, self.threshold) + 1


def test_export() -> None:
    """A program for any batch size, in which the gate is one operator; it is the same when saved and loaded."""
    block, x = _Block(), example(3, 6)[0]
    program = torch.export.export(block, (x,), dynamic_shapes=({0: torch.export.Dim("clips")},))
    targets = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert OPERATOR in targets
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    for clips in (3, 5):
        x = example(clips, 6)[0]
        for exported in (program.module(), loaded.module()):
            torch.testing.assert_close(exported(x), block(x), rtol=0, atol=0)


@pytest.mark.parametrize("record", [True, False])
def test_export_of_products_of_matrices(record: bool) -> None:
    """What the export leaves behind is met by none: the same frames are called for the first time after it."""
    block, (x, weight, threshold) = _Dense(), example(3, 11)
    clips = torch.export.Dim("clips")
    reference._kept_matrices.cache_clear()
    with torch.set_grad_enabled(record):
        program = torch.export.export(
            block, (x, weight, threshold), dynamic_shapes=({0: clips}, None, None)
        ).run_decompositions()
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert all(target.namespace == "aten" for target in calls if isinstance(target, torch._ops.OpOverload))
    x = example(5, 11)[0]
    torch.testing.assert_close(program.module()(x, weight, threshold), dense_gate(x, weight, threshold))


class _Dense(nn.Module):
    def forward(self, x: Tensor, weight: Tensor, threshold: Tensor) -> Tensor:
        return dense_gate(x, weight, threshold)


@pytest.mark.parametrize(
    "mode",
    [torch.inference_mode, partial(FakeTensorMode, allow_non_fake_inputs=True), lambda: torch.device("meta")],
    ids=["inference", "fake", "meta"],
)
def test_no_mode_is_remembered(mode: Callable[[], AbstractContextManager[None]]) -> None:
    """The matrices for a number of frames may be made under any, and the next call is none the wiser."""
    tensors = example(2, 7)
    reference._kept_matrices.cache_clear()
    with mode():
        dense_gate(*tensors)
    torch.testing.assert_close(
        gradients(dense_gate, *tensors), gradients(spectral_gate, *tensors, impl="reference")
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sparsity", [None, "joint", "bin"])
def test_products_of_matrices_save_no_more_than_the_reference(
    sparsity: str | None, dtype: torch.dtype
) -> None:
    x, weight, threshold = example(4, 64, requires_grad=True)

    def saved(impl: str) -> int:
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            return kept.setdefault(tensor.untyped_storage()._cdata, tensor)

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            gate = None if sparsity is None else threshold
            y = spectral_gate(x.to(dtype), weight, gate, sparsity=sparsity or "joint", impl=impl)
        assert y.requires_grad
        for matrix in reference._kept_matrices(64, dtype, DEVICE):  # kept anyhow
            kept.pop(matrix.untyped_storage()._cdata, None)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    assert saved("dense") <= saved("reference")


def second_gradients(gate: Callable[..., Tensor], *tensors: Tensor | None) -> list[Tensor]:
    """Of a function of all first gradients, and of y."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    y = gate(*leaves)
    first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum(gradient.cos().sum() for gradient in first), leaves, create_graph=True)
    third = torch.autograd.grad(sum(gradient.square().sum() for gradient in second), leaves)
    return [y, *first, *second, *third]


@pytest.mark.parametrize("sparsity", [None, "joint", "bin"])
@pytest.mark.parametrize("other", ["triton", "dense"])
def test_second_and_third_gradients(other: str, sparsity: str | None) -> None:
    tensors = example()[: 2 if sparsity is None else 3]
    results, expected = (
        second_gradients(partial(spectral_gate, sparsity=sparsity or "joint", impl=impl), *tensors)
        for impl in (other, "reference")
    )
    torch.testing.assert_close(results, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wanted", [0, 1, 2])
@pytest.mark.parametrize("other", ["triton", "dense"])
def test_second_gradient_of_one_argument_alone(other: str, wanted: int) -> None:
    """As a gradient penalty takes it."""

    def penalty(impl: str) -> tuple[Tensor, ...]:
        tensors = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(example())]
        y = spectral_gate(*tensors, impl=impl)
        (first,) = torch.autograd.grad(y.square().sum(), tensors[wanted], create_graph=True)
        return first, *torch.autograd.grad(first.square().sum(), tensors[wanted])

    torch.testing.assert_close(penalty(other), penalty("reference"), rtol=1e-4, atol=1e-4)


def test_second_gradient_without_threshold_by_dy() -> None:
    """The gate is linear then: the gradient's gradient by dy is the gate itself."""
    x, weight, _ = example(requires_grad=True)
    dy = torch.randn_like(x).requires_grad_()
    (dx,) = torch.autograd.grad(fused_gate(x, weight), x, dy, create_graph=True)
    direction = torch.randn_like(x)
    (second,) = torch.autograd.grad(dx, dy, direction)
    torch.testing.assert_close(second, fused_gate(direction, weight).detach())


def test_checkpointing() -> None:
    tensors = example()
    again = partial(checkpoint, fused_gate, use_reentrant=False)
    torch.testing.assert_close(gradients(again, *tensors), gradients(fused_gate, *tensors), rtol=0, atol=0)


def test_inference_mode() -> None:
    tensors = example()
    with torch.inference_mode():
        y = fused_gate(*tensors)
    assert torch.equal(y, fused_gate(*tensors))


def test_vmap() -> None:
    """Over signals, and over filters: the reference runs, as often as a loop would run it."""
    x, weight, threshold = example(3)
    signals, filters = torch.stack([x, 2 * x.flip(0)]), torch.stack([weight, weight.flip(2)])
    y = torch.func.vmap(spectral_gate, in_dims=(0, None, None))(signals, weight, threshold)
    torch.testing.assert_close(
        y, torch.stack([spectral_gate(signal, weight, threshold) for signal in signals])
    )
    y = torch.func.vmap(spectral_gate, in_dims=(None, 0, None))(x, filters, threshold)
    torch.testing.assert_close(y, torch.stack([spectral_gate(x, each, threshold) for each in filters]))


def test_gradients_of_every_sample() -> None:
    x, weight, threshold = example(3)

    def loss(weight: Tensor, clip: Tensor) -> Tensor:
        return spectral_gate(clip[None], weight, threshold).sin().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, x)
    torch.testing.assert_close(each, torch.stack([torch.func.grad(loss)(weight, clip) for clip in x]))


def test_forward_mode() -> None:
    tensors = example()
    tangents = tuple(torch.randn_like(tensor) for tensor in tensors)
    _, tangent = torch.func.jvp(spectral_gate, tensors, tangents)
    _, expected = torch.func.jvp(partial(spectral_gate, impl="reference"), tensors, tangents)
    torch.testing.assert_close(tangent, expected)
    with forward_ad.dual_level():
        y = spectral_gate(*map(forward_ad.make_dual, tensors, tangents))
        torch.testing.assert_close(forward_ad.unpack_dual(y).tangent, expected)


@pytest.mark.parametrize(
    "transform",
    [
        lambda gate, *tensors: torch.func.vmap(gate, in_dims=(None, None, 0))(*tensors[:2], tensors[2][None]),
        lambda gate, *tensors: torch.func.grad(lambda x: gate(x, *tensors[1:]).sum())(tensors[0]),
        lambda gate, *tensors: torch.func.jvp(gate, tensors, tensors),
        lambda gate, *tensors: torch.func.jacrev(gate)(*tensors),
    ],
    ids=["vmap", "grad", "jvp", "jacrev"],
)
@pytest.mark.parametrize("impl", ["triton", "dense"])
def test_transforms_of_all_but_the_reference_are_refused(impl: str, transform: Callable[..., Tensor]) -> None:
    with pytest.raises(RuntimeError, match=rf'impl="{impl}" was asked for, but torch\.func and forward-mode'):
        transform(partial(spectral_gate, impl=impl), *example())


@pytest.mark.parametrize("gate", [fused_gate, dense_gate], ids=["triton", "dense"])
def test_forward_mode_of_all_but_the_reference_is_refused(gate: Callable[..., Tensor]) -> None:
    x, weight, threshold = example()
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="and forward-mode differentiation"):
        gate(forward_ad.make_dual(x, x), weight, threshold)


@pytest.mark.parametrize(
    ("frames", "dtype", "reason"),
    [
        (513, torch.float32, "the kernel serves up to 512 frames, not 513"),
        (8, torch.float64, "the kernel serves float32, bfloat16, float16, not float64"),
    ],
)
def test_what_the_kernel_does_not_serve(
    frames: int, dtype: torch.dtype, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = example(1, frames, dtype=dtype)
    with pytest.raises(RuntimeError, match=f'impl="triton" was asked for, but {reason}; ask for "auto"'):
        fused_gate(*tensors)
    torch.testing.assert_close(spectral_gate(*tensors), spectral_gate(*tensors, impl="reference"))
    monkeypatch.setenv(backend.VARIABLE, "triton")
    with pytest.raises(RuntimeError, match=f"MICA_KERNELS_IMPL=triton was asked for, but {reason}"):
        spectral_gate(*tensors)


def test_the_operator_itself_serves_all_that_the_reference_does() -> None:
    """A program that was exported with it may meet other numbers of frames, and become one of float64."""
    for tensors in (example(1, 513), example(1, 8, dtype=torch.float64)):
        gate = partial(OPERATOR, sparsity="joint")
        torch.testing.assert_close(
            gradients(gate, *tensors), gradients(spectral_gate, *tensors, impl="reference")
        )


def test_variable_chooses_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = example(requires_grad=True)
    assert is_fused(spectral_gate(*tensors)) == (DEVICE.type == "cuda")
    monkeypatch.setenv(backend.VARIABLE, "triton")
    assert is_fused(spectral_gate(*tensors))
    assert not is_fused(spectral_gate(*tensors, impl="reference"))
    monkeypatch.setenv(backend.VARIABLE, "reference")
    assert not is_fused(spectral_gate(*tensors))
    assert is_fused(fused_gate(*tensors))


WITHOUT_INTERPRETER = """
import torch
from mica_kernels import spectral_gate
from mica_kernels.spectral import reference

operator = torch.ops.mica_kernels.spectral_gate.default
random = torch.Generator().manual_seed(0)
x = torch.randn(2, 4, 5, 3, generator=random).to(memory_format=torch.channels_last)
weight, threshold = torch.randn(2, 3, 3, 2, generator=random), torch.rand(2, 3, generator=random)
leaves = [tensor.requires_grad_() for tensor in (x, weight, threshold)]
try:
    spectral_gate(x, weight, threshold, impl="triton")
except RuntimeError as error:
    print(error)
expected = reference.dense_spectral_gate(x, weight, threshold, "joint")
assert torch.equal(spectral_gate(x, weight, threshold), expected)

for gate in (operator, torch.compile(operator, backend="aot_eager", fullgraph=True)):
    results = []
    for each in (gate, reference.spectral_gate):
        y = each(x, weight, threshold, "joint")
        results.append([y, *torch.autograd.grad(y.sin().sum(), leaves, create_graph=gate is operator)])
    torch.testing.assert_close(*results)
    if gate is operator:
        second = [torch.autograd.grad(sum(g.cos().sum() for g in first[1:]), leaves) for first in results]
        torch.testing.assert_close(*second)

for signals in (x, x.detach().contiguous().requires_grad_(), torch.randn(2, 4, 10, 3)[:, :, ::2].requires_grad_()):
    torch.library.opcheck(operator, (signals, weight, threshold, "bin"))
"""


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU runs the kernel")
def test_on_a_cpu_without_the_interpreter(run: Callable[..., str]) -> None:
    """The kernel is refused, and the operator, as exported programs hold it, falls back to the reference."""
    out = run(WITHOUT_INTERPRETER, TRITON_INTERPRET="0")
    expected = 'impl="triton" was asked for, but the kernel needs a GPU, and this runs on the CPU; ask for'
    assert out.startswith(expected)


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from mica_kernels import spectral_gate
from mica_kernels.backend import explain
from mica_kernels.spectral import reference

x, weight = torch.randn(2, 4, 6, 3), torch.randn(1, 4, 3, 2).requires_grad_()
for device in ("cpu", "cuda"):
    print(explain(device)["spectral_gate"].reason)
try:
    spectral_gate(x, weight, impl="triton")
except RuntimeError as error:
    print(error)
expected = reference.spectral_gate(x, weight, None, "joint")
for gate in (spectral_gate, torch.compile(spectral_gate, backend="aot_eager", fullgraph=True)):
    torch.testing.assert_close(gate(x, weight), expected)
torch.testing.assert_close(torch.ops.mica_kernels.spectral_gate(x, weight, None, "joint"), expected)
"""


def test_without_triton(run: Callable[..., str]) -> None:
    lines = run(WITHOUT_TRITON).splitlines()
    missing = "Triton, which compiles the kernel, is not installed"
    assert lines[0].startswith(f"{missing}; up to 128 frames products of matrices are faster")
    assert lines[1] == f"{missing}, so the PyTorch reference runs"
    assert lines[2] == f'impl="triton" was asked for, but {missing}; ask for "auto" or "reference"'
