"""Every metric against a naive formula, over dtypes, layouts, magnitudes and block lengths."""

import math
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.judging import metrics
from parity.judging.compare import EXACT_DB, Worst, compare
from parity.judging.metrics import SUMMED

FLOATS = ["float16", "float32", "float64", ">f4"]
INTEGERS = ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"]


def naive(got, want):
    """The definitions, element by element, in float64."""
    a, b = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    d = a - b
    rms, size = math.sqrt(np.mean(d * d)), math.sqrt(np.mean(b * b))
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    exact = not d.any()
    values = {
        "max_abs": abs(d).max(),
        "max_rel": (0.0 if exact else math.inf) if size == 0 else (abs(d) / np.maximum(abs(b), size)).max(),
        "mean_abs": abs(d).mean(),
        "rms": rms,
        "rel_rms": (0.0 if exact else math.inf) if size == 0 else rms / size,
        "mean_signed": d.mean(),
        "cosine": 1.0 if exact else (a @ b / norms if norms else 0.0),
    }
    for name, signal in (("sqnr", size), ("psnr", b.max() - b.min())):
        ratio = EXACT_DB if exact else (20 * math.log10(signal / rms) if signal else -EXACT_DB)
        values[name] = ratio if exact else min(EXACT_DB - 1, max(-EXACT_DB, ratio))
    return values


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # A mean of both signs cancels: its rounding is relative to what is summed.
        slack = 1e-12 * expected["mean_abs"] if name == "mean_signed" else 1e-12
        assert found[name] == pytest.approx(value, rel=1e-10, abs=slack if value else 0), name


def relaid(array, layout):
    """The same values in another memory layout."""
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "reversed":
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if layout == "strided":
        wide = np.zeros((*array.shape, 3), array.dtype)
        wide[..., 1] = array
        return wide[..., 1]
    if layout == "unaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        raw[...] = array
        return raw
    return array


