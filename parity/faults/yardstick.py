"""Distances between sets of outputs in units of the noise floor. NumPy only.

The floor of each output comes from `parity.judging.floor`; here the centre is any hypothesis, not only the oracle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from parity.faults.base import Array, Rows
from parity.judging.floor import Floor


def distance(rows: Rows, clean: Rows) -> float:
    """Relative rms of the difference on the output where it is largest; infinite where shape or finiteness differ."""
    worst = 0.0
    for name in clean[0]:
        pairs = [(row[name], right[name]) for row, right in zip(rows, clean, strict=True)]
        if any(a.shape != b.shape or (np.isfinite(a) != np.isfinite(b)).any() for a, b in pairs):
            return float("inf")
        error = [
            np.where(np.isfinite(b), a - b, 0.0) if a.dtype.kind == "f" else (a != b).astype(float) for a, b in pairs
        ]
        size = sum(float(np.square(np.where(np.isfinite(b), b, 0.0), dtype=np.float64).sum()) for _, b in pairs)
        moved = sum(float(np.square(e).sum()) for e in error)
        worst = max(worst, (moved / size) ** 0.5 if size else float(moved > 0))
    return worst


class Yardstick:
    """The floors of all outputs of one model at one precision."""

    def __init__(self, floors: Mapping[str, Floor]):
        self.units = {name: max(f.pooled, f.least) for name, f in floors.items()}
        self._by_case = {name: np.maximum(np.asarray(f.by_case), self.units[name]) for name, f in floors.items()}

    def pooled(self, rows: Rows, seen: Rows) -> float:
        """Rms distance over all cases, on the output where it is largest; infinite where one is not finite."""
        return max(_rms(self.errors(name, rows, seen)) / unit for name, unit in self.units.items())

    def worst(self, rows: Rows, seen: Rows) -> float:
        """Rms distance of the worst case, in units of that case's own floor. Needs all cases, in their order."""
        return max(
            float(np.max([_rms([e]) for e in self.errors(name, rows, seen)] / floor))
            for name, floor in self._by_case.items()
        )

    def over(self, rows: Rows, seen: Rows, limits: Mapping[str, float], times: float = 1.0) -> bool:
        """Whether the pooled or the worst distance is over its limit, with floors that many times as high."""
        figures = {"pooled": self.pooled, "worst": self.worst}
        return any(not measure(rows, seen) <= limits[k] * times for k, measure in figures.items() if k in limits)

    def errors(self, name: str, rows: Rows, seen: Rows) -> list[Array]:
        """seen - rows for each case; what is not finite in the same way in both differs by nothing."""
        found = []
        for row, other in zip(rows, seen, strict=True):
            want, got = row[name], other[name]
            with np.errstate(invalid="ignore"):
                found.append(np.where((want == got) | (np.isnan(want) & np.isnan(got)), 0.0, got - want))
        return found

    def vector(self, rows: Rows, seen: Rows) -> Array:
        """All differences in units of their output's floor, in one row."""
        parts = [e.reshape(-1) / unit for name, unit in self.units.items() for e in self.errors(name, rows, seen)]
        return np.concatenate(parts)


def _rms(errors: Sequence[Array]) -> float:
    count = sum(e.size for e in errors)
    total = sum(float(np.square(e).sum()) for e in errors)
    if not math.isfinite(total):
        return math.inf
    return math.sqrt(total / count) if count else 0.0
