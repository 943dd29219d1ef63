"""A figure counted on a sample, held against a limit that it may be too small to decide. Pure.

Sixty pictures without one error show that at most 4.9 % go wrong (with 95 % confidence), so they say nothing about a
limit of 1 %. Such a limit does not gate, and is never reported as passed: the check keeps it as `undecided`. Limits
without room (no drop at all, every decision the same) are about these cases alone, and always decided.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from parity.core.record import Check
from parity.judging.limits import is_default

CONFIDENCE = 0.95
FEWEST = 2
"""Cases without which no limit means anything: one shows nothing of how outputs follow inputs."""


def held(check: Check, limit: float | None, source: str) -> Check:
    """The check against `limit`, or with the limit undecided where the sample is inside it and its bound is not."""
    if limit is not None and _too_few(check, limit):
        return replace(check, limit=None, undecided=limit, source=source)
    return replace(check, limit=limit, undecided=None, source=source)


def _too_few(check: Check, limit: float) -> bool:
    if check.bound is None or check.value is None:
        return False
    if check.sense == "max":
        return limit > 0 and check.value <= limit < check.bound
    return limit < 1 and check.value >= limit > check.bound


def needed(share: float, confidence: float = CONFIDENCE) -> int:
    """The smallest sample that can show a share of at most `share`, when nothing in it goes wrong."""
    return 1 if share <= 0 or share >= 1 else math.ceil(math.log(1 - confidence) / math.log1p(-share))


def words(check: Check) -> str:
    """What an undecided check says to a person."""
    if check.undecided is None or check.value is None or check.bound is None:  # no run of ours writes such a record
        return f"{check.output}: {check.metric} is called undecided without its limit, value and bound".removeprefix(
            ": "
        )
    side, share = ("at most", check.undecided) if check.sense == "max" else ("at least", 1 - check.undecided)
    cases = needed(share, 0.975 if check.metric == "top1_drop" else CONFIDENCE)
    where = f"{check.output}: " if check.output else ""
    return (
        f"{where}{check.metric} {check.value:.4g} cannot be held against the limit {check.undecided:.4g} "
        f"({check.source}): from so few cases it is {side} {check.bound:.3g} with {CONFIDENCE:.0%} confidence; "
        f"{cases} cases without an error would decide"
    )


def blocking(checks: Iterable[Check]) -> Check | None:
    """The first undecided check whose limit somebody set: who asks for 1 % is not answered by sixty cases. A built-in
    limit that the sample cannot decide leaves the cell to its other checks."""
    return next((c for c in checks if c.undecided is not None and not is_default(c.source)), None)
