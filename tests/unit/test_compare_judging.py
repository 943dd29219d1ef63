"""Limits, texts, decisions between classes, registered metrics and the reduction over cases."""

import dataclasses
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from parity.core.errors import ConfigError, ParityError
from parity.judging.compare import (
    EXACT_DB,
    METRICS,
    Aggregate,
    Check,
    Comparison,
    aggregate,
    compare,
    register_metric,
)
from parity.judging.metrics import DECIDED, SUMMED, Nonfinite

WANT = np.linspace(-1, 1, 12).reshape(3, 4)


@pytest.fixture
def registry():
    before = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(before)


# Checks


@pytest.mark.parametrize(
    ("value", "limit", "sense", "passed"),
    [
        (0.5, 0.5, "max", True),
        (0.5, 0.5, "min", True),
        (0.6, 0.5, "max", False),
        (0.4, 0.5, "min", False),
        (math.nan, 0.5, "max", False),
        (math.nan, 0.5, "min", False),
        (math.inf, 0.5, "min", False),
        (-math.inf, 0.5, "max", False),
        (0.5, math.nan, "max", False),
    ],
)
def test_check(value, limit, sense, passed):
    assert Check("x", value, limit, sense).passed is passed


def test_a_check_cannot_claim_to_pass():
    with pytest.raises(TypeError):
        Check("x", math.nan, 1, "max", passed=True)
    assert not dataclasses.replace(Check("x", 0.0, 1.0, "max"), value=2.0).passed


def test_a_comparison_without_checks_never_passes():
    assert not Comparison({}, (), (1,), 1, Nonfinite())
    check = Check("max_abs", 0, 1, "max")
    assert Comparison({}, (check,), (1,), 1, Nonfinite())
    assert not Comparison({}, (check,), (1,), 1, Nonfinite(), error="x")
    assert not Comparison({}, (check,), (1,), 1, Nonfinite(), mismatch="x")


def test_one_broken_limit_of_many_is_enough():
    result = compare(WANT + 0.01, WANT, cosine=0.9, max_abs=1e-3, sqnr=10)
    assert not result
    assert result.state == "fail"
    assert [check.passed for check in result.checks] == [True, False, True]


@pytest.mark.parametrize("limit", [1, 1.0, np.float32(1), np.int64(1)])
def test_numbers_of_any_type_are_limits(limit):
    result = compare(WANT, WANT, max_abs=limit)
    assert result
    assert type(result.checks[0].limit) is float


def test_values_are_plain_builtins():
    result = compare(WANT.astype(np.float32), WANT, max_abs=1, also=("top1",))
    assert {type(value) for value in result.metrics.values()} == {float}
    assert {type(i) for i in result.worst.index} == {int}
    assert type(result.worst.got) is type(result.worst.want) is float
    assert type(result.elements) is int
    assert {type(value) for value in dataclasses.asdict(result.nonfinite).values()} <= {int, type(None)}


def test_a_comparison_travels_between_processes():
    result = compare(WANT + 0.01, WANT, max_abs=1e-3)
    assert pickle.loads(pickle.dumps(result)) == result
    assert dataclasses.asdict(result)["checks"][0]["passed"] is False


# Texts


def test_text_of_a_mismatch():
    got = WANT.copy()
    got[1, 2] += 0.5
    got[2, 0] -= 0.25
    result = compare(got, WANT, cosine=0.5, max_abs=0.3)
    assert result.reason == "max_abs 0.5 > 0.3 at (1, 2)"
    assert str(result).splitlines() == [
        "1 of 2 limits broken",
        "  ok     cosine 0.9677 >= 0.5",
        "  BROKEN max_abs 0.5 > 0.3",
        "  greatest difference 0.5 at (1, 2): got 0.5909, want 0.09091",
        "  1 of 12 elements (8.33%) differ by more than 0.3",
    ]
    assert compare(got, WANT, cosine=0.999).differing == 2
    assert "2 of 12 elements (16.67%) differ" in str(compare(got, WANT, cosine=0.999))


