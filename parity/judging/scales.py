"""Elements that stand beside far larger ones in one output: logits beside -1e9 of a mask, regressors beside a time.

An rms over such an output is that of the large elements alone, and says nothing of the others. Pure NumPy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from parity.judging.parts import UNIT, chance

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Sequence[Array]

GAP = 8
"""Powers of two that no element's size is in, between the small and the large. Sizes of one kind have no such gap."""
BESIDE = "beside far larger ones"
TAIL = UNIT * 2.0**-GAP
"""Rms of elements that are as small beside 1 as beside the others, as the tail of a sigmoid is: losing it costs
nothing."""
EIGHT_BITS = 255  # steps
HUGE = 1e150  # whose squares float64 does not hold
ROUNDED = 1e-3  # of a step: what float32 makes of its multiples
LEAST = 2  # elements: of a single one nothing else says how far it may be off


def smaller(want: Rows, axes: Sequence[int] = ()) -> list[list[Array]]:
    """The sets of elements that far larger ones hide: each a list of masks, one a case, of the oracle's shapes.

    A set is all nonzero elements below a gap in their sizes, or all channels, along one of `axes`, below a gap in
    their rms. Sets of fewer than `LEAST` elements are left out; what chance does to few is allowed for by
    `parity.judging.parts.chance`. Empty where no element is above 1, and where there is
    no gap.
    """
    sets = [below(want, bound) for bound in gaps(want)]
    for axis in axes:
        sets += small_channels(want, axis)
    return sets


def gaps(want: Rows) -> list[float]:
    """The size below which each set of elements lies that far larger ones hide."""
    if not _may_hide(want):
        return []
    bounds = _bounds(np.concatenate([np.abs(np.asarray(w, np.float64)).ravel() for w in want]))
    return [bound for bound in bounds if count(below(want, bound)) >= LEAST]


def below(want: Rows, bound: float) -> list[Array]:
    """The nonzero elements below a size: masks, one a case."""
    return [(w != 0) & (np.abs(np.asarray(w, np.float64)) < bound) for w in want]


def _may_hide(want: Rows) -> bool:
    peak = max((float(np.abs(w).max()) for w in want if w.size), default=0.0)
    return UNIT < peak < HUGE


def count(masks: Rows) -> int:
    """How many elements a set has."""
    return sum(int(m.sum()) for m in masks)


def hidden_error(errors: Rows, want: Rows) -> float:
    """The worst rms of the errors of a set of `smaller`, as a share of the size of its elements, less what chance may
    add in so few; 0 where there is no set. `errors` may be of the first cases alone; the sets are those of all."""
    axes = {1, want[0].ndim - 1} if want[0].ndim > 1 else set()
    worst = 0.0
    for masks in smaller(want, sorted(axes)):
        here = masks[: len(errors)]
        if any(m.any() for m in here):
            worst = max(worst, rms_of(errors, here) / (size(want, masks) * float(chance(count(masks)))))
    return worst


def lost_on_one_grid(got: Rows, want: Rows) -> list[Array]:
    """The size of each element that a grid of 8 bits makes zero, which `got` shows to hold all its elements; 0 for all
    others, and where there is no such grid.

    On such a grid each element is 0, or as large as a step at least. The step that excuses is no larger than what the
    oracle's range needs: a file with a far larger range lost its elements for another reason.
    """
    step = _step(got)
    finite = [np.abs(np.asarray(g, np.float64)) for g in got]
    if any(((g > 0) & (g < (1 - ROUNDED) * step)).any() for g in finite):
        return [np.zeros(w.shape) for w in want]
    step = min(step, _step(want))
    sizes = [np.abs(np.asarray(w, np.float64)) for w in want]
    return [np.where(s < step, np.minimum(s, step / 2), 0.0) for s in sizes]


def _step(arrays: Rows) -> float:
    """The least step of an 8-bit grid that holds 0 and every finite element."""
    finite = np.concatenate([np.asarray(a, np.float64)[np.isfinite(a)] for a in arrays])
    return float(finite.max(initial=0.0) - finite.min(initial=0.0)) / EIGHT_BITS


def size(want: Rows, masks: Rows) -> float:
    """The size that the elements of a set count as: their rms, and 1 at least."""
    return max(rms_of(want, masks), UNIT)


def rms_of(values: Rows, masks: Rows) -> float:
    """Root mean square of the elements of a set."""
    picked = np.concatenate([np.asarray(v, np.float64)[m] for v, m in zip(values, masks, strict=True)])
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.square(picked).mean()))


def largest(want: Rows, masks: Rows) -> float:
    """The size of the largest element of a set."""
    return max(float(np.abs(w[m]).max()) for w, m in zip(want, masks, strict=True) if m.any())


def _bounds(sizes: Array) -> list[float]:
    """Powers of two above each gap in the sizes."""
    _, exponents = np.frexp(sizes[sizes > 0])
    present = np.unique(exponents)
    return [float(2.0 ** int(high - 1)) for low, high in itertools.pairwise(present) if high - low > GAP]


def small_channels(want: Rows, axis: int) -> list[list[Array]]:
    """The channels below each gap in their rms."""
    sizes = [np.abs(np.asarray(w, np.float64)) for w in want]
    if not _may_hide(want) or any(s.ndim < 2 for s in sizes) or len({s.shape[axis] for s in sizes}) != 1:
        return []
    flat = np.concatenate([np.moveaxis(s, axis, 0).reshape(s.shape[axis], -1) for s in sizes], 1)
    by_channel = np.sqrt(np.square(flat).mean(1))
    sets = []
    for bound in _bounds(by_channel):
        shape = [1] * sizes[0].ndim
        shape[axis] = -1
        chosen = (by_channel < bound).reshape(shape)
        sets.append([np.broadcast_to(chosen, s.shape) for s in sizes])
    return [masks for masks in sets if count(masks) >= LEAST]
