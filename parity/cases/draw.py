"""Seeded tensors that fit a contract: export examples, and calibration where no calibration data is declared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from parity.core.case import Array
from parity.core.contract import Contract, InputSpec


def tensor(spec: InputSpec, dims: Mapping[str, int], rng: np.random.Generator) -> Array:
    """Values in the declared range: uniform for floats, integers below the upper end; unit normal without a range."""
    shape = spec.sized(dims)
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu":
        low, high = spec.range or (0, 1)
        return rng.integers(int(low), int(high), shape, endpoint=True).astype(dtype)
    if spec.range is None:
        return rng.standard_normal(shape).astype(dtype)
    return rng.uniform(*spec.range, shape).astype(dtype)


def inputs(contract: Contract, dims: Mapping[str, int], seed: int) -> dict[str, Array]:
    """One set of inputs with the symbolic dimensions at `dims`; the same seed gives the same values everywhere."""
    rng = np.random.default_rng(seed)
    return {spec.name: tensor(spec, dims, rng) for spec in contract.inputs}


def golden(contract: Contract, folder: Path, seed: int, count: int = 8) -> None:
    """Write `count` sets of inputs as .npz cases: a start, until there are real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        np.savez(folder / f"drawn_{i}.npz", **inputs(contract, contract.example(), seed + i))
