"""The floor of one input: each part can only excuse, a twin that is asked never hides a fault that is larger."""

from __future__ import annotations

import math

import numpy as np
import pytest

from parity.judging.floor import UNITS, floor
from parity.judging.single import Usual, beside_nan, judge, rms, settle, unless_amplified

WANT = np.linspace(-1, 1, 101)
USUAL = Usual(1e-6, 1e-8)
NOISE = np.random.default_rng(0).standard_normal(101)


def test_an_error_is_counted_in_what_golden_data_costs() -> None:
    got = WANT + 3e-6 * rms(WANT) * NOISE / rms(NOISE)
    assert judge(got.astype(np.float64), WANT, USUAL).ratio == pytest.approx(3.0)
    assert judge(WANT, WANT, USUAL).ratio == 0.0


def test_an_output_near_zero_is_counted_in_what_storing_a_typical_one_costs() -> None:
    tiny = WANT * 1e-9
    assert judge(tiny + 1e-8, tiny, USUAL).floor == 1e-8
    zero = np.zeros(5)
    assert judge(zero, zero, USUAL).ratio == 0.0


def test_a_twin_excuses_what_the_precision_does_and_no_more() -> None:
    got = WANT + 1e-3
    first = judge(got, WANT, USUAL)
    assert first.ratio > 100
    settled = settle(first, got, WANT, WANT + 1e-3 * np.sign(NOISE))
    assert settled.ratio == pytest.approx(1.0) and len(settled.costs) == 1
    again = settle(settled, got, WANT, WANT)  # an exact twin takes nothing back
    assert again.ratio == settled.ratio and len(again.costs) == 2
    assert settle(first, got, WANT, WANT + 1e-9).ratio == first.ratio


def test_what_cannot_be_measured_is_infinite_with_a_reason() -> None:
    bad = WANT.copy()
    bad[3] = np.nan
    for got, why in ((None, "not give"), (WANT[:5], "shape"), (bad, "1 of 101"), (WANT.astype(np.int64), "dtype")):
        judged = judge(got, WANT, USUAL)
        assert judged.ratio == math.inf and why in judged.reason
        assert settle(judged, got, WANT, WANT).reason == judged.reason


def test_the_model_itself_may_be_undefined_and_then_nothing_is_judged() -> None:
    assert "model itself" in judge(WANT, np.full(3, np.nan), USUAL).undefined
    over = np.where(WANT > 0.9, np.inf, WANT)
    judged = judge(over, WANT, USUAL)
    assert judged.reason and not judged.undefined
    assert "overflows" in settle(judged, over, WANT, over).undefined


def test_what_does_not_overflow_beside_what_does_is_looked_at() -> None:
    """The twin overflows in an element: the others may be compared, and it is told where they are far off."""
    twin = np.where(WANT > 0.9, np.inf, WANT + 1e-6)
    for off, strange in ((0.0, False), (1e-6, False), (1e-3, True)):
        for got in (np.where(WANT > 0.9, np.inf, WANT + off), WANT + np.where(WANT > 0.9, 7, off)):
            settled = settle(judge(got, WANT, USUAL), got, WANT, twin)
            assert "overflows" in settled.undefined and bool(settled.strange) is strange
    lost = np.full(101, np.inf)
    assert not settle(judge(WANT + 1, WANT, USUAL), WANT + 1, WANT, lost).strange


def test_integers_beside_nan_are_told_where_they_differ() -> None:
    want = np.arange(4)
    assert beside_nan(judge(np.array([0, 1, 2, 0]), want, USUAL)).strange
    assert not beside_nan(judge(want, want, USUAL)).strange


def test_elements_that_the_model_gives_nan_in_are_free_and_all_others_are_judged() -> None:
    want = np.where(WANT > 0.5, np.nan, WANT)
    free = judge(np.where(WANT > 0.5, 7.0, WANT), want, USUAL)
    assert free.ratio == 0.0 and free.skipped == int((WANT > 0.5).sum()) and not free.undefined
    leaked = np.where(WANT > 0.2, np.nan, WANT)
    judged = judge(leaked, want, USUAL)
    assert judged.reason and not judged.undefined
    assert settle(judged, leaked, want, want, most=1.0).reason  # the twin has numbers there
    assert settle(judged, leaked, want, leaked, most=1.0).undefined  # rounding decides where it is NaN
    off = judge(want + 1e-3, want, USUAL)
    assert off.ratio > 100 and settle(off, want + 1e-3, want, want + 1e-3).ratio <= 1.0


