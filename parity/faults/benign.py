"""Changes that no check may notice: another order of sums, an equivalent graph, a last bit here and there.

They keep the tester honest from the other side: limits that catch every fault and these too are too tight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from parity.faults.base import Rows, Subject, fault

_STEPS = {"fp32": 2.0**-23, "fp16": 2.0**-10, "dynamic": 1 / 127, "int8": 1 / 255}


@fault("one_step_in_500", "one output value in 500 differs by one step, as between kernel sets", "output",
       "output", benign=True)  # fmt: skip
def one_step_in_500(subject: Subject) -> Subject | None:
    """A step is the last bit of the value for floats, and one level of the output's range for integers."""
    step, floating = _STEPS[subject.precision], subject.precision in ("fp32", "fp16")

    def moved(rows: Rows) -> Rows:
        rng = np.random.default_rng(subject.seed)
        ranges = {k: max(float(np.ptp(row[k])) for row in rows) for k, v in rows[0].items() if v.dtype.kind == "f"}

        def move(name: str, value: Any) -> Any:
            hit = rng.random(value.shape) < 0.002
            size = np.abs(value) if floating else ranges[name]
            return np.where(hit, value + step * size * rng.choice([-1, 1], value.shape), value)

        return [{k: move(k, v) if k in ranges else v for k, v in row.items()} for row in rows]

    return subject.then(moved)


@fault("float32_sums", "sums are taken in float32, in whole batches", "graph", "module", benign=True)
def float32_sums(subject: Subject) -> Subject | None:
    return replace(subject, single=True)


@fault("float32_alone", "sums are taken in float32, each case by itself", "graph", "module", benign=True)
def float32_alone(subject: Subject) -> Subject | None:
    return replace(subject, single=True, alone=True)


@fault("sums_split", "every sum of products is taken in two halves, in float32", "graph", "module", benign=True)
def sums_split(subject: Subject) -> Subject | None:
    """The input channels in two parts, each its own convolution or product, added at the end."""

    def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, weight, *rest = args
        axis = -1 if weight.ndim == 2 else 1
        half = weight.shape[1] // 2
        if kwargs or half == 0 or x.shape[axis] != weight.shape[1]:
            return call(*args, **kwargs)
        parts = [half, weight.shape[1] - half]
        (xa, xb), (wa, wb) = x.split(parts, axis), weight.split(parts, 1)
        return call(xa, wa, None, *rest[1:]) + call(xb, wb, *rest)

    patched = subject.with_patch(lambda: dict.fromkeys(("conv1d", "conv2d", "linear"), handler))
    return replace(patched, single=True)


@fault("batch_norm_folded", "batch normalisations are folded into the convolutions before them", "weights", "module",
       benign=True)  # fmt: skip
def batch_norm_folded(subject: Subject) -> Subject | None:
    """Weights times gamma / sqrt(variance + epsilon); what is left of the normalisation is its shift."""
    found: dict[str, Tensor] = {}
    before: tuple[str, nn.Conv2d] | None = None
    for name, part in subject.module.named_modules():
        if isinstance(part, nn.BatchNorm2d) and before is not None and part.affine:
            source, layer = before
            if (
                layer.out_channels == part.num_features
                and part.running_var is not None
                and part.running_mean is not None
            ):
                factor = part.weight / torch.sqrt(part.running_var + part.eps)
                found[f"{source}.weight"] = layer.weight * factor[:, None, None, None]
                if layer.bias is not None:
                    found[f"{source}.bias"] = layer.bias * factor
                found[f"{name}.running_mean"] = part.running_mean * factor
                found[f"{name}.running_var"] = torch.ones_like(part.running_var) - part.eps
                found[f"{name}.weight"] = torch.ones_like(part.weight)
        if not list(part.children()):
            before = (name, part) if isinstance(part, nn.Conv2d) else None
    return subject.with_tensors(found) if found else None


@fault("power_of_two_moved", "every layer's weights are doubled and its result is halved",
       "weights", "module", benign=True)  # fmt: skip
def power_of_two_moved(subject: Subject) -> Subject | None:
    """Exact in floating point, so that not one bit may move."""

    def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs or len(args) < 3:
            return call(*args, **kwargs)
        x, weight, bias, *rest = args
        return call(x, weight * 2, None if bias is None else bias * 2, *rest) * 0.5

    return subject.with_patch(lambda: dict.fromkeys(("conv1d", "conv2d", "linear"), handler))
