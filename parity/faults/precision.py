"""Faults that a precision brings: overflow, wrong grids, wrong ranges.

A twin already rounds as its precision does. These operators add what goes wrong beyond that, so that together they are
the wrong rounding and not two roundings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from parity.faults.base import Handler, Row, Rows, Subject, fault
from parity.faults.graph import LAYERS, any_norm, at_first_layer, changed
from parity.faults.outputs import floats
from parity.faults.weights import depthwise, kernels, rounded

GRIDS = ("int8", "dynamic")


def _axes(weight: Tensor) -> tuple[int, ...]:
    return tuple(range(1, weight.ndim))


@fault("floor_for_round", "weights are rounded down instead of to the nearest step", "precision", "module",
       precisions=GRIDS)  # fmt: skip
def floor_for_round(subject: Subject) -> Subject | None:
    """Half a step lower before the twin's rounding, which is rounding down."""

    def lower(weight: Tensor) -> Tensor:
        return weight - weight.abs().amax(_axes(weight), keepdim=True) / 127 / 2

    names = kernels(subject)
    return subject.with_tensors({n: lower(subject.tensor(n)) for n in names}) if names else None


@fault("depthwise_per_tensor", "depthwise weights share one scale", "precision", "module", precisions=GRIDS)
def depthwise_per_tensor(subject: Subject) -> Subject | None:
    names = depthwise(subject)
    return subject.with_tensors({n: rounded(subject.tensor(n), 8) for n in names}) if names else None


@fault("weights_per_tensor_4_bits", "weights are stored in 4 bits with one scale a layer", "precision", "module",
       precisions=GRIDS)  # fmt: skip
def weights_per_tensor_4_bits(subject: Subject) -> Subject | None:
    names = kernels(subject)
    return subject.with_tensors({n: rounded(subject.tensor(n), 4) for n in names}) if names else None


def _at_layers(subject: Subject, change: Callable[[Tensor], Tensor]) -> Subject:
    """The subject with the result of every layer of weights changed."""

    def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return change(call(*args, **kwargs))

    handlers: Mapping[str, Handler] = dict.fromkeys(LAYERS, handler)
    return subject.with_patch(lambda: handlers)


def _extent(x: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest value of each case, as tensors that broadcast over it."""
    axes = tuple(range(1, x.ndim))
    return x.amin(axes, keepdim=True).clamp(max=0), x.amax(axes, keepdim=True).clamp(min=0)


@fault("calibrated_too_narrow", "activations are calibrated on another domain: ranges are half of what they should be",
       "precision", "module", precisions=("int8",))  # fmt: skip
def calibrated_too_narrow(subject: Subject) -> Subject | None:
    def clipped(x: Tensor) -> Tensor:
        low, high = _extent(x)
        return torch.minimum(torch.maximum(x, low / 2), high / 2)

    return _at_layers(subject, clipped)


@fault("calibrated_too_wide", "activations are calibrated on another domain: steps are sixteen times too coarse",
       "precision", "module", precisions=("int8",))  # fmt: skip
def calibrated_too_wide(subject: Subject) -> Subject | None:
    def coarse(x: Tensor) -> Tensor:
        low, high = _extent(x)
        step = ((high - low) / 255 * 16).clamp(min=1e-30)
        return torch.round(x / step) * step

    return _at_layers(subject, coarse)


@fault("zero_point_off", "the zero points of all layers are one step off", "precision", "module", precisions=("int8",))
def zero_point_off(subject: Subject) -> Subject | None:
    def moved(x: Tensor) -> Tensor:
        low, high = _extent(x)
        return x + (high - low) / 255

    return _at_layers(subject, moved)


@fault("first_layer_saturates", "the sums of the first layer saturate at three quarters (no wide accumulator)",
       "precision", "module", precisions=("int8", "dynamic"))  # fmt: skip
def first_layer_saturates(subject: Subject) -> Subject | None:
    def saturated(x: Tensor) -> Tensor:
        low, high = _extent(x)
        return torch.minimum(torch.maximum(x, 0.75 * low), 0.75 * high)

    return at_first_layer(subject, saturated)


@fault("shared_output_scale", "all columns of an output share one 8-bit scale: the small ones lose their levels",
       "precision", "output", precisions=("int8",))  # fmt: skip
def shared_output_scale(subject: Subject) -> Subject | None:
    names = [o.name for o in subject.contract.outputs if o.kind in ("boxes", "dense", "embedding")]

    def shared(rows: Rows) -> Rows:
        steps = {n: max(float(abs(row[n]).max()) for row in rows) / 127 for n in names}
        return [
            Row(**{k: (v / steps[k]).round() * steps[k] if steps.get(k) else v for k, v in row.items()}) for row in rows
        ]

    return subject.then(shared) if names and set(names) <= set(floats(subject)) else None


@fault("fp16_overflow", "the largest activations overflow fp16 and become infinite", "precision", "module",
       precisions=("fp16",))  # fmt: skip
def fp16_overflow(subject: Subject) -> Subject | None:
    """Where a layer's result comes within a thousandth of its case's largest: amplified until that passes 65504."""

    def overflow(x: Tensor) -> Tensor:
        high = _extent(x)[1]
        return torch.where(x >= high * 0.999, torch.full_like(x, torch.inf), x)

    return at_first_layer(subject, overflow)


@fault(
    "fp16_epsilon_lost", "epsilons of normalisation are flushed to zero", "precision", "module", precisions=("fp16",)
)
def fp16_epsilon_lost(subject: Subject) -> Subject | None:
    return any_norm(subject, lambda a: {**a, "eps": 0.0})


@fault("fp16_square_saturates", "squares in layer normalisation saturate at 65504", "precision", "module",
       precisions=("fp16",))  # fmt: skip
def fp16_square_saturates(subject: Subject) -> Subject | None:
    """As if activations were 400 times larger, where (400 x)^2 leaves fp16."""
    bound = 65504**0.5 / 400
    return changed(subject, "layer_norm", lambda a: {**a, "input": a["input"].clamp(-bound, bound)})


@fault("mean_in_fp16", "sums over space are taken in fp16", "precision", "module", precisions=("fp32", "fp16"))
def mean_in_fp16(subject: Subject) -> Subject | None:
    """The mean is rounded after every row, as an accumulator of eleven bits is."""

    def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0]
        right = call(*args, **kwargs)
        if x.ndim != 4 or not isinstance(right, Tensor) or right.shape[2:] != (1, 1):
            return right
        total = torch.zeros_like(x[:, :, 0, 0])
        for row in x.flatten(2).unbind(-1):
            total = (total + row).to(torch.float16).to(x.dtype)
        return (total / x[0, 0].numel())[:, :, None, None]

    return subject.with_patch(lambda: {"adaptive_avg_pool2d": handler})