def test_infinities_that_the_oracle_has_too_are_equal_and_all_others_are_wrong() -> None:
    masked = np.where(WANT > 0.5, -np.inf, WANT)
    assert judge(masked, masked, USUAL).ratio == 0.0
    off = judge(masked + 1e-3, masked, USUAL)
    assert math.isfinite(off.ratio) and off.ratio > 100 and not off.undefined
    assert settle(off, masked + 1e-3, masked, masked + 1e-3).ratio <= 1.0
    for got in (WANT, -masked, np.where(WANT > 0.2, -np.inf, WANT)):
        judged = judge(got, masked, USUAL)
        assert judged.ratio == math.inf and "infinite where the oracle's are not" in judged.reason
    assert settle(judge(WANT, masked, USUAL), WANT, masked, WANT, most=1.0).undefined  # rounding decides it


def test_integers_differ_or_do_not_unless_a_twin_wavers_too() -> None:
    want = np.arange(10)
    got = want.copy()
    got[[2, 5]] += 1
    judged = judge(got, want, USUAL)
    assert judged.exact and judged.ratio == pytest.approx(0.2)
    twin = want.copy()
    twin[2] += 1
    assert settle(judged, got, want, twin).ratio == pytest.approx(0.1)


def test_the_usual_floor_is_the_golden_one_and_never_below_a_rounding() -> None:
    found = floor([WANT], [WANT * (1 + 1e-4)], "fp16", None)
    assert Usual.of(found, "fp16").relative == pytest.approx(1e-4, rel=1e-6)
    exact = floor([WANT], [WANT], "fp16", None)
    assert Usual.of(exact, "fp16").relative == UNITS["fp16"]
    assert Usual.of(None, "fp32").relative == UNITS["fp32"]
    assert Usual.of(floor([WANT], [WANT * np.nan], "fp16", None), "fp16").relative == UNITS["fp16"]


def test_within_the_declared_range_a_twin_excuses_no_more_than_the_precision_may_cost() -> None:
    usual = Usual.of(floor([WANT], [WANT * (1 + 1e-4)], "fp16", None), "fp16")
    lost = judge(0 * WANT, WANT, usual)  # the file gives nothing, and so does the twin
    assert settle(lost, 0 * WANT, WANT, 0 * WANT).ratio == pytest.approx(1)
    most = usual.most(WANT, "fp16")
    assert settle(lost, 0 * WANT, WANT, 0 * WANT, most).ratio == pytest.approx(4 / 3)  # three quarters
    flat = usual.most(WANT * 1e-9, "fp16")  # an output near 0 is measured against a typical one
    assert flat == pytest.approx(most)
    off = judge(WANT * 1e-9 + 1e-3, WANT * 1e-9, usual)
    assert settle(off, WANT * 1e-9 + 1e-3, WANT * 1e-9, WANT * 1e-9 + 1e-3, flat).ratio == pytest.approx(1)


def test_within_the_declared_range_a_twin_that_overflows_excuses_no_overflow() -> None:
    usual = Usual.of(floor([WANT], [WANT * (1 + 1e-4)], "fp16", None), "fp16")
    over = np.where(WANT > 0.9, np.inf, WANT)
    most = usual.most(WANT, "fp16")
    bad = settle(judge(over, WANT, usual), over, WANT, over, most)
    assert bad.reason and not bad.undefined
    right = settle(judge(WANT * 1.01, WANT, usual), WANT * 1.01, WANT, over, most)
    assert not right.undefined and right.ratio == pytest.approx(0.01 / 0.75)
    assert settle(judge(over, WANT, usual), over, WANT, over).undefined  # beyond the range, nothing was promised
    assert Usual.of(None, "fp16").most(WANT, "fp16") == math.inf  # nothing tells what a typical output is


def test_a_flat_input_is_judged_on_the_scale_of_the_other_cases() -> None:
    usual = Usual(1e-6, 1e-9, typical=1.0)
    want, got = np.zeros(100), np.full(100, 1e-6)
    assert judge(got, want, usual).ratio == pytest.approx(1000)
    assert judge(got, want, usual, flat=True).ratio == pytest.approx(1)


AMPLIFIED = {  # (error of the file, of the float32 twin, of the precision's twin) -> whether it is judged
    "a network that amplifies nothing": (1e-3, 1e-6, 1e-6, True),
    "float32 is amplified": (0.3, 1e-3, 1e-6, False),
    "the precision is amplified": (0.3, 1e-6, 0.1, False),
    "amplified, and gross": (100.0, 1e-3, 0.1, True),
    "amplified, and not finite": (np.nan, 1e-3, 0.1, True),
}


@pytest.mark.parametrize(("error", "alone", "cost", "judged"), AMPLIFIED.values(), ids=AMPLIFIED)
def test_a_flat_input_on_which_the_model_amplifies_rounding_says_nothing(
    error: float, alone: float, cost: float, judged: bool
) -> None:
    usual = Usual(1e-6, 1e-9, typical=1.0)
    want = np.full(100, 0.1)
    first = judge(want + error, want, usual, flat=True)
    settled = settle(first, want + error, want, want + cost, most=0.75)
    result = unless_amplified(settled, want, usual, want + alone)
    assert bool(result.silent) != judged and result.ratio == settled.ratio
