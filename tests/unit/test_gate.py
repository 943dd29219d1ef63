"""The gate: a closed world. No way of losing a measurement, and no stored claim, makes a cell pass."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.core.errors import ParityError
from parity.core.kinds import BY_NAME
from parity.core.record import (
    STATES,
    BaselineRecord,
    CellRecord,
    Check,
    Environment,
    Regression,
    RunRecord,
    WaiverRecord,
)
from parity.core.settings import Rule, Waiver
from parity.judging.answer import describe
from parity.judging.gate import apply_waivers, by_urgency, exit_code, judge, passes, rejudge, settle

CASES, OUTPUTS = ("a", "b", "c"), ("logits", "mask")
TODAY = datetime.date(2026, 6, 1)


def check(**changes: Any) -> Check:
    return replace(Check("golden", "a", "logits", "max_abs", 0.1, 0.5, "max", True), **changes)


def good_checks() -> tuple[Check, ...]:
    rows = [
        check(case=case, output=output, metric=metric, value=value, limit=limit, sense=sense)
        for case in CASES
        for output in OUTPUTS
        for metric, value, limit, sense in (
            ("max_abs", 0.1, 0.5, "max"), ("cosine", 0.999, 0.99, "min"), ("rel_rms", 0.01, None, "max"),
        )
    ]  # fmt: skip
    rows += [check(case="all", metric="top1", value=1.0, limit=0.98, sense="min")]
    rows += [check(kind="contract", case="signature", metric="present", value=1.0, limit=1.0, sense="min")]
    rows += [check(kind="accuracy", case="all", metric="top1_drop", value=0.0, limit=0.01)]
    return tuple(rows)


KINDS_PLANNED = ("contract", "golden", "accuracy")


def cell(**changes: Any) -> CellRecord:
    whole = CellRecord(
        "skin-onnx-fp32", "skin", "onnx", "fp32", "missing",
        planned=KINDS_PLANNED, measured=KINDS_PLANNED, planned_cases=3, planned_outputs=OUTPUTS, checks=good_checks(),
    )  # fmt: skip
    return replace(whole, **changes)


def run(*cells: CellRecord, **changes: Any) -> RunRecord:
    whole = RunRecord("incomplete", cells, Environment("3", {}, "m"))
    return judge(replace(whole, **changes))


def verdict(one: CellRecord) -> str:
    return run(settle(one)).verdict


def test_the_whole_cell_passes() -> None:
    assert settle(cell()).state == "pass" and verdict(cell()) == "pass"


def edited(matches: Callable[[Check], bool], **changes: Any) -> tuple[Check, ...]:
    return tuple(replace(c, **changes) if matches(c) else c for c in good_checks())


def dropped(matches: Callable[[Check], bool]) -> tuple[Check, ...]:
    return tuple(c for c in good_checks() if not matches(c))


def golden(c: Check) -> bool:
    return c.kind == "golden"


LOSSES: dict[str, CellRecord] = {
    "no check at all": cell(checks=()),
    "nothing was planned": cell(planned=(), measured=()),
    "no test ran": cell(measured=()),
    "the golden test did not run to its end": cell(measured=("contract", "accuracy")),
    "the contract test did not run to its end": cell(measured=("golden", "accuracy")),
    "the accuracy test did not run to its end": cell(measured=("contract", "golden")),
    "no golden check": cell(checks=dropped(golden)),
    "no contract check": cell(checks=dropped(lambda c: c.kind == "contract")),
    "no accuracy check": cell(checks=dropped(lambda c: c.kind == "accuracy")),
    "zero golden cases": cell(planned_cases=0, checks=dropped(lambda c: golden(c) and c.case != "all")),
    "only the figure over all cases": cell(checks=dropped(lambda c: golden(c) and c.case != "all")),
    "one case is missing": cell(checks=dropped(lambda c: c.case == "b")),
    "one case too few was planned": cell(planned_cases=4),
    "a case that nobody planned": cell(planned_cases=2),
    "one output of one case is missing": cell(checks=dropped(lambda c: c.case == "b" and c.output == "mask")),
    "one output of every case is missing": cell(checks=dropped(lambda c: c.output == "mask")),
    "one output was never given a limit": cell(checks=edited(lambda c: c.output == "mask", limit=None)),
    "one case was never given a limit": cell(checks=edited(lambda c: c.case == "b", limit=None)),
    "no golden check has a limit": cell(checks=edited(golden, limit=None)),
    "the contract was recorded without a limit": cell(checks=edited(lambda c: c.kind == "contract", limit=None)),
    "accuracy was recorded without a limit": cell(checks=edited(lambda c: c.kind == "accuracy", limit=None)),
    "one value is lost": cell(checks=edited(lambda c: c.case == "b" and c.metric == "cosine", value=None)),
    "one value without a limit is lost": cell(checks=edited(lambda c: c.metric == "rel_rms", value=None)),
    "every value is lost": cell(checks=edited(lambda c: True, value=None)),
    "one value is NaN": cell(checks=edited(lambda c: c.case == "b" and c.metric == "max_abs", value=math.nan)),
    "one value is infinite": cell(checks=edited(lambda c: c.case == "b" and c.metric == "max_abs", value=math.inf)),
    "one value is minus infinite": cell(checks=edited(lambda c: c.metric == "max_abs", value=-math.inf)),
    "one element was not finite": cell(checks=edited(lambda c: c.case == "c", nonfinite=1)),
    "a limit is NaN": cell(checks=edited(lambda c: c.metric == "max_abs", limit=math.nan)),
    "a value is over its limit and claims to pass": cell(checks=edited(lambda c: c.case == "c", value=0.6)),
    "a score is under its limit and claims to pass": cell(checks=edited(lambda c: c.metric == "cosine", value=0.9)),
    "the file lacks something": cell(checks=edited(lambda c: c.metric == "present", value=0.0)),
    "accuracy fell": cell(checks=edited(lambda c: c.metric == "top1_drop", value=0.5)),
    "it crashed": cell(state="crash"),
    "it ran out of time": cell(state="timeout"),
    "it broke": cell(state="error"),
    "it cannot run and is required": cell(state="unavailable", required=True),
    "it cannot run, and nothing else did": cell(state="unavailable"),
}


@pytest.mark.parametrize("lost", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("claimed", ["missing", "pass", "waived"])
@pytest.mark.parametrize("beside", [False, True])
def test_no_way_of_losing_a_measurement_passes(lost: CellRecord, claimed: str, beside: bool) -> None:
    if lost.state == "missing":
        lost = replace(lost, state=claimed)  # type: ignore[arg-type]  # whatever a stored record claims
    settled = settle(lost)
    if beside and not (settled.state == "unavailable" and not settled.required):
        record = run(settled, settle(cell(id="skin-onnx-fp16", precision="fp16")))
    else:
        record = run(settled)
    assert settled.state not in ("pass", "waived")
    assert record.verdict in ("fail", "incomplete") and exit_code(record) == 1
    assert record.reason and (settled.reason or settled.state in ("crash", "timeout", "error", "unavailable"))
    narrowed = judge(replace(record, partial="models skin"))
    assert narrowed.verdict in ("fail", "incomplete") and exit_code(narrowed) == 1


WHOLE = {c.case + c.output + c.metric + c.kind: c for c in good_checks()}
DAMAGE = st.one_of(
    st.just(None),  # gone
    st.fixed_dictionaries({"value": st.sampled_from([None, math.nan, math.inf])}),
    st.fixed_dictionaries({"nonfinite": st.integers(1, 9), "passed": st.booleans()}),
    st.fixed_dictionaries({"value": st.floats(0.51, 1e9), "limit": st.just(0.5), "sense": st.just("max")}),
    st.fixed_dictionaries({"value": st.floats(-1e9, 0.49), "limit": st.just(0.5), "sense": st.just("min")}),
)
GATED = sorted(k for k, c in WHOLE.items() if c.limit is not None)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(GATED), DAMAGE), st.sets(st.sampled_from(KINDS_PLANNED)), st.randoms())
def test_no_combination_of_damage_passes(damage: dict[str, Any], unmeasured: set[str], random: Any) -> None:
    checks = [replace(c, **damage[k]) if damage.get(k) else c for k, c in WHOLE.items() if damage.get(k, c) is not None]
    random.shuffle(checks)
    one = cell(checks=tuple(checks), measured=tuple(k for k in KINDS_PLANNED if k not in unmeasured))
    survivable = {  # one of two gated metrics of a case may be absent altogether, and top1 beside them
        k for k, d in damage.items() if d is None and WHOLE[k].kind == "golden"
        and (WHOLE[k].case == "all" or not all(
            o in damage and damage[o] is None for o in GATED
            if (WHOLE[o].case, WHOLE[o].output) == (WHOLE[k].case, WHOLE[k].output)))
    }  # fmt: skip
    harmless = not unmeasured and set(damage) == survivable
    assert (verdict(one) == "pass") is harmless


@given(st.permutations(list(good_checks())))
def test_the_order_of_checks_does_not_matter(checks: list[Check]) -> None:
    assert settle(cell(checks=tuple(checks))).state == "pass"


# One check.


@pytest.mark.parametrize(
    ("value", "limit", "sense", "nonfinite", "holds"),
    [
        (0.5, 0.5, "max", 0, True),
        (0.5000001, 0.5, "max", 0, False),
        (0.5, 0.5, "min", 0, True),
        (0.4999999, 0.5, "min", 0, False),
        (None, 0.5, "max", 0, False),
        (None, None, "max", 0, False),
        (math.nan, 0.5, "max", 0, False),
        (math.nan, None, "max", 0, False),
        (-math.inf, 0.5, "max", 0, False),
        (math.inf, 0.5, "min", 0, False),
        (0.1, math.nan, "max", 0, False),
        (0.1, 0.5, "max", 1, False),
        (0.1, None, "max", 1, False),
        (0.1, None, "max", 0, True),
        (0.0, 0.0, "max", 0, True),
        (-1.0, 0.0, "max", 0, True),
    ],
)
@pytest.mark.parametrize("claimed", [True, False])
def test_a_check_holds_by_its_figures_alone(
    value: float | None, limit: float | None, sense: Any, nonfinite: int, holds: bool, claimed: bool
) -> None:
    metric = "max_abs" if sense == "max" else "cosine"  # the sense of a known metric is its own
    one = check(metric=metric, value=value, limit=limit, sense=sense, nonfinite=nonfinite, passed=claimed)
    assert passes(one) is holds
    assert settle(cell(checks=(one,))).checks[0].passed is holds


def test_the_sense_of_a_known_metric_is_its_own() -> None:
    assert not passes(check(metric="max_abs", value=5.0, limit=0.5, sense="min"))
    assert passes(check(metric="of_a_project", value=5.0, limit=0.5, sense="min"))


# States and verdicts.


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["pass"], "pass"),
        (["pass", "waived"], "pass"),
        (["waived"], "pass"),
        (["pass", "unavailable"], "pass"),
        (["unavailable"], "incomplete"),
        ([], "incomplete"),
        (["missing"], "incomplete"),
        (["pass", "missing"], "incomplete"),
        (["pass", "missing", "fail"], "fail"),
        (["pass", "fail"], "fail"),
        (["pass", "crash"], "fail"),
        (["pass", "timeout"], "fail"),
        (["pass", "error"], "fail"),
        (["pass", "unavailable!"], "incomplete"),
        (["fail", "unavailable!"], "fail"),
    ],
)
@pytest.mark.parametrize("partial", [None, "shard 1/2"])
def test_states_to_verdict(states: list[str], expected: str, partial: str | None) -> None:
    cells = [
        cell(id=f"m{i}-onnx-fp32", state=s.rstrip("!"), required=s.endswith("!"))  # type: ignore[arg-type]
        for i, s in enumerate(states)
    ]
    record = run(*cells, partial=partial)
    assert record.verdict == ("partial" if partial and expected == "pass" else expected)
    assert exit_code(record) == (0 if expected == "pass" else 1)
    assert "\n" not in record.reason and record.reason


def test_the_sentence_names_what_blocks() -> None:
    record = run(cell(id="a-onnx-fp32", state="crash"), cell(id="b-onnx-fp32", state="fail"), cell(state="missing"))
    assert record.reason == "2 cells failed: a-onnx-fp32, b-onnx-fp32"
    record = run(cell(id="a-onnx-fp32", state="missing"), cell(id="b-onnx-fp32", state="unavailable", required=True))
    assert record.reason == ("1 cell without a measurement: a-onnx-fp32; 1 required cell cannot run here: b-onnx-fp32")
    many = [cell(id=f"m{i}-onnx-fp32", state="fail") for i in range(9)]
    assert run(*many).reason.endswith("and 5 more")
    assert "2 cells could not run here" in run(
        cell(state="pass"), cell(id="x-onnx-fp16", state="unavailable"), cell(id="y-onnx-fp16", state="unavailable")
    ).reason  # fmt: skip
    assert "of a narrowed plan (models skin)" in run(cell(state="pass"), partial="models skin").reason


@pytest.mark.parametrize("state", ["improved", "new", "removed", "incomparable"])
def test_only_regressions_of_the_baseline_block(state: Any) -> None:
    worse = Regression("skin-onnx-fp32", "max_abs", 0.1, 0.2)
    baseline = BaselineRecord("b.json", (worse,))
    assert run(cell(state="pass"), baseline=baseline).verdict == "fail"
    assert "1 regression: skin-onnx-fp32" in run(cell(state="pass"), baseline=baseline).reason
    other = BaselineRecord("b.json", (replace(worse, state=state),))
    assert run(cell(state="pass"), baseline=other).verdict == "pass"


def test_a_verdict_against_a_file_says_so() -> None:
    plain, against = settle(cell()), settle(cell(id="net-onnx-fp32", reference="ONNX file net.onnx"))
    record = RunRecord("incomplete", (plain, against), Environment("3", {}, "m"))
    assert judge(record).reason.endswith("; measured against ONNX file net.onnx, no PyTorch module")
    assert "PyTorch module" not in judge(replace(record, cells=(plain,))).reason
    failed = replace(against, state="crash", reason="load: SIGSEGV")
    assert judge(replace(record, cells=(failed,))).reason == (
        "1 cell failed: net-onnx-fp32; measured against ONNX file net.onnx, no PyTorch module"
    )


def test_what_blocks_stands_first() -> None:
    cells = [cell(id=s, state=s) for s in reversed(STATES)]
    order = [c.state for c in by_urgency(cells)]
    assert order == ["fail", "crash", "timeout", "error", "missing", "unavailable", "waived", "pass"]
    assert set(order) == set(STATES)


def test_a_broken_check_counts_before_a_lost_one() -> None:
    """A fail says more than a missing: the reason is the excess, not what came after it."""
    one = settle(cell(checks=edited(lambda c: c.case == "b", value=0.9), measured=("contract", "golden")))
    assert one.state == "fail" and "max_abs 0.9 > 0.5" in one.reason


def test_the_reason_names_output_metric_figure_case_and_source() -> None:
    rows = edited(lambda c: c.case == "b" and c.metric == "max_abs", value=0.75, source="pyproject.toml:9 [x] fp32")
    reason = settle(cell(checks=rows)).reason
    assert reason == "logits: max_abs 0.75 > 0.5 (case b), limit from pyproject.toml:9 [x] fp32; and 1 more"


def test_the_worst_excess_is_described_and_a_lost_value_is_the_worst() -> None:
    small, large = check(value=0.6, case="small"), check(value=5.0, case="large")
    lost = check(value=None, case="lost", nonfinite=3, detail="3 of 8 elements")
    score = check(metric="cosine", value=0.5, limit=0.99, sense="min", case="score")
    assert "(case large)" in describe([small, large, score])
    text = describe([small, lost, large])
    assert "has no finite value (3 not finite) (case lost)" in text and "3 of 8 elements" in text
    assert "was not measured" in describe([check(value=None)])
    assert "cosine 0.5 < 0.99" in describe([score])


@pytest.mark.parametrize("kind", [k for k in BY_NAME if k not in (*KINDS_PLANNED, "video")])
def test_other_kinds_that_were_planned_must_be_measured_too(kind: Any) -> None:
    planned = (*KINDS_PLANNED, kind)
    assert settle(cell(planned=planned, measured=planned)).state == "missing"
    with_it = (*good_checks(), check(kind=kind, case="x"))
    assert settle(cell(planned=planned, measured=planned, checks=with_it)).state == "pass"
    assert settle(cell(planned=planned, checks=with_it)).state == "missing"


def test_checks_of_a_kind_that_nobody_planned_gate_all_the_same() -> None:
    extra = check(kind="property", case="x", value=9.0)
    assert settle(cell(checks=(*good_checks(), extra))).state == "fail"


# Waivers.

WAIVER = Waiver("skin-onnx-fp32", "max_abs", "accepted in #41", datetime.date(2026, 12, 31), 0.8, "pyproject.toml:50")
OVER = edited(lambda c: c.case == "b" and c.metric == "max_abs" and c.output == "logits", value=0.7)


def waived(one: CellRecord, *waivers: Waiver, today: datetime.date = TODAY) -> tuple[CellRecord, RunRecord]:
    cells, records = apply_waivers([one], waivers, today, [one.id])
    return cells[0], run(*cells, waivers=records)


def test_a_waiver_covers_the_excess_it_names() -> None:
    one, record = waived(cell(checks=OVER), WAIVER)
    assert one.state == "waived" and one.reason.startswith("waived: logits: max_abs 0.7 > 0.5")
    assert record.verdict == "pass" and "1 of them by a waiver" in record.reason
    assert record.waivers == (
        WaiverRecord("skin-onnx-fp32", "max_abs", "accepted in #41", "2026-12-31", 0.8, "used", "pyproject.toml:50"),
    )


@pytest.mark.parametrize(
    ("waiver", "checks"),
    [
        (replace(WAIVER, limit=0.6), OVER),
        (replace(WAIVER, metric="cosine"), OVER),
        (replace(WAIVER, cell="skin-onnx-fp16"), OVER),
        (replace(WAIVER, expires=TODAY - datetime.timedelta(1)), OVER),
        (WAIVER, edited(lambda c: c.case == "b", value=None)),
        (WAIVER, edited(lambda c: c.case == "b", value=0.7, nonfinite=1)),
        (WAIVER, edited(lambda c: c.metric in ("max_abs", "cosine"), value=0.7)),
        (replace(WAIVER, limit=None), edited(lambda c: c.metric == "max_abs", value=math.nan)),
    ],
)
def test_a_waiver_covers_nothing_else(waiver: Waiver, checks: tuple[Check, ...]) -> None:
    one, record = waived(cell(checks=checks), waiver)
    assert one.state == "fail" and record.verdict == "fail"


def test_a_waiver_of_a_score_is_a_lower_limit() -> None:
    checks = edited(lambda c: c.metric == "cosine", value=0.95)
    score = replace(WAIVER, metric="cosine", limit=0.94)
    assert waived(cell(checks=checks), score)[0].state == "waived"
    assert waived(cell(checks=checks), replace(score, limit=0.96))[0].state == "fail"


def test_a_waiver_without_a_limit_covers_any_finite_excess() -> None:
    checks = edited(lambda c: c.metric == "max_abs", value=1e9)
    assert waived(cell(checks=checks), replace(WAIVER, limit=None))[0].state == "waived"


def test_a_waiver_holds_on_its_last_day() -> None:
    one, record = waived(cell(checks=OVER), WAIVER, today=WAIVER.expires)
    assert one.state == "waived" and record.verdict == "pass"
    one, record = waived(cell(checks=OVER), WAIVER, today=WAIVER.expires + datetime.timedelta(1))
    assert one.state == "fail" and record.waivers[0].state == "expired"


def test_an_expired_waiver_blocks_even_where_nothing_needs_it() -> None:
    one, record = waived(cell(), WAIVER, today=WAIVER.expires + datetime.timedelta(1))
    assert one.state == "pass" and record.verdict == "fail" and "1 waiver expired: skin-onnx-fp32" in record.reason


def test_a_waiver_that_nothing_needs_any_more_blocks() -> None:
    one, record = waived(cell(), WAIVER)
    assert one.state == "pass" and record.waivers[0].state == "unmatched" and record.verdict == "fail"
    assert "unmatched" in record.reason


def test_in_a_narrowed_run_an_unmatched_waiver_proves_nothing() -> None:
    """The case that needs it may not have been among those that were measured."""
    _, record = waived(cell(), WAIVER)
    assert judge(replace(record, partial="profile quick")).verdict == "partial"


def test_a_waiver_of_a_cell_that_cannot_run_here_is_neither_used_nor_unmatched() -> None:
    one, record = waived(cell(state="unavailable"), WAIVER)
    assert one.state == "unavailable" and record.waivers == () and record.verdict == "incomplete"
    cells, records = apply_waivers(
        [cell(state="unavailable"), cell(id="skin-onnx-fp16", precision="fp16")], [WAIVER], TODAY,
        ["skin-onnx-fp32", "skin-onnx-fp16"],
    )  # fmt: skip
    assert run(*cells, waivers=records).verdict == "pass"


def test_a_waiver_of_a_cell_that_was_not_planned_is_left_out() -> None:
    cells, records = apply_waivers([cell()], [replace(WAIVER, cell="skin-onnx-int8")], TODAY, ["skin-onnx-fp32"])
    assert cells[0].state == "pass" and records == ()


def test_a_waiver_does_not_replace_a_measurement() -> None:
    one, record = waived(cell(checks=tuple(c for c in OVER if c.case != "c")), WAIVER)
    assert one.state == "missing" and record.verdict in ("fail", "incomplete")
    one, _ = waived(cell(state="crash"), WAIVER)
    assert one.state == "crash"


def test_two_waivers_can_cover_two_excesses() -> None:
    checks = tuple(replace(c, value=0.95) if c.metric == "cosine" else c for c in OVER)
    both = (WAIVER, replace(WAIVER, metric="cosine", limit=0.9))
    assert waived(cell(checks=checks), *both)[0].state == "waived"
    assert waived(cell(checks=checks), WAIVER)[0].state == "fail"


# Judging again under other limits.


def test_new_limits_judge_the_stored_figures() -> None:
    strict = [Rule("fp32", "max_abs", 0.05, source="new.toml:3"), Rule("fp32", "rel_rms", None)]
    one = rejudge(cell(), strict)
    assert one.state == "fail" and "max_abs 0.1 > 0.05" in one.reason and "new.toml:3" in one.reason
    loose = [Rule("skin", "max_abs", 10.0, source="new.toml:4")]
    assert rejudge(cell(checks=OVER), [*loose, Rule("fp32", "rel_rms", 0.5)]).state == "pass"


def test_a_limit_that_is_gone_no_longer_counts_as_evidence() -> None:
    nothing = [Rule("fp32", m, None) for m in ("cosine", "max_abs", "rel_rms", "sqnr", "top1", "top1_drop")]
    assert rejudge(cell(), nothing).state == "missing"


def test_a_stored_figure_without_limit_is_gated_by_a_new_one() -> None:
    assert rejudge(cell(), [Rule("fp32", "rel_rms", 0.001)]).state == "fail"


def test_limits_of_one_output_judge_that_output_alone() -> None:
    one = rejudge(cell(), [Rule("fp32", "max_abs", 0.05, "mask"), Rule("fp32", "rel_rms", 0.5)])
    assert one.state == "fail" and one.reason.startswith("mask: ")
    assert all(c.passed for c in one.checks if c.output == "logits")


def test_judging_again_keeps_the_contract_and_crashes() -> None:
    assert rejudge(cell(checks=edited(lambda c: c.metric == "present", value=0.0)), ()).state == "fail"
    assert rejudge(cell(state="crash"), ()).state == "crash"


def test_judging_again_keeps_limits_that_a_test_set_itself() -> None:
    own = check(kind="property", case="mine", metric="max_abs", value=0.1, limit=0.05, source="the test")
    loose = [Rule("fp32", "max_abs", 9.0), Rule("fp32", "rel_rms", 0.5)]
    assert rejudge(cell(checks=(*good_checks(), own)), loose).state == "fail"
    held = replace(own, metric="mean_abs", limit=0.2)
    assert rejudge(cell(checks=(*good_checks(), held)), loose).state == "pass"


def test_a_precision_that_nobody_knows_is_told_in_one_line() -> None:
    with pytest.raises(ParityError, match=r"^cell .*: unknown precision 'fp8+; known: fp32, fp16, dynamic, int8$"):
        rejudge(cell(precision="fp" + "8" * 100), [])


def test_the_place_that_the_proof_names_comes_before_how_far_figures_are_over() -> None:
    """`links_failed 1 > 0 (case chain), limit from ...; and 1 more` said nothing."""
    summary = "int8: not faithful: audit: conv.weight channels 3: 4 of 9 values off"
    chain = check(kind="static", case="chain", output="", metric="links_failed", value=1.0, limit=0.0, detail=summary)
    audit = check(kind="static", case="audit", output="", metric="audit_faults", value=1.0, limit=0.0, detail="conv")
    assert describe([audit, chain]) == summary
    golden = check(value=0.9)
    assert describe([golden, audit, chain]) == f"{summary}; logits: max_abs 0.9 > 0.5 (case a)"
    contract = check(kind="contract", metric="present", source="the contract", value=0.0, limit=1.0, sense="min")
    assert describe([contract, chain]).startswith("logits: present")
