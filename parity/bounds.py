"""The values that a metric can have at all: a limit outside them could never be met, or never be broken. Pure."""

from __future__ import annotations

import math

from parity.metrics import EXACT_DB, METRICS

_SHARES = dict.fromkeys(("top1", "top5", "power", "top1_accuracy"), (0.0, 1.0))
_SIGNED = {"cosine": (-1.0, 1.0), "top1_drop": (-1.0, 1.0)}
_DECIBELS = dict.fromkeys(("sqnr", "psnr"), (-EXACT_DB, EXACT_DB))


def possible(metric: str) -> tuple[float, float]:
    """(lowest, highest) value of a metric. A project's own metric may have any; every other built-in is a size."""
    known = {**_SHARES, **_SIGNED, **_DECIBELS}.get(metric)
    if known:
        return known
    own = metric in METRICS and METRICS[metric].fn is not None
    return (-math.inf if own else 0.0, math.inf)


def impossible(metric: str, limit: float) -> str:
    """Why a metric cannot have this limit; empty where it can."""
    low, high = possible(metric)
    if low <= limit <= high:
        return ""
    span = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
    return f"{limit:g} is no limit for {metric}, which is {span}"
