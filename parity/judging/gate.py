"""From records to a verdict. Pure: no pytest, no converter, no clock of its own.

A closed world: a cell passes only if every planned kind of check ran to its end, every planned golden case has a
finite measurement against a limit on every output, and every such check is inside its limit. Everything else is a
named state. Nothing here trusts a stored `passed`: it is derived again from value, limit and sense.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from parity.core.case import OVER_ALL
from parity.core.errors import ParityError
from parity.core.executors import cell_of, execution_id
from parity.core.kinds import BY_NAME
from parity.core.plan import PRECISIONS, Cell
from parity.core.record import (
    BY_CONTRACT,
    CellRecord,
    Check,
    ExecutionRecord,
    RunRecord,
    State,
    Verdict,
    WaiverRecord,
)
from parity.core.settings import Rule, Waiver
from parity.core.words import plural
from parity.judging import executions, tails
from parity.judging.answer import TOO_MUCH, cause, describe, excess, figure, precision_costs
from parity.judging.limits import resolve
from parity.judging.registry import METRICS
from parity.judging.samples import FEWEST, held, words
from parity.judging.samples import blocking as blocking_sample

SET_BY_TEST = "the test"  # source of a limit that a test passed to parity.check: no configuration changes it
_FIXED = (SET_BY_TEST, BY_CONTRACT)
_BAD: tuple[State, ...] = ("fail", "crash", "timeout", "error")
_ORDER: tuple[State, ...] = (*_BAD, "missing", "unavailable", "waived", "pass")


def passes(check: Check) -> bool:
    """Whether the check holds, from its figures alone. A figure without a limit holds when it is finite.

    A check of a known metric that states another sense than the metric's holds for no figure: an error of at least so
    much is no limit.
    """
    if check.value is None or not math.isfinite(check.value) or check.nonfinite:
        return False
    if check.limit is None:
        return True
    if check.metric in METRICS and check.sense != METRICS[check.metric].sense:
        return False
    return check.value <= check.limit if check.sense == "max" else check.value >= check.limit


def rejudge(cell: CellRecord, rules: Iterable[Rule]) -> CellRecord:
    """The cell under the limits that `rules` set now, for every check that a limit of the cascade applies to.

    Raises ParityError for a precision that has no limits: a record of another version, or a damaged one.
    """
    if cell.precision not in PRECISIONS:
        raise ParityError(
            f"cell {cell.id:.80}: unknown precision {cell.precision!r:.40}; known: {', '.join(PRECISIONS)}"
        )
    rules = tuple(rules)
    identity = Cell(cell.model, cell.target, cell.precision)
    checked = (*cell.checks, *(check for execution in cell.executions for check in execution.checks))
    by_output = {output: resolve(rules, identity, output) for output in {c.output for c in checked}}

    def again(check: Check) -> Check:
        if check.source in _FIXED:
            return check
        limit = by_output[check.output].get(check.metric)
        if limit is not None:
            return held(check, limit.value, limit.source)
        return held(check, None, "") if BY_NAME[check.kind].limited else check

    by_others = tuple(
        replace(e, checks=tuple(executions.without_borrowed_limit(again(check)) for check in e.checks))
        for e in cell.executions
    )
    return settle(replace(cell, checks=tuple(map(again, cell.checks)), executions=by_others))


def settle(cell: CellRecord, waived: Sequence[Waiver] = ()) -> CellRecord:
    """The cell with its state and reason derived from what it holds. `waived` are waivers in force for this cell, or
    for one of its executions beside the host's."""
    settled = _settle_on_host(cell, [w for w in waived if w.cell == cell.id])
    if all(execution.from_capsule for execution in cell.executions):
        return settled
    by_others = tuple(
        execution if execution.from_capsule else _settle_execution(execution, cell, waived)
        for execution in cell.executions
    )
    settled = replace(settled, executions=by_others)
    worst = executions.refused_by(settled)
    if settled.state not in ("pass", "waived"):
        return settled
    if worst is None:
        return settled if cell.planned else executions.by_executions_alone(settled)
    state, execution = worst
    return replace(settled, state=state, stage=execution.stage, reason=f"{execution.executor}: {execution.reason}")


