"""Faults in what the graph computes: another constant, another formula, another corner rule for the same operator.

Each stands in for a torch function while the module runs, on whatever way the module reaches it: a layer, a functional
call or a method. A fault whose function is never called has no place in the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from parity.faults.base import Handler, Parameter, Subject, fault

Change = Callable[[dict[str, Any]], dict[str, Any]]
SIGNATURES = {
    "batch_norm": "input running_mean running_var weight bias training momentum eps",
    "layer_norm": "input normalized_shape weight bias eps",
    "group_norm": "input num_groups weight bias eps",
    "conv1d": "input weight bias stride padding dilation groups",
    "conv2d": "input weight bias stride padding dilation groups",
    "avg_pool1d": "input kernel_size stride padding ceil_mode count_include_pad",
    "avg_pool2d": "input kernel_size stride padding ceil_mode count_include_pad divisor_override",
    "max_pool2d": "input kernel_size stride padding dilation ceil_mode return_indices",
    "interpolate": "input size scale_factor mode align_corners recompute_scale_factor antialias",
    "gelu": "input approximate",
    "leaky_relu": "input negative_slope inplace",
    "softmax": "input dim _stacklevel dtype",
    "dropout": "input p training inplace",
}


def named(function: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name. `self` is the tensor where the function was called as a method."""
    values = dict(zip(SIGNATURES[function].split(), args, strict=False)) | kwargs
    if "self" in values:
        values["input"] = values.pop("self")
    return values


def changed(subject: Subject, function: str, change: Change, alone: bool = False) -> Subject:
    """The subject that calls `function` with other arguments: `change` gets them by name and gives them back."""

    def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = change(named(function, args, kwargs))
        return call(values.pop("input"), **values)

    return subject.with_patch(lambda: {function: handler}, alone)


def replaced(subject: Subject, functions: str, formula: Callable[[Tensor], Tensor]) -> Subject:
    """The subject that computes `formula` of the first operand instead of `functions`."""
    handler: Handler = lambda call, args, kwargs: formula(args[0] if args else kwargs["input"])  # noqa: E731
    return subject.with_patch(lambda: dict.fromkeys(functions.split(), handler))


# Normalisation.


@fault("batch_norm_epsilon", "batch normalisation uses Keras's epsilon, 1e-3", "graph", "module")
def batch_norm_epsilon(subject: Subject) -> Subject | None:
    return changed(subject, "batch_norm", lambda a: {**a, "eps": 1e-3})


@fault("layer_norm_epsilon", "layer normalisation uses epsilon 1e-3", "graph", "module")
def layer_norm_epsilon(subject: Subject) -> Subject | None:
    return changed(subject, "layer_norm", lambda a: {**a, "eps": 1e-3})


