"""Which decisions of a file the module explains, and which of the module's the file lacks. Pure.

Two comparisons are the same where their kind and their constant are: the file may say `not less` for `greater or
equal`, and repeat nothing or share what the module computes twice. Of rounding, signs, ranks, and of what a converter
writes an operator out in, the file may have as many as the module's calls explain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parity.core.decisions import STEPS, Decision, Family
from parity.formats.survey import Survey
from parity.reference.decisions import HUGE, TINY, Behaviour, most_of, varies

_NEAR = 2e-3  # relative: what fp16 does to a constant
_NAMED = 4  # operators of a family that has too many


def unexplained(decided: Sequence[Decision], own: Behaviour, parted: bool = False) -> list[Decision]:
    """The decisions of a file that are none of the module's. Each of the module's explains one of the file's. Those of
    a `parted` file, with sub-graphs of which a run takes some, are not counted where the module has some of the kind.
    """
    left = list(own.decisions)
    strange: list[Decision] = []
    counted: dict[Family, list[Decision]] = {}
    for decision in decided:
        match = next((mine for mine in left if _same(decision, mine)), None)
        if match is not None and decision.family not in STEPS:
            left.remove(match)
        elif match is not None or _implied(decision, own):
            counted.setdefault(decision.family, []).append(decision)
        else:
            strange.append(decision)
    for family, several in counted.items() if not parted else ():
        strange += surplus(several, len(several) - _explained(family, len(several), own))
    return strange


def _explained(family: Family, count: int, own: Behaviour) -> int:
    """How many of `count` decisions the module's calls may stand for at most: each that decides for one, each other for
    none or for some. A converter writes the calls of one operator out alike, but for those whose arguments say how; it
    may share half of them.
    """
    direct = sum(mine.family == family for mine in own.decisions) if family in STEPS else 0
    reached = [(0, direct)]
    for (kind, operator), calls in own.written.items():
        if kind == family:
            least = 0 if varies(operator) else (calls + 1) // 2
            more = [(low + least, high + calls * most_of(family, operator)) for low, high in reached]
            reached = sorted({*reached, *more})
    return max(min(high, count) for low, high in reached if low <= count)


def surplus(several: Sequence[Decision], count: int) -> list[Decision]:
    """Decisions of one family of which `count` are too many: which of them, nothing says."""
    if count in (0, len(several)):
        return list(several) if count else []
    named = " or ".join(map(str, several[:_NAMED])) + (" or others" if len(several) > _NAMED else "")
    return [Decision(several[0].family, (), f"{count} of {len(several)}:", named)]


def excess(survey: Survey, own: Behaviour) -> list[Decision]:
    """The bounds of a file beyond those of the module at the same number: `relu(sum(x) - t)` is a trigger too. None in
    sub-graphs, and where an operator of the module is written out in bounds that nobody can count."""
    if math.inf in own.bounds:
        return []
    held = [
        bound for bound in survey.bounded() if TINY <= abs(bound.constants[0][0]) < HUGE or not bound.constants[0][0]
    ]
    strange: list[Decision] = []
    while held:
        value = held[0].constants[0][0]
        alike = [bound for bound in held if _near(bound.constants[0][0], value)]
        held = [bound for bound in held if bound not in alike]
        explained = sum(count for number, count in own.bounds.items() if _near(number, value) or math.isnan(number))
        strange += surplus(alike, max(len(alike) - explained, 0))
    return strange


def absent(decided: Sequence[Decision], own: Behaviour) -> set[str]:
    """The sites of the module's decisions that the file does not hold: it goes one way only there, whatever it is
    given. A file may share what the module computes twice."""
    sites = {mine.site for mine in own.decisions if mine.site}
    return sites - {mine.site for mine in own.decisions if any(_same(theirs, mine) for theirs in decided)}


def fewer(survey: Survey, decided: Sequence[Decision], own: Behaviour) -> set[str]:
    """The sites of the module's bounds and choices that the file has fewer of, or none: beyond a bound, or for another
    choice, it may compute something else. Of a file with sub-graphs, those that it has none of."""
    least = 1 if survey.parted() else len(own.turns)
    choices = [turn for turn in own.turns if turn.bound is None]
    ranks = sum(decision.family == "rank" for decision in decided)
    sites = {turn.site for turn in choices} if ranks < min(len(choices), least) else set()
    if survey.saturates():
        return sites
    held = survey.bounds()
    for turn in own.turns:
        if turn.bound is not None:
            alike = [other for other in own.turns if other.bound is not None and _near(other.bound, turn.bound)]
            count = sum(value is None or _near(value, turn.bound) for value in held)
            sites |= {turn.site} if count < min(len(alike), least) else set()
    return sites


def _same(theirs: Decision, mine: Decision) -> bool:
    if theirs.family != mine.family:
        return False
    if theirs.family == "process":
        return theirs.operator == mine.operator
    if not theirs.constants:  # both sides are computed; or a family that has no constants
        return not mine.constants or len(mine.constants) > 1
    return any(_alike(a, b) for a in theirs.constants for b in mine.constants)


def _alike(theirs: tuple[float, ...], mine: tuple[float, ...]) -> bool:
    """Whether two constants are one: equal values; of several, all those that the shorter has."""
    few, many = sorted((theirs, mine), key=len)
    if len(few) != len(many) and len(few) < 2:
        return False
    return all(any(_near(a, b) for b in many) for a in few)


def _near(a: float, b: float) -> bool:
    if abs(a) >= HUGE and abs(b) >= HUGE:
        return (a > 0) == (b > 0)
    return a == b or abs(a - b) <= _NEAR * max(abs(a), abs(b)) or bool(np.isnan(a) and np.isnan(b))


def _implied(decision: Decision, own: Behaviour) -> bool:
    if (decision.family, None) in own.implied or (not decision.constants and (decision.family, "other") in own.implied):
        return True
    for constant in decision.constants:
        if len(constant) == 1 and any(f == decision.family and _close(v, constant[0]) for f, v in own.implied):
            return True
        if len(constant) > 1 and constant == tuple(map(float, range(len(constant)))):
            return (decision.family, "range") in own.implied
    return False


def _close(mine: object, theirs: float) -> bool:
    return isinstance(mine, float) and (_near(mine, theirs) or max(abs(mine), abs(theirs)) < TINY)
