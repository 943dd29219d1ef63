"""What an NCNN file decides by data, and where its layers bend. Child only.

One layer holds several operators by a number among its parameters (src/layer/*.cpp of ncnn), and convolutions and dense
layers have an activation of their own: each becomes a node with the word that other formats have for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.files import ncnn as ncnn_files
from parity.files.ncnn import Layer
from parity.formats.graph import NotPossible
from parity.formats.survey import Meaning, Node, Survey

_UNARY = ("abs", "neg", "floor", "ceil", "square", "sqrt", "rsqrt", "exp", "log", "sin", "cos", "tan", "asin", "acos",
          "atan", "reciprocal", "tanh", "log10", "round", "trunc")  # fmt: skip
_BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "pow", "rsub", "div", "rpow", "atan2", "atan2")
_REDUCED = ("sum", "reduce_l1_norm", "reduce_sum_square", "mean", "reduce_max", "reduce_min", "prod", "reduce_l1_norm",
            "reduce_l2_norm", "reduce_log_sum", "reduce_log_sum_exp")  # fmt: skip
_ELTWISE = ("mul", "add", "maximum")
_POOLED = ("max_pool", "avg_pool")
_FUSED = ("", "relu", "leaky_relu", "clip", "sigmoid", "mish", "hardswish")
_ARRAY = 23300  # ncnn writes parameter k as -(23300 + k) where it is an array
_MEANINGS: Mapping[str, Meaning] = {
    **dict.fromkeys(("floor", "ceil", "round", "trunc"), "round"),
    **dict.fromkeys(("argmax", "topk"), "rank"),
    **dict.fromkeys(("reshape", "squeeze", "expanddims", "flatten", "noop", "split", "tile", "copyto", "cast",
                     "packing", "dropout", "quantize", "dequantize"), "same"),
    "threshold": "order",
}  # fmt: skip
_OPERATION: Mapping[str, Sequence[str]] = {
    "UnaryOp": _UNARY, "BinaryOp": _BINARY, "Reduction": _REDUCED, "Eltwise": _ELTWISE, "Pooling": _POOLED,
    "Pooling1D": _POOLED, "Pooling3D": _POOLED,
}  # fmt: skip
_FUSING = ("Convolution", "Deconvolution", "InnerProduct")
_SCALARS: Mapping[str, tuple[int, ...]] = {"Clip": (0, 1), "Threshold": (0,)}
_UNBOUNDED = 3.4e38  # where a Clip is open


def survey(folder: str, notes: Mapping[str, Any]) -> Survey:
    """The survey of a .param file. Raises NotPossible where it is none."""
    file = Path(folder, notes["entry"])
    try:
        layers = ncnn_files.layers(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise NotPossible(f"{file.name} is no text, as a .param file is") from None
    result = Survey([name for layer in layers if layer.kind == "Input" for name in layer.tops])
    for layer in layers:
        if layer.kind != "Input":
            result.nodes += _nodes(layer, result)
    return result


def _nodes(layer: Layer, result: Survey) -> list[Node]:
    word = _word(layer)
    inputs = (*layer.bottoms, *_constants(layer, result))
    nodes = [Node(word, layer.name, inputs, layer.tops, _MEANINGS.get(word, ""))]
    fused = _FUSED[layer.number(9)] if layer.kind.startswith(_FUSING) and layer.number(9) < len(_FUSED) else ""
    if fused:
        bounds = _values(layer, 10)[:2] if fused == "clip" else []
        nodes.append(Node(fused, layer.name, (*layer.tops, *_named(layer, bounds, result)), ()))
    return nodes


def _word(layer: Layer) -> str:
    operations = _OPERATION.get(layer.kind)
    if operations is not None:
        number = layer.number(0)
        return operations[number] if 0 <= number < len(operations) else f"{layer.kind} {number}".lower()
    if layer.kind == "ReLU" and float(layer.parameters.get(0, 0)):
        return "leaky_relu"
    if layer.kind == "Power":
        return "pow" if float(layer.parameters.get(0, 1)) != 1 else "scale"
    if layer.kind == "MultiHeadAttention":
        return "attention"
    return layer.kind.lower()


def _constants(layer: Layer, result: Survey) -> list[str]:
    """The names of the numbers that a layer computes with, which stand among its parameters."""
    if layer.kind == "BinaryOp" and layer.number(1):
        return _named(layer, [float(layer.parameters.get(2, 0))], result)
    if layer.kind == "Power":
        return _named(layer, [float(layer.parameters.get(0, 1))], result)
    numbers = [float(layer.parameters[key]) for key in _SCALARS.get(layer.kind, ()) if key in layer.parameters]
    return _named(layer, [number for number in numbers if abs(number) < _UNBOUNDED], result)


def _named(layer: Layer, numbers: Sequence[float], result: Survey) -> list[str]:
    names = [f"{layer.name}/{place}" for place in range(len(numbers))]
    result.constants.update((name, np.asarray(value)) for name, value in zip(names, numbers, strict=True))
    return names


def _values(layer: Layer, key: int) -> list[float]:
    """A parameter that is an array: its length, then its values."""
    text = str(layer.parameters.get(-(_ARRAY + key), "0"))
    return [float(part) for part in text.split(",")[1:]]
