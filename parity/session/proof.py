"""The chain of proof of a cell's artefact, asked of a child process and kept in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import formats as targets
from parity.core.case import Array, Case, digest, spread
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.proof import Proof
from parity.formats.target import versions
from parity.process import serialise
from parity.process.isolate import ChildFailure
from parity.proof import LIFTED
from parity.proof.messages import EDITED, TRACING, ProofRequest
from parity.session.runtimes import file_of
from parity.store.code_key import code_key

if TYPE_CHECKING:
    from parity.core.settings import ModelConfig
    from parity.session.artefacts import Artifact
    from parity.session.session import Session

PROVE = "parity.proof:prove"


def proved(session: Session, cell: Cell, cases: Sequence[Case]) -> bool:
    """Whether the chain of proof on golden `cases` is complete; False where there can be none."""
    proof = proof_if_any(session, cell, cases)
    return proof is not None and proof.complete


def proof_if_any(session: Session, cell: Cell, cases: Sequence[Case]) -> Proof | None:
    """The chain of proof on golden `cases`; None where there can be none, or it was switched off."""
    if not cases or not targets.get(cell.target).graph or not session.config.models[cell.model].proof:
        return None
    try:
        return proof_of(session, cell, cases)
    except ParityError:  # the test of the chain itself says why
        return None


def decides(session: Session, cell: Cell, cases: Sequence[Case]) -> Mapping[str, Any]:
    """What the chain read of what the cell's file and the module decide by, the figures of its link `operators`: whole
    numbers at which either may go another way (`thresholds`), and decisions of the module that the file does not hold
    (`absent`). Empty where nothing read them."""
    return _figures(session, cell, cases, "operators") if targets.get(cell.target).survey else {}


def unaudited(session: Session, cell: Cell, cases: Sequence[Case]) -> dict[str, int]:
    """The inputs that choose rows of tables which the chain of proof could not audit, with the number of rows."""
    figures = _figures(session, cell, cases, "copies") if targets.get(cell.target).graph else {}
    return dict(figures.get("unaudited", {}))


def _figures(session: Session, cell: Cell, cases: Sequence[Case], name: str) -> Mapping[str, Any]:
    """The figures of a link of the chain; empty where it was not made, or there is no chain."""
    if not cases:
        return {}
    try:
        links = proof_of(session, cell, cases).links
    except ParityError:  # the test of the chain itself says why
        return {}
    return next((link.figures for link in links if link.name == name and link.state != "not possible"), {})


def proved_on(session: Session, cell: Cell, case: Case) -> str:
    """The lift of the cell's artefact on one input that is not golden, in words; empty where it does not hold.

    Ranges are left out: they were calibrated for golden data, and an input beyond them costs what its precision does.
    """
    model, artifact = session.config.models[cell.model], session.artifact(cell)
    session.progress(cell.id, f"prove on {case.id}")
    request = replace(
        request_of(session, model, cell, artifact, [case]), whole=False, held=("range", "copies"), survey=""
    )
    try:
        proof = _asked(session, request)
    except ParityError:
        return ""
    return proof.summary if proof.complete else ""


def _asked(session: Session, request: ProofRequest) -> Proof:
    """The proof, by a child.

    A crash of torch while it traces the module says nothing of the file: the module is traced in the next type then,
    and in the end not at all. Nor does a crash of the runtime on what a link made of the file: if it ends on the file
    itself, the tests that run it say so. Either leaves links unmade. Raises ChildFailure for others.
    """
    try:
        return session.children.call("proof", PROVE, request, Proof, stage="prove")
    except ChildFailure as failure:
        if failure.state != "crash":
            raise
        if failure.stage == TRACING and request.traced:
            return _asked(session, replace(request, traced=request.traced[1:]))
        if failure.stage in EDITED and failure.stage not in request.ended:
            reason = f"the runtime ends the process on what the link makes of the file: {failure.reason}"
            return _asked(session, replace(request, ended={**request.ended, failure.stage: reason}))
        raise


def request_of(
    session: Session, model: ModelConfig, cell: Cell, artifact: Artifact, cases: Sequence[Case]
) -> ProofRequest:
    """What is asked of the chain of proof for an artefact on `cases`."""
    target = targets.get(cell.target)
    return ProofRequest(
        session.model_spec(model),
        target.graph,
        cell.precision,
        str(artifact.folder),
        artifact.notes,
        [c.inputs for c in cases],
        [o.name for o in model.contract.outputs],
        survey=target.survey,
        constants=target.constants,
        reference_constants=_reader_of_reference(model),
        off=not model.proof,
    )


def _wants(session: Session, model: ModelConfig, cases: Sequence[Case]) -> list[Mapping[str, Array]]:
    """The oracle's outputs of the golden cases that the lift is run on, empty for the others: the child of the proof
    would hold another float64 copy of the model to make them again."""
    chosen = set(spread(len(cases), LIFTED))
    rows = session.reference(model, cases).outputs
    return [row if i in chosen else {} for i, row in enumerate(rows)]


def _reader_of_reference(model: ModelConfig) -> str:
    """What reads the constants of the file that takes the model's place; empty where there is none."""
    target = targets.recognised(model.reference) if model.reference is not None else None
    return target.constants if target is not None else ""


def proof_of(session: Session, cell: Cell, cases: Sequence[Case]) -> Proof:
    """The chain of proof of the cell's artefact on golden `cases`, made once for the same file, model and cases."""
    model, artifact = session.config.models[cell.model], session.artifact(cell)
    target = targets.get(cell.target)
    calibrated = cell.precision == "int8" and model.calibration is not None
    calibration = session.calibration(model) if calibrated else []
    parts = (PROVE, target.graph, target.survey, target.constants, _reader_of_reference(model))
    spec: dict[str, Any] = {
        "code": {function: code_key(function) for function in parts if function},
        "artifact": artifact.record.key,
        "notes": artifact.notes,  # kernels; and what the user says a prebuilt file calls its inputs
        "model": session.fingerprint(model),
        "cases": digest(cases),
        "calibration": digest(calibration),
        "packages": versions(("torch", "numpy", *target.packages)),
    }
    if not model.proof:
        spec["off"] = True

    def prove(folder: Path) -> Mapping[str, Any]:
        session.progress(cell.id, "prove")
        request = request_of(session, model, cell, artifact, cases)
        request = replace(request, calibration=[c.inputs for c in calibration], wants=_wants(session, model, cases))
        proof = session.waiting_once(f"{cell} proof", partial(_asked, session, request), uses=[file_of(cell, artifact)])
        return dict(serialise.to_builtins(proof))

    name, since = f"{cell.id}~proof", session.rebuild_since
    entry = session.store.build(spec, name, prove, rebuild_since=since)
    return serialise.from_builtins(Proof, entry.notes)
