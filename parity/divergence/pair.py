"""Which tensor of the reference is this one of the artefact? By content, since converters lose names. NumPy only.

A layout may differ as converters change it: axes of one dropped or added, channels last for channels first, axes
merged. Other orders of axes count only where they fit exactly, so that a wrong transpose is a fault and not a layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from parity.divergence.reference import Array, Reference, Value, off, sketch

NEAR = 0.5  # share of its rms by which a tensor may be off and still be taken for its counterpart
EXACT = 0.02  # share within which any order of axes counts
CLEAR = 0.7  # the nearest must be off by less than this share of what the second is
_LAYOUTS = {3: ((0, 2, 1), (1, 2, 0), (2, 0, 1)), 4: ((0, 2, 3, 1), (0, 3, 1, 2)), 2: ((1, 0),)}
_MOVES = ("transpose", "permute", "reshape", "matmul", "shuffle")


@dataclass(frozen=True)
class Pair:
    """A tensor of the artefact and its counterpart: how the counterpart is laid out there, and how far it is off."""

    value: Value
    arrange: Callable[[Array], Array]
    error: float  # rms, in the tensor's own units

    @property
    def relative(self) -> float:
        return self.error / self.value.rms if self.value.rms else float(self.error > 0)


class Pairing:
    """Finds counterparts among the values of one reference."""

    def __init__(self, reference: Reference):
        self.reference = reference
        self.by_size: dict[int, list[Value]] = {}
        for value in reference.values:
            self.by_size.setdefault(int(np.prod(value.shape)), []).append(value)

    def find(self, got: Array, kind: str, inputs: Sequence[Value], expected: float) -> Pair | None:
        """The counterpart of `got`, which an operator of `kind` computes from the counterparts `inputs`.

        `expected` is the relative error that the precision may cost: what fits within it is taken without a search.
        """
        if got.size < 2:
            return None
        known = self.by_size.get(got.size, [])
        marks = sketch(got)
        if np.isfinite(marks).all():
            known = sorted(known, key=lambda v: _apart(v.sketch, marks, v.rms))
        newest = max((v.number for v in inputs), default=-1)
        free = any(word in kind.lower() for word in _MOVES)
        best: list[Pair] = []
        for rank, value in enumerate(known):
            if not value.rms or (rank >= 12 and value.number <= newest):
                continue
            if rank >= 4 and best and min(p.relative for p in best) <= expected:
                break
            pair = self._nearest(got, value, free)
            if pair is not None and pair.relative < 10:
                best.append(pair)
        best.sort(key=lambda p: (round(p.relative / max(expected, 1e-9)), p.value.number <= newest, p.value.number))
        good = [p for p in best if p.relative <= NEAR]
        if not good:
            return None
        first = good[0]
        if first.relative <= expected:
            return first
        later = [p for p in good if p.value.number > newest]  # what it is off by says that it is not an old one
        if not later:
            return None
        first = min(later, key=lambda p: p.relative)
        rivals = [p for p in later if p is not first and not _same(p.value, first.value)]
        if rivals and first.relative > CLEAR * min(p.relative for p in rivals):
            near = self._reading(inputs)
            chosen = [p for p in later if p.value.number in near] or later
            first = min(chosen, key=lambda p: (p.relative > 2 * first.relative, p.value.number))
        return first

    def _reading(self, inputs: Sequence[Value]) -> set[int]:
        """Values computed from `inputs` and nothing later."""
        numbers = {v.number for v in inputs}
        return {v.number for v in self.reference.values if v.reads and set(v.reads) <= numbers}

    def _nearest(self, got: Array, value: Value, free: bool) -> Pair | None:
        right = self.reference.array(value.number)
        found: Pair | None = None
        for exact, arrange in arrangements(value.shape, got.shape, free):
            error = off(got, arrange(right))
            if exact and not error <= EXACT * value.rms:
                continue
            if found is None or error < 0.5 * found.error:
                found = Pair(value, arrange, error)
        return found


def _same(a: Value, b: Value) -> bool:
    return _apart(a.sketch, b.sketch, a.rms) < 1e-9


def _apart(a: Array, b: Array, unit: float) -> float:
    return float(np.abs(a - b).max()) / unit if unit else float("inf")


def arrangements(
    right: tuple[int, ...], got: tuple[int, ...], free: bool
) -> Iterator[tuple[bool, Callable[[Array], Array]]]:
    """Ways in which an artefact may lay out a tensor: (counts only where it fits exactly, the rearrangement)."""
    short, target = tuple(n for n in right if n != 1), tuple(n for n in got if n != 1)
    if short == target:
        yield False, lambda v: v.reshape(got)
    layouts = _LAYOUTS.get(len(short), ())
    padded = _LAYOUTS.get(len(right), ())
    done = set()
    for order in layouts:
        if tuple(short[i] for i in order) == target:
            done.add(order)
            usual = len(short) > 2 or len(right) > 2
            yield not (usual or free), lambda v, o=order: v.reshape(short).transpose(o).reshape(got)  # type: ignore[misc]
    if free and len(short) <= 5:
        for order in itertools.permutations(range(len(short))):
            if order not in done and tuple(short[i] for i in order) == target and list(order) != sorted(order):
                yield True, lambda v, o=order: v.reshape(short).transpose(o).reshape(got)  # type: ignore[misc]
    if short != target and len(short) != len(target):
        yield False, lambda v: v.reshape(got)
        for order in padded:
            yield True, lambda v, o=order: v.transpose(o).reshape(got)  # type: ignore[misc]