def any_norm(subject: Subject, change: Change) -> Subject:
    def handler(function: str) -> Handler:
        def call_with(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            values = change(named(function, args, kwargs))
            return call(values.pop("input"), **values)

        return call_with

    return subject.with_patch(lambda: {name: handler(name) for name in ("batch_norm", "layer_norm", "group_norm")})


@fault("epsilon", "normalisation uses another epsilon", "graph", "module",
       parameter=Parameter("epsilon", usual=3e-3, low=1e-8, high=1.0, log=True))  # fmt: skip
def epsilon(subject: Subject, value: float) -> Subject | None:
    return any_norm(subject, lambda a: {**a, "eps": value})


@fault("batch_statistics", "batch normalisation uses the statistics of the input (training mode)", "graph", "module")
def batch_statistics(subject: Subject) -> Subject | None:
    def live(a: dict[str, Any]) -> dict[str, Any]:
        if a["input"].numel() <= a["input"].shape[1] * a["input"].shape[0]:
            return a  # one value a channel has no statistics
        return {**a, "running_mean": None, "running_var": None, "training": True}

    return changed(subject, "batch_norm", live, alone=True)


@fault("norm_affine_lost", "layer normalisation has lost its scale and shift", "graph", "module")
def norm_affine_lost(subject: Subject) -> Subject | None:
    return changed(subject, "layer_norm", lambda a: {**a, "weight": None, "bias": None})


@fault("dropout_live", "dropout is live (exported in training mode)", "graph", "module")
def dropout_live(subject: Subject) -> Subject | None:
    """One draw for each shape, the same in every run: what another draw moves would count as the precision's noise."""

    def live(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x: Tensor = args[0] if args else kwargs["input"]
        share = float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
        drawn = torch.rand(x.shape, generator=torch.Generator().manual_seed(subject.seed))
        return x * (drawn >= share).to(x.dtype) / (1 - share) if share < 1 else torch.zeros_like(x)

    return subject.with_patch(lambda: {"dropout": live}, alone=True)


# Padding, pooling and resizing.


@fault("same_padding", "strided convolutions pad as TensorFlow's SAME does, more after than before", "graph", "module")
def same_padding(subject: Subject) -> Subject | None:
    def same(a: dict[str, Any]) -> dict[str, Any]:
        x = a["input"]  # sizes as constants of a file: pnnx loses a padding that is computed from them
        lengths, size = ([int(n) for n in a[name].shape[2:]] for name in ("input", "weight"))
        stride, padding, dilation = (_pair(a.get(n, d)) for n, d in (("stride", 1), ("padding", 0), ("dilation", 1)))
        if isinstance(padding, str) or max(stride) == 1 or not any(padding):
            return a
        pads: list[int] = []
        for axis in (1, 0):
            length, reach = lengths[axis], dilation[axis] * (size[axis] - 1) + 1
            total = max((-(-length // stride[axis]) - 1) * stride[axis] + reach - length, 0)
            pads += [total // 2, total - total // 2]
        return {**a, "input": F.pad(x, pads), "padding": 0}

    return changed(subject, "conv2d", same)


def _pair(value: Any) -> Any:
    return (
        value
        if isinstance(value, str)
        else (value, value)
        if isinstance(value, int)
        else tuple(value) * (2 // len(value))
    )


@fault("pool_counts_padding", "average pooling counts the padding (or stops counting it)", "graph", "module")
def pool_counts_padding(subject: Subject) -> Subject | None:
    return changed(subject, "avg_pool2d", lambda a: {**a, "count_include_pad": not a.get("count_include_pad", True)})


@fault("pool_drops_edge", "pooling rounds its output size the other way (ceil_mode)", "graph", "module")
def pool_drops_edge(subject: Subject) -> Subject | None:
    """The output keeps its size: what ceil mode would add is cut off, and what it would drop is repeated."""

    def other(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        right = call(*args, **kwargs)
        x = args[0]
        return F.interpolate(call(x[..., :-1, :-1], *args[1:], **kwargs), right.shape[2:], mode="nearest")

    return subject.with_patch(lambda: {"avg_pool2d": other, "_max_pool2d": other, "max_pool2d": other})


@fault("corners_aligned", "resizing aligns corners where it should not, or the other way round", "graph", "module")
def corners_aligned(subject: Subject) -> Subject | None:
    def flipped(a: dict[str, Any]) -> dict[str, Any]:
        if a.get("mode", "nearest") not in ("bilinear", "bicubic", "linear"):
            return a
        return {**a, "align_corners": not a.get("align_corners"), "recompute_scale_factor": None}

    return changed(subject, "interpolate", flipped)


@fault("resize_layer_nearest", "resizing inside the network takes the nearest value", "graph", "module")
def resize_layer_nearest(subject: Subject) -> Subject | None:
    return changed(
        subject, "interpolate", lambda a: {**a, "mode": "nearest", "align_corners": None, "antialias": False}
    )


# Activations.


@fault("silu_hard_swish", "SiLU is replaced by hard-swish", "graph", "module")
def silu_hard_swish(subject: Subject) -> Subject | None:
    return replaced(subject, "silu silu_", lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1))


@fault("hard_swish_silu", "hard-swish is replaced by SiLU", "graph", "module")
def hard_swish_silu(subject: Subject) -> Subject | None:
    return replaced(subject, "hardswish hardswish_", lambda x: x * torch.sigmoid(x))


@fault("sigmoid_hard", "sigmoid is replaced by hard-sigmoid (x / 6 + 0.5, clipped)", "graph", "module")
def sigmoid_hard(subject: Subject) -> Subject | None:
    return replaced(subject, "sigmoid sigmoid_", lambda x: torch.clamp(x / 6 + 0.5, 0, 1))


@fault("sigmoid_keras_hard", "sigmoid is replaced by Keras's hard-sigmoid (0.2 x + 0.5, clipped)", "graph", "module")
def sigmoid_keras_hard(subject: Subject) -> Subject | None:
    return replaced(subject, "sigmoid sigmoid_", lambda x: torch.clamp(0.2 * x + 0.5, 0, 1))


@fault("gelu_formula", "GELU uses its tanh approximation (or erf where tanh was asked for)", "graph", "module")
def gelu_formula(subject: Subject) -> Subject | None:
    def other(a: dict[str, Any]) -> dict[str, Any]:
        return {**a, "approximate": "none" if a.get("approximate") == "tanh" else "tanh"}

    return changed(subject, "gelu", other)


@fault("relu6_unclipped", "ReLU6 has lost its upper clip", "graph", "module")
def relu6_unclipped(subject: Subject) -> Subject | None:
    return replaced(subject, "relu6 hardtanh hardtanh_", torch.relu)


@fault("relu_clipped", "ReLU is clipped at 6", "graph", "module")
def relu_clipped(subject: Subject) -> Subject | None:
    return replaced(subject, "relu relu_", lambda x: torch.clamp(x, 0, 6))


@fault("leaky_slope", "leaky ReLU has the slope 0.2", "graph", "module")
def leaky_slope(subject: Subject) -> Subject | None:
    return changed(subject, "leaky_relu", lambda a: {**a, "negative_slope": 0.2})


# The first layer's result.

LAYERS = ("conv1d", "conv2d", "conv_transpose2d", "linear")
"""The functions that a layer of weights comes down to."""


def at_first_layer(subject: Subject, change: Callable[[Tensor], Tensor]) -> Subject:
    """The subject in which the result of the layer that runs first is changed, in every run of the module."""

    def patch() -> dict[str, Handler]:
        first: list[int] = []

        def handler(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = call(*args, **kwargs)
            weight = (args[1] if len(args) > 1 else kwargs["weight"]).data_ptr()
            if not first:
                first.append(weight)
            return change(result) if weight == first[0] else result

        return dict.fromkeys(LAYERS, handler)

    return subject.with_patch(patch)


@fault("first_layer_gain", "the result of the first layer is multiplied by a constant", "graph", "module",
       parameter=Parameter("gain", usual=1.02, low=0.25, high=4.0, log=True, neutral=1.0))  # fmt: skip
def first_layer_gain(subject: Subject, gain: float) -> Subject | None:
    return at_first_layer(subject, lambda x: x * gain)


@fault("first_layer_noise", "noise is added to the result of the first layer (one fixed draw)", "graph", "module",
       parameter=Parameter("share of its rms", usual=0.02, low=1e-6, high=1.0, log=True, neutral=None))  # fmt: skip
def first_layer_noise(subject: Subject, share: float) -> Subject | None:
    def noisy(x: Tensor) -> Tensor:
        shape = [
            int(n) for n in x.shape[1:]
        ]  # NumPy's draw is a constant in a file; torch's is drawn again at each call
        one = torch.from_numpy(np.random.default_rng(subject.seed).standard_normal(shape)).to(x.dtype)
        return x + one * (share * x.square().mean(tuple(range(1, x.ndim)), keepdim=True).sqrt())

    return at_first_layer(subject, noisy)


@fault("mean_divisor", "a mean over space or time divides by the count of a size one smaller", "graph", "module")
def mean_divisor(subject: Subject) -> Subject | None:
    """A sum divided by a count that tracing froze at another example's size."""

    def short(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, result = args[0], call(*args, **kwargs)
        size = x.shape[-1] if x.ndim < 4 else x.shape[-2]
        return result if isinstance(result, Tensor) and result.shape == x.shape else result * ((size + 1) / size)

    return subject.with_patch(lambda: {"adaptive_avg_pool2d": short, "mean": short})
