"""Figures of the tail of a proved file warn; of any other file they refuse it. Limits that somebody set always gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from parity.core.plan import Cell
from parity.core.proof import Link, Proof
from parity.core.record import (
    CellRecord,
    Check,
    Environment,
    ExecutionRecord,
    ProofRecord,
    RunRecord,
    dumps,
    loads,
)
from parity.core.settings import Rule
from parity.judging import judge
from parity.judging.gate import judge as judge_run
from parity.judging.gate import rejudge, settle, tail_warning
from parity.judging.registry import METRICS
from parity.report import terminal
from parity.report.annotations import lines as annotations
from parity.report.render import render
from parity.report.summary import markdown
from parity.report.view import Budget, cell_view
from parity.suite.recorder import Recorder

CELL = Cell("skin", "tflite", "int8")
DEFAULT = "measured on 58 correct exports to tflite int8"
PROVED = ProofRecord("proved", "int8: faithful", (), complete=True)
OPEN = ProofRecord("not possible", "int8: not proved", ())
WIDENED = ProofRecord("proved", "int8: faithful", ())
TAILS = ("noise_ratio_peak", "noise_ratio_channel", "noise_ratio_case")


def check(metric: str, value: float | None, limit: float | None, **changes: Any) -> Check:
    sense = METRICS[metric].sense
    return replace(Check("golden", "a", "logits", metric, value, limit, sense, False, source=DEFAULT), **changes)


def links(faults: float = 0.0) -> list[Check]:
    (failed, _) = judge.check_proof(Proof("int8", (Link("match", "proved"),)), {})
    return [
        failed,
        check("lift_faults", faults, 0.0, kind="static", case="lift", output="", source="built-in default"),
    ]


def cell(*broken: Check, proof: ProofRecord | None = PROVED, **changes: Any) -> CellRecord:
    checks = (
        *links(),
        *(check("noise_ratio_case", 1.0, 2.5, case=case) for case in "bc"),
        check("noise_ratio", 1.1, 2.5, case="all"),
        *broken,
    )
    record = CellRecord(
        CELL.id, "skin", "tflite", "int8", "missing", planned=("static", "golden"), measured=("static", "golden"),
        planned_cases=3, planned_outputs=("logits",), checks=checks, proof=proof,
    )  # fmt: skip
    return settle(replace(record, **changes))


CASE = check("noise_ratio_case", 2.85, 2.5)


@pytest.mark.parametrize("metric", TAILS)
def test_a_tail_of_a_proved_file_warns(metric: str) -> None:
    good = check("noise_ratio_case", 1.0, 2.5)
    record = cell(good, check(metric, 2.85, 2.5, case="all" if metric != "noise_ratio_case" else "a"))
    assert record.state == "pass"
    assert record.reason.startswith(
        f"proved faithful: 1 tail figure beyond what correct files have shown: warning (logits: {metric} 2.85 > 2.5"
    )


def test_the_record_alone_gives_the_same_answer() -> None:
    run = judge_run(RunRecord("incomplete", (cell(CASE),), Environment("3", {}, "m")))
    assert run.verdict == "pass"
    (again,) = loads(dumps(run)).cells
    assert settle(again) == again
    assert rejudge(again, ()).state == "pass"
    assert rejudge(again, [Rule("int8", "noise_ratio_case", 2.0, source="pyproject.toml:3")]).state == "fail"


@pytest.mark.parametrize("proof", [None, OPEN, WIDENED, replace(PROVED, state="failed")])
def test_a_tail_of_any_other_file_refuses_it(proof: ProofRecord | None) -> None:
    record = cell(CASE, proof=proof)
    assert (record.state, tail_warning(record)) == ("fail", "")


def test_a_proof_that_its_own_checks_belie_is_none() -> None:
    record = cell(CASE)
    belied = tuple(replace(c, value=1.0) if c.metric == "lift_faults" else c for c in record.checks)
    assert settle(replace(record, checks=belied)).state == "fail"
    assert settle(replace(record, checks=tuple(c for c in record.checks if c.kind != "static"))).state == "fail"


@pytest.mark.parametrize(
    "other",
    [
        check("noise_ratio", 2.6, 2.5, case="all"),
        check("precision_cost", 0.9, 0.8, case="all", source="built-in default"),
        check("rel_rms", 0.4, 0.3, source="built-in default for int8 without a noise floor"),
        check("differing_share", 0.4, 0.2, source="built-in default for int8"),
        check("noise_ratio_peak", None, 2.5, case="all"),
        check("noise_ratio_peak", 2.6, 2.5, case="all", nonfinite=1),
        check("noise_ratio_peak", 2.6, 2.5, case="all", source="pyproject.toml:31 [tool.parity.limits] int8"),
        check("cosine", 0.98, 0.99, source="the test"),
    ],
    ids=lambda c: f"{c.metric} {c.source}",
)
def test_all_else_gates_a_proved_file_too(other: Check) -> None:
    assert cell(CASE).state == "pass"
    assert cell(CASE, other).state == "fail"


def test_what_another_executor_computed_is_no_part_of_the_proof() -> None:
    there = ExecutionRecord("gpu", "fp16", ())
    record = cell(check("noise_ratio_case", 1.0, 2.5), replace(CASE, case="gpu fp16: a"), executions=(there,))
    assert record.state == "fail"


def test_the_share_of_a_limit_is_of_one_that_gates() -> None:
    near = check("noise_ratio_case", 2.49, 2.5)
    used = {
        name: cell_view(cell(near, proof=proof), None, "", Budget.for_cells(1)).used
        for name, proof in (("proved", PROVED), ("open", OPEN))
    }
    assert used == {"proved": "44 %", "open": "99 %"}


def test_a_drawn_input_needs_a_lift_of_its_own() -> None:
    case = check("noise_ratio_case", 1.0, 2.5)
    drawn = check("noise_ratio_drawn", 5.4, 3.3, kind="property", case="uniform 1")
    lift = judge.lifted("property", "uniform 1", "faithful")
    assert cell(case, drawn).state == "fail"
    assert cell(case, drawn, replace(lift, case="uniform 2")).state == "fail"
    assert cell(case, drawn, replace(lift, kind="batch")).state == "fail"
    assert cell(case, drawn, lift).state == "pass"


def test_every_report_says_it_in_words() -> None:
    record = judge_run(RunRecord("incomplete", (cell(CASE),), Environment("3", {}, "m")))
    said = "1 tail figure beyond what correct files have shown"
    for text in (render(record), markdown(record), *annotations(record)):
        assert said in text
    assert any(style == "yellow" and said in text for style, text in terminal.lines(record))
    assert " % of limit: warning" in render(record)


def recorder(proved: bool, *rules: Rule) -> tuple[Recorder, list[int]]:
    asked: list[int] = []

    def ask() -> bool:
        asked.append(1)
        return proved

    return Recorder(CELL, "golden", rules, (), ask), asked


@pytest.mark.parametrize("proved", [True, False])
def test_a_test_asks_for_the_proof_where_only_tails_break(proved: bool) -> None:
    parity, asked = recorder(proved)
    parity.add(CASE, check("noise_ratio", 1.1, 2.5, case="all"))
    assert (parity.verdict() == "") is proved and asked


@pytest.mark.parametrize("checks", [(), (CASE, check("noise_ratio", 2.6, 2.5, case="all"))], ids=["none", "more"])
def test_a_test_does_not_ask_otherwise(checks: Sequence[Check]) -> None:
    parity, asked = recorder(True)
    parity.add(check("noise_ratio_case", 1.0, 2.5), *checks)
    assert bool(parity.verdict()) is bool(checks) and not asked


LIFT: Mapping[str, Any] = {"limit": 1e-5}


def chain(**states: Any) -> Proof:
    found = {"match": Link("match", "proved"), "audit": Link("audit", "proved"), "lift": Link("lift", "proved", LIFT),
             "local": Link("local", "proved"), "range": Link("range", "proved")}  # fmt: skip
    return Proof("int8", tuple(link for link in {**found, **states}.values() if link is not None))


@pytest.mark.parametrize(
    ("proof", "complete"),
    [
        (chain(), True),
        (chain(local=Link("local", "not possible", reason="no kernel runs alone", offered=False)), True),
        (chain(local=Link("local", "not possible", reason="the runtime refuses it")), False),
        (chain(lift=Link("lift", "not possible", reason="blind", offered=False)), False),
        (chain(lift=None), False),
        (chain(range=Link("range", "failed")), False),
        (chain(lift=Link("lift", "proved", {"limit": 1e-5, "widened_by": {"w": 1e-6}})), False),
        (chain(lift=Link("lift", "proved", {"limit": 0.5})), False),
        (chain(lift=Link("lift", "proved", {"limit": None})), False),
    ],
)
def test_a_chain_is_complete_where_nothing_is_open_or_widened(proof: Proof, complete: bool) -> None:
    assert proof.complete is complete