def test_text_of_a_match():
    result = compare(WANT, WANT, sqnr=60)
    assert result.reason == ""
    assert str(result).startswith("1 of 1 limits held\n  ok     sqnr 400 >= 60 dB")


def test_value_and_limit_never_read_the_same_when_they_differ():
    result = compare(np.array([1 + 1e-9]), np.array([0.0]), max_abs=1)
    assert result.reason == "max_abs 1.000000001 > 1 at (0,)"


def test_text_of_a_missing_measurement():
    assert compare(np.array(1.0), np.array(1.0), top1=0.5).reason == "top1 was not measured (limit 0.5)"


# Decisions


def test_decisions():
    want = np.array([[3.0, 1, 2], [0, 5, 4.5], [1, 2, 9], [7, 6, 0]])
    got = want.copy()
    got[1] = [0, 4, 5]  # lost 5 to 4.5
    got[3] = [0, 0, 1]  # lost 7 to 0
    result = compare(got, want, top1=0.5, decision_flips=2, flip_margin=7)
    assert result.passed
    assert result.metrics["top1"] == 0.5
    assert result.metrics["decision_flips"] == 2
    assert result.metrics["flip_margin"] == 7
    assert not compare(got, want, top1=0.51)
    assert not compare(got, want, decision_flips=1)
    assert not compare(got, want, flip_margin=6.9)


def test_no_flip_has_no_margin():
    result = compare(WANT * 2, WANT, flip_margin=0, decision_flips=0, top1=1)
    assert result.passed


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_decisions_along_any_axis(axis, layout):
    rng = np.random.default_rng(1)
    want = np.asarray(rng.standard_normal((7, 8, 9)), order=layout)
    got = (want + rng.standard_normal(want.shape)).astype(np.float32)
    found = compare(got, want, axis=axis, also=DECIDED).metrics
    rows = [np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]) for x in (got, want)]
    flips = [(w[w.argmax()] - w[g.argmax()]) for g, w in zip(*rows, strict=True) if w.argmax() != g.argmax()]
    best = [w.argmax() in np.argsort(-g, kind="stable")[:5] for g, w in zip(*rows, strict=True)]
    assert found["decision_flips"] == len(flips) > 0
    assert found["top1"] == pytest.approx(1 - len(flips) / len(best))
    assert found["top5"] == pytest.approx(np.mean(best))
    assert found["top5"] < 1
    assert found["flip_margin"] == pytest.approx(max(flips))


def test_of_tied_classes_the_first_is_best():
    want, got = np.array([[2.0, 2.0, 1.0]]), np.array([[2.0, 2.1, 1.0]])
    result = compare(got, want, also=DECIDED, flip_margin=0)
    assert result.metrics["top1"] == 0
    assert result.passed  # tied in want: the flip costs nothing


def test_a_constant_output_does_not_agree_by_ties():
    want = np.eye(10)
    result = compare(np.zeros((10, 10)), want, top1=0.9, top5=0.9)
    assert not any(check.passed for check in result.checks)
    assert (result.metrics["top1"], result.metrics["top5"]) == (0.1, 0.5)


@pytest.mark.parametrize(("best", "share"), [(0, 1), (4, 1), (5, 0), (9, 0)])
def test_of_tied_classes_the_first_five_are_the_best_five(best, share):
    want = np.zeros((2, 10))
    want[:, best] = 1
    assert compare(np.zeros((2, 10)), want, also=("top5",)).metrics["top5"] == share


def test_a_margin_does_not_wrap():
    want = np.array([[-100, 100]], np.int8)
    assert compare(want[:, ::-1], want, also=("flip_margin",)).metrics["flip_margin"] == 200


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int64"])
def test_decisions_of_any_dtype(dtype):
    want = np.array([[1, 2, 100], [5, 4, 3]], dtype)
    assert compare(want, want, top1=1, flip_margin=0)
    result = compare(want[:, ::-1], want, also=("top1", "flip_margin"))
    assert (result.metrics["top1"], result.metrics["flip_margin"]) == (0, 99)


