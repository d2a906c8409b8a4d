"""Draws: of the same positions always the same, and by every test random, along whatever is counted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mica.transforms.draws import Draws

KINDS: dict[str, Callable[[Draws], torch.Tensor]] = {
    "bits": lambda draws: draws.bits(5),
    "uniform": lambda draws: draws.uniform(-1, 2, 3, 4),
    "integers": lambda draws: draws.integers(3, 9, 2),
    "chance": lambda draws: draws.chance(0.5),
    "normal": lambda draws: draws.normal(3, 5, 7),
}


def words(draws: Draws, count: int = 1) -> np.ndarray:
    return draws.bits(count).numpy().view(np.uint32)


ALONG: dict[str, Callable[[], np.ndarray]] = {
    "clips": lambda: words(Draws(0, 0, range(1 << 16)))[:, 0],
    "clips far apart": lambda: words(Draws(0, 0, range(0, 1 << 30, 1 << 16)))[:, 0],
    "elements": lambda: words(Draws(0, 0, range(1)), 1 << 16)[0],
    "steps": lambda: np.array([words(Draws(0, step, range(1)))[0, 0] for step in range(1 << 12)]),
    "seeds": lambda: np.array([words(Draws(seed, 0, range(1)))[0, 0] for seed in range(1 << 12)]),
    "streams": lambda: np.array([words(Draws(0, 0, range(1), stream=k))[0, 0] for k in range(1 << 12)]),
    "calls": lambda: np.concatenate([words(draws)[0] for draws in [Draws(0, 0, range(1))] * (1 << 12)]),
}


@cache
def numbers(along: str) -> np.ndarray:
    return ALONG[along]()


def lowbias32(x: int, key: int) -> int:
    """The mixing, in Python's whole numbers."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = (x + key) % 2**32
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def test_bits_are_the_mixing_of_counter_and_keys() -> None:
    draws = Draws(seed=3, step=8, clips=range(5, 9))
    draws.bits(2)
    found = words(draws, 4)
    for (clip, element), word in np.ndenumerate(found):
        outer, inner = (int(key[clip]) % 2**32 for key in (draws._outer, draws._inner))
        counter = (2 + element) * 0x9E3779B9 % 2**32
        assert word == lowbias32(counter ^ outer, inner)


@pytest.mark.parametrize("kind", KINDS)
@given(
    seed=st.integers(0, 2**63 - 1),
    step=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 20), min_size=1, max_size=3),
)
def test_any_division_of_a_batch_draws_what_the_whole_draws(
    kind: str, seed: int, step: int, cuts: list[int]
) -> None:
    whole = Draws(seed, step, range(20))
    whole = [KINDS[kind](whole) for _ in range(2)]
    edges = [0, *sorted(cuts), 20]
    parts = [Draws(seed, step, range(*edge)) for edge in pairwise(edges)]
    for again in whole:
        assert torch.equal(torch.cat([KINDS[kind](part) for part in parts]), again)


@pytest.mark.parametrize("kind", KINDS)
def test_each_call_seed_step_and_stream_draws_anew(kind: str) -> None:
    def drawn(seed: int = 1, step: int = 2, stream: int = 0) -> torch.Tensor:
        return KINDS[kind](Draws(seed, step, range(64), stream=stream))

    draws = Draws(1, 2, range(64))
    first, second = KINDS[kind](draws), KINDS[kind](draws)
    assert torch.equal(first, drawn())
    for other in (
        second,
        drawn(seed=2),
        drawn(step=3),
        drawn(stream=1),
        drawn(seed=2**62 + 1),
        drawn(step=2**31 + 2),
    ):
        assert not torch.equal(first, other)


def test_a_step_on_the_device_draws_what_the_same_number_draws() -> None:
    for step in (0, 7, 2**31 - 1):
        one, two = Draws(4, step, range(9)), Draws(4, torch.tensor(step), range(9))
        assert torch.equal(one.normal(11), two.normal(11))


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    draws = Draws(0, 0, range(4))
    for kind in KINDS.values():
        kind(draws)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("along", ALONG)
