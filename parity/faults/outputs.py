"""Faults in what is done with the outputs: order of classes and names, softmax, scale, single wrong values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from parity.core.contract import OutputSpec
from parity.faults.base import Array, Evidence, Parameter, Rows, Subject, Value, fault


def floats(subject: Subject) -> list[str]:
    """Outputs that are not declared to be decisions only; their arrays are floats or are left alone."""
    return [o.name for o in subject.contract.outputs]


def on_outputs(subject: Subject, names: list[str], change: Callable[[Array], Array]) -> Subject | None:
    """The subject with `change` applied to every float array of the named outputs."""
    if not names:
        return None

    def changed(rows: Rows) -> Rows:
        return [
            {k: np.asarray(change(v)) if k in names and v.dtype.kind == "f" else v for k, v in row.items()}
            for row in rows
        ]

    return subject.then(changed)


def _deciding(subject: Subject, kind: str | None = None) -> list[str]:
    return [o.name for o in subject.deciding() if kind in (None, o.kind)]


def softmax(x: Array) -> Array:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def log_softmax(x: Array) -> Array:
    shifted = x - x.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def _pairs(subject: Subject, evidence: Evidence | None) -> list[Value]:
    """First and last class; with evidence, the two columns that are nearest to each other's."""
    if evidence is None:
        return [(0, -1)]
    found: list[Value] = []
    for spec in subject.deciding():
        order = nearest_columns(spec, evidence)
        moved = [i for i, j in enumerate(order) if i != j]
        if len(moved) == 2:
            found.append((moved[0], moved[1]))
    return found


def nearest_columns(spec: OutputSpec, evidence: Evidence) -> list[int]:
    """For each observed class, the class without the fault that it is nearest to over all cases."""
    clean = np.concatenate([row[spec.name].reshape(-1, row[spec.name].shape[-1]) for row in evidence.clean])
    seen = np.concatenate([row[spec.name].reshape(-1, row[spec.name].shape[-1]) for row in evidence.observed])
    if clean.shape != seen.shape or clean.shape[-1] > 4096:
        return []
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.square(clean).sum(0)[None] + np.square(seen).sum(0)[:, None] - 2 * seen.T @ clean
    return [int(i) for i in np.argmin(np.nan_to_num(distance, nan=np.inf), 1)]


@fault("classes_swapped", "two classes are exchanged", "output", "output",
       parameter=Parameter("classes", choices=_pairs))  # fmt: skip
def classes_swapped(subject: Subject, classes: tuple[int, int]) -> Subject | None:
    def swapped(x: Array) -> Array:
        x = x.copy()
        x[..., list(classes)] = x[..., list(reversed(classes))]
        return x

    return on_outputs(subject, _deciding(subject), swapped)


@fault("labels_rotated", "class numbers are off by one, as with a background class", "output", "output")
def labels_rotated(subject: Subject) -> Subject | None:
    return on_outputs(subject, _deciding(subject), lambda x: np.roll(x, 1, -1))


@fault("labels_reversed", "classes are in the opposite order", "output", "output")
def labels_reversed(subject: Subject) -> Subject | None:
    return on_outputs(subject, _deciding(subject), lambda x: x[..., ::-1])


@fault("logits_scaled", "scores are five per cent too large", "output", "output")
def logits_scaled(subject: Subject) -> Subject | None:
    return on_outputs(subject, _deciding(subject), lambda x: 1.05 * x)


@fault("softmax_added", "softmax is applied to logits", "output", "output")
def softmax_added(subject: Subject) -> Subject | None:
    return on_outputs(subject, _deciding(subject, "logits"), softmax)


@fault("softmax_missing", "probabilities come without their softmax", "output", "output")
def softmax_missing(subject: Subject) -> Subject | None:
    return on_outputs(subject, _deciding(subject, "probs"), lambda x: np.log(np.maximum(x, 1e-300)))


@fault("softmax_doubled", "softmax is applied twice", "output", "output")
def softmax_doubled(subject: Subject) -> Subject | None:
    return on_outputs(subject, _deciding(subject, "probs"), softmax)


@fault("log_softmax_added", "log-softmax is applied to logits", "output", "output")
def log_softmax_added(subject: Subject) -> Subject | None:
    return on_outputs(subject, _deciding(subject, "logits"), log_softmax)


@fault("temperature", "scores are divided by a temperature before softmax", "output", "output",
       parameter=Parameter("temperature", usual=1.5, low=0.1, high=10.0, log=True, neutral=1.0))  # fmt: skip
def temperature(subject: Subject, value: float) -> Subject | None:
    return on_outputs(subject, _deciding(subject, "probs"), lambda x: softmax(np.log(np.maximum(x, 1e-300)) / value))


@fault("output_gain", "the outputs are multiplied by a constant", "output", "output",
       parameter=Parameter("gain", usual=0.97, low=0.001, high=1000.0, log=True, neutral=1.0))  # fmt: skip
