"""What is wrong with a cell, in one line: the sentence that every output begins with. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from parity.core.record import BY_CONTRACT, Check
from parity.judging.registry import METRICS
from parity.judging.scales import BESIDE
from parity.judging.statistics import SAME

COST, TOO_MUCH = "precision_cost", "the precision costs too much"
CHAIN = "links_failed"  # whose detail is the summary of the chain of proof
_WITH_THE_ORACLE = ("difference", "decision", "accuracy")


def describe(checks: Sequence[Check]) -> str:
    """One line for broken checks: the one furthest over its limit, how many more there are, and who set the limit.

    A broken contract comes first: a file of another shape or name has wrong numbers because of it. Then comes what the
    chain of proof names: the place, before the figures that are bad because of it. Where nothing says that the file is
    wrong, what its precision costs comes first.
    """
    costly = [check for check in checks if check.metric == COST]
    if costly and not any(_accuses(check) for check in checks):
        worst = max(costly, key=excess)
        others = len(checks) - 1
        text = f"{TOO_MUCH}: {_share_of(worst)} against at most {100 * (worst.limit or 0):.3g} %"
        text += f", limit from {worst.source}" if worst.source else ""
        return text + (f"; and {others} more" if others else "")
    place = next((check.detail for check in checks if check.metric == CHAIN and check.detail), "")
    if place and not any(check.source == BY_CONTRACT for check in checks):
        rest = [check for check in checks if not _of_the_chain(check)]
        return f"{place}; {_worst(rest)}" if rest else place
    return _worst(checks)


def _of_the_chain(check: Check) -> bool:
    return check.metric in METRICS and METRICS[check.metric].family == "proof"


def _worst(checks: Sequence[Check]) -> str:
    """The broken check that says most, how many more there are, and who set its limit."""
    worst = max(checks, key=lambda c: (c.source == BY_CONTRACT, excess(c)))
    others = len(checks) - 1
    text = f"{worst.output}: " if worst.output else ""
    if worst.source == BY_CONTRACT and worst.detail:  # a promise kept or not, which has no figure worth telling
        return f"{text}{worst.metric}: {worst.detail}" + (f"; and {others} more" if others else "")
    text += f"{worst.metric} {figure(worst)} (case {worst.case})"
    if worst.source:
        text += f", limit from {worst.source}"
    if worst.detail and worst.value is None:
        text += f": {worst.detail}"
    return text + (f"; and {others} more" if others else "")


def precision_costs(checks: Iterable[Check]) -> str:
    """What the precision itself costs the output that it costs most; empty where it was not measured."""
    measured = [check for check in checks if check.metric == COST and check.value is not None]
    worst = max(measured, key=lambda check: check.value or 0.0, default=None)
    return _costs(worst) if worst is not None else ""


def _costs(cost: Check) -> str:
    return _share_of(cost) if cost.detail == SAME else f"the precision itself costs {_share_of(cost)}"


def _share_of(cost: Check) -> str:
    if cost.detail == SAME:
        return f"{SAME}: {100 * (cost.value or 0.0):.3g} % of what {cost.output} varies by is lost"
    if cost.detail.endswith(BESIDE):
        return f"{100 * (cost.value or 0.0):.3g} % of {cost.output}'s rms ({cost.detail})"
    return f"{100 * (cost.value or 0.0):.3g} % of {cost.output}'s rms"


def _accuses(check: Check) -> bool:
    """Whether a broken check says that the file is wrong, whatever its precision costs: it is worse than its twin, or
    something else. What only compares with the oracle (accuracy, decisions, differences) does not."""
    if check.metric == COST:
        return False
    spec = METRICS.get(check.metric)
    return check.source == BY_CONTRACT or (spec is not None and spec.family not in _WITH_THE_ORACLE)


def excess(check: Check) -> float:
    """How far a check is over its limit, as a share of it; infinite without a value, 0 without a limit."""
    if check.value is None:
        return math.inf
    if check.limit is None:
        return 0.0
    scale = abs(check.limit) or 1.0
    return (check.value - check.limit if check.sense == "max" else check.limit - check.value) / scale


def figure(check: Check) -> str:
    """Value and limit of a broken check in words: `0.3 > 0.1`."""
    if check.value is None:
        return f"has no finite value ({check.nonfinite} not finite)" if check.nonfinite else "was not measured"
    if check.limit is None:
        return f"{check.value:.4g}"
    return f"{check.value:.4g} {'>' if check.sense == 'max' else '<'} {check.limit:.4g}"
