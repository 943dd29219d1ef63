"""Executors: their names, which cells they are planned for, and what an execution proves: itself and nothing else."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import formats
from parity.config import parse
from parity.core.errors import ConfigError
from parity.core.executors import canonical, split_id
from parity.core.plan import Cell, Plan, PlannedCell, PlannedExecution
from parity.core.record import CellRecord, Check, Environment, ExecutionRecord, RunRecord, dumps, loads
from parity.core.settings import Config, Rule, Waiver
from parity.judging.gate import apply_waivers, judge, rejudge, settle
from parity.process.executors import arm_probe
from parity.suite.recorder import Recorder

A76, A53 = "arm64:cortex-a76", "arm64:cortex-a53"
TODAY = datetime.date(2026, 6, 1)


# Names.


def test_names_have_a_full_form() -> None:
    assert canonical("arm64") == A76
    assert [canonical(name) for name in ("host", A53, "gpu", "gpu:fp32")] == ["host", A53, "gpu", "gpu:fp32"]
    assert split_id("skin-onnx-fp16@arm64") == ("skin-onnx-fp16", A76)
    assert split_id("skin-onnx-fp16") == ("skin-onnx-fp16", "host")


@pytest.mark.parametrize(
    ("text", "words"),
    [("arm", "did you mean 'arm64'"), ("arm64:cortex-a67", "did you mean 'cortex-a76'"), ("arm64:", "unknown core"),
     ("gpu:fp8", "unknown precision"), ("host:x", "no choice"), ("", "unknown executor"),
     ("ARM64", "unknown executor")],
)  # fmt: skip
def test_what_is_no_executor(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        canonical(text)


# Configuration.

PROJECT = """
[tool.parity]
targets = ["onnx", "tflite"]
precisions = ["fp32", "fp16"]
{executors}

[tool.parity.models.skin]
factory = "pkg.models:skin"
inputs = [{{ name = "image", shape = ["batch", 3, 24, 20] }}]
outputs = [{{ name = "logits", kind = "logits" }}]
{model}
"""


def configured(executors: str = "", model: str = "") -> Config:
    text = PROJECT.format(executors=executors, model=model)
    return parse(text, Path("/nowhere/pyproject.toml"), formats.facts())


def executors_of(executors: str = "", model: str = "") -> dict[str, tuple[str, ...]]:
    return dict(configured(executors, model).models["skin"].executors)


def test_nothing_is_executed_beside_the_host_unasked() -> None:
    assert executors_of() == {}
    assert executors_of('executors = ["host"]') == {}


def test_a_list_for_all_is_taken_as_far_as_a_format_can_be_run_so() -> None:
    both = (A76, "gpu")
    expected = {"onnx-fp32": (A76,), "onnx-fp16": (A76,), "tflite-fp32": both, "tflite-fp16": both}
    assert executors_of('executors = ["arm64", "gpu"]') == expected


def test_the_nearest_word_is_the_strongest() -> None:
    project = 'executors = { onnx = ["host", "arm64"], tflite = ["gpu"], "tflite-fp16" = ["gpu:fp32"] }'
    assert executors_of(project) == {
        "onnx-fp32": (A76,), "onnx-fp16": (A76,), "tflite-fp32": ("gpu",), "tflite-fp16": ("gpu:fp32",),
    }  # fmt: skip
    model = 'executors = { onnx = ["arm64:cortex-a53"], "onnx-fp16" = ["host"] }'
    assert executors_of(project, model) == {
        "onnx-fp32": (A53,), "tflite-fp32": ("gpu",), "tflite-fp16": ("gpu:fp32",),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [('executors = ["arm"]', "did you mean 'arm64'"),
     ('executors = { onx = ["arm64"] }', "did you mean 'onnx'"),
     ('executors = { onnx = ["gpu"] }', "onnx files do not run on 'gpu'"),
     ('executors = "arm64"', "a list or a table")],
)  # fmt: skip
def test_a_mistake_is_one_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        configured(text)
    assert "pyproject.toml:" in str(caught.value) and "\n" not in str(caught.value)


WAIVE = '[[tool.parity.waive]]\ncell = "{cell}"\nmetric = "max_abs"\nreason = "known"\nexpires = 2030-01-01'


def test_a_waiver_names_an_execution() -> None:
    waived = configured('executors = ["arm64"]', WAIVE.format(cell="skin-onnx-fp16@arm64")).waive
    assert waived[0].cell == f"skin-onnx-fp16@{A76}"
    with pytest.raises(ConfigError, match=r"not executed by 'gpu'; beside the host by: arm64:cortex-a76"):
        configured('executors = ["arm64"]', WAIVE.format(cell="skin-onnx-fp16@gpu"))


def test_an_executor_can_be_required() -> None:
    assert configured('executors = ["arm64"]\nrequire = ["arm64", "gpu:fp32"]').require == ("arm64", "gpu:fp32")


# The plan.


def planned(*executors: str) -> PlannedCell:
    executions = tuple(PlannedExecution(executor, ("golden",)) for executor in executors)
    return PlannedCell(Cell("skin", "onnx", "fp32"), ("contract", "golden"), executions=executions)


def test_executors_narrow_a_plan() -> None:
    plan = Plan((planned(A76, A53), replace(planned(), cell=Cell("skin", "onnx", "fp16"))))
    assert plan.narrow_executors(()) is plan
    only = plan.narrow_executors((A76,))
    assert [(p.cell.id, p.kinds, [e.executor for e in p.executions]) for p in only] == [("skin-onnx-fp32", (), [A76])]
    assert only.partial == f"executors {A76}"
    assert [p.kinds for p in plan.narrow_executors(("host",))] == [("contract", "golden")] * 2
    with pytest.raises(ConfigError, match="unknown executor 'gpu'"):
        plan.narrow_executors(("gpu",))
    assert Plan((planned(),)).narrow_executors(("host",)).partial is None  # nothing was left out


# What an execution proves.


def check(case: str = "a", **changes: Any) -> Check:
    return replace(
        Check("golden", case, "logits", "max_abs", 0.1, 0.5, "max", True, source="pyproject.toml:9"), **changes
    )


def execution(*checks: Check, **changes: Any) -> ExecutionRecord:
    kinds = ("golden",)
    record = ExecutionRecord(A76, planned=kinds, measured=kinds, state="missing", checks=checks)
    return replace(record, **changes)


def cell(*executions: ExecutionRecord, **changes: Any) -> CellRecord:
    kinds = ("golden",)
    record = CellRecord(
        "skin-onnx-fp32", "skin", "onnx", "fp32", "missing", planned=kinds, measured=kinds, planned_cases=2,
        planned_outputs=("logits",), checks=(check("a"), check("b")), executions=executions,
    )  # fmt: skip
    return replace(record, **changes)


GOOD = (check("a"), check("b"))
TOLD = tuple(replace(c, limit=None, source="") for c in GOOD)


def state_of(record: ExecutionRecord, **changes: Any) -> tuple[str, str, str]:
    """State of the execution, of its cell, and the cell's reason."""
    settled = settle(cell(record, **changes))
    return settled.executions[0].state, settled.state, settled.reason


