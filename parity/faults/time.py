"""Faults in sequences, tokens, masks and state: what only inputs with a time axis, or more than one call, show."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from parity.faults.base import Array, Evidence, Parameter, Rows, Subject, Value, fault
from parity.faults.inputs import on_floats


@fault("sequence_reversed", "the sequence is fed last frame first", "time", "input")
def sequence_reversed(subject: Subject) -> Subject | None:
    return on_floats(subject, lambda x: x[:, ::-1], ndim=3)


@fault(
    "sequence_late", "the sequence is one frame late (its first frame is seen twice, its last never)", "time", "input"
)
def sequence_late(subject: Subject) -> Subject | None:
    return on_floats(subject, lambda x: np.concatenate([x[:, :1], x[:, :-1]], 1), ndim=3)


@fault("last_frame_missing", "the last frame of the sequence is zero", "time", "input")
def last_frame_missing(subject: Subject) -> Subject | None:
    def cut(x: Array) -> Array:
        x = x.copy()
        x[:, -1] = 0
        return x

    return on_floats(subject, cut, ndim=3)


@fault("time_features_swapped", "a [time, features] buffer is read as [features, time]", "time", "input")
def time_features_swapped(subject: Subject) -> Subject | None:
    def misread(x: Array) -> Array:
        return np.ascontiguousarray(x.swapaxes(1, 2)).reshape(x.shape)

    return on_floats(subject, misread, ndim=3)


@fault("pairs_swapped", "the two coordinates of each key point are exchanged", "time", "input")
def pairs_swapped(subject: Subject) -> Subject | None:
    if any(
        i.dtype.startswith("float") and len(i.shape) == 3 and i.shape[-1] in (0, 1) for i in subject.contract.inputs
    ):
        return None

    def swapped(x: Array) -> Array:
        even = x.shape[-1] // 2 * 2
        pairs = x[..., :even].reshape(*x.shape[:-1], -1, 2)[..., ::-1].reshape(*x.shape[:-1], even)
        return np.concatenate([pairs, x[..., even:]], -1)

    return on_floats(subject, swapped, ndim=3)


@fault("tokens_off_by_one", "token ids are one too low", "time", "input")
def tokens_off_by_one(subject: Subject) -> Subject | None:
    names = [i.name for i in subject.contract.inputs if i.dtype.startswith("int") and len(i.shape) >= 2]
    if not names:
        return None
    return subject.with_inputs(lambda case: {k: np.maximum(v - 1, 0) if k in names else v for k, v in case.items()})


@fault("mask_inverted", "a boolean mask is inverted", "time", "input")
def mask_inverted(subject: Subject) -> Subject | None:
    names = [i.name for i in subject.contract.inputs if i.dtype == "bool"]
    if not names:
        return None
    return subject.with_inputs(lambda case: {k: ~v if k in names else v for k, v in case.items()})


def _inputs(subject: Subject, evidence: Evidence | None) -> list[Value]:
    return [i.name for i in subject.contract.inputs]


@fault("input_folded", "an input is frozen at the first case's value", "time", "input",
       parameter=Parameter("input", choices=_inputs))  # fmt: skip
def input_folded(subject: Subject, name: str) -> Subject | None:
    frozen = subject.inputs[0][name]
    if len(subject.inputs) < 2:
        return None

    def folded(case: Mapping[str, Array]) -> Mapping[str, Array]:
        return {**case, name: frozen if case[name].shape == frozen.shape else case[name]}

    return subject.with_inputs(folded)


@fault("previous_output", "each call gives the output of the call before", "time", "output")
def previous_output(subject: Subject) -> Subject | None:
    return subject.then(lambda rows: [rows[0], *rows[:-1]]) if len(subject.inputs) > 1 else None


@fault("output_frozen", "every call gives the output of the first", "time", "output")
def output_frozen(subject: Subject) -> Subject | None:
    return subject.then(lambda rows: [rows[0]] * len(rows)) if len(subject.inputs) > 1 else None


def _cases(subject: Subject, evidence: Evidence | None) -> list[Value]:
    if evidence is None:
        return [len(subject.inputs) // 2]
    return list(range(1, len(subject.inputs)))


@fault("one_case_stale", "one case gets the output of the case before", "time", "output",
       parameter=Parameter("case", choices=_cases))  # fmt: skip
def one_case_stale(subject: Subject, index: int) -> Subject | None:
    if not 0 < index < len(subject.inputs):
        return None

    def stale(rows: Rows) -> Rows:
        return [rows[index - 1] if i == index else row for i, row in enumerate(rows)]

    return subject.then(stale)


@fault("state_leaks", "a hundredth of the previous case's output is left in the next", "time", "output")
def state_leaks(subject: Subject) -> Subject | None:
    def leak(rows: Rows) -> Rows:
        return [rows[0]] + [
            {k: v + 0.01 * b[k] if v.dtype.kind == "f" and b[k].shape == v.shape else v for k, v in row.items()}
            for b, row in itertools.pairwise(rows)
        ]

    return subject.then(leak) if len(subject.inputs) > 1 else None


@fault("rows_exchanged", "the cases come back in the opposite order", "time", "output")
def rows_exchanged(subject: Subject) -> Subject | None:
    shapes = {tuple(v.shape for v in case.values()) for case in subject.inputs}
    if len(subject.inputs) < 2 or len(shapes) > 1:
        return None
    return subject.then(lambda rows: rows[::-1])
