"""What tools that people trust have let pass. Each of these must not pass here."""

import math

import numpy as np
import pytest

from parity.core.errors import ParityError
from parity.judging.compare import compare
from parity.judging.metrics import BLOCK, EXACT_DB, SUMMED
from parity.judging.registry import METRICS

# Limits that anything measured at all would keep, or nearly: those that nothing could break are refused.
LOOSE = {"max_abs": 1e300, "cosine": -0.999, "sqnr": -399, "rel_rms": 1e300}


def refuse(got, want, state, text):
    """It does not pass under any limits, every metric says so, and the reason names the cause."""
    result = compare(got, want, **LOOSE)
    assert result.state == state
    assert not result
    assert text in result.reason
    assert text in str(result)
    assert all(math.isnan(value) for value in result.metrics.values())
    assert not any(check.passed for check in result.checks)
    assert len(result.checks) == len(LOOSE)
    assert result.sums is None
    return result


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_one_bad_element_among_many(bad, dtype):
    want = np.ones((4, 3 * BLOCK), dtype)
    got = want.copy()
    got[2, BLOCK + 5] = bad
    result = refuse(got, want, "fail", f"(2, {BLOCK + 5})")
    assert result.nonfinite.refused == 1
    assert result.nonfinite.first == (2, BLOCK + 5)
    assert (result.nonfinite.got_nan, result.nonfinite.got_inf) == (int(np.isnan(bad)), int(np.isinf(bad)))


def test_one_nan_among_a_million():
    want = np.zeros(1_000_000, np.float32)
    got = want.copy()
    got[-1] = np.nan
    assert refuse(got, want, "fail", "(999999,)").nonfinite.got_nan == 1


def test_the_first_bad_element_is_named():
    want = np.ones(3 * BLOCK)
    got = want.copy()
    got[[BLOCK + 7, 2 * BLOCK + 1]] = np.nan
    result = refuse(got, want, "fail", f"2 of {want.size:,} elements")
    assert result.nonfinite.first == (BLOCK + 7,)


def test_nan_in_both_is_an_error_of_the_oracle():
    both = np.array([1, np.nan, 3])
    result = refuse(both, both.copy(), "error", "want has 1 NaN")
    assert (result.nonfinite.got_nan, result.nonfinite.want_nan, result.nonfinite.refused) == (1, 1, 1)


def test_nan_in_want_only():
    refuse(np.array([1.0, 2.0]), np.array([1.0, np.nan]), "error", "want has 1 NaN")


def test_infinity_lost():
    refuse(np.array([1.0, -1e9]), np.array([1.0, -np.inf]), "fail", "not finite")


def test_infinity_of_the_other_sign():
    assert refuse(np.array([1.0, np.inf]), np.array([1.0, -np.inf]), "fail", "(1,)").nonfinite.refused == 1


def test_infinity_for_nan():
    refuse(np.array([np.inf, 1.0]), np.array([np.nan, 1.0]), "error", "want has 1 NaN")


def test_the_same_infinities_are_left_out_and_counted():
    want = np.array([3.0, -np.inf, 1.0, np.inf, 10.0])
    got = np.array([3.5, -np.inf, 1.0, np.inf, 10.0])
    result = compare(got, want, max_abs=1, cosine=0.9, psnr=1)
    rest = compare(got[[0, 2, 4]], want[[0, 2, 4]], max_abs=1, cosine=0.9, psnr=1)
    assert result.passed
    assert result.metrics == rest.metrics
    assert result.nonfinite.permitted == 2
    assert (result.nonfinite.got_inf, result.nonfinite.want_inf) == (2, 2)
    assert "2 elements are the same infinity" in str(result)
    assert result.sums.count == 3
    assert not compare(got, want, max_abs=0.4)
    assert compare(got, want, max_abs=0.4).differing == 1


def test_the_same_infinities_do_not_touch_the_range_of_psnr():
    want = np.array([5.0, 6.0, -np.inf])
    got = want + 0.1
    assert compare(got, want, psnr=1).metrics["psnr"] == pytest.approx(20.0)


def test_only_infinities():
    refuse(np.full(3, -np.inf), np.full(3, -np.inf), "error", "no finite elements")