def test_an_execution_inside_limits_that_somebody_set_passes() -> None:
    assert state_of(execution(*GOOD)) == ("pass", "pass", "")


def test_an_execution_without_a_limit_of_its_own_is_measured_and_no_more() -> None:
    assert state_of(execution(*TOLD))[:2] == ("measured", "pass")
    assert "against no limit" in settle(cell(execution(*TOLD))).executions[0].reason


@pytest.mark.parametrize("value", [0.9, None])
def test_a_broken_execution_fails_its_cell_whatever_the_host_measured(value: float | None) -> None:
    broken = replace(GOOD[1], value=value, nonfinite=0 if value else 1)
    state, of_cell, reason = state_of(execution(GOOD[0], broken))
    assert (state, of_cell) == ("fail", "fail") and reason.startswith(f"{A76}: logits: max_abs")


def test_numbers_that_are_not_finite_fail_without_any_limit() -> None:
    assert state_of(execution(TOLD[0], replace(TOLD[1], value=None, nonfinite=3)))[:2] == ("fail", "fail")


def test_the_host_stands_in_for_no_execution() -> None:
    assert state_of(execution())[:2] == ("missing", "missing")
    assert state_of(execution(GOOD[0]))[:2] == ("missing", "missing")
    assert state_of(execution(*GOOD, measured=()))[:2] == ("missing", "missing")


def test_no_execution_stands_in_for_the_host() -> None:
    assert state_of(execution(*GOOD), checks=())[1] == "missing"


@pytest.mark.parametrize("state", ["crash", "timeout", "error"])
def test_what_ends_an_execution_ends_its_cell(state: str) -> None:
    assert state_of(execution(state=state, reason="SIGSEGV")) == (state, state, f"{A76}: SIGSEGV")


@pytest.mark.parametrize("state", ["unavailable", "refused"])
def test_what_no_machine_can_do_does_not_refuse_a_cell_unless_it_is_required(state: str) -> None:
    record = execution(state=state, reason="no such kernel")
    assert state_of(record)[:2] == (state, "pass")
    run = RunRecord("incomplete", (settle(cell(replace(record, required=True))),), Environment("3", {}, ""))
    assert judge(run).verdict == {"unavailable": "incomplete", "refused": "fail"}[state]
    assert "skin-onnx-fp32" in judge(run).reason


