"""Layers that multiply, reduce, reshape, join and look up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from parity.mil.errors import OperatorFailed
from parity.mil.nn.registry import LAYERS, Result, layer, only, weights
from parity.mil.ops import tensor_transformation as moves


@layer("innerProduct")
def inner_product(p: Any, inputs: list[Tensor]) -> Result:
    """x @ weights.T + bias over the last axis."""
    (x,) = only(inputs)
    if p.int8DynamicQuantize:
        raise OperatorFailed("dynamic quantisation of activations is not supported")
    weight = weights(p.weights, [p.outputChannels, p.inputChannels], x)
    return F.linear(x, weight, weights(p.bias, [p.outputChannels], x) if p.hasBias else None)


@layer("batchedMatmul")
def batched_matmul(p: Any, inputs: list[Tensor]) -> Result:
    """Matrix product of two inputs, or of one with a stored matrix [rows, columns]."""
    x = inputs[0].transpose(-1, -2) if p.transposeA else inputs[0]
    if len(inputs) == 2:
        return torch.matmul(x, inputs[1].transpose(-1, -2) if p.transposeB else inputs[1])
    rows, columns = p.weightMatrixFirstDimension, p.weightMatrixSecondDimension
    product = torch.matmul(x, weights(p.weights, [rows, columns], x))
    return product + weights(p.bias, [columns], x) if p.hasBias else product


@layer("embeddingND")
def embedding_nd(p: Any, inputs: list[Tensor]) -> Result:
    """Rows of a table; the last axis of the indices has size 1 and becomes the embedding."""
    x = inputs[0]
    table = weights(p.weights, [p.embeddingSize, p.vocabSize], torch.empty(0, dtype=x.dtype)).t()
    indices = x.long().squeeze(-1)
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < p.vocabSize:
        raise OperatorFailed(f"an index beyond the {p.vocabSize} rows of the table")
    rows = table[indices]
    return rows + weights(p.bias, [p.embeddingSize], x) if p.hasBias else rows


@layer("loadConstant", "loadConstantND")
def load_constant(p: Any, inputs: list[Tensor]) -> Result:
    """A stored constant."""
    return weights(p.data, list(p.shape), torch.empty(0, dtype=torch.float64))


@layer("scale")
def scale(p: Any, inputs: list[Tensor]) -> Result:
    """x * scale + bias; shapes of rank 3 lie along channels and image."""
    x = inputs[0]
    y = x * weights(p.scale, list(p.shapeScale), x)
    return y + weights(p.bias, list(p.shapeBias), x) if p.hasBias else y


@layer("bias")
def bias(p: Any, inputs: list[Tensor]) -> Result:
    """x + bias."""
    return inputs[0] + weights(p.bias, list(p.shape), inputs[0])


REDUCTIONS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "reduceMean": lambda x, a: x.mean(a, keepdim=True),
    "reduceSum": lambda x, a: x.sum(a, keepdim=True),
    "reduceMax": lambda x, a: x.amax(a, keepdim=True),
    "reduceMin": lambda x, a: x.amin(a, keepdim=True),
    "reduceL1": lambda x, a: x.abs().sum(a, keepdim=True),
    "reduceL2": lambda x, a: x.square().sum(a, keepdim=True).sqrt(),
    "reduceSumSquare": lambda x, a: x.square().sum(a, keepdim=True),
    "reduceLogSum": lambda x, a: x.sum(a, keepdim=True).log(),
    "reduceLogSumExp": lambda x, a: torch.logsumexp(x, a, keepdim=True),
}


def _reduction(function: Callable[[Tensor, list[int]], Tensor]) -> Callable[[Any, list[Tensor]], Result]:
    def apply(p: Any, inputs: list[Tensor]) -> Result:
        x = inputs[0]
        axes = list(range(x.dim())) if p.reduceAll else [a % x.dim() for a in p.axes]
        reduced = function(x, axes)
        if p.keepDims:
            return reduced
        return reduced.reshape([n for i, n in enumerate(x.shape) if i not in axes] or [1])

    return apply


LAYERS.update({name: _reduction(function) for name, function in REDUCTIONS.items()})


@layer("argMax", "argMin")
def arg_extreme(p: Any, inputs: list[Tensor]) -> Result:
    """Position of the largest or smallest element along an axis, as a number."""
    find = torch.argmax if type(p).__name__.startswith("ArgMax") else torch.argmin
    return find(inputs[0], p.axis, not p.removeDim).to(inputs[0].dtype)


@layer("reshapeStatic")
def reshape_static(p: Any, inputs: list[Tensor]) -> Result:
    """The input in a fixed shape."""
    return inputs[0].reshape(list(p.targetShape))


@layer("reshapeDynamic")
def reshape_dynamic(p: Any, inputs: list[Tensor]) -> Result:
    """The input in the shape that the second input holds."""
    return inputs[0].reshape(inputs[1].long().tolist())


@layer("rankPreservingReshape")
def rank_preserving_reshape(p: Any, inputs: list[Tensor]) -> Result:
    """Another shape of the same rank; 0 keeps a size."""
    return moves.reshape(inputs[0], list(p.targetShape))


@layer("flattenTo2D")
def flatten_to_2d(p: Any, inputs: list[Tensor]) -> Result:
    """A matrix: the axes before ``axis`` as rows."""
    x = inputs[0]
    return x.reshape(math.prod(x.shape[: p.axis % x.dim()] if p.axis else ()), -1)


@layer("getShape")
def get_shape(p: Any, inputs: list[Tensor]) -> Result:
    """The sizes of the input."""
    return torch.tensor(inputs[0].shape, dtype=inputs[0].dtype)


@layer("transpose")
def transpose(p: Any, inputs: list[Tensor]) -> Result:
    """The axes in another order."""
    return inputs[0].permute(list(p.axes))


@layer("expandDims")
def expand_dims(p: Any, inputs: list[Tensor]) -> Result:
    """Axes of size 1 inserted."""
    return moves.expand_dims(inputs[0], list(p.axes))


@layer("squeeze")
def squeeze(p: Any, inputs: list[Tensor]) -> Result:
    """Axes of size 1 removed; at least one axis stays."""
    y = moves.squeeze(inputs[0], None if p.squeezeAll else list(p.axes))
    return y.reshape(1) if y.dim() == 0 else y


@layer("concat")
def concat(p: Any, inputs: list[Tensor]) -> Result:
    """Inputs joined along the channels, the third axis from the end, or along the sequence."""
    return torch.cat(inputs, -5 if p.sequenceConcat else -3)


@layer("concatND")
def concat_nd(p: Any, inputs: list[Tensor]) -> Result:
    """Inputs joined along an axis."""
    return torch.cat(inputs, p.axis)


@layer("stack")
def stack(p: Any, inputs: list[Tensor]) -> Result:
    """Inputs joined along a new axis."""
    return torch.stack(inputs, p.axis)


@layer("splitND")
def split_nd(p: Any, inputs: list[Tensor]) -> Result:
    """The input cut along an axis, into equal parts or parts of given sizes."""
    x = inputs[0]
    sizes = list(p.splitSizes) or [x.shape[p.axis] // p.numSplits] * p.numSplits
    return torch.split(x, sizes, p.axis)


@layer("tile")
def tile(p: Any, inputs: list[Tensor]) -> Result:
    """The input repeated along each axis."""
    (x,) = only(inputs)
    return x.repeat(list(p.reps))


@layer("slice")
def slice_axis(p: Any, inputs: list[Tensor]) -> Result:
    """A slice of one of the last three axes; an end of 0 or less counts from the end."""
    x, axis = inputs[0], p.axis - 3
    size = x.shape[axis]
    end = p.endIndex if p.endIndex > 0 else size + p.endIndex
    return x.index_select(axis, torch.arange(p.startIndex % size, end, p.stride or 1))


@layer("sliceStatic")
def slice_static(p: Any, inputs: list[Tensor]) -> Result:
    """x[begin:end:stride] on each axis."""
    rest = (list(p.endIds), list(p.strides), list(p.beginMasks), list(p.endMasks))
    y = moves.slice_by_index(inputs[0], list(p.beginIds), *rest, list(p.squeezeMasks) or None)
    return y.reshape(1) if y.dim() == 0 else y
