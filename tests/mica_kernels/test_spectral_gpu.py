"""What only a GPU can show of the spectral gate's kernels: matrix units, streams, graphs, memory, huge tensors.

Where there is a GPU, test_spectral_kernel*.py and test_spectral_registration.py run on it, too.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from mica_kernels import backend, device, spectral_gate
from mica_kernels.launch import Variant
from mica_kernels.nn import SpectralGate
from mica_kernels.spectral import configs, op

pytest.importorskip("triton")

GPU = torch.cuda.is_available() and torch.version.hip is None

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(
        GPU and device.interpreted(), reason="TRITON_INTERPRET=1 keeps the kernels off the GPU"
    ),
]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FRAMES = {16: 32, 32: 63, 64: 128, 128: 255, 256: 512}
"""By the size of a configuration the longest clips that it serves, or one frame less."""

fused_gate = partial(spectral_gate, impl="triton")

Results = dict[str, Tensor]
Arguments = tuple[Tensor, Tensor, Tensor | None, str, Tensor]


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """float32 as exact as can be unless a test asks for less; no memory is left behind."""
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def arguments(
    clips: int,
    channels: int,
    frames: int,
    joints: int,
    *,
    groups: int = 2,
    dtype: torch.dtype = torch.bfloat16,
    sparsity: str = "joint",
    form: str = "channels_last",
    seed: int = 0,
) -> Arguments:
    """x, weight, threshold, sparsity and dy, in which a third of what the threshold is compared with is below it.

    Where the gate closes its gradient jumps. So that rounding decides nothing, sizes are a half, 1 or 2, and the
    threshold is 0.7: those of the bins for sparsity="bin", of the joints' signals for "joint". For that the filter only
    turns phases.
    """
    random = torch.Generator("cuda").manual_seed(seed)
    options = {"device": "cuda", "dtype": torch.float64, "generator": random}
    bins = frames // 2 + 1
    real = 2 * torch.arange(bins, device="cuda") % frames == 0
    phase = 2 * math.pi * torch.rand(clips, channels, bins, joints, **options)
    sizes = (
        2.0 ** torch.randint(-1, 2, phase.shape, **options)
        if sparsity == "bin"
        else torch.rand(phase.shape, **options)
    )
    spectrum = torch.where(real[:, None], sizes * phase.cos().sign(), torch.polar(sizes, phase))
    x = torch.fft.irfft(spectrum, n=frames, dim=2, norm="ortho")
    if sparsity != "bin":
        levels = 2.0 ** torch.randint(-1, 2, (clips, channels, 1, joints), **options)
        x *= levels / x.square().mean(dim=2, keepdim=True).sqrt()
    turn = 2 * math.pi * torch.rand(groups, bins, joints, **options)
    weight = torch.stack([torch.where(real[:, None], turn.cos().sign(), turn.cos()), turn.sin()], dim=-1)
    threshold = None if sparsity == "none" else torch.full((groups, joints), 0.7, device="cuda")
    dy = torch.randn(x.shape, **options)
    x, dy = (laid_out(signal.to(dtype), form) for signal in (x, dy))
    return x, weight.float(), threshold, "bin" if sparsity == "bin" else "joint", dy


def laid_out(signal: Tensor, form: str) -> Tensor:
    if form == "joints_last":
        return signal.transpose(1, 2).contiguous().transpose(1, 2)
    return signal.to(memory_format=torch.channels_last) if form == "channels_last" else signal.contiguous()


def step(
    gate: Callable[..., Tensor], *leaves: Tensor | None, sparsity: str, dy: Tensor
) -> tuple[Tensor, ...]:
    """y and the gradients of leaves that require them."""
    y = gate(*leaves, sparsity=sparsity)
    return y, *torch.autograd.grad(y, [leaf for leaf in leaves if leaf is not None], dy)


def leaves_of(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.detach().requires_grad_() for tensor in tensors]


def equal(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def _traits(variant: Variant) -> tuple[str, int]:
    """Data type and size of what a kernel was compiled for."""
    constants = dict(variant.constants)
    return dict(variant.pointers)["x"], constants.get("SPAN", constants["PAIRS"])


@pytest.mark.parametrize("size", configs.SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_every_shipped_configuration(
    dtype: torch.dtype,
    size: int,
    launched: list[Variant],
    differentiate: Callable[..., Results],
    check_budget: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In every layout and for every sparsity; few multiprocessors, so that a program has several clips."""
    monkeypatch.setattr(device, "multiprocessors", lambda where: 4)
    for form in ("channels_last", "joints_last", "contiguous"):
        for sparsity in configs.SPARSITIES:
            case = arguments(29, 16, FRAMES[size], 8, dtype=dtype, sparsity=sparsity, form=form)
            check_budget(differentiate(fused_gate, *case), *case)
    found = set(launched)
    arch = device.architecture(torch.device("cuda", torch.cuda.current_device()))
    traits = str(dtype).removeprefix("torch."), size
    shipped = [variant for variant in configs.variants(arch) if variant.kernel != "reduce"]
    assert found == {variant for variant in shipped if _traits(variant) == traits}


