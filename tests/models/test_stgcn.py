"""ST-GCN: the peers' encoder to the parameter, and its graph convolution against theirs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mica.models.stgcn import PRESETS, STGCN, WIDE, GraphConv, TemporalConv, laid_out
from mica.skeleton import get_layout
from mica.transforms.streams import Stream

NTU, KINECT = get_layout("ntu-25"), get_layout("kinect-20")


def small(**how: object) -> STGCN:
    torch.manual_seed(0)
    return STGCN(KINECT, "stgcn-small", **{"num_frames": 16, **how}).eval()


def clips(frames: int = 16, n: int = 2) -> Tensor:
    return torch.randn(n, 3, frames, KINECT.num_joints, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("preset", "count"), [("stgcn", 821_380), ("stgcn-64", 3_083_412)])
def test_parameters_are_the_peers(preset: str, count: int) -> None:
    assert sum(p.numel() for p in STGCN(NTU, preset, frest=False).parameters()) == count


@pytest.mark.parametrize("inputs", [["joint", "bone", "motion"], ["motion"], ["bone", "joint"]])
def test_inputs_are_streams_side_by_side(inputs: list[Stream]) -> None:
    """As an encoder of so many channels that is handed them."""
    encoder, plain = small(inputs=inputs), small(in_channels=3 * len(inputs))
    plain.load_state_dict(encoder.state_dict())
    x = clips()
    bones, motion = torch.zeros_like(x), torch.zeros_like(x)
    for joint, parent in enumerate(KINECT.parents):
        bones[..., joint] = x[..., joint] - x[..., parent]
    for frame in range(15):
        motion[:, :, frame] = x[:, :, frame + 1] - x[:, :, frame]
    by_name = {"joint": x, "bone": bones, "motion": motion}
    wanted = plain(torch.cat([by_name[name] for name in inputs], dim=1))
    torch.testing.assert_close(encoder(x), wanted)


@pytest.mark.parametrize("inputs", [[], ["joint", "joint"], ["joints"]])
def test_inputs_that_are_no_streams_are_refused(inputs: list[str]) -> None:
    with pytest.raises(ValueError, match="inputs must be some of joint, bone, motion, each once"):
        small(inputs=inputs)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("c_in", "c_out"), [(3, 8), (8, 3), (1, 1)])
def test_graph_conv_is_the_peers(c_in: int, c_out: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = GraphConv(c_in, c_out, torch.rand(3, 25, 25)).double()
    torch.nn.init.normal_(layer.edge_importance)
    torch.nn.init.normal_(layer.conv.bias)
    x = torch.randn(2, c_in, 5, 25, dtype=torch.float64, requires_grad=True)
    mixed = layer.conv(x).view(2, 3, c_out, 5, 25)  # 1x1 convolution, bias and all, before the graph
    expected = torch.einsum("nkctv,kvw->nctw", mixed, layer.adjacency * layer.edge_importance)
    out = layer(x.contiguous(memory_format=memory_format))
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)
    probe = torch.randn_like(out)
    wanted = (x, layer.conv.weight, layer.conv.bias, layer.edge_importance)
    ours, theirs = (torch.autograd.grad((result * probe).sum(), wanted) for result in (out, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("width", [WIDE // 2, WIDE])
def test_temporal_conv_is_a_convolution(width: int, stride: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = TemporalConv(width, kernel=5, stride=stride).double()
    x = torch.randn(2, width, 7, 4, dtype=torch.float64).contiguous(memory_format=memory_format)
    x.requires_grad_()
    expected = nn.functional.conv2d(x, layer.weight, layer.bias, (stride, 1), (2, 0))
    out = layer(x)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=1e-12)
    assert torch.equal(layer.eval()(x), expected)
    probe = torch.randn_like(out)
    wanted = (x, layer.weight, layer.bias)
    ours, theirs = (torch.autograd.grad((result * probe).sum(), wanted) for result in (out, expected))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("choice", ["dilation", "groups", "padding_mode"])
def test_temporal_conv_takes_no_choice_that_one_of_its_ways_would_forget(choice: str) -> None:
    with pytest.raises(TypeError, match=choice):
        TemporalConv(WIDE, kernel=5, **{choice: 2})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("inputs", [["joint"], ["joint", "bone", "motion"]])
def test_no_clips(inputs: list[Stream], training: bool) -> None:
    encoder = small(inputs=inputs).train(training)
    assert encoder(clips(n=0)).shape == (0, 128, 4, 20)


def test_gradients_are_channels_last_whatever_layout_they_come_in() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    for above in (torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5, 4).transpose(2, 3)):
        (gradient,) = torch.autograd.grad(laid_out(x), x, above)
        assert gradient.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(gradient, above)


@pytest.mark.parametrize("training", [True, False])
def test_the_clips_stay_as_they_are(training: bool) -> None:
    encoder, x = small(frest=False).train(training), clips()
    before = x.clone()
    encoder(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("frames", [1, 13, 16])
def test_shape_for_any_number_of_frames(preset: str, frames: int) -> None:
    encoder = STGCN(KINECT, preset, num_frames=16).eval()
    out = encoder(clips(frames))
    assert out.shape == (2, encoder.width, -(-frames // 4), 20)
    assert out.isfinite().all()


def test_new_frest_layers_change_nothing() -> None:
    plain, with_frest = small(frest=False), small(frest=True)
    weights = [value for name, value in with_frest.state_dict().items() if not _of_frest(name, with_frest)]
    plain.load_state_dict(dict(zip(plain.state_dict(), weights, strict=True)))
    assert len(with_frest.frest_layers) == 4
    assert torch.equal(plain(clips()), with_frest(clips()))


@pytest.mark.parametrize(
    ("how", "mixes"),
    [({"frest": False}, False), ({"start": "identity"}, False), ({"start": "random"}, True)],
)
def test_with_a_kernel_of_one_frame_only_frest_mixes_time(how: dict[str, object], mixes: bool) -> None:
    encoder, x = small(temporal_kernel=1, **how), clips()
    changed = x.clone()
    changed[:, :, 8] += 1  # the first two strides of two keep frames 0, 4, 8 and 12
    moved = (encoder(changed) - encoder(x)).abs().amax((0, 1, 3)) > 1e-6
    assert moved.tolist() == ([True] * 4 if mixes else [False, False, True, False])


@pytest.mark.parametrize(("kernel", "taps"), [(None, 5), (3, 3)])
def test_the_temporal_kernel_can_be_chosen(kernel: int | None, taps: int) -> None:
    convolutions = [
        part for part in small(temporal_kernel=kernel).modules() if isinstance(part, TemporalConv)
    ]
    assert [part.kernel_size for part in convolutions] == [(taps, 1)] * 4


@pytest.mark.parametrize("kernel", [0, 2, -1])
def test_a_kernel_without_a_middle_is_refused(kernel: int) -> None:
    with pytest.raises(ValueError, match=f"temporal_kernel must be odd and at least 1; got {kernel}"):
        small(temporal_kernel=kernel)


def _of_frest(name: str, encoder: STGCN) -> bool:
    blocks = [f"blocks.{i}." for i, block in enumerate(encoder.blocks) if block in encoder.frest_layers]
    return name.startswith(tuple(blocks))


def test_plain_encoder_has_no_trace_of_frest() -> None:
    encoder = small(frest=False)
    assert encoder.frest_layers == []
    words = ("gate", "spatial", "threshold", "mix")
    assert not [name for name in encoder.state_dict() if any(word in name for word in words)]


def test_filters_are_made_for_the_frames_they_meet() -> None:
    encoder = small(num_frames=13)
    seen: list[int] = []
    for layer in encoder.frest_layers:
        layer.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[2]))
    encoder(clips(13))
    assert seen == [layer.num_frames for layer in encoder.frest_layers] == [7, 7, 4, 4]


def test_memory_format_does_not_matter() -> None:
    encoder, x = small(), clips()
    out = encoder(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(out, encoder(x), atol=1e-5, rtol=1e-5)


def test_input_norm_is_of_each_joint_and_channel() -> None:
    encoder = small().train()
    seen: list[Tensor] = []
    encoder.blocks.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = clips(n=8) * (1 + 9 * torch.rand(1, 3, 1, 20)) + torch.randn(1, 3, 1, 20)
    encoder(x)
    mean, deviation = x.mean((0, 2), keepdim=True), x.std((0, 2), unbiased=False, keepdim=True)
    torch.testing.assert_close(seen[0], (x - mean) / deviation, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("frest", [True, False])
def test_bfloat16_autocast(frest: bool) -> None:
    encoder = small(frest=frest)
    for layer in encoder.frest_layers:
        torch.nn.init.constant_(layer.norm.weight, 0.3)
    expected = encoder(clips())
    with torch.autocast("cpu", torch.bfloat16):
        out = encoder(clips())
    assert (out.float() - expected).norm() < 0.03 * expected.norm()
    out.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)


def test_every_parameter_gets_a_gradient() -> None:
    encoder = small().train()
    for layer in encoder.frest_layers:
        torch.nn.init.constant_(layer.norm.weight, 0.3)
    (encoder(clips(n=4)) * torch.randn(4, 128, 4, 20)).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_unknown_preset_names_the_known() -> None:
    with pytest.raises(ValueError, match="unknown preset 'resnet'; known: stgcn, stgcn-64, stgcn-small"):
        STGCN(NTU, "resnet")


def test_another_skeleton_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected \(N, C, T, 20\) for layout kinect-20, got \(2, 3, 16, 25\)"
    ):
        small()(torch.zeros(2, 3, 16, 25))