@pytest.mark.parametrize(
    ("got", "want"),
    [
        ((1,), (5,)),
        ((5,), (1, 5)),
        ((), (1,)),
        ((1, 3, 4), (3, 4)),
        ((2, 3), (3, 2)),
        ((4, 4, 1), (4, 1, 4)),
        ((1, 8, 8, 3), (1, 3, 8, 8)),
        ((6,), (2, 3)),
        ((0,), (3,)),
        ((0, 2), (2, 0)),
    ],
)
def test_shapes_are_not_matched_up(got, want):
    result = refuse(np.ones(got), np.ones(want), "fail", f"shape of got is {got}")
    assert str(want) in result.reason


def test_permuted_axes_of_equal_size_differ():
    want = np.arange(9.0).reshape(3, 3)
    assert not compare(want.T, want, max_abs=1e-6)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 1000)])
def test_no_elements(shape):
    refuse(np.ones(shape), np.ones(shape), "error", "no elements")


def test_no_limits():
    result = compare(np.ones(3), np.ones(3))
    assert not result
    assert (result.state, result.checks) == ("error", ())
    assert "no limit was given" in result.reason
    assert result.metrics["max_abs"] == 0


@pytest.mark.parametrize(
    ("got", "want"),
    [("int32", "float32"), ("float32", "int8"), ("bool", "float32"), ("uint8", "bool"), ("int64", "bool")],
)
def test_kinds_of_dtype_must_agree(got, want):
    refuse(np.ones(3, got), np.ones(3, want), "fail", f"dtype of got is {got}")


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a"]),
        np.array([b"a"]),
        np.array([None]),
        np.array([1.0], object),
        np.array([1j]),
        np.array(["2020-01-01"], "M8[D]"),
        np.array([1], "m8[s]"),
        np.array([(1.0,)], [("x", float)]),
    ],
)
def test_dtypes_that_are_no_numbers(array):
    refuse(np.array([1.0]), array, "error", "dtype of want")
    refuse(array, np.array([1.0]), "fail", "dtype of got")


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="long double is float64 here")
def test_wider_than_float64_is_refused():
    refuse(np.ones(2, np.longdouble), np.ones(2), "fail", "wider than the float64")


@pytest.mark.parametrize("value", [None, [1.0], "1", np.ma.array([1.0], mask=[True])])
def test_arguments_that_are_no_arrays(value):
    with pytest.raises(ParityError, match="got is"):
        compare(value, np.array([1.0]), max_abs=1)
    with pytest.raises(ParityError, match="want is"):
        compare(np.array([1.0]), value, max_abs=1)


def test_int32_difference_that_wraps():
    got, want = np.array([2**31 - 1], np.int32), np.array([-(2**31)], np.int32)
    assert (got - want)[0] == -1  # what a careless checker sees
    assert not compare(got, want, max_abs=2)


def test_uint8_difference_that_wraps():
    assert compare(np.array([0], np.uint8), np.array([1], np.uint8), mean_signed=2).metrics["mean_signed"] == -1


def test_float16_is_not_compared_in_float16():
    got, want = np.full(70_000, 1.0, np.float16), np.full(70_000, 1.001, np.float32)
    result = compare(got, want, mean_abs=1)
    assert result.metrics["mean_abs"] == pytest.approx(float(np.float32(1.001)) - 1, rel=1e-12)


def test_a_float64_oracle_is_not_rounded_to_the_artefact():
    assert not compare(np.ones(4, np.float32), np.full(4, 1 + 1e-9), max_abs=1e-10)


@pytest.mark.parametrize("value", [1e155, 1e200, 1e307, -1e155, -1e307])
def test_huge_values_measure(value):
    want = np.array([value, value, 1.0])
    result = compare(want * 1.5, want, cosine=0.99, rel_rms=0.1)
    assert result.metrics["cosine"] == pytest.approx(1)
    assert result.metrics["rel_rms"] == pytest.approx(0.5)
    assert result.metrics["sqnr"] == pytest.approx(20 * math.log10(2))
    assert not result


