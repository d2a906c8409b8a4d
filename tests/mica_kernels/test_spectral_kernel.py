"""The spectral gate's kernels against the reference in float64: on a GPU if there is one, else interpreted.

So are its products of matrices, which need neither.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mica_kernels.launch import Launch, Variant
from mica_kernels.spectral import configs, op
from tests.mica_kernels.lanes import DEVICE, Poisoned, Results, dtypes
from tests.mica_kernels.spectral_cases import (
    FORMS,
    GRADIENT_FORMS,
    LONG,
    SHORT,
    SPARSITIES,
    Case,
    dense_gate,
    fused_gate,
    laid_out,
)

pytest.importorskip("triton")


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


def test_products_are_as_exact_as_pytorch_is_told(told: str, launched: list[Variant]) -> None:
    fused_gate(torch.zeros(1, 1, 4, 1, device=DEVICE), torch.zeros(1, 3, 1, 2, device=DEVICE))
    assert {dict(variant.constants)["PRECISION"] for variant in launched} == {told}
