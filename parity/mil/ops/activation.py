"""Activation functions."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mil.precision import Context
from parity.mil.registry import operator


def by_channel(parameter: Tensor, x: Tensor) -> Tensor:
    """A parameter of shape [C] shaped to broadcast over ``x`` of shape [N, C, ...]."""
    return parameter.reshape([1, -1] + [1] * (x.dim() - 2))


@operator(exact=True)
def relu(x: Tensor) -> Tensor:
    """The larger of x and 0."""
    return torch.relu(x)


@operator(exact=True)
def relu6(x: Tensor) -> Tensor:
    """x limited to the interval from 0 to 6."""
    return F.relu6(x)


@operator()
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Leaky rectifier with slope ``alpha`` below 0, then limited to at most ``beta``."""
    return torch.where(x >= 0, x, x * alpha).clamp_max(beta)


@operator(exact=True)
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """x where x >= alpha, else 0. torch's own takes x only above its threshold: it is given the number before alpha."""
    kind = np.float64 if x.dtype == torch.float64 else np.float32
    return F.threshold(x, float(np.nextafter(kind(alpha), kind(-np.inf))), 0.0)


@operator()
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """x where x >= 0, else alpha * x."""
    return F.leaky_relu(x, alpha)


@operator()
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """Leaky rectifier with one slope for each channel; ``alpha`` has shape [C]."""
    return torch.where(x >= 0, x, x * by_channel(alpha, x))


@operator()
def elu(x: Tensor, alpha: float) -> Tensor:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    return F.elu(x, alpha)


@operator()
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Gaussian error linear unit: exact, or approximated with tanh or with a sigmoid."""
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    return x * torch.sigmoid(1.702 * x)


@operator()
def silu(x: Tensor) -> Tensor:
    """x * sigmoid(x)."""
    return F.silu(x)


@operator()
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@operator()
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * x + beta, limited to the interval from 0 to 1."""
    return torch.mul(x, alpha).add_(beta).clamp_(0, 1)


@operator()
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * tanh(beta * x)."""
    return alpha * torch.tanh(beta * x)


@operator()
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * x + beta."""
    return x * alpha + beta


@operator()
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), without overflow and without torch's switch to x above 20."""
    return torch.logaddexp(x, torch.zeros_like(x))


@operator()
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha * log(1 + exp(beta * x)) with one alpha and beta for each channel."""
    return by_channel(alpha, x) * softplus(by_channel(beta, x) * x)


@operator()
def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return F.softsign(x)


@operator()
def softmax(ctx: Context, x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along ``axis``."""
    if not ctx.narrow:
        return torch.softmax(x, axis)
    powers = ctx.round(torch.exp(ctx.round(x - x.amax(axis, keepdim=True))))
    return powers / ctx.sum(powers, [axis])