@pytest.mark.parametrize("frames", [1, 2, 3, 20, 50, 64, 65, 100, 300])
@pytest.mark.parametrize("sparsity", configs.SPARSITIES)
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32x3", "tf32"])
def test_error_budgets(
    precision: str,
    sparsity: str,
    frames: int,
    differentiate: Callable[..., Results],
    check_budget: Callable[..., None],
) -> None:
    """Of all that matrix units do; tf32 has the ten bits of float16 after the point."""
    dtype = getattr(torch, precision, torch.float32)
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    case = arguments(64, 64, frames, 25, groups=8, dtype=dtype, sparsity=sparsity)
    check_budget(differentiate(fused_gate, *case), *case, unit=2**-10 if precision == "tf32" else None)


@pytest.mark.parametrize("form", ["channels_last", "contiguous"])
@pytest.mark.parametrize("frames", [64, 300])
def test_same_bits_ten_times(frames: int, form: str) -> None:
    x, weight, threshold, sparsity, dy = arguments(
        512 if frames == 64 else 64, 64, frames, 25, groups=8, form=form
    )
    run = partial(step, fused_gate, *leaves_of(x, weight, threshold), sparsity=sparsity, dy=dy)
    first = run()
    assert all(equal(run(), first) for _ in range(9))


def test_auto_runs_the_kernel() -> None:
    x, weight, threshold, sparsity, _ = arguments(4, 16, 20, 5)
    y = spectral_gate(*leaves_of(x, weight, threshold), sparsity=sparsity)
    assert "mica_kernels_spectral_gate" in y.grad_fn.name()
    assert backend.explain("cuda")["spectral_gate"].impl == "triton"


def _free(gibibytes: float) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < gibibytes * 2**30:
        pytest.skip(f"needs {gibibytes} GiB of free GPU memory, and there are {free / 2**30:.0f}")


@pytest.mark.parametrize("form", ["channels_last", "contiguous"])
def test_more_elements_than_32_bits_count(form: str) -> None:
    """Clips far apart: the first and the last of 21000 come out as they do alone, and so do all their gradients."""
    _free(24)
    clips, shape = 21000, (64, 64, 25)
    few = torch.tensor([0, 1, clips - 2, clips - 1], device="cuda")
    _, weight, threshold, _, _ = arguments(1, *shape, groups=8)
    x = laid_out(torch.zeros(clips, *shape, device="cuda", dtype=torch.bfloat16), form)
    assert x.numel() > 2**31
    for n in range(0, clips, 1000):
        x[n : n + 1000].normal_()
    dy = torch.zeros_like(x)
    dy[few] = torch.randn(4, *shape, device="cuda", dtype=torch.bfloat16)
    y, dx, *dparameters = step(fused_gate, *leaves_of(x, weight, threshold), sparsity="joint", dy=dy)
    alone = step(
        fused_gate,
        *leaves_of(laid_out(x[few], form), weight, threshold),
        sparsity="joint",
        dy=laid_out(dy[few], form),
    )
    assert torch.equal(y[few], alone[0])
    assert torch.equal(dx[few], alone[1])
    assert not dx[2 : clips - 2].any()
    torch.testing.assert_close(dparameters, list(alone[2:]))


