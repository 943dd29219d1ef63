"""The `parity` fixture's object: every check is kept, a user's mistake is one sentence, nothing recorded is no pass."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.record import Check
from parity.core.settings import Rule
from parity.suite.recorder import Recorder

CELL = Cell("skin", "onnx", "fp32")
ONE = np.array([1.0, 2.0, 3.0])


def recorder(*rules: Rule) -> Recorder:
    return Recorder(CELL, "property", rules)


def test_a_check_that_holds_is_kept_and_true() -> None:
    r = recorder()
    assert r.check("y", ONE, ONE + 0.1, max_abs=0.2, case="hand") is True
    (kept,) = r.checks
    assert (kept.kind, kept.case, kept.output, kept.metric, kept.limit) == ("property", "hand", "y", "max_abs", 0.2)
    assert kept.source == "the test" and kept.passed and kept.value == pytest.approx(0.1)
    assert r.verdict() == "" and r.broken() == []


def test_a_check_that_breaks_is_kept_and_the_test_goes_on() -> None:
    r = recorder()
    assert r.check("y", ONE, ONE + 1, max_abs=0.2) is False
    assert r.check("y", ONE, ONE, max_abs=0.2) is True
    text = r.verdict()
    assert text.splitlines() == [
        "y: max_abs 1 > 0.2 (case case), limit from the test",
        "  1 of 2 checks broken",
        "  y max_abs: 1 > 0.2 in case; worst at [0]: got 1, want 2; limit from the test",
    ]
    assert r.verdict("the cause").startswith("the cause; y: max_abs 1 > 0.2")
    assert r.brief() == [f"1 of 2 checks broken; {text.splitlines()[2].strip()}"]


def test_nothing_recorded_is_a_failure() -> None:
    r = recorder()
    assert "no check was recorded" in r.verdict()
    r.add(Check("property", "a", "y", "max_abs", 0.1, None, "max", True))
    assert "no check was recorded against a limit" in r.verdict()


def test_the_configured_limits_are_used_where_none_is_given() -> None:
    r = recorder(
        Rule("skin", "max_abs", 0.5, "y", "pyproject.toml:7"), Rule("fp32", "sqnr", None),
        Rule("fp32", "rel_rms", 1e-3, source="pyproject.toml:8"),
    )  # fmt: skip
    assert r.check("y", ONE, ONE + 0.1) is False
    by = {c.metric: c for c in r.checks}
    assert by["max_abs"].source == "pyproject.toml:7" and by["max_abs"].passed
    assert by["rel_rms"].source == "pyproject.toml:8" and not by["rel_rms"].passed
    assert by["cosine"].source == "built-in default for fp32" and "sqnr" not in by


def test_one_metric_with_at_most_or_at_least() -> None:
    r = recorder()
    assert r.check("y", ONE, ONE, metric="max_abs", at_most=0.0)
    assert r.check("y", ONE, ONE, metric="cosine", at_least=0.999)
    assert [c.sense for c in r.checks] == ["max", "min"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"metric": "max_abs"}, "needs at_most or at_least"),
        ({"metric": "max_abs", "at_most": 1, "at_least": 0}, "needs at_most or at_least"),
        ({"metric": "max_abs", "at_least": 1}, "max_abs is limited with at_most"),
        ({"metric": "cosine", "at_most": 1}, "cosine is limited with at_least"),
        ({"metric": "cosin", "at_least": 1}, "cosin"),
        ({"cosin": 1}, "cosin"),
        ({"max_abs": float("nan")}, "not a finite number"),
        ({"max_abs": None}, "not a finite number"),
        ({"max_abs": "0.1"}, "not a finite number"),
        ({"max_abs": 0.1, "case": 7}, "case"),
        ({"max_abs": 0.1, "case": None}, "case"),
    ],
)
def test_a_mistake_in_a_call_is_one_sentence(call: dict[str, Any], words: str) -> None:
    r = recorder()
    with pytest.raises(ParityError) as caught:
        r.check("y", ONE, ONE, **call)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert r.checks == [] and r.verdict()


def test_an_output_name_is_a_text() -> None:
    with pytest.raises(ParityError, match="output"):
        recorder().check(3, ONE, ONE, max_abs=1)  # type: ignore[arg-type]


def test_without_a_cell_there_is_nothing_to_record_for() -> None:
    r = Recorder(None, "golden")
    with pytest.raises(ParityError, match="request the parity_cell fixture"):
        r.check("y", ONE, ONE, max_abs=1)
    with pytest.raises(ParityError, match="request the parity_cell fixture"):
        r.limits()


def test_without_any_limit_there_is_nothing_to_judge_by() -> None:
    gone = [Rule("fp32", m, None) for m in ("cosine", "rel_rms", "sqnr", "top1")]
    with pytest.raises(ParityError, match="no limit is configured"):
        recorder(*gone).check("y", ONE, ONE)


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (np.array([1.0, np.nan, 3.0]), "not finite"),
        (np.array([1.0, np.inf, 3.0]), "not finite"),
        (np.zeros(4), "shape of got"),
        (np.zeros(3, int), "dtype of got"),
        (np.zeros(0), "shape of got"),
    ],
)
def test_what_cannot_be_compared_is_a_broken_check(got: Any, words: str) -> None:
    r = recorder()
    assert r.check("y", got, ONE, max_abs=9) is False
    (kept,) = r.checks
    assert kept.value is None and not kept.passed and words in kept.detail
    assert "no finite value" in r.verdict() or "was not measured" in r.verdict()


def test_the_verdict_does_not_believe_a_stored_passed() -> None:
    r = recorder()
    r.check("y", ONE, ONE, max_abs=1)
    r.checks[0] = replace(r.checks[0], value=2.0, passed=True)
    assert "max_abs 2 > 1" in r.verdict()


def test_many_cases_of_a_metric_are_one_line_that_tells_the_worst() -> None:
    r = recorder()
    for i in range(30):
        r.check("y", ONE, ONE + (i + 1 if i else 0), max_abs=0.5, case=f"c{i:02}")
    first, count, line = r.verdict().splitlines()
    assert count == "  29 of 30 checks broken" and "(case c29)" in first
    assert line.startswith("  y max_abs: 30 > 0.5 in c29; worst at")
    assert line.endswith("; 29 of 30 cases, also c28, c27 and 26 more")


def test_many_metrics_are_cut_and_the_worst_come_first() -> None:
    r = recorder()
    for i in range(30):
        r.check(f"y{i}", ONE, ONE + i + 1, max_abs=0.5)
    lines = r.verdict().splitlines()
    assert len(lines) == 23 and lines[-1] == "  and 10 more metrics, in the report" and lines[2].startswith("  y29 max")


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "gold"}, {"sense": "both"}, {"case": 3}, {"output": None}, {"value": "0.1"}, {"limit": True},
        {"nonfinite": 0.5}, {"passed": 1},
    ],
)  # fmt: skip
def test_a_check_that_no_record_could_hold_is_refused_where_it_is_added(bad: dict[str, Any]) -> None:
    with pytest.raises(ParityError):
        recorder().add(replace(Check("property", "a", "y", "max_abs", 0.1, 0.5, "max", True), **bad))


def test_a_finding_has_a_known_level() -> None:
    r = recorder()
    r.find("careful", "warning")
    r.find("a note")
    assert [(f.text, f.level) for f in r.findings] == [("careful", "warning"), ("a note", "note")]
    with pytest.raises(ParityError, match="level"):
        r.find("x", "info")


def test_everything_leaves_as_builtins() -> None:
    r = recorder()
    r.check("y", ONE.astype(np.float32), ONE.astype(np.float32), max_abs=np.float32(0.5), case="a")
    r.add(Check("property", "a", "y", "max_abs", np.float32("nan"), np.float64(0.5), "max", False))
    r.find("é")
    told = json.loads(json.dumps(r.export(), allow_nan=False))
    assert [c["value"] for c in told["checks"]] == [0.0, None] and told["findings"][0]["text"] == "é"
