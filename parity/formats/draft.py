"""An artefact in the hands of a fault, whatever its format: its layers, their values, and what its graph allows.

A target's `draft` is a subclass that says how its format stores a value and how its graph is edited. What a format, or
this file, has no place for is answered with False. NumPy only here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parity.formats.graph import Array, Constant, Graph, NotPossible

__all__ = ["Draft", "Layer", "NotPossible"]


@dataclass(frozen=True)
class Layer:
    """A weight with its layout ("OHWI", "OI", "VD" for a table ...) and its bias, by the file's own names."""

    name: str
    layout: str
    bias: str

    def axis(self, letter: str) -> int | None:
        return self.layout.index(letter) if letter in self.layout else None


class Draft:
    """An opened copy of a file. `notes` say how it is opened, and may be changed too; `rng` is always the same."""

    def __init__(self, folder: str, notes: Mapping[str, Any], graph: Graph):
        self.folder, self.notes, self.graph = Path(folder), dict(notes), graph
        self.now: dict[str, Array] = {}
        self.cut = 0.0  # share of the largest file that is missing at its end
        self.rng = np.random.default_rng(7)

    # Values.

    def layers(self, tables: bool = False) -> list[Layer]:
        """The weights in the order of the operators; tables (embeddings) instead where they are asked for."""
        found: list[tuple[int, Layer]] = []
        biases = {slot.weight: c.name for c in self.graph.constants.values() if (slot := c.slot("bias"))}
        for constant in self.graph.constants.values():
            slot = constant.slot("weight")
            if slot is not None and (slot.layout == "VD") == tables and _real(constant):
                found.append((slot.operator, Layer(constant.name, slot.layout, biases.get(constant.name, ""))))
        return [layer for _, layer in sorted(found, key=lambda pair: pair[0])]

    def operands(self) -> list[Constant]:
        """Constants of real numbers that are neither weight nor bias: gains, tables of positions, scales."""
        return [c for c in self.graph.constants.values() if c.slots and not c.slot("weight", "bias") and _real(c)]

    def values(self, name: str) -> Array:
        """The real values of a constant as they now are, float64."""
        return self.now.get(name, self.graph.constants[name].real)

    def put(self, name: str, real: Array) -> bool:
        """Store real values as the file stores this constant; returns whether anything stored became another."""
        constant = self.graph.constants[name]
        dtype = constant.stored.dtype
        with np.errstate(over="ignore"):
            stored = (constant.grid.nearest(real) if constant.grid else real).astype(dtype)
        self.now[name] = constant.grid.real(stored) if constant.grid else stored.astype(np.float64)
        self.store(name, stored)
        return not np.array_equal(stored, constant.stored)

    def store(self, name: str, stored: Array) -> None:
        """Put stored values in a constant's place; they have its dtype and shape."""
        raise NotImplementedError

    def regrid(self, name: str, factor: float, by: int) -> bool:
        """Multiply the first scale of a constant's or tensor's grid, and move its zero point."""
        return False

    # The graph.

    def change_activation(self, lost: bool) -> bool:
        """The first activation function gone, or (not `lost`) another in its place."""
        return False

    def subtract(self) -> bool:
        """The first sum of two activations, a residual connection, becomes a difference."""
        return False

    def exchange_operands(self) -> bool:
        """The first two inputs of a concatenation, difference or quotient in each other's place."""
        return False

    def pad_at_end(self) -> bool:
        """All padding of the first padded convolution or pool behind the picture, as SAME at stride 2 pads."""
        return False

    def scale_input(self, factor: float, shift: float) -> bool:
        """The input multiplied and moved inside the file."""
        return False

    def set_epsilon(self, value: float) -> bool:
        """Another epsilon in every normalisation."""
        return False

    def rewrite(self) -> bool:
        """Other names inside and another order of what has none: another file of the same graph."""
        return False

    def optimise(self, tool: str) -> bool:
        """The graph as `tool` rewrites it without changing what it computes."""
        return False

    kernel_sets: tuple[str, ...] = ()
    threads = False  # whether the runtime takes a number of threads

    def save(self, folder: Path) -> None:
        """Write the file, under the name that the notes give, into an empty folder."""
        raise NotImplementedError


def _real(constant: Constant) -> bool:
    return (constant.stored.dtype.kind == "f" or constant.grid is not None) and constant.stored.size > 0
