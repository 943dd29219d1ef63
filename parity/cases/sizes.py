"""Sizes and ranges that nobody declared: what a model's own golden data shows, and sizes beyond and beside those."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from parity.cases.files import golden_files
from parity.core.case import spread
from parity.core.contract import Contract
from parity.files import npz

MOST = 3  # sizes of one axis
STRIDE = 32
FURTHER = 1.5  # times the largest declared size, at least
MANY = (4, 17)  # rows: files go wrong at one number of them, and from 8 or from 16 on
CROWDS = (32, 64)  # rows, where they are cheap: what a server gathers
FAR = (2, 4)  # times the largest declared size, where that is cheap
MOST_PAIRS = 16  # combinations of declared sizes, beside those that are tried anyway
LEAST = 2  # of a length: one of 1 is broadcast, and exporters take it for another kind of axis
READ = 64  # golden files that are looked at for the range of integers


def from_golden(contract: Contract, golden: Path | None) -> Contract:
    """The contract, with the sizes of golden data for every axis without `dims` but the batch, the commonest first, and
    with its range for every integer input without one.

    A number of the project's own choosing, such as 7 for a height or an id beyond the vocabulary, may be one that the
    model does not take.
    """
    return _with_ranges(_with_sizes(contract, golden), golden)


def without_range(contract: Contract) -> tuple[str, ...]:
    """The inputs of numbers that nobody declared a range for."""
    numbers = (spec for spec in contract.inputs if np.dtype(spec.dtype).kind != "b")
    return tuple(spec.name for spec in numbers if spec.range is None)


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


def further(sizes: Sequence[int], taken: Collection[int] = ()) -> int:
    """A size beyond all of `sizes`, by half or more, that is none of those `taken`.

    It is a multiple of what `sizes` are multiples of, of 32 at most: what networks ask of pictures.
    """
    step = _step(sizes)
    size = step * math.ceil(FURTHER * max(sizes) / step)
    while size in taken:
        size += step
    return size


def _step(sizes: Sequence[int]) -> int:
    step = math.gcd(*sizes)
    return STRIDE if step % STRIDE == 0 else step


def beyond(contract: Contract, fixed: Collection[str] = ()) -> dict[str, int]:
    """A size beyond the declared ones for each axis that is not `fixed`, each at one of its own: none is taken for
    another."""
    larger: dict[str, int] = {}
    for axis, sizes in contract.sizes().items():
        if axis not in fixed:
            larger[axis] = further(sizes, larger.values())
    return larger


def batches_beside(contract: Contract, larger: Mapping[str, int]) -> list[dict[str, int]]:
    """Further sizes of the batch, where it is among the axes of `larger`, that are neither declared nor there."""
    batch = next((axis for axis in larger if contract.is_batch(axis)), None)
    if batch is None:
        return []
    tried = {*contract.sizes()[batch], larger[batch]}
    return [{batch: size} for size in MANY if size not in tried]


def lengths_beside(contract: Contract, larger: Mapping[str, int]) -> list[dict[str, int]]:
    """Further sizes of the axes of `larger` that are no batch: those of `larger` with rows and columns exchanged, then
    all axes above the example's size and all below, by an odd number: an even size becomes an odd one.

    The second axis moves by two more than the first, so that of two alike, as of a square picture, each is once the
    longer one.
    """
    lengths = {axis: size for axis, size in larger.items() if not contract.is_batch(axis)}
    example = contract.example()
    steps = [(axis, 1 + 2 * place) for place, axis in enumerate(lengths)]
    sizes = [
        _exchanged(contract, lengths),
        {axis: example[axis] + step for axis, step in steps},
        {axis: max(example[axis] - step, min(example[axis], LEAST)) for axis, step in steps},
    ]
    usual = {axis: example[axis] for axis in lengths}
    return [dims for dims in sizes if dims not in ({}, lengths, usual)]


def crowds(contract: Contract, larger: Mapping[str, int]) -> list[dict[str, int]]:
    """Many rows, where the batch is among the axes of `larger`: a server gathers as many."""
    batch = next((axis for axis in larger if contract.is_batch(axis)), None)
    if batch is None:
        return []
    return [{batch: size} for size in CROWDS if size not in contract.sizes()[batch] and size != larger[batch]]


def far_lengths(contract: Contract, larger: Mapping[str, int]) -> list[dict[str, int]]:
    """Sizes of the axes of `larger` that are no batch: all at one, and all at twice and four times their largest."""
    sizes = {axis: contract.sizes()[axis] for axis in larger if not contract.is_batch(axis)}
    tried = [{axis: times * max(known) for axis, known in sizes.items()} for times in FAR]
    if any(1 not in known for known in sizes.values()):
        tried.insert(0, dict.fromkeys(sizes, 1))
    return tried if sizes else []


def equal_sizes(contract: Contract, larger: Mapping[str, int]) -> dict[str, int]:
    """One size for all axes of `larger`, the batch among them, that each may take; empty where there are not two axes.

    Where sizes are the same, a file may take one axis for another, or compare them.
    """
    lengths = [contract.sizes()[axis] for axis in larger if not contract.is_batch(axis)]
    if len(larger) < 2 or not lengths:
        return {}
    size = math.lcm(*map(_step, lengths))
    if size == 1:
        size = min((size for known in lengths for size in known if size > 1), default=LEAST)
    return dict.fromkeys(larger, size)


def covering(sizes: Mapping[str, Sequence[int]], tried: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """Combinations of `sizes` that are not `tried`: all, where there are few; else as many as it takes for every size
    of each axis to meet every size of each other, `MOST_PAIRS` at most."""
    axes = [axis for axis, values in sizes.items() if len(values) > 1]
    if len(axes) < 2:
        return []
    if math.prod(len(sizes[axis]) for axis in axes) <= MOST_PAIRS:
        seen = [{axis: dims[axis] for axis in axes} for dims in tried]
        every = (dict(zip(axes, values, strict=True)) for values in itertools.product(*(sizes[a] for a in axes)))
        return [each for each in every if each not in seen]
    left = {((a, x), (b, y)) for a, b in itertools.combinations(axes, 2) for x in sizes[a] for y in sizes[b]}
    for each in tried:
        left -= _pairs(each, axes)
    chosen: list[dict[str, int]] = []
    while left and len(chosen) < MOST_PAIRS:
        dims: dict[str, int] = dict(min(left))
        for axis in axes:
            if axis not in dims:
                rest = [{**dims, axis: size} for size in sizes[axis]]
                dims = max(rest, key=lambda each: len(left & _pairs(each, axes)))
        left -= _pairs(dims, axes)
        chosen.append(dims)
    return chosen


def _pairs(dims: Mapping[str, int], axes: Sequence[str]) -> set[tuple[tuple[str, int], tuple[str, int]]]:
    return set(itertools.combinations([(axis, dims[axis]) for axis in axes if axis in dims], 2))


def _exchanged(contract: Contract, lengths: Mapping[str, int]) -> dict[str, int]:
    """`lengths` with the sizes of each input's axes in the opposite order."""
    exchanged = dict(lengths)
    for spec in contract.inputs:
        axes = [axis for axis in dict.fromkeys(spec.shape) if isinstance(axis, str) and axis in lengths]
        if all(exchanged[axis] == lengths[axis] for axis in axes):
            exchanged.update(zip(axes, [lengths[axis] for axis in reversed(axes)], strict=True))
    return exchanged
