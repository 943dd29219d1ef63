"""An exported file against its model: the contract, every golden case, every declared size, and accuracy where cases
are labelled.

By the very functions that the test suite runs, so that an export cannot be more lenient than a release.
"""

from __future__ import annotations

from collections.abc import Iterable

from parity import formats as targets
from parity import suite
from parity.cases import draw
from parity.cases.files import labelled
from parity.cases.fit import fitted
from parity.core.case import Case
from parity.core.plan import Cell
from parity.core.record import CellRecord, Check, Kind
from parity.core.settings import ModelConfig
from parity.judging import gate
from parity.session.session import Session
from parity.suite.recorder import Recorder

DRAWN = 8  # cases to verify on where a model has no golden data


def verify(session: Session, cell: Cell) -> CellRecord:
    """The cell's settled record after its checks. Raises ChildFailure where the file cannot be run."""
    model = session.config.models[cell.model]
    cases = golden(session, model)
    runtime = session.runtime(cell)
    reference = session.reference(model, cases)
    kinds: list[Kind] = ["contract", "golden"]
    kinds += ["accuracy"] if labelled(model) else []
    kinds += ["batch"] if targets.get(cell.target).several_sizes(model) else []
    recorders = {kind: Recorder(cell, kind, session.config.rules) for kind in kinds}
    suite.test_contract(cell, runtime, recorders["contract"])
    suite.test_golden(cell, cases, reference, runtime, recorders["golden"], False, False)
    if "accuracy" in recorders:
        suite.test_accuracy(cell, cases, reference, runtime, recorders["accuracy"])
    if "batch" in recorders:
        suite.test_batch(cell, runtime, recorders["batch"])
    checks = tuple(check for recorder in recorders.values() for check in recorder.checks)
    findings = tuple(finding for recorder in recorders.values() for finding in recorder.findings)
    return gate.settle(
        CellRecord(cell.id, cell.model, cell.target, cell.precision, "missing", planned=tuple(kinds),
                   measured=tuple(kinds), planned_cases=len(cases), checks=checks, findings=findings)
    )  # fmt: skip


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
        if check.kind in ("golden", "accuracy") and check.value is not None:
            pick = max if check.sense == "max" else min
            found[check.metric] = pick(found.get(check.metric, check.value), check.value)
    return found
