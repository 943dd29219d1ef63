"""Elements that far larger ones hide: they are judged by floors of their own, and no output without a gap is."""

from __future__ import annotations

import numpy as np
import pytest

from parity.judging.floor import UNITS, floor
from parity.judging.scales import hidden_error, smaller

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
