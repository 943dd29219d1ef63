"""What the chain of proof adds to power: the faults that no figure shows, and that it does.

A fault in the module and the right file differ as the right module and a file with the fault do: every link compares
the two and knows no direction. So each survivor is put into the module, and the cell's own file is proved against that.
Only survivors are: what a figure shows already needs no proof, and a proof takes a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from parity import judge
from parity.cases import Case
from parity.errors import ParityError
from parity.faults.power import CellPower
from parity.gate import passes
from parity.limits import Limit, resolve
from parity.plan import PROVED, Cell
from parity.proof.ask import proof_of
from parity.record import plain

if TYPE_CHECKING:
    from parity.session import Session

CASES = 12  # golden cases that a faulty module is proved on
FACTORY = "parity.faults.faulty:module"


def with_chain(session: Session, cell: Cell, cases: Sequence[Case], found: CellPower) -> CellPower:
    """The cell's power with the kind `static` counted; as it was where the chain does not prove the right file."""
    model = session.config.models[cell.model]
    if cell.target not in PROVED or not model.proof or not found.survivors:
        return found
    limits = resolve(session.config.rules, cell, "")
    try:
        if _broken(proof_of(session, cell, cases), limits):
            return found
        killed = [s.fault for s in found.survivors if _proved_wrong(session, cell, cases, s.fault, limits)]
    except ParityError:  # the cell's own tests say why there is no file to prove
        return found
    left = tuple(s for s in found.survivors if s.fault not in killed)
    fates = {name: "killed" if name in killed else fate for name, fate in found.faults.items()}
    kinds = {**found.killed_by_kind, "static": len(killed)} if killed else found.killed_by_kind
    return replace(found, killed=found.killed + len(killed), survivors=left, faults=fates, killed_by_kind=kinds)


def _proved_wrong(session: Session, cell: Cell, cases: Sequence[Case], fault: str, limits: Mapping[str, Limit]) -> bool:
    """Whether the cell's file is found not to be the module with this fault. A fault outside the module is not tried:
    a file cannot show what an app does before and behind it."""
    model, artifact = session.config.models[cell.model], session.artifact(cell)
    spec = session.model_spec(model)
    plugins = list(session.config.plugins)
    options = {"model": spec, "contract": plain(model.contract), "fault": fault, "plugins": plugins}
    chosen = cases[:: max(1, len(cases) // CASES)][:CASES]
    arguments = {
        "model": {"root": spec["root"], "factory": FACTORY, "options": options, "checkpoint": None},
        "target": cell.target,
        "precision": cell.precision,
        "folder": str(artifact.folder),
        "notes": artifact.notes,
        "cases": [c.inputs for c in chosen],
        "outputs": [o.name for o in model.contract.outputs],
        "whole": False,
    }
    session.progress(cell.id, f"prove against {fault}")
    try:
        return bool(_broken(session.children.call("proof", "parity.proof:prove", arguments, stage="prove"), limits))
    except ParityError as error:
        if "acts on the" in str(error) or "no place for" in str(error):
            return False
        raise


def _broken(found: Mapping[str, Any], limits: Mapping[str, Limit]) -> list[Any]:
    return [c for c in judge.check_proof(found, limits) if not passes(c)]
