"""The twin that a cell's file makes of itself: its own graph, rounded where it rounds, asked of a child and stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity import formats as targets
from parity.core.case import Array, Case, digest
from parity.core.errors import NoTwin, ParityError
from parity.core.plan import Cell
from parity.core.proof import DECISIVE
from parity.formats.target import versions
from parity.process.isolate import ChildFailure
from parity.proof.messages import Placement, PlacementRequest, ProofRequest
from parity.session import rows
from parity.session.proof import proof_of, request_of
from parity.session.runtimes import file_of
from parity.store.code_key import code_key

if TYPE_CHECKING:
    from parity.session.session import Session

PLACE = "parity.proof.placement:evaluate"
PRECISIONS = ("int8", "dynamic", "fp32")  # at which converters choose what they quantise, or compute tables themselves
_HELD = ("local", "range", "copies", "operators")  # links that say nothing of whose graph and weights these are


def placed(session: Session, cell: Cell, cases: Sequence[Case]) -> Placement:
    """Outputs on `cases` of the module as the cell's file quantises it, its grids made from calibration data alone; at
    fp32 with the tables that its converter computed.

    Raises NoTwin where the precision leaves a converter no choice, where match, audit and lift do not all hold, so that
    the file's graph may not be the module's, or where the graph cannot be run so. Raises ChildFailure where the process
    died.
    """
    if cell.precision not in PRECISIONS:
        raise NoTwin(f"what {cell.precision} rounds is no choice of the converter")
    if not _is_the_module(session, cell, cases):
        raise NoTwin("the file is not proved to be the module")
    try:
        return _stored(session, cell, cases)
    except ChildFailure as failure:
        if failure.state != "error" or failure.reason.startswith("MemoryError"):
            raise
        raise NoTwin(str(failure)) from None


def request_for(proof: ProofRequest, cases: Sequence[Mapping[str, Array]]) -> PlacementRequest:
    """What the child is asked for the twin of the file that `proof` asks of, on inputs by the model's names."""
    return PlacementRequest(replace(proof, whole=False, held=_HELD, survey=""), cases)


def _is_the_module(session: Session, cell: Cell, cases: Sequence[Case]) -> bool:
    """Whether the links hold by which the file's graph with the module's weights is the module.

    At fp32 whether the file holds tables, too, that float32 cannot compute as well as it stores them.
    """
    model = session.config.models[cell.model]
    if not targets.get(cell.target).graph or not model.proof:
        return False
    try:
        links = proof_of(session, cell, session.golden_if_any(model) or cases).links
    except ParityError:  # the test of the chain itself says why
        return False
    by_name = {link.name: link for link in links}
    if cell.precision == "fp32" and ("audit" not in by_name or not by_name["audit"].figures.get("computed")):
        return False
    return all(name in by_name and by_name[name].state == "proved" for name in DECISIVE)


def _stored(session: Session, cell: Cell, cases: Sequence[Case]) -> Placement:
    model, artifact = session.config.models[cell.model], session.artifact(cell)
    golden = session.golden_if_any(model) or list(cases)
    calibration = session.quantising(model, cell.precision) or ()
    target = targets.get(cell.target)
    spec = {
        "code": {function: code_key(function) for function in (PLACE, target.graph)},
        "artifact": artifact.record.key,
        "notes": artifact.notes,
        "model": session.fingerprint(model),
        "golden": digest(golden),
        "cases": digest(cases),
        "calibration": digest(calibration),
        "packages": versions(("torch", "numpy", *target.packages)),
    }

    def evaluate(folder: Path) -> Mapping[str, Any]:
        session.progress(cell.id, f"twin of the file, {len(cases)} cases")
        asked = request_of(session, model, cell, artifact, golden)
        request = request_for(replace(asked, calibration=[c.inputs for c in calibration]), [c.inputs for c in cases])
        call = partial(session.children.call, "proof", PLACE, request, Placement, stage="twin of the file")
        placement = session.waiting_once(f"{cell} placement", call, uses=[file_of(cell, artifact)])
        rows.write(folder / "outputs.npz", placement.outputs)
        return {"kinds": dict(placement.kinds), "weights": placement.weights}

    entry = session.store.build(spec, f"{cell.id}~placement", evaluate, rebuild_since=session.rebuild_since)
    names = [output.name for output in model.contract.outputs]
    outputs = rows.read(entry.folder / "outputs.npz", len(cases), names)
    return Placement(outputs, entry.notes["kinds"], entry.notes["weights"])
