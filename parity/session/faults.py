"""What the fault library says of a cell, asked of a child process: the power of its limits, and why it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from parity import formats as targets
from parity.cases.files import golden_files
from parity.core.case import Array, Case
from parity.core.errors import NoTwin, ParityError
from parity.core.plan import Cell
from parity.core.record import Power
from parity.core.settings import ModelConfig, ModelSpec
from parity.faults.causes import Diagnosis, Stored
from parity.faults.messages import CellGate, DiagnosisRequest, MeasuredPower, PowerRequest
from parity.faults.power import CellPower
from parity.judging.floor import natural
from parity.judging.limits import resolve
from parity.judging.post_processing import addressed
from parity.process import serialise
from parity.proof.messages import StoredRequest, StoredWeights
from parity.session.fault_chain import with_chain
from parity.session.fault_files import with_files

if TYPE_CHECKING:
    from parity.session.session import Session

EXPLAIN = "parity.faults.diagnose:explain"
MEASURE = "parity.faults.measure:measure"


def diagnosis(session: Session, cell: Cell, cases: Sequence[Case], got: Sequence[Mapping[str, Array]]) -> Diagnosis:
    """What explains a failing artefact's outputs: the faults that do, best first; never a guess."""
    model, measured = session.config.models[cell.model], natural(cell.target, cell.precision)
    flavour = measured.flavour if measured else None
    session.progress(cell.id, "diagnosis")
    request = DiagnosisRequest(
        session.model_spec(model),
        model.contract,
        [c.inputs for c in cases],
        got,
        session.twin(model, cases, cell.precision, flavour),
        cell.precision,
        measured.limits if measured else None,
        _sources(session, model, cases),
        plugins=session.config.plugins,
        flavour=flavour,
        calibration=[c.inputs for c in session.quantising(model, cell.precision) or ()],
    )
    diagnosis = session.children.call("torch", EXPLAIN, request, Diagnosis, stage="diagnosis")
    if diagnosis.state != "unexplained":
        return diagnosis
    weights = stored(session, cell, cases[0], request.model)
    if weights is None:
        return diagnosis
    held = Stored(weights.tensors, tuple(weights.layers), weights.modules)
    request = replace(request, faults=[], stored=held)
    other = session.children.call("torch", EXPLAIN, request, Diagnosis, stage="diagnosis")
    if not other.causes:
        return diagnosis
    return replace(
        other,
        tried=diagnosis.tried + other.tried,
        skipped=diagnosis.skipped,
        broken=diagnosis.broken,
    )


def stored(session: Session, cell: Cell, case: Case, model: ModelSpec) -> StoredWeights | None:
    """What the cell's file stores in place of the weights of `model`; None where it stores none, or cannot be read."""
    reader = targets.get(cell.target).graph
    if not reader or not session.config.models[cell.model].proof:
        return None
    artifact = session.artifact(cell)
    request = StoredRequest(
        model,
        reader,
        cell.precision,
        str(artifact.folder),
        artifact.notes,
        case.inputs,
    )
    function = "parity.proof.stored:stored"
    with contextlib.suppress(ParityError):  # the cell's own proof says what is wrong with the file
        answer = session.children.call("proof", function, request, StoredWeights, stage="prove")
        return answer if answer.tensors else None
    return None


def power(session: Session, cell: Cell, cases: Sequence[Case]) -> Power:
    """How many of the library's faults the cell's limits would notice. What acts on the model is evaluated once a run
    and model, for all its cells; what acts on the file, for the cell that is asked."""
    model = session.config.models[cell.model]
    shared = session.memo.once(partial(_measured, session), model, cases)
    found = with_chain(session, cell, cases, shared[cell.id])
    oracle = [dict(row) for row in session.reference(model, cases).outputs]
    return with_files(session, cell, cases, oracle, _twin(session, cell, cases), found).summary()


def _twin(session: Session, cell: Cell, cases: Sequence[Case]) -> list[dict[str, Array]] | None:
    """The outputs of the cell's twin, one row a case; None where the model has none, as the suite then does without."""
    model = session.config.models[cell.model]
    try:
        rows = session.twin(model, cases, cell.precision, session.flavour(cell))
    except NoTwin:
        return None
    return [dict(row) for row in rows]


def _measured(session: Session, model: ModelConfig, cases: Sequence[Case]) -> Mapping[str, CellPower]:
    """The power of every cell of a model, by its id: measured by one process of the run."""

    def make() -> Any:
        gates = []
        for cell in model.cells:
            limits = {}
            for spec in model.contract.outputs:
                in_force = resolve(session.config.rules, cell, spec.name)
                limits[spec.name] = {metric: limit.value for metric, limit in in_force.items()}
            gates.append(CellGate(cell.id, cell.precision, _twin(session, cell, cases), limits))
        session.progress(model.name, f"injecting faults into {len(gates)} cells")
        request = PowerRequest(
            session.model_spec(model),
            replace(model.contract, outputs=addressed(model.contract.outputs)),
            [c.inputs for c in cases],
            [c.id for c in cases],
            gates,
            [c.label for c in cases],
            _sources(session, model, cases),
            plugins=session.config.plugins,
        )
        measured = session.children.call("torch", MEASURE, request, MeasuredPower, stage="faults")
        return {cell.cell: serialise.to_builtins(cell) for cell in measured.cells}

    shared = session.store.once(session.run, f"power {model.name}", make)
    return {id: serialise.from_builtins(CellPower, told) for id, told in shared.items()}


def _sources(session: Session, model: ModelConfig, cases: Sequence[Case]) -> list[str] | None:
    """The encoded pictures behind the cases, where every case is one."""
    if model.golden is None or not model.golden.is_dir():
        return None
    files = {p.relative_to(model.golden).with_suffix("").as_posix(): str(p) for p in golden_files(model.golden)}
    found = [files.get(case.id, "") for case in cases]
    return found if all(found) and not any(f.endswith(".npz") for f in found) else None