@pytest.mark.parametrize("shape", [(), (1,), (4, 1)])
def test_one_class_decides_nothing(shape):
    result = compare(np.ones(shape), np.ones(shape), top1=0.1)
    assert not result
    assert math.isnan(result.metrics["top1"])


@pytest.mark.parametrize("classes", [2, 5])
def test_five_of_five_classes_would_always_agree(classes):
    want = np.arange(float(classes))[None]
    assert not compare(want, want, top5=0.1)
    assert compare(want, want, top1=1)


def test_masked_classes_decide():
    want = np.array([[1.0, -np.inf, 3.0]])
    assert compare(want + 0.1, want, top1=1)
    assert not compare(np.array([[5.0, -np.inf, 3.0]]), want, top1=1)


def test_axis_out_of_range():
    with pytest.raises(ParityError, match="axis 2 is out of range"):
        compare(WANT, WANT, axis=2, top1=1)


def test_decisions_are_measured_when_asked_for():
    assert tuple(compare(WANT, WANT, also=("top1",)).metrics) == (*SUMMED, "top1")
    assert math.isnan(compare(WANT, WANT.T, also=("top1",)).metrics["top1"])


# Registered metrics


@pytest.mark.usefixtures("registry")
def test_a_registered_metric_is_a_limit():
    register_metric("p90", lambda g, w: np.quantile(abs(g - w), 0.9), sense="max", doc="90th percentile.")
    assert METRICS["p90"].doc == "90th percentile."
    result = compare(WANT + 0.1, WANT, p90=0.2)
    assert result.passed
    assert result.metrics["p90"] == pytest.approx(0.1)
    assert type(result.metrics["p90"]) is float
    assert not compare(WANT + 0.3, WANT, p90=0.2)
    assert "p90" not in compare(WANT, WANT, max_abs=1).metrics
    assert "p90" in compare(WANT, WANT, max_abs=1, also=["p90"]).metrics
    with pytest.raises(ParityError, match="did you mean 'p90'"):
        compare(WANT, WANT, p9=1)


@pytest.mark.usefixtures("registry")
def test_sense_min_of_a_registered_metric():
    register_metric("share", lambda g, w: float(np.mean(g == w)), sense="min", doc="Equal elements.")
    assert compare(WANT, WANT, share=1)
    assert not compare(WANT + 1, WANT, share=0.5)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_registered_metric_that_is_not_finite_fails(value):
    register_metric("odd", lambda g, w: value, sense="max", doc="Odd.")
    assert not compare(WANT, WANT, odd=1)


@pytest.mark.usefixtures("registry")
def test_a_registered_metric_does_not_run_on_what_cannot_be_measured():
    register_metric("never", lambda g, w: 1 / 0, sense="max", doc="Never.")
    assert math.isnan(compare(WANT, WANT.T, never=1).metrics["never"])
    with pytest.raises(ParityError, match="'never' raised ZeroDivisionError"):
        compare(WANT, WANT, never=1)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["max_abs", "axis", "also", "got", "no hyphen-", ""])
def test_names_that_a_metric_cannot_have(name):
    with pytest.raises(ParityError):
        register_metric(name, lambda g, w: 0.0, sense="max", doc="")


@pytest.mark.usefixtures("registry")
def test_sense_is_max_or_min():
    with pytest.raises(ParityError, match=r"'max' .* or 'min'"):
        register_metric("new", lambda g, w: 0.0, sense="maximum", doc="")


def test_every_metric_has_a_sentence():
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.doc.endswith(".")
        assert metric.sense in ("max", "min")
        assert metric.low < metric.high


# Aggregate


def cases():
    good, bad = compare(WANT + 1e-6, WANT, max_abs=0.1), compare(WANT - 0.5, WANT, max_abs=0.1)
    return {"a": good, "b": bad, "c": good}


def test_aggregate_takes_the_worst_of_each_metric():
    total = aggregate(cases())
    assert not total
    assert total.failed == ("b",)
    assert total.reason.startswith("max_abs 0.5 > 0.1 at (")
    assert total.reason.endswith(") (b)")
    assert {worst.case for worst in total.worst.values()} == {"b"}
    assert total.worst["mean_signed"].value == pytest.approx(-0.5)
    assert total.worst["sqnr"].value == min(c.metrics["sqnr"] for c in cases().values())


