"""Do the grids of an int8 file follow from the data that it was calibrated on?

Min-max calibration runs the float model on the calibration data, and gives each tensor the grid that just holds what
it saw, zero included. The lifted graph on the same data sees the same, so that a grid which another scale or zero point
was put into stands out, however little it costs. Tensors on one and the same grid were made to share it: the grid
holds what they reach together. Files that were calibrated on other data, or by another method, fit nearly nowhere: of
those nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from parity.core.proof import Culprit
from parity.formats.graph import Graph, Grid, Run, feed
from parity.formats.kept import known
from parity.proof.lift import Case

CLOSE = 0.01  # of the reach: lifted and calibrated values differ by float32 rounding alone
SHIFT = 2.0  # steps: a zero point is rounded, and both ends may be off by CLOSE
TRUSTED = 0.8  # share of the grids that fit, from which on the file is one of min-max calibration on this data
FEWEST = 5
# What operators with a bounded output prescribe: sigmoid, softmax, tanh, L2 norm.
_FIXED = (1 / 256, 1 / 255, 1 / 128, 2 / 255)
_READERS = ("ADD", "SUB", "MUL", "DIV")
_WIDEST = 127

Reach = tuple[float, float]
Key = tuple[float, float]


def calibrated(graph: Graph, run: Run, cases: Sequence[Case]) -> tuple[dict[str, Any], list[Culprit]]:
    """The share of the grids that fit the calibration data, and those that do not where nearly all others do.

    `run` gives every tensor of the lifted graph that has a grid.
    """
    shared = _shared(graph)
    if not cases or not shared:
        return {}, []
    reaches = _reaches(graph, run, cases)
    odd: list[Culprit] = []
    for key, names in shared.items():
        own = _together(reaches[name] for name in names)
        readers = [op for op in graph.operators if op.kind in _READERS and set(names) & set(op.inputs)]
        written = (name for op in readers for name in op.outputs)
        wider = _together((own, *(reaches[name] for name in written if name in reaches)))
        grid = graph.grids[names[0]]
        if not (_fits(grid, key, own) or _fits(grid, key, wider)):
            odd.append(Culprit("tensor", names[0], _misfit(grid, key, own)))
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


def _reaches(graph: Graph, run: Run, cases: Sequence[Case]) -> Mapping[str, Reach]:
    fed = [feed(graph, case) for case in cases]
    kept = known(run, fed)
    if "reaches" not in kept:
        found = {name: (0.0, 0.0) for name in graph.activations if name in graph.grids}
        for values in map(run, fed):
            for name, (low, high) in found.items():
                found[name] = min(low, float(values[name].min())), max(high, float(values[name].max()))
        kept["reaches"] = found
    return dict(kept["reaches"])


def _together(reaches: Iterable[Reach]) -> Reach:
    """The reach of several tensors, zero included."""
    known = list(reaches)
    return min(0.0, *(low for low, _ in known)), max(0.0, *(high for _, high in known))


def _fits(grid: Grid, key: Key, reach: Reach) -> bool:
    """Whether a grid is the one of min-max calibration for values of this reach; any is, where all values are 0."""
    (scale, zero), (low, high) = key, reach
    if high == low:
        return True
    used, start = (high - low) / (scale * (grid.high - grid.low)), grid.low - low / scale
    return abs(used - 1) <= CLOSE and abs(zero - start) <= SHIFT


def _misfit(grid: Grid, key: Key, reach: Reach) -> str:
    low, high = ((q - key[1]) * key[0] for q in (grid.low, grid.high))
    return (
        f"its grid holds {low:.4g} to {high:.4g}, and the calibration data, which fit the other grids, reach "
        f"{reach[0]:.4g} to {reach[1]:.4g}"
    )
