"""The constants of a file that nothing in the module explains: a second network, a vector behind a gate, a table beside
the table. Such a file equals the module where its extra part gives zero, so that no figure need show it. Pure.

A constant is explained where the audit has held it against a tensor or an expression of the module, where its values
or its rows are among those of one, or where they are no weights: few numbers, steps of one size, masks, the matrix of a
resize.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

from parity.formats.graph import TABLE, Array, Constant, Graph
from parity.proof.audit import ROUNDING
from parity.proof.source import Source

FEW = 8  # numbers; a constant of no more is a coefficient, or too little to tell
_LONG = 9  # values of a row that tell it from others
_CHANGES = 2  # along one line of a mask, on average; more make a pattern
_COVERED = 0.5  # of the range: where a tensor's values lie closer together, each number is near one of them
_TAPS = 4  # what a resize computes a value from, along one axis
_SUM = 1e-3
_LONGEST_JOIN = 1 << 16  # values of a constant that is looked for piece by piece
_PLACES = 16  # in a tensor, where one value may stand


def unexplained(graph: Graph, sound: Collection[str], source: Source) -> list[dict[str, object]]:
    """The name, shape and count of each constant that nothing explains, the largest first. `sound` are the names of
    those that the audit bore out."""
    left = [c for n, c in graph.constants.items() if n not in sound and c.slots and _may_be_a_weight(c)]
    if not left:
        return []
    tensors = list(_of_module(source))
    left = [c for c in left if not any(_among(c, values) or _rows_of(c, values) for values in tensors)]
    left = [c for c in left if not _joined(c, tensors)]
    left.sort(key=lambda c: -c.stored.size)
    return [{"name": c.name, "shape": list(c.stored.shape), "count": int(c.stored.size)} for c in left]


def _may_be_a_weight(constant: Constant) -> bool:
    """Whether a constant holds more than a few numbers that follow no simple rule. Rows that inputs choose follow none:
    a mask among them is a list of what was chosen."""
    if constant.stored.size <= FEW or (constant.grid is None and constant.stored.dtype.kind != "f"):
        return False
    real = constant.real.reshape([n for n in constant.stored.shape if n > 1] or [1])
    if not np.isfinite(real).any() or np.unique(real).size == 1:
        return False
    slot = constant.slot("weight")
    if slot is None and _is_mask(real):
        return False
    looked_up = slot is not None and slot.layout == TABLE
    return not (_is_even(real, _tolerance(constant)) or (not looked_up and _is_resize(real)))


def _tolerance(constant: Constant) -> float:
    """What rounding to the stored type may cost a value."""
    real = constant.real
    reach = float(np.abs(real[np.isfinite(real)]).max(initial=0))
    if constant.grid is not None:
        return 0.5 * float(np.abs(constant.grid.scale).max()) + ROUNDING * reach
    return (2.0**-11 if constant.stored.dtype == np.float16 else ROUNDING) * reach


def _is_mask(real: Array) -> bool:
    """Whether there is zero and another value, in areas rather than in a pattern."""
    values = np.unique(real)
    if values.size > 2 or not (values == 0).any():
        return False
    lines = ((real.shape[axis], np.mean(np.diff(real != 0, axis=axis))) for axis in range(real.ndim))
    return min(float(share) * (length - 1) for length, share in lines) <= _CHANGES


def _is_even(real: Array, tolerance: float) -> bool:
    """Whether values go in steps of one size along every axis, as positions do."""
    bends = (np.diff(real, 2, axis=axis) for axis in range(real.ndim) if real.shape[axis] > 2)
    return bool(np.isfinite(real).all()) and all(np.abs(bend).max(initial=0) <= 4 * tolerance for bend in bends)


def _is_resize(real: Array) -> bool:
    """Whether each row, or each column, weighs a few values, with weights that sum to 1."""
    for rows in (real.reshape(len(real), -1), real.reshape(-1, real.shape[-1]).T):
        if rows.shape[1] > _TAPS and (rows != 0).sum(1).max() <= _TAPS and np.abs(rows.sum(1) - 1).max() <= _SUM:
            return True
    return False


def _of_module(source: Source) -> Iterator[Array]:
    """The values that the module has, or computes from its parameters alone: of each tensor and expression once."""
    seen: set[tuple[object, ...]] = set()
    layers = [layer for weight in source.weights for layer in (weight, weight.unfolded) if layer]
    for values in _arrays(source, (layer.values for layer in layers)):
        if values.size > FEW:
            key = (values.shape, float(values.flat[0]), float(values.flat[-1]), float(values.sum()))
            if key not in seen:
                seen.add(key)
                yield values


def _arrays(source: Source, layers: Iterable[Array]) -> Iterator[Array]:
    yield from layers
    yield from (term.values for term in source.terms)
    for tensor in source.tensors.values():
        yield np.asarray(tensor.detach().double().numpy())


def _among(constant: Constant, values: Array) -> bool:
    """Whether each value is one of a tensor's, up to its sign: a part of it, turned, repeated or looked up in it."""
    tolerance = _tolerance(constant)
    real = np.abs(constant.real.reshape(-1))
    ordered = np.unique(np.abs(values))
    if 2 * tolerance * ordered.size > _COVERED * float(np.ptp(ordered)):
        return False
    places = np.clip(np.searchsorted(ordered, real), 1, ordered.size - 1)
    near = np.minimum(np.abs(ordered[places] - real), np.abs(ordered[places - 1] - real))
    return bool((near[real != 0] <= tolerance).all())


