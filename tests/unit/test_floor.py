"""The noise floor and what is told from it: properties that hold for any data, and figures known in closed form."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.core.contract import OutputSpec
from parity.core.errors import ParityError
from parity.judging import floor as module
from parity.judging import statistics
from parity.judging.floor import (
    ROOM,
    STATISTICS,
    UNITS,
    channel_axis,
    drawn,
    floor,
    half_units,
    natural,
    raw_floors,
    stretch,
)
from parity.judging.single import EXCUSED

seeds = st.integers(0, 2**32 - 1)
precisions = st.sampled_from(sorted(UNITS))


def rows(seed, cases=6, shape=(1, 5), size=1.0):
    return list(np.random.default_rng(seed).normal(0, size, (cases, *shape)))


def noisy(want, seed, share):
    rng = np.random.default_rng(seed)
    return [w + rng.normal(0, share, w.shape) for w in want]


def figures(ratio):
    return [getattr(ratio, s) for s in STATISTICS]


@given(seeds, precisions, st.floats(-60, 60), st.booleans())
def test_ratio_has_no_unit(seed, precision, power, negative):
    want = rows(seed)
    twin, got = noisy(want, seed + 1, 0.02), noisy(want, seed + 2, 0.03)
    factor = 2.0 ** round(power) * (-1 if negative else 1)
    plain = floor(want, twin, precision, 1).ratio(got)
    scaled = floor([factor * w for w in want], [factor * t for t in twin], precision, 1).ratio(
        [factor * g for g in got]
    )
    assert figures(scaled) == pytest.approx(figures(plain), rel=1e-9)
    assert (scaled.worst_case, scaled.worst_channel) == (plain.worst_case, plain.worst_channel)


@given(seeds, precisions)
def test_ratio_is_in_units_of_the_twin(seed, precision):
    want = rows(seed)
    twin = noisy(want, seed + 1, 0.05)
    double = [w + 2 * (t - w) for w, t in zip(want, twin, strict=True)]
    noise = floor(want, twin, precision, 1)
    assert figures(noise.ratio(twin))[0] == pytest.approx(1)
    assert noise.ratio(double).pooled == pytest.approx(2)
    assert noise.ratio(double).peak == pytest.approx(2)
    assert noise.ratio(twin).worst <= 1 + 1e-12
    assert noise.ratio(twin).distance == 0
    assert noise.ratio(double).distance == pytest.approx(1)
    assert noise.ratio(want).distance == pytest.approx(1)


@given(seeds, precisions, st.sampled_from([0.0, 1e-9, 1e-2]))
def test_exact_artefact_has_a_finite_ratio_of_at_most_one(seed, precision, share):
    want = rows(seed)
    ratio = floor(want, noisy(want, seed + 1, share), precision, 1).ratio(want)
    assert figures(ratio) == [0, 0, 0, 0]
    assert not ratio.over(dict.fromkeys(STATISTICS, 1.0))


@pytest.mark.parametrize("precision", sorted(UNITS))
def test_exact_twin_makes_no_infinite_ratio(precision):
    """A model that only moves data has an exact twin; storing its output once is still no fault."""
    want = rows(0)
    noise = floor(want, want, precision, 1)
    assert noise.absolute
    stored = [w * (1 + UNITS[precision] * 0.5) for w in want]
    assert 0 < noise.ratio(stored).pooled <= 1
    assert noise.ratio([w * 1.5 for w in want]).pooled > 100


def test_a_lucky_twin_at_fp32_does_not_fail_a_file_that_is_two_units_in_the_last_place_off():
    want = [np.random.default_rng(0).uniform(1, 2, (1, 4)) for _ in range(3)]
    twin = [w + 2.0**-26 for w in want]
    two = floor(want, twin, "fp32").ratio([w + 2 * 2.0**-23 for w in want])
    limits = natural("tflite", "fp32").limits
    assert not two.over(limits)
    assert floor(want, twin, "fp32").ratio([w + 8 * 2.0**-23 for w in want]).over(limits)


def test_output_of_zeros():
    zeros = [np.zeros((1, 3))] * 4
    noise = floor(zeros, zeros, "fp32", 1)
    assert noise.ratio(zeros).pooled == 0
    assert noise.ratio([z + 1e-6 for z in zeros]).pooled > 1e6
    assert noise.relative == 0


@settings(max_examples=50)
@given(seeds, precisions, st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 5), st.integers(0, 4))
def test_values_that_are_not_finite_never_give_a_finite_ratio(seed, precision, bad, case, place):
    want = rows(seed)
    got = [w.copy() for w in want]
    got[case][0, place] = bad
    ratio = floor(want, noisy(want, seed, 0.1), precision, 1).ratio(got)
    assert not any(math.isfinite(f) for f in figures(ratio))
    assert ratio.over(dict.fromkeys(STATISTICS, 1e300)) == list(STATISTICS)
    assert ratio.worst_case == case and ratio.reason


def test_a_twin_that_overflows_judges_nothing():
    want = rows(0, size=1e6)
    twin = [np.where(np.abs(w) > 65504, np.inf, w) for w in want]
    noise = floor(want, twin, "fp16", 1)
    assert "overflows at fp16" in noise.reason
    assert noise.ratio(want).pooled == math.inf
    assert noise.ratio(want).over({"pooled": 2.0}) == ["pooled"]


def test_nan_in_the_oracle_judges_nothing():
    want = rows(0)
    want[2][0, 0] = math.nan
    assert not math.isfinite(floor(want, want, "fp32", 1).ratio(want).pooled)


def test_equal_infinities_are_no_error():
    """Attention masks and log-probabilities of impossible classes are -inf on both sides."""
    want = rows(0)
    for w in want:
        w[0, 1] = -math.inf
    noise = floor(want, noisy(want, 1, 0.01), "fp16", 1)
    assert 0 < noise.ratio(noisy(want, 2, 0.01)).pooled < 2
    finite = [np.where(np.isfinite(w), w, -1e9) for w in want]
    assert noise.ratio(finite).pooled == math.inf


def test_one_wrong_case_shows_in_the_worst_and_its_index():
    want = rows(3, cases=100)
    got = noisy(want, 4, 0.01)
    got[17] = got[17] + 0.1
    ratio = floor(want, noisy(want, 5, 0.01), "int8", 1).ratio(got)
    assert ratio.worst_case == 17 and ratio.worst > 5
    assert ratio.pooled < 2


def test_one_wrong_class_shows_in_its_channel():
    want = rows(3, cases=50, shape=(1, 64))
    got = noisy(want, 4, 0.01)
    for g in got:
        g[0, 40] += 0.05
    ratio = floor(want, noisy(want, 5, 0.01), "int8", 1).ratio(got)
    assert ratio.worst_channel == 40 and ratio.channel > 3 and ratio.pooled < 1.3


def test_one_wrong_element_shows_in_the_peak():
    want = rows(3, cases=20, shape=(1, 2, 30, 30))
    got = noisy(want, 4, 0.01)
    got[5][0, 1, 29, 29] += 0.5
    ratio = floor(want, noisy(want, 5, 0.01), "fp16", 1).ratio(got)
    assert ratio.peak > 5 and ratio.pooled < 1.5


@pytest.mark.parametrize(
    ("kind", "ndim", "axis"),
    [("logits", 2, 1), ("dense", 4, 1), ("dense", 2, 1), ("embedding", 3, 2), ("dense", 1, None)],
)
def test_channel_axis(kind, ndim, axis):
    assert channel_axis(OutputSpec("y", kind), ndim) == axis


def test_channels_are_counted_over_feature_maps_of_any_size():
    rng = np.random.default_rng(0)
    want = [rng.normal(size=(1, 3, 4 + i, 5)) for i in range(4)]
    noise = floor(want, noisy(want, 1, 0.1), "fp16", 1)
    assert [(c.axis, len(c.costs), c.count) for c in noise.channels] == [(1, 3, 110), (3, 5, 66)]
    assert len(noise.ratio(noisy(want, 2, 0.1)).by_case) == 4


def test_other_shapes_and_counts_are_refused():
    want = rows(0)
    noise = floor(want, want, "fp32", 1)
    with pytest.raises(ParityError, match="5 came back"):
        noise.ratio(want[:5])
    with pytest.raises(ParityError, match=r"case 0: shape \[5\], the oracle's is \[1, 5\]"):
        noise.ratio([w[0] for w in want])
    with pytest.raises(ParityError, match="at least one case"):
        floor([], [], "fp32")
    with pytest.raises(ParityError, match="bf16"):
        floor(want, want, "bf16")


def test_integer_outputs_have_no_floor():
    specs = (OutputSpec("y", "logits"), OutputSpec("id"))
    row = {"y": np.ones((1, 2)), "id": np.ones((1, 2), np.int64)}
    assert set(raw_floors([row], [row], "fp16", specs)) == {"y"}


def test_huge_values_do_not_overflow_their_squares():
    want = rows(0, size=1e200)
    noise = floor(want, [w * 1.001 for w in want], "fp32", 1)
    assert noise.ratio([w * 1.002 for w in want]).pooled == pytest.approx(2, rel=1e-3)


def test_the_committed_table_is_complete():
    for name, entry in module._table()["cells"].items():
        target, _, precision = name.partition("-")
        found = natural(target, precision)
        assert found and found.count == entry["count"]
        assert set(found.limits) == set(STATISTICS)
        for statistic, value in found.limits.items():
            assert value > found.spread[statistic]["max"], f"{name}: a correct export fails by default"
    assert natural("no such target", "fp32") is None


# Statistics.


@given(seeds)
def test_kinds_of_error(seed):
    rng = np.random.default_rng(seed)
    want = list(rng.normal(size=(20, 1, 6)))
    noise = list(rng.normal(0, 1e-3, (20, 1, 6)))
    single = [n.copy() for n in noise]
    single[3] += 1
    made = {
        "noise": noise,
        "gain": [0.05 * w + n for w, n in zip(want, noise, strict=True)],
        "offset": [np.array([[0.3, -0.2, 0.1, 0.4, 0.2, -0.3]]) + n for n in noise],
        "permutation": [w[:, [1, 0, 2, 3, 5, 4]] - w + n for w, n in zip(want, noise, strict=True)],
        "one case": single,
        "one channel": [n * [1, 1, 100, 1, 1, 1] for n in noise],
        "not finite": [n * math.nan for n in noise],
        "none": [n * 0 for n in noise],
    }
    for kind, errors in made.items():
        found = statistics.classify([w + e for w, e in zip(want, errors, strict=True)], want, 1)
        assert found.kind == kind, (kind, found)
        assert found.sentence
    swapped = statistics.classify([w + e for w, e in zip(want, made["permutation"], strict=True)], want, 1)
    assert swapped.sentence.startswith("4 of 6 channels are in other places: 0 holds the oracle's 1")


@given(seeds, st.floats(0.5, 2), st.floats(-3, 3))
def test_trend_finds_gain_and_offset(seed, gain, offset):
    want = rows(seed, cases=10)
    found = statistics.trend([gain * w + offset for w in want], want)
    assert found.gain == pytest.approx(gain, abs=1e-6) and found.offset == pytest.approx(offset, abs=1e-6)


# Clopper and Pearson by scipy.stats.beta.ppf(0.95, k + 1, n - k), version 1.11.
@pytest.mark.parametrize(
    ("count", "total", "bound"),
    [(0, 10, 1 - 0.05**0.1), (0, 59, 1 - 0.05 ** (1 / 59)), (10, 10, 1.0), (1, 2, 1 - (1 - 0.95**0.5))],
)
def test_binomial_bound_where_it_has_a_closed_form(count, total, bound):
    assert statistics.binomial_upper(count, total) == pytest.approx(bound, rel=1e-9)


@given(st.integers(1, 3000), st.floats(0, 1))
def test_binomial_bounds_enclose_the_share(total, part):
    count = round(part * total)
    low, high = statistics.binomial_lower(count, total), statistics.binomial_upper(count, total)
    assert low <= count / total <= high
    assert statistics.binomial_upper(count, total, 0.99) >= high


def test_binomial_bound_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    counts = rng.binomial(40, 0.1, 4000)
    bounds = {c: statistics.binomial_upper(int(c), 40) for c in set(counts.tolist())}
    assert np.mean([bounds[int(c)] >= 0.1 for c in counts]) >= 0.95


def test_accuracy_drop():
    none = 1 - 0.025 ** (1 / 1000)  # Clopper and Pearson at 97.5 % for no error in 1000
    assert statistics.drop_bound(0, 0, 1000) == pytest.approx(none)
    assert statistics.drop_bound(30, 30, 100) > 0.1  # as many won as lost, but neither is known well
    assert statistics.drop_bound(0, 50, 1000) < 0


def test_sensitivity_names_weak_evidence():
    want = rows(0, cases=10)
    trained = floor(want, noisy(want, 1, 1e-3), "fp16", 1)
    assert statistics.sensitivity(want, trained).weak == ""
    flat = [10 + 1e-3 * w for w in want]
    assert "untrained" in statistics.sensitivity(flat, floor(flat, flat, "fp16", 1)).weak
    loud = floor(want, noisy(want, 1, 0.5), "int8", 1)
    assert "times what the precision costs" in statistics.sensitivity(want, loud).weak
    assert "one case only" in statistics.sensitivity(want[:1], trained).weak


def test_flips_within_the_noise_are_told_from_others():
    want = [np.array([[1.0, 0.999, 0.0]]), np.array([[1.0, 0.0, 0.5]]), np.array([[0.0, 2.0, 0.0]])]
    got = [np.array([[0.999, 1.0, 0.0]]), np.array([[1.0, 0.0, 1.5]]), np.array([[0.0, math.nan, 0.0]])]
    noise = floor(want, [w + 1e-3 for w in want], "fp16", 1)
    found = statistics.flips(got, want, noise)
    assert (found.total, found.rows, found.beyond_noise) == (3, 3, 2)


def test_a_flip_that_the_twin_loses_too_is_the_precisions():
    want = [np.array([[1.0, 0.0, 0.5]])]
    got = [np.array([[0.0, 0.0, 0.5]])]
    noise = floor(want, want, "fp16", 1)
    assert statistics.flips(got, want, noise, want).beyond_noise == 1
    assert statistics.flips(got, want, noise, got).beyond_noise == 0


def test_a_flip_beside_a_mask_is_judged_by_what_the_scores_cost():
    want = [np.where(np.arange(10) == i % 10, -1e9, row) for i, row in enumerate(rows(0, 12, (1, 10)))]
    swapped = {2: 3, 3: 2}
    got = [w[:, [swapped.get(i, i) for i in range(10)]] for w in want]
    found = statistics.flips(got, want, floor(want, want, "fp32", 1), want)
    assert found.beyond_noise == found.total > 0


MEASURED = [
    (name, model, worst)
    for name, cell in module._table("drawn.json")["cells"].items()
    for model, worst in cell["worst"].items()
]


def test_no_correct_file_is_off_by_more_than_the_other_models_allow() -> None:
    assert len(MEASURED) > 40
    for name, model, worst in MEASURED:
        target, precision = name.split("-")
        assert worst <= drawn(target, precision).limit / stretch() * stretch(without=model), (name, model)


def test_a_twin_may_excuse_more_than_any_correct_file_was_seen_to_lose() -> None:
    for name, cell in module._table("drawn.json")["cells"].items():
        assert cell["lost"] < EXCUSED.get(name.partition("-")[2], math.inf), name


def test_drawn_inputs_have_the_limit_of_golden_cases_stretched_by_what_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = natural("onnx", "fp32").limits["worst"]  # type: ignore[union-attr]
    known = dict(module._table("drawn.json"))
    for worst, expected in (({"a": case / 9}, 1.0), ({"a": case * 2, "b": case}, 2 * ROOM)):
        cells = {"onnx-fp32": {"models": len(worst), "inputs": 10, "worst": worst}}
        table = {"natural.json": module._table(), "drawn.json": {**known, "cells": cells}}
        monkeypatch.setattr(module, "_table", lambda name="natural.json", table=table: table[name])
        stretch.cache_clear()
        assert stretch() == pytest.approx(expected)
        assert drawn("onnx", "fp32").limit == pytest.approx(expected * case, abs=0.06)
        assert stretch(without="a") == pytest.approx(ROOM if "b" in worst else 1.0)
        widest = max(c["limits"]["worst"] for n, c in module._table()["cells"].items() if n.endswith("-fp16"))
        assert drawn("a target of one's own", "fp16").limit == pytest.approx(expected * widest, abs=0.06)
    stretch.cache_clear()
    with pytest.raises(ParityError, match="no limit was measured"):
        drawn("onnx", "fp8")


def test_outputs_stored_as_fp16_are_off_by_their_rounding_and_no_less() -> None:
    """A model that only moves data has an exact twin; its fp16 file rounds what it gives."""
    want = rows(0, cases=8, shape=(2, 50), size=20)
    exact = floor(want, want, "fp16", 1)
    stored = [w.astype(np.float16).astype(np.float32) for w in want]
    ratio = exact.ratio(stored)
    assert 0.8 < ratio.pooled < 1.2 and 0.3 < ratio.peak <= 1 and ratio.worst < 1.5 and ratio.channel < 1.5
    moved = [s + 4 * half_units(w) for s, w in zip(stored, want, strict=True)]  # two units off, each an fp16 number
    assert exact.ratio([m.astype(np.float16) for m in moved]).pooled > 4
    # The same error in a file that gives float32 is no rounding.
    assert exact.ratio([s * (1 + 2.0**-22) for s in stored]).pooled > 4


def test_half_units_are_those_of_fp16() -> None:
    values = np.array([1.0, -1.5, 20.0, 0.3, 1e-5, 60000.0])
    np.testing.assert_array_equal(half_units(values), np.abs(np.spacing(values.astype(np.float16))).astype(float) / 2)
    np.testing.assert_array_equal(half_units(np.array([0.0, np.nan])), 2.0**-25)


def test_a_floor_with_another_is_nowhere_less_than_either() -> None:
    want = rows(0)
    own = floor(want, noisy(want, 1, 1e-6), "fp32", 1)
    plain = noisy(want, 2, 1e-5)
    both = own.with_another(plain)
    assert max(figures(both.ratio(plain))) <= 1 < min(figures(own.ratio(plain)))
    assert max(figures(both.ratio(noisy(want, 3, 1e-3)))) > 10
    assert own.with_another([p * np.nan for p in plain]) == own


def test_a_floor_whose_twin_is_not_finite_is_that_of_other_rows() -> None:
    want = [np.linspace(-1, 1, 12).reshape(3, 4) + i for i in range(3)]
    off, broken = [w + 0.01 for w in want], [np.full(w.shape, np.nan) for w in want]
    refused = floor(want, broken, "int8", 1)
    assert refused.reason and refused.with_another(off) is refused
    other = refused.at_least(off)
    assert not other.reason and other.pooled == pytest.approx(0.01)
    assert refused.at_least(broken) is refused
    near = floor(want, [w + 0.005 for w in want], "int8", 1)
    assert near.at_least(off).pooled == pytest.approx(0.01)
