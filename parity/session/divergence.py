"""The first divergence of a failing cell, asked of a child process, and what it says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parity import formats as targets
from parity.core.case import Array, Case
from parity.core.plan import Cell
from parity.core.proof import Proof
from parity.core.record import Divergence, Drift
from parity.divergence import Bounds, DivergenceRequest, Located
from parity.judging import answer
from parity.judging.floor import natural
from parity.session.evaluations import Reference
from parity.session.proof import proof_if_any
from parity.session.session import Session


def first_divergence(
    session: Session, cell: Cell, cases: Sequence[Case], got: Sequence[Mapping[str, Array]], oracle: Reference
) -> tuple[Divergence | None, tuple[Drift, ...], str]:
    """(the first divergence, the drift curve, what to say), on the case whose outputs `got` are furthest off.

    Where the session has a folder for sub-models, the step is saved there. Raises ParityError where the child fails.
    """
    steps = targets.get(cell.target).steps
    if not steps:
        return None, (), f"no first divergence: no way to run {cell.target} files step by step"
    model, artifact = session.config.models[cell.model], session.artifact(cell)
    case = cases[_worst(got, oracle.outputs)]
    measured = natural(cell.target, cell.precision)
    folder = session.submodels / cell.id if session.submodels else None
    session.progress(cell.id, "first divergence")
    proof = proof_if_any(session, cell, cases)
    request = DivergenceRequest(
        session.model_spec(model),
        steps,
        cell.precision,
        str(artifact.folder),
        artifact.notes,
        case.inputs,
        [o.name for o in model.contract.outputs],
        measured.flavour if measured else None,
        [c.inputs for c in session.quantising(model, cell.precision) or ()],
        str(folder) if folder else None,
        bounds_of(proof) if proof is not None else None,
    )
    located = session.children.call("proof", "parity.divergence:locate", request, Located, stage="divergence")
    drift = tuple(located.drift)
    if located.reason:
        return None, drift, f"no first divergence: {located.reason}"
    if located.divergence is None:
        return None, drift, f"no step of the file introduces more than {cell.precision} costs on {case.id}"
    divergence = located.divergence
    source = _relative(divergence.source, session.config.root)
    saved = str(folder / located.submodel) if folder and located.submodel else ""
    divergence = replace(divergence, source=source, case=case.id, submodel=saved)
    return divergence, drift, sentence(divergence)


def bounds_of(proof: Proof) -> Bounds | None:
    """Where the failed links of a chain of proof say that the fault is; None where they name no place in the module."""
    culprits = [culprit for link in proof.links if link.state == "failed" for culprit in link.culprits]
    tensors = tuple(dict.fromkeys(culprit.name for culprit in culprits if culprit.kind == "tensor"))
    if tensors:
        return Bounds(tensors)
    structure = next((c for c in culprits if c.kind == "structure" and (c.after or c.before)), None)
    return Bounds(after=structure.after, before=structure.before) if structure is not None else None


def _relative(source: str, root: Path) -> str:
    """A line of a source file, `file.py:12`, as seen from the project's root where it lies below."""
    file, _, line = source.rpartition(":")
    if file and Path(file).is_relative_to(root):
        return f"{Path(file).relative_to(root)}:{line}"
    return source


def sentence(told: Divergence) -> str:
    """The divergence in words, for the terminal and the report's findings."""
    text = f"first divergence: {answer.place(told)}: {answer.introduces(told)}"
    return text + (f"; saved as {told.submodel}" if told.submodel else "")


def _worst(got: Sequence[Mapping[str, Array]], want: Sequence[Mapping[str, Array]]) -> int:
    """The case whose outputs are furthest off, in units of the output's own size; one that is not finite is worst."""

    def off(index: int) -> float:
        worst = 0.0
        for name, right in want[index].items():
            value: Any = got[index].get(name)
            if value is None or value.shape != right.shape:
                return float("inf")
            with np.errstate(over="ignore", invalid="ignore"):
                error = float(np.abs(np.where(value == right, 0.0, value - right)).max(initial=0.0))
            size = float(np.abs(np.where(np.isfinite(right), right, 0.0)).max(initial=0.0)) or 1.0
            worst = max(worst, error / size if np.isfinite(error) else float("inf"))
        return worst

    return max(range(len(want)), key=off)
