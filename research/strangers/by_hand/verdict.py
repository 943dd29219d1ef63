"""Right, wrong or cannot say, from what a file computes, the module in float64, and the precision by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from research.strangers.by_hand.inputs import Array

State = Literal["right", "wrong", "cannot say"]
# How many times the precision's own cost, applied by hand, a right file may be off; and from where on one is wrong.
# fp32: other orders of addition cost tens of times what eager's own order does.
BOUNDS = {"fp32": (50.0, 1000.0), "fp16": (3.0, 12.0), "dynamic": (2.5, 8.0), "int8": (2.0, 6.0)}
LEAST = {"fp32": (1e-5, 1e-3), "fp16": (1e-3, 2e-2), "dynamic": (1e-3, 5e-2), "int8": (5e-3, 1e-1)}
# A precision that costs more than this share of the output's spread hides whatever a file does.
BLIND = {"fp32": 0.01, "fp16": 0.1, "dynamic": 0.3, "int8": 0.5}
FEW, MANY = 2, 8  # different numbers of a column that an output's one scale has lost, and of one that says something
AGREE = 0.999  # share of equal integers of a right fp32 file


@dataclass(frozen=True)
class Verdict:
    """`error`: relative rms of the worst output; `cost`: the precision's own, by hand, of that output."""

    state: State
    reason: str
    error: float | None = None
    cost: float | None = None


def spread(reference: list[Array]) -> float:
    """Standard deviation over all elements of all cases; the rms where nothing varies."""
    flat = np.concatenate([r.ravel() for r in reference]).astype(np.float64)
    return float(flat.std()) or float(np.sqrt((flat**2).mean())) or 1.0


def relative(got: list[Array], want: list[Array]) -> float:
    """rms of the difference over all cases, as a share of the spread of `want`; infinite where not finite."""
    difference = np.concatenate([(g.astype(np.float64) - w).ravel() for g, w in zip(got, want, strict=True)])
    if not np.isfinite(difference).all():
        return math.inf
    return float(np.sqrt((difference**2).mean())) / spread(want)


def aligned(got: Array, want: Array) -> list[Array]:
    """`got` in the shape of `want`: as it is, channels first for channels last, or with dimensions of one dropped."""
    if got.shape == want.shape:
        found = [got]
        if got.ndim >= 3 and got.shape[1] == got.shape[-1]:
            found.append(np.moveaxis(got, -1, 1))
        return found
    if got.ndim == want.ndim and got.ndim >= 3 and np.moveaxis(got, -1, 1).shape == want.shape:
        return [np.moveaxis(got, -1, 1)]
    if [n for n in got.shape if n != 1] == [n for n in want.shape if n != 1]:
        return [got.reshape(want.shape)]
    return []


def judge(precision: str, got: list[Array], want: list[Array], single: list[Array], hand: list[list[Array]]) -> Verdict:
    """One output over all cases. `single`: eager float32; `hand`: sets of outputs at the precision, by hand."""
    shaped = [aligned(g, w) for g, w in zip(got, want, strict=True)]
    if not all(shaped):
        return Verdict("wrong", f"shape {got[0].shape}, the module's is {want[0].shape}")
    choices = [[s[min(k, len(s) - 1)] for s in shaped] for k in range(max(map(len, shaped)))]
    if want[0].dtype.kind in "iub":
        return _integers(precision, choices[0], want, hand)
    errors = [relative(choice, want) for choice in choices]
    error = min(errors)
    costs = [relative(outputs, want) for outputs in (hand if precision != "fp32" else [single])]
    said = _weighed(precision, error, costs)
    if said.state == "right" and (gone := lost_columns(choices[errors.index(error)], want)):
        reason = f"{said.reason}; columns {gone} hold two numbers at most, the module's many"
        return Verdict("cannot say", reason, said.error, said.cost)
    return said


