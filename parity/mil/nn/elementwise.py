"""Layers that work element by element: activations, unary and broadcasting functions, comparisons."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.nn.registry import LAYERS, Result, layer, weights
from parity.mil.ops import activation as act
from parity.mil.ops.elementwise_binary import floor_div


def activate(params: Any, x: Tensor) -> Tensor:
    """An ``ActivationParams`` applied to ``x``."""
    kind = params.WhichOneof("NonlinearityType")
    if kind is None:
        raise OperatorFailed("an activation layer names no function")
    p = getattr(params, kind)
    if kind in ("PReLU", "parametricSoftplus"):
        channels = x.shape[-3]
        alpha = weights(p.alpha, [channels], x)[:, None, None]
        if kind == "PReLU":
            return torch.where(x >= 0, x, x * alpha)
        return alpha * act.softplus(weights(p.beta, [channels], x)[:, None, None] * x)
    simple: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: p.alpha * x + p.beta,
        "ReLU": lambda: torch.relu(x),
        "leakyReLU": lambda: F.leaky_relu(x, p.alpha),
        "thresholdedReLU": lambda: act.thresholded_relu(x, p.alpha),
        "tanh": lambda: torch.tanh(x),
        "scaledTanh": lambda: p.alpha * torch.tanh(p.beta * x),
        "sigmoid": lambda: torch.sigmoid(x),
        "sigmoidHard": lambda: act.sigmoid_hard(x, p.alpha, p.beta),
        "ELU": lambda: F.elu(x, p.alpha),
        "softsign": lambda: F.softsign(x),
        "softplus": lambda: act.softplus(x),
    }
    return simple[kind]()


@layer("activation")
def activation(p: Any, inputs: list[Tensor]) -> Result:
    """One of the activation functions."""
    return activate(p, inputs[0])


@layer("gelu")
def gelu(p: Any, inputs: list[Tensor]) -> Result:
    """Gaussian error linear unit: exact, or approximated with tanh or a sigmoid."""
    return act.gelu(inputs[0], ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")[p.mode])


@layer("softmaxND")
def softmax_nd(p: Any, inputs: list[Tensor]) -> Result:
    """Softmax along an axis."""
    return torch.softmax(inputs[0], p.axis)


@layer("softmax")
def softmax(p: Any, inputs: list[Tensor]) -> Result:
    """Softmax along the channels, the third axis from the end."""
    return torch.softmax(inputs[0], -3)


@layer("clip")
def clip(p: Any, inputs: list[Tensor]) -> Result:
    """The input limited to an interval."""
    return inputs[0].clamp(p.minVal, p.maxVal)


@layer("unary")
def unary(p: Any, inputs: list[Tensor]) -> Result:
    """A function of scale * x + shift; inverse and reciprocal root add ``epsilon`` to it."""
    x = inputs[0] * p.scale + p.shift
    functions: list[Callable[[], Tensor]] = [
        lambda: torch.sqrt(x),
        lambda: torch.rsqrt(x + p.epsilon),
        lambda: 1 / (x + p.epsilon),
        lambda: torch.pow(x, p.alpha),
        lambda: torch.exp(x),
        lambda: torch.log(x),
        lambda: torch.abs(x),
        lambda: x.clamp_min(p.alpha),
    ]
    return functions[int(p.type)]()


@layer("copy")
def copy(p: Any, inputs: list[Tensor]) -> Result:
    """The input itself; loops write their variables with it."""
    return inputs[0]


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "ceil": torch.ceil, "floor": torch.floor, "round": torch.round, "sign": torch.sign, "sin": torch.sin,
    "cos": torch.cos, "tan": torch.tan, "asin": torch.asin, "acos": torch.acos, "atan": torch.atan,
    "sinh": torch.sinh, "cosh": torch.cosh, "tanh": torch.tanh, "asinh": torch.asinh, "acosh": torch.acosh,
    "atanh": torch.atanh, "erf": torch.erf, "exp2": torch.exp2, "logicalNot": torch.logical_not,
}  # fmt: skip

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "addBroadcastable": torch.add, "subtractBroadcastable": torch.sub, "multiplyBroadcastable": torch.mul,
    "divideBroadcastable": torch.div, "maxBroadcastable": torch.maximum, "minBroadcastable": torch.minimum,
    "powBroadcastable": torch.pow, "modBroadcastable": torch.remainder, "floorDivBroadcastable": floor_div,
    "logicalAnd": torch.logical_and, "logicalOr": torch.logical_or, "logicalXor": torch.logical_xor,
}  # fmt: skip

# With a single input the second operand is the parameter alpha.
WITH_ALPHA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "multiply": torch.mul, "greaterThan": torch.gt, "greaterEqual": torch.ge,
    "lessThan": torch.lt, "lessEqual": torch.le, "equal": torch.eq, "notEqual": torch.ne,
}  # fmt: skip


def _register(names: dict[str, Any], with_alpha: bool) -> None:
    for name, function in names.items():

        def apply(p: Any, inputs: list[Tensor], function: Any = function) -> Result:
            if with_alpha and len(inputs) == 1:
                inputs = [inputs[0], torch.tensor(p.alpha, dtype=inputs[0].dtype)]
            result: Tensor = reduce(function, inputs) if len(inputs) > 1 else function(inputs[0])
            stored: Tensor = result.to(inputs[0].dtype)
            return stored

        LAYERS[name] = apply


_register(UNARY, with_alpha=False)
_register(BINARY, with_alpha=False)
_register(WITH_ALPHA, with_alpha=True)
_register({"max": torch.maximum, "min": torch.minimum}, with_alpha=False)


@layer("average")
def average(p: Any, inputs: list[Tensor]) -> Result:
    """The mean of all inputs."""
    return torch.stack(torch.broadcast_tensors(*inputs)).mean(0)


@layer("whereBroadcastable")
def where(p: Any, inputs: list[Tensor]) -> Result:
    """The second input where the first is not 0, else the third."""
    return torch.where(inputs[0] != 0, inputs[1], inputs[2])