def _settle_execution(execution: ExecutionRecord, cell: CellRecord, waived: Sequence[Waiver]) -> ExecutionRecord:
    """The execution with its state and reason derived from its own checks: the host's stand in for none."""
    checks = tuple(replace(check, passed=passes(check)) for check in execution.checks)
    execution = replace(execution, checks=checks)
    if execution.state in executions.ENDED:
        return execution
    in_its_name = [w for w in waived if w.cell == execution_id(cell.id, execution.executor)]
    broken = [check for check in checks if not check.passed]
    blocking = [check for check in broken if not any(excuses(waiver, check) for waiver in in_its_name)]
    if blocking:
        return replace(execution, state="fail", reason=describe(blocking))
    lost = executions.lost(execution, cell)
    if lost:
        return replace(execution, state="missing", reason=lost)
    if broken:
        return replace(execution, state="waived", reason=f"waived: {describe(broken)}")
    limited = {check.kind for check in checks if check.limit is not None}
    if limited.issuperset(execution.planned):
        return replace(execution, state="pass", reason="")
    return replace(execution, state="measured", reason=executions.figures(checks))


def _settle_on_host(cell: CellRecord, waived: Sequence[Waiver]) -> CellRecord:
    """The cell by what the host's execution, and those of capsules, measured. One that the user narrowed to other
    executors holds nothing of the host's."""
    if not cell.planned and any(not execution.from_capsule for execution in cell.executions):
        return replace(cell, state="pass", reason="") if cell.state != "unavailable" else cell
    checks = tuple(replace(check, passed=passes(check)) for check in cell.checks)
    cell = replace(cell, checks=checks)
    if cell.state in ("crash", "timeout", "error", "unavailable"):
        return cell
    broken = [check for check in checks if not check.passed]
    excused = [check for check in broken if any(excuses(w, check) for w in waived)]
    warned = warnings(cell)
    blocking = [check for check in broken if check not in excused and check not in warned]
    costs = precision_costs(checks)
    if blocking:
        reason = describe(blocking, cause(cell.diagnosis, cell.proof, cell.first_divergence))
        if costs and not reason.startswith(TOO_MUCH):
            reason = f"{reason}; {costs}"
        return replace(cell, state="fail", reason=reason)
    lost = _lost(cell)
    if lost:
        return replace(cell, state="missing", reason=lost)
    unsure = blocking_sample(checks)
    if unsure:
        return replace(cell, state="missing", reason=words(unsure))
    if excused:
        return replace(cell, state="waived", reason=f"waived: {describe(excused)}")
    return replace(cell, state="pass", reason="; ".join(filter(None, (tails_in_words(warned), costs))))


def warnings(cell: CellRecord) -> list[Check]:
    """The broken checks of a completely proved cell that warn and do not refuse it."""
    if not tails.complete(cell):
        return []
    return tails.warning([check for check in _of_proof(cell) if not passes(check)], cell.checks)


def _of_proof(cell: CellRecord) -> list[Check]:
    """The cell's checks less those of executions in a capsule: what another executor computed is no part of the
    proof."""
    elsewhere = tuple(f"{execution.name}: " for execution in cell.executions if execution.from_capsule)
    return [check for check in cell.checks if not check.case.startswith(elsewhere)]


def gating(cell: CellRecord) -> list[Check]:
    """The checks that could refuse the cell: of a file that is proved, figures of the tail would only warn."""
    if not tails.complete(cell):
        return list(cell.checks)
    of_proof = _of_proof(cell)
    only_warn = {id(check) for check in tails.warning(of_proof, cell.checks)}
    return [check for check in cell.checks if id(check) not in only_warn]


def tail_warning(cell: CellRecord) -> str:
    """What a cell that is not refused warns of, for whoever reads a report; empty where there is nothing."""
    return tails_in_words(warnings(cell)) if cell.state in ("pass", "waived") else ""


def tails_in_words(warned: Sequence[Check]) -> str:
    """One sentence for figures of the tail that only warn; empty where there are none."""
    if not warned:
        return ""
    worst = max(warned, key=excess)
    where = f"{worst.output}: " if worst.output else ""
    return (
        f"proved faithful: {plural(len(warned), 'tail figure')} beyond what correct files have shown: warning "
        f"({where}{worst.metric} {figure(worst)}, case {worst.case})"
    )


def in_force(waivers: Iterable[Waiver], cell: str, today: datetime.date) -> list[Waiver]:
    """The waivers of the cell with this id, and of its executions, that have not expired."""
    return [w for w in waivers if cell_of(w.cell) == cell and w.expires >= today]


