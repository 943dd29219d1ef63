"""What ONNX operators compute, in PyTorch: a function each, in the words of the standard (opsets 7 to 22).

Each takes its node, then its inputs in order (None where one is left out), and gives a tensor or a tuple of them. The
precision is that of the inputs. What a function does not cover it refuses by `Unsupported`, never by a guess; the whole
graph is compared with ONNX Runtime before it is relied on (`parity.reference.onnx_files`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.reference.onnx_layers import LAYERS, Unsupported, drawn_out, padded


@dataclass
class Node:
    """One node of a graph: its attributes as plain values, and the inputs that are integers known beforehand."""

    kind: str
    name: str
    attributes: Mapping[str, Any]
    opset: int
    known: Mapping[int, Any] = field(default_factory=dict)  # input index -> int, or list of int
    dtype: torch.dtype = torch.float32  # the floats of the graph, whatever kind the file says

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def ints(self, index: int, values: Sequence[Any]) -> Any:
        """The integers that an input holds: shapes, axes, sizes; None where the input is left out."""
        if index in self.known:
            return self.known[index]
        return values[index].tolist() if index < len(values) and values[index] is not None else None

    def axes(self, index: int, values: Sequence[Any]) -> list[int] | None:
        """Axes as an attribute in older opsets, an input in newer ones."""
        found = self.get("axes", self.ints(index, values))
        return [found] if isinstance(found, int) else found


def _slice(node: Node, *v: Any) -> Any:
    starts, ends = node.get("starts", node.ints(1, v)), node.get("ends", node.ints(2, v))
    axes, steps = node.axes(3, v) or list(range(len(starts))), node.ints(4, v) or [1] * len(starts)
    value = v[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = value.shape[axis]
        if step > 0:
            at = [slice(None)] * value.ndim
            at[axis] = slice(start, end, step)
            value = value[tuple(at)]
        else:
            chosen = range(*slice(start, None if end < -size else end, step).indices(size))
            value = value.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
    return value


def _split(node: Node, *v: Any) -> Any:
    axis, sizes = node.get("axis", 0), node.get("split", node.ints(1, v))
    if sizes is None:
        count, size = node.get("num_outputs") or node.get("outputs"), v[0].shape[axis]
        whole = -(-size // count)
        sizes = [whole] * (count - 1) + [size - whole * (count - 1)]
    return tuple(torch.split(v[0], sizes, axis))


def _reshape(node: Node, *v: Any) -> Any:
    shape = list(node.get("shape", node.ints(1, v)))
    if not node.get("allowzero", 0):
        shape = [v[0].shape[i] if s == 0 else s for i, s in enumerate(shape)]
    return v[0].reshape(shape)


def _flatten(node: Node, *v: Any) -> Any:
    axis = node.get("axis", 1) % (v[0].ndim + 1)
    rows = 1
    for size in v[0].shape[:axis]:
        rows *= size
    return v[0].reshape(rows, -1) if axis else v[0].reshape(1, -1)


def _unsqueeze(node: Node, *v: Any) -> Any:
    axes, value = node.axes(1, v) or [], v[0]
    for axis in sorted(a % (value.ndim + len(axes)) for a in axes):
        value = value.unsqueeze(axis)
    return value


def _squeeze(node: Node, *v: Any) -> Any:
    axes, value = node.axes(1, v), v[0]
    return value.squeeze() if axes is None else value.squeeze(tuple(a % value.ndim for a in axes))


def _expand(node: Node, *v: Any) -> Any:
    shape = list(node.ints(1, v))
    full = torch.broadcast_shapes(tuple(v[0].shape), tuple(shape))
    return v[0].expand(full)


def _gather(node: Node, *v: Any) -> Any:
    axis = node.get("axis", 0)
    index = node.known.get(1)
    if isinstance(index, int):
        return v[0].select(axis, index)
    value, at = v[0], v[1]
    at = torch.where(at < 0, at + value.shape[axis], at)
    if axis % value.ndim == 0 and value.ndim == 2 and value.is_floating_point():
        return F.embedding(at, value)
    shape = (*value.shape[: axis % value.ndim], *at.shape, *value.shape[axis % value.ndim + 1 :])
    return value.index_select(axis, at.reshape(-1)).reshape(shape)


def _gather_nd(node: Node, *v: Any) -> Any:
    if node.get("batch_dims", 0):
        raise Unsupported("GatherND with batch_dims")
    return v[0][tuple(v[1].unbind(-1))]


def _scatter_nd(node: Node, *v: Any) -> Any:
    if node.get("reduction", "none") not in ("none", "add"):
        raise Unsupported("ScatterND with a reduction")
    add = node.get("reduction", "none") == "add"
    return v[0].index_put(tuple(v[1].unbind(-1)), v[2], accumulate=add)


def _scatter_elements(node: Node, *v: Any) -> Any:
    if node.get("reduction", "none") != "none":
        raise Unsupported("ScatterElements with a reduction")
    axis = node.get("axis", 0)
    return v[0].scatter(axis, torch.where(v[1] < 0, v[1] + v[0].shape[axis], v[1]), v[2])


def _pad(node: Node, *v: Any) -> Any:
    pads, mode = node.get("pads", node.ints(1, v)), node.get("mode", "constant")
    axes, rank = node.ints(3, v) or list(range(v[0].ndim)), v[0].ndim
    before, after = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[i + len(axes)]
    fill = v[2].item() if len(v) > 2 and v[2] is not None else node.get("value", 0.0)
    return padded(v[0], before, after, mode, fill)


def _cast(node: Node, *v: Any) -> Any:
    return v[0].to(dtype_of(node.get("to"), node.dtype))


def _constant_of_shape(node: Node, *v: Any) -> Any:
    value, shape = node.get("value"), node.ints(0, v)
    if value is None or value.is_floating_point():
        return torch.full(shape, 0.0 if value is None else value.item(), dtype=node.dtype)
    return torch.full(shape, value.item(), dtype=value.dtype)


def _range(node: Node, *v: Any) -> Any:
    start, end, step = (x.item() for x in v)
    return torch.arange(start, end, step, dtype=v[0].dtype)


def _one_hot(node: Node, *v: Any) -> Any:
    depth = node.ints(1, v)
    depth = int(depth[0] if isinstance(depth, list) else depth)
    hot = F.one_hot(v[0].long() % depth, depth).to(v[2].dtype) * (v[2][1] - v[2][0]) + v[2][0]
    return hot.movedim(-1, node.get("axis", -1))


def _top_k(node: Node, *v: Any) -> Any:
    count = node.get("k", node.ints(1, v))
    count = count[0] if isinstance(count, list) else count
    return tuple(
        torch.topk(v[0], count, node.get("axis", -1), bool(node.get("largest", 1)), bool(node.get("sorted", 1)))
    )


def _arg(best: Callable[..., Tensor]) -> Any:
    def run(node: Node, *v: Any) -> Any:
        if node.get("select_last_index", 0):
            raise Unsupported(f"{node.kind} of the last index")
        return best(v[0], node.get("axis", 0), bool(node.get("keepdims", 1)))

    return run


def _cumsum(node: Node, *v: Any) -> Any:
    axis = node.ints(1, v)
    axis = axis[0] if isinstance(axis, list) else axis
    value = v[0].flip(axis) if node.get("reverse", 0) else v[0]
    total = value.cumsum(axis, dtype=value.dtype)
    total = total - value if node.get("exclusive", 0) else total
    return total.flip(axis) if node.get("reverse", 0) else total


def _trilu(node: Node, *v: Any) -> Any:
    k = node.ints(1, v) or 0
    k = k[0] if isinstance(k, list) else k
    return v[0].triu(k) if node.get("upper", 1) else v[0].tril(k)


def _depth_to_space(node: Node, *v: Any) -> Any:
    b, c, h, w = v[0].shape
    s = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return v[0].reshape(b, c // s**2, s, s, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // s**2, h * s, w * s)
    return v[0].reshape(b, s, s, c // s**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(b, c // s**2, h * s, w * s)


def _space_to_depth(node: Node, *v: Any) -> Any:
    b, c, h, w = v[0].shape
    s = node.get("blocksize")
    return v[0].reshape(b, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4).reshape(b, c * s * s, h // s, w // s)


def _reduce(function: Callable[..., Tensor]) -> Any:
    def run(node: Node, *v: Any) -> Any:
        axes, keep = node.axes(1, v), bool(node.get("keepdims", 1))
        if not axes:
            if node.get("noop_with_empty_axes", 0):
                return v[0]
            axes = list(range(v[0].ndim))
        return function(v[0], axes, keep)

    return run


def _product(value: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((a % value.ndim for a in axes), reverse=True):
        value = value.prod(axis, keepdim=keep)
    return value


def _softmax(function: Callable[..., Tensor]) -> Any:
    def run(node: Node, *v: Any) -> Any:
        if node.opset >= 13:
            return function(v[0], node.get("axis", -1))
        axis = node.get("axis", 1) % v[0].ndim  # everything from the axis on is one row
        return function(v[0].flatten(axis), axis).reshape(v[0].shape)

    return run


def _div(node: Node, *v: Any) -> Any:
    return v[0] / v[1] if v[0].is_floating_point() else torch.div(v[0], v[1], rounding_mode="trunc")


def _mod(node: Node, *v: Any) -> Any:
    return torch.fmod(v[0], v[1]) if node.get("fmod", 0) else torch.remainder(v[0], v[1])


def _clip(node: Node, *v: Any) -> Any:
    low = v[1] if len(v) > 1 else node.get("min")
    high = v[2] if len(v) > 2 else node.get("max")
    low, high = (x.item() if isinstance(x, Tensor) and not x.ndim else x for x in (low, high))
    return v[0] if low is None and high is None else v[0].clamp(low, high)


def _chain(function: Callable[[Tensor, Tensor], Tensor]) -> Any:
    def run(node: Node, *v: Any) -> Any:
        value = v[0]
        for other in v[1:]:
            value = function(value, other)
        return value

    return run


def _gelu(node: Node, *v: Any) -> Any:
    return F.gelu(v[0], approximate=node.get("approximate", "none"))


def _hard_sigmoid(node: Node, *v: Any) -> Any:
    return (v[0] * node.get("alpha", 0.2) + node.get("beta", 0.5)).clamp(0, 1)


def _plain(function: Callable[..., Any]) -> Any:
    return lambda node, *v: function(*v)


def dtype_of(code: int, floats: torch.dtype) -> torch.dtype:
    """The torch dtype of an ONNX element type; every float is of the kind that the graph is run in."""
    integers = {2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool}
    if code in (1, 10, 11, 16):
        return floats
    if code not in integers:
        raise Unsupported(f"elements of type {code}")
    return integers[code]


_PLAIN: Mapping[str, Any] = {
    "Abs": torch.abs, "Neg": torch.neg, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round, "Sign": torch.sign,
    "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos, "Atan": torch.atan,
    "Sinh": torch.sinh, "Cosh": torch.cosh, "Asinh": torch.asinh, "Acosh": torch.acosh, "Atanh": torch.atanh,
    "Tanh": torch.tanh, "Erf": torch.erf, "Sigmoid": torch.sigmoid, "Relu": torch.relu, "Softplus": F.softplus,
    "Softsign": F.softsign, "HardSwish": F.hardswish, "Mish": F.mish, "Not": torch.logical_not, "IsNaN": torch.isnan,
    "Identity": lambda x: x,
    "Pow": torch.pow, "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor, "Equal": torch.eq,
    "Less": torch.lt, "Greater": torch.gt, "LessOrEqual": torch.le, "GreaterOrEqual": torch.ge, "Where": torch.where,
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "MatMul": torch.matmul,
}  # fmt: skip

OPERATORS: Mapping[str, Callable[..., Any]] = {
    **{name: _plain(function) for name, function in _PLAIN.items()},
    **LAYERS,
    "Div": _div, "Mod": _mod, "Clip": _clip, "Cast": _cast, "Gelu": _gelu, "HardSigmoid": _hard_sigmoid,
    "CastLike": lambda node, *v: v[0].to(v[1].dtype),
    "LeakyRelu": lambda node, *v: F.leaky_relu(v[0], node.get("alpha", 0.01)),
    "Elu": lambda node, *v: F.elu(v[0], node.get("alpha", 1.0)),
    "Celu": lambda node, *v: F.celu(v[0], node.get("alpha", 1.0)),
    "PRelu": lambda node, *v: torch.where(v[0] < 0, v[0] * v[1], v[0]),
    "Dropout": lambda node, *v: v[0],
    "Min": _chain(torch.minimum), "Max": _chain(torch.maximum), "Sum": _chain(torch.add),
    "Mean": lambda node, *v: _chain(torch.add)(node, *v) / len(v),
    "Softmax": _softmax(torch.softmax), "LogSoftmax": _softmax(torch.log_softmax),
    "ReduceMean": _reduce(torch.mean), "ReduceSum": _reduce(torch.sum), "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin), "ReduceProd": _reduce(_product),
    "ReduceL1": _reduce(lambda x, a, k: x.abs().sum(a, k)),
    "ReduceL2": _reduce(lambda x, a, k: x.square().sum(a, k).sqrt()),
    "ReduceSumSquare": _reduce(lambda x, a, k: x.square().sum(a, k)),
    "ReduceLogSum": _reduce(lambda x, a, k: x.sum(a, k).log()),
    "ReduceLogSumExp": _reduce(torch.logsumexp),
    "ArgMax": _arg(torch.argmax), "ArgMin": _arg(torch.argmin), "TopK": _top_k, "CumSum": _cumsum,
    "Reshape": _reshape, "Flatten": _flatten, "Unsqueeze": _unsqueeze, "Squeeze": _squeeze, "Expand": _expand,
    "Transpose": lambda node, *v: v[0].permute(node.get("perm") or list(range(v[0].ndim))[::-1]),
    "Concat": lambda node, *v: torch.cat(v, node.get("axis")),
    "Slice": _slice, "Split": _split, "Gather": _gather, "GatherND": _gather_nd, "ScatterND": _scatter_nd,
    "GatherElements": lambda node, *v: torch.gather(v[0], node.get("axis", 0), torch.where(
        v[1] < 0, v[1] + v[0].shape[node.get("axis", 0)], v[1])),
    "ScatterElements": _scatter_elements, "Pad": _pad, "Range": _range, "ConstantOfShape": _constant_of_shape,
    "Tile": lambda node, *v: v[0].repeat(node.ints(1, v)),
    "Shape": lambda node, *v: torch.tensor(list(v[0].shape)[node.get("start", 0) : node.get("end")]),
    "Size": lambda node, *v: torch.tensor(v[0].numel()),
    "NonZero": lambda node, *v: v[0].nonzero().T,
    "OneHot": _one_hot, "Trilu": _trilu, "DepthToSpace": _depth_to_space, "SpaceToDepth": _space_to_depth,
    "Einsum": lambda node, *v: torch.einsum(node.get("equation"), *v),
    "Resize": drawn_out,
}  # fmt: skip
