"""A twin from the file's own graph: what the precision costs where this file rounds, and not where others do.

A proved file computes the module with the module's weights in it. Its lifted graph, with every tensor that the file
puts on a grid put on one, is the module as this converter quantises it. Which tensors, and how many integers each has,
are the file's word. How far each grid reaches is not: that follows from the calibration data and the module's weights
alone, so that a wrong scale, zero point or calibration is as far off as ever.

At fp32 a file has no such choice but one: tables that it computes in float32, as those of a Fourier transform, are
further off than storing them costs. Child only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from parity.core.errors import ParityError
from parity.formats.graph import Array, Artefact, Constant, Graph, Grid, NotPossible, Run, Values, feed, follows
from parity.process.child import stage
from parity.proof import chain, lift
from parity.proof.audit import Audited, natural_step
from parity.proof.calibration import clamped, is_of_a_table, prescribed, reaches
from parity.proof.messages import Placement, PlacementRequest
from parity.reference import oracle
from parity.reference.messages import OracleRequest

Reach = tuple[float, float]


def evaluate(request: PlacementRequest) -> Placement:
    """Outputs of the file's own twin for each of `request.cases`, float64.

    Raises ParityError where the file is not proved to be the module, or its graph cannot be run with roundings in it.
    """
    stage("twin of the file")
    links, _, read = chain(request.proof)
    failed = next((link for link in links if link.state != "proved"), None)
    if failed is not None or read.artefact is None:
        raise ParityError(f"no twin of the file: {failed.name if failed else 'the file'} is not proved")
    artefact = read.artefact
    if not all(follows(artefact, case) for case in request.cases):
        raise ParityError("no twin of the file: some inputs take another branch than the proved one")
    graph, weights = artefact.graph, lift.replacements(artefact.graph, read.constants)
    if request.proof.precision == "fp32":
        return _as_computed(request, artefact, read.constants)
    try:
        grids = activation_grids(artefact, weights, request.proof.calibration or request.cases)
        of_weights = dict(weight_grids(graph, weights))
        on_grids = {name: of_weights[name].real(of_weights[name].nearest(weights[name])) for name in of_weights}
        run = artefact.rounded({**weights, **on_grids}, {**grids, **of_weights})
        rows = tuple(_outputs(graph, run, case) for case in request.cases)
    except NotPossible as obstacle:
        raise ParityError(f"no twin of the file: {obstacle}") from None
    return Placement(rows, dict(Counter(_kinds(graph, grids))), len(of_weights))


def _as_computed(request: PlacementRequest, artefact: Artefact, constants: Mapping[str, Audited]) -> Placement:
    """The module with the constants that a converter can only compute in float32, as the file holds them.

    The audit bounds how far they are off. What that costs is the difference between the file's graph with them and
    with exact ones, so that nothing else of the file is in it.
    """
    exact = {name: a.expected for name, a in constants.items() if a.sound and a.computed}
    if not exact:
        raise ParityError("no twin of the file: it holds no constant that float32 computes worse than it stores it")
    wants = oracle.evaluate(OracleRequest(request.proof.model, request.cases, request.proof.outputs)).outputs
    held, ideal = artefact.lift({}), artefact.lift(exact)
    rows = []
    for case, want in zip(request.cases, wants, strict=True):
        with_held, with_exact = (_outputs(artefact.graph, run, case) for run in (held, ideal))
        rows.append({name: _moved(want[name], with_held[name], with_exact[name]) for name in with_held})
    return Placement(tuple(rows), {}, len(exact))


def _moved(want: Array, held: Array, exact: Array) -> Array:
    """The oracle's output moved as the file's is by its constants; integers as the file has them."""
    if want.dtype.kind != "f" or want.shape != held.shape:
        return held
    return np.asarray(want + (held - exact))


def activation_grids(
    artefact: Artefact, weights: Values, calibration: Sequence[Mapping[str, Array]]
) -> dict[str, Grid]:
    """A grid of our own for every activation that the file puts on one.

    Its ends are what the lifted graph reaches on the `calibration` data. Grids of more than 16 bits, or by channel, and
    those of tensors that are zero there or not finite, are left out: nothing is rounded on them.
    """
    graph = artefact.graph
    names = [name for name in graph.activations if name in graph.grids and _takes(graph.grids[name])]
    reached = reaches(graph, artefact.lift(weights, [n for n in graph.activations if n in graph.grids]), calibration)
    symmetric = _symmetric([graph.grids[name] for name in names])
    grids = {}
    for name in names:
        grid = graph.grids[name]
        if prescribed(graph, name):
            grids[name] = grid
            continue
        low, high = _reach(graph, name, reached, weights)
        if np.isfinite([low, high]).all() and high > low:
            grids[name] = _symmetric_grid(grid, low, high) if symmetric else _grid(grid, low, high)
    return grids


def weight_grids(graph: Graph, weights: Values) -> Iterator[tuple[str, Grid]]:
    """A grid of our own for every constant that the file stores on one and the module has a tensor for: as many
    integers, symmetric or not, one for all or one a channel, as in the file. Biases are left out: theirs are finer
    than anything beside them."""
    for name, values in weights.items():
        constant = graph.constants[name]
        if constant.grid is not None and not constant.grid.wide:
            yield name, _weight_grid(constant, constant.grid, values)


def _takes(grid: Grid) -> bool:
    return not grid.wide and not grid.per_channel


def _symmetric(grids: Sequence[Grid]) -> bool:
    """Whether the file's activations are quantised symmetrically: every zero point is in the middle."""
    return all(abs(float(grid.zero[0]) - (grid.low + grid.high) / 2) <= 1 for grid in grids)


