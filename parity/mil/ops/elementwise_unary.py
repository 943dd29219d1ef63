"""Functions of one tensor, element by element."""

from __future__ import annotations

import torch
from torch import Tensor

from parity.mil.precision import Context
from parity.mil.registry import operator
from parity.mil.types import BY_NAME


@operator(exact=True)
def abs_(x: Tensor) -> Tensor:
    """|x|."""
    return torch.abs(x)


@operator()
def acos(x: Tensor) -> Tensor:
    """Arc cosine of x."""
    return torch.acos(x)


@operator()
def asin(x: Tensor) -> Tensor:
    """Arc sine of x."""
    return torch.asin(x)


@operator()
def atan(x: Tensor) -> Tensor:
    """Arc tangent of x."""
    return torch.atan(x)


@operator()
def atanh(x: Tensor) -> Tensor:
    """Inverse hyperbolic tangent of x."""
    return torch.atanh(x)


@operator()
def ceil(x: Tensor) -> Tensor:
    """x rounded up."""
    return torch.ceil(x)


@operator()
def cos(x: Tensor) -> Tensor:
    """Cosine of x."""
    return torch.cos(x)


@operator()
def cosh(x: Tensor) -> Tensor:
    """Hyperbolic cosine of x."""
    return torch.cosh(x)


@operator()
def erf(x: Tensor) -> Tensor:
    """Gauss error function of x."""
    return torch.erf(x)


@operator()
def exp(x: Tensor) -> Tensor:
    """e to the power x."""
    return torch.exp(x)


@operator()
def exp2(x: Tensor) -> Tensor:
    """2 to the power x."""
    return torch.exp2(x)


@operator()
def floor(x: Tensor) -> Tensor:
    """x rounded down."""
    return torch.floor(x)


@operator()
def logical_not(x: Tensor) -> Tensor:
    """Not x."""
    return torch.logical_not(x)


@operator()
def round_(x: Tensor) -> Tensor:
    """x rounded to the nearest integer, halves to even."""
    return torch.round(x)


@operator()
def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1 by the sign of x."""
    return torch.sign(x)


@operator()
def sin(x: Tensor) -> Tensor:
    """Sine of x."""
    return torch.sin(x)


@operator()
def sinh(x: Tensor) -> Tensor:
    """Hyperbolic sine of x."""
    return torch.sinh(x)


@operator()
def sqrt(x: Tensor) -> Tensor:
    """Square root of x."""
    return torch.sqrt(x)


@operator()
def square(x: Tensor) -> Tensor:
    """x * x."""
    return torch.square(x)


@operator()
def tan(x: Tensor) -> Tensor:
    """Tangent of x."""
    return torch.tan(x)


@operator()
def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent of x."""
    return torch.tanh(x)


@operator()
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """x limited to the interval from ``alpha`` to ``beta``."""
    return x.clamp(alpha, beta)


@operator()
def threshold(x: Tensor, alpha: float) -> Tensor:
    """The larger of x and ``alpha``."""
    return x.clamp_min(alpha)


@operator()
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """1 / (x + epsilon).

    The default epsilon is not small: a converter that leaves it in place turns 1/1 into 0.9999
    (apple/coremltools #2773).
    """
    return 1 / (x + epsilon)


@operator()
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """Natural logarithm of x + epsilon."""
    return torch.log(x + epsilon)


@operator()
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    return torch.rsqrt(x + epsilon)


@operator()
def cast(ctx: Context, x: Tensor, dtype: str) -> Tensor:
    """x as another element type. Floating point to integer truncates towards zero; any non-zero is true.

    Rounding to fp16, and wrapping to a narrow integer, happen where the result meets its declared type.
    """
    target = BY_NAME[dtype]
    if target.kind == "float":
        return x.to(ctx.float_dtype)
    if target.kind == "bool":
        return x != 0
    return x.to(torch.int64)
