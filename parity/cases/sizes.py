"""What a model's own golden data shows of sizes and ranges that nobody declared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from parity.cases.files import golden_files
from parity.core.case import spread
from parity.core.contract import Contract
from parity.files import npz

MOST = 3  # sizes of one axis
READ = 64  # golden files that are looked at for the range of integers


def from_golden(contract: Contract, golden: Path | None) -> Contract:
    """The contract, with the sizes of golden data for every axis without `dims` but the batch, the commonest first, and
    with its range for every integer input without one.

    A number of the project's own choosing, such as 7 for a height or an id beyond the vocabulary, may be one that the
    model does not take.
    """
    return _with_ranges(_with_sizes(contract, golden), golden)


def _with_sizes(contract: Contract, golden: Path | None) -> Contract:
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


def _with_ranges(contract: Contract, golden: Path | None) -> Contract:
    """Integers from 0, or less, to the largest that golden data shows. Where it shows nothing beyond 0 and 1, they stay
    undeclared: such a mask may be all of one value in a few cases."""
    open_ = [spec for spec in contract.inputs if spec.range is None and np.dtype(spec.dtype).kind in "iu"]
    if golden is None or not open_:
        return contract
    archives = [path for path in golden_files(golden) if path.suffix.lower() == ".npz"]
    chosen = [archives[i] for i in spread(len(archives), READ)]
    ranges = {}
    for spec in open_:
        extents = [extent for path in chosen if (extent := npz.extent(path, spec.name)) is not None]
        high = max((high for _, high in extents), default=0.0)
        low = min((low for low, _ in extents), default=0.0)
        if low < 0 or high > 1:
            ranges[spec.name] = (min(0.0, low), high)
    return replace(
        contract,
        inputs=tuple(replace(spec, range=ranges.get(spec.name, spec.range)) for spec in contract.inputs),
    )


def _shapes(contract: Contract, golden: Path) -> Iterator[Mapping[str, tuple[int, ...]]]:
    """The shape of each input in each golden file; a picture has the size that preprocessing gives it."""
    how = contract.preprocess
    pictures = [spec for spec in contract.inputs if len(spec.shape) == 4]
    for path in golden_files(golden):
        if path.suffix.lower() == ".npz":
            yield npz.shapes(path)
        elif how is not None and how.size is not None and len(pictures) == 1:
            yield {pictures[0].name: (0, 0, *how.size)}
