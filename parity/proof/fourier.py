"""The tables of a Fourier transform: no tensor of the module, and yet constants of a file.

Formats without complex numbers hold a transform as products with cosines and sines. A converter computes them in
float32, angles of hundreds too, whose rounding is many times that of the table. Imports torch: child only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from parity.formats.graph import Array
from parity.proof.expressions import MARGIN, UNIT, Expressions, kind


@dataclass(frozen=True)
class Table:
    """Cosines or sines of one transform, [frequencies, samples], float64; `magnitude` as `Expressions.magnitude`."""

    name: str
    data: str  # the node that is transformed
    values: Array
    magnitude: Array


def tables(node: fx.Node, known: Expressions) -> Iterator[Table]:
    """The tables of a transform whose window, where it has one, depends on no input; none of any other node."""
    if kind(node) != "stft":
        return
    said = _arguments(node)
    size, window, sided = int(said["n_fft"]), said.get("window"), said.get("onesided")
    if isinstance(window, fx.Node) and window not in known:
        return
    shape = np.ones(size) if window is None else _centred(np.asarray(known[window].double().numpy()), size)
    frequencies = size if sided is False else size // 2 + 1
    for name, exact, single in zip(("cos", "-sin", "sin"), *map(list, _both(frequencies, size)), strict=True):
        error = float(np.abs((single - exact) * shape).max())
        values = exact * shape
        least = np.full_like(values, MARGIN * error / UNIT)
        yield Table(f"{name} of {node.name}", str(node.args[0]), values, np.maximum(np.abs(values), least))


def _both(frequencies: int, size: int) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """Cosine, minus sine and sine: exact, and of angles that were computed in float32."""
    product = np.outer(np.arange(frequencies), np.arange(size))
    exact = 2 * np.pi * (product % size) / size
    single = (product.astype(np.float32) * np.float32(2 * np.pi) / np.float32(size)).astype(np.float64)
    return _waves(exact), _waves(single)


def _waves(angle: Array) -> tuple[Array, Array, Array]:
    return np.cos(angle), -np.sin(angle), np.sin(angle)


def _centred(window: Array, size: int) -> Array:
    left = (size - window.size) // 2
    return np.pad(window, (left, size - window.size - left))


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a node by the names of its operator."""
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
