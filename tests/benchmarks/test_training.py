"""The training step's benchmark: the peers' encoder and views are as defined, and every rung is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import peers, rungs, table, training, waterfall
from benchmarks.rungs import Case, Rung
from mica.models.precision import multiplies_bfloat16
from mica.models.stgcn import STGCN, STGCNBlock
from mica.skeleton import get_layout

CPU = torch.device("cpu")
TINY = Case("tiny", batch=4, frames=8, persons=1, preset="stgcn-small", layout="kinect-20")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list(training.rows(CPU, case=TINY, rounds=1))


def encoders(preset: str) -> tuple[STGCN, peers.PeerSTGCN]:
    """Ours with parameters that are nowhere at their start, and the peers' with the same."""
    torch.manual_seed(0)
    layout = get_layout("ntu-25")
    ours, theirs = STGCN(layout, preset, frest=False).double(), peers.PeerSTGCN(layout, preset).double()
    for parameter in ours.parameters():
        nn.init.uniform_(parameter, 0.1, 0.5)
        parameter.data *= torch.randn_like(parameter).sign() if parameter.ndim == 4 else 1
    peers.copy_weights(ours, theirs)
    return ours, theirs


def named_gradients(theirs: peers.PeerSTGCN, ours: STGCN) -> list[tuple[str, Tensor, Tensor]]:
    """The gradient of each parameter of ours, and the peers'."""
    blocks = [block for block in ours.blocks if isinstance(block, STGCNBlock)]
    pairs = [("input", ours.input_norm, theirs.data_bn)]
    for index, (mine, other) in enumerate(zip(blocks, theirs.st_gcn_networks, strict=True)):
        pairs += [
            (f"{index} graph", mine.graph.conv, other.gcn),
            (f"{index} temporal", mine.temporal, other.tcn),
        ]
        if mine.residual is not None:
            pairs.append((f"{index} residual", mine.residual, other.residual))
    found = [
        (f"{name} {which}", mine.grad, other.get_parameter(which).grad)
        for name, module, other in pairs
        for which, mine in module.named_parameters()
    ]
    for index, (block, importance) in enumerate(zip(blocks, theirs.edge_importance, strict=True)):
        found.append((f"{index} edges", block.graph.edge_importance.grad, importance.grad))
    return found


@pytest.mark.parametrize("preset", ["stgcn", "stgcn-small"])
@pytest.mark.parametrize("training_mode", [True, False])
def test_the_peers_encoder_is_ours(preset: str, training_mode: bool) -> None:
    ours, theirs = (encoder.train(training_mode) for encoder in encoders(preset))
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    x = torch.randn(3, 3, 12, 25, dtype=torch.float64)
    features = [encoder(x) for encoder in (ours, theirs)]
    torch.testing.assert_close(*features, atol=1e-9, rtol=1e-9)
    probe = torch.randn_like(features[0])
    for result in features:
        (result * probe).sum().backward()
    compared = named_gradients(theirs, ours)
    assert len(compared) == len(list(ours.parameters()))
    # By norms over all: the bias of a convolution in front of a BatchNorm has no gradient but rounding errors.
    size = max(mine.norm() for _, mine, _ in compared)
    for name, mine, other in compared:
        assert (mine - other).norm() <= 1e-9 * size, name


def test_a_crop_is_a_window_of_the_reflected_clip() -> None:
    clip = np.arange(12.0).reshape(1, 12, 1, 1)
    starts = set()
    for seed in range(60):
        window = peers.crop(clip, np.random.default_rng(seed))[0, :, 0, 0]
        padded = np.array([2, 1, *range(12), 10, 9])
        start = next(start for start in range(5) if np.array_equal(window, padded[start : start + 12]))
        starts.add(start)
    assert starts == set(range(5))


def test_a_shear_mixes_coordinates_by_one_matrix_with_ones_on_its_diagonal() -> None:
    clip = np.random.default_rng(0).normal(size=(3, 5, 4, 2)).astype(np.float32)
    sheared = peers.shear(clip, np.random.default_rng(1))
    assert sheared.shape == clip.shape
    assert sheared.dtype == np.float32
    matrix, residual, *_ = np.linalg.lstsq(clip.reshape(3, -1).T, sheared.reshape(3, -1).T, rcond=None)
    assert residual.max() < 1e-9
    np.testing.assert_allclose(np.diag(matrix), 1, atol=1e-5)
    others = matrix[~np.eye(3, dtype=bool)]
    assert np.abs(others).max() <= 0.5
    assert len(np.unique(others)) == 6


