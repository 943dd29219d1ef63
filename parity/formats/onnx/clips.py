"""Where the end of a grid stands for a bound at which the module clips.

ONNX Runtime's quantiser drops a ReLU or Clip and lets the grid that follows clip instead, so the lift has to do it
again. Which grids stood for a bound is a guess, of which there are several: a wrong guess shows in the lift, since it
clips what the module does not, or the other way round.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from parity.formats.graph import Grid

_SAME = 1e-3  # of a step: two values that differ by float32 rounding only

Ends = dict[str, float | None]  # "low" and "high"; empty where nothing is clipped


@dataclass
class Clips:
    """The bounds that each quantised activation is clipped to.

    `bounds` are the module's own. `resampled` pictures have the ends of the pictures that they are made of, with or
    without a clip: calibration that saw flat ones did not see how far beyond a cubic interpolation reaches at edges.
    """

    bounds: Collection[float]
    grids: Mapping[str, Grid]
    resampled: Collection[str] = ()
    unclipped: bool = False  # a grid that ends well below a bound stands for no clip
    everywhere: bool = False  # the ends of resampled pictures stand for clips, too
    silent: bool = False  # a grid of what was 0 in all of calibration makes 0 of small values
    _others: list[tuple[bool, ...]] = field(default_factory=lambda: [*itertools.product((False, True), repeat=3)][1:])

    _taken: list[dict[str, tuple[Ends, bool]]] = field(default_factory=list)

    def of(self, name: str) -> Ends:
        """The bounds for a tensor by this reading."""
        if name in self.resampled and not self.everywhere:
            return {}
        return self._ends(self.grids[name])

    def rounds(self, name: str) -> bool:
        """Whether by this reading a tensor is rounded in the lift, too: the quantiser gives what was 0 in all of
        calibration a scale of 1 and a zero point of 0, and where that was a ReLU's result nothing else is left of it.
        """
        grid = self.grids[name]
        return self.silent and grid.scale.size == 1 and bool(grid.scale[0] == 1 and grid.zero[0] == 0)

    def reread(self) -> bool:
        """Take the next reading, by which other tensors are clipped; after the last the first, and False."""
        if not self._taken:
            self._taken.append(self._all())
        while self._others:
            self.silent, self.everywhere, self.unclipped = self._others.pop(0)
            if (reading := self._all()) not in self._taken:
                self._taken.append(reading)
                return True
        self.silent = self.everywhere = self.unclipped = False
        return False

    def _all(self) -> dict[str, tuple[Ends, bool]]:
        return {name: (self.of(name), self.rounds(name)) for name in self.grids}

    def _ends(self, grid: Grid) -> Ends:
        """The module's own bounds that the ends of a grid stand for, none at both ends being no clipping at all.

        Behind a ReLU a grid begins at 0 and ends inside the upper bound. How far inside is what calibration saw: a grid
        that ends well below 6 may follow ReLU6 or a plain ReLU, and is read as the first unless `unclipped`. Elsewhere
        the zero point was rounded, which moves both ends by up to half a step; one end alone that lies near a bound
        does so by chance.
        """
        step = float(grid.scale[0])
        low, high = (float((n - grid.zero[0]) * step) for n in (grid.low, grid.high))
        ends = {"low": self._bound(low, step), "high": self._bound(high, step)}
        if low != 0:
            return {} if None in ends.values() else ends
        above = min((b for b in self.bounds if high <= b + _SAME * step), default=None)
        well_below = above is not None and above - high > step / 2
        ends["high"] = None if well_below and self.unclipped else above
        return ends if any(v is not None for v in ends.values()) else {}

    def _bound(self, value: float, step: float) -> float | None:
        return next((b for b in self.bounds if abs(b - value) <= step / 2), None)