def excuses(waiver: Waiver, check: Check) -> bool:
    """Whether a waiver in force covers this broken check: of its metric, with a finite value up to its limit."""
    if waiver.metric != check.metric or check.nonfinite or check.value is None or not math.isfinite(check.value):
        return False
    if waiver.limit is None:
        return True
    return check.value <= waiver.limit if check.sense == "max" else check.value >= waiver.limit


def _lost(cell: CellRecord) -> str:
    """What the cell should have measured and did not, by its runtime and by every execution that a capsule added:
    none stands in for another. Empty when nothing is missing."""
    prefixes = {f"{e.name}: ": e for e in cell.executions if e.from_capsule}
    own = tuple(c for c in cell.checks if not c.case.startswith(tuple(prefixes)))
    lost = _lost_by_one(replace(cell, checks=own))
    for prefix, execution in prefixes.items():
        mine = tuple(replace(c, case=c.case.removeprefix(prefix)) for c in cell.checks if c.case.startswith(prefix))
        planned = execution.planned
        why = _lost_by_one(replace(cell, checks=mine, planned=planned, measured=planned))
        lost = lost or (f"{prefix}{why}" if why else "")
    return lost


def _against(check: Check) -> bool:
    """Whether a limit was in force, decided or not: an undecided one that may block is looked at by itself."""
    return check.limit is not None or check.undecided is not None


def _lost_by_one(cell: CellRecord) -> str:
    if not cell.planned:
        return cell.reason if cell.state == "missing" and cell.reason else "nothing was planned for it"
    for kind in cell.planned:
        if kind not in cell.measured:
            return f"{kind}: its test did not run to its end"
        if not any(c.kind == kind and _against(c) and c.value is not None for c in cell.checks):
            return f"{kind}: nothing was measured against a limit"
    seen: dict[tuple[str, str, str], bool] = {}
    for check in cell.checks:
        if BY_NAME[check.kind].per_case:
            key = (check.kind, check.case, check.output)
            seen[key] = seen.get(key, False) or (check.limit is not None and check.value is not None)
    for (kind, case, output), gated in seen.items():
        if not gated and case != OVER_ALL:  # a figure over all cases needs no limit where every case has its own
            return f"{kind}: no limit is in force for output {output!r} of case {case!r}"
    if "video" in cell.planned:
        played = {case.rpartition("#")[0] for kind, case, _ in seen if kind == "video" and case != OVER_ALL}
        if len(played) != cell.planned_clips:
            return f"video: {cell.planned_clips} clips were planned and frames of {len(played)} were measured"
    if "golden" in cell.planned:
        found = {case for kind, case, _ in seen if kind == "golden" and case != OVER_ALL}
        if len(found) != cell.planned_cases:
            return f"golden: {cell.planned_cases} cases were planned and {len(found)} were measured"
        if not found:
            return "golden: no case was measured"
        if cell.telling_cases is not None and cell.telling_cases < FEWEST:
            return (
                f"golden: its {plural(len(found), 'case')} count as {cell.telling_cases}, since identical inputs count "
                f"once and constant ones once together, and limits need {FEWEST}: add other inputs"
            )
        outputs = {output for kind, case, output in seen if kind == "golden" and case in found}
        for case in sorted(found):
            for output in sorted({*outputs, *cell.planned_outputs}):
                if ("golden", case, output) not in seen:
                    return f"golden: output {output!r} of case {case!r} was not measured"
    return ""


def apply_waivers(
    cells: Sequence[CellRecord], waivers: Sequence[Waiver], today: datetime.date, planned: Iterable[str]
) -> tuple[tuple[CellRecord, ...], tuple[WaiverRecord, ...]]:
    """Cells settled under the waivers in force, and what became of each waiver. A waiver of a cell that this run did
    not plan, or that cannot run here, is neither used nor unmatched, and left out."""
    ids = set(planned)
    settled = tuple(settle(c, in_force(waivers, c.id, today)) for c in cells)
    by_id = {c.id: c for c in settled}
    records = []
    for w in waivers:
        id, _, executor = w.cell.partition("@")
        cell = by_id.get(id)
        if id not in ids or (cell is not None and cell.state == "unavailable"):
            continue
        execution = next((e for e in cell.executions if e.executor == executor), None) if cell and executor else None
        if executor and (execution is None or execution.state == "unavailable"):
            continue
        measured = execution.checks if execution else cell.checks if cell else ()
        used = any(excuses(w, c) for c in measured if not c.passed)
        state = "expired" if w.expires < today else "used" if used else "unmatched"
        records.append(
            WaiverRecord(w.cell, w.metric, w.reason, w.expires.isoformat(), w.limit, state, w.source)  # type: ignore[arg-type]
        )
    return settled, tuple(records)


