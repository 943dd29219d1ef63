"""What a precision costs, applied by hand: weights are rounded, and every operator's result is, as it runs.

A `TorchDispatchMode` sees each aten operator of the eager module. What it rounds is more than most converters round
(they fuse operators), so that its error is an upper estimate of a right file's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from research.strangers.by_hand.inputs import Array, Case

MOVES = ("view", "reshape", "permute", "transpose", "slice", "select", "expand", "unsqueeze", "squeeze", "alias",
         "clone", "copy", "detach", "split", "unbind", "t.default", "contiguous", "lift")  # fmt: skip
PRODUCTS = ("convolution", "mm.", "bmm.", "addmm.", "linear", "gru", "lstm", "embedding")


def tensors(case: Case, names: list[str], dtype: torch.dtype) -> list[Tensor]:
    """The case's arrays in the order of `names`; floating ones in `dtype`."""
    given = [torch.from_numpy(np.array(case[name])) for name in names]
    return [t.to(dtype) if t.is_floating_point() else t for t in given]


def outputs(module: nn.Module, cases: list[Case], names: list[str], dtype: torch.dtype) -> list[list[Array]]:
    """The module's outputs, one list of arrays for each case."""
    found = []
    for case in cases:
        with torch.no_grad():
            result = module(*tensors(case, names, dtype))
        results = result if isinstance(result, (tuple, list)) else (result,)
        found.append([np.asarray(r.detach().double() if r.is_floating_point() else r) for r in results])
    return found


class Rounded(TorchDispatchMode):
    """Rounds the first floating result of every operator that computes something, by `rule(number, tensor)`."""

    def __init__(self, rule: Any, products_only: bool = False) -> None:
        super().__init__()
        self.rule, self.products_only, self.count = rule, products_only, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        product = name.startswith(PRODUCTS)
        if self.products_only and product:
            args = tuple(self._round(a) if i < 2 else a for i, a in enumerate(args))
        result = func(*args, **(kwargs or {}))
        if self.products_only or name.startswith(MOVES):
            return result
        if isinstance(result, Tensor):
            return self._round(result)
        if isinstance(result, tuple) and result and isinstance(result[0], Tensor):
            return (self._round(result[0]), *result[1:])
        return result

    def _round(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
            return value
        self.count += 1
        return self.rule(self.count - 1, value)


def _eight_bits(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """On a grid of 256 steps that holds zero."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = ((high - low) / 255).clamp(min=1e-12)
    zero = torch.round(-low / step)
    return (torch.clamp(torch.round(value / step) + zero, 0, 255) - zero) * step


def _channels(weight: Tensor) -> Tensor:
    """Symmetric int8, a scale for each row."""
    flat = weight.flatten(1)
    step = (flat.abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
    return (torch.round(flat / step) * step).view_as(weight)


def _whole(weight: Tensor) -> Tensor:
    """Symmetric int8, one scale."""
    step = (weight.abs().max() / 127).clamp(min=1e-12)
    return torch.round(weight / step) * step


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """The parameters as they were, afterwards."""
    before = [p.detach().clone() for p in module.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(module.parameters(), before, strict=True):
                parameter.copy_(value)


def by_hand(
    module: nn.Module,
    precision: str,
    cases: list[Case],
    calibration: list[Case],
    names: list[str],
    dtype: torch.dtype = torch.float64,
) -> list[list[list[Array]]]:
    """Outputs of the module (held in `dtype`) at the precision, by one way to apply it or more."""
    sets = []
    with restored(module):
        if precision == "fp16":
            with_parameters(module, lambda p: p.half().to(dtype))
            sets.append(outputs(module, cases, names, dtype))
            with Rounded(lambda _, t: t.half().to(t.dtype)):
                sets.append(outputs(module, cases, names, dtype))
    if precision == "dynamic":
        for rule in (_channels, _whole):
            with restored(module):
                with_parameters(module, rule)
                sets.append(outputs(module, cases, names, dtype))
                with Rounded(lambda _, t: _eight_bits(t, t.min(), t.max()), products_only=True):
                    sets.append(outputs(module, cases, names, dtype))
    if precision == "int8":
        for rule in (_channels, _whole):
            with restored(module):
                with_parameters(module, rule)
                sets.append(_static(module, cases, calibration, names, dtype))
    return sets


def with_parameters(module: nn.Module, rule: Any) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.copy_(rule(parameter))


def _static(
    module: nn.Module, cases: list[Case], calibration: list[Case], names: list[str], dtype: torch.dtype
) -> list[list[Array]]:
    """Every operator's result on the grid of the range that it had on the calibration data."""
    ranges: dict[int, tuple[Tensor, Tensor]] = {}

    def observe(number: int, value: Tensor) -> Tensor:
        low, high = ranges.get(number, (value.min(), value.max()))
        ranges[number] = (torch.minimum(low, value.min()), torch.maximum(high, value.max()))
        return value

    def quantise(number: int, value: Tensor) -> Tensor:
        return _eight_bits(value, *ranges[number]) if number in ranges else value

    for case in calibration:
        with Rounded(observe):
            outputs(module, [case], names, dtype)
    found = []
    for case in cases:
        with Rounded(quantise):
            found += outputs(module, [case], names, dtype)
    return found
