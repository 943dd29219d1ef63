"""Power, in a child process: the library run once on a model, and judged for all of its cells.

A fault is evaluated on a few cases first, and on all for those cells alone in which none of these few notices it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from parity.core.case import spread
from parity.core.record import build, plain
from parity.faults.base import registered, rows_of
from parity.faults.extra import load
from parity.faults.library import Injected, bench, inject
from parity.faults.messages import MeasuredPower, PowerRequest
from parity.faults.power import FIRST, CellPower, Gate, Tally
from parity.faults.trial import Broken
from parity.judging.limits import Limit
from parity.process.child import stage


def measure(request: PowerRequest) -> MeasuredPower:
    """The power of each cell's gate.

    The oracle's outputs are computed here, by the same evaluation as the faults'; they also stand for a right file
    where there is no twin.
    """
    stage("faults")
    load(request.plugins)
    ids, faults = request.ids, request.faults
    on = bench(request.model, request.contract, request.cases, "fp32", request.sources)
    clean, shape = on.clean(), on.subject.contract
    tallies = []
    for cell in request.cells:
        limits = {o: {m: Limit(m, v, "") for m, v in known.items()} for o, known in cell.limits.items()}
        twin = None if cell.twin is None else rows_of(cell.twin)
        gate = Gate(shape, ids, clean, twin, cell.precision, limits, request.labels or ())
        usual = clean if twin is None else twin
        tallies.append((Tally(cell.id, cell.precision, gate, usual), usual))
    few = spread(len(ids), FIRST)
    rest = [i for i in range(len(ids)) if i not in few]
    for fault in registered(names=faults) if faults is not None else registered():
        left = [(tally, usual) for tally, usual in tallies if tally.precision in fault.precisions]
        if not left:
            continue
        one = inject(on, fault, cases=few)
        if one.state == "changed" and len(one.rows) < len(ids):
            some = [clean[i] for i in few]
            left = [
                (tally, usual) for tally, usual in left
                if not tally.notices(fault, one.value, one.behind([usual[i] for i in few], some, on.subject), few)
            ]  # fmt: skip
            one = _on_all(one, inject(on, fault, cases=rest), few, rest) if left else one
        for tally, usual in left:
            if one.state == "broken":
                tally.broke(fault, one.reason)
            elif one.state == "changed":
                right = replace(on.subject, precision=tally.precision)
                try:
                    tally.add(fault, one.value, one.behind(usual, clean, right))
                except Broken as error:
                    tally.broke(fault, str(error))
            else:
                tally.without(fault, one.state)
    # Through builtins: what is not finite becomes None, as the record holds it.
    cells = [build(CellPower, plain(tally.result())) for tally, _ in tallies]
    return MeasuredPower(cells, on.note)


def _on_all(some: Injected, other: Injected, few: Sequence[int], rest: Sequence[int]) -> Injected:
    """A fault that was run on a few cases and then on the rest, unless that already ran it on all."""
    if other.state != "changed" or len(other.rows) != len(rest):
        return other
    rows = dict(zip((*few, *rest), (*some.rows, *other.rows), strict=True))
    return replace(some, rows=[rows[i] for i in sorted(rows)])
