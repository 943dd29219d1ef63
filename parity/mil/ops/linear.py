"""Matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.mil.precision import Context
from parity.mil.registry import operator


@operator()
def matmul(ctx: Context, x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Matrix product over the last two axes, the leading ones broadcast, either operand transposed first."""
    if transpose_x:
        x = x.transpose(-1, -2)
    if transpose_y:
        y = y.transpose(-1, -2)
    return ctx.matmul(x, y)


@operator()
def linear(ctx: Context, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias, with ``weight`` of shape [out, in]."""
    weight = weight.to(x.dtype)
    if bias is None:
        return ctx.matmul(x, weight.t())
    bias = bias.to(x.dtype)
    if not ctx.narrow:
        return torch.nn.functional.linear(x, weight, bias)
    return ctx.matmul(x, weight.t()) + bias


@operator()
def einsum(values: list[Tensor], equation: str) -> Tensor:
    """Einstein summation of two tensors."""
    return torch.einsum(equation, *values)
