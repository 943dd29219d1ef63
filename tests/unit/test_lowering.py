"""Lowering: the distance from the oracle that is measured, the check it becomes, what a person is told of the risk."""

from dataclasses import replace

import numpy as np
import pytest

from parity.core.case import Case
from parity.core.record import EventRecord, RiskRecord
from parity.judging.gate import passes
from parity.judging.limits import Limit
from parity.judging.metrics import EXACT_DB
from parity.session.lowering import Lowering, worst_case

LIMITS = {"lowering_db": Limit("lowering_db", 100.0, "d"), "lowering_ratio": Limit("lowering_ratio", 4.0, "d")}
CASES = [Case(f"c{i}", {}) for i in range(3)]
WANT = [np.full((1, 4), v) for v in (1.0, -2.0, 3.0)]


def distance(got, want=WANT):
    return worst_case([{"y": g} for g in got], [{"y": w} for w in want], "y", CASES)


def test_the_worst_case_decides_and_is_named():
    decibels, case = distance([WANT[0] * (1 + 1e-7), WANT[1] * (1 + 1e-4), WANT[2]])
    assert decibels == pytest.approx(80, abs=1) and case == "c1"
    assert distance(WANT)[0] == EXACT_DB


def test_a_case_that_is_almost_zero_is_measured_against_the_usual_size():
    want = [np.full((1, 4), 1e-12), *WANT[1:]]
    assert distance([want[0] + 1e-10, *WANT[1:]], want)[0] > 200


@pytest.mark.parametrize("bad", [np.full((1, 4), np.nan), np.full((1, 4), np.inf), np.ones((1, 3)), np.ones(4)])
def test_what_cannot_be_compared_is_no_decibel(bad):
    assert distance([WANT[0], bad, WANT[2]]) == (0.0, "c1")


def test_equal_infinities_are_equal_and_class_numbers_must_be():
    endless = np.array([[np.inf, 1.0]])
    assert distance([endless] * 3, [endless] * 3)[0] == EXACT_DB
    numbers = [np.array([[3, 1]])] * 3
    assert distance(numbers, numbers)[0] == EXACT_DB
    assert distance([np.array([[3, 2]]), *numbers[1:]], numbers)[0] < 20


def test_a_sibling_is_held_to_decibels_and_a_file_without_one_to_a_ratio():
    risk = RiskRecord()
    (check,) = Lowering({"y": (99.9, "c1")}, {}, risk).checks(lambda _: LIMITS)
    assert (check.metric, check.sense, check.limit) == ("lowering_db", "min", 100.0) and not passes(check)
    assert "c1" in check.detail
    assert all(passes(c) for c in Lowering({"y": (113.0, "c1")}, {}, risk).checks(lambda _: LIMITS))
    (check,) = Lowering({"y": (60.0, "c1")}, {"y": 4.1}, risk).checks(lambda _: LIMITS)
    assert check.metric == "lowering_ratio" and not passes(check)
    assert all(passes(c) for c in Lowering({"y": (60.0, "c1")}, {"y": 1.2}, risk).checks(lambda _: LIMITS))
    assert not passes(Lowering({"y": (60.0, "c1")}, {"y": float("inf")}, risk).checks(lambda _: LIMITS)[0])


def test_a_model_that_amplifies_rounding_in_float32_is_held_to_that():
    """lcnet with random weights: 97 dB in PyTorch, 98 dB in the file."""
    default = {"lowering_db": replace(LIMITS["lowering_db"], source="built-in default for lowering")}
    amplifying = Lowering({"y": (98.0, "c1")}, {}, RiskRecord(), {"y": 97.0})
    (check,) = amplifying.checks(lambda _: default)
    assert passes(check) and check.limit == 73.0
    assert "97 dB" in check.source
    assert not passes(Lowering({"y": (72.0, "c1")}, {}, RiskRecord(), {"y": 97.0}).checks(lambda _: default)[0])
    assert not passes(Lowering({"y": (98.0, "c1")}, {}, RiskRecord(), {"y": 140.0}).checks(lambda _: default)[0])
    assert not passes(amplifying.checks(lambda _: LIMITS)[0])  # a limit that somebody set


def test_a_risk_is_told_with_operator_layer_and_case_and_a_sound_file_says_nothing():
    event = EventRecord("fp16-overflow", "pow", "v7", "blocks.3.norm", "peak 8.58e+05", 0.076, "c2", 3)
    said = Lowering({}, {}, RiskRecord((event,), stress_db={"y": 12.0, "z": 60.0})).warnings()
    assert said[0] == "fp16-overflow in pow 'v7' near blocks.3.norm, case c2 and 2 more: peak 8.58e+05"
    assert len(said) == 2 and "y to 12 dB" in said[1]
    assert Lowering({}, {}, RiskRecord(peak=3.0, headroom=2e4, stress_db={"y": 60.0})).warnings() == []
