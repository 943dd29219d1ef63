"""The whole library, evaluated on one model in a child process: what an artefact with each fault would give."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from parity import modelling
from parity.child import stage
from parity.contract import Contract, InputSpec, OutputSpec, Preprocess
from parity.faults import attention, benign, graph, inputs, outputs, precision, recurrent, time, weights
from parity.faults.base import Fault, Row, Rows, Subject, Value, registered
from parity.faults.bench import UNUSED, Bench, Inapplicable
from parity.record import plain

FAMILIES = (inputs, time, graph, attention, recurrent, weights, precision, outputs, benign)
SAME = 1e-9
"""Relative rms below which a fault changes nothing: float64 keeps 1e-15 through a sum and 1e-12 through a network."""
SAME_INPUT = 1e-6
"""The same for faults of the input, which arrives in float32 and is computed from pixels again in float32."""
PLAIN = 1e-3
"""Relative rms above which float32 is exact enough to measure a fault by: its own rounding is a thousandth of that."""

State = Literal["changed", "equivalent", "inapplicable"]


@dataclass(frozen=True)
class Injected:
    """One fault in one model. `rows` are its outputs in exact arithmetic, empty where it has no place."""

    fault: Fault
    value: Value | None
    state: State
    reason: str
    rows: Rows

    def behind(self, twin: Rows, clean: Rows, right: Subject) -> Rows:
        """What an artefact of `right`'s precision with this fault would give, from the outputs of the precision's twin.

        A fault of the outputs acts on the twin's own. To any other the twin's rounding error is added as it is: what
        the precision costs the faulty model is taken to be what it costs the right one.
        """
        if self.fault.where == "output":
            faulty = self.fault.on(right, self.value)
            for change in faulty.after if faulty else ():
                twin = change(twin)
            return twin
        return [
            {k: faulty[k] + (t[k] - c[k]) if _comparable(faulty[k], c[k], t[k]) else faulty[k] for k in faulty}
            for faulty, t, c in zip(self.rows, twin, clean, strict=True)
        ]


def load(plugins: Sequence[str] = ()) -> None:
    """Import the modules in which a project registers faults of its own; the built-in ones are imported already."""
    for name in plugins:
        importlib.import_module(name)


def contract_of(data: Mapping[str, Any]) -> Contract:
    """The contract from the builtins that `parity.record.plain` makes of it."""

    def tuples(value: Any) -> Any:
        return tuple(tuples(v) for v in value) if isinstance(value, list) else value

    def built(cls: Any, fields: Mapping[str, Any]) -> Any:
        return cls(**{k: tuples(v) for k, v in fields.items()})

    how = data.get("preprocess")
    return Contract(
        tuple(built(InputSpec, i) for i in data["inputs"]),
        tuple(built(OutputSpec, o) for o in data["outputs"]),
        built(Preprocess, how) if how else None,
        {k: tuple(v) for k, v in (data.get("dims") or {}).items()},
    )


def bench(
    model: Mapping[str, Any],
    contract: Mapping[str, Any],
    cases: Sequence[Row],
    precision: str,
    sources: Sequence[str | None] | None = None,
) -> Bench:
    return Bench(modelling.load(model), contract_of(contract), cases, precision, sources or ())


def inject(on: Bench, fault: Fault, value: Value | None = None) -> Injected:
    """The fault in the bench's model: evaluated, and found to change what it computes, or not."""
    try:
        value = fault.usual(on.subject) if value is None else value
        subject = fault.on(on.subject, value)
        if subject is None:
            return Injected(fault, value, "inapplicable", UNUSED, [])
        rows = on.run(subject, exact=fault.where == "output" or fault.benign)
        moved = distance(rows, on.clean(fault.where == "output" or fault.benign))
        if moved < PLAIN and not fault.benign and fault.where != "output":
            rows = on.run(subject)
            moved = distance(rows, on.clean())
    except Inapplicable as error:
        return Injected(fault, value, "inapplicable", str(error), [])
    if moved < (SAME_INPUT if fault.where == "input" else SAME) and not fault.benign:
        return Injected(fault, value, "equivalent", "the float64 outputs are the same", rows)
    return Injected(fault, value, "changed", "", rows)


def injected(on: Bench, faults: Sequence[Fault]) -> Iterator[Injected]:
    """Each fault in turn; one at a time in memory."""
    for fault in faults:
        yield inject(on, fault)


def distance(rows: Rows, clean: Rows) -> float:
    """Relative rms of the difference on the output where it is largest; infinite where shape or finiteness differ."""
    worst = 0.0
    for name in clean[0]:
        pairs = [(row[name], right[name]) for row, right in zip(rows, clean, strict=True)]
        if any(a.shape != b.shape or (np.isfinite(a) != np.isfinite(b)).any() for a, b in pairs):
            return float("inf")
        error = [
            np.where(np.isfinite(b), a - b, 0.0) if a.dtype.kind == "f" else (a != b).astype(float) for a, b in pairs
        ]
        size = sum(float(np.square(np.where(np.isfinite(b), b, 0.0), dtype=np.float64).sum()) for _, b in pairs)
        moved = sum(float(np.square(e).sum()) for e in error)
        worst = max(worst, (moved / size) ** 0.5 if size else float(moved > 0))
    return worst


def _comparable(*arrays: Any) -> bool:
    return arrays[0].dtype.kind == "f" and len({a.shape for a in arrays}) == 1


def evaluate(
    model: Mapping[str, Any],
    contract: Mapping[str, Any],
    cases: Sequence[Row],
    precision: str = "fp32",
    faults: Sequence[str] | None = None,
    twin: Rows | None = None,
    sources: Sequence[str | None] | None = None,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """What an artefact with each fault would give for `cases`: {"faults": [...], "outputs": {fault: rows}, "clean"}.

    `contract` is `plain(contract)`. With `twin`, the precision's noise is in the outputs; without, they are exact.
    `faults` names some of those that occur at this precision; None takes all. Each entry of "faults" has name,
    sentence, value, family, where, benign, and state: changed, equivalent (float64 outputs are the same) or
    inapplicable (the model has no place for it), with the reason.
    """
    stage("faults")
    load(plugins)
    on = bench(model, contract, cases, precision, sources)
    entries, found = [], {}
    for one in injected(on, registered(precision, faults)):
        entries.append(described(one))
        if one.state == "changed":
            found[one.fault.name] = one.rows if twin is None else one.behind(twin, on.clean(), on.subject)
    return {"faults": entries, "outputs": found, "clean": on.clean(), "note": on.note}


def described(one: Injected) -> dict[str, Any]:
    """An injected fault as builtins."""
    f = one.fault
    return {
        "name": f.name, "sentence": f.say(one.value), "value": plain(one.value), "family": f.family, "where": f.where,
        "benign": f.benign, "state": one.state, "reason": one.reason,
    }  # fmt: skip
