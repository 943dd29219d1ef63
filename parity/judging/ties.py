"""Ties: what a model decides otherwise where its numbers move by less than the precision can tell apart. Pure.

Class ids, top-k and what is selected by them (boxes, masks) jump where two scores are nearly equal. A right file may
break such a tie either way. `alternatives` are outputs that are as right as the oracle's at the precision: those of the
twin, and of tie breakers, which move every result at random by about a unit of the precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from parity.core.case import Array
from parity.core.contract import OutputSpec
from parity.judging.floor import Floor, differences, finite_part, floor, rms_over
from parity.judging.post_processing import PostProcessed

Alternatives = Sequence[Sequence[PostProcessed]]  # by alternative and case

MOVED: Mapping[str, float] = {"fp32": 2.0**-21, "fp16": 2.0**-10, "dynamic": 2.0**-7, "int8": 2.0**-7}
"""By what share of itself a tie breaker moves a result."""

# A continuous model moves by about as much as its results did, and by about as much in every case. Both set by hand, so
# that the jumps of top-k and NMS at fp16 are far above them; no table of correct files was measured for them.
JUMP = 20.0  # moves, as a share of the output's rms
APART = 10.0  # floors of the case that the precision costs least

MANY = 0.5  # of the ranks between the first and the last tie: from it on all of them are an order among equals


def tied(want: Array, alternatives: Sequence[Array], among_many: bool = False) -> Array:
    """Which elements of an integer output are decided either way: bool, of `want`'s shape. What every alternative
    decides otherwise than the oracle is no tie: the precision loses it.

    `among_many`: unless the alternatives decide it in several ways. Of fifty scores that are all 1.0 in float32 none
    keeps its rank, and float32 loses nothing else.
    """
    others = [other for other in alternatives if other.shape == want.shape]
    if not others:
        return np.zeros(want.shape, bool)
    differs = np.stack([other != want for other in others])
    kept = ~differs.all(0)
    if among_many:
        kept |= np.stack([other != others[0] for other in others]).any(0)
    return np.asarray(differs.any(0) & kept)


def excused(got: Array, want: Array, alternatives: Sequence[Array], among_many: bool = False) -> Array:
    """Which elements of an integer output may differ from the oracle's: bool, of `want`'s shape, as is `got`. They are
    `tied`, or ranks among equals whose order decides nothing."""
    ties = tied(want, alternatives, among_many)
    return ties | _ranks_among_equals(got, want, alternatives, ties)


def _ranks_among_equals(got: Array, want: Array, alternatives: Sequence[Array], ties: Array) -> Array:
    """Which elements are ranks among many equals, and hold together what the alternatives hold there: bool, of `want`'s
    shape, as are the `ties`; the last axis are ranks.

    On a flat picture top-k ranks places of one score. A try moves every label to another rank, and a rank that keeps
    its label in each of a few tries, because most have that label, is no firmer than those beside it. So from the first
    tie of a row to the last, where most are ties, labels are counted and not compared one by one.
    """
    others = [other for other in alternatives if other.shape == want.shape]
    result = np.zeros(want.shape, bool)
    if not ties.any() or not want.ndim:
        return result
    for row in np.ndindex(want.shape[:-1]):
        places = np.flatnonzero(ties[row])
        if len(places) < 2 or len(places) < MANY * (places[-1] + 1 - places[0]):
            continue
        between = slice(places[0], places[-1] + 1)
        tries = [other[row][between] for other in others]
        result[row][between] = _held_alike(got[row][between], want[row][between], tries)
    return result


def _held_alike(got: Array, want: Array, tries: Sequence[Array]) -> bool:
    """Whether `got` holds each value as often as `want` or some of `tries` do, between the least and the most. A value
    that all of `tries` lose is none that may be lost."""
    for value in np.unique(np.concatenate([got, want, *tries])):
        wanted, tried = int((want == value).sum()), [int((each == value).sum()) for each in tries]
        if wanted and not any(tried):
            return False
        if not min(wanted, *tried) <= int((got == value).sum()) <= max(wanted, *tried):
            return False
    return True


def of_case(name: str, case: int, alternatives: Alternatives) -> list[Array]:
    """One output of one case, by every alternative that has it."""
    return [rows[case].outputs[name] for rows in alternatives if name in rows[case].outputs]


def with_jumps(
    floors: Mapping[str, Floor],
    specs: Sequence[OutputSpec],
    alternatives: Alternatives,
) -> tuple[dict[str, Floor], dict[str, list[int]]]:
    """The floors, with the cases in which an output jumps measured by its largest jump; and these cases by output.

    An output that moves no further than a continuous model's keeps its floor.
    """
    result, jumping = dict(floors), {}
    for spec in specs:
        known = floors.get(spec.name)
        if known is None or known.reason:
            continue
        twin = list(known.twin)
        cost = max(min(known.by_case), known.least)
        cases = []
        for case, want in enumerate(known.want):
            jump = largest_jump(want, of_case(spec.name, case, alternatives), known.precision, cost)
            if jump is not None:
                twin[case] = jump
                cases.append(case)
        if cases:
            result[spec.name] = floor(known.want, twin, known.precision, known.axis)
            jumping[spec.name] = cases
    return result, jumping


def largest_jump(want: Array, alternatives: Sequence[Array], precision: str, cost: float) -> Array | None:
    """The alternative that is furthest from `want`, if it is a jump; None where the output only moves.

    `cost` is the rms error that the precision usually costs.
    """
    others = [other for other in alternatives if other.shape == want.shape]
    errors = differences(others, [want] * len(others))
    apart = [(other, error) for other, error in zip(others, errors, strict=True) if np.isfinite(error).all()]
    if not apart:
        return None
    others = [other for other, _ in apart]
    distances = [rms_over([error]) for _, error in apart]
    furthest = int(np.argmax(distances))
    if distances[furthest] <= max(JUMP * MOVED[precision] * rms_over([finite_part(want)]), APART * cost):
        return None
    return others[furthest]
