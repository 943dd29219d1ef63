"""Sizes that a model's own golden data shows, for dynamic axes whose sizes nobody declared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from parity.cases.files import golden_files
from parity.core.contract import Contract
from parity.files import npz

MOST = 3  # sizes of one axis


def from_golden(contract: Contract, golden: Path | None) -> Contract:
    """The contract, with the sizes of golden data for every axis without `dims` but the batch, the commonest first.

    A number of the project's own choosing, such as 7 for a height, may be one that the model does not take.
    """
    names = {axis for axis in contract.sizes() if axis not in contract.dims and not contract.is_batch(axis)}
    if golden is None or not names:
        return contract
    seen: dict[str, Counter[int]] = {name: Counter() for name in names}
    for shapes in _shapes(contract, golden):
        for spec in contract.inputs:
            shape = shapes.get(spec.name, ())
            if len(shape) != len(spec.shape):
                continue
            for axis, size in zip(spec.shape, shape, strict=True):
                if axis in seen and size > 0:
                    seen[str(axis)][size] += 1
    sizes = {name: tuple(size for size, _ in counts.most_common(MOST)) for name, counts in seen.items() if counts}
    return replace(contract, dims={**contract.dims, **sizes})


def _shapes(contract: Contract, golden: Path) -> Iterator[Mapping[str, tuple[int, ...]]]:
    """The shape of each input in each golden file; a picture has the size that preprocessing gives it."""
    how = contract.preprocess
    pictures = [spec for spec in contract.inputs if len(spec.shape) == 4]
    for path in golden_files(golden):
        if path.suffix.lower() == ".npz":
            yield npz.shapes(path)
        elif how is not None and how.size is not None and len(pictures) == 1:
            yield {pictures[0].name: (0, 0, *how.size)}
