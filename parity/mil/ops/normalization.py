"""Normalisations: subtract a mean, divide by a spread, scale and shift."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mil.ops.activation import by_channel
from parity.mil.ops.reduction import all_axes
from parity.mil.precision import Context
from parity.mil.registry import operator


def _standardise(ctx: Context, x: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) over ``axes``; narrow devices square in fp16, where 256 overflows."""
    centred = ctx.round(x - ctx.mean(x, axes))
    variance = ctx.mean(ctx.round(centred * centred), axes)
    return centred * torch.rsqrt(variance + epsilon)


@operator()
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta for each channel, with stored statistics."""
    return torch.batch_norm(x, gamma, beta, mean, variance, False, 0.0, epsilon, False)


@operator()
def instance_norm(
    ctx: Context, x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """Each channel of each sample standardised over its own spatial axes."""
    y = _standardise(ctx, x, range(2, x.dim()), epsilon)
    if gamma is not None:
        y = y * by_channel(gamma, x)
    return y if beta is None else y + by_channel(beta, x)


@operator()
def layer_norm(
    ctx: Context,
    x: Tensor,
    axes: list[int] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """x standardised over ``axes``, which need not be the last ones."""
    over = all_axes(x, axes)
    if not ctx.narrow and over == list(range(x.dim() - len(over), x.dim())):
        return F.layer_norm(x, x.shape[-len(over) :], gamma, beta, epsilon)
    shape = [n if i in over else 1 for i, n in enumerate(x.shape)]
    y = _standardise(ctx, x, over, epsilon)
    if gamma is not None:
        y = y * gamma.reshape(shape)
    return y if beta is None else y + beta.reshape(shape)


@operator()
def l2_norm(ctx: Context, x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """x / sqrt(sum of squares over the last three axes + epsilon)."""
    return x * torch.rsqrt(ctx.sum(ctx.round(x * x), [-3, -2, -1]) + epsilon)


@operator()
def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """x / (k + alpha / size * sum of squares over ``size`` neighbouring channels) ** beta."""
    return F.local_response_norm(x, size, alpha, beta, k)