def test_a_difference_beyond_float64_does_not_pass():
    result = compare(np.array([1.7e308, 1.0]), np.array([-1.7e308, 1.0]), **LOOSE)
    assert not result
    assert result.metrics["max_abs"] == math.inf
    assert all(not check.passed for check in result.checks if check.metric != "cosine")
    assert "inf" in result.reason


@pytest.mark.parametrize("value", [1e-170, 1e-300, 5e-324])
def test_denormal_values_do_not_vanish(value):
    got, want = np.array([value * 2, value]), np.array([value, value])
    result = compare(got, want, max_abs=0, rel_rms=0.5, sqnr=10, cosine=0.999)
    assert not any(check.passed for check in result.checks)
    assert result.metrics["rel_rms"] == pytest.approx(math.sqrt(0.5))
    assert result.metrics["max_rel"] > 0.5


def test_a_denormal_error_on_a_normal_output_is_not_exact():
    result = compare(np.array([1.0, 5e-324]), np.array([1.0, 0.0]), max_abs=0)
    assert not result
    assert result.differing == 1
    assert not compare(np.array([1.0, 5e-324]), np.array([1.0, 0.0]), sqnr=EXACT_DB)


def test_float32_denormals():
    result = compare(np.zeros(3, np.float32), np.full(3, 1e-44, np.float32), cosine=0.1, sqnr=1)
    assert not any(check.passed for check in result.checks)


def test_a_huge_element_does_not_hide_where_the_worst_is():
    want = np.array([1e300, 1.0, -1e300])
    got = want + np.array([0.0, 0.25, 0.0])
    result = compare(got, want, max_abs=0.1)
    assert result.worst.index == (1,)
    assert result.metrics["max_abs"] == 0.25


def test_non_contiguous_is_read_by_index_not_by_memory():
    base = np.arange(24.0).reshape(2, 3, 4)
    assert compare(base.transpose(2, 0, 1), np.ascontiguousarray(base.transpose(2, 0, 1)), max_abs=0)
    assert not compare(base.transpose(2, 1, 0).reshape(-1)[::2], base.reshape(-1)[::2], max_abs=1)


def test_bias_of_either_sign_is_judged():
    want = np.zeros(4)
    for sign in (1, -1):
        result = compare(want + sign * 0.5, want, mean_signed=0.1)
        assert not result
        assert result.metrics["mean_signed"] == sign * 0.5
        assert result.checks[0].value == 0.5


@pytest.mark.parametrize("limit", [math.nan, math.inf, -math.inf, "0.1", None, True, np.bool_(True), 1j, [0.1]])
def test_limits_that_judge_nothing(limit):
    with pytest.raises(ParityError, match=r"max_abs=.* is not a finite number"):
        compare(np.ones(2), np.ones(2), max_abs=limit)


@pytest.mark.parametrize("limit", [{"cosine": -1}, {"cosine": -2.0}, {"top1": 0}, {"top5": -1}, {"sqnr": -400}])
def test_limits_that_no_value_could_break(limit):
    with pytest.raises(ParityError, match="judges nothing"):
        compare(np.ones((2, 9)), np.ones((2, 9)), **limit)


def test_limits_are_checked_even_where_nothing_is_measured():
    with pytest.raises(ParityError):
        compare(np.ones(2), np.ones(3), max_abs=math.nan)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("cosin", "did you mean 'cosine'"), ("maxabs", "did you mean 'max_abs'"), ("zzz", "known: cosine")],
)
def test_unknown_limit(name, hint):
    with pytest.raises(ParityError, match=hint):
        compare(np.ones(2), np.ones(2), **{name: 1})


def test_every_summed_metric_can_fail_and_hold():
    """A fault trips each metric, a benign change does not."""
    rng = np.random.default_rng(0)
    want = rng.standard_normal((8, 100))
    benign, fault = want * (1 + 1e-9), want + 1 + rng.standard_normal(want.shape)
    for name in SUMMED:
        good, bad = (compare(got, want).metrics[name] for got in (benign, fault))
        limit = {name: (abs(good) + abs(bad)) / 2}
        assert compare(benign, want, **limit), name
        assert not compare(fault, want, **limit), name
        assert METRICS[name].doc
