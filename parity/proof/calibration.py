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
from parity.formats.graph import TABLE, Constant, Graph, Grid, Run, feed
from parity.formats.kept import known
from parity.proof.lift import Case

CLOSE = 0.01  # of the reach: lifted and calibrated values differ by float32 rounding alone
SHIFT = 2.0  # steps: a zero point is rounded, and both ends may be off by CLOSE
TRUSTED = 0.8  # share of the grids that fit, from which on the file is one of min-max calibration on this data
FEWEST = 5
# What operators with a bounded output prescribe: sigmoid, softmax, tanh, L2 norm.
_FIXED = (1 / 256, 1 / 255, 1 / 128, 2 / 255)
_BOUNDED = ("SOFTMAX", "LOGISTIC", "TANH", "L2_NORMALIZATION", "Softmax", "Sigmoid", "Tanh")
_CLAMPS = ("MINIMUM", "MAXIMUM", "RELU", "RELU6", "RELU_N1_TO_1", "Clip", "Relu", "Min", "Max")
_READERS = ("ADD", "SUB", "MUL", "DIV")
_CHOOSING = ("TopK", "TOPK", "ArgMax", "ArgMin", "ARG_M", "NonMaxSuppression", "NON_MAX_SUPPRESSION")
_CONVERTING = ("QUANTIZE", "DEQUANTIZE")
KEEPING = (  # operators that cannot change a grid
    *("AVERAGE_POOL_2D", "MAX_POOL_2D", "CONCATENATION", "RESHAPE", "TRANSPOSE", "PAD", "PADV2", "MIRROR_PAD", "SLICE"),
    *("STRIDED_SLICE", "SPLIT", "SPLIT_V", "GATHER", "GATHER_ND", "PACK", "UNPACK", "SQUEEZE", "EXPAND_DIMS", "TILE"),
    *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "REVERSE_V2", "MAXIMUM"),
    *("MINIMUM", "MaxPool", "AveragePool", "Concat", "Reshape", "Transpose", "Pad", "Slice", "Split", "Gather"),
    *("Squeeze", "Unsqueeze", "Flatten", "Resize", "SpaceToDepth", "DepthToSpace", "Tile", "Expand"),
)
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
    reached = reaches(graph, run, cases)
    odd: list[Culprit] = []
    for key, names in shared.items():
        own = _together(reached[name] for name in _unclamped(graph, names))
        written = _written(graph, names)
        wider = _together((own, *(reached[name] for name in written if name in reached)))
        grid = graph.grids[names[0]]
        fits = _fits(grid, key, own) or _fits(grid, key, wider)
        fits = fits or all(_fits_a_member(graph, key, tied, reached) for tied in _tied(graph, names))
        if not fits and not is_of_a_table(graph, names):
            odd.append(Culprit("tensor", names[0], _misfit(grid, key, own)))
    share = 1 - len(odd) / len(shared)
    figures = {"grids": len(shared), "calibrated_share": share, "calibration_cases": len(cases)}
    return figures, odd if share >= TRUSTED and len(shared) >= FEWEST else []


def _tied(graph: Graph, names: Sequence[str]) -> list[list[str]]:
    """The tensors on one grid, in sets of those that operators tie together which cannot change a grid."""
    sets = [{name} for name in names]
    for op in graph.operators:
        if op.kind not in KEEPING:
            continue
        ends = {*op.inputs, *op.outputs}
        joined = [each for each in sets if each & ends]
        if len(joined) > 1:
            sets = [each for each in sets if not each & ends] + [set().union(*joined)]
    return [[name for name in names if name in each] for each in sets]


def _fits_a_member(graph: Graph, key: Key, tied: Sequence[str], reached: Mapping[str, Reach]) -> bool:
    """Whether the grid of tied tensors is that of one of them: TFLite's quantiser lets an operator that cannot change a
    grid hand that of its result, or of another operand, to what it reads, however far that reaches itself.

    One that stands alone needs its own: whoever gave it the grid of another tensor by mistake gave it another's.
    """
    for name in tied:
        reach = reached[name]
        written = [reached[other] for other in _written(graph, [name]) if other in reached]
        if _fits(graph.grids[name], key, reach) or _fits(graph.grids[name], key, _together((reach, *written))):
            return True
    return False


