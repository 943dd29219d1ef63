"""How precisely an execution computes: the four modes, and the arithmetic that depends on them.

====================  =========================================================================================
``program``           every operator in fp32, its result rounded to the type that the program declares: an
ideal
                      device
``fp32``, ``fp64``    no activation is rounded: what is left is the error of the lowering and of weight
rounding ``stress``            as ``program``, but sums, means, products and normalisations also round their
partial
                      results to fp16: a pessimistic device
====================  =========================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from parity.mil.errors import InputError

MODES = ("program", "fp32", "fp64", "stress")
STRESS_BLOCK = 32  # products are accumulated exactly over this many elements, then rounded


@dataclass(frozen=True)
class Precision:
    """One of the four modes."""

    mode: str = "program"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode {self.mode!r} is not one of {', '.join(MODES)}")

    @property
    def float_dtype(self) -> torch.dtype:
        """The type in which every floating-point value is held, whatever the program declares."""
        return torch.float64 if self.mode == "fp64" else torch.float32

    @property
    def rounds(self) -> bool:
        """Whether values declared fp16 are rounded to fp16."""
        return self.mode in ("program", "stress")


class Context:
    """What an operator may ask of its surroundings: the arithmetic of the mode, and a way to report events.

    In ``stress`` mode, and where the operator's result is declared fp16, ``narrow`` is true and ``round``,
    ``sum``, ``mean`` and ``matmul`` lose precision as a device with fp16 accumulators would. Otherwise they
    are the plain operations.
    """

    def __init__(self, precision: Precision, result_is_fp16: bool, report: Callable[..., None]) -> None:
        self.float_dtype = precision.float_dtype
        self.narrow = precision.mode == "stress" and result_is_fp16
        self.report = report

    def round(self, x: Tensor) -> Tensor:
        """``x`` rounded to fp16 where the mode is narrow."""
        return x.half().to(x.dtype) if self.narrow and x.dtype.is_floating_point else x

    def sum(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Sum over ``axes``, which keep size 1."""
        if not axes:
            return x
        if not self.narrow or not x.dtype.is_floating_point:
            return x.sum(list(axes), keepdim=True)
        for axis in axes:
            partial = [self.round(p.sum(axis, keepdim=True)) for p in torch.split(x, STRESS_BLOCK, axis)]
            x = partial[0]
            for p in partial[1:]:
                x = self.round(x + p)
        return x

    def mean(self, x: Tensor, axes: Sequence[int]) -> Tensor:
        """Mean over ``axes``, which keep size 1. A narrow device can overflow in the sum."""
        return self.sum(x, axes) / math.prod(x.shape[a] for a in axes)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Matrix product over the last axis of ``x`` and the second to last of ``y``."""
        if x.dtype != y.dtype:
            x, y = x.to(self.float_dtype), y.to(self.float_dtype)
        if not self.narrow:
            return torch.matmul(x, y)
        columns = torch.split(x, STRESS_BLOCK, -1)
        rows = torch.split(y, STRESS_BLOCK, 0 if y.dim() == 1 else -2)
        result = self.round(torch.matmul(columns[0], rows[0]))
        for c, r in zip(columns[1:], rows[1:], strict=True):
            result = self.round(result + self.round(torch.matmul(c, r)))
        return result
