"""One fault tried on a bench: an operator may fail in any way, and that is told in one line; the others go on.

Where the model does not run with a built-in operator, the model has no place for it. One of a project's own that stops
the model, and any that raises or gives what are no outputs, is broken. In a child process only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from parity.faults.base import Array, Evidence, Fault, Rows, Subject, Value
from parity.faults.bench import UNUSED, Inapplicable
from parity.faults.extra import foreign, said

T = TypeVar("T")


class Broken(Exception):
    """The fault itself fails; the text says how, in one line."""


def put(fault: Fault, subject: Subject, value: Value | None) -> Subject | None:
    """The subject with the fault, None where it has no place. Raises Broken."""
    found: object = _tried(lambda: fault.on(subject, value))
    if found is not None and not isinstance(found, Subject):
        raise Broken(f"it gave a {type(found).__name__}, not a Subject or None")
    return found


def untouched(subject: Subject, right: Subject) -> bool:
    """Whether a fault left everything as it was: transparency, say, where no picture has any. Raises Broken."""
    if subject.patches or subject.tensors or subject.after or subject.single:
        return False
    return len(subject.inputs) == len(right.inputs) and _tried(
        lambda: all(_equal(a, b) for a, b in zip(subject.inputs, right.inputs, strict=True))
    )


def _equal(case: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    return case.keys() == other.keys() and all(
        case[k].dtype == other[k].dtype and np.array_equal(case[k], other[k]) for k in other
    )


def usual(fault: Fault, subject: Subject) -> Value | None:
    """The value at which the fault is injected. Raises Broken."""
    return _tried(lambda: fault.usual(subject))


def choices(fault: Fault, subject: Subject, evidence: Evidence) -> Sequence[Value]:
    """The values of a parameter that are tried one by one; none where it is a number to fit. Raises Broken."""
    offered = fault.parameter.choices if fault.parameter else None
    return _tried(lambda: list(offered(subject, evidence))) if offered else ()


def ran(fault: Fault, run: Callable[[], Rows], clean: Rows) -> Rows:
    """The rows that `run` gives, each with the outputs of `clean`. Raises Inapplicable or Broken."""
    rows = _tried(run, fault)
    wrong = _wrong(rows, clean) if foreign(fault.apply) else ""
    if wrong:
        raise Broken(wrong)
    return rows


def _tried(call: Callable[[], T], fault: Fault | None = None) -> T:
    try:
        return call()
    except Inapplicable as error:
        if fault is None or not foreign(fault.apply) or str(error) == UNUSED:
            raise
        raise Broken(str(error)) from error
    except Exception as error:
        raise Broken(said(error)) from error


def _wrong(rows: object, clean: Rows) -> str:
    """Why these are no outputs; empty where they are. Another shape or dtype is a fault like any other."""
    if not isinstance(rows, (list, tuple)) or len(rows) != len(clean):
        return f"it gave no list of {len(clean)} cases"
    for row, right in zip(rows, clean, strict=True):
        if not isinstance(row, Mapping):
            return f"it gave a case as {type(row).__name__}, not as outputs by name"
        other = sorted(set(row) ^ set(right))
        if other:
            return f"it {'dropped' if other[0] in right else 'invented'} the output {other[0]!r}"
        for name, value in row.items():
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
                kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
                return f"{name}: it gave {kind}, not an array of real numbers"
    return ""
