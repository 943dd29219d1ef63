"""The values that a metric can have at all: a limit outside them could never be met, or never be broken. Pure."""

from __future__ import annotations

import math

from parity.judging.metrics import EXACT_DB, METRICS

_SHARES = dict.fromkeys(("top1", "top5", "power", "top1_accuracy"), (0.0, 1.0))
_SIGNED = {"cosine": (-1.0, 1.0), "top1_drop": (-1.0, 1.0)}
_MOST = ("top1_drop",)  # of the metrics with two ends, those that a limit holds from above
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
        return empty(metric, limit)
    span = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
    return f"{limit:g} is no limit for {metric}, which is {span}"


def empty(metric: str, limit: float) -> str:
    """Why this limit judges nothing, since every value that the metric can have keeps it; empty where some do not."""
    low, high = possible(metric)
    if math.isinf(high) or (limit < high if metric in _MOST else limit > low):
        return ""
    word = "at most" if metric in _MOST else "at least"
    return f"{word} {limit:g} judges nothing: {metric} is from {low:g} to {high:g}, so every value would pass"
