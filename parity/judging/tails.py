"""Figures of the tail (the largest element, the worst channel, case or drawn input) of a file that is proved. Pure.

The limits on such figures are what correct files have shown so far, and the next correct file may go beyond them. Where
the chain of proof is complete it decides whether the file is the module, and these figures describe and warn. Limits
that somebody set, the pooled noise ratio, accuracy and decisions gate all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from parity.core.record import CellRecord, Check
from parity.judging.limits import DRAWN, is_default
from parity.judging.registry import METRICS, of_family

PROOF = frozenset(of_family("proof"))
LIFT = "lift_faults"  # of one drawn input: the lift, made on that very input


def complete(cell: CellRecord) -> bool:
    """Whether the chain of proof decides that the cell's file is right, as the record has it; a waived fault of the
    chain is one."""
    if cell.proof is None or not cell.proof.complete or cell.proof.state != "proved":
        return False
    if any(link.state == "failed" for link in cell.proof.links):
        return False
    links = [check for check in cell.checks if check.kind == "static" and check.metric in PROOF]
    return bool(links) and all(check.passed for check in links if check.limit is not None)


def warning(broken: Iterable[Check], checks: Sequence[Check]) -> list[Check]:
    """Those of the `broken` checks of a file whose chain of proof is complete that warn and do not refuse it; of checks
    that hold, those that would.

    `checks` are all of the cell or test: golden cases were a part of the proof, and a drawn input says with a check of
    its own that the lift was made on it.
    """
    lifted = {(c.kind, c.case) for c in checks if c.metric == LIFT and c.value == 0}
    return [c for c in broken if of_tail(c) and (c.metric != DRAWN or (c.kind, c.case) in lifted)]


def of_tail(check: Check) -> bool:
    """Whether a broken check is of a finite figure of the tail, against a limit that nobody set."""
    spec = METRICS.get(check.metric)
    if spec is None or not spec.tail or not is_default(check.source):
        return False
    return check.value is not None and math.isfinite(check.value) and not check.nonfinite
