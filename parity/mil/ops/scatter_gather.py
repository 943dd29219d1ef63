"""Reading and writing elements by index.

Negative indices count from the end. An index beyond the axis is an error where the program asks for
validation (iOS17; then negative ones are errors too). Elsewhere Core ML leaves it undefined: it is reported
as an event, and reads from or writes to the nearest valid place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.mil import events
from parity.mil.errors import OperatorFailed
from parity.mil.precision import Context
from parity.mil.registry import operator


def _valid(ctx: Context, indices: Tensor, size: int, validate: bool) -> Tensor:
    indices = indices.long()
    if indices.numel():
        lowest, highest = (int(v) for v in indices.aminmax())
        if size == 0:
            raise OperatorFailed("an index into an axis of size 0")
        if validate and (lowest < 0 or highest >= size):
            raise OperatorFailed(f"indices from {lowest} to {highest} into an axis of size {size}")
        if lowest < -size or highest >= size:
            ctx.report(events.INDEX, lowest=lowest, highest=highest, size=size)
        if lowest < 0 or highest >= size:
            indices = torch.where(indices < 0, indices + size, indices).clamp(0, size - 1)
    return indices


@operator(exact=True)
def gather(
    ctx: Context,
    x: Tensor,
    indices: Tensor,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool = False,
) -> Tensor:
    """Slices of x along ``axis``, in the order of ``indices``; the first ``batch_dims`` axes go pairwise."""
    axis %= x.dim()
    index = _valid(ctx, indices, x.shape[axis], validate_indices)
    if batch_dims == 0:
        rows = x.index_select(axis, index.reshape(-1))
        return rows.reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])
    pairs = zip(_flat_batch(x, batch_dims), _flat_batch(index, batch_dims), strict=True)
    rows = torch.stack([gather(ctx, part, i, axis - batch_dims, 0, validate_indices) for part, i in pairs])
    return rows.reshape(x.shape[:batch_dims] + rows.shape[1:])


@operator(exact=True)
def gather_along_axis(
    ctx: Context, x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False
) -> Tensor:
    """One element of x for each index, which replaces its own coordinate on ``axis``."""
    return torch.gather(x, axis, _valid(ctx, indices, x.shape[axis], validate_indices))


@operator(exact=True)
def gather_nd(ctx: Context, x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False) -> Tensor:
    """Elements or slices of x at coordinates: the last axis of ``indices`` holds one coordinate each."""
    if batch_dims == 0:
        return x[_coordinates(ctx, indices, x, validate_indices)]
    pairs = zip(_flat_batch(x, batch_dims), _flat_batch(indices, batch_dims), strict=True)
    rows = torch.stack([gather_nd(ctx, part, i, 0, validate_indices) for part, i in pairs])
    return rows.reshape(x.shape[:batch_dims] + rows.shape[1:])


@operator()
def scatter(
    ctx: Context,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """data with slices along ``axis`` combined with ``updates``."""
    axis %= data.dim()
    result = data.clone().movedim(axis, 0).contiguous()
    index = _valid(ctx, indices, data.shape[axis], validate_indices)
    moved = updates.movedim(axis, 0) if updates.dim() == data.dim() else updates
    return _combine(result, (index,), moved, mode).movedim(0, axis)


@operator()
def scatter_along_axis(
    ctx: Context,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """data with one element for each index combined with its update."""
    axis %= data.dim()
    index = list(torch.meshgrid(*[torch.arange(n) for n in indices.shape], indexing="ij"))
    index[axis] = _valid(ctx, indices, data.shape[axis], validate_indices)
    return _combine(data.clone(), tuple(index), updates, mode)


@operator()
def scatter_nd(
    ctx: Context,
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: bool = False,
) -> Tensor:
    """data with elements or slices at coordinates combined with ``updates``."""
    return _combine(data.clone(), _coordinates(ctx, indices, data, validate_indices), updates, mode)


def _flat_batch(x: Tensor, batch_dims: int) -> Tensor:
    return x.reshape(-1, *x.shape[batch_dims:])


def _coordinates(ctx: Context, indices: Tensor, x: Tensor, validate: bool) -> tuple[Tensor, ...]:
    if indices.shape[-1] > x.dim():
        raise OperatorFailed(f"{indices.shape[-1]} coordinates for a tensor of rank {x.dim()}")
    return tuple(_valid(ctx, indices[..., k], x.shape[k], validate) for k in range(indices.shape[-1]))


COMBINE: dict[str, Callable[..., Any]] = {
    "mul": np.multiply.at,
    "div": np.divide.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _combine(target: Tensor, index: tuple[Tensor, ...], updates: Tensor, mode: str) -> Tensor:
    """``target``, changed in place; an index that occurs twice is combined twice."""
    updates = updates.to(target.dtype)
    if mode == "update":
        target[index] = updates
    elif mode in ("add", "sub"):
        target.index_put_(index, updates if mode == "add" else -updates, accumulate=True)
    else:
        COMBINE[mode](target.numpy(), tuple(i.numpy() for i in index), updates.numpy())
    return target
