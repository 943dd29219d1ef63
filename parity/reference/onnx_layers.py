"""The ONNX operators that have weights, windows or a memory, in PyTorch: see `parity.reference.onnx_operators`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Unsupported(Exception):
    """An operator, or a way of using it, that has no execution here; its text names it."""


def _window(node: Any, size: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Strides, dilations, and the padding before and after each spatial axis."""
    rank = len(kernel)
    strides, dilations = node.get("strides", [1] * rank), node.get("dilations", [1] * rank)
    auto, pads = node.get("auto_pad", "NOTSET"), node.get("pads", [0] * 2 * rank)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
            total = max((math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n, 0)
            small, large = total // 2, total - total // 2
            before.append(small if auto == "SAME_UPPER" else large)
            after.append(large if auto == "SAME_UPPER" else small)
        return strides, dilations, before, after
    return strides, dilations, list(pads[:rank]), list(pads[rank:])


def padded(
    value: Tensor, before: Sequence[int], after: Sequence[int], mode: str = "constant", fill: float = 0
) -> Tensor:
    """`value` with elements added before and after each of its last axes; negative counts cut."""
    if not any((*before, *after)):
        return value
    pairs = [p for b, a in zip(reversed(before), reversed(after), strict=True) for p in (b, a)]
    while len(pairs) > 2 and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]
    if mode == "constant":
        return F.pad(value, pairs, value=fill)
    if mode not in ("reflect", "edge", "wrap"):
        raise Unsupported(f"Pad {mode}")
    if mode != "wrap" and len(pairs) <= 2 * (value.ndim - 2):
        return F.pad(value, pairs, mode="replicate" if mode == "edge" else mode)
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        size = value.shape[axis]
        at = np.pad(np.arange(size), (max(low, 0), max(high, 0)), mode=mode)  # type: ignore[call-overload]
        at = at[max(-low, 0) : len(at) - max(-high, 0)]
        if (low, high) != (0, 0):
            value = value.index_select(axis, torch.from_numpy(at))
    return value


def _conv(node: Any, *v: Any) -> Any:
    x, weight, bias = v[0], v[1], v[2] if len(v) > 2 else None
    strides, dilations, before, after = _window(node, x.shape[2:], weight.shape[2:])
    if before != after:
        x, before = padded(x, before, after), [0] * len(before)
    function = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x.ndim]
    return function(x, weight, bias, strides, before, dilations, node.get("group", 1))


def _conv_transpose(node: Any, *v: Any) -> Any:
    x, weight, bias = v[0], v[1], v[2] if len(v) > 2 else None
    if node.get("output_shape") or node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Unsupported("ConvTranspose with an output shape of its own")
    strides, dilations, before, after = _window(node, x.shape[2:], weight.shape[2:])
    extra = node.get("output_padding", [0] * len(before))
    if before != after:
        raise Unsupported("ConvTranspose padded on one side")
    function = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[x.ndim]
    return function(x, weight, bias, strides, before, extra, node.get("group", 1), dilations)


def _max_pool(node: Any, *v: Any) -> Any:
    kernel = node.get("kernel_shape")
    strides, dilations, before, after = _window(node, v[0].shape[2:], kernel)
    x = v[0]
    if before != after or any(2 * b > k for b, k in zip(before, kernel, strict=True)):
        x, before = padded(x, before, after, fill=-math.inf), [0] * len(before)
    function = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}[x.ndim]
    return function(x, kernel, strides, before, dilations, bool(node.get("ceil_mode", 0)))


def _average_pool(node: Any, *v: Any) -> Any:
    kernel, x = node.get("kernel_shape"), v[0]
    strides, dilations, before, after = _window(node, x.shape[2:], kernel)
    whole = bool(node.get("count_include_pad", 0))
    if set(dilations) != {1} or (before != after and not whole):
        raise Unsupported("AveragePool with dilations, or padded on one side")
    if before != after:
        x, before = padded(x, before, after), [0] * len(before)
    function = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}[x.ndim]
    return function(x, kernel, strides, before, bool(node.get("ceil_mode", 0)), whole)


