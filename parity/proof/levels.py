"""Can the quantisation parameters of an output hold all of its parts, or only the large ones?

An output that joins boxes in pixels and scores in 0..1 has one scale, which fits the boxes: every
score rounds to zero, and no twin shows it, since the twin stores the output with one scale too.

An output is walked back through operators that move values and change none. Where they join
tensors, each is a *part*: what a user can give an output, and with it a scale, of its own. A part is
lost when all that it can hold is a few steps of the output. A class that fires on no golden case is
not lost: a sigmoid can hold 1, whatever the cases show. So the channels of one part are looked at by
what they hold only where each has a unit of its own, behind weights or a scale by channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.core.proof import Culprit
from parity.formats.graph import Array, Graph, Grid, Operator, Port, Values

FEWEST = 4.0  # steps that a part must be able to reach: with fewer it is no number any more
COARSE = 0.25  # rounding noise of a channel over what the channel varies by: above, it says little
WIDE = 64.0  # steps that another channel must span, a quarter of the levels: else the cases vary too little to tell
SAMPLES = 16  # elements of a channel, below which its spread is chance

_MOVING = (
    "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast", "Expand", "Tile", "DepthToSpace",
    "SpaceToDepth", "QuantizeLinear", "DequantizeLinear", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CAST",
    "BROADCAST_TO", "TILE", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH", "REVERSE_V2", "QUANTIZE", "DEQUANTIZE",
)  # fmt: skip
_CHOOSING = ("Slice", "Split", "Gather", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V", "UNPACK", "GATHER")
_JOINING = ("Concat", "CONCATENATION", "PACK")
_SCALING = ("Mul", "Div", "MUL", "DIV")
_ADDING = ("Add", "Sub", "ADD", "SUB")
_BOUNDED: Mapping[str, float] = {  # operator -> how far apart its ends are
    "Sigmoid": 1.0, "HardSigmoid": 1.0, "Softmax": 1.0, "LOGISTIC": 1.0, "SOFTMAX": 1.0, "Tanh": 2.0, "TANH": 2.0,
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A tensor whose values an output holds. `step` is the coarsest scale on its way into the output, `grid` what it
    is stored with where it is made, and `can_reach` how far apart its values can lie; None where nothing says it."""

    tensor: str
    step: float
    grid: Grid
    producer: Operator | None
    can_reach: float | None


@dataclass
class Spread:
    """What the channels of a tensor did along each axis, over all cases and the other axes. Arrays by channel."""

    count: dict[int, int] = field(default_factory=dict)
    total: dict[int, Array] = field(default_factory=dict)
    squares: dict[int, Array] = field(default_factory=dict)
    low: dict[int, Array] = field(default_factory=dict)
    high: dict[int, Array] = field(default_factory=dict)

    def add(self, values: Array) -> None:
        """Add one case. An axis on which cases differ in length, the first axis, and those of length 1 have no
        channels."""
        for axis in range(1, values.ndim):
            rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)
            if not rows.size or len(rows) < 2 or len(self.low.get(axis, rows)) != len(rows):
                self.count[axis] = 0
                continue
            low, high = rows.min(1), rows.max(1)
            self.count[axis] = self.count.get(axis, 0) + rows.shape[1]
            self.total[axis] = self.total.get(axis, 0.0) + rows.sum(1)
            self.squares[axis] = self.squares.get(axis, 0.0) + np.square(rows).sum(1)
            self.low[axis] = np.minimum(self.low.get(axis, low), low)
            self.high[axis] = np.maximum(self.high.get(axis, high), high)

    @property
    def axes(self) -> list[int]:
        return [axis for axis, count in self.count.items() if count >= SAMPLES]

    def span(self, axis: int) -> Array:
        """Largest less smallest value of each channel."""
        return np.asarray(self.high[axis] - self.low[axis])

    def deviation(self, axis: int) -> Array:
        """Standard deviation of each channel."""
        mean = self.total[axis] / self.count[axis]
        return np.asarray(np.sqrt(np.maximum(self.squares[axis] / self.count[axis] - np.square(mean), 0)))


def parts(graph: Graph, port: Port) -> list[Part]:
    """The parts of one output, as far as they are stored as 8-bit integers with one scale."""
    return list(_Walk(graph).parts(port.tensor))


def lost(graph: Graph, port: Port, outputs: Sequence[Values]) -> list[Culprit]:
    """The parts and channels of an output that its steps swallow. `outputs`: of each case, the values in the lifted
    graph, by tensor, of the output and of its parts."""
    found = parts(graph, port)
    if not found or not outputs:
        return []
    reaches = [_reach([values[part.tensor] for values in outputs]) for part in found]
    culprits = []
    for index, part in enumerate(found):
        others = [high - low for place, (low, high) in enumerate(reaches) if place != index]
        culprits += _lost_part(port, part, reaches[index], len(found) > 1, outputs)
        if not culprits and _by_channel(graph, part):
            culprits += _lost_channels(port, part, outputs, max(others, default=0.0))
    return culprits


