"""`parity capsule judge`: what a capsule's artefacts computed elsewhere, judged and added to the record it came from.

The record keeps everything that it had. Each execution adds an `ExecutionRecord` and checks whose case begins with its
executor and compute unit, and the gate asks of each what it asks of the cell's own runtime: neither can stand in for
the other. Whatever is not whole, or does not belong together, is refused before anything is judged.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
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
from parity.judging import gate, judge
from parity.judging.floor import floors

Row = Mapping[str, Array]


def judged(capsule_path: Path, outputs_path: Path, record_path: Path, *, seal: str | None = None) -> RunRecord:
    """The record with the outputs merged into it and states and verdict derived again.

    Raises ParityError, one line, for a capsule, outputs or record that is damaged, changed, stale or incomplete.
    """
    with Archive(capsule_path, "capsule") as capsule, Archive(outputs_path, "outputs") as outputs:
        expect(capsule, seal)
        if outputs.capsule != capsule.seal:
            raise ParityError(f"{outputs_path}: stale: made from another capsule than {capsule_path}")
        plan = load_plan(capsule)
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
    checks: list[Check] = []
    for kind in cell.batches:
        if kind in cell.planned:
            ids = [c.id for c in data.cases(kind)]
            checks += _compared(cell, kind, ids, got[kind], want[kind], twin[kind])
    if "accuracy" in cell.planned:
        labels = {i: c.label for i, c in enumerate(data.golden) if c.label is not None}
        for output in cell.outputs:
            pairs = [(got["golden"][i][output.name], want["golden"][i][output.name]) for i in labels]
            if output.spec.decides and output.labels and pairs and all(g.shape == w.shape for g, w in pairs):
                checks += judge.check_accuracy(
                    output.spec, [g for g, _ in pairs], [w for _, w in pairs], list(labels.values()), output.in_force()
                )
    name = cell.executions[number].name
    return [replace(check, case=f"{name}: {check.case}") for check in checks]


def _compared(
    cell: CellPlan, kind: Batch, ids: Sequence[str], got: list[dict[str, Array]], want: list[dict[str, Array]],
    twin: list[dict[str, Array]],
) -> list[Check]:  # fmt: skip
    """What the suite measures on cases, from arrays: `parity.suite.compare_cases`."""
    specs = [o.spec for o in cell.outputs if o.name in cell.twins]
    costs = floors(want, twin, cell.precision, specs) if specs else {}
    checks: list[Check] = []
    for output in cell.outputs:
        spec, limits = output.spec, output.in_force()
        for id, g, w in zip(ids, got, want, strict=True):
            checks += judge.check_output(kind, id, spec, g[spec.name], w[spec.name], limits)
        rows, wants = [g[spec.name] for g in got], [w[spec.name] for w in want]
        if any(g.shape != w.shape for g, w in zip(rows, wants, strict=True)):
            continue
        if spec.name in costs:
            checks += judge.check_noise(kind, spec, ids, rows, costs[spec.name], limits)
        if spec.decides:
            checks += judge.check_decisions(kind, spec, rows, wants, limits)
    return checks
