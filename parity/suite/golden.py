"""Golden cases: every output against the oracle and the stored references; then what explains a failure, and power."""

from __future__ import annotations

from typing import Any

from parity.core.case import Case
from parity.core.errors import ParityError
from parity.core.executors import HOST
from parity.core.kinds import GOLDEN
from parity.core.plan import Cell
from parity.core.settings import ModelConfig
from parity.faults.power import BROKEN
from parity.formats.target import Target
from parity.judging import judge
from parity.session import faults as ask
from parity.session.divergence import first_divergence
from parity.session.evaluations import Reference
from parity.session.planning import Data
from parity.session.session import Runtime, Session
from parity.suite.check_kind import CheckContext, SuiteKind, measures
from parity.suite.comparing import compare_cases
from parity.suite.recorder import Recorder
from parity.suite.references import check_references


def planned(model: ModelConfig, target: Target, data: Data) -> bool:
    """Without any data golden stays planned, and says that there is none."""
    return data.cases > 0 or data.clips == 0


def run(check: CheckContext) -> None:
    """Judge every case; explain what is broken; measure power where the run or a limit asks for it."""
    runtime, reference, parity = check.runtime, check.reference, check.recorder
    assert reference is not None
    cell, session, cases = runtime.cell, runtime.session, list(check.golden)
    if runtime.executor != HOST:  # what explains a failure of the file itself is told of the host's execution
        compare_cases("golden", cell, cases, reference, runtime, parity)
        return
    check_references(runtime, cases, reference, parity, check.update)
    got = compare_cases("golden", cell, cases, reference, runtime, parity)
    if parity.refused():
        _explain(session, cell, cases, got, parity)
        _locate(session, cell, cases, got, reference, parity)
    if check.power or any("power" in parity.limits(output) for output in reference.outputs[0]):
        _measure_power(session, cell, cases, parity)


def _explain(session: Session, cell: Cell, cases: list[Case], got: list[dict[str, Any]], parity: Recorder) -> None:
    """Record which known faults would explain the errors of a failing artefact."""
    try:
        found = ask.diagnosis(session, cell, cases, got)
    except ParityError as error:
        parity.find(f"no diagnosis: {error}")
        return
    parity.details |= {"diagnosis": found.explanations(), "faults_failed": found.broken}
    parity.find(f"diagnosis: {found.sentence}")
    for lost in found.broken:
        parity.find(f"diagnosis: a fault could not be tried: {lost}", "warning")


def _locate(session: Session, cell: Cell, cases: list[Case], got: list[dict[str, Any]], oracle: Reference,
            parity: Recorder) -> None:  # fmt: skip
    """Record where a failing artefact first computes something else, and how the error grows from there."""
    try:
        divergence, drift, text = first_divergence(session, cell, cases, got, oracle)
    except ParityError as error:
        parity.find(f"no first divergence: {error}")
        return
    parity.details["divergence"], parity.details["drift"] = divergence, drift
    parity.find(text)


def _measure_power(session: Session, cell: Cell, cases: list[Case], parity: Recorder) -> None:
    """Record how many named faults this cell's limits would notice; a `power` limit gates it."""
    found = ask.power(session, cell, cases)
    parity.details["power"] = found
    share = found.killed / found.injected if found.injected else None
    detail = f"{found.killed} of {found.injected} faults would be noticed, {found.equivalent} change nothing"
    kinds = ", ".join(f"{count} by {kind}" for kind, count in found.kinds.items())
    parity.add(judge.measured_power(share, parity.limits(), f"{detail}; {kinds}" if kinds else detail))
    for fate in found.fates:
        if BROKEN in fate.words:
            parity.find(f"power: {fate.fault}: {fate.words}", "warning")
    for alarm in found.false_alarms:
        parity.find(f"power: a benign change raises an alarm: {alarm}", "warning")
    if found.spare_cases:
        shown = ", ".join(found.spare_cases[:8]) + (" ..." if len(found.spare_cases) > 8 else "")
        spare = f"{len(found.spare_cases)} of {len(cases)} golden cases"
        parity.find(f"power: {spare} notice no fault that the others miss: {shown}")
    if found.loose:
        parity.find(f"power: so loose that no fault reaches them: {', '.join(found.loose)}")


@measures(GOLDEN)
def test_golden(
    parity_cell: Cell,
    parity_golden: list[Case],
    parity_reference: Reference,
    parity_runtime: Runtime,
    parity: Recorder,
    parity_power: bool,
    parity_update: bool,
) -> None:
    """On every golden case, every output is the float64 oracle's within its limits, and the oracle the stored one."""
    run(
        CheckContext(
            parity_runtime,
            parity,
            golden=parity_golden,
            reference=parity_reference,
            power=parity_power,
            update=parity_update,
        )
    )


KIND = SuiteKind(GOLDEN, planned, run, test_golden)