def output_gain(subject: Subject, gain: float) -> Subject | None:
    return on_outputs(subject, floats(subject), lambda x: x * gain)


@fault("output_offset", "a constant is added to the outputs", "output", "output",
       parameter=Parameter("offset", usual=0.05, low=-1000.0, high=1000.0, neutral=0.0))  # fmt: skip
def output_offset(subject: Subject, offset: float) -> Subject | None:
    return on_outputs(subject, floats(subject), lambda x: x + offset)


@fault("output_negated", "the outputs have the opposite sign", "output", "output")
def output_negated(subject: Subject) -> Subject | None:
    return on_outputs(subject, floats(subject), lambda x: -x)


@fault("output_clipped", "the outputs are clipped below at zero (an activation too many)", "output", "output")
def output_clipped(subject: Subject) -> Subject | None:
    return on_outputs(subject, floats(subject), lambda x: np.maximum(x, 0.0))


@fault("output_decided", "the outputs are one-hot decisions", "output", "output")
def output_decided(subject: Subject) -> Subject | None:
    return on_outputs(subject, _deciding(subject), lambda x: (x == x.max(-1, keepdims=True)).astype(x.dtype))


@fault("output_transposed", "the last two axes of an output are exchanged", "output", "output")
def output_transposed(subject: Subject) -> Subject | None:
    def transposed(x: Array) -> Array:
        return x.swapaxes(-1, -2) if x.ndim >= 3 and x.shape[-1] == x.shape[-2] else x

    return on_outputs(subject, [o.name for o in subject.contract.outputs if not o.decides], transposed)


@fault("box_corners_centres", "boxes come as centre and size instead of as corners", "output", "output")
def box_corners_centres(subject: Subject) -> Subject | None:
    def centred(x: Array) -> Array:
        if x.shape[-1] < 4:
            return x
        low, high = x[..., :2], x[..., 2:4]
        return np.concatenate([(low + high) / 2, high - low, x[..., 4:]], -1)

    return on_outputs(subject, [o.name for o in subject.contract.outputs if o.kind == "boxes"], centred)


@fault("boxes_xy_swapped", "the x and y of boxes are exchanged", "output", "output")
def boxes_xy_swapped(subject: Subject) -> Subject | None:
    def swapped(x: Array) -> Array:
        return x[..., [1, 0, 3, 2, *range(4, x.shape[-1])]] if x.shape[-1] >= 4 else x

    return on_outputs(subject, [o.name for o in subject.contract.outputs if o.kind == "boxes"], swapped)


@fault("outputs_permuted", "outputs of the same shape come under each other's names", "output", "output")
def outputs_permuted(subject: Subject) -> Subject | None:
    names = [o.name for o in subject.contract.outputs]
    if len(names) < 2:
        return None

    def permuted(rows: Rows) -> Rows:
        shapes = {n: rows[0][n].shape for n in names}
        groups = [[n for n in names if shapes[n] == shape] for shape in dict.fromkeys(shapes.values())]
        source = {n: group[(i + 1) % len(group)] for group in groups for i, n in enumerate(group)}
        return [{n: row[source[n]] for n in row} for row in rows]

    return subject.then(permuted)


def _places(subject: Subject, evidence: Evidence | None) -> list[Value]:
    """(case, element): the middle case; with evidence, where a single value is not finite."""
    if evidence is None:
        return [(len(subject.inputs) // 2, 0)]
    name = subject.contract.outputs[0].name
    bad: list[Value] = []
    for case, row in enumerate(evidence.observed):
        bad += [(case, int(i)) for i in np.flatnonzero(~np.isfinite(row[name].astype(np.float64, copy=False)))]
    return bad[:4]


@fault("one_not_finite", "one element of one case is NaN", "output", "output",
       parameter=Parameter("place", choices=_places))  # fmt: skip
def one_not_finite(subject: Subject, place: tuple[int, int]) -> Subject | None:
    name = subject.contract.outputs[0].name

    def broken(rows: Rows) -> Rows:
        rows = [dict(row) for row in rows]
        value: Any = rows[place[0]][name].copy()
        if value.dtype.kind == "f":
            value.reshape(-1)[place[1]] = np.nan
        rows[place[0]][name] = value
        return rows

    return subject.then(broken)


@fault("one_element_wrong", "one element of one case is wrong by a tenth of the output's rms", "output", "output")
def one_element_wrong(subject: Subject) -> Subject | None:
    name, case = subject.contract.outputs[0].name, len(subject.inputs) // 2

    def wrong(rows: Rows) -> Rows:
        rows = [dict(row) for row in rows]
        value = rows[case][name].copy()
        if value.dtype.kind == "f":
            value.reshape(-1)[0] += 0.1 * np.sqrt(np.mean(np.square(value)))
        rows[case][name] = value
        return rows

    return subject.then(wrong)
