"""What is wrong with a cell, in one line: the sentence that every output begins with. Pure.

The line names the cause and its place, then how far over its limit the file is. The cause is the fault that a diagnosis
found, else what the chain of proof blames, else the first step that computes something else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from parity.core.record import BY_CONTRACT, CellRecord, Check, Divergence, Explanation, Finding, ProofRecord
from parity.judging.registry import METRICS, of_family
from parity.judging.scales import BESIDE
from parity.judging.statistics import SAME

COST, TOO_MUCH = "precision_cost", "the precision costs too much"
CHAIN = "links_failed"  # whose detail is the summary of the chain of proof
UNEXPLAINED = "no known fault explains this"  # how a diagnosis that found nothing begins
POOLED = "noise_ratio"  # the error of all cases together
_RATIOS = tuple(name for name in of_family("noise", "drawn") if METRICS[name].unit == METRICS[POOLED].unit)
_WITH_THE_ORACLE = ("difference", "decision", "accuracy")


def cause(diagnosis: Sequence[Explanation], proof: ProofRecord | None, divergence: Divergence | None) -> str:
    """What is wrong and where, by the best evidence that there is; empty where there is none.

    `diagnosis` holds the faults that explain the outputs, the best first.
    """
    where = place(divergence) if divergence is not None else ""
    if diagnosis:
        best = diagnosis[0]
        words = f"the file behaves as if {best.cause}" if best.cause else best.sentence
    elif proof is not None and proof.state == "failed":
        words = proof.summary
    elif divergence is not None:
        return f"first wrong at {where}: {introduces(divergence)}"
    else:
        return ""
    return f"{words}; first wrong at {where}" if where and words else words


def repeats(cell: CellRecord, finding: Finding) -> bool:
    """Whether a finding repeats a field of the cell, or says that one search failed where another did not."""
    if finding.text.startswith("diagnosis: "):
        explained = any(finding.text == f"diagnosis: {explanation.sentence}" for explanation in cell.diagnosis)
        blamed = cell.proof is not None and cell.proof.state == "failed"
        return explained or (blamed and finding.text.startswith(f"diagnosis: {UNEXPLAINED}"))
    if finding.text.startswith("first divergence: ") and cell.first_divergence is not None:
        return finding.text.startswith(f"first divergence: {place(cell.first_divergence)}")
    return False


def place(divergence: Divergence) -> str:
    """The module and its line, as in `features.0 (net.py:15)`."""
    layer = divergence.layer or "outside every module"
    return f"{layer} ({divergence.source})" if divergence.source else layer


def introduces(divergence: Divergence) -> str:
    """What the step does to the outputs, and what its precision would allow."""
    if divergence.introduced is None:
        return f"{divergence.operator} introduces values that are no counterpart of the module's"
    text = f"{divergence.operator} introduces {divergence.introduced:.2g}"
    if divergence.allowed is not None:
        text += f", where its precision allows {divergence.allowed:.2g}"
    return text


def describe(checks: Sequence[Check], because: str = "") -> str:
    """One line for broken checks: the cause, the figure that says most, how many more there are, and who set the limit.

    A broken contract comes first: a file of another shape or name has wrong numbers because of it. Then comes the
    cause, `because`, or else what the chain of proof names: the place, before the figures that are bad because of it.
    Where nothing says that the file is wrong, what its precision costs comes first.
    """
    costly = [check for check in checks if check.metric == COST]
    if costly and not any(_accuses(check) for check in checks):
        worst = max(costly, key=excess)
        others = len(checks) - 1
        text = f"{TOO_MUCH}: {_share_of(worst)} against at most {100 * (worst.limit or 0):.3g} %"
        text += f", limit from {worst.source}" if worst.source else ""
        return text + (f"; and {others} more" if others else "")
    if any(check.source == BY_CONTRACT for check in checks):
        return _worst(checks)
    by_chain = next((check.detail for check in checks if check.metric == CHAIN and check.detail), "")
    because = because or by_chain
    figures = [check for check in checks if not (by_chain and _of_the_chain(check))]
    return "; ".join(filter(None, (because, _worst(figures) if figures else "")))


def _of_the_chain(check: Check) -> bool:
    return check.metric in METRICS and METRICS[check.metric].family == "proof"


def _worst(checks: Sequence[Check]) -> str:
    """The broken check that says most, how many more there are, and who set its limit.

    It is the error of all cases together, unless something was not finite: the worst channel or case is further off,
    and says less of the file.
    """
    worst = max(checks, key=lambda c: (c.source == BY_CONTRACT, c.value is None, c.metric == POOLED, excess(c)))
    others = len(checks) - 1
    text = f"{worst.output}: " if worst.output else ""
    if worst.source == BY_CONTRACT and worst.detail:  # a promise kept or not, which has no figure worth telling
        return f"{text}{worst.metric}: {worst.detail}" + (f"; and {others} more" if others else "")
    if worst.metric in _RATIOS and worst.value is not None:
        text += f"{worst.value:.3g} times as far off as its precision explains: "
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
