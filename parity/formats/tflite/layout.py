"""In which layout onnx2tf leaves a tensor, told by its sizes and by the ONNX graph, never by its values.

onnx2tf turns feature maps channels-last and leaves other tensors as they are. Sizes say which was done, but for a
tensor whose sizes all coincide: [1, 8, 8] is the same either way. There the graph decides: what a convolution wrote is
a feature map for as long as operators keep its axes in their places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CHANNELS_LAST = {3: "NLC", 4: "NHWC", 5: "NDHWC"}

# They read [batch, channel, space ...] and write the same, by their definition in ONNX.
_MAP_WORDS = """
    AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool
    GlobalMaxPool GroupNormalization InstanceNormalization LRN LpPool MaxPool Resize SpaceToDepth
    Upsample
"""
_MAPS = frozenset(_MAP_WORDS.split())

# They leave each axis of what they read in its place; a smaller input is broadcast from the right.
_ALIGNED_WORDS = """
    Abs Add And Cast Ceil Celu Clip Concat Cos CumSum Div Dropout Elu Equal Erf Exp Floor Gelu Greater
    HardSigmoid HardSwish Identity LayerNormalization LeakyRelu Less Log LogSoftmax Max Mean Min Mish
    Mod Mul Neg Not Or PRelu Pad Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Slice Softmax
    Softplus Softsign Split Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Trilu Where
"""
_ALIGNED = frozenset(_ALIGNED_WORDS.split())


def declared(name: str, sizes: Sequence[int], stored: Sequence[int | None], is_map: bool) -> dict[str, Any]:
    """The note of a tensor of `sizes` [batch, channel, space ...] that the file has as `stored`; None is a size that
    the file leaves open. `is_map`: the graph says that it is a feature map, which counts where sizes do not tell."""
    layout = CHANNELS_LAST.get(len(sizes))
    last = [sizes[0], *sizes[2:], sizes[1]] if layout else []
    as_in_torch = _fits(sizes, stored)
    if layout and _fits(last, stored) and (is_map or not as_in_torch) and max(sizes[1:]) > 1:
        return {"name": name, "layout": layout}
    return {"name": name}


def _fits(sizes: Sequence[int], stored: Sequence[int | None]) -> bool:
    return len(sizes) == len(stored) and all(b in (a, None) for a, b in zip(sizes, stored, strict=True))


def maps_read(graph: Any) -> set[str]:
    """The inputs of an ONNX graph that a convolution or the like reads as they are, but for elementwise work."""
    reaches: dict[str, set[str]] = {value.name: {value.name} for value in graph.input}
    read: set[str] = set()
    for node in graph.node:
        sources = set().union(*(reaches.get(name, set()) for name in node.input))
        if node.op_type in _MAPS:
            read |= reaches.get(node.input[0], set())
        elif node.op_type in _ALIGNED:
            reaches |= dict.fromkeys(node.output, sources)
    return read


def maps_written(graph: Any) -> set[str]:
    """The outputs of an ONNX graph, shapes inferred, that are feature maps: axis 1 is a convolution's channel."""
    values = [*graph.input, *graph.value_info, *graph.output]
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values} | {
        t.name: len(t.dims) for t in graph.initializer
    }
    constants = {t.name: t for t in graph.initializer}
    axes: dict[str, int] = {}  # by tensor, the axis that holds a convolution's channels
    for node in graph.node:
        axis = _channel(node, axes, ranks, constants)
        if axis is not None:
            axes |= dict.fromkeys(node.output, axis)
    return {value.name for value in graph.output if axes.get(value.name) == 1}


def _channel(node: Any, axes: Mapping[str, int], ranks: Mapping[str, int], constants: Mapping[str, Any]) -> int | None:
    """The channel axis of what a node writes; None where it has none or it cannot be followed."""
    if node.op_type in _MAPS:
        return 1
    if node.op_type in _ALIGNED:
        rank = max((ranks.get(name, 0) for name in node.input), default=0)
        places = {axes[name] + rank - ranks.get(name, 0) for name in node.input if name in axes}
        return places.pop() if len(places) == 1 else None
    axis = axes.get(node.input[0]) if node.input else None
    if axis is None:
        return None
    attributes = {a.name: a for a in node.attribute}
    rank = ranks.get(node.input[0], 0)
    if node.op_type == "Transpose":
        return list(attributes["perm"].ints).index(axis) if "perm" in attributes else rank - 1 - axis
    if node.op_type == "Squeeze" or (node.op_type.startswith("Reduce") and not _number(attributes, "keepdims", 1)):
        gone = _axes(node, attributes, constants, rank)
        return None if gone is None or axis in gone else axis - sum(g < axis for g in gone)
    if node.op_type == "Unsqueeze":
        new = _axes(node, attributes, constants, ranks.get(node.output[0], 0))
        return None if new is None else [i for i in range(ranks[node.output[0]]) if i not in new][axis]
    return axis if node.op_type.startswith("Reduce") else None


def _number(attributes: Mapping[str, Any], name: str, default: int) -> int:
    return int(attributes[name].i) if name in attributes else default


def _axes(node: Any, attributes: Mapping[str, Any], constants: Mapping[str, Any], rank: int) -> set[int] | None:
    """The axes that a node names, as an attribute or as a constant input, counted from the front; else None."""
    from onnx import numpy_helper

    if "axes" in attributes:
        listed = list(attributes["axes"].ints)
    elif len(node.input) > 1 and node.input[1] in constants:
        listed = numpy_helper.to_array(constants[node.input[1]]).tolist()
    else:
        return None
    return {int(a) % rank for a in listed} if rank else None