def _joined(constant: Constant, tensors: Sequence[Array]) -> bool:
    """Whether the values are stretches of the module's tensors one behind another: both biases of a recurrent layer,
    gate by gate."""
    real, tolerance = constant.real.reshape(-1), _tolerance(constant)
    if real.size > _LONGEST_JOIN:
        return False
    flat = [values.reshape(-1) for values in tensors if values.size >= _LONG]
    start = 0
    while start < real.size:
        length = max((_stretch(real[start:], values, tolerance) for values in flat), default=0)
        if length < _LONG:
            return False
        start += length
    return True


def _stretch(real: Array, values: Array, tolerance: float) -> int:
    """How many of the first values of `real` stand one behind another somewhere in `values`."""
    longest = 0
    for place in np.flatnonzero(np.abs(values - real[0]) <= tolerance)[:_PLACES]:
        length = min(real.size, values.size - place)
        off = np.flatnonzero(np.abs(values[place : place + length] - real[:length]) > tolerance)
        longest = max(longest, int(off[0]) if off.size else length)
    return longest


def _rows_of(constant: Constant, values: Array) -> bool:
    """Whether each row along some axis is a row of a tensor, in whatever order its values stand."""
    tolerance = _tolerance(constant)
    mine = list(_rows(constant.real))
    for theirs in _rows(values):
        for rows in mine:
            if (
                rows.shape[1] == theirs.shape[1] >= _LONG
                and len(rows) <= len(theirs)
                and _each(rows, theirs, tolerance)
            ):
                return True
    return False


def _rows(values: Array) -> Iterator[Array]:
    """The rows along each axis, each in order of its values."""
    for axis in range(values.ndim):
        if values.shape[axis] > 1:
            yield np.sort(np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1), axis=1)
    yield np.sort(values.reshape(1, -1), axis=1)


def _each(rows: Array, theirs: Array, tolerance: float) -> bool:
    """Whether each of `rows` is near one of `theirs`."""
    sums, wants = rows[:, -1], theirs[:, -1]  # the largest value of each: most rows differ in that
    for row, largest in zip(rows, sums, strict=True):
        near = np.flatnonzero(np.abs(wants - largest) <= tolerance)
        if not any(np.abs(theirs[i] - row).max() <= tolerance for i in near):
            return False
    return True
