"""Reductions over axes: all axes when none are named, kept with size 1 when ``keep_dims``."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.mil.precision import Context
from parity.mil.registry import operator


def all_axes(x: Tensor, axes: list[int] | None) -> list[int]:
    """``axes`` counted from the front and sorted, or every axis of ``x``."""
    return list(range(x.dim())) if axes is None else sorted({a % x.dim() for a in axes})


def _drop(reduced: Tensor, axes: list[int], keep_dims: bool) -> Tensor:
    """A result whose reduced axes have size 1, without them unless they are to be kept."""
    return reduced if keep_dims else reduced.reshape([n for i, n in enumerate(reduced.shape) if i not in axes])


@operator()
def reduce_sum(ctx: Context, x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Sum."""
    over = all_axes(x, axes)
    return _drop(ctx.sum(x, over), over, keep_dims)


@operator()
def reduce_mean(ctx: Context, x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Arithmetic mean."""
    over = all_axes(x, axes)
    return _drop(ctx.mean(x, over), over, keep_dims)


@operator(exact=True)
def reduce_max(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Largest element."""
    over = all_axes(x, axes)
    return _drop(x.amax(over, keepdim=True), over, keep_dims)


@operator(exact=True)
def reduce_min(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Smallest element."""
    over = all_axes(x, axes)
    return _drop(x.amin(over, keepdim=True), over, keep_dims)


@operator()
def reduce_prod(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Product."""
    over = all_axes(x, axes)
    for axis in over:
        x = x.prod(axis, keepdim=True)
    return _drop(x, over, keep_dims)


@operator()
def reduce_l1_norm(ctx: Context, x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Sum of magnitudes."""
    over = all_axes(x, axes)
    return _drop(ctx.sum(x.abs(), over), over, keep_dims)


@operator()
def reduce_l2_norm(ctx: Context, x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Square root of the sum of squares."""
    over = all_axes(x, axes)
    return _drop(torch.sqrt(ctx.sum(ctx.round(x * x), over)), over, keep_dims)


@operator()
def reduce_sum_square(ctx: Context, x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Sum of squares."""
    over = all_axes(x, axes)
    return _drop(ctx.sum(ctx.round(x * x), over), over, keep_dims)


@operator()
def reduce_log_sum(ctx: Context, x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Logarithm of the sum."""
    over = all_axes(x, axes)
    return _drop(torch.log(ctx.sum(x, over)), over, keep_dims)


@operator()
def reduce_log_sum_exp(x: Tensor, axes: list[int] | None = None, keep_dims: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials, computed without overflow."""
    over = all_axes(x, axes)
    return _drop(torch.logsumexp(x, over, keepdim=True), over, keep_dims)


@operator()
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Position of the largest element, the first of equals."""
    return torch.argmax(x, axis, keep_dims)


@operator()
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
    """Position of the smallest element, the first of equals."""
    return torch.argmin(x, axis, keep_dims)
