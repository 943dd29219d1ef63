"""Which module does a step of the artefact belong to? One step may compute several: a convolution, its normalisation
and its activation. What lies between the tensors that were right and the one that is not is searched for the part
that explains the difference. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.divergence import Bounds
from parity.divergence.pair import Pair, arrangements
from parity.divergence.reference import Array, Reference, Value, off

WEIGHTED = ("conv", "mm", "addmm", "bmm", "linear", "matmul", "contract", "einsum", "convolution", "embedding",
            "_convolution", "dot", "mv", "gru", "lstm")  # fmt: skip
NORMALISES = ("native_batch_norm", "batch_norm", "_native_batch_norm_legit_no_training", "native_layer_norm",
              "native_group_norm")  # fmt: skip
AFFINE = 0.02  # share of the difference that a gain and an offset a channel may leave


def blamed(
    reference: Reference, frontier: Sequence[int], pair: Pair | None, got: Array | None, contracts: bool, folds: bool
) -> tuple[str, str]:
    """(module path, source line). `frontier` are the values that the step started from; `got` is its result, in the
    place of `pair` where it has a counterpart; where it has none, what reads the frontier is blamed. `folds`
    says that the artefact has no batch normalisations of its own."""
    values = reference.values
    between = _between(values, frontier, pair.value.number) if pair else _readers(values, frontier, contracts)
    if not between:
        return (pair.value.layer, pair.value.source) if pair else ("", "")
    weighted = [v for v in between if v.kind in WEIGHTED]
    norms = [v for v in between if v.kind in NORMALISES]
    chosen = weighted[-1] if weighted else norms[-1] if norms else between[-1] if pair else between[0]
    if got is not None and got.size:
        skipped = _skipped(reference, between, pair, got) if pair else None
        if skipped is not None:
            chosen = skipped
        elif weighted:
            if not norms and pair and folds:  # a folded normalisation that does little looks like none
                norms = [v for v in values if v.kind in NORMALISES and pair.value.number in v.reads]
                pair = None
            after = [v for v in (*between, *norms) if norms and v.number >= norms[-1].number]
            near = [pair] if pair else [p for v in after for p in _laid(v, got)]
            if any(_rescaled(reference, p, got) for p in near):
                chosen = norms[-1]
    return chosen.layer, chosen.source


def within(values: Sequence[Value], bounds: Bounds) -> list[Value]:
    """The values that a fault inside `bounds` can make wrong first, in order of computation; empty where the bounds
    name nothing that the module computes.

    Of a wrong tensor they are what its layer computes, up to what the next layer with weights makes of it: a
    converter folds what follows into one step.
    """
    if bounds.tensors:
        layers = {_layer(name) for name in bounds.tensors}
        first = next((v for v in values if v.layer in layers and v.kind not in ("move", "input")), None)
        if first is None:
            return []
        following = (v.number for v in values if v.number > first.number and v.kind in WEIGHTED)
        return list(values[first.number : next(following, len(values))])
    after, before = _layer(bounds.after), _layer(bounds.before)
    start = next((v.number for v in values if after and v.layer == after and v.kind in WEIGHTED), 0)
    end = next((v.number for v in values if before and v.layer == before and v.kind in WEIGHTED), len(values))
    return [v for v in values[start:end] if v.kind not in ("move", "input")]


def _layer(tensor: str) -> str:
    """The module path of a tensor's name."""
    return tensor.rpartition(".")[0]


def meant(
    reference: Reference, frontier: Sequence[int], got: Array | None, contracts: bool, folds: bool
) -> Pair | None:
    """What a result that is near to nothing may have been meant for: of what reads the frontier, the nearest."""
    if got is None:
        return None
    found = []
    for value in _readers(reference.values, frontier, contracts):
        after = any(v.kind in NORMALISES and value.number in v.reads for v in reference.values)
        if value.kind in WEIGHTED and after and folds:
            continue
        for pair in _laid(value, got):
            error = off(got, pair.arrange(reference.array(value.number)))
            found.append(Pair(value, pair.arrange, error))
    return min(found, key=lambda p: p.error, default=None)