def _unclamped(graph: Graph, names: Sequence[str]) -> Sequence[str]:
    """Those of the tensors on one grid that clamps among them do not limit: what a clamp takes away needs no place."""
    return [name for name in names if not clamped(graph, name) or not _clamps_into(graph, name, names)] or names


def _clamps_into(graph: Graph, name: str, names: Sequence[str]) -> bool:
    return any(name in op.inputs and set(names) & set(op.outputs) for op in graph.operators)


def _written(graph: Graph, names: Sequence[str]) -> set[str]:
    """What is computed from these tensors by arithmetic, also where it is done in float between grids.

    x -> DEQUANTIZE -> DIV -> QUANTIZE -> y
    """
    reals = _through(graph, set(names))
    results = {out for op in graph.operators if op.kind in _READERS and reals & set(op.inputs) for out in op.outputs}
    return _through(graph, results)


def clamped(graph: Graph, name: str) -> bool:
    """Whether only clamps read a tensor: a converter may give it their range, and what counts is what they write."""
    readers = [op for op in graph.operators if name in op.inputs]
    return bool(readers) and all(op.kind in _CLAMPS for op in readers)


def _through(graph: Graph, names: set[str]) -> set[str]:
    """The tensors, and those that hold the same between grids and float."""
    passing = [op for op in graph.operators if op.kind in _CONVERTING]
    return names | {name for op in passing if names & set(op.inputs) for name in op.outputs}


def is_of_a_table(graph: Graph, names: Sequence[str]) -> bool:
    """Whether the grid of these tensors is that of a table in which one of them was looked up, and holds the table:
    calibration need not look up every row."""
    written_by = [op for op in graph.operators if set(names) & set(op.outputs)]
    read = (graph.constants[name] for op in written_by for name in op.inputs if name in graph.constants)
    tables = [c for c in read if c.grid is not None and (slot := c.slot("weight")) and slot.layout == TABLE]
    return any(_holds(table, graph.grids[names[0]]) for table in tables)


def _holds(table: Constant, grid: Grid) -> bool:
    """Whether a table has this grid, made by min-max of its values."""
    key = float(grid.scale[0]), float(grid.zero[0])
    if table.grid is None or not table.grid.same(grid):
        return False
    reach = _together([(float(table.real.min()), float(table.real.max()))])
    furthest = max(-reach[0], reach[1]) / (key[0] * grid.high)
    return _fits(grid, key, reach) or (key[1] == 0 and abs(furthest - 1) <= CLOSE)


def _shared(graph: Graph) -> dict[Key, list[str]]:
    """Activations by grid, without those whose grid their operator prescribes, and those that follow from a choice:
    among nearly equal scores the file that was calibrated chose by its own rounding."""
    shared: dict[Key, list[str]] = {}
    chosen = _chosen(graph)
    for name, grid in graph.grids.items():
        if grid.high > _WIDEST or not (grid.scale > 0).all() or name not in graph.activations or name in chosen:
            continue
        key = float(grid.scale[0]), float(grid.zero[0])
        if not any(abs(key[0] / fixed - 1) < 1e-6 for fixed in _FIXED):
            shared.setdefault(key, []).append(name)
    return shared


def _chosen(graph: Graph) -> set[str]:
    """Tensors that follow from what the file chooses by rank: top-k, non-maximum suppression."""
    chosen: set[str] = set()
    for op in graph.operators:  # each after those that make what it reads
        if op.kind.startswith(_CHOOSING) or chosen.intersection(op.inputs):
            chosen.update(op.outputs)
    return chosen


def prescribed(graph: Graph, name: str) -> bool:
    """Whether a tensor has the grid that the operator which writes it prescribes, whatever its values are."""
    scale = float(graph.grids[name].scale[0])
    bounded = any(op.kind in _BOUNDED for op in graph.operators if name in op.outputs)
    return bounded and any(abs(scale / fixed - 1) < 1e-6 for fixed in _FIXED)


def reaches(graph: Graph, run: Run, cases: Sequence[Case]) -> Mapping[str, Reach]:
    """From where to where each activation with a grid reaches on the cases, zero included. `run` gives all of them."""
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
