"""Elements that far larger ones hide: they are judged by floors of their own, and no output without a gap is."""

from __future__ import annotations

import numpy as np
import pytest

from parity.judging.floor import UNITS, floor
from parity.judging.scales import hidden_error, lost_on_one_grid, smaller

RANDOM = np.random.default_rng(0)
LOGITS = [RANDOM.normal(0, 1, (1, 10)) for _ in range(6)]
FAR = {
    "masked": [np.where(np.arange(10) % 3 == i % 3, -1e9, w) for i, w in enumerate(LOGITS)],
    "time": [np.concatenate([w[:, :9], [[1.7e9 + 1e6 * i]]], 1) for i, w in enumerate(LOGITS)],
}


def off(want, share, seed=1):
    """The small elements off by a share of one; the large ones equal."""
    rng = np.random.default_rng(seed)
    return [np.where(np.abs(w) < 1e3, w + rng.normal(0, share, w.shape), w) for w in want]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "dynamic", "int8"])
@pytest.mark.parametrize("name", FAR)
def test_an_error_in_the_small_elements_is_seen_beside_the_large(name, precision):
    want = FAR[name]
    cost = UNITS[precision] * 2
    ratio = floor(want, off(want, cost), precision, 1).ratio(off(want, 10 * cost, 2))
    assert 5 < ratio.pooled < 20
    assert "beside far larger ones" in ratio.part
    assert floor(want, off(want, cost), precision, 1).ratio(off(want, cost, 2)).pooled < 2


def test_what_the_precision_costs_the_small_elements_is_their_floor():
    """Sums of large and small cancel: then the twin is off in the small elements too."""
    want = FAR["time"]
    assert floor(want, off(want, 0.1), "fp32", 1).ratio(off(want, 0.1, 2)).pooled < 2


def test_pixels_beside_scores_are_told_apart_by_channel():
    """Some boxes are as small as scores, so that the sizes of elements have no gap."""
    rng = np.random.default_rng(3)
    want = [np.concatenate([rng.uniform(0, 2000, (1, 4, 50)), rng.uniform(0.1, 1, (1, 1, 50))], 1) for _ in range(4)]
    wrong = [w.copy() for w in want]
    for w in wrong:
        w[:, 4] = 1 - w[:, 4]
    assert floor(want, want, "fp16", 1).ratio(wrong).pooled > 100
    assert hidden_error([g - w for g, w in zip(wrong, want, strict=True)], want) > 0.1


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("draw", ["normal", "exponential", "laplace", "lognormal", "relu", "softmax"])
def test_outputs_of_one_kind_have_no_hidden_elements(draw, size):
    rng = np.random.default_rng(4)
    plain = rng.normal(0, 3, (8, 1, 20, 50))
    values = {
        "relu": lambda: np.maximum(plain, 0),
        "softmax": lambda: np.exp(3 * plain) / np.exp(3 * plain).sum(-2, keepdims=True),
    }.get(draw, lambda: getattr(rng, draw)(size=(8, 1, 20, 50)))()
    assert smaller(list(size * values), (1, 2)) == []


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_few_elements_beside_far_larger_ones_are_judged_too(precision):
    """Two cases of one regressor beside a time: two elements, which chance lets be 22 times the twin's error."""
    want = [np.array([[0.5 - i, 1.7e9 + 1e6 * i]]) for i in range(2)]
    noise = floor(want, off(want, 2e-3), precision, 1)
    assert noise.ratio(off(want, 2e-3, 2)).pooled < 1
    wrong = [w + np.array([[3.0, 0.0]]) for w in want]
    assert noise.ratio(wrong).pooled > 10
    assert hidden_error([g - w for g, w in zip(wrong, want, strict=True)], want) > 0.05


def test_one_small_element_in_the_first_case_is_no_set():
    want = [np.array([[5.0, 1e-4, 9.0]]), *(10 * w + 20 for w in LOGITS)]
    assert hidden_error([np.ones((1, 3))], [w[:, :3] for w in want]) == 0


def on_one_grid(want):
    """All values on one 8-bit grid: what a file with one scale for the output gives."""
    step = max(float(np.abs(w).max()) for w in want) / 255
    return [np.round(w / step) * step for w in want]


@pytest.mark.parametrize("name", FAR)
def test_a_file_with_one_grid_loses_the_small_elements_to_its_precision(name):
    """The floor is that of the best placement; a grid that the file shows excuses what it loses, as a cost."""
    want = FAR[name]
    noise = floor(want, off(want, 0.01), "int8", 1)
    got = on_one_grid(want)
    assert noise.ratio(got).pooled < 1.5
    ((share, words),) = {round(share, 3): (share, words) for share, words in noise.lost(got)}.values()
    assert share == pytest.approx(1) and "beside far larger ones" in words
    assert noise.lost(off(want, 0.01, 2))[0][0] < 0.03


@pytest.mark.parametrize("name", FAR)
def test_zeros_in_a_file_without_one_grid_are_no_cost(name):
    """One small element that is right shows that the file could hold them all."""
    want = FAR[name]
    got = on_one_grid(want)
    got[0][0, 1:3] = want[0][0, 1:3]
    assert floor(want, off(want, 0.01), "int8", 1).ratio(got).pooled > 10


def test_a_grid_that_is_wide_for_another_reason_excuses_nothing():
    want = [10 * w for w in LOGITS]
    got = [np.zeros_like(w) for w in want]
    got[0][0, 0] = 1e9
    assert sum(float(lost.max()) for lost in lost_on_one_grid(got, want)) < 1
    assert floor(want, off(want, 0.01), "int8", 1).ratio(got).pooled > 100


def test_tails_are_no_loss():
    """What is as small beside 1 as beside the others may be lost: a sigmoid's tail."""
    want = [np.array([[5.0, 9.0, 1e-5 * (i + 1), 2e-5]]) for i in range(4)]
    assert floor(want, on_one_grid(want), "int8", 1).lost(on_one_grid(want)) == []
    want = [np.array([[500.0, 900.0, 0.1 * (i + 1), 0.2]]) for i in range(4)]
    assert floor(want, on_one_grid(want), "int8", 1).lost(on_one_grid(want))[0][0] == pytest.approx(1)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_one_case_with_wrong_small_elements_is_not_averaged_away(precision):
    rng = np.random.default_rng(5)
    want = [np.where(np.arange(10) % 3 == i % 3, -1e9, rng.normal(0, 1, (1, 10))) for i in range(100)]
    cost = 2 * UNITS[precision]
    noise = floor(want, off(want, cost), precision, 1)
    got = off(want, cost, 2)
    right = noise.ratio(got)
    assert right.worst < 1.5
    got[40] = off(want, 12 * cost, 3)[40]
    wrong = noise.ratio(got)
    assert wrong.pooled < 1.7, "over all cases it is lost"
    assert wrong.worst > 3 and wrong.worst_case == 40
