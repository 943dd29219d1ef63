"""`parity capsule judge`: what a capsule's artefacts computed elsewhere, judged and added to the record it came from.

The record keeps everything that it had. Each execution adds an `ExecutionRecord` and checks whose case begins with its
executor and compute unit, and the gate asks of each what it asks of the cell's own runtime: neither can stand in for
the other. Whatever is not whole, or does not belong together, is refused before anything is judged.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from parity.capsule.archive import Archive
from parity.capsule.contents import (
    Batch,
    CellPlan,
    Executed,
    Plan,
    changed,
    execution_record,
    load_array,
    load_plan,
    load_run,
    members,
)
from parity.capsule.run import expect
from parity.core.case import Array
from parity.core.errors import ParityError
from parity.core.record import CellRecord, Check, Finding, RunRecord, loads
from parity.core.settings import Waiver
from parity.judging import gate
from parity.judging.check_cases import check_cases, check_labels
from parity.judging.floor import floors
from parity.judging.limits import fallback
from parity.judging.post_processing import post_process, post_process_all, unregistered


def judged(
    capsule_path: Path,
    outputs_path: Path,
    record_path: Path,
    *,
    seal: str | None = None,
    declared: Callable[[], Collection[str]] = tuple,
) -> RunRecord:
    """The record with the outputs merged into it and states and verdict derived again.

    `declared` gives the names of post-processing functions that may be imported, and is asked only where the capsule
    names functions that are not registered.
    Raises ParityError, one line, for a capsule, outputs or record that is damaged, changed, stale or incomplete.
    """
    with Archive(capsule_path, "capsule") as capsule, Archive(outputs_path, "outputs") as outputs:
        expect(capsule, seal)
        if outputs.capsule != capsule.seal:
            raise ParityError(f"{outputs_path}: stale: made from another capsule than {capsule_path}")
        plan = load_plan(capsule)
        _expect_functions(plan, capsule_path, declared)
        report = load_run(outputs, plan)
        record = _record(record_path, plan, capsule_path)
        executed = iter(report.executed)
        cells = {c.id: c for c in record.cells}
        for cell in plan.cells:
            into = cells[cell.id]
            for number in range(len(cell.executions)):
                done = next(executed)
                into = replace(into, executions=(*into.executions, execution_record(done, report, cell, capsule.seal)))
                if done.state == "ok":
                    into = replace(into, checks=(*into.checks, *_checks(capsule, outputs, plan, cell, number)))
                else:
                    into = _not_executed(into, done)
            cells[cell.id] = into
    waivers = [
        Waiver(w.cell, w.metric, w.reason, datetime.date.fromisoformat(w.expires), w.limit, w.source)
        for w in record.waivers
    ]
    settled, kept = gate.apply_waivers(list(cells.values()), waivers, datetime.date.today(), list(cells))
    return gate.judge(replace(record, cells=settled, waivers=kept))


def _expect_functions(plan: Plan, capsule: Path, declared: Callable[[], Collection[str]]) -> None:
    """Refuse a capsule whose outputs name functions that nobody here declares: a file is not trusted to name code."""
    foreign = unregistered([output.spec for cell in plan.cells for output in cell.outputs])
    refused = sorted(foreign.difference(declared())) if foreign else []
    if refused:
        raise ParityError(
            f"{capsule}: its outputs are post-processed by {refused[0]!r:.120}, which is neither built in nor declared "
            'by the project here: judge it in the project\'s folder, where `post` or `match` says "module:function"'
        )


def _record(path: Path, plan: Plan, capsule: Path) -> RunRecord:
    """The record that the capsule was made from, and no other."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ParityError(f"{path}: cannot be read ({error.strerror or error})") from None
    if hashlib.sha256(data).hexdigest() != plan.record:
        raise ParityError(f"{path}: stale: {capsule} was made from another record")
    record = loads(data.decode("utf-8", "replace"), str(path))
    known = {c.id: c for c in record.cells}
    for cell in plan.cells:
        if cell.id not in known:
            raise ParityError(f"{path}: stale: it has no cell {cell.id}")
        if any(e.executor == x.executor and e.compute_unit == x.compute_unit
               for e in known[cell.id].executions for x in cell.executions):  # fmt: skip
            raise ParityError(f"{path}: {cell.id} holds such executions already")
        why = changed(cell, plan.data(cell), known[cell.id])
        if why:
            raise ParityError(f"{path}: stale: {cell.id}: {why}")
    return record


def _not_executed(cell: CellRecord, done: Executed) -> CellRecord:
    """The cell with a failure elsewhere as its own; one that could not run stays without a measurement."""
    name = f"{done.executor} {done.compute_unit}"
    reason = f"{name}: {done.stage + ': ' if done.stage else ''}{done.reason}"
    cell = replace(cell, findings=(*cell.findings, Finding(f"{reason} ({done.state})", "warning")))
    if done.state in ("ok", "unavailable") or cell.state in ("error", "crash", "timeout"):
        return cell
    return replace(cell, state=done.state, stage=done.stage, reason=reason, log=done.log)  # type: ignore[arg-type]


def _checks(capsule: Archive, outputs: Archive, plan: Plan, cell: CellPlan, number: int) -> list[Check]:
    data = plan.data(cell)
    got: dict[Batch, list[dict[str, Array]]] = {}
    want: dict[Batch, list[dict[str, Array]]] = {}
    twin: dict[Batch, list[dict[str, Array]]] = {}
    for kind in cell.batches:
        count = len(data.cases(kind))
        for rows in (got, want, twin):
            rows[kind] = [{} for _ in range(count)]
    for kind, case, n, member in members(plan, cell, number):
        name = data.outputs[n]
        got[kind][case][name] = load_array(outputs, member)
        want[kind][case][name] = load_array(capsule, f"data/{cell.model}/{kind}/{case:05d}/want.{n}.npy")
        if name in cell.twins:
            twin[kind][case][name] = load_array(capsule, f"twins/{cell.id}/{kind}/{case:05d}/{n}.npy")
    specs, limits = [o.spec for o in cell.outputs], {o.name: o.in_force() for o in cell.outputs}
    checks: list[Check] = []
    for kind in cell.batches:
        ids = [c.id for c in data.cases(kind)]
        wants = [post_process(specs, row) for row in want[kind]]
        floored = [spec for spec in specs if spec.name in cell.twins]
        costs = floors(wants, post_process_all(floored, twin[kind], wants), cell.precision, floored)
        counted = [i for i, c in enumerate(data.cases(kind)) if c.counts]
        judged = check_cases(kind, specs, ids, got[kind], wants, costs, limits, fallback(cell.precision), counted)
        if kind in cell.planned:
            checks += judged.checks
        if kind == "golden" and "accuracy" in cell.planned:
            checks += check_labels(
                specs, [c.label if c.counts else None for c in data.golden], judged.outputs, wants, limits
            )
    name = cell.executions[number].name
    return [replace(check, case=f"{name}: {check.case}") for check in checks]
