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
from parity.core.record import Divergence, Drift, build
from parity.judging.floor import natural
from parity.session.evaluations import Reference
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
    quantised = cell.precision == "int8" and model.calibration is not None
    folder = session.submodels / cell.id if session.submodels else None
    session.progress(cell.id, "first divergence")
    found = session.children.call_with(
        "proof",
        "parity.divergence:locate",
        {
            "model": session.model_spec(model),
            "steps": steps,
            "precision": cell.precision,
            "folder": str(artifact.folder),
            "notes": artifact.notes,
            "case": case.inputs,
            "outputs": [o.name for o in model.contract.outputs],
            "flavour": measured.flavour if measured else None,
            "calibration": [c.inputs for c in session.calibration(model)] if quantised else [],
            "submodel": str(folder) if folder else None,
        },
        stage="divergence",
    )
    drift = tuple(build(Drift, d) for d in found["drift"])
    if found["reason"]:
        return None, drift, f"no first divergence: {found['reason']}"
    if found["divergence"] is None:
        return None, drift, f"no step of the file introduces more than {cell.precision} costs on {case.id}"
    told = build(Divergence, found["divergence"])
    file, _, line = told.source.rpartition(":")
    root = session.config.root
    source = f"{Path(file).relative_to(root)}:{line}" if file and Path(file).is_relative_to(root) else told.source
    saved = str(folder / found["submodel"]) if folder and found["submodel"] else ""
    told = replace(told, source=source, case=case.id, submodel=saved)
    return told, drift, sentence(told)


def sentence(told: Divergence) -> str:
    """The divergence in words, for the terminal and the report's findings."""
    share = "values that are no counterpart of the module's" if told.introduced is None else f"{told.introduced:.2g}"
    text = f"first divergence: {told.layer or 'outside every module'}" + (f" ({told.source})" if told.source else "")
    text += f": {told.operator} introduces {share}"
    if told.introduced is not None and told.allowed is not None:
        text += f", where its precision allows {told.allowed:.2g}"
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