def _laid(value: Value, got: Array) -> list[Pair]:
    """The counterpart that a value would be, in the first layout that fits."""
    if int(np.prod(value.shape)) != got.size:
        return []
    for exact, arrange in arrangements(value.shape, got.shape, False):
        if not exact:
            return [Pair(value, arrange, 0.0)]
    return []


def _between(values: Sequence[Value], frontier: Sequence[int], end: int) -> list[Value]:
    """The values from the frontier, which is left out, to the end, in order of computation; moves left out."""
    stop, waiting, seen = set(frontier), [end], set[int]()
    while waiting:
        number = waiting.pop()
        if number in seen or (number in stop and number != end):
            continue
        seen.add(number)
        waiting += values[number].reads
    return [values[n] for n in sorted(seen) if values[n].kind not in ("move", "input")]


def _readers(values: Sequence[Value], frontier: Sequence[int], contracts: bool) -> list[Value]:
    """What the step may compute. Of a tensor that is another one moved, the module may have read that one."""
    found = _reading(values, frontier, contracts)
    sources = [n for f in frontier if values[f].kind == "move" and len(values[f].reads) == 1 for n in values[f].reads]
    return found if found or not sources else _reading(values, [*frontier, *sources], contracts)


def _reading(values: Sequence[Value], frontier: Sequence[int], contracts: bool) -> list[Value]:
    """What is computed from the frontier alone, up to a second contraction. Where the step is no contraction, what
    reads the frontier itself and is none, if there is such a thing."""
    known, moved, found, met = set(frontier), set(frontier), list[Value](), False
    direct: list[Value] = []
    for value in values:
        if not value.reads or not set(value.reads) <= known or value.number in frontier:
            continue
        if value.kind == "move":
            known.add(value.number)
            moved |= {value.number} if set(value.reads) <= moved else set()
            continue
        if value.kind in WEIGHTED:
            if met:
                continue
            met = True
        found.append(value)
        known.add(value.number)
        if set(value.reads) <= moved and value.kind not in WEIGHTED:
            direct.append(value)
    return found if contracts else direct or found[:1]


def _skipped(reference: Reference, between: Sequence[Value], pair: Pair, got: Array) -> Value | None:
    """The first value that is not computed, where the result is the one before it."""
    for number, value in enumerate(between[:-1]):
        if value.shape == pair.value.shape and value.rms:
            right = pair.arrange(reference.array(value.number))
            if np.sqrt(np.mean(np.square(got - right))) < 1e-3 * value.rms:
                return between[number + 1]
    return None


def _rescaled(reference: Reference, pair: Pair, got: Array) -> bool:
    """Whether each channel is the right one with another gain and offset, as a normalisation's fault makes it."""
    shape = pair.value.shape
    if len(shape) < 3:
        return False
    right = reference.array(pair.value.number)
    order = pair.arrange(np.arange(right.size, dtype=np.float64).reshape(shape))
    back = np.empty(right.size)
    back[order.reshape(-1).astype(np.int64)] = got.reshape(-1)
    there = np.moveaxis(back.reshape(shape), 1, 0).reshape(shape[1], -1)
    want = np.moveaxis(right, 1, 0).reshape(shape[1], -1)
    ends = [(v, (np.count_nonzero(v == v.min()) > 1), (np.count_nonzero(v == v.max()) > 1)) for v in (there, want)]
    linear = np.ones(want.shape, bool)  # what no activation has clipped
    for values, low, high in ends:
        linear &= ((values > values.min()) | (not low)) & ((values < values.max()) | (not high))
    gains, left, whole = [], 0.0, 0.0
    for a, b, free in zip(there, want, linear, strict=True):
        if free.sum() < 4 or np.ptp(b[free]) < 1e-6 * pair.value.rms:
            continue
        gain, offset = np.polyfit(b[free], a[free], 1)
        gains.append(gain)
        left += float(np.square(a - gain * b - offset)[free].sum())
        whole += float(np.square(a - b)[free].sum())
    if not gains or whole == 0 or left > AFFINE * whole:
        return False
    return bool(min(gains) > 1e-4 and np.ptp(gains) > 1e-4)
