"""Parts of an output have noise of their own: a small one is not judged by that of a part ten times as large."""

from __future__ import annotations

import numpy as np
import pytest

from parity.judging import single
from parity.judging.floor import UNITS, floor, natural
from parity.judging.parts import chance, channels, stray

CHANNEL = natural("onnx", "dynamic").limits["channel"]
FACTORS = np.array([10.0] * 6 + [1.0] * 2)  # coordinates, then scores


def drawn(shape: tuple[int, ...], count: int, seed: int, factors: np.ndarray, axis: int) -> list[np.ndarray]:
    """Normal numbers, as many times as large along `axis` as the `factors` say."""
    rng = np.random.default_rng(seed)
    along = factors.reshape([-1 if a == axis % len(shape) else 1 for a in range(len(shape))])
    return [rng.normal(0, 1, shape) * along for _ in range(count)]


def noisy(want: list[np.ndarray], seed: int, factors: np.ndarray, axis: int, share: float = 0.05) -> list[np.ndarray]:
    noise = drawn(want[0].shape, len(want), seed, share * factors, axis)
    return [w + n for w, n in zip(want, noise, strict=True)]


@pytest.mark.parametrize(("shape", "axis"), [((1, 8), 1), ((1, 8, 30), 1), ((1, 30, 8), 2), ((1, 3, 8, 30), 2)])
def test_a_part_ten_times_smaller_is_judged_by_its_own_noise(shape, axis):
    """A lost bias of half the part's rms, ten times its noise, is half the noise of the whole."""
    want = drawn(shape, 12, 0, FACTORS, axis)
    noise = floor(want, noisy(want, 1, FACTORS, axis), "dynamic", axis)
    right = noisy(want, 2, FACTORS, axis)
    small = 0.5 * (FACTORS == 1).reshape([-1 if a == axis else 1 for a in range(len(shape))])
    wrong = noise.ratio([r + small for r in right])
    assert noise.ratio(right).channel < 2
    assert wrong.pooled < 1.5, "the whole does not show it"
    assert wrong.channel > CHANNEL and wrong.axis == axis and wrong.worst_channel in (6, 7)


def test_channels_of_two_cases_are_not_judged_by_chance():
    """The twin is right by chance in one of many channels of few elements: its peers say what the noise is."""
    worst = []
    for seed in range(50):
        want = drawn((1, 40), 2, seed, np.ones(40), 1)
        noise = floor(want, noisy(want, 100 + seed, np.ones(40), 1), "dynamic", 1)
        worst.append(noise.ratio(noisy(want, 200 + seed, np.ones(40), 1)).channel)
    assert max(worst) < 3.5
    assert np.median(worst) < 2.2


def test_a_lone_channel_of_one_case_has_the_noise_of_the_whole():
    want = [np.array([[100.0, 90.0, 1.0]])]
    noise = floor(want, [np.array([[99.0, 91.0, 1.0]])], "dynamic", 1)
    assert noise.ratio([np.array([[101.0, 89.0, 1.5]])]).channel < 1.5


def test_what_chance_does_to_few_elements():
    rng = np.random.default_rng(0)
    for count in (4, 8, 16, 64, 1000):
        first, second = (np.sqrt(np.square(rng.normal(size=(20000, count))).mean(1)) for _ in range(2))
        assert np.quantile(first / second, 0.999) == pytest.approx(float(chance(count)), rel=0.4)
        assert np.quantile(first, 0.999) == pytest.approx(stray(count), rel=0.06)
    assert chance(1) == np.inf


def test_peers_are_of_one_size():
    want = drawn((1, 8), 12, 0, FACTORS, 1)
    (part,) = channels(want, noisy(want, 1, FACTORS, 1), 2.0**-11, 9.0)
    assert part.count == 12 and part.peers.tolist() == [6] * 6 + [2] * 2


@pytest.mark.parametrize("shape", [(1, 8), (1, 8, 30)])
def test_a_small_part_of_a_drawn_input_is_judged_by_its_own_noise(shape):
    want = drawn(shape, 12, 0, FACTORS, 1)
    noise = floor(want, noisy(want, 1, FACTORS, 1, 0.02), "dynamic", 1)
    usual = single.Usual.of(noise, "dynamic")
    (one,) = drawn(shape, 1, 7, FACTORS, 1)
    (right,) = noisy([one], 8, FACTORS, 1, 0.02)
    wrong = right + (FACTORS == 1).reshape(1, 8, *[1] * (len(shape) - 2))
    limit = 3.2
    assert single.judge(right, one, usual).ratio < limit
    judged = single.judge(wrong, one, usual)
    assert judged.ratio > limit and "along axis 1" in judged.words
    (twin,) = noisy([one], 9, FACTORS, 1, 0.02)
    assert single.settle(judged, wrong, one, twin).ratio > limit, "a twin that is not off there excuses nothing"
    lost = one + (wrong - one) * 2
    assert single.settle(judged, wrong, one, lost).ratio < 1, "one that is as far off excuses it"


def test_a_channel_that_golden_data_never_moves_may_cost_what_others_do():
    want = [w * (np.arange(8) < 6) for w in drawn((1, 8), 12, 0, np.ones(8), 1)]
    noise = floor(want, noisy(want, 1, (np.arange(8) < 6) * 1.0, 1), "dynamic", 1)
    usual = single.Usual.of(noise, "dynamic")
    (one,) = drawn((1, 8), 1, 5, np.ones(8), 1)
    (right,) = noisy([one], 6, np.ones(8), 1)
    assert single.judge(right, one, usual).ratio < 3


def masked(want: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.where(rows, -1e9, want)


@pytest.mark.parametrize("precision", ["fp16", "dynamic", "int8"])
@pytest.mark.parametrize("hides", [True, False], ids=["with a mask", "without one"])
@pytest.mark.parametrize("golden", [True, False], ids=["masked golden data", "plain golden data"])
def test_small_elements_of_a_drawn_input_are_judged_by_their_own_noise(precision, hides, golden):
    """Golden data with a mask tells what the others cost, also where a drawn input masks nothing; without one, a mask
    that a drawn input is the first to have."""
    flags = np.arange(40) % 3 == 0
    plain = drawn((1, 40), 12, 0, np.ones(40), 1)
    share = 4 * UNITS[precision]
    want = [masked(w, np.roll(flags, i) & golden) for i, w in enumerate(plain)]
    twin = [masked(w, np.roll(flags, i) & golden) for i, w in enumerate(noisy(plain, 1, np.ones(40), 1, share))]
    usual = single.Usual.of(floor(want, twin, precision, 1), precision)
    (one,) = drawn((1, 40), 1, 7, np.ones(40), 1)
    (right,) = noisy([one], 8, np.ones(40), 1, share)
    (another,) = noisy([one], 9, np.ones(40), 1, share)
    wrong = one + 12 * (right - one)
    one, right, wrong, another = (masked(values, flags & hides) for values in (one, right, wrong, another))
    limit = 3.0
    assert single.judge(right, one, usual).ratio < limit
    judged = single.judge(wrong, one, usual)
    assert judged.ratio > limit
    assert single.settle(judged, wrong, one, another).ratio > limit, "a twin that is right there excuses nothing"
    assert single.settle(judged, wrong, one, wrong).ratio < 1.01, "one that is as far off excuses it"
