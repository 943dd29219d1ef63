"""The whole library, evaluated on one model in a child process: what an artefact with each fault would give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from parity.core.case import Array
from parity.core.contract import Contract, InputSpec, OutputSpec, Preprocess
from parity.core.settings import ModelSpec
from parity.faults import attention, benign, graph, inputs, outputs, precision, recurrent, time, weights
from parity.faults.base import Fault, Rows, Subject, Value, rows_of
from parity.faults.bench import UNUSED, Bench, Inapplicable
from parity.faults.trial import Broken, put, ran, untouched, usual
from parity.faults.yardstick import distance
from parity.reference import modelling

FAMILIES = (inputs, time, graph, attention, recurrent, weights, precision, outputs, benign)
SAME = 1e-9
"""Relative rms below which a fault changes nothing: float64 keeps 1e-15 through a sum and 1e-12 through a network."""
SAME_INPUT = 1e-6
"""The same for faults of the input, which arrives in float32 and is computed from pixels again in float32."""
PLAIN = 1e-3
"""Relative rms above which float32 is exact enough to measure a fault by: its own rounding is a thousandth of that."""

State = Literal["changed", "equivalent", "inapplicable", "broken"]


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
        the precision costs the faulty model is taken to be what it costs the right one. Raises Broken.
        """
        if self.fault.where == "output":
            faulty = put(self.fault, right, self.value)
            return ran(self.fault, lambda: _after(faulty, twin), clean)
        return [
            {k: faulty[k] + (t[k] - c[k]) if _comparable(faulty[k], c[k], t[k]) else faulty[k] for k in faulty}
            for faulty, t, c in zip(self.rows, twin, clean, strict=True)
        ]


def contract_of(data: Mapping[str, Any]) -> Contract:
    """The contract from the builtins that `parity.core.record.plain` makes of it."""

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
    model: ModelSpec,
    contract: Contract,
    cases: Sequence[Mapping[str, Array]],
    precision: str,
    sources: Sequence[str | None] | None = None,
) -> Bench:
    return Bench(modelling.load(model), contract, rows_of(cases), precision, sources or ())


def inject(on: Bench, fault: Fault, value: Value | None = None, cases: Sequence[int] | None = None) -> Injected:
    """The fault in the bench's model: evaluated, and found to change what it computes, or not.

    With `cases`, on these alone, where each is run by itself; all are where they are changed together, or where the
    fault changes nothing on these. `rows` are as many as were run.
    A fault of a project's own that raises, or gives no outputs that can be compared, is broken, with the reason.
    """
    try:
        value = usual(fault, on.subject) if value is None else value
        subject = put(fault, on.subject, value)
        if subject is None:
            return Injected(fault, value, "inapplicable", UNUSED, [])
        if not fault.benign and untouched(subject, on.subject):
            return Injected(fault, value, "equivalent", "nothing that is computed is other", on.clean())
        exact = fault.where == "output" or fault.benign
        if exact or subject.after or subject.alone:
            cases = None
        rows, moved = _run(on, fault, subject, exact, cases)
        if moved < PLAIN and not exact:
            rows, moved = _run(on, fault, subject, True, cases)
        if cases is not None and moved < SAME_INPUT:
            rows, moved = _run(on, fault, subject, True, None)
    except Inapplicable as error:
        return Injected(fault, value, "inapplicable", str(error), [])
    except Broken as error:
        return Injected(fault, value, "broken", str(error), [])
    if moved < (SAME_INPUT if fault.where == "input" else SAME) and not fault.benign:
        return Injected(fault, value, "equivalent", "the float64 outputs are the same", rows)
    return Injected(fault, value, "changed", "", rows)


def _run(on: Bench, fault: Fault, subject: Subject, exact: bool, cases: Sequence[int] | None) -> tuple[Rows, float]:
    """The outputs of a subject, and how far they are from those without the fault."""
    clean = on.clean(exact)
    clean = clean if cases is None else [clean[i] for i in cases]
    rows = ran(fault, lambda: on.run(subject, exact, cases), clean)
    return rows, distance(rows, clean)


def injected(on: Bench, faults: Sequence[Fault]) -> Iterator[Injected]:
    """Each fault in turn; one at a time in memory."""
    for fault in faults:
        yield inject(on, fault)


def _after(faulty: Subject | None, rows: Rows) -> Rows:
    for change in faulty.after if faulty else ():
        rows = change(rows)
    return rows


def _comparable(*arrays: Any) -> bool:
    return arrays[0].dtype.kind == "f" and len({a.shape for a in arrays}) == 1
