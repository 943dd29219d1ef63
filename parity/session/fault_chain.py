"""What the chain of proof adds to power: the faults that no figure shows, and that it does.

A fault in the module and the right file differ as the right module and a file with the fault do: every link compares
the two and knows no direction. So each survivor is put into the module, and the cell's own file is proved against that.
Only survivors are: what a figure shows already needs no proof, and a proof takes a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from parity import formats as targets
from parity.core.case import Case, spread
from parity.core.errors import ParityError
from parity.core.plan import Cell
from parity.core.proof import Proof
from parity.core.record import Check, plain
from parity.core.settings import ModelSpec
from parity.faults.power import CellPower
from parity.judging import judge
from parity.judging.gate import passes
from parity.judging.limits import Limit, resolve
from parity.process import serialise
from parity.proof import LIFTED
from parity.proof.messages import ProofRequest
from parity.session.proof import PROVE, proof_of

if TYPE_CHECKING:
    from parity.session.session import Session

OUTSIDE = "it acts before or behind the file, which the chain of proof does not see"
SILENT = "the chain of proof does not show it either"
FACTORY = "parity.faults.faulty:module"


def with_chain(session: Session, cell: Cell, cases: Sequence[Case], found: CellPower) -> CellPower:
    """The cell's power with the kind `static` counted; as it was where the chain does not prove the right file."""
    model = session.config.models[cell.model]
    if not targets.get(cell.target).graph or not model.proof or not found.survivors:
        return found
    limits = resolve(session.config.rules, cell, "")
    try:
        if _broken(proof_of(session, cell, cases), limits):
            return found
        told = {s.fault: _asked(session, cell, cases, s.fault, limits) for s in found.survivors}
    except ParityError:  # the cell's own tests say why there is no file to prove
        return found
    killed = [fault for fault, why in told.items() if not why]
    left = tuple(replace(s, proof=told[s.fault]) for s in found.survivors if s.fault not in killed)
    fates = {name: "killed" if name in killed else fate for name, fate in found.faults.items()}
    kinds = {**found.killed_by_kind, "static": len(killed)} if killed else found.killed_by_kind
    return replace(found, killed=found.killed + len(killed), survivors=left, faults=fates, killed_by_kind=kinds)


def _asked(session: Session, cell: Cell, cases: Sequence[Case], fault: str, limits: Mapping[str, Limit]) -> str:
    """Empty where the cell's file is found not to be the module with this fault, else why it is not. A fault outside
    the module is not tried: a file cannot show what an app does before and behind it."""
    model, artifact = session.config.models[cell.model], session.artifact(cell)
    spec = session.model_spec(model)
    plugins = list(session.config.plugins)
    options = {
        "model": serialise.to_builtins(spec),
        "contract": plain(model.contract),
        "fault": fault,
        "plugins": plugins,
    }
    request = ProofRequest(
        ModelSpec(spec.root, FACTORY, options),
        targets.get(cell.target).graph,
        cell.precision,
        str(artifact.folder),
        artifact.notes,
        [cases[i].inputs for i in spread(len(cases), LIFTED)],
        [o.name for o in model.contract.outputs],
        whole=False,
        held=["local"],  # it is of the file alone, which `proof_of` proved
    )
    session.progress(cell.id, f"prove against {fault}")
    try:
        proof = session.children.call("proof", PROVE, request, Proof, stage="prove")
    except ParityError as error:
        if "acts on the" in str(error):
            return OUTSIDE
        if "no place for" in str(error):
            return SILENT
        raise
    if _broken(proof, limits):
        return ""
    reason = next((link.reason for link in proof.links if link.state == "not possible"), "")
    return f"the chain of proof cannot be made of a module with it ({reason})" if reason else SILENT


def _broken(proof: Proof, limits: Mapping[str, Limit]) -> list[Check]:
    return [c for c in judge.check_proof(proof, limits) if not passes(c)]
