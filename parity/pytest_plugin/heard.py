"""What the tests of one cell told, and the record that it adds up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from parity.core.executors import REFUSES, execution_id
from parity.core.plan import PlannedCell, PlannedExecution
from parity.core.record import CellRecord, Check, ExecutionRecord, Finding, build
from parity.judging import detail, gate

OF_FILE = ("route", "routes_failed", "artifact", "toolchain", "steps_built", "rebuilt")
_STAGES_OF_THE_FILE = ("export", "convert", "load")


@dataclass
class Heard:
    """What the tests of one cell told so far."""

    checks: list[Check] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)
    failure: dict[str, str] | None = None
    skipped: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def hear(self, told: Mapping[str, Any]) -> None:
        """Take in the report of one phase of one test."""
        self.seconds += told.get("seconds", 0.0)
        failure = told.get("failure")
        if failure and (self.failure is None or _outweighs(failure, self.failure)):
            self.failure = failure
        if told.get("skipped"):
            self.skipped = told["skipped"]
        for data in told.get("checks", ()):
            self.checks.append(build(Check, data, "check"))
        for data in told.get("findings", ()):
            finding = build(Finding, data, "finding")
            if finding not in self.findings:
                self.findings.append(finding)
        detail.merge(self.details, told.get("details", {}))
        ran = told["when"] == "call" and told["outcome"] != "skipped" and told.get("finished", False)
        if ran and told["kind"] and not told.get("failure"):
            self.measured.append(told["kind"])

    def record(self, planned: PlannedCell, rerun: str = "") -> CellRecord:
        """The record of the cell: its state by what was heard of it. `rerun`: the command that repeats it, where that
        is not pytest's."""
        cell, details = planned.cell, self.details
        record = CellRecord(
            id=cell.id,
            model=cell.model,
            target=cell.target,
            precision=cell.precision,
            state="missing",
            planned=planned.kinds,
            measured=tuple(k for k in planned.kinds if k in self.measured),
            planned_cases=planned.cases,
            planned_outputs=planned.outputs,
            planned_clips=planned.clips,
            required=planned.required,
            reference=planned.reference,
            checks=tuple(sorted(self.checks, key=lambda check: _place(check, planned))),
            findings=(*(Finding(text, "warning") for text in details.get("rebuilt", ())), *self.findings),
            seconds=round(self.seconds, 3),
            rerun=rerun or f"pytest -m parity -k {cell.id}",
            **detail.fields(details),
        )
        if planned.unavailable:
            return replace(record, state="unavailable", reason=planned.unavailable, rerun="")
        if self.failure:
            failure = self.failure
            where = f"{failure['stage']}: " if failure["stage"] else ""
            return replace(
                record,
                state=failure["state"],  # type: ignore[arg-type]
                stage=failure["stage"],
                reason=where + failure["reason"],
                log=failure["log"],
            )
        record = gate.settle(record)
        if record.state == "missing" and self.skipped:
            record = replace(record, reason=f"{record.reason} (skipped: {self.skipped})")
        return record

    def execution(self, planned: PlannedExecution, rerun: str) -> ExecutionRecord:
        """The record of one execution beside the host's; what its checks say is settled with the cell."""
        made = self.details.get("execution")
        record = build(ExecutionRecord, made, "execution") if made else ExecutionRecord(planned.executor)
        record = replace(
            record,
            state="missing",
            planned=planned.kinds,
            measured=tuple(kind for kind in planned.kinds if kind in self.measured),
            required=planned.required,
            checks=tuple(self.checks),
            findings=tuple(self.findings),
            seconds=round(self.seconds, 3),
            rerun=rerun,
        )
        if planned.unavailable:
            return replace(record, state="unavailable", reason=planned.unavailable, rerun="")
        if self.failure is None:
            return record
        failure = self.failure
        refused = failure["reason"].startswith(REFUSES)
        return replace(
            record,
            state="refused" if refused else failure["state"],  # type: ignore[arg-type]
            stage=failure["stage"],
            reason=failure["reason"] if refused else f"{failure['stage']}: {failure['reason']}".removeprefix(": "),
            log="" if refused else failure["log"],
        )


def recorded(planned: PlannedCell, heard: Mapping[str, Heard], rerun: str = "") -> CellRecord:
    """The record of a cell with those of its executions, by what was heard of each under its id."""
    of_host = heard.get(planned.cell.id, Heard())
    if not planned.kinds:  # narrowed to other executors, whose tests made the file
        for execution in planned.executions:
            made = heard.get(execution_id(planned.cell.id, execution.executor), Heard()).details
            detail.merge(of_host.details, {name: value for name, value in made.items() if name in OF_FILE})
    record = of_host.record(planned, rerun)
    if not planned.executions:
        return record
    executions = []
    for execution in planned.executions:
        id = execution_id(planned.cell.id, execution.executor)
        again = f"pytest -m parity -k {planned.cell.id} --parity-executors {execution.executor}"
        executions.append(heard.get(id, Heard()).execution(execution, rerun or again))
    # What the host's execution was told of the model or its data is not repeated.
    others = (
        replace(execution, findings=tuple(f for f in execution.findings if f not in record.findings))
        for execution in executions
    )
    return gate.settle(replace(record, executions=tuple(others)))


def _outweighs(new: Mapping[str, str], old: Mapping[str, str]) -> bool:
    """Whether a failure is to be told in place of one that was heard before: of the file itself before one of what it
    is measured against, then a crash or time-out before an error."""
    of_the_file = new["stage"] in _STAGES_OF_THE_FILE
    if of_the_file != (old["stage"] in _STAGES_OF_THE_FILE):
        return of_the_file
    return old["state"] == "error"


def _place(check: Check, planned: PlannedCell) -> int:
    """Where a check stands in the record: in the plan's order of kinds, after them what nobody planned."""
    return planned.kinds.index(check.kind) if check.kind in planned.kinds else len(planned.kinds)
