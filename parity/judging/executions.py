"""Executions by other executors than the host: which limits hold for them, and their state. Pure.

A limit that somebody set holds wherever the file runs. One that nobody set was measured on correct files that hosts
ran, so it says nothing of other kernels: such a figure is measured and told, and does not gate, until limits are
measured on that executor too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from parity.core.case import OVER_ALL
from parity.core.kinds import BY_NAME
from parity.core.record import CellRecord, Check, ExecutionRecord, State
from parity.judging.limits import is_default
from parity.judging.registry import METRICS

ENDED = ("error", "crash", "timeout", "unavailable", "refused")
"""States of an execution that no measurement changes."""
_TOLD_FAMILIES = ("difference", "accuracy")


def is_borrowed(check: Check) -> bool:
    """Whether the limit of a check of another executor is one that nobody set."""
    return is_default(check.source) and (check.limit is not None or check.undecided is not None)


def without_borrowed_limit(check: Check) -> Check:
    """The check of another executor without a limit that nobody set: then it holds where its figure is finite."""
    if not is_borrowed(check):
        return check
    finite = check.value is not None and not check.nonfinite
    return replace(check, limit=None, undecided=None, source="", passed=finite)


def lost(execution: ExecutionRecord, cell: CellRecord) -> str:
    """What the execution should have measured and did not; "" when nothing is missing."""
    for kind in execution.planned:
        if kind not in execution.measured:
            return f"{kind}: its test did not run to its end"
        values = {c.case for c in execution.checks if c.kind == kind and c.value is not None}
        if not values:
            return f"{kind}: nothing was measured"
        if kind == "golden" and len(values - {OVER_ALL}) != cell.planned_cases:
            return f"golden: {cell.planned_cases} cases were planned and {len(values - {OVER_ALL})} were measured"
        if not BY_NAME[kind].per_case:
            continue
        measured = {(c.case, c.output) for c in execution.checks if c.kind == kind and c.value is not None}
        for output in cell.planned_outputs:
            for case in sorted(values - {OVER_ALL}):
                if (case, output) not in measured:
                    return f"{kind}: output {output!r} of case {case!r} was not measured"
    return ""


def figures(checks: Iterable[Check]) -> str:
    """The largest noise ratio over all cases; without one the largest difference, or drop in accuracy, of a case."""
    measured = [check for check in checks if check.value is not None]
    pooled = [c for c in measured if c.metric == "noise_ratio"]
    for candidates in (pooled, *([c for c in measured if METRICS[c.metric].family == f] for f in _TOLD_FAMILIES)):
        if candidates:
            worst = max(candidates, key=lambda check: check.value or 0.0)
            return f"{worst.output}: {worst.metric} {worst.value:.3g} (case {worst.case}), against no limit"
    return "measured against no limit"


def refused_by(cell: CellRecord) -> tuple[State, ExecutionRecord] | None:
    """The worst execution that keeps a cell from passing, and the state that the cell has by it."""
    for state in ("fail", "crash", "timeout", "error", "missing"):
        for execution in cell.executions:
            if execution.state == state:
                return state, execution
    for execution in cell.executions:
        if execution.state == "refused" and execution.required:
            return "fail", execution
    return None


def by_executions_alone(cell: CellRecord) -> CellRecord:
    """A cell that was narrowed to other executors than the host, none of which refuses it: unavailable where none
    measured it."""
    own = [execution for execution in cell.executions if not execution.from_capsule]
    if any(execution.state in ("pass", "measured", "waived") for execution in own):
        return cell
    return replace(cell, state="unavailable", reason=f"{own[0].executor}: {own[0].reason}")