class _Walk:
    """An output walked back to its parts."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.producer = {name: op for op in graph.operators for name in op.outputs}

    def parts(self, tensor: str, path: Sequence[Grid] = (), top: str = "", chosen: bool = False) -> Iterator[Part]:
        """`path`: the grids that lie between the output and here; `top`: the tensor below the last join, whose values
        are all in the output; `chosen`: an operator between takes only some of the values of what it reads."""
        top = top or tensor
        tensor = self.graph.origins.get(tensor, tensor)
        grid = self.graph.grids.get(tensor)
        if grid is not None:
            path = [*path, grid]
        op = self.producer.get(tensor)
        kind = op.kind if op is not None else ""
        reads = [name for name in op.inputs if name not in self.graph.constants] if op is not None else []
        if kind in _JOINING and not chosen:
            for name in reads:
                yield from self.parts(name, path, name)
        elif kind in (*_MOVING, *_CHOOSING) and reads:
            yield from self.parts(reads[0], path, top, chosen or kind in _CHOOSING)
        elif path and all(g.scale.size == 1 and g.scale[0] > 0 and not g.wide for g in path):
            step = max(float(g.scale[0]) for g in path)
            yield Part(top, step, path[-1], op, self._can_reach(op, path))

    def _can_reach(self, op: Operator | None, path: Sequence[Grid]) -> float | None:
        """How far apart values can lie, by what makes them and by their own quantisation parameters. The latter say
        nothing where they are the output's: a join of one scale gives it to all that it reads."""
        known = []
        if op is not None and op.kind in _BOUNDED:
            known.append(_BOUNDED[op.kind])
        factors = [self.graph.grids.get(name) for name in op.inputs] if op is not None else []
        if op is not None and op.kind in _SCALING and len(factors) == 2 and None not in factors:
            known.append(math.prod(_furthest(grid) for grid in factors if grid is not None))
        if path[-1].scale[0] < max(g.scale[0] for g in path):
            known.append(float(path[-1].scale[0] * (path[-1].high - path[-1].low)))
        return max(known, default=None)


def _furthest(grid: Grid) -> float:
    return max(abs(float((end - grid.zero[0]) * grid.scale[0])) for end in (grid.low, grid.high))


def _reach(values: Sequence[Array]) -> tuple[float, float]:
    filled = [v for v in values if v.size]
    return (
        min((float(v.min()) for v in filled), default=0.0),
        max((float(v.max()) for v in filled), default=0.0),
    )


def _lost_part(
    port: Port, part: Part, reach: tuple[float, float], joined: bool, outputs: Sequence[Values]
) -> list[Culprit]:
    """A part of which the output's scale leaves next to nothing. What the cases reach decides only where nothing else
    says how far the part can reach, and then at one step."""
    low, high = reach
    span = high - low
    if part.can_reach is not None:
        swallowed = part.can_reach < FEWEST * part.step
    else:
        swallowed = joined and 0 < span < part.step
    if not swallowed:
        return []
    channels, axis = _channels_under(port, max(span, part.step), outputs)
    named = f" (axis {axis})" if channels else f" (from {part.tensor})"
    return [Culprit("tensor", port.name, _words(low, high, part.step, named), channels)]


def _by_channel(graph: Graph, part: Part) -> bool:
    """Whether each channel of a part has a unit of its own: behind weights, or constants by channel. Behind weights
    one end at zero is that of a ReLU, whose channels may well be silent."""
    op = part.producer
    if op is None:
        return False
    constants = [graph.constants[name] for name in op.inputs if name in graph.constants]
    if op.kind in _SCALING:
        return any(c.stored.size > 1 for c in constants)
    weights = any(slot.role == "weight" and slot.operator == op.index for c in constants for slot in c.slots)
    shifts = op.kind in _ADDING and any(c.stored.size > 1 for c in constants)
    one_sided = part.grid.zero[0] in (part.grid.low, part.grid.high)
    return (weights or shifts) and not one_sided


def _lost_channels(port: Port, part: Part, outputs: Sequence[Values], widest: float) -> list[Culprit]:
    """Channels that vary by less than their rounding noise allows, beside others that use the levels."""
    direct = part.tensor == port.tensor
    spread = Spread()
    for values in outputs:
        value = values[part.tensor]
        spread.add(port.fetch(value) if direct else value)
    for axis in spread.axes:
        span, deviation = spread.span(axis), spread.deviation(axis)
        if max(widest, float(span.max())) < WIDE * part.step:
            continue
        under = (deviation > 0) & (part.step / math.sqrt(12) > COARSE * deviation)
        channels = tuple(int(c) for c in np.flatnonzero(under))
        if channels:
            low, high = spread.low[axis][under].min(), spread.high[axis][under].max()
            named = f" (axis {axis})" if direct else f" (axis {axis} of {part.tensor})"
            return [Culprit("tensor", port.name, _words(low, high, part.step, named), channels)]
    return []


def _channels_under(port: Port, span: float, outputs: Sequence[Values]) -> tuple[tuple[int, ...], int]:
    """The channels of the output that span no more than this, and their axis, where some do and others do not."""
    spread = Spread()
    for values in outputs:
        spread.add(port.fetch(values[port.tensor]))
    for axis in spread.low:
        under = np.flatnonzero(spread.span(axis) <= span)
        if 0 < len(under) < len(spread.low[axis]):
            return tuple(int(c) for c in under), axis
    return (), 0


def _words(low: float, high: float, step: float, named: str) -> str:
    return (
        f"lost in the output's quantisation step{named}: values from {low:.3g} to {high:.3g}, a step is {step:.3g}; "
        "give them an output of their own, so that they have a scale of their own"
    )
