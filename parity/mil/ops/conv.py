"""Convolutions in one, two and three dimensions, and the padding rules that pooling shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.precision import STRESS_BLOCK, Context
from parity.mil.registry import operator

Pads = list[tuple[int, int]]  # before and after, for each spatial axis

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def resolve_padding(
    pad_type: str,
    pad: list[int] | None,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> Pads:
    """The padding of each spatial axis.

    ``same`` makes the output ceil(size / stride) long and puts an odd element after, ``same_lower`` before;
    ``custom`` takes the numbers of ``pad``; ``valid`` has none.
    """
    rank = len(kernel)
    if pad_type == "valid" or (pad_type == "custom" and pad is None):
        return [(0, 0)] * rank
    if pad_type == "custom" and pad is not None:
        return [(pad[2 * i], pad[2 * i + 1]) for i in range(rank)]
    pads: Pads = []
    for n, k, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-n // stride) - 1) * stride + (k - 1) * dilation + 1 - n)
        before = total // 2 if pad_type == "same" else total - total // 2
        pads.append((before, total - before))
    return pads


def pad_spatial(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """``x`` padded with ``value`` on its last axes."""
    if not any(before or after for before, after in pads):
        return x
    return F.pad(x, [n for before, after in reversed(pads) for n in (before, after)], value=value)


@operator()
def conv(
    ctx: Context,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolution of x [N, C, ...] with ``weight`` [out, C / groups, ...]."""
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads = resolve_padding(pad_type, pad, x.shape[2:], weight.shape[2:], strides, dilations)
    symmetric: list[int] | int = [before for before, _ in pads]
    if any(before != after for before, after in pads):
        x, symmetric = pad_spatial(x, pads), 0
    if not ctx.narrow or groups != 1:
        return CONV[rank](x, weight, bias, strides, symmetric, dilations, groups)
    channels = max(1, STRESS_BLOCK // math.prod(weight.shape[2:]))
    result: Tensor | None = None
    for part, kernel in zip(torch.split(x, channels, 1), torch.split(weight, channels, 1), strict=True):
        partial = ctx.round(CONV[rank](part, kernel, None, strides, symmetric, dilations))
        result = partial if result is None else ctx.round(result + partial)
    assert result is not None
    return result if bias is None else result + bias.reshape([-1] + [1] * rank)


@operator()
def conv_quantized(
    ctx: Context,
    x: Tensor,
    weight: Tensor,
    quantization_type: str,
    quant_scale: Tensor,
    quant_bias: Tensor,
    bias: Tensor | None = None,
    nbits: int = 8,
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Convolution with stored weights w that stand for w * quant_scale + quant_bias.

    The definition also names lookup tables, but gives them no input to come in.
    """
    if quantization_type != "linear":
        raise OperatorFailed(f"quantization_type {quantization_type!r} has no table to look up")
    per_output = [-1] + [1] * (weight.dim() - 1)
    dense = weight.to(x.dtype) * quant_scale.reshape(per_output) + quant_bias.reshape(per_output)
    if bias is not None:
        bias = bias.to(x.dtype)
    return conv(ctx, x, dense, bias, strides, pad_type, pad, dilations, groups)


@operator()
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: list[int] | None = None,
    output_shape: list[int] | None = None,
    pad_type: str = "valid",
    strides: list[int] | None = None,
    dilations: list[int] | None = None,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution: the full one, then cropped.

    ``weight`` is [C, out / groups, ...]. The crop removes ``pad``; ``same`` crops evenly to size * stride; an
    ``output_shape`` fixes the sizes, and where the full result is shorter the rest
    holds only the bias.
    """
    rank = x.dim() - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    full: Tensor = CONV_TRANSPOSE[rank](x, weight, None, strides, 0, 0, groups, dilations)
    sizes: list[int] | None = None
    if output_shape is not None:
        sizes = output_shape[-rank:]
    elif pad_type == "same":
        sizes = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    pads = resolve_padding("custom", pad, (), [0] * rank, (), ()) if pad_type == "custom" else None
    for i in range(rank):
        length = full.shape[2 + i]
        if pads is not None:
            start = pads[i][0]
        elif pad_type == "valid" or sizes is None:
            start = 0
        else:
            start = max(0, length - sizes[i]) // 2
        size = sizes[i] if sizes is not None else length - start - (pads[i][1] if pads else 0)
        missing = start + size - length
        if missing > 0:
            full = torch.cat([full, full.new_zeros(_resized(full.shape, 2 + i, missing))], 2 + i)
        full = full.narrow(2 + i, start, size)
    return full if bias is None else full + bias.reshape([-1] + [1] * rank)


def _resized(shape: Sequence[int], axis: int, size: int) -> list[int]:
    return [size if i == axis else n for i, n in enumerate(shape)]
