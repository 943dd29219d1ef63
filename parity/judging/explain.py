"""Why an output failed, in words for a person: measured, expected, how many times that, where, and what kind. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from parity.core.case import Array
from parity.judging.floor import Floor, differences, rms_over
from parity.judging.statistics import Kind, classify

_SHAPES: dict[Kind, str] = {
    "none": "no error",
    "not finite": "values that are no numbers",
    "permutation": "channels in other places",
    "one case": "one case only",
    "one channel": "one channel only",
    "gain": "a gain",
    "offset": "an offset",
    "noise": "noise",
}


def explain(
    output: str,
    precision: str,
    cases: Sequence[str],
    got: Sequence[Array],
    want: Sequence[Array],
    floor: Floor | None,
    axis: int | None,
    limit: float | None,
) -> str:
    """One paragraph on one output. `got` and `want` hold an array a case of the same shapes; `axis` counts channels;
    `limit` is the one on the noise ratio, where one is in force."""
    undefined = sum(bool(np.isnan(w).any()) for w in want)
    if undefined:
        return (
            f"{output}: the oracle itself gives NaN in {undefined} of {len(want)} cases: nothing can be compared there"
        )
    kind = classify(got, want, axis)
    if kind.kind == "not finite":
        return f"{output}: {kind.sentence}, where the oracle has none, or the reverse; no size of error can be given"
    errors = differences(got, want)
    sizes = [float(np.sqrt(np.square(e).mean())) if e.size else 0.0 for e in errors]
    total = rms_over(errors)
    scale = rms_over([np.asarray(w, np.float64) for w in want])
    worst = int(np.argmax(sizes))
    text = f"{output}: measured {_share(total, scale)} rms away from the oracle"
    if floor is not None and not floor.reason:
        ratio = floor.ratio(got)
        allowed = max(floor.pooled, floor.least)
        text += f"; expected from {precision} alone {_share(allowed, scale)}; that is {ratio.pooled:.3g} times as much"
        text += f" (limit {limit:g})" if limit is not None else ""
        worst = ratio.worst_case
        text += f"; worst case {cases[worst]}, {ratio.worst:.3g} times"
    else:
        text += f"; worst case {cases[worst]}, {_share(sizes[worst], scale)}"
    where = f": nearly all of it in {cases[worst]}" if kind.kind == "one case" else f": {kind.sentence}"
    return f"{text}. By the output alone: {_SHAPES[kind.kind]}{where}"


def _share(value: float, scale: float) -> str:
    """An absolute size, and what it is of the output where that means something."""
    if not (scale > 0 and math.isfinite(scale)):
        return f"{value:.3g}"
    percent = 100 * value / scale
    return f"{value:.3g} ({percent:{'.0f' if 10 <= percent < 1e6 else '.2g'}} % of the output)"
