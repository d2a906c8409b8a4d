"""The spectral gate's kernels against the reference in float64: on a GPU if there is one, else interpreted.

So are its products of matrices, which need neither.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mica_kernels import spectral_gate
from mica_kernels.launch import Launch, Variant
from mica_kernels.spectral import configs, op, reference

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SPARSITIES = ("none", "joint", "bin")
FORMS = ("contiguous", "channels_last", "joints_last", "frames_last", "permuted", "sliced", "expanded")
GRADIENT_FORMS = ("contiguous", "channels_last", "joints_last", "permuted", "sliced", "one_value")

Results = dict[str, Tensor]
Poisoned = Callable[[], AbstractContextManager[None]]

fused_gate = partial(spectral_gate, impl="triton")
dense_gate = partial(spectral_gate, impl="dense")
reference_gate = partial(spectral_gate, impl="reference")

dtypes = pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(DEVICE.type == "cpu", reason="the interpreter multiplies no bfloat16"),
        ),
    ],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)


@dataclass(frozen=True)
class Case:
    """Everything that decides on the arguments of a call."""

    clips: int = 2
    groups: int = 2
    channels_per_group: int = 2
    frames: int = 9
    joints: int = 3
    sparsity: str = "joint"
    per_joint: bool = True
    quantile: float = 0.4
    form: str = "contiguous"
    dy_form: str = "contiguous"
    weight_dtype: torch.dtype | None = None
    scale: float = 1.0
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.clips, self.groups * self.channels_per_group, self.frames, self.joints

    def arguments(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor | None, str, Tensor]:
        """x, weight, threshold, sparsity, dy."""
        random = torch.Generator().manual_seed(self.seed)
        x = self.scale * torch.randn(self.shape, generator=random)
        weight = torch.randn(self.groups, self.frames // 2 + 1, self.joints, 2, generator=random)
        dy = torch.randn(self.shape, generator=random)
        x = laid_out(x.to(DEVICE, dtype), self.form)
        dy = laid_out(dy.to(DEVICE, dtype), self.dy_form)
        weight = weight.to(DEVICE, self.weight_dtype or torch.float32)
        threshold = None if self.sparsity == "none" else self.threshold(x, weight).to(weight.dtype)
        return x, weight, threshold, "joint" if threshold is None else self.sparsity, dy

    def threshold(self, x: Tensor, weight: Tensor) -> Tensor:
        """Above about the `quantile` of what it gates; 1 is above all of it, and below 0 stands for no threshold.

        Where the gate closes its gradient jumps. So that rounding decides nothing, a threshold lies in the middle of a
        gap: no size of a signal, or of a bin, that it is compared with is within a hundredth of it.
        """
        if not x.numel():
            return torch.ones((self.groups, self.joints) if self.per_joint else self.groups, device=x.device)
        filtered = reference.spectral_gate(x.double(), weight.double(), None, "joint")
        if self.sparsity == "bin":
            sizes = torch.fft.rfft(filtered, dim=2, norm="ortho").abs()
        else:
            sizes = filtered.square().mean(dim=2, keepdim=True).sqrt()
        sizes = sizes.unflatten(1, (self.groups, self.channels_per_group)).permute(1, 4, 0, 2, 3).flatten(2)
        sizes = sizes if self.per_joint else sizes.flatten(1)
        rows = [_in_a_gap(row, self.quantile) for row in sizes.reshape(-1, sizes.shape[-1])]
        return torch.tensor(rows, device=x.device).reshape(sizes.shape[:-1])


def _in_a_gap(sizes: Tensor, quantile: float) -> float:
    sizes = sizes[sizes > 1e-3].sort().values.tolist()  # silence is below any threshold
    if quantile < 0 or not sizes:
        return 0.0
    bounds = [sizes[0] / 2, *sizes, sizes[-1] * 2]
    gaps = [i for i in range(len(bounds) - 1) if bounds[i + 1] > 1.03 * bounds[i]]
    chosen = min(gaps, key=lambda i: abs(i - quantile * len(sizes)))
    return math.sqrt(bounds[chosen] * bounds[chosen + 1])


def laid_out(base: Tensor, form: str) -> Tensor:
    """The values of `base` in memory of some form; but "expanded" and "one_value" repeat some of them."""
    n, c, t, v = base.shape
    if form == "channels_last":
        return base.to(memory_format=torch.channels_last)
    if form == "frames_last":
        return base.transpose(2, 3).contiguous().transpose(2, 3)
    if form == "joints_last":
        return base.transpose(1, 2).contiguous().transpose(1, 2)
    if form == "permuted":
        return base.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    if form == "sliced":
        storage = torch.full(
            (n + 1, c + 1, 2 * t + 1, v + 2), torch.nan, dtype=base.dtype, device=base.device
        )
        view = storage[1:, 1:, 1::2, 1:-1]
        view.copy_(base)
        return view
    if form == "expanded":
        return base[:1, :, :, :1].expand(base.shape)
    if form == "one_value":
        return base.new_full((), 0.7).expand(base.shape)  # as the gradient of a sum is
    return base.contiguous()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Mostly short clips; long ones are few and narrow, for they take the interpreter seconds."""
    long = draw(st.integers(0, 7)) == 0
    return Case(
        clips=draw(st.integers(1, 2) if long else st.sampled_from([0, 1, 2, 2, 3, 5])),
        groups=draw(st.integers(1, 2)),
        channels_per_group=draw(st.integers(1, 2) if long else st.sampled_from([1, 2, 3, 8])),
        frames=draw(st.integers(41, 150) if long else st.integers(1, 40)),
        joints=draw(st.integers(1, 2 if long else 4)),
        sparsity=draw(st.sampled_from(SPARSITIES)),
        per_joint=draw(st.booleans()),
        quantile=draw(st.sampled_from([-1, 0.0, 0.1, 0.5, 0.8, 1.0])),
        form=draw(st.sampled_from(FORMS)),
        dy_form=draw(st.sampled_from(GRADIENT_FORMS)),
        weight_dtype=draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16])),
        scale=draw(st.sampled_from([1.0, 0.1, 30.0])),
        seed=draw(st.integers(0, 99)),
    )


