"""Do the grids of an int8 file follow from the data that it was calibrated on?

Min-max calibration runs the float model on the calibration data, and gives each tensor the grid that just holds what
it saw, zero included. The lifted graph on the same data sees the same, so that a grid which another scale or zero point
was put into stands out, however little it costs. Tensors on one and the same grid were made to share it: the grid
holds what they reach together. Files that were calibrated on other data, or by another method, fit nearly nowhere: of
those nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from parity.proof.graph import Artefact, Graph, Grid, Values
from parity.proof.lift import Case, feed
from parity.proof.result import Culprit

CLOSE = 0.01  # of the reach: lifted and calibrated values differ by float32 rounding alone
SHIFT = 1.0  # steps: a zero point is rounded, and a reach that is a little off moves it
TRUSTED = 0.8  # share of the grids that fit, from which on the file is one of min-max calibration on this data
FEWEST = 5
_FIXED = (1 / 256, 1 / 128)  # what operators with a bounded output prescribe: sigmoid, softmax, tanh, L2 norm
_WIDEST = 127

Reach = tuple[float, float]
Key = tuple[float, float]


def calibrated(artefact: Artefact, weights: Values, cases: Sequence[Case]) -> tuple[dict[str, Any], list[Culprit]]:
    """The share of the grids that fit the calibration data, and those that do not where nearly all others do."""
    shared = _shared(artefact.graph)
    if not cases or not shared:
        return {}, []
    reaches = _reaches(artefact, weights, [name for names in shared.values() for name in names], cases)
    odd: list[Culprit] = []
    for key, names in shared.items():
        low = min(0.0, *(reaches[name][0] for name in names))
        high = max(0.0, *(reaches[name][1] for name in names))
        what = _misfit(artefact.graph.grids[names[0]], key, low, high)
        if what:
            odd.append(Culprit("tensor", names[0], what))
    share = 1 - len(odd) / len(shared)
    figures = {"grids": len(shared), "calibrated_share": share, "calibration_cases": len(cases)}
    return figures, odd if share >= TRUSTED and len(shared) >= FEWEST else []


def _shared(graph: Graph) -> dict[Key, list[str]]:
    """Activations by grid, without those whose grid their operator prescribes."""
    shared: dict[Key, list[str]] = {}
    for name, grid in graph.grids.items():
        if grid.high > _WIDEST or not (grid.scale > 0).all() or name not in graph.activations:
            continue
        key = float(grid.scale[0]), float(grid.zero[0])
        if not any(abs(key[0] / fixed - 1) < 1e-6 for fixed in _FIXED):
            shared.setdefault(key, []).append(name)
    return shared


def _reaches(artefact: Artefact, weights: Values, watch: Sequence[str], cases: Sequence[Case]) -> Mapping[str, Reach]:
    run = artefact.lift(weights, watch)
    found = dict.fromkeys(watch, (0.0, 0.0))
    for case in cases:
        values = run(feed(artefact.graph, case))
        for name in watch:
            low, high = found[name]
            found[name] = min(low, float(values[name].min())), max(high, float(values[name].max()))
    return found


def _misfit(grid: Grid, key: Key, low: float, high: float) -> str:
    """What is wrong with a grid for values from `low` to `high`; empty where it fits, or where all values are 0."""
    scale, zero = key
    if high == low:
        return ""
    used, start = (high - low) / (scale * (grid.high - grid.low)), grid.low - low / scale
    if abs(used - 1) <= CLOSE and abs(zero - start) <= SHIFT:
        return ""
    ends = [(q - zero) * scale for q in (grid.low, grid.high)]
    return (
        f"its grid holds {ends[0]:.4g} to {ends[1]:.4g}, and the calibration data, which fit the other grids, reach "
        f"{low:.4g} to {high:.4g}"
    )