def test_clips_of_more_elements_than_32_bits_count(launched: list[Variant]) -> None:
    """The first and the last joints and channels of one enormous clip come out as they do alone."""
    _free(48)
    channels, frames, joints = 4096, 16, 2**15 + 1
    x = torch.empty(1, channels, frames, joints, device="cuda", dtype=torch.bfloat16).normal_()
    assert x.numel() > 2**31
    weight = torch.randn(1, frames // 2 + 1, joints, 2, device="cuda")
    threshold = torch.full((1, joints), 0.5, device="cuda")
    y, dx, dweight, dthreshold = step(fused_gate, *leaves_of(x, weight, threshold), sparsity="joint", dy=x)
    assert {dict(variant.constants)["LAYOUT"] for variant in launched} == {"far"}
    for part in (slice(0, 3), slice(joints - 3, joints)):
        some = x[..., part].contiguous()
        alone = step(
            fused_gate, *leaves_of(some, weight[:, :, part], threshold[:, part]), sparsity="joint", dy=some
        )
        near = partial(
            torch.testing.assert_close, rtol=1.6e-2, atol=1e-2
        )  # compiled apart, it may round apart
        near(y[..., part], alone[0])
        near(dx[..., part], alone[1])
        near(dweight[:, :, part], alone[2])
        near(dthreshold[:, part], alone[3])


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiles_with_inductor(mode: str) -> None:
    """With a convolution before and after; in one graph for all batch sizes."""
    block = nn.Sequential(nn.Conv2d(3, 16, 1), SpectralGate(16, 50, 7), nn.ReLU()).cuda()
    counter = CompileCounterWithBackend("inductor")
    options = {"backend": counter} if mode == "default" else {"mode": mode}
    compiled = torch.compile(block, fullgraph=True, dynamic=mode == "default", **options)
    for clips in (5, 9, 13):
        x = torch.randn(clips, 3, 50, 7, device="cuda").to(memory_format=torch.channels_last)
        results = []
        for module in (compiled, block):
            for _ in range(3):  # to warm up and record what CUDA graphs replay
                block.zero_grad()
                y = module(x)
                y.square().sum().backward()
            results.append(
                [y.detach().clone(), *(parameter.grad.clone() for parameter in block.parameters())]
            )
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)
    if mode == "default":
        assert counter.frame_count == 1
        assert any(
            "mica_kernels" in str(node.target)
            for node in counter.graphs[0].graph.nodes
            if node.op == "call_function"
        )


