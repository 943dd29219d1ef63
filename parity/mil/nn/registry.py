"""The layers that can be evaluated: functions of a layer's parameters and its input values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.mil.errors import CorruptPackage, OperatorFailed
from parity.mil.types import Array

Result = Tensor | tuple[Tensor, ...]
Layer = Callable[[Any, list[Tensor]], Result]

LAYERS: dict[str, Layer] = {}


def layer(*names: str) -> Callable[[Layer], Layer]:
    """Register a function for the layers of these names (fields of the oneof ``layer`` in the schema).

    It receives the layer's parameters, a protobuf message, and its inputs.
    """

    def register(function: Layer) -> Layer:
        LAYERS.update(dict.fromkeys(names, function))
        return function

    return register


Decoded = dict[tuple[int, torch.dtype], tuple[Any, Tensor]]


class Shelf:
    """Where decoded weights stand: each network has its own, and sets it before one of its layers computes.

    Reading millions of numbers out of a protobuf message costs more than the layer that uses them. An entry keeps its
    message, so that no other one can come to have the same identity.
    """

    current: Decoded = {}  # noqa: RUF012


def weights(params: Any, shape: list[int], like: Tensor) -> Tensor:
    """A ``WeightParams`` as a tensor of the type of ``like``: fp32, fp16, or quantised by scale or table."""
    shelf, key = Shelf.current, (id(params), like.dtype)
    if key not in shelf:
        shelf[key] = params, _decode(params, shape, like)
    return shelf[key][1].reshape(shape)


def _decode(params: Any, shape: list[int], like: Tensor) -> Tensor:
    count = int(np.prod(shape))
    if params.HasField("quantization"):
        flat = _dequantise(params, shape, count)
    elif params.float16Value:
        flat = np.frombuffer(params.float16Value, np.float16)
    elif params.rawValue or params.int8RawValue:
        raise CorruptPackage("a weight of raw bytes does not say how they are quantised")
    else:
        flat = np.array(params.floatValue, np.float32)
    if len(flat) != count:
        raise CorruptPackage(f"a weight of shape {shape} holds {len(flat)} elements")
    return torch.from_numpy(flat.astype(np.float64)).to(like.dtype).reshape(shape)


def _dequantise(params: Any, shape: list[int], count: int) -> Array:
    quantization, bits = params.quantization, params.quantization.numberOfBits
    if not 1 <= bits <= 8 or len(params.rawValue) * 8 < count * bits:
        raise CorruptPackage(f"a weight of shape {shape} is quantised to {bits} bits in {len(params.rawValue)} bytes")
    stream = np.unpackbits(np.frombuffer(params.rawValue, np.uint8))[: count * bits].reshape(count, bits)
    codes = (stream.astype(np.int64) << np.arange(bits)[::-1]).sum(1)  # most significant bit first
    if quantization.WhichOneof("QuantizationType") == "lookupTableQuantization":
        table: Array = np.array(quantization.lookupTableQuantization.floatValue, np.float32)
        looked_up: Array = table[codes]
        return looked_up
    scale = np.array(quantization.linearQuantization.scale, np.float32)
    bias = np.array(quantization.linearQuantization.bias, np.float32)
    if len(scale) > 1:  # one for each output channel, the first axis
        scale, bias = (np.repeat(v, count // len(v)) if len(v) > 1 else v for v in (scale, bias))
    dense: Array = codes * scale + (bias if len(bias) else 0)
    return dense


def only(inputs: list[Tensor], count: int = 1) -> list[Tensor]:
    """The inputs, refused if there are not ``count``: a layer with weights as inputs is another layer."""
    if len(inputs) != count:
        raise OperatorFailed(f"{len(inputs)} inputs instead of {count} are not supported")
    return inputs