def test_a_cell_narrowed_to_executions_is_not_measured_by_one_that_cannot_run() -> None:
    away = execution(state="unavailable", reason="not here")
    assert settle(cell(away, planned=(), measured=(), checks=())).state == "unavailable"
    assert settle(cell(execution(*GOOD), planned=(), measured=(), checks=())).state == "pass"


def waiver(id: str) -> Waiver:
    return Waiver(id, "max_abs", "known", datetime.date(2030, 1, 1))


def test_a_waiver_covers_the_execution_that_it_names_alone() -> None:
    broken = cell(execution(GOOD[0], replace(GOOD[1], value=0.9)))
    settled, records = apply_waivers([broken], [waiver(f"skin-onnx-fp32@{A76}")], TODAY, [broken.id])
    assert (settled[0].executions[0].state, settled[0].state, records[0].state) == ("waived", "pass", "used")
    settled, records = apply_waivers([broken], [waiver("skin-onnx-fp32")], TODAY, [broken.id])
    assert (settled[0].state, records[0].state) == ("fail", "unmatched")
    on_host = replace(broken, checks=(GOOD[0], replace(GOOD[1], value=0.9)), executions=(execution(*GOOD),))
    settled, records = apply_waivers([on_host], [waiver(f"skin-onnx-fp32@{A76}")], TODAY, [broken.id])
    assert (settled[0].state, records[0].state) == ("fail", "unmatched")


def test_a_waiver_of_an_execution_that_did_not_run_here_is_neither_used_nor_unmatched() -> None:
    away = cell(execution(state="unavailable", reason="not here"))
    assert apply_waivers([away], [waiver(f"skin-onnx-fp32@{A76}")], TODAY, [away.id])[1] == ()
    assert apply_waivers([cell()], [waiver(f"skin-onnx-fp32@{A76}")], TODAY, [away.id])[1] == ()


def test_other_limits_are_other_states_of_an_execution_too() -> None:
    record = cell(execution(*GOOD))
    assert rejudge(record, [Rule("fp32", "max_abs", 0.05, None, "pyproject.toml:3")]).executions[0].state == "fail"
    assert rejudge(record, []).executions[0].state == "measured"  # the default is a host's


def test_the_record_is_read_back() -> None:
    run = RunRecord("pass", (settle(cell(execution(*GOOD))),), Environment("3", {}, ""))
    assert loads(dumps(run)) == run


# What a test of an execution records.


def recorder(executor: str) -> Recorder:
    result = Recorder(Cell("skin", "onnx", "fp32"), "golden", executor=executor)
    default = next(limit for limit in result.limits("logits").values() if limit.value is not None)
    result.add(check(metric="noise_ratio", value=99.0, limit=3.0, passed=False, source=default.source))
    return result


def test_a_limit_of_hosts_is_told_and_does_not_gate_elsewhere() -> None:
    assert "noise_ratio" in recorder("host").verdict()
    elsewhere = recorder(A76)
    assert elsewhere.verdict() == ""
    assert (elsewhere.checks[0].limit, elsewhere.checks[0].passed) == (None, True)
    assert elsewhere.findings[0].text.startswith("logits: noise_ratio 99 > 3 (case a), the limit of hosts")


def test_a_limit_that_somebody_set_gates_everywhere() -> None:
    elsewhere = Recorder(Cell("skin", "onnx", "fp32"), "golden", executor=A76)
    elsewhere.add(check(value=0.9, passed=False))
    assert "max_abs 0.9" not in elsewhere.findings and "max_abs" in elsewhere.verdict()


def test_an_execution_that_measured_nothing_fails_its_test() -> None:
    assert "nothing was measured" in Recorder(Cell("skin", "onnx", "fp32"), "golden", executor=A76).verdict()


# The probe of an emulator.


@pytest.mark.parametrize("instruction", arm_probe.INSTRUCTIONS, ids=lambda instruction: instruction.name)
def test_an_emulator_that_multiplies_wrongly_is_noticed(instruction: arm_probe.Instruction) -> None:
    def right(i: arm_probe.Instruction, total: Any, left: Any, right: Any) -> Any:
        return i.expected(total, left, right).astype(i.result)

    def one_element_off(i: arm_probe.Instruction, total: Any, left: Any, right: Any) -> Any:
        result = i.expected(total, left, right).astype(i.result)
        result[-1] += np.array(1, result.dtype)
        return result

    assert arm_probe.instruction_fails(instruction, right) == ""
    assert instruction.name in arm_probe.instruction_fails(instruction, one_element_off)
