"""Rounding of torch tensors to the grids of each precision. Every function gives a new tensor of the same dtype."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

_LARGEST = 1e38
FP16 = 65504.0  # the largest finite value
_TINY = 1e-30  # stands for the range of a tensor that is zero throughout
GAP = 8
"""Powers of two that hold no element. A grid of 8 bits over those above the gap makes zero of all below it."""

Bounds = tuple[float, float]


def fp16(value: Tensor) -> Tensor:
    """The nearest fp16 value; beyond 65504 this is infinite, as what a runtime computes in fp16 is."""
    return value.to(torch.float16).to(value.dtype)


def stored16(value: Tensor) -> Tensor:
    """A constant as an fp16 file holds it: ONNX Runtime's and TFLite's converters hold a finite value beyond 65504 at
    that, so that zero times the float32 minimum of an attention mask stays zero. Infinity stays."""
    return fp16(torch.where(value.isinf(), value, value.clamp(-FP16, FP16)))


def symmetric8(value: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Symmetric int8, -127 to 127, with one scale for every index that `axes` (summed over) leave."""
    scale = scales(value, axes)
    return torch.round(value / scale).clamp_(-127, 127) * scale


def scales(value: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The scales of `symmetric8`, with the axes kept as 1."""
    return value.abs().amax(axes, keepdim=True).clamp_min(_TINY) / 127


def bounds(value: Tensor) -> tuple[float, float]:
    """Lowest and highest finite value, stretched to contain 0, which both converters represent exactly."""
    if value.numel() == 0:
        return 0.0, 0.0
    low, high = (float(v) for v in torch.aminmax(value))
    if not math.isfinite(high - low):
        finite = value[value.isfinite()]
        return bounds(finite) if finite.numel() < value.numel() else (-_LARGEST, _LARGEST)
    return min(0.0, low), max(0.0, high)


def asymmetric8(value: Tensor, low: float, high: float) -> Tensor:
    """8 bits over [low, high] with a zero point that is an integer; what lies outside is clipped.

    Infinity and NaN stay: the -inf of an attention mask means "never", and a twin that clips it computes another model.
    """
    scale = step(low, high)
    zero = round(-low / scale)
    rounded = (torch.round(value / scale).add_(zero).clamp_(0, 255) - zero) * scale
    return rounded if math.isfinite(float(value.abs().amax())) else torch.where(value.isfinite(), rounded, value)


def octaves(value: Tensor) -> list[Bounds]:
    """The powers of two that the size of a finite element lies between, each pair once."""
    _, exponents = torch.frexp(value[value.isfinite() & (value != 0)])
    return [(2.0 ** (e - 1), 2.0**e) for e in exponents.unique().tolist()]


def gap(sizes: Iterable[Bounds]) -> float:
    """The size from which elements are above the highest gap in these `octaves`; 0 without one."""
    ends = [above[0] for below, above in itertools.pairwise(sorted(sizes)) if above[0] >= below[1] * 2**GAP]
    return max(ends, default=0.0)


def asymmetric8_by_channel(value: Tensor, axes: tuple[int, ...]) -> Tensor:
    """8 bits with a scale and an integer zero point for every index that `axes` leave, over a range that contains 0."""
    low, high = value.amin(axes, keepdim=True).clamp_max(0), value.amax(axes, keepdim=True).clamp_min(0)
    scale = (high - low).clamp_min(_TINY) / 255
    zero = torch.round(-low / scale)
    return (torch.round(value / scale).add_(zero).clamp_(0, 255) - zero) * scale


def step(low: float, high: float) -> float:
    """The distance of two levels of `asymmetric8`."""
    return max(high - low, _TINY) / 255


def width(bounds: Bounds) -> float:
    """How far apart the ends are."""
    low, high = bounds
    return high - low


def jitter(value: Tensor, units: float, generator: torch.Generator) -> Tensor:
    """`value` times 1 + u * 2**-23 with u uniform in [-units, units]: an error of that many float32 ulps or half."""
    noise = torch.rand(value.shape, generator=generator, dtype=value.dtype, device=value.device)
    return value * (1 + (2 * noise - 1) * (units * 2.0**-23))