def test_one_bad_frame_in_256_is_not_averaged_away():
    frames = {f"f{i:03}": compare(WANT, WANT, max_abs=0.1) for i in range(256)}
    assert aggregate(frames).passed
    frames["f100"] = compare(WANT + 0.2, WANT, max_abs=0.1)
    total = aggregate(frames)
    assert total.pooled["mean_abs"] < 0.001
    assert not total.passed
    assert total.worst["max_abs"].case == "f100"
    assert total.failed == ("f100",)


def test_no_cases_is_not_a_pass():
    total = aggregate({})
    assert not total.passed
    assert (total.cases, total.worst, total.failed) == (0, {}, ())
    assert "no cases" in total.reason
    assert all(math.isnan(value) for value in total.pooled.values())


def test_a_case_that_was_not_measured_is_the_worst():
    total = aggregate({**cases(), "d": compare(WANT, WANT.T, max_abs=0.1)})
    assert {worst.case for worst in total.worst.values()} == {"d"}
    assert all(math.isnan(value) for value in total.pooled.values())
    assert total.failed == ("b", "d")
    assert total.reason.startswith("2 of 4 cases, first: ")


def test_a_case_without_limits_is_not_a_pass():
    total = aggregate({"a": compare(WANT, WANT, max_abs=1), "b": compare(WANT, WANT)})
    assert not total.passed
    assert total.failed == ("b",)


def test_a_metric_that_one_case_lacks_is_not_measured():
    total = aggregate({"a": compare(WANT, WANT, top1=1), "b": compare(WANT, WANT, max_abs=1)})
    assert total.worst["top1"].case == "b"
    assert math.isnan(total.worst["top1"].value)


@pytest.mark.parametrize("scale", [1.0, 1e250, 1e-250])
def test_pooled_is_the_metric_of_all_elements(scale):
    rng = np.random.default_rng(3)
    parts = {}
    for i in range(4):
        want = rng.standard_normal(20) * (scale if i % 2 else 10.0) * (i != 3)
        got = want + 0.1 * rng.standard_normal(20) * (scale if i % 2 else 10.0) * (i != 1)
        parts[str(i)] = got, want
    pooled = aggregate({k: compare(g, w, max_abs=1) for k, (g, w) in parts.items()}).pooled
    whole = compare(*(np.concatenate(x) for x in zip(*parts.values(), strict=True)), max_abs=1).metrics
    for name in SUMMED:
        if name != "max_rel":  # relative to each case's own rms
            assert pooled[name] == pytest.approx(whole[name], rel=1e-9), name


def test_pooling_an_equal_case_with_a_tiny_error_keeps_the_error():
    tiny = compare(np.array([2e-200]), np.array([1e-200]), max_abs=1)
    equal = compare(np.array([1e-200]), np.array([1e-200]), max_abs=1)
    assert aggregate({"a": equal, "b": tiny}).pooled["sqnr"] == pytest.approx(10 * math.log10(2))
    assert aggregate({"a": equal}).pooled["sqnr"] == EXACT_DB


def test_pooling_a_case_of_zeros_with_a_tiny_one_keeps_the_tiny_one():
    tiny = compare(np.array([2e-200, 0.0]), np.array([1e-200, 1e-200]), max_abs=1)
    zeros = compare(np.zeros(2), np.zeros(2), max_abs=1)
    assert aggregate({"a": zeros, "b": tiny}).pooled["cosine"] == pytest.approx(math.sqrt(0.5))


def test_aggregate_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        aggregate(cases()).cases = 0
    assert isinstance(aggregate(cases()), Aggregate)


# The room


def test_imports_neither_pytest_nor_torch():
    heavy = {"pytest", "torch", "onnx", "tensorflow"}
    code = f"import sys, parity.judging.compare; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_configuration_error_is_a_parity_error():
    assert issubclass(ConfigError, ParityError)