# Shrinking would run for many minutes; what it starts from is small enough.
@settings(max_examples=30, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(case=cases(), multiprocessors=st.sampled_from([1, 4, 100]))
@dtypes
def test_values_and_gradients(
    dtype: torch.dtype,
    differentiate: Callable[..., Results],
    check_budget: Callable[..., None],
    poisoned: Poisoned,
    case: Case,
    multiprocessors: int,
) -> None:
    arguments = case.arguments(dtype)
    with pytest.MonkeyPatch.context() as patch, poisoned():
        # Their number decides how a batch is split among programs.
        patch.setattr(op.device, "multiprocessors", lambda device: multiprocessors)
        fused = differentiate(fused_gate, *arguments)
    check_budget(fused, *arguments)
    assert fused["y"].stride() == torch.empty_like(arguments[0]).stride()


@settings(max_examples=50, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(case=cases())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_products_of_matrices(
    dtype: torch.dtype,
    differentiate: Callable[..., Results],
    check_budget: Callable[..., None],
    case: Case,
) -> None:
    """On any device. Four steps round: transform, filter, transform, gate; those of a constant all to one side.

    Sums over frames are of float32 in half precisions, and have more digits than their terms there alone.
    """
    arguments = case.arguments(dtype)
    results = differentiate(dense_gate, *arguments)
    check_budget(results, *arguments, unit=(4 if dtype.itemsize == 2 else 16) * torch.finfo(dtype).eps)
    if case.clips:
        assert results["y"].stride() == torch.empty_like(arguments[0]).stride()


@pytest.mark.parametrize(
    ("dtype", "frames", "sparsity", "kernels"),
    [
        (torch.float32, 16, "joint", ["forward", "backward"]),
        (torch.float32, 64, "bin", ["forward", "backward"]),
        (torch.float32, 65, "joint", ["forward_long", "backward_long"]),
        (torch.float32, 129, "none", ["forward_long", "backward_long"]),
        (torch.float32, 300, "bin", ["forward_long", "backward_long"]),
        (torch.float16, 33, "joint", ["forward", "backward"]),
        (torch.float16, 128, "bin", ["forward", "backward"]),
        (torch.float16, 129, "joint", ["forward_long", "backward_long"]),
        (torch.float16, 511, "joint", ["forward_long", "backward_long"]),
        (torch.float16, 512, "none", ["forward_long", "backward_long"]),
    ],
)
def test_shipped_configurations_of_every_size(
    dtype: torch.dtype,
    frames: int,
    sparsity: str,
    kernels: list[str],
    launched: list[Variant],
    differentiate: Callable[..., Results],
    check_budget: Callable[..., None],
    poisoned: Poisoned,
) -> None:
    case = Case(clips=1, groups=1, channels_per_group=1, frames=frames, joints=1, sparsity=sparsity)
    arguments = case.arguments(dtype)
    with poisoned():
        fused = differentiate(fused_gate, *arguments)
    check_budget(fused, *arguments)
    assert [variant.kernel for variant in launched] == kernels


SHORT = Launch(columns=16, warps=4, stages=1, programs=1)
LONG = Launch(columns=16, warps=4, stages=1, programs=1, pairs=16, step=16)


@pytest.mark.parametrize(
    ("sparsity", "layout"), [*itertools.product(SPARSITIES, ["flat", "near"]), ("joint", "far")]
)
@pytest.mark.parametrize(
    ("dtype", "launch"), [(torch.float32, SHORT), (torch.float16, LONG)], ids=["short", "long"]
)
def test_every_kernel_in_every_layout(
    dtype: torch.dtype,
    launch: Launch,
    sparsity: str,
    layout: str,
    launched: list[Variant],
    differentiate: Callable[..., Results],
    check_budget: Callable[..., None],
    poisoned: Poisoned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """24 columns in blocks of 16, 17 pairs in blocks of 16, both clips in one program, eight channels on end."""
    monkeypatch.setattr(configs, "launch", lambda *key: launch)
    monkeypatch.setattr(op.device, "multiprocessors", lambda device: 1)
    if layout == "far":
        monkeypatch.setattr(op, "_layout", lambda *signals: "far")
    form = "channels_last" if layout == "flat" else "contiguous"
    case = Case(
        groups=1, channels_per_group=8, frames=33, joints=3, sparsity=sparsity, form=form, dy_form=form
    )
    arguments = case.arguments(dtype)
    with poisoned():
        fused = differentiate(fused_gate, *arguments)
    assert {dict(variant.constants)["LAYOUT"] for variant in launched} == {layout}
    check_budget(fused, *arguments)


@pytest.mark.parametrize("form", ["channels_last", "joints_last"])
@pytest.mark.parametrize("channels_per_group", [2, 12, 16])
def test_groups_of_columns_on_end(
    channels_per_group: int,
    form: str,
    launched: list[Variant],
    differentiate: Callable[..., Results],
    check_budget: Callable[..., None],
    poisoned: Poisoned,
) -> None:
    """The filter's gradient is added up in a program only where eight channels on end share a filter."""
    case = Case(channels_per_group=channels_per_group, frames=5, joints=2, form=form, dy_form=form)
    arguments = case.arguments(torch.float32)
    with poisoned():
        fused = differentiate(fused_gate, *arguments)
    check_budget(fused, *arguments)
    constants = dict(launched[-1].constants)
    assert constants["LAYOUT"] == "flat"
    assert constants["RUN"] == (8 if channels_per_group == 16 and form == "channels_last" else 1)


@pytest.mark.parametrize(
    ("frames", "launch"),
    [
        (20, Launch(columns=128, warps=4, stages=2, programs=2)),
        (64, Launch(columns=16, warps=4, stages=1, programs=1, pairs=16, step=32)),
        (50, Launch(columns=32, warps=4, stages=1, programs=2, pairs=32, step=16)),
    ],
)
def test_other_launch_configurations(
    frames: int,
    launch: Launch,
    differentiate: Callable[..., Results],
    check_budget: Callable[..., None],
    poisoned: Poisoned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As tuning may choose them."""
    monkeypatch.setattr(configs, "launch", lambda *key: launch)
    arguments = Case(clips=3, frames=frames).arguments(torch.float32)
    with poisoned():
        fused = differentiate(fused_gate, *arguments)
    check_budget(fused, *arguments)


@pytest.mark.parametrize(
    "case",
    [
        Case(channels_per_group=8, form="channels_last", dy_form="channels_last"),
        Case(sparsity="bin", form="permuted"),
        Case(clips=1, frames=70, joints=1),
    ],
    ids=["flat", "near", "long"],
)
def test_repetition_gives_the_same_bits(case: Case, differentiate: Callable[..., Results]) -> None:
    arguments = case.arguments(torch.float16)
    first, second = (differentiate(fused_gate, *arguments) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


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


def test_unwritten_results_would_show(poisoned: Poisoned, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the tests: without a kernel y is NaN."""
    monkeypatch.setattr(op._Launcher, "start", lambda *arguments: None)
    x, weight, threshold, sparsity, _ = Case().arguments(torch.float32)
    with poisoned():
        assert fused_gate(x, weight, threshold, sparsity=sparsity).isnan().all()


def _layouts(x: Tensor, dy: Tensor) -> tuple[str, str]:
    """Those of the forward and the backward launch."""
    weight = torch.ones(1, x.shape[2] // 2 + 1, x.shape[3], 2, device=x.device)
    y = dx = torch.empty_like(x)
    launchers = (
        op._Launcher("forward", weight, None, "joint", x, y),
        op._Launcher("backward", weight, None, "joint", x, dy, dx),
    )
    return launchers[0].layout, launchers[1].layout


@pytest.mark.parametrize(
    ("form", "gradient_form", "expected"),
    [
        ("channels_last", "channels_last", ("flat", "flat")),
        ("joints_last", "joints_last", ("flat", "flat")),
        ("channels_last", "contiguous", ("flat", "near")),
        ("channels_last", "one_value", ("flat", "near")),
        ("contiguous", "contiguous", ("near", "near")),
        ("permuted", "channels_last", ("near", "near")),
        ("sliced", "sliced", ("near", "near")),
        ("expanded", "contiguous", ("near", "near")),
    ],
)
def test_layouts(form: str, gradient_form: str, expected: tuple[str, str]) -> None:
    base = torch.zeros(2, 8, 5, 3, device=DEVICE)
    assert _layouts(laid_out(base, form), laid_out(base, gradient_form)) == expected


def test_layout_of_what_is_not_aligned() -> None:
    """Rows of 15 half floats, or a start in the middle of 16 bytes, do not allow for loads of 16 bytes."""
    odd = torch.zeros(2, 5, 4, 3, device=DEVICE, dtype=torch.float16).to(memory_format=torch.channels_last)
    assert _layouts(odd, odd) == ("near", "near")
    storage = torch.zeros(2 * 8 * 5 * 3 + 1, device=DEVICE)
    shifted = storage[1:].view(2, 5, 3, 8).permute(0, 3, 1, 2)
    assert _layouts(shifted, shifted) == ("near", "near")
    assert _layouts(shifted.clone(), shifted) == ("flat", "near")


def test_layout_of_clips_that_take_long_offsets() -> None:
    """On no memory at all: only strides are looked at."""
    far = torch.empty_strided((1, 2, 3, 4), (0, 2**30, 2**29, 1), device="meta")
    assert op._layout(False, far) == "far"
    assert op._layout(False, far[:, :1]) == "near"
    assert op._layout(False, far[..., :2, :]) == "near"  # the last element is the first that matters
    clips_apart = torch.empty_strided((2, 2, 3, 4), (2**40, 12, 4, 1), device="meta")
    assert op._layout(False, clips_apart) == "near"


def test_strides_of_parameters(differentiate: Callable[..., Results]) -> None:
    x, weight, threshold, sparsity, dy = Case(form="permuted").arguments(torch.float32)
    expected = differentiate(fused_gate, x, weight, threshold, sparsity, dy)
    strided = weight.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0), threshold.T.contiguous().T
    results = differentiate(fused_gate, x, *strided, sparsity, dy)
    assert all(torch.equal(results[name], expected[name]) for name in expected)
    per_group = differentiate(fused_gate, x, weight, threshold[:, 1], sparsity, dy)
    expanded = differentiate(fused_gate, x, weight, threshold[:, 1:2].expand(-1, 3), sparsity, dy)
    assert torch.equal(per_group["y"], expanded["y"])
    torch.testing.assert_close(per_group["dthreshold"], expanded["dthreshold"].sum(1))


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


def test_backward_needs_nothing_but_the_arguments() -> None:
    x, weight, threshold, sparsity, dy = Case(form="sliced").arguments(torch.float32)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    for tensor in (x, weight, threshold):
        tensor.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = fused_gate(x, weight, threshold, sparsity=sparsity)
    assert [tensor.data_ptr() for tensor in kept] == [tensor.data_ptr() for tensor in (x, weight, threshold)]
    assert [tensor.shape for tensor in kept] == [tensor.shape for tensor in (x, weight, threshold)]
    y.backward(dy)
    assert all(tensor.grad is not None for tensor in (x, weight, threshold))


def test_gradient_of_one_argument_alone(differentiate: Callable[..., Results]) -> None:
    *tensors, sparsity, dy = Case(clips=1, joints=1).arguments(torch.float32)
    expected = differentiate(fused_gate, *tensors, sparsity, dy)
    for i, name in enumerate(("dx", "dweight", "dthreshold")):
        inputs = [tensor.detach().requires_grad_(i == j) for j, tensor in enumerate(tensors)]
        fused_gate(*inputs, sparsity=sparsity).backward(dy)
        assert torch.equal(inputs[i].grad, expected[name])


def test_input_is_not_changed() -> None:
    x, weight, threshold, sparsity, _ = Case().arguments(torch.float32)
    before = [tensor.clone() for tensor in (x, weight, threshold)]
    fused_gate(x, weight, threshold, sparsity=sparsity).zero_()
    assert all(torch.equal(*pair) for pair in zip(before, (x, weight, threshold), strict=True))


def test_same_epsilon() -> None:
    assert op._kernels().EPS.value == reference.EPS


@pytest.mark.parametrize(
    ("asked", "precision"), [("highest", "tf32x3"), ("high", "tf32"), ("medium", "tf32")]
)
def test_products_are_as_exact_as_pytorch_is_told(
    asked: str, precision: str, launched: list[Variant]
) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(asked)
    try:
        fused_gate(torch.zeros(1, 1, 4, 1, device=DEVICE), torch.zeros(1, 3, 1, 2, device=DEVICE))
    finally:
        torch.set_float32_matmul_precision(before)
    assert {dict(variant.constants)["PRECISION"] for variant in launched} == {precision}
