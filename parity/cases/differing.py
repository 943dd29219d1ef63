"""Whether two runs on one input differ by more than the order of their sums."""

from __future__ import annotations

import numpy as np

from parity.core.case import Array

_ROUNDING = 1e-2  # of the largest value


def differs(first: Array, second: Array) -> bool:
    """Whether `second` is something else than `first`, rounding aside."""
    if first.shape != second.shape:
        return True
    if first.tobytes() == second.tobytes():
        return False
    wide = first.astype(np.float64)
    largest = float(np.abs(wide[np.isfinite(wide)]).max(initial=0.0))
    return not np.allclose(wide, second.astype(np.float64), rtol=0, atol=_ROUNDING * largest, equal_nan=True)
