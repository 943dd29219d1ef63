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
from parity.core.record import Power, build, plain
from parity.core.settings import ModelConfig, ModelSpec
from parity.faults.causes import Diagnosis
from parity.faults.power import CellPower
from parity.judging.floor import natural
from parity.judging.limits import resolve
from parity.judging.post_processing import addressed
from parity.proof.messages import StoredRequest, StoredWeights
from parity.session.fault_chain import with_chain
from parity.session.fault_files import with_files

if TYPE_CHECKING:
    from parity.session.session import Session

EXPLAIN = "parity.faults.diagnose:explain"


def diagnosis(session: Session, cell: Cell, cases: Sequence[Case], got: Sequence[Mapping[str, Array]]) -> Diagnosis:
    """What explains a failing artefact's outputs: the faults that do, best first; never a guess."""
    model, measured = session.config.models[cell.model], natural(cell.target, cell.precision)
    flavour = measured.flavour if measured else None
    quantised = cell.precision == "int8" and model.calibration is not None
    session.progress(cell.id, "diagnosis")
    arguments = {
        "model": session.model_spec(model),
        "contract": plain(model.contract),
        "cases": [c.inputs for c in cases],
        "artefact": list(got),
        "twin": list(session.twin(model, cases, cell.precision, flavour)),
        "precision": cell.precision,
        "limits": dict(measured.limits) if measured else None,
        "sources": _sources(session, model, cases),
        "flavour": flavour,
        "calibration": [c.inputs for c in session.calibration(model)] if quantised else [],
        "plugins": list(session.config.plugins),
    }
    found = build(Diagnosis, session.children.call_with("torch", EXPLAIN, arguments, stage="diagnosis"))
    if found.state != "unexplained" or not (held := stored(session, cell, cases[0], arguments["model"])):
        return found
    arguments |= {"faults": [], "stored": {"tensors": held.tensors, "layers": held.layers, "of": held.modules}}
    other = build(Diagnosis, session.children.call_with("torch", EXPLAIN, arguments, stage="diagnosis"))
    if not other.causes:
        return found
    return replace(other, tried=found.tried + other.tried, skipped=found.skipped, broken=found.broken)


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
    found = with_chain(session, cell, cases, build(CellPower, shared[cell.id]))
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


def _measured(session: Session, model: ModelConfig, cases: Sequence[Case]) -> Mapping[str, Any]:
    """The power of every cell of a model, by its id: measured by one process of the run."""

    def make() -> Any:
        asked = []
        for one in model.cells:
            limits = {}
            for spec in model.contract.outputs:
                found = resolve(session.config.rules, one, spec.name)
                limits[spec.name] = {n: lim.value for n, lim in found.items()}
            rows = _twin(session, one, cases)
            asked.append({"id": one.id, "precision": one.precision, "twin": rows, "limits": limits})
        session.progress(model.name, f"injecting faults into {len(asked)} cells")
        contract = replace(model.contract, outputs=addressed(model.contract.outputs))
        arguments = {
            "model": session.model_spec(model),
            "contract": plain(contract),
            "cases": [c.inputs for c in cases],
            "ids": [c.id for c in cases],
            "cells": asked,
            "labels": [c.label for c in cases],
            "sources": _sources(session, model, cases),
            "plugins": list(session.config.plugins),
        }
        result = session.children.call_with("torch", "parity.faults.measure:measure", arguments, stage="faults")
        return {c["cell"]: c for c in result["cells"]}

    measured: Mapping[str, Any] = session.store.once(session.run, f"power {model.name}", make)
    return measured


def _sources(session: Session, model: ModelConfig, cases: Sequence[Case]) -> list[str] | None:
    """The encoded pictures behind the cases, where every case is one."""
    if model.golden is None or not model.golden.is_dir():
        return None
    files = {p.relative_to(model.golden).with_suffix("").as_posix(): str(p) for p in golden_files(model.golden)}
    found = [files.get(case.id, "") for case in cases]
    return found if all(found) and not any(f.endswith(".npz") for f in found) else None
