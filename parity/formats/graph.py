"""An artefact's graph in the words of the proof, whatever its format: operators, constants, and the grids of integers.

A target's `graph` is a reader that gives this view and knows how to run the artefact whole, lifted
to float, and cut into its operators. The links know only what is here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from parity.judging.floor import FP16_MAX

Array = np.ndarray[Any, np.dtype[Any]]
Values = dict[str, Array]  # tensors by name


class NotPossible(Exception):
    """A link cannot be made for this artefact; the text says why, for the user."""


class NotOffered(NotPossible):
    """A link that no artefact of this format can have: said, and not held against the file."""


@dataclass(frozen=True)
class Grid:
    """How integers stand for reals: real = (stored - zero) * scale; one pair, or one a channel along `axis`."""

    scale: Array
    zero: Array
    axis: int
    low: int
    high: int

    @property
    def per_channel(self) -> bool:
        return self.scale.size > 1

    @property
    def wide(self) -> bool:
        """Whether the integers are so many that the step follows from other tensors, not from the values' reach."""
        return self.high > np.iinfo(np.int16).max

    def same(self, other: Grid) -> bool:
        """Whether equal integers stand for equal reals on both."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.zero, other.zero)

    def spread(self, values: Array, rank: int) -> Array:
        """Per-channel `values` in a shape that broadcasts against a tensor of `rank`."""
        if values.size == 1:
            return values.reshape(())
        return values.reshape([-1 if i == self.axis else 1 for i in range(rank)])

    def step(self, rank: int) -> Array:
        return self.spread(self.scale, rank)

    def real(self, stored: Array) -> Array:
        """float64 values of stored integers."""
        shifted = stored.astype(np.float64) - self.spread(self.zero, stored.ndim)
        return np.asarray(shifted * self.step(stored.ndim))

    def steps(self, real: Array) -> Array:
        """Where `real` lies on the grid, in steps, neither rounded nor clipped."""
        return np.asarray(real / self.step(real.ndim) + self.spread(self.zero, real.ndim))

    def nearest(self, real: Array) -> Array:
        """The grid's integers for `real`, as float64: rounded, then clipped to what the type holds."""
        return np.asarray(np.clip(np.rint(self.steps(real)), self.low, self.high))


FLOAT_MAX = float(np.finfo(np.float32).max)
TABLE = "VD"  # the layout of a table in whose rows an operator looks something up
Role = Literal["weight", "bias", "operand"]


@dataclass(frozen=True)
class Slot:
    """One use of a constant. `layout` is the one that the operator prescribes (OHWI, 1HWO, OI, ...); a match never
    searches for another. A bias names its weight and the tensor that the weight multiplies."""

    operator: int
    role: Role
    layout: str = ""
    weight: str = ""
    data: str = ""


@dataclass(frozen=True)
class Constant:
    """A constant of the artefact: what is stored, and on which grid (None: stored as floating point)."""

    name: str
    stored: Array
    grid: Grid | None
    slots: tuple[Slot, ...] = ()

    @property
    def real(self) -> Array:
        """float64 values."""
        return self.grid.real(self.stored) if self.grid else self.stored.astype(np.float64)

    @property
    def reduced(self) -> bool:
        """Whether it is stored with less than float32's precision, so that the lift restores the torch values."""
        return self.grid is not None or self.stored.dtype == np.float16

    def slot(self, *roles: Role) -> Slot | None:
        return next((slot for slot in self.slots if slot.role in roles), None)


