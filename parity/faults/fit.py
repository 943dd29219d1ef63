"""One number fitted: a grid to find the valley, golden section to go down it, parabolas to its bottom. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

from parity.faults.base import Parameter

GRID, SECTIONS, PARABOLAS = 9, 8, 3
_RATIO = (math.sqrt(5) - 1) / 2


def fitted(parameter: Parameter, cost: Callable[[float], float], fine: Callable[[float], float] | None = None) -> float:
    """The value in the parameter's range at which `cost`, a residual (rms), is least.

    Where the residual is linear in the parameter its square is a parabola, and the last steps are exact: they use
    `fine`, a costlier and more exact form of `cost`. A cost that is not finite is never least.
    """
    to, back = (math.log, math.exp) if parameter.log else (float, float)
    seen: dict[float, float] = {}

    def at(u: float) -> float:
        if u not in seen:
            value = cost(back(u))
            seen[u] = value if math.isfinite(value) else math.inf
        return seen[u]

    low, high = to(parameter.low), to(parameter.high)
    starts = [low + (high - low) * i / (GRID - 1) for i in range(GRID)]
    starts += [to(v) for v in (parameter.usual, parameter.neutral) if isinstance(v, float)]
    starts = sorted(set(starts))
    best = min(range(len(starts)), key=lambda i: at(starts[i]))
    left, right = starts[max(best - 1, 0)], starts[min(best + 1, len(starts) - 1)]
    for _ in range(SECTIONS):
        a, b = right - _RATIO * (right - left), left + _RATIO * (right - left)
        if at(a) <= at(b):
            right = b
        else:
            left = a
    return back(_bottom(min(seen, key=lambda u: seen[u]), (right - left) / 2, lambda u: (fine or cost)(back(u))))


def _bottom(u: float, width: float, cost: Callable[[float], float]) -> float:
    """The least of a few parabolas through squared costs, each narrower than the one before."""
    best, least = u, cost(u)
    for _ in range(PARABOLAS):
        if width <= 1e-12 * max(1.0, abs(best)) or not math.isfinite(least):
            break
        before, after = cost(best - width) ** 2, cost(best + width) ** 2
        bend = before - 2 * least**2 + after
        if not math.isfinite(bend) or bend <= 0:
            break
        step = 0.5 * width * (before - after) / bend
        value = cost(best + step) if abs(step) <= 4 * width else math.inf
        if value >= least:
            width /= 8
            continue
        best, least = best + step, value
        width = max(abs(step) / 2, width / 64)
    return best
