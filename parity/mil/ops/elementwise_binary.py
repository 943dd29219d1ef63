"""Functions of two tensors that broadcast against each other, element by element."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.mil.registry import operator


@operator()
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y."""
    return torch.add(x, y)


@operator()
def sub(x: Tensor, y: Tensor) -> Tensor:
    """x - y."""
    return torch.sub(x, y)


@operator()
def mul(x: Tensor, y: Tensor) -> Tensor:
    """x * y."""
    return torch.mul(x, y)


@operator(exact=True)
def maximum(x: Tensor, y: Tensor) -> Tensor:
    """The larger of x and y."""
    return torch.maximum(x, y)


@operator(exact=True)
def minimum(x: Tensor, y: Tensor) -> Tensor:
    """The smaller of x and y."""
    return torch.minimum(x, y)


@operator()
def pow_(x: Tensor, y: Tensor) -> Tensor:
    """x to the power y."""
    return torch.pow(x, y)


@operator()
def mod(x: Tensor, y: Tensor) -> Tensor:
    """Remainder of x / y, with the sign of y."""
    return torch.remainder(x, y)


@operator()
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """x / y rounded down."""
    return torch.div(x, y, rounding_mode="floor")


@operator()
def equal(x: Tensor, y: Tensor) -> Tensor:
    """Whether x = y."""
    return torch.eq(x, y)


@operator()
def not_equal(x: Tensor, y: Tensor) -> Tensor:
    """Whether x and y differ."""
    return torch.ne(x, y)


@operator()
def greater(x: Tensor, y: Tensor) -> Tensor:
    """Whether x > y."""
    return torch.gt(x, y)


@operator()
def greater_equal(x: Tensor, y: Tensor) -> Tensor:
    """Whether x >= y."""
    return torch.ge(x, y)


@operator()
def less(x: Tensor, y: Tensor) -> Tensor:
    """Whether x < y."""
    return torch.lt(x, y)


@operator()
def less_equal(x: Tensor, y: Tensor) -> Tensor:
    """Whether x <= y."""
    return torch.le(x, y)


@operator()
def logical_and(x: Tensor, y: Tensor) -> Tensor:
    """x and y."""
    return torch.logical_and(x, y)


@operator()
def logical_or(x: Tensor, y: Tensor) -> Tensor:
    """x or y."""
    return torch.logical_or(x, y)


@operator()
def logical_xor(x: Tensor, y: Tensor) -> Tensor:
    """Either x or y."""
    return torch.logical_xor(x, y)


@operator()
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """x / y. Two integers give an integer, rounded down."""
    if x.dtype.is_floating_point or y.dtype.is_floating_point:
        return x / y
    return torch.div(x, y, rounding_mode="floor")