def test_autocast() -> None:
    """Float32 stays as it is; what a convolution gives in bfloat16 stays in it, and the parameters in float32."""
    x, weight, threshold, sparsity, dy = arguments(4, 16, 20, 5, dtype=torch.float32)
    leaves = leaves_of(x, weight, threshold)
    expected = step(fused_gate, *leaves, sparsity=sparsity, dy=dy)
    network = nn.Sequential(nn.Conv2d(16, 16, 1), SpectralGate(16, 20, 5)).cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert equal(step(fused_gate, *leaves, sparsity=sparsity, dy=dy), expected)
        y = network(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert "mica_kernels_spectral_gate" in y.grad_fn.name()
    assert {parameter.grad.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("frames", [50, 300])
def test_cuda_graph(frames: int) -> None:
    """Forward and backward are captured once and replayed on other signals."""
    x, weight, threshold, sparsity, dy = arguments(8, 16, frames, 5)
    leaves = leaves_of(x, weight, threshold)
    run = partial(step, fused_gate, *leaves, sparsity=sparsity, dy=dy)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    for seed in (1, 2):
        other = arguments(8, 16, frames, 5, seed=seed)
        with torch.no_grad():
            leaves[0].copy_(other[0])
            dy.copy_(other[-1])
        graph.replay()
        assert equal(results, run())


def test_first_call_while_a_graph_is_captured_is_an_error() -> None:
    x, weight, threshold, sparsity, _ = arguments(2, 16, 37, 5)
    expected = fused_gate(x, weight, threshold, sparsity=sparsity)  # compiles the kernel
    op._basis.cache_clear()
    message = "37 frames of torch.bfloat16 for the first time while a CUDA graph is captured"
    with pytest.raises(RuntimeError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
        fused_gate(x, weight, threshold, sparsity=sparsity)
    assert torch.equal(fused_gate(x, weight, threshold, sparsity=sparsity), expected)


def test_two_streams() -> None:
    """At once, and both for the first time: what one stream has made for all calls the other may read."""
    cases = [arguments(256, 64, 64, 25, groups=8, seed=seed) for seed in (0, 1)]
    runs = [
        partial(step, fused_gate, *leaves_of(*tensors), sparsity=sparsity, dy=dy)
        for *tensors, sparsity, dy in cases
    ]
    expected = [run() for run in runs]
    streams = [torch.cuda.Stream() for _ in runs]
    for _ in range(5):
        op._basis.cache_clear()
        torch.cuda.synchronize()
        results = []
        for stream, run in zip(streams, runs, strict=True):
            with torch.cuda.stream(stream):
                results.append(run())
        torch.cuda.synchronize()
        assert all(map(equal, results, expected))


def test_calls_do_not_wait_for_the_gpu() -> None:
    x, weight, threshold, sparsity, dy = arguments(8, 16, 40, 5)
    run = partial(step, fused_gate, *leaves_of(x, weight, threshold), sparsity=sparsity, dy=dy)
    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _peak(run: Callable[[], object]) -> int:
    """Bytes asked for while `run` runs, at the most, beyond those there were; what it returns included."""
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    results = run()
    peak = torch.cuda.memory_stats()["requested_bytes.all.peak"]
    del results
    return peak - before


@pytest.mark.parametrize("form", ["channels_last", "contiguous"])
@pytest.mark.parametrize("frames", [64, 128, 300])
def test_memory(frames: int, form: str) -> None:
    """Forward takes y and no more; backward dx, the parameters' gradients, and their parts, one for each program."""
    x, weight, threshold, sparsity, dy = arguments(128, 64, frames, 25, groups=8, form=form)
    size = x.numel() * x.element_size()
    assert _peak(lambda: torch.ops.mica_kernels.spectral_gate(x, weight, threshold, sparsity)) <= size
    launcher = op._Launcher("backward", weight, threshold, sparsity, x, dy, torch.empty_like(x))
    launch = launcher.best(lambda launch: None)
    blocks, parts, _ = launcher.split(launch)
    slots = blocks * launch.columns // launcher.run_length(launch)
    small = 4 * (weight.numel() + threshold.numel()) + 4 * parts * slots * (2 * configs.size(frames) + 1)
    backward, wanted = torch.ops.mica_kernels.spectral_gate_backward, [True, True, True]
    assert _peak(lambda: backward(dy, x, weight, threshold, sparsity, wanted)) <= size + small
    assert small <= size


def test_saved_for_backward() -> None:
    """A step holds x, y, and the parameters: once y is dropped, no more than before."""
    x, weight, threshold, sparsity, _ = arguments(64, 64, 64, 25, groups=8)
    leaves = leaves_of(x, weight, threshold)
    loss = fused_gate(*leaves, sparsity=sparsity).sum()
    del loss
    before = torch.cuda.memory_allocated()
    loss = fused_gate(*leaves, sparsity=sparsity).sum()
    assert torch.cuda.memory_allocated() - before <= 4096
    loss.backward()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_a_gpu_that_is_not_the_current_one() -> None:
    x, weight, threshold, sparsity, dy = arguments(4, 16, 20, 5)
    expected = step(fused_gate, *leaves_of(x, weight, threshold), sparsity=sparsity, dy=dy)
    second = [tensor.to("cuda:1") for tensor in (x, weight, threshold)]
    results = step(fused_gate, *leaves_of(*second), sparsity=sparsity, dy=dy.to("cuda:1"))
    assert torch.cuda.current_device() == 0
    assert {result.device.index for result in results} == {1}
    torch.testing.assert_close([result.cuda(0) for result in results], list(expected))