def _reach(graph: Graph, name: str, reached: Mapping[str, Reach], weights: Values) -> Reach:
    """The ends of an activation's grid: of what a clamp leaves of it, and of all rows of a table that it comes from."""
    low, high = reached[name]
    if clamped(graph, name):
        after = [reached[out] for op in graph.operators if name in op.inputs for out in op.outputs if out in reached]
        low = max(low, min((a for a, _ in after), default=low))
        high = min(high, max((b for _, b in after), default=high))
    if is_of_a_table(graph, [name]):
        rows = [weights[n] for op in graph.operators if name in op.outputs for n in op.inputs if n in weights]
        low = min([low, *(float(table.min()) for table in rows)])
        high = max([high, *(float(table.max()) for table in rows)])
    return low, high


def _grid(like: Grid, low: float, high: float) -> Grid:
    """The min-max grid over [low, high], which contains 0, with the integers of another."""
    scale = (high - low) / (like.high - like.low)
    return Grid(np.array([scale]), np.array([np.rint(like.low - low / scale)]), like.axis, like.low, like.high)


def _symmetric_grid(like: Grid, low: float, high: float) -> Grid:
    """The grid over [low, high] whose zero point is in the middle of its integers."""
    middle = np.ceil((like.low + like.high) / 2)
    scale = max(-low, high) / (like.high - middle)
    return Grid(np.array([scale]), np.array([middle]), like.axis, like.low, like.high)


def _weight_grid(constant: Constant, like: Grid, values: Array) -> Grid:
    """The min-max grid of a constant's `values`, in its layout; 1 is the step of what is zero throughout."""
    step = natural_step(like, values)
    step = np.where(np.isfinite(step), step, 1.0)
    zero = np.zeros_like(step)
    if like.zero.any():
        axes = tuple(i for i in range(values.ndim) if not (like.per_channel and i == like.axis))
        zero = np.rint(like.low - np.minimum(values.min(axis=axes, keepdims=True), 0) / step)
    return Grid(step.reshape(-1), zero.reshape(-1), like.axis, like.low, like.high)


def _outputs(graph: Graph, run: Run, case: Mapping[str, Array]) -> dict[str, Array]:
    """The model's outputs by name, in its layout; real numbers as float64."""
    values = run(feed(graph, case))
    rows = {port.name: np.asarray(port.fetch(values[port.tensor])) for port in graph.outputs}
    return {name: row.astype(np.float64) if row.dtype.kind == "f" else row for name, row in rows.items()}


def _kinds(graph: Graph, grids: Mapping[str, Grid]) -> Iterator[str]:
    """The kind of operator that writes each tensor that is rounded."""
    for op in graph.operators:
        if set(op.outputs) & grids.keys():
            yield op.kind