def lost_columns(got: list[Array], want: list[Array]) -> list[int]:
    """The columns (axis 1, or the last) of an output that are one number or two throughout `got` and many in `want`:
    scores beside pixels in one 8-bit scale, whose whole range is under a step. Whether their loss is the precision's
    cost or a fault is not for numbers alone."""
    for axis in {1, want[0].ndim - 1} if want[0].ndim > 1 else set():
        if len({w.shape[axis] for w in want}) != 1:
            continue
        columns = range(want[0].shape[axis])
        gone = [k for k in columns if _levels(got, axis, k) <= FEW < MANY <= _levels(want, axis, k)]
        if gone:
            return gone[:8]
    return []


def _levels(arrays: list[Array], axis: int, column: int) -> int:
    """How many different numbers a column holds."""
    return int(np.unique(np.concatenate([np.take(a, column, axis).ravel() for a in arrays])).size)


def _weighed(precision: str, error: float, costs: list[float]) -> Verdict:
    """`costs`: of the ways to apply the precision by hand. The dearest that is not blind is the yardstick."""
    sharp = [cost for cost in costs if cost <= BLIND[precision]]
    if not sharp:
        state: State = "right" if error <= LEAST[precision][1] / 10 else "cannot say"
        least = min(costs, default=math.inf)
        return Verdict(state, f"off by {error:.3g}; by hand {least:.3g} at the least: too much to tell", error)
    cost = max(sharp)
    figures = f"off by {error:.3g}, by hand {cost:.3g}"
    near, far = (max(least, bound * cost) for least, bound in zip(LEAST[precision], BOUNDS[precision], strict=True))
    if error <= near:
        return Verdict("right", figures, error, cost)
    if error > far:
        return Verdict("wrong", figures, error if math.isfinite(error) else None, cost)
    return Verdict("cannot say", f"{figures}: between {near:.3g} and {far:.3g}", error, cost)


def _integers(precision: str, got: list[Array], want: list[Array], hand: list[list[Array]]) -> Verdict:
    def agreement(values: list[Array]) -> float:
        return float(np.mean(np.concatenate([(v == w).ravel() for v, w in zip(values, want, strict=True)])))

    share = agreement(got)
    allowed = AGREE if precision == "fp32" else 0.9 * min(map(agreement, hand), default=1.0)
    if share >= allowed:
        return Verdict("right", f"{share:.1%} of the integers agree", 1 - share)
    state: State = "wrong" if share < allowed / 2 else "cannot say"
    return Verdict(state, f"{share:.1%} of the integers agree, {allowed:.1%} expected", 1 - share)


def as_sets(got: list[list[Array]], want: list[list[Array]]) -> list[list[Array]]:
    """`got`, its rows put into the order of `want`'s: for outputs that are a set, sorted by scores that may tie.

    Both: a list of outputs for each case, [1, rows, ...]. Rows are assigned one to one, by the least distance over all
    outputs, each scaled by its spread.
    """
    from scipy.optimize import linear_sum_assignment

    scales = [spread([case[k] for case in want]) for k in range(len(want[0]))]

    def flat(case: list[Array]) -> Array:
        parts = [v.astype(np.float64).reshape(v.shape[1], -1) / s for v, s in zip(case, scales, strict=True)]
        return np.concatenate(parts, 1)

    found = []
    for mine, theirs in zip(got, want, strict=True):
        distance = np.abs(flat(theirs)[:, None] - flat(mine)[None]).sum(-1)
        order = linear_sum_assignment(np.nan_to_num(distance, nan=1e9))[1]
        found.append([value[:, order] for value in mine])
    return found


def whole(verdicts: dict[str, Verdict]) -> Verdict:
    """The file's verdict from those of its outputs: wrong where one is, else undecided where one is."""
    order: dict[Any, int] = {"wrong": 0, "cannot say": 1, "right": 2}
    name, worst = min(verdicts.items(), key=lambda item: (order[item[1].state], -(item[1].error or 0)))
    return Verdict(worst.state, f"{name}: {worst.reason}", worst.error, worst.cost)
