"""Quantised activations: between floating point and 8-bit integers by scale and zero point."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.mil.precision import Context
from parity.mil.registry import operator
from parity.mil.types import BY_NAME


def along_axis(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    """A scalar, or a vector shaped to lie along ``axis`` of ``x``."""
    if parameter.numel() == 1:
        return parameter.reshape(())
    return parameter.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])


@operator("iOS17")
def quantize(
    input: Tensor, scale: Tensor, output_dtype: str, zero_point: Tensor | None = None, axis: int = 0
) -> Tensor:
    """round(input / scale) + zero_point, limited to the range of the integer type."""
    steps = torch.round(input / along_axis(scale, input, axis))
    if zero_point is not None:
        steps = steps + along_axis(zero_point, input, axis)
    return steps.nan_to_num(0.0).clamp(*BY_NAME[output_dtype].limits).to(torch.int64)


@operator("iOS17")
def dequantize(ctx: Context, input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: int = 0) -> Tensor:
    """(input - zero_point) * scale."""
    if zero_point is not None:
        input = input - along_axis(zero_point, input, axis)
    return input.to(ctx.float_dtype) * along_axis(scale, input, axis)