def _over_space(function: Callable[..., Tensor]) -> Any:
    return lambda node, *v: function(v[0], tuple(range(2, v[0].ndim)), True)


def _gemm(node: Any, *v: Any) -> Any:
    a = v[0].T if node.get("transA", 0) else v[0]
    weight = v[1] if node.get("transB", 0) else v[1].T
    alpha, beta, bias = node.get("alpha", 1.0), node.get("beta", 1.0), v[2] if len(v) > 2 else None
    if alpha == 1 and (bias is None or (beta == 1 and bias.ndim == 1)):
        return F.linear(a, weight, bias)
    product = alpha * F.linear(a, weight)
    return product if bias is None else product + beta * bias


def _batch_norm(node: Any, *v: Any) -> Any:
    if node.get("training_mode", 0):
        raise Unsupported("BatchNormalization in training mode")
    x, scale, bias, mean, variance = v
    return F.batch_norm(x, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5))


def _instance_norm(node: Any, *v: Any) -> Any:
    return F.instance_norm(v[0], weight=v[1], bias=v[2], eps=node.get("epsilon", 1e-5))


def _group_norm(node: Any, *v: Any) -> Any:
    groups = node.get("num_groups")
    if v[1].shape[0] != v[0].shape[1]:
        raise Unsupported("GroupNormalization with a scale a group (opset 18)")
    return F.group_norm(v[0], groups, v[1], v[2], node.get("epsilon", 1e-5))


def _layer_norm(node: Any, *v: Any) -> Any:
    axis = node.get("axis", -1) % v[0].ndim
    return F.layer_norm(v[0], v[0].shape[axis:], v[1], v[2] if len(v) > 2 else None, node.get("epsilon", 1e-5))


def _rms_norm(node: Any, *v: Any) -> Any:
    axis = node.get("axis", -1) % v[0].ndim
    return F.rms_norm(v[0], v[0].shape[axis:], v[1], node.get("epsilon", 1e-5))


def _lp_norm(node: Any, *v: Any) -> Any:
    return F.normalize(v[0], node.get("p", 2), node.get("axis", -1), eps=0.0)


def _lrn(node: Any, *v: Any) -> Any:
    return F.local_response_norm(
        v[0], node.get("size"), node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    )


def _gates(weight: Tensor, order: Sequence[int]) -> Tensor:
    """ONNX stacks gates in an order of its own."""
    parts = weight.chunk(len(order))
    return torch.cat([parts[i] for i in order])


_ORDERS = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1), "RNN": (0,)}  # ONNX: z r h; i o f c. torch: r z n; i f g o
_ACTIVATIONS = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}


def _recurrent(node: Any, *v: Any) -> Any:
    """GRU, LSTM and RNN: [time, batch, features] to ([time, directions, batch, hidden], last states)."""
    v = (*v, *(None,) * (8 - len(v)))
    x, weight, recurrence, bias, lengths, first, cell, peepholes = v
    way, kind, hidden = node.get("direction", "forward"), node.kind, node.get("hidden_size")
    directions = 2 if way == "bidirectional" else 1
    expected = _ACTIVATIONS[kind] * directions
    relu = kind == "RNN" and node.get("activations", expected) == ["Relu"] * directions
    if lengths is not None or peepholes is not None or node.get("layout", 0) or node.get("clip") is not None:
        raise Unsupported(f"{kind} with lengths, peepholes, clipping or another layout")
    if node.get("activations", expected) != expected and not relu:
        raise Unsupported(f"{kind} with activations of its own")
    if (kind == "GRU" and not node.get("linear_before_reset", 0)) or node.get("input_forget", 0):
        raise Unsupported(f"{kind} with gates coupled otherwise than in PyTorch")
    parameters = []
    for d in range(directions):
        parameters += [_gates(weight[d], _ORDERS[kind]), _gates(recurrence[d], _ORDERS[kind])]
        if bias is not None:
            parameters += [_gates(part, _ORDERS[kind]) for part in bias[d].chunk(2)]
    zero = x.new_zeros((directions, x.shape[1], hidden))
    h = zero if first is None else first
    if way == "reverse":
        x = x.flip(0)
    arguments = (parameters, bias is not None, 1, 0.0, False, directions == 2, False)
    if kind == "LSTM":
        y, h, c = torch.lstm(x, (h, zero if cell is None else cell), *arguments)
    else:
        y, h = (torch.gru if kind == "GRU" else torch.rnn_relu if relu else torch.rnn_tanh)(x, h, *arguments)
    if way == "reverse":
        y = y.flip(0)
    y = y.reshape(y.shape[0], y.shape[1], directions, hidden).permute(0, 2, 1, 3)
    return (y, h, c) if kind == "LSTM" else (y, h)