def test_two_views_of_a_clip_differ_and_keep_its_shape() -> None:
    clips = np.random.default_rng(0).normal(size=(2, 3, 12, 25, 2)).astype(np.float32)
    one, two, label = peers.TwoViews(clips, np.array([7, 8]))[1]
    assert one.shape == two.shape == clips[0].shape
    assert not np.array_equal(one, two)
    assert label == 8


LAYOUT = get_layout("ntu-25")
CLIP = np.random.default_rng(0).normal(size=(3, 30, 25, 2)).astype(np.float32)


def many(augmentation: Callable[[np.random.Generator], np.ndarray], count: int = 40) -> list[np.ndarray]:
    return [augmentation(np.random.default_rng(seed)) for seed in range(count)]


def test_a_flip_exchanges_sides_half_of_the_time() -> None:
    flipped = [not np.array_equal(out, CLIP) for out in many(lambda draw: peers.flip(CLIP, LAYOUT, draw))]
    assert 10 < sum(flipped) < 30
    out = next(
        out for out in many(lambda draw: peers.flip(CLIP, LAYOUT, draw)) if not np.array_equal(out, CLIP)
    )
    np.testing.assert_array_equal(out[:, :, LAYOUT.joints.index("left hand")], CLIP[:, :, LAYOUT.mirror[7]])


def test_a_rotation_has_one_main_axis() -> None:
    angles = []
    for out in many(lambda draw: peers.rotate(CLIP, draw)):
        matrix = np.linalg.lstsq(CLIP.reshape(3, -1).T, out.reshape(3, -1).T, rcond=None)[0].T
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(matrix) > 0
        angles.append(np.degrees(np.arccos((np.trace(matrix) - 1) / 2)))
    assert 20 < max(angles) < 30.1
    assert min(angles) < 10


def test_noise_is_added_half_of_the_time() -> None:
    added = np.stack(many(lambda draw: peers.noise(CLIP, draw) - CLIP))
    noisy = added.any(axis=(1, 2, 3, 4))
    assert 10 < noisy.sum() < 30
    assert added[noisy].std() == pytest.approx(0.01, rel=0.02)


def test_a_blur_is_a_gaussian_that_is_not_normalised() -> None:
    impulse = np.zeros((3, 31, 4, 2))
    impulse[:, 15] = 1
    blurred = [out for out in many(lambda draw: peers.blur(impulse, draw)) if out[0, 14, 0, 0] > 0.1]
    assert len(blurred) > 5
    for out in blurred:
        np.testing.assert_array_equal(out, np.broadcast_to(out[:1, :, :1, :1], out.shape))
        sigma = np.sqrt(-0.5 / np.log(out[0, 14, 0, 0]))
        assert 0.1 < sigma < 2
        expected = np.exp(-(np.arange(-7, 8) ** 2) / (2 * sigma**2))
        np.testing.assert_allclose(out[0, 8:23, 0, 0], expected, atol=1e-9)
        assert not out[:, :8].any()


def test_an_axis_mask_zeroes_one_axis_half_of_the_time() -> None:
    silent = [(out == 0).all(axis=(1, 2, 3)) for out in many(lambda draw: peers.axis_mask(CLIP, draw))]
    assert set(map(tuple, silent)) == {(i == 0, i == 1, i == 2) for i in range(4)}
    assert 10 < np.sum(silent) < 30


def test_a_strong_view_keeps_shape_and_type() -> None:
    before = CLIP.copy()
    views = many(lambda draw: peers.strong_view(CLIP, LAYOUT, draw))
    assert all((out.shape, out.dtype) == (CLIP.shape, np.float32) for out in views)
    assert len({out.tobytes() for out in views}) == len(views)
    np.testing.assert_array_equal(CLIP, before)


def test_every_rung_has_a_row(rows: list[dict[str, Any]]) -> None:
    wanted = [rung.name for rung in rungs.ladder(CPU)]
    assert [row["implementation"] for row in rows] == wanted
    measured = [row for row in rows if "times" in row]
    for row in rows:
        assert row["failed"] is None
        assert (row["operator"], row["case"], row["mode"]) == ("pretraining_step", "tiny", "step")
        assert row["shape"] == {"batch": 4, "frames": 8, "joints": 20, "persons": 1}
    for row in measured:
        assert row["times"]["runs"] == 1
        assert row["times"]["p20"] <= row["times"]["median"] <= row["times"]["p80"]
        assert row["clips_per_second"] == pytest.approx(4e3 / row["times"]["median"])
        assert row["extra_bytes"] >= 0
        assert list(row["shares"]) == list(training.PARTS)


