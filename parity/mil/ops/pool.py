"""Pooling in one, two and three dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mil.ops.conv import Pads, pad_spatial, resolve_padding
from parity.mil.registry import operator

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@dataclass(frozen=True)
class Window:
    """Where pooling looks: ``pads`` as declared, ``reach`` with the elements that ``ceil_mode`` adds after."""

    kernel: list[int]
    strides: list[int]
    pads: Pads
    reach: Pads


def _window(
    x: Tensor, kernel: list[int], strides: list[int] | None, pad_type: str, pad: list[int] | None, ceil: bool
) -> Window:
    rank = len(kernel)
    strides = strides or [1] * rank
    size = x.shape[2:]
    pads = resolve_padding(pad_type, pad, size, kernel, strides, [1] * rank)
    reach = list(pads)
    if ceil:
        for i, (before, after) in enumerate(pads):
            padded = size[i] + before + after
            count = -(-(padded - kernel[i]) // strides[i]) + 1
            if (count - 1) * strides[i] >= size[i] + before and (before > 0 or after > 0):
                count -= 1  # as in torch: the last window must start inside the input or its left padding
            reach[i] = (before, after + max(0, (count - 1) * strides[i] + kernel[i] - padded))
    return Window(kernel, strides, pads, reach)


@operator(exact=True)
def max_pool(
    x: Tensor,
    kernel_sizes: list[int],
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest element of each window; padding never wins."""
    w = _window(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    result: Tensor = MAX_POOL[len(w.kernel)](pad_spatial(x, w.reach, -math.inf), w.kernel, w.strides)
    return result


@operator()
def avg_pool(
    x: Tensor,
    kernel_sizes: list[int],
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    ceil_mode: bool = False,
    exclude_padding_from_average: bool = False,
) -> Tensor:
    """The mean of each window. Declared padding counts as zeros unless excluded; what ``ceil_mode`` adds never does."""
    w = _window(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    average = AVG_POOL[len(w.kernel)]
    mean: Tensor = average(pad_spatial(x, w.reach), w.kernel, w.strides)
    if w.reach == w.pads and (not exclude_padding_from_average or not any(map(any, w.pads))):
        return mean
    ones = torch.ones_like(x[:1, :1])
    extra = [(0, reach[1] - pad[1]) for reach, pad in zip(w.reach, w.pads, strict=True)]
    declared = pad_spatial(ones, w.pads, 0.0 if exclude_padding_from_average else 1.0)
    return mean / average(pad_spatial(declared, extra), w.kernel, w.strides)


@operator()
def l2_pool(
    x: Tensor,
    kernel_sizes: list[int],
    strides: list[int] | None = None,
    pad_type: str = "valid",
    pad: list[int] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """The Euclidean norm of each window."""
    w = _window(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    mean: Tensor = AVG_POOL[len(w.kernel)](pad_spatial(x * x, w.reach), w.kernel, w.strides)
    return torch.sqrt(mean * math.prod(w.kernel))