def test_every_byte_is_uniform(along: str) -> None:
    found = numbers(along)
    for shift in (0, 8, 16, 24):
        counts = np.bincount(found >> shift & 255, minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4, shift
    assert stats.kstest(found / 2**32, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("along", ALONG)
def test_neighbours_have_nothing_in_common(along: str) -> None:
    """No bit agrees with any other of the same or the next number more often than chance has it."""
    found = numbers(along)
    bits = (found[:, None] >> np.arange(32) & 1).astype(np.float64)
    pairs = np.concatenate([bits[:-1], bits[1:]], axis=1)
    correlation = np.corrcoef(pairs.T) - np.eye(64)
    assert np.abs(correlation).max() * np.sqrt(len(pairs)) < 5.5  # 2,016 normal numbers: 1e-4
    assert np.abs(bits.mean(0) - 0.5).max() * 2 * np.sqrt(len(bits)) < 5
    share = found / 2**32
    assert abs(np.corrcoef(share[:-1], share[1:])[0, 1]) * np.sqrt(len(share)) < 4.5


@pytest.mark.parametrize("bit", [0, 1, 7, 15, 29])
def test_one_bit_of_position_step_or_seed_turns_half_of_the_bits(bit: int) -> None:
    clips = range(1 << 12)
    base = words(Draws(5, 9, clips))[:, 0]
    others = {
        "seed": words(Draws(5 ^ 1 << bit, 9, clips))[:, 0],
        "step": words(Draws(5, 9 ^ 1 << bit, clips))[:, 0],
        "position": words(Draws(5, 9, range(1 << 12 + bit // 2, (1 << 12 + bit // 2) + len(clips))))[:, 0],
    }
    for name, other in others.items():
        turned = ((base ^ other)[:, None] >> np.arange(32) & 1).mean(0)
        assert np.abs(turned - 0.5).max() * 2 * np.sqrt(len(base)) < 5, name


def test_clips_of_a_batch_are_uncorrelated() -> None:
    drawn = Draws(1, 2, range(256)).uniform(0, 1, 2048).numpy()
    found = np.corrcoef(drawn)[np.triu_indices(256, 1)] * np.sqrt(2048)
    assert np.abs(found).max() < 6
    assert found.std() == pytest.approx(1, abs=0.02)


def test_uniform_fills_its_range() -> None:
    drawn = Draws(0, 0, range(1000)).uniform(-2, 3, 100)
    assert (drawn.shape, drawn.dtype) == ((1000, 100), torch.float32)
    assert -2 <= drawn.min() < -1.999 < 2.999 < drawn.max() <= 3
    assert stats.kstest(drawn.numpy().ravel(), stats.uniform(-2, 5).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 4), (5, 30), (0, 1 << 20)])
def test_integers_fill_their_range_evenly(low: int, high: int) -> None:
    drawn = Draws(0, 0, range(500)).integers(low, high, 200)
    assert drawn.dtype == torch.int64
    assert low <= drawn.min()
    assert drawn.max() < high
    if high - low < 100:
        counts = np.bincount(drawn.flatten().numpy() - low, minlength=high - low)
        assert len(counts) == high - low
        assert high - low == 1 or stats.chisquare(counts).pvalue > 1e-3


def test_the_largest_draw_stays_below_the_end() -> None:
    largest = torch.tensor((2**24 - 1) / 2**24)
    ranges = torch.arange(1, 1 << 20)
    assert ((largest * ranges).long() < ranges).all()


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_chance(probability: float) -> None:
    chosen = Draws(0, 0, range(10_000)).chance(probability)
    assert (chosen.shape, chosen.dtype) == ((10_000,), torch.bool)
    assert chosen.float().mean() == pytest.approx(probability, abs=0.015)
    if probability in (0, 1):
        assert chosen.float().mean() == probability


def test_normal_is_normal() -> None:
    drawn = Draws(0, 0, range(64)).normal(3, 16, 25, 2)
    assert (drawn.shape, drawn.dtype) == ((64, 3, 16, 25, 2), torch.float32)
    flat = drawn.double().numpy().ravel()
    assert stats.kstest(flat, "norm").pvalue > 1e-3
    size = len(flat)
    assert abs(flat.mean()) < 4 / size**0.5
    assert flat.std() == pytest.approx(1, abs=4 / (2 * size) ** 0.5)
    assert abs(stats.skew(flat)) < 4 * (6 / size) ** 0.5
    assert abs(stats.kurtosis(flat)) < 4 * (24 / size) ** 0.5
    assert 4 < np.abs(flat).max() < 4.9


def test_the_two_of_a_pair_are_independent() -> None:
    one, two = Draws(0, 0, range(64)).normal(2, 1200).double().numpy().swapaxes(0, 1).reshape(2, -1)
    for power in (1, 2, 4):
        found = np.corrcoef(one**power, two**power)[0, 1]
        assert abs(found) * np.sqrt(one.size) < 4


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 0), (5, 5)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    draws = Draws(0, 0, range(3))
    for drawn in (draws.uniform(0, 1, *shape), draws.integers(0, 5, *shape), draws.normal(*shape)):
        assert drawn.shape == (3, *shape)
        assert drawn.isfinite().all()
    assert Draws(0, 0, range(0)).normal(4).shape == (0, 4)


def test_small_and_large_requests_mix() -> None:
    draws = Draws(0, 0, range(2))
    drawn = torch.cat([draws.uniform(0, 1, count) for count in (1, 60, 10, 300, 64, 1)], 1)
    assert len(drawn.unique()) > drawn.numel() - 3  # 24 bits may agree, whole runs may not