def test_what_cannot_run_here_says_why(rows: list[dict[str, Any]]) -> None:
    left_out = {row["implementation"]: row["left_out"] for row in rows if "times" not in row}
    assert "ours with FreST, fused" in left_out
    assert ("+ bfloat16" in left_out) is not multiplies_bfloat16(CPU)
    assert all(left_out.values())


def test_rungs_of_a_gpu_add_up() -> None:
    chosen = [rung for rung in rungs.ladder(torch.device("cuda")) if not rung.apart]
    changes = ("batched", "bfloat16", "ours", "compiled", "graphed")
    assert [sum(getattr(rung, name) for name in changes) for rung in chosen] == list(range(6))
    assert len({rung.name for rung in rungs.ladder(torch.device("cuda"))}) == 10


def test_a_wrong_encoder_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    right = STGCNBlock.forward
    monkeypatch.setattr(STGCNBlock, "forward", lambda block, x: 1.01 * right(block, x).roll(1, dims=3))
    chosen = [rung for rung in rungs.ladder(CPU) if rung.name in ("as peers write it", "+ our ST-GCN")]
    measured, failed = training.rows(CPU, case=TINY, rungs=chosen, rounds=1)
    assert failed["implementation"] == "+ our ST-GCN"
    assert "not the peers' encoder" in failed["failed"]
    assert "times" not in failed
    assert measured["failed"] is None


def test_a_rung_that_breaks_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(step: training.Step) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(training.Step, "__call__", broken)
    (row,) = training.rows(CPU, case=TINY, rungs=[Rung("as peers write it")])
    assert row["failed"] == "RuntimeError: out of memory"


def test_a_step_moves_every_weight() -> None:
    material = training.Material.of(TINY)
    step = training.Step(Rung("ours", batched=True, ours=True), TINY, material, CPU)
    before = {name: weight.clone() for name, weight in step.modules.named_parameters()}
    step()
    for name, weight in step.modules.named_parameters():
        assert weight.isfinite().all()
        assert not torch.equal(weight, before[name]), name


def test_a_picture_has_every_rung(rows: list[dict[str, Any]]) -> None:
    failed = {**rows[-1], "implementation": "broken", "failed": "RuntimeError: no memory"}
    failed.pop("times", None)
    drawn = waterfall.figure([*rows, failed])
    (axes,) = drawn.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(labels) == sorted([*(row["implementation"] for row in rows), "broken"])
    words = " ".join(text.get_text() for text in axes.texts)
    assert all(word in words for word in ("1.00x", "left out: ", "failed: RuntimeError: no memory"))


def test_rates_are_set_against_the_peers_wherever_they_stand(rows: list[dict[str, Any]]) -> None:
    start = {"device": "one", "torch": "2", "triton": "3", "commit": "a", "date": "2026-01-01", "threads": 1}
    made = [
        {**start, **row, "clips_per_second": rate}
        for row, rate in zip(rows[1::-1], (40.0, 10.0), strict=True)
    ]
    lines = table.training(made).splitlines()
    assert [line.split("|")[2:4] for line in lines if "clips" not in line and line.count("|") > 5][-2:] == [
        [" 40.0 ", " 4.00 "], [" 10.0 ", " 1.00 "]
    ]  # fmt: skip
    assert table.training(made[:1]).count("| 40.0 |  |") == 1
    assert "4.00x" not in " ".join(text.get_text() for text in waterfall.figure(made[:1]).axes[0].texts)


def test_a_picture_is_of_the_largest_case(rows: list[dict[str, Any]]) -> None:
    quick = [{**row, "case": "quick", "shape": {**row["shape"], "batch": 2}} for row in rows]
    assert "4 clips" in waterfall.figure([*quick, *rows]).axes[0].get_title(loc="left")


def test_a_ladder_of_a_cpu_with_bfloat16_ends_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rungs, "multiplies_bfloat16", lambda device: True)
    rung = next(rung for rung in rungs.ladder(CPU) if rung.name == "+ bfloat16")
    assert rungs.obstacle(rung, CPU) is None
    (row,) = training.rows(CPU, case=TINY, rungs=[replace(rung, keeps_memory=False)], rounds=1)
    assert row["failed"] is None


def test_each_step_draws_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    material = training.Material.of(TINY)
    step = training.Step(Rung("ours", batched=True, ours=True), TINY, material, CPU)
    seen = []
    views = step.views
    monkeypatch.setattr(step, "views", lambda *given: seen.append(views(*given)) or seen[-1])
    step.compute()
    step.compute()
    (one, two), (three, _) = seen
    assert not torch.equal(one, two)
    assert not torch.equal(one, three)
