"""The references that a project stores for its golden cases, against the oracle as it is now."""

from __future__ import annotations

from collections.abc import Sequence

from parity.cases import references
from parity.core.case import Case
from parity.core.errors import ParityError
from parity.judging import judge
from parity.judging.single import distance, size_of
from parity.session.evaluations import Reference
from parity.session.session import Runtime
from parity.suite.recorder import Recorder

DRIFT = 1e-9  # of the output's rms: float64 on another machine, or by another torch, may round otherwise


def check_references(
    runtime: Runtime, cases: Sequence[Case], oracle: Reference, parity: Recorder, update: bool
) -> None:
    """The oracle is still the stored one on every case. Raises ParityError where a reference is absent or stale."""
    session = runtime.session
    model = session.config.models[runtime.cell.model]
    if model.references is None:
        return
    made_from = references.origin(session.fingerprint(model), model.contract)
    every = session.golden(model)

    def renew() -> str:
        found = references.compare(_old(model.references), every, made_from)
        rows = session.reference(model, every).outputs
        assert model.references is not None
        references.write(model.references, every, rows, made_from)
        return found.written()

    if update:
        written = session.store.once(session.run, f"references {model.name}", renew)
        parity.find(f"references of {model.name} written: {written}; review and commit them")
    stored = references.read(model.references)
    found = references.compare(stored, every, made_from)
    why = references.stale(model.name, stored, found, made_from)
    if why:
        raise ParityError(why)
    assert stored is not None
    if found.unused:
        parity.find(f"unused references of {model.name}, of no golden case: {', '.join(found.unused[:5])}", "warning")
    limit = 1e-3 if oracle.dtype == "float32" else DRIFT
    for case, row in zip(cases, oracle.outputs, strict=True):
        for name, want in row.items():
            held = stored.outputs[case.id].get(name)
            same = held is not None and held.shape == want.shape
            drift = distance(held, want) / (size_of(want) or 1.0) if held is not None and same else 1.0
            detail = "the oracle now against the stored reference" + ("" if same else ": it has another shape")
            parity.add(judge.limited("golden", case.id, "reference_drift", drift, limit, detail, name))


def _old(folder: object) -> references.Stored | None:
    """What is stored now; a damaged folder counts as none, for it is about to be written anew."""
    from pathlib import Path

    assert isinstance(folder, Path)
    try:
        return references.read(folder)
    except ParityError:
        return None
