"""An exported file against its model, by every kind of check that needs nothing but the file and its cases.

The kinds run as the test suite runs them, so that an export cannot be more lenient than a release.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from parity import formats as targets
from parity import suite
from parity.cases import draw
from parity.cases.fit import fitted
from parity.core.case import Case, telling
from parity.core.kinds import BY_NAME
from parity.core.plan import Cell
from parity.core.record import CellRecord, Check
from parity.core.settings import ModelConfig
from parity.judging import gate
from parity.session.planning import Data
from parity.session.proof import proved
from parity.session.session import Session
from parity.suite.check_kind import CheckContext
from parity.suite.recorder import Recorder

DRAWN = 8  # cases to verify on where a model has no golden data


def verify(session: Session, cell: Cell) -> CellRecord:
    """The cell's settled record after its checks. Raises ChildFailure where the file cannot be run."""
    model = session.config.models[cell.model]
    cases = golden(session, model)
    runtime = session.runtime(cell)
    reference = session.reference(model, cases)
    with_class = sum(case.label is not None for case in cases)
    target, data = targets.get(cell.target), Data(len(cases), clips=0, labelled=with_class)
    recorders = []
    for kind in suite.KINDS:
        if kind.described.in_export and kind.planned(model, target, data):
            recorder = Recorder(
                cell, kind.described.name, session.config.rules, proved=partial(proved, session, cell, cases)
            )
            kind.run(CheckContext(runtime, recorder, golden=cases, reference=reference))
            recorders.append(recorder)
    measured = tuple(recorder.kind for recorder in recorders)
    return gate.settle(
        CellRecord(
            cell.id,
            cell.model,
            cell.target,
            cell.precision,
            "missing",
            planned=measured,
            measured=measured,
            planned_cases=len(cases),
            telling_cases=len(telling(cases)),
            checks=tuple(check for recorder in recorders for check in recorder.checks),
            findings=tuple(finding for recorder in recorders for finding in recorder.findings),
            proof=next((r.details["proof"] for r in recorders if "proof" in r.details), None),
        )
    )


def golden(session: Session, model: ModelConfig) -> list[Case]:
    """The golden cases at the sizes of the export example; drawn ones where the model has none."""
    contract = model.contract
    if model.golden is None and model.cases is None:
        example = contract.example()
        return [Case(f"drawn_{i}", draw.inputs(contract, example, session.config.seed + i)) for i in range(DRAWN)]
    return fitted(session.golden(model), contract)


def worst_of(checks: Iterable[Check]) -> dict[str, float]:
    """The worst value of each metric over the golden cases, and of accuracy."""
    found: dict[str, float] = {}
    for check in checks:
        if BY_NAME[check.kind].cases == "golden" and check.value is not None:
            pick = max if check.sense == "max" else min
            found[check.metric] = pick(found.get(check.metric, check.value), check.value)
    return found
