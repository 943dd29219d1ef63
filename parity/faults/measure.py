"""Power, in a child process: the library run once on a model, and judged for all of its cells.

A fault is evaluated on a few cases first, and on all for those cells alone in which none of these few notices it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from parity.core.case import spread
from parity.core.record import plain
from parity.faults.base import Row, registered
from parity.faults.extra import load
from parity.faults.library import Injected, bench, inject
from parity.faults.power import FIRST, Gate, Tally
from parity.faults.trial import Broken
from parity.judging.limits import Limit
from parity.process.child import stage


def measure(
    model: Mapping[str, Any],
    contract: Mapping[str, Any],
    cases: Sequence[Row],
    ids: Sequence[str],
    cells: Sequence[Mapping[str, Any]],
    labels: Sequence[int | None] | None = None,
    sources: Sequence[str | None] | None = None,
    faults: Sequence[str] | None = None,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """The `CellPower` of each cell, as builtins: {"cells": [...], "note"}.

    `contract` is `plain(contract)`. Each of `cells` is {"id", "precision", "twin": the twin's rows, or None where the
    model has no twin, "limits": {output: {metric: value or None}}}, as `parity.judging.limits.resolve` gives them.
    The oracle's outputs are computed here, by the same evaluation as the faults'; they also stand for a right file
    where there is no twin. `sources` are the encoded pictures behind the cases, `plugins` modules that register a
    project's own faults.
    """
    stage("faults")
    load(plugins)
    on = bench(model, contract, cases, "fp32", sources)
    clean, shape = on.clean(), on.subject.contract
    tallies = []
    for cell in cells:
        limits = {o: {m: Limit(m, v, "") for m, v in found.items()} for o, found in cell["limits"].items()}
        gate = Gate(shape, ids, clean, cell["twin"], cell["precision"], limits, labels or ())
        usual = clean if cell["twin"] is None else cell["twin"]
        tallies.append((Tally(cell["id"], cell["precision"], gate, usual), usual))
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
    return {"cells": [plain(tally.result()) for tally, _ in tallies], "note": on.note}


def _on_all(some: Injected, other: Injected, few: Sequence[int], rest: Sequence[int]) -> Injected:
    """A fault that was run on a few cases and then on the rest, unless that already ran it on all."""
    if other.state != "changed" or len(other.rows) != len(rest):
        return other
    rows = dict(zip((*few, *rest), (*some.rows, *other.rows), strict=True))
    return replace(some, rows=[rows[i] for i in sorted(rows)])
