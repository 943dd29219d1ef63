"""Parts of an output: what holds numbers of its own size and its own noise, as coordinates beside scores do.

The rms of a whole output is that of its largest part, and so is the noise of a whole output. A part is judged by the
noise that was measured in it. Of few elements such a measurement is small by chance now and then: `chance` says by how
much, and that far the noise of the whole output may stand in. Pure NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Rows = Sequence[Array]

UNIT = 1.0
"""What is smaller counts as of this size: sigmoid, softmax, tanh and erf are off by a unit of 1 in their tails."""
ALIKE = 2.0  # times: sizes that are of one kind
ONE_IN_A_THOUSAND = 3.09  # standard deviations
SMALLEST = float(np.finfo(np.float32).tiny)  # what float32 can tell from zero


def chance(count: Array | int) -> Array:
    """How many times larger one of two rms errors may be than the other by chance, each of `count` elements.

    Fisher's z: the logarithm of the ratio of two such rms has a standard deviation of about 1 / sqrt(count - 1).
    Infinite for a single element, which says nothing of the next.
    """
    few = np.asarray(count, np.float64) <= 1
    return np.where(few, math.inf, np.exp(ONE_IN_A_THOUSAND / np.sqrt(np.where(few, 1, np.asarray(count) - 1))))


def stray(count: Array | int) -> Array:
    """How many times its usual rms an error of `count` elements may have by chance: the root of chi square over
    `count`, one in a thousand, to a few per cent."""
    return 1 + 2.3 / np.sqrt(np.asarray(count, np.float64))


@dataclass(frozen=True)
class Channels:
    """What the precision costs each channel along one axis. Arrays are [channels]."""

    axis: int
    costs: Array  # rms errors of the twin in the channel and in its peers, and at least what storing costs
    sizes: Array  # rms of the oracle's values
    count: int  # elements of one channel, over all cases
    peers: Array  # channels of each one's size, itself among them

    def with_another(self, other: Channels) -> Channels:
        """The larger cost of each channel."""
        return replace(self, costs=np.maximum(self.costs, other.costs))

    def together(self, values: Array) -> Array:
        """Rms of `values` [channels] over the peers of each channel."""
        return _together(values, self.sizes)

    def floors(self, stored: Array, whole: float, elements: int | None = None) -> Array:
        """The floor of each channel [channels]. `stored`: what storing costs a channel; `whole`: the floor of the
        output, which counts as far as chance makes a channel's own cost too small. `elements`: of one channel of a
        single input, whose error may be too large by chance besides."""
        costs = np.maximum(self.costs, stored)
        likely = costs * chance(self.count * self.peers)
        if elements is not None:
            likely = likely * stray(elements * self.peers)
        return np.asarray(np.maximum(costs, np.minimum(whole, likely)))


def channels(want: Rows, errors: Rows, unit: float, magnitude: float) -> tuple[Channels, ...]:
    """The channels along every axis behind the first, for outputs of one length there in all cases.

    `unit`: what storing a value costs, as a share of its size. A channel counts as of `UNIT` at least, or of the
    output's own `magnitude` where that is less. Its peers are the channels of its size, to a factor of `ALIKE`: their
    noise is of one kind, and together they say more of it than each alone.
    """
    result = []
    for axis in range(1, want[0].ndim):
        if not alike(want, axis):
            continue
        sizes = rms_by(want, axis)
        own = rms_by(errors, axis)
        costs = np.maximum(own, _together(own, sizes))
        _, first, behind = _peers(sizes)
        least = np.maximum(unit * np.maximum(sizes, min(UNIT, magnitude)), SMALLEST)
        count = sum(w.size for w in want) // want[0].shape[axis]
        result.append(Channels(axis, np.maximum(costs, least), sizes, count, behind - first))
    return tuple(result)


def _peers(sizes: Array) -> tuple[Array, Array, Array]:
    """The channels by size, and for each channel where its peers begin and end in that order."""
    order = np.argsort(sizes, kind="stable")
    first = np.searchsorted(sizes[order], sizes / ALIKE, "left")
    return order, first, np.searchsorted(sizes[order], sizes * ALIKE, "right")


def _together(values: Array, sizes: Array) -> Array:
    """Rms of the values of each channel's peers, itself among them."""
    order, first, behind = _peers(sizes)
    peak = float(values.max()) or 1.0  # no square overflows
    squares = np.concatenate([[0.0], np.cumsum(np.square(values[order] / peak))])
    mean = np.maximum(squares[behind] - squares[first], 0.0) / (behind - first)
    return np.asarray(peak * np.sqrt(mean))


def alike(arrays: Rows, axis: int) -> bool:
    """Whether all arrays have one length along an axis, and elements."""
    if any(a.ndim <= axis or not a.size for a in arrays):
        return False
    return len({a.shape[axis] for a in arrays}) == 1


def rms_by(arrays: Rows, axis: int) -> Array:
    """Root mean square of each channel over all arrays [channels]; scaled first, so that no square over- or
    underflows."""
    flat = [np.moveaxis(np.asarray(a, np.float64), axis, 0).reshape(a.shape[axis], -1) for a in arrays]
    peaks = np.max([np.abs(f).max(1) for f in flat], axis=0)
    scale = np.where(np.isfinite(peaks) & (peaks > 0), peaks, 1.0)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        squares = sum(np.square(f / scale).sum(1) for f in flat)
        return np.asarray(scale[:, 0] * np.sqrt(squares / sum(f.shape[1] for f in flat)))