def judge(record: RunRecord) -> RunRecord:
    """The record with its verdict and the sentence that explains it, derived from its cells and waivers."""
    bad = [c for c in record.cells if c.state in _BAD]
    missing = [c for c in record.cells if c.state == "missing"]
    absent = [c for c in record.cells if c.state == "unavailable" and c.required]
    not_executed = [
        execution_id(c.id, e.executor)
        for c in record.cells
        for e in c.executions
        if e.state == "unavailable" and e.required
    ]
    waivers, regressed = record.waivers_that_block, record.regressions_that_block
    measured = [c for c in record.cells if c.state in ("pass", "waived")]
    verdict: Verdict
    if bad or regressed or waivers:
        parts = [f"{_count(bad, 'cell')} failed: {_listed([c.id for c in bad])}"] if bad else []
        parts += (
            [f"{_count(regressed, 'regression')}: {_listed(list(dict.fromkeys(r.cell for r in regressed)))}"]
            if regressed
            else []
        )
        parts += [f"{_count(waivers, 'waiver')} {_listed(sorted({w.state for w in waivers}))}: "
                  f"{_listed([w.cell for w in waivers])}"] if waivers else []  # fmt: skip
        verdict, reason = "fail", "; ".join(parts)
    elif missing or absent or not_executed or not measured:
        parts = (
            [f"{_count(missing, 'cell')} without a measurement: {_listed([c.id for c in missing])}"] if missing else []
        )
        parts += (
            [f"{_count(absent, 'required cell')} cannot run here: {_listed([c.id for c in absent])}"] if absent else []
        )
        if not_executed:
            parts.append(f"{_count(not_executed, 'required execution')} cannot run here: {_listed(not_executed)}")
        verdict, reason = "incomplete", "; ".join(parts) or "no cell was measured"
    elif record.partial:
        verdict = "partial"
        reason = f"{_inside(measured)}, of a narrowed plan ({record.partial})"
    else:
        waived = [c for c in measured if c.state == "waived"]
        verdict, reason = "pass", _inside(measured)
        reason += f", {len(waived)} of them by a waiver" if waived else ""
    elsewhere = [c for c in record.cells if c.state == "unavailable" and not c.required]
    if elsewhere and verdict in ("pass", "partial"):
        reason += f"; {_count(elsewhere, 'cell')} could not run here"
    if verdict in ("pass", "partial"):
        reason += _executed(record.cells)
    unsure = [check for c in measured for check in c.checks if check.undecided is not None]
    if unsure and verdict in ("pass", "partial"):
        reason += f"; {_count(unsure, 'built-in limit')} on shares undecided: too few cases"
    files = sorted({c.reference for c in record.cells if c.reference})
    if files:
        reason += f"; measured against {_listed(files)}, no PyTorch module"
    return replace(record, verdict=verdict, reason=reason)


def _executed(cells: Iterable[CellRecord]) -> str:
    """How many executions beside the host's there were, by state; empty where none was planned."""
    states: dict[str, int] = {}
    for execution in (e for cell in cells for e in cell.executions if not e.from_capsule):
        states[execution.state] = states.get(execution.state, 0) + 1
    words = {"pass": "pass", "measured": "are measured against no limit", "unavailable": "could not run here",
             "refused": "are refused by the executor", "waived": "are waived"}  # fmt: skip
    parts = [f"{states[state]} {said}" for state, said in words.items() if state in states]
    return (
        f"; of {_count(range(sum(states.values())), 'execution')} beside the host {', '.join(parts)}" if parts else ""
    )


def exit_code(record: RunRecord) -> int:
    """0 for pass, and for partial with nothing failing; 1 otherwise."""
    return 0 if record.verdict in ("pass", "partial") else 1


def by_urgency(cells: Iterable[CellRecord]) -> list[CellRecord]:
    """Failing cells first, in an order that every output shares."""
    return sorted(cells, key=lambda c: _ORDER.index(c.state))


def _count(items: Sequence[object], word: str) -> str:
    return f"{len(items)} {word}{'' if len(items) == 1 else 's'}"


def _inside(measured: Sequence[object]) -> str:
    return f"{_count(measured, 'cell')} measured and inside {'its' if len(measured) == 1 else 'their'} limits"


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
