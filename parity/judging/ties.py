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
