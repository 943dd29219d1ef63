"""From arrays to checks: what is absent, misshapen or not finite becomes a check that fails."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from parity.core.contract import OutputSpec
from parity.core.record import Check
from parity.judging import judge
from parity.judging.gate import passes
from parity.judging.limits import Limit

LOGITS = OutputSpec("logits", "logits", ("a", "b", "c"))
LIMITS = {
    "max_abs": Limit("max_abs", 0.5, "p:1"),
    "cosine": Limit("cosine", 0.9, "p:2"),
    "top1": Limit("top1", 1, "p:3"),
}
WANT = np.array([[3.0, 1.0, 2.0], [0.5, 4.0, 1.0]])


def checks(got: Any, want: Any = WANT, limits: Any = LIMITS) -> dict[str, Check]:
    found = judge.check_output("golden", "a", LOGITS, got, want, limits)
    assert len({c.metric for c in found}) == len(found)
    assert all(c.passed is passes(c) for c in found)
    return {c.metric: c for c in found}


def test_equal_arrays_hold_every_limit() -> None:
    found = checks(WANT.astype(np.float32))
    assert all(c.passed for c in found.values())
    assert set(found) == {*judge.RECORDED}
    assert (found["max_abs"].limit, found["max_abs"].source) == (0.5, "p:1")
    assert found["sqnr"].limit is None and found["sqnr"].source == ""
    assert found["cosine"].sense == "min" and found["max_abs"].sense == "max"


def test_a_small_difference_is_measured_and_named() -> None:
    got = WANT.copy()
    got[1, 2] += 0.25
    found = checks(got)
    assert found["max_abs"].value == 0.25 and found["max_abs"].passed
    assert found["max_abs"].detail == "worst at [1, 2]: got 1.25, oracle 1"


def test_a_large_difference_fails_that_limit_alone() -> None:
    got = WANT + np.array([[0.6, 0, 0], [0, 0, 0]])
    found = checks(got)
    assert not found["max_abs"].passed and found["cosine"].passed
    assert found["max_abs"].value == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (None, "does not give this output"),
        (np.zeros((3, 2)), "shape of got is (3, 2), of want (2, 3)"),
        (np.zeros((1, 2, 3)), "shape of got"),
        (np.zeros(6), "shape of got"),
        (np.zeros((0, 3)), "shape of got"),
        (np.zeros((2, 1)), "shape of got"),
        (np.zeros(()), "shape of got"),
        (np.zeros((2, 3), int), "dtype of got"),
        (np.zeros((2, 3), bool), "dtype of got"),
        (np.zeros((2, 3), complex), "dtype of got"),
        (np.full((2, 3), np.nan), "not finite"),
        (np.where(WANT > 3.5, np.nan, WANT), "not finite"),
        (np.where(WANT > 3.5, np.inf, WANT), "not finite"),
        (np.where(WANT > 3.5, -np.inf, WANT), "not finite"),
    ],
)
def test_what_cannot_be_compared_fails_every_check_with_the_reason(got: Any, words: str) -> None:
    found = checks(got)
    assert {*judge.RECORDED} == set(found)
    for one in found.values():
        assert one.value is None and not one.passed and words in one.detail
    counted = found["max_abs"].nonfinite
    assert counted == (int((~np.isfinite(got)).sum()) if "not finite" in words else 0)


def test_nan_in_the_oracle_is_no_pass() -> None:
    want = WANT.copy()
    want[0, 0] = np.nan
    assert not any(c.passed for c in checks(want, want).values())


def test_no_element_at_all_is_no_pass() -> None:
    assert not any(c.passed for c in checks(np.zeros((0, 3)), np.zeros((0, 3))).values())


def test_without_any_limit_the_figures_are_recorded_and_prove_nothing() -> None:
    found = checks(WANT, limits={})
    assert all(c.limit is None and c.value is not None for c in found.values())


def test_a_limit_that_was_taken_away_is_recorded_without_one() -> None:
    found = checks(WANT, limits={"cosine": Limit("cosine", None, "p:9"), "max_abs": LIMITS["max_abs"]})
    assert found["cosine"].limit is None and found["cosine"].source == "p:9"


def test_a_limit_on_a_further_metric_brings_its_check() -> None:
    found = checks(WANT + 1, limits={"mean_signed": Limit("mean_signed", 0.5, "p")})
    assert found["mean_signed"].value == 1.0 and not found["mean_signed"].passed
    found = checks(WANT - 1, limits={"mean_signed": Limit("mean_signed", 0.5, "p")})
    assert found["mean_signed"].value == 1.0 and not found["mean_signed"].passed


@pytest.mark.parametrize("metric", ["top1", "top5", "decision_flips"])
def test_decisions_are_judged_over_all_cases_and_not_here(metric: str) -> None:
    assert judge.over_all(metric)
    assert metric not in checks(WANT, limits={metric: Limit(metric, 1.0, "p"), **LIMITS})


# Decisions over all cases.


def decide(got: list[Any], want: list[Any]) -> Check:
    (found,) = judge.check_decisions("golden", LOGITS, got, want, LIMITS)
    assert found.case == "all" and found.metric == "top1" and found.sense == "min" and found.limit == 1
    return found


def test_decisions_count_rows_over_all_cases() -> None:
    other = WANT[:, ::-1].copy()
    assert decide([WANT, WANT], [WANT, WANT]).value == 1.0
    found = decide([WANT, other], [WANT, WANT])
    assert found.value == pytest.approx(0.75) and not found.passed and "1 of 4 rows" in found.detail


def test_decisions_look_at_the_last_axis_whatever_the_rank() -> None:
    deep = np.stack([WANT, WANT + 1])
    assert decide([deep], [deep]).value == 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_decision_on_something_not_finite_is_none(bad: float) -> None:
    got = WANT.copy()
    got[0, 0] = bad
    found = decide([got, WANT], [WANT, WANT])
    assert found.value is None and not found.passed


def test_the_best_five_and_flips_gate_where_they_are_limited() -> None:
    want = np.arange(14.0).reshape(2, 7)
    limits = {name: Limit(name, value, "p:4") for name, value in (("top5", 1.0), ("decision_flips", 0.0))}
    found = judge.check_decisions("golden", LOGITS, [-want], [want], limits)
    assert [(c.metric, c.value, c.passed) for c in found[1:]] == [("top5", 0.0, False), ("decision_flips", 2.0, False)]
    assert len(judge.check_decisions("golden", LOGITS, [-want], [want], {})) == 1


@pytest.mark.parametrize("limit", [1.0, None])
def test_so_few_classes_have_no_best_five(limit: float | None) -> None:
    found = judge.check_decisions("golden", LOGITS, [WANT], [WANT], {"top5": Limit("top5", limit, "p:4")})
    assert [c.metric for c in found] == ["top1"]


# Accuracy.

ACCURACY = {"top1_drop": Limit("top1_drop", 0.1, "p:7")}


def accuracy(got: list[Any], want: list[Any], labels: list[int]) -> dict[str, Check]:
    found = judge.check_accuracy(LOGITS, got, want, labels, ACCURACY)
    assert all(c.kind == "accuracy" and c.case == "all" for c in found)
    return {c.metric: c for c in found}


def test_accuracy_is_the_drop_against_the_oracle() -> None:
    right = [np.eye(3)[[i]] for i in (0, 1, 2, 0)]
    wrong = [right[0], right[1], np.eye(3)[[0]], right[3]]
    found = accuracy(wrong, right, [0, 1, 2, 0])
    assert found["top1_drop"].value == 0.25 and not found["top1_drop"].passed
    assert found["top1_accuracy"].value == 0.75 and found["top1_accuracy"].limit is None
    assert "artefact 75.0%, oracle 100.0% of 4" in found["top1_drop"].detail


def test_an_artefact_that_is_right_more_often_passes() -> None:
    right, wrong = [np.eye(3)[[0]]], [np.eye(3)[[1]]]
    assert accuracy(right, wrong, [0])["top1_drop"].value == -1.0


@pytest.mark.parametrize(
    ("got", "want", "labels"),
    [
        ([np.full((1, 3), np.nan)], [np.eye(3)[[0]]], [0]),
        ([np.eye(3)[[0]]], [np.full((1, 3), np.nan)], [0]),
        ([np.eye(3)[[0]]], [np.eye(3)[[0]]], []),
        ([np.eye(3)[[0]]], [np.eye(3)[[0]]], [0, 1]),
        ([np.eye(3)[[0, 1]]], [np.eye(3)[[0]]], [0]),
        ([np.zeros((0, 3))], [np.zeros((0, 3))], []),
    ],
)
def test_accuracy_that_cannot_be_measured_fails(got: Any, want: Any, labels: list[int]) -> None:
    found = accuracy(got, want, labels)["top1_drop"]
    assert found.value is None and not found.passed and found.limit == 0.1


# Facts and counts.


def test_facts() -> None:
    yes, no = judge.fact("s", "x", "dtype", True, "d"), judge.fact("s", "x", "dtype", False, "d")
    assert passes(yes) and not passes(no) and (yes.value, no.value) == (1.0, 0.0)
    assert yes.kind == "contract" and yes.source == "the contract"


def test_counted_takes_its_limit_from_the_cascade() -> None:
    limits = {"flex_ops": Limit("flex_ops", 0.0, "p:1")}
    assert passes(judge.counted("operators", "flex_ops", 0.0, limits))
    assert not passes(judge.counted("operators", "flex_ops", 1.0, limits))
    assert judge.counted("operators", "flex_ops", 1.0, {}).limit is None
    assert not passes(judge.counted("operators", "flex_ops", math.nan, limits))