def drawn_out(node: Any, *v: Any) -> Any:
    """Resize of the spatial axes: nearest by any rule, linear and cubic by those that PyTorch has."""
    x, rank = v[0], v[0].ndim
    scales = v[2].tolist() if len(v) > 2 and v[2] is not None and v[2].numel() else None
    sizes = node.ints(3, v)
    if node.get("axes") or node.get("antialias", 0) or node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("Resize of chosen axes, antialiased, or that keeps the aspect ratio")
    out = list(sizes) if sizes else [math.floor(n * s) for n, s in zip(x.shape, scales or [1.0] * rank, strict=True)]
    steps = scales if scales and not sizes else [o / n for o, n in zip(out, x.shape, strict=True)]
    mode, rule = node.get("mode", "nearest"), node.get("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        return _nearest(x, out, steps, rule, node.get("nearest_mode", "round_prefer_floor"))
    exact = all(abs(o - n * s) < 1e-6 for o, n, s in zip(out, x.shape, steps, strict=True))
    if (
        list(out[:2]) != list(x.shape[:2])
        or not exact
        or rule not in ("half_pixel", "pytorch_half_pixel", "align_corners")
    ):
        raise Unsupported(f"Resize {mode} by {rule}")
    if rule == "pytorch_half_pixel" and 1 in out[2:]:
        raise Unsupported("Resize to one element by pytorch_half_pixel")
    name = {("linear", 3): "linear", ("linear", 4): "bilinear", ("linear", 5): "trilinear", ("cubic", 4): "bicubic"}
    if (mode, rank) not in name or (mode == "cubic" and node.get("cubic_coeff_a", -0.75) != -0.75):
        raise Unsupported(f"Resize {mode} of {rank} axes")
    return F.interpolate(x, out[2:], mode=name[mode, rank], align_corners=rule == "align_corners")


def _nearest(x: Tensor, out: Sequence[int], steps: Sequence[float], rule: str, rounding: str) -> Tensor:
    for axis, (new, step) in enumerate(zip(out, steps, strict=True)):
        old = x.shape[axis]
        if new == old:
            continue
        at = torch.arange(new, dtype=torch.float64)
        if rule in ("half_pixel", "pytorch_half_pixel"):
            at = (at + 0.5) / step - 0.5
        elif rule == "align_corners":
            at = at * (old - 1) / max(new - 1, 1)
        elif rule == "asymmetric":
            at = at / step
        else:
            raise Unsupported(f"Resize nearest by {rule}")
        rounded = {"floor": at.floor(), "ceil": at.ceil(), "round_prefer_floor": (at - 0.5).ceil(),
                   "round_prefer_ceil": (at + 0.5).floor()}[rounding]  # fmt: skip
        x = x.index_select(axis, rounded.clamp(0, old - 1).long())
    return x


LAYERS: Mapping[str, Callable[..., Any]] = {
    "Conv": _conv, "ConvTranspose": _conv_transpose, "MaxPool": _max_pool, "AveragePool": _average_pool, "Gemm": _gemm,
    "GlobalAveragePool": _over_space(torch.mean), "GlobalMaxPool": _over_space(torch.amax),
    "BatchNormalization": _batch_norm, "InstanceNormalization": _instance_norm, "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm, "RMSNormalization": _rms_norm, "LpNormalization": _lp_norm, "LRN": _lrn,
    "GRU": _recurrent, "LSTM": _recurrent, "RNN": _recurrent,
}  # fmt: skip