@st.composite
def pairs(draw, dtypes):
    shape = draw(st.lists(st.integers(1, 6), min_size=0, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = draw(st.sampled_from(dtypes)), draw(st.sampled_from(dtypes))
    layouts = [draw(st.sampled_from(["plain", "fortran", "reversed", "strided", "unaligned"])) for _ in kinds]
    if draw(st.integers(0, 3)) == 0 or not shape:
        layouts = ["plain", "plain"]
    if dtypes is FLOATS:
        narrow = "float16" in kinds
        scale = 10.0 ** draw(st.integers(-2, 2) if narrow else st.integers(-30, 30))
        want = rng.standard_normal(shape) * scale
        noise = draw(st.sampled_from([0.0, 1e-6, 1e-2, 1.0, 30.0]))
        got = want + noise * scale * rng.standard_normal(shape)
    else:
        info = [np.iinfo(kind) for kind in kinds]
        # Beyond 2**50 the naive formula itself would round.
        low, high = max(i.min for i in info), min(i.max for i in info)
        low, high = max(low, -(2**50)), min(high, 2**50)
        got, want = (rng.integers(low, high, shape, endpoint=True) for _ in kinds)
    arrays = [np.asarray(x).astype(k) for x, k in zip((got, want), kinds, strict=True)]
    return tuple(relaid(x, layout) for x, layout in zip(arrays, layouts, strict=True))


@settings(deadline=None, max_examples=150)
@given(pairs(FLOATS), st.sampled_from([3, 64, metrics.BLOCK]))
def test_float_metrics_are_the_definitions(pair, block):
    got, want = pair
    with mock.patch.object(metrics, "BLOCK", block):
        result = compare(got, want, max_abs=1.0)
    assert_same(result.metrics, naive(got, want))


@settings(deadline=None, max_examples=100)
@given(pairs(INTEGERS), st.sampled_from([3, 64, metrics.BLOCK]))
def test_integer_metrics_are_the_definitions(pair, block):
    got, want = pair
    with mock.patch.object(metrics, "BLOCK", block):
        result = compare(got, want, max_abs=1.0)
    assert_same(result.metrics, naive(got, want))


@settings(deadline=None, max_examples=100)
@given(pairs(FLOATS), st.sampled_from([3, 64, metrics.BLOCK]))
def test_worst_is_the_first_largest_difference(pair, block):
    got, want = pair
    with mock.patch.object(metrics, "BLOCK", block):
        worst = compare(got, want, max_abs=1.0).worst
    d = abs(got.astype(np.float64) - want.astype(np.float64))
    index = np.unravel_index(d.argmax(), d.shape) if d.shape else ()
    assert worst.index == tuple(index)
    assert (worst.got, worst.want) == (got[index], want[index])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(-1000, 1000), st.integers(-1000, 1000))
def test_any_magnitude_measures_like_one(seed, exponent, error_exponent):
    """Scaling by a power of two is exact, so it may only scale the metrics, even where squares overflow."""
    rng = np.random.default_rng(seed)
    want, noise = rng.standard_normal((2, 3, 7))
    error_exponent = min(error_exponent, exponent)
    base = compare(want + np.ldexp(noise, error_exponent - exponent), want, max_abs=1).metrics
    got = np.ldexp(want + np.ldexp(noise, error_exponent - exponent), exponent)
    found = compare(got, np.ldexp(want, exponent), max_abs=1).metrics
    for name in ("cosine", "max_rel", "rel_rms"):
        assert found[name] == pytest.approx(base[name], rel=1e-12, abs=1e-300), name
    for name in ("sqnr", "psnr"):  # decibels: near 0 the logarithm of about 1, whose last bits are not ours
        assert found[name] == pytest.approx(base[name], rel=1e-12, abs=1e-9), name
    for name in ("max_abs", "mean_abs", "rms", "mean_signed"):
        assert found[name] == pytest.approx(math.ldexp(base[name], exponent), rel=1e-9), name


@pytest.mark.parametrize("block", [4, metrics.BLOCK])
@pytest.mark.parametrize("relative", [False, True])
def test_max_rel_is_exact_where_few_or_all_blocks_hold_the_maximum(block, relative, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", block)
    rng = np.random.default_rng(0)
    want = rng.standard_normal((50, 41))
    got = want * (1 + 1e-3 * rng.random(want.shape)) if relative else want + 1e-3 * rng.random(want.shape)
    assert compare(got, want, max_abs=1).metrics["max_rel"] == pytest.approx(naive(got, want)["max_rel"], rel=1e-14)


def test_max_rel_reads_few_blocks_again(monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", 100)
    spans = []
    blocks = metrics._blocks
    monkeypatch.setattr(metrics, "_blocks", lambda g, w, span=None: spans.append(span) or blocks(g, w, span))
    rng = np.random.default_rng(0)
    want = rng.standard_normal(100_000)
    compare(want + rng.standard_normal(want.size), want, max_abs=100)
    assert len([span for span in spans if span]) < 20


def test_the_arrays_are_not_copied():
    got, want = np.ones((2, 2_000_000), np.float32)
    tracemalloc.start()
    compare(got, want, max_abs=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_arguments_are_not_changed():
    got = np.array([1.0, -np.inf, 1e200])
    want = np.array([2.0, -np.inf, 1e200])
    before = got.copy(), want.copy()
    compare(got, want, max_abs=1)
    np.testing.assert_array_equal(got, before[0])
    np.testing.assert_array_equal(want, before[1])


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, "bool"])
def test_equal_is_exact(dtype):
    want = np.random.default_rng(0).integers(0, 2, (3, 50)).astype(dtype)
    result = compare(
        want.copy(), want, max_abs=0, max_rel=0, rms=0, mean_signed=0, cosine=1, sqnr=EXACT_DB, psnr=EXACT_DB
    )
    assert result.passed, str(result)


@pytest.mark.parametrize("value", [3.5, np.float32(3.5), np.array(3.5, np.float16), 7, True])
def test_scalars_compare(value):
    result = compare(value, value, max_abs=0)
    assert result.passed
    assert (result.elements, result.shape, result.worst.index) == (1, (), ())


def test_broadcast_view_and_read_only():
    want = np.broadcast_to(np.arange(5.0), (4, 5))
    got = np.tile(np.arange(5.0), (4, 1))
    got[2, 3] += 0.5
    got.flags.writeable = False
    result = compare(got, want, max_abs=1)
    assert result.metrics["max_abs"] == 0.5
    assert result.worst.index == (2, 3)


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_wide_integers_differ_by_one(dtype):
    want = np.array([2**62, 5], dtype)
    got = want + np.array([1, 0], dtype)
    result = compare(got, want, max_abs=0)
    assert not result.passed
    assert result.metrics["max_abs"] == 1
    assert result.worst == Worst((0,), 2**62 + 1, 2**62)
    assert "4611686018427387905" in str(result)


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        (np.int64(-(2**63)), np.int64(2**63 - 1), 2.0**64),
        (np.uint64(0), np.uint64(2**64 - 1), 2.0**64),
        (np.uint64(2**64 - 1), np.int64(-(2**63)), 2.0**64 + 2.0**63),
        (np.int32(-(2**31)), np.int32(2**31 - 1), 2.0**32 - 1),
        (np.int8(-128), np.int8(127), 255),
        (np.uint8(1), np.uint8(2), 1),
        (np.int8(-1), np.uint64(1), 2),
        (np.bool_(False), np.bool_(True), 1),
    ],
)
def test_integer_differences_never_wrap(got, want, expected):
    for a, b in ((got, want), (want, got)):
        assert compare(a, b, max_abs=0.5).metrics["max_abs"] == expected


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        ([0, 0], [0, 0], 1.0),
        ([0, 0], [1, 2], 0.0),
        ([1, 2], [0, 0], 0.0),
        ([1, 0], [0, 1], 0.0),
        ([1, 1], [-2, -2], -1.0),
    ],
)
def test_cosine_of_special_vectors(got, want, expected):
    assert compare(np.array(got, float), np.array(want, float), cosine=0.5).metrics["cosine"] == pytest.approx(expected)


def test_against_an_oracle_of_zeros_nothing_relative_passes():
    result = compare(np.full(3, 1e-9), np.zeros(3), rel_rms=1e9, max_rel=1e9, sqnr=-399, cosine=0.1)
    assert not any(check.passed for check in result.checks)
    assert result.metrics["sqnr"] == -EXACT_DB


def test_summed_metrics_are_always_measured():
    assert tuple(compare(np.ones(3), np.ones(3)).metrics) == SUMMED