@dataclass(frozen=True)
class Operator:
    """One operator: its kind in the format's own words, and the tensors that it reads (activations first)."""

    index: int
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of the artefact under the model's own name, with its layout and element type where they differ
    from torch."""

    name: str
    tensor: str
    layout: str = ""
    dtype: str = ""

    def feed(self, value: Array) -> Array:
        """A torch array as the artefact wants it."""
        if self.dtype:
            value = value.astype(self.dtype)
        return np.ascontiguousarray(value.transpose(self._order(value.ndim))) if self.layout else value

    def fetch(self, value: Array) -> Array:
        """An array of the artefact as torch would give it."""
        return value.transpose(np.argsort(self._order(value.ndim))) if self.layout else value

    def _order(self, rank: int) -> list[int]:
        canonical = {3: "NCL", 4: "NCHW", 5: "NCDHW"}[rank]
        return [canonical.index(axis) for axis in self.layout]


@dataclass(frozen=True)
class Graph:
    """The whole view. `grids` are those of activations; `channels_last` is the layout of feature maps.

    `origins`: by tensor, the one that it is, seen through dequantisation that is no operator here.
    """

    operators: tuple[Operator, ...]
    constants: Mapping[str, Constant]
    grids: Mapping[str, Grid]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    channels_last: bool
    symmetric_weights: bool  # the format says that signed weights have zero point 0
    flushes: bool = False  # its converter stores what is subnormal in fp16 as zero
    origins: Mapping[str, str] = field(default_factory=dict)
    named: bool = False  # constants bear the names that the module's tensors have
    literals: Mapping[str, Sequence[tuple[float, ...]]] = field(default_factory=dict)  # numbers of the code by operator

    @property
    def activations(self) -> tuple[str, ...]:
        """The tensors that a run fills, in order."""
        filled = [port.tensor for port in self.inputs] + [name for op in self.operators for name in op.outputs]
        return tuple(dict.fromkeys(filled))


Run = Callable[[Values], Values]


class Artefact(Protocol):
    """What a format's reader offers. Tensors go in and come out by the artefact's own names and layouts."""

    graph: Graph
    kernels: tuple[str, ...]  # the runtime's kernel sets, the one that apps get first

    def whole(self, kernels: str) -> Run:
        """The artefact as it is: float inputs by port tensor -> outputs as reals, float64."""
        ...

    def trace(self, case: Values, names: Collection[str] | None = None) -> Values:
        """Every activation, or those in `names`, as stored, on kernels that keep all tensors."""
        ...

    def lift(self, weights: Mapping[str, Array], watch: Sequence[str] = ()) -> Run:
        """The same graph in float, free of grids, with `weights` in the constants' places: outputs and `watch`ed."""
        ...

    def rounded(self, weights: Mapping[str, Array], grids: Mapping[str, Grid]) -> Run:
        """The lifted graph with each activation of `grids` put on its grid there, and what the file itself rounds by
        the range of the moment rounded so: outputs as reals. `weights` are on their grids already; a format whose
        kernels want them as integers takes their grids from `grids`, too."""
        ...

    def alone(self, kernels: str, operators: Sequence[Operator]) -> Run:
        """Each of `operators` by itself, as it is: activations as stored in, operator outputs as stored."""
        ...

    def alone_lifted(self, operators: Sequence[Operator]) -> Run:
        """Each of `operators` by itself in float, with the artefact's own constants: reals in, reals out."""
        ...

    def reread(self) -> bool:
        """From now on take the next reading of what the file leaves open; False where none is left."""
        ...


@runtime_checkable
class Branching(Protocol):
    """An artefact of a file with branches that sizes decide, of which those are read that the `example` among the notes
    takes."""

    @property
    def branched(self) -> bool:
        """Whether what is read is one branch of several, that some inputs take and others not."""
        ...

    def follows(self, case: Mapping[str, Array]) -> bool:
        """Whether inputs by the model's names take the branches that are read."""
        ...


def branched(artefact: object) -> bool:
    """Whether an artefact is read on one branch of several."""
    return isinstance(artefact, Branching) and artefact.branched


def follows(artefact: object, case: Mapping[str, Array]) -> bool:
    """Whether an artefact is read as inputs, by the model's names, run through it."""
    return not isinstance(artefact, Branching) or artefact.follows(case)


class WholeOnly:
    """What every artefact says whose format runs no operator by itself. A reader inherits it and says why."""

    no_operators: str

    def rounded(self, weights: Mapping[str, Array], grids: Mapping[str, Grid]) -> Run:
        raise NotOffered("files of this format are not rounded operator by operator")

    def trace(self, case: Values, names: Collection[str] | None = None) -> Values:
        raise NotOffered(self.no_operators)

    def alone(self, kernels: str, operators: Sequence[Operator]) -> Run:
        raise NotOffered(self.no_operators)

    def alone_lifted(self, operators: Sequence[Operator]) -> Run:
        raise NotOffered(self.no_operators)

    def reread(self) -> bool:
        return False


def feed(graph: Graph, case: Mapping[str, Array]) -> Values:
    """A case, arrays by the model's input names, under the artefact's tensors and in its layout."""
    return {port.tensor: port.feed(case[port.name]) for port in graph.inputs}


def widened_ends(values: Array) -> Array:
    """float32 `values` with fp16's largest and least number as float32's.

    What a mask adds to hide a score is the end of the type that the file computes in, beside which any score vanishes;
    beside -65504 in float32 none does.
    """
    return np.where(np.abs(values) == FP16_MAX, np.copysign(FLOAT_MAX, values), values).astype(np.float32)


def relative_rms(got: Array, want: Array) -> float:
    """rms(got - want) / rms(want), equal infinities being no difference; infinite where that is not finite."""
    error = np.where(got == want, 0.0, np.asarray(got, np.float64) - np.asarray(want, np.float64))
    scale = float(np.sqrt(np.mean(np.square(np.where(np.isfinite(want), want, 0.0))))) or 1.0
    value = float(np.sqrt(np.mean(np.square(error)))) / scale
    return value if np.isfinite(value) else float("inf")


_MOVED = 7 / 8  # of the rows; weight normalisation that is not trained yet leaves some as they are


def moved_or_precise(values: Array, stored: Iterable[Array]) -> bool:
    """Whether what a file computes from constants can be held against the module to the rounding of its type: in half
    precision only what has nearly all rows of one of the `stored` tensors, for arithmetic there rounds each
    intermediate result."""
    if values.dtype != np.float16:
        return True
    alike = (other for other in stored if other.ndim > 1 and other.shape == values.shape)
    return any((other == values).reshape(len(values), -1).all(1).mean() >= _MOVED for other in alike)
