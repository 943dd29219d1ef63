"""An artefact as steps that can be run one at a time, whatever its format. A target's `steps` opens it so.

Values go in and come out as the artefact stores them, under its own names and in its own layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from parity.formats.graph import Array, Grid, NotPossible, Port, Values

__all__ = ["NotPossible", "Step", "Steps"]


@dataclass(frozen=True)
class Step:
    """One operator: what it reads of what others wrote, and what it writes; constants are its own affair."""

    index: int
    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


class Steps(Protocol):
    """An opened artefact. `grids` are those of tensors that are stored as integers."""

    steps: Sequence[Step]
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    grids: Mapping[str, Grid]

    def feed(self, case: Mapping[str, Array]) -> Values:
        """The artefact's input tensors for a case under the model's names."""
        ...

    def run(self, step: Step, values: Values) -> Values:
        """What the step writes, from what it reads; on the runtime's own kernels."""
        ...

    def save(self, steps: Sequence[Step], values: Values, folder: str) -> str:
        """A file that holds these steps alone, and their inputs beside it; returns the file's name."""
        ...


def ports(notes: Mapping[str, Any], side: str) -> tuple[Port, ...]:
    """The artefact's inputs or outputs under the model's names, as its route noted them."""
    return tuple(Port(name, entry["name"], entry.get("layout") or "") for name, entry in notes[side].items())


def real(value: Array, grid: Grid | None) -> Array:
    """float64 values of what is stored; integers without a grid are no real numbers and stay."""
    if grid is not None and value.dtype.kind in "iu":
        return grid.real(value)
    return value.astype(np.float64) if value.dtype.kind == "f" else value


def stored(values: Array, like: Array, grid: Grid | None) -> Array:
    """Real values as the artefact would store them in place of `like`."""
    if grid is not None and like.dtype.kind in "iu":
        values = grid.nearest(values)
    with np.errstate(over="ignore"):
        return np.array(values.astype(like.dtype), order="C")  # a scalar stays one
