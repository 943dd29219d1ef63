"""Inputs that gradients lead to, for a session's models: what they are driven from, made once and kept in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from parity.cases.recipes import Fill, Recipe, family
from parity.core.case import Case, digest, spread
from parity.core.contract import Contract
from parity.core.settings import ModelConfig
from parity.formats.target import versions
from parity.process.isolate import ChildFailure
from parity.reference.messages import Driven, DrivingRequest
from parity.session import rows
from parity.session.session import Session
from parity.store.cache import Entry, key_of
from parity.store.code_key import code_key

DRIVE = "parity.reference.driving:drive"
BASES = 3  # inputs to begin from
MOST_MEASURED = 32  # inputs whose choices are looked at, evenly spread
MEASURED_BYTES = 64 << 20  # of those


@dataclass(frozen=True)
class DrivenCases:
    """Inputs to be measured besides; `note` says why there are none."""

    cases: Sequence[Case] = ()
    note: str = ""


def driven(
    session: Session, model: ModelConfig, golden: Sequence[Case], measured: Sequence[Recipe], places: Sequence[str] = ()
) -> DrivenCases:
    """The driven inputs of a model, at the sizes of its export example: to `places` of bounds, where some are given."""
    contract = model.contract
    ranges = {spec.name: _range(contract, spec.name) for spec in contract.inputs if family(spec) == "float"}
    if not ranges:
        return DrivenCases()
    cases = [*golden, *(recipe.case(contract) for recipe in measured)]
    size = max((sum(value.nbytes for value in case.inputs.values()) for case in cases), default=1)
    some = [cases[i] for i in spread(len(cases), min(MOST_MEASURED, max(MEASURED_BYTES // max(size, 1), 1)))]
    bases = _bases(contract, golden)
    request = DrivingRequest(
        session.model_spec(model), [case.inputs for case in bases], [case.inputs for case in some], ranges, places
    )
    spec = {
        "drives": ranges,
        "places": list(places),
        "model": session.fingerprint(model),
        "bases": digest(bases),
        "measured": digest(some),
        "code": code_key(DRIVE),
        "packages": versions(("torch", "numpy")),
    }
    try:
        return _stored(session, model, request, spec)
    except ChildFailure as failure:  # the checks of the model itself say more
        return DrivenCases(note=failure.reason)


def _range(contract: Contract, name: str) -> tuple[float, float]:
    """The range that inputs are drawn from."""
    (spec,) = (spec for spec in contract.inputs if spec.name == name)
    names = Fill("").names(spec, ())
    return float(names["lo"]), float(names["hi"])


def _bases(contract: Contract, golden: Sequence[Case]) -> list[Case]:
    """Golden cases of the example's sizes; drawn ones where there are none."""
    dims = contract.example()
    shapes = {spec.name: spec.sized(dims) for spec in contract.inputs}
    fitting = [case for case in golden if all(case.inputs[n].shape == shape for n, shape in shapes.items())]
    if fitting:
        return [fitting[i] for i in spread(len(fitting), BASES)]
    kinds = {spec.name: "all" if family(spec) == "mask" else "uniform" for spec in contract.inputs}
    return [Recipe({n: Fill(k, seed) for n, k in kinds.items()}, dims).case(contract) for seed in range(BASES)]


def _stored(session: Session, model: ModelConfig, request: DrivingRequest, spec: Mapping[str, Any]) -> DrivenCases:
    def make(folder: Path) -> Mapping[str, Any]:
        session.progress(model.name, "driving its inputs")
        call = partial(session.children.call, "torch", DRIVE, request, Driven, stage="oracle")
        made: Driven = session.waiting_once(f"driving {model.name}", call)
        rows.write(folder / "inputs.npz", made.rows)
        return {"words": list(made.words), "note": made.note, "reads": asdict(made.reads)}

    def is_current(entry: Entry) -> bool:
        return not session.changed_reads(entry.notes["reads"])

    name = f"{model.name}~driven-{key_of(spec)[:12]}"
    entry = session.store.build(spec, name, make, rebuild_since=session.rebuild_since, accepts=is_current)
    session.note_reads(model, entry.notes["reads"])
    names = [spec.name for spec in model.contract.inputs]
    inputs = rows.read(entry.folder / "inputs.npz", len(entry.notes["words"]), names)
    cases = []
    for words, row in zip(entry.notes["words"], inputs, strict=True):
        mark = digest([Case("", row)])[:8]
        cases.append(Case(f"driven to the {words} ~{mark}", row))
    return DrivenCases(cases, entry.notes["note"])
